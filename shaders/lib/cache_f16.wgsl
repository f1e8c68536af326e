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
fn store_k(i: u32, value: vec4<f32>) {
    cache_k[i] = vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));
}
fn store_v(i: u32, value: vec4<f32>) {
    cache_v[i] = vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));
}
