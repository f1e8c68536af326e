// Token embedding from an output matrix that is the embedding as well: x [rows, K4] = the column of the row's token. One launch a slice
// of columns: a token outside the slice is left to the launch that holds it. A row is read in pieces far apart; of the few rows of a
// pass that costs little, and the vocabulary is held once.
{{row}}
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
struct Info {
    rows: u32,
    first: u32, // first token of the slice
    count: u32, // tokens in the slice
    mask_index: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(4) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (info.origin.x + place.x) * WG + lane;
    let r = i / K4;
    if (r >= info.rows) {
        return;
    }
    let source = rows[r].source;
    var token = info.mask_index;
    if (source != MASKED) {
        token = tokens[source];
    }
    if (token >= info.first && token - info.first < info.count) {
        let column = token - info.first;
        let w = weights(i % K4, column / 4u);
        let s = scales(i % K4, column / 4u);
        //@unroll i 4
        let value$i = decoded$i(w, s)[column % 4u];
        //@end
        x[i] = vec4<f32>(value0, value1, value2, value3);
    }
}
