// Like finish_qkv.wgsl, but k and v may have fewer heads than q: q to `out` [rows, Q4], k and v to the row's slot of the KV cache,
// which is D4 wide.
{{row}}
{{cache}}
@group(0) @binding({{out}}) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding({{rows}}) var<storage, read_write> rows: array<Row>;
@group(0) @binding({{rotary}}) var<storage, read_write> rotary: array<vec2<f32>>; // [positions, head_dim / 2] cos, sin
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    let row = rows[r];
    let is_q = n4 < Q4;
    let c4 = select((n4 - Q4) % D4, n4, is_q);
    let slot4 = (row.sequence * info.slots + row.slot) * D4 + c4;
    if (n4 >= Q4 + D4) {
        if (row.slot != NOWHERE) {
            store_v(slot4, y);
        }
        return;
    }
    let base = row.position * HALF;
    let a = rotary[base + ((c4 * 4u) % HEAD_DIM) / 2u];
    let b = rotary[base + ((c4 * 4u + 2u) % HEAD_DIM) / 2u];
    let turned = vec4<f32>(y.x * a.x - y.y * a.y, y.y * a.x + y.x * a.y, y.z * b.x - y.w * b.y, y.w * b.x + y.z * b.y);
    if (is_q) {
        out[r * Q4 + c4] = turned;
    } else if (row.slot != NOWHERE) {
        store_k(slot4, turned);
    }
}
