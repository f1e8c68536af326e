// Ends the q, k, v product: rotary embedding on q and k at the row's natural position, then q to `out`
// [rows, D4] and k, v to the row's slot of the KV cache. Columns of q and k are stored pairwise (i, i + head_dim / 2
// side by side), so a rotary pair never leaves a register; scores do not depend on that order.
{{row}}
{{cache}}
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> rows: array<Row>;
@group(0) @binding(5) var<storage, read_write> rotary: array<vec2<f32>>; // [positions, head_dim / 2] cos, sin
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    let row = rows[r];
    let part = n4 / D4;
    let c4 = n4 % D4;
    let slot4 = (row.sequence * info.slots + row.slot) * D4 + c4;
    if (part == 2u) {
        if (row.slot != NOWHERE) {
            store_v(slot4, y);
        }
        return;
    }
    let base = row.position * HALF;
    let a = rotary[base + ((c4 * 4u) % HEAD_DIM) / 2u];
    let b = rotary[base + ((c4 * 4u + 2u) % HEAD_DIM) / 2u];
    let turned = vec4<f32>(y.x * a.x - y.y * a.y, y.y * a.x + y.x * a.y, y.z * b.x - y.w * b.y, y.w * b.x + y.z * b.y);
    if (part == 0u) {
        out[r * D4 + c4] = turned;
    } else if (row.slot != NOWHERE) {
        store_k(slot4, turned);
    }
}
