// Weight matrix [K, N4] of four f16 columns each, packed in two words (no device feature needed).
@group(0) @binding(1) var<storage, read_write> w: array<vec2<u32>>;
fn unpacked(p: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
fn weight(k: u32, n4: u32) -> vec4<f32> {
    return unpacked(w[k * N4 + n4]);
}
alias Scales = u32; // floats have none
fn scales(k4: u32, n4: u32) -> Scales {
    return 0u;
}
// The weights of four inputs by four columns, and those of one input decoded.
alias Weights = array<vec2<u32>, 4>;
fn weights(k4: u32, n4: u32) -> Weights {
    let i = k4 * 4u * N4 + n4;
    return Weights(w[i], w[i + N4], w[i + 2u * N4], w[i + 3u * N4]);
}
//@unroll i 4
fn decoded$i(weights: Weights, scales: Scales) -> vec4<f32> {
    return unpacked(weights[$i]);
}
//@end
