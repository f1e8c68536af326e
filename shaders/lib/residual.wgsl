// Row r of the residual stream x, which begins at `row0`. With few rows, `parts` partial sums may still have to be added: the stream is in
// one of the first two blocks of FEW rows, and the parts follow in blocks of FEW rows each.
fn residual(r: u32, i: u32, width: u32) -> vec4<f32> {
    var sum = x[(info.row0 + r) * width + i];
    for (var part = 0u; part < info.parts; part++) {
        sum += x[((part + 2u) * FEW + r) * width + i];
    }
    return sum;
}
