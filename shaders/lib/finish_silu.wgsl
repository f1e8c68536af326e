// Ends a product whose columns are pairs (gate, up): out [rows, N4 pairs] = silu(gate) up. The argument is clamped, to avoid dividing by
// an exponential that overflows.
@group(0) @binding(3) var<storage, read_write> out: array<vec2<f32>>;
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    let gate = y.xz;
    out[r * N4 + n4] = gate / (1.0 + exp(min(-gate, vec2<f32>(88.0)))) * y.yw;
}
