// Ends a product: out [rows, stride / 4] = y, written from column group `col4` on (for a vocabulary slice).
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
fn finish(r: u32, n4: u32, y: vec4<f32>) {
    out[r * info.stride4 + info.col4 + n4] = y;
}
