// Ends a product: out [rows, N4] = gelu(y), the tanh form. The argument is clamped: Metal's tanh overflows.
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    let t = clamp(0.7978845608028654 * (y + 0.044715 * y * y * y), vec4<f32>(-15.0), vec4<f32>(15.0));
    out[r * N4 + n4] = 0.5 * y * (1.0 + tanh(t));
}
