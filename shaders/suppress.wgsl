// Makes tokens impossible in the rows that are drawn from, or of which it is asked how sure the network is: their logits become NEVER. One
// invocation a row and token. Twin: `suppress` of crates/esolm-core/src/sampler.rs.
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [rows, stride]
@group(0) @binding(1) var<storage, read_write> suppressed: array<u32>; // [tokens]
struct Info {
    first: u32, // first row
    count: u32, // rows
    stride: u32,
    tokens: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(2) var<uniform> info: Info;

const NEVER: f32 = -1e30;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = info.origin.y + place.y;
    let i = (info.origin.x + place.x) * WG + lane;
    if (row < info.count && i < info.tokens) {
        logits[(info.first + row) * info.stride + suppressed[i]] = NEVER;
    }
}
