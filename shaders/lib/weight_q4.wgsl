// Weight matrix of 4-bit codes [K4, 4 N4], half a word per four inputs of a column, then f16 scales [K / 32, 4 N4], then offsets of the
// same shape: w = s q + b.
@group(0) @binding(1) var<storage, read_write> w: array<vec2<u32>>;
struct Scales {
    scale: vec4<f32>,
    offset: vec4<f32>,
}
// Decodes f16 by hand: unpack2x16float may flush values below 2^-14 to zero, and scales are often that small.
fn halves(i: u32) -> vec4<f32> {
    let p = w[i];
    let bits = vec4<u32>(p.x & 0xffffu, p.x >> 16u, p.y & 0xffffu, p.y >> 16u);
    let size = bits & vec4<u32>(0x7fffu);
    let more = select(vec4<u32>(0x38000000u), vec4<u32>(0x70000000u), size >= vec4<u32>(0x7c00u));
    let normal = bitcast<vec4<f32>>((size << vec4<u32>(13u)) + more);
    let value = select(normal, vec4<f32>(size) * 5.9604644775390625e-8, size < vec4<u32>(0x400u));
    return select(value, -value, bits > vec4<u32>(0x7fffu));
}
fn scales(k4: u32, n4: u32) -> Scales {
    let i = (K4 + k4 / 8u) * N4 + n4;
    return Scales(halves(i), halves(i + (K4 + 7u) / 8u * N4));
}
// The weights of four inputs by four columns, and those of one input decoded.
alias Weights = vec2<u32>;
fn weights(k4: u32, n4: u32) -> Weights {
    return w[k4 * N4 + n4];
}
//@unroll i 4
fn decoded$i(weights: Weights, scales: Scales) -> vec4<f32> {
    let codes = vec4<u32>(weights.x, weights.x >> 16u, weights.y, weights.y >> 16u);
    return scales.scale * vec4<f32>((codes >> vec4<u32>(4u * $iu)) & vec4<u32>(15u)) + scales.offset;
}
//@end
