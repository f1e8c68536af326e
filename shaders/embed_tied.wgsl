// Token embedding from an output matrix that is the embedding as well: x [rows, K4] = the column of the row's token. A row is read in pieces
// far apart; of the few rows of a pass that costs little, and the vocabulary is held once.
{{embedding}}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (info.origin.x + place.x) * WG + lane;
    let r = i / K4;
    if (r >= info.rows) {
        return;
    }
    let token = token_of(r);
    if (is_in_slice(token)) {
        let column = token - info.first;
        let w = weights(i % K4, column / 4u);
        let s = scales(i % K4, column / 4u);
        //@unroll i 4
        let value$i = decoded$i(w, s)[column % 4u];
        //@end
        x[i] = vec4<f32>(value0, value1, value2, value3);
    }
}
