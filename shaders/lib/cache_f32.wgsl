// kv_cache [sequences, slots, hidden / 4] of four f32 each.
@group(0) @binding({{cache_k}}) var<storage, read_write> cache_k: array<vec4<f32>>;
@group(0) @binding({{cache_v}}) var<storage, read_write> cache_v: array<vec4<f32>>;
fn load_k(i: u32) -> vec4<f32> {
    return cache_k[i];
}
fn load_v(i: u32) -> vec4<f32> {
    return cache_v[i];
}
fn store_k(i: u32, value: vec4<f32>) {
    cache_k[i] = value;
}
fn store_v(i: u32, value: vec4<f32>) {
    cache_v[i] = value;
}
