// Weight matrix [K, N4] of four f32 columns each.
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;
fn weight(i: u32) -> vec4<f32> {
    return w[i];
}
