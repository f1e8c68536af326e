// Prefix attention for few rows, first half: the prefix of a row is dealt out to `chunks` invocations a head
// (slot t goes to invocation t % chunks), each an online softmax of its own. attention_merge.wgsl joins them.
// parts [rows, heads, chunks, HEAD4] holds unnormalised sums, stats [rows, heads, chunks] their (maximum, mass).
{{row}}
@group(0) @binding(0) var<storage, read_write> q: array<vec4<f32>>;
{{cache}}
@group(0) @binding(3) var<storage, read_write> rows: array<Row>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;
struct Info {
    rows: u32,
    slots: u32,
    chunks: u32,
    pad0: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(6) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = info.origin + place;
    let chunk = group.x * WG + lane;
    let r = group.z;
    if (chunk >= info.chunks) {
        return;
    }
    let row = rows[r];
    let head4 = group.y * HEAD4;
    let base = row.sequence * info.slots * D4 + head4;
    //@unroll c HEAD4
    let q$c = q[r * D4 + head4 + $cu] * SCALE;
    var acc$c = vec4<f32>(0.0);
    //@end
    // The own slot, where it lies beyond the prefix, comes last, as slot number `prefix`.
    let count = row.prefix + select(0u, 1u, row.slot >= row.prefix);
    var top = -1e30;
    var mass = 0.0;
    for (var t = chunk; t < count; t += info.chunks) {
        let at = base + select(row.slot, t, t < row.prefix) * D4;
        var score = 0.0;
        //@unroll c HEAD4
        score += dot(q$c, load_k(at + $cu));
        //@end
        let high = max(top, score);
        let shrink = exp(top - high);
        let p = exp(score - high);
        top = high;
        mass = mass * shrink + p;
        //@unroll c HEAD4
        acc$c = acc$c * shrink + p * load_v(at + $cu);
        //@end
    }
    let entry = (r * HEADS + group.y) * info.chunks + chunk;
    stats[entry] = vec2<f32>(top, mass);
    //@unroll c HEAD4
    parts[entry * HEAD4 + $cu] = acc$c;
    //@end
}
