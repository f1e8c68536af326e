// Weight matrix [K, N4] of four f16 columns each, packed in two words (no device feature needed).
@group(0) @binding(1) var<storage, read_write> w: array<vec2<u32>>;
fn unpacked(i: u32) -> vec4<f32> {
    let p = w[i];
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
fn weight(k: u32, n4: u32) -> vec4<f32> {
    return unpacked(k * N4 + n4);
}
alias Scales = u32; // floats have none
fn scales(k4: u32, n4: u32) -> Scales {
    return 0u;
}
fn weights(k4: u32, n4: u32, scales: Scales) -> mat4x4<f32> {
    let i = k4 * 4u * N4 + n4;
    return mat4x4<f32>(unpacked(i), unpacked(i + N4), unpacked(i + 2u * N4), unpacked(i + 3u * N4));
}
