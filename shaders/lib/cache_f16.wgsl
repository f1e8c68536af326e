// kv_cache [sequences, slots, hidden / 4] of four f16 each, packed in two words.
@group(0) @binding({{cache_k}}) var<storage, read_write> cache_k: array<vec2<u32>>;
@group(0) @binding({{cache_v}}) var<storage, read_write> cache_v: array<vec2<u32>>;
fn load_k(i: u32) -> vec4<f32> {
    let p = cache_k[i];
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
fn load_v(i: u32) -> vec4<f32> {
    let p = cache_v[i];
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
// Values beyond the range of f16 become NaN, so that no text is generated from them: what pack2x16float makes of them is undefined, on some
// devices the largest f16.
const LARGEST: u32 = 0x477fe000u; // the bits of 65504
fn pack_or_nan(value: vec2<f32>) -> u32 {
    let magnitude = bitcast<vec2<u32>>(value) & vec2<u32>(0x7fffffffu);
    let nan = select(vec2<u32>(0u), vec2<u32>(0x7e00u, 0x7e000000u), magnitude > vec2<u32>(LARGEST));
    return pack2x16float(value) | nan.x | nan.y;
}
fn store_k(i: u32, value: vec4<f32>) {
    cache_k[i] = vec2<u32>(pack_or_nan(value.xy), pack_or_nan(value.zw));
}
fn store_v(i: u32, value: vec4<f32>) {
    cache_v[i] = vec2<u32>(pack_or_nan(value.xy), pack_or_nan(value.zw));
}
