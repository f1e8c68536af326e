// Prefix attention for few rows, second half: out [rows, D4] joins the chunks of attention_chunks.wgsl.
// One invocation a row and group of four columns.
@group(0) @binding(0) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    rows: u32,
    chunks: u32,
    pad0: u32,
    pad1: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(3) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (info.origin.x + place.x) * WG + lane;
    let r = i / D4;
    let c4 = i % D4;
    if (r >= info.rows) {
        return;
    }
    let first = (r * HEADS + c4 / HEAD4) * info.chunks;
    var top = -1e30;
    for (var c = 0u; c < info.chunks; c++) {
        top = max(top, stats[first + c].x);
    }
    var mass = 0.0;
    var sum = vec4<f32>(0.0);
    for (var c = 0u; c < info.chunks; c++) {
        let stat = stats[first + c];
        let weight = exp(stat.x - top);
        mass += weight * stat.y;
        sum += weight * parts[(first + c) * HEAD4 + c4 % HEAD4];
    }
    out[i] = sum / mass;
}
