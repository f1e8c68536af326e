// Embedding of 8-bit codes [tokens, N4 words], a word for four entries of a token; after the codes of each token the f16 scales of its
// groups of 32.
@group(0) @binding(1) var<storage, read_write> w: array<u32>;
fn weight(k: u32, n4: u32) -> vec4<f32> {
    let first = k * (N4 + (N4 + 15u) / 16u);
    let scales = unpack2x16float(w[first + N4 + n4 / 16u]);
    let p = vec4<i32>(bitcast<i32>(w[first + n4]));
    let codes = (p << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return select(scales.x, scales.y, n4 / 8u % 2u == 1u) * vec4<f32>(codes);
}
