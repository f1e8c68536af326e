// What an embedding reads and writes. One launch a slice of the vocabulary: a token outside of it is left to the launch that holds it.
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

// The token of a row.
fn token_of(r: u32) -> u32 {
    let source = rows[r].source;
    if (source == MASKED) {
        return info.mask_index;
    }
    return tokens[source];
}

fn is_in_slice(token: u32) -> bool {
    return token >= info.first && token - info.first < info.count;
}
