// Embedding of 8-bit codes [tokens, N4 words], one word per four entries of a token; each token's codes are followed by the f16 scales of
// its groups of 32.
@group(0) @binding(1) var<storage, read_write> w: array<u32>;
fn weight(k: u32, n4: u32) -> vec4<f32> {
    let first = k * (N4 + (N4 + 15u) / 16u);
    // Decodes f16 by hand: unpack2x16float may flush values below 2^-14 to zero, and scales are often that small.
    let pair = w[first + N4 + n4 / 16u];
    let bits = select(pair & 0xffffu, pair >> 16u, n4 / 8u % 2u == 1u);
    let more = select(0x38000000u, 0x70000000u, bits >= 0x7c00u);
    let scale = select(bitcast<f32>((bits << 13u) + more), f32(bits) * 5.9604644775390625e-8, bits < 0x400u);
    let p = vec4<i32>(bitcast<i32>(w[first + n4]));
    let codes = (p << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return scale * vec4<f32>(codes);
}
