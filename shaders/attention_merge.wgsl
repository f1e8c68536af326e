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
}
@group(0) @binding(3) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let r = id.x / D4;
    let c4 = id.x % D4;
    if (r >= info.rows) {
        return;
    }
    let first = (r * HEADS + c4 / HEAD4) * info.chunks;
    var top = -1e30;
    for (var i = 0u; i < info.chunks; i++) {
        top = max(top, stats[first + i].x);
    }
    var mass = 0.0;
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < info.chunks; i++) {
        let stat = stats[first + i];
        let weight = exp(stat.x - top);
        mass += weight * stat.y;
        sum += weight * parts[(first + i) * HEAD4 + c4 % HEAD4];
    }
    out[id.x] = sum / mass;
}
