// Weight matrix of 8-bit codes [K4, N4], for each of four columns one word of four inputs, then f16 scales [K / 32, 4 N4]: w = s q.
@group(0) @binding(1) var<storage, read_write> w: array<vec4<u32>>;
alias Scales = vec4<f32>;
// Decodes f16 by hand: unpack2x16float may flush values below 2^-14 to zero, and scales are often that small.
fn positive_halves(bits: vec4<u32>) -> vec4<f32> {
    let more = select(vec4<u32>(0x38000000u), vec4<u32>(0x70000000u), bits >= vec4<u32>(0x7c00u));
    let normal = bitcast<vec4<f32>>((bits << vec4<u32>(13u)) + more);
    return select(normal, vec4<f32>(bits) * 5.9604644775390625e-8, bits < vec4<u32>(0x400u));
}
fn scales(k4: u32, n4: u32) -> Scales {
    let i = k4 / 8u * N4 + n4;
    let pair = w[K4 * N4 + i / 2u];
    let p = select(pair.xy, pair.zw, i % 2u == 1u);
    return positive_halves(vec4<u32>(p.x & 0xffffu, p.x >> 16u, p.y & 0xffffu, p.y >> 16u));
}
// The weights of four inputs by four columns, and those of one input decoded.
alias Weights = vec4<i32>;
fn weights(k4: u32, n4: u32) -> Weights {
    return bitcast<vec4<i32>>(w[k4 * N4 + n4]);
}
//@unroll i 4
fn decoded$i(weights: Weights, scales: Scales) -> vec4<f32> {
    return scales * vec4<f32>((weights << vec4<u32>(24u - 8u * $iu)) >> vec4<u32>(24u));
}
//@end
