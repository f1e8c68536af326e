// Copies `count` groups of four floats, to measure the memory bandwidth that a plain kernel reaches on an adapter. The bench compares
// the products against it.
@group(0) @binding(0) var<storage, read_write> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    count: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(2) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (info.origin.x + place.x) * WG + lane;
    if (i < info.count) {
        out[i] = source[i];
    }
}
