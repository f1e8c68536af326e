// The scale of an RMS norm over `count` entries, from the sum of their squares; NaN if the squares overflow, as in finite.wgsl.
fn rms_scale(squares: f32, count: f32) -> f32 {
    let scale = inverseSqrt(squares / count + EPS);
    return bitcast<f32>(select(bitcast<u32>(scale), NAN, is_broken(squares)));
}
