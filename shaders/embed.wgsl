// Token embedding: x [rows, N4] = embedding[token of the row].
{{embedding}}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (info.origin.x + place.x) * WG + lane;
    let r = i / N4;
    if (r >= info.rows) {
        return;
    }
    let token = token_of(r);
    if (is_in_slice(token)) {
        x[i] = weight(token - info.first, i % N4);
    }
}
