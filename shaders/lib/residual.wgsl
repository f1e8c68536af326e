// Row r of the residual stream x, which begins at `row0`. What was added to few rows may still be in `parts` parts: of two places of FEW
// rows the stream is in one, and each part has the next FEW rows.
fn residual(r: u32, i: u32, width: u32) -> vec4<f32> {
    var sum = x[(info.row0 + r) * width + i];
    for (var part = 0u; part < info.parts; part++) {
        sum += x[((part + 2u) * FEW + r) * width + i];
    }
    return sum;
}
