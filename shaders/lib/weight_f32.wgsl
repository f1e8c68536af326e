// Weight matrix [K, N4] of four f32 columns each.
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;
fn weight(k: u32, n4: u32) -> vec4<f32> {
    return w[k * N4 + n4];
}
alias Scales = u32; // floats have none
fn scales(k4: u32, n4: u32) -> Scales {
    return 0u;
}
fn weights(k4: u32, n4: u32, scales: Scales) -> mat4x4<f32> {
    let i = k4 * 4u * N4 + n4;
    return mat4x4<f32>(w[i], w[i + N4], w[i + 2u * N4], w[i + 3u * N4]);
}
