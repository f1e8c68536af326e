// Ends a product: residual stream [rows, N4] += y.
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    out[r * N4 + n4] += y;
}
