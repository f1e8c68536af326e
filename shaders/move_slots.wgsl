// Copies rows of the KV cache, to close the gap after the oldest tokens are dropped. No row is both read and written. One workgroup per
// row, in any cache format.
@group(0) @binding(0) var<storage, read_write> rows: array<vec2<u32>>; // from and to, indices into [sequences, slots]
@group(0) @binding(1) var<storage, read_write> cache_k: array<u32>;
@group(0) @binding(2) var<storage, read_write> cache_v: array<u32>;
struct Info {
    count: u32,
    words: u32, // per row
    pad0: u32,
    pad1: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(3) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = info.origin.x + place.x;
    if (r >= info.count) {
        return;
    }
    let row = rows[r] * info.words;
    for (var i = lane; i < info.words; i += WG) {
        cache_k[row.y + i] = cache_k[row.x + i];
        cache_v[row.y + i] = cache_v[row.x + i];
    }
}
