// Whether a value is infinite or NaN, from its exponent bits: compilers may assume that neither occurs, so comparisons are unreliable.
const NAN: u32 = 0x7fc00000u;
fn is_broken(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
}
// The scale of a layer norm: NaN if the squares overflow, since 1 / infinity would turn such a row into plausible zeros.
fn norm_scale(squares: f32, variance: f32) -> f32 {
    let scale = inverseSqrt(variance + 1e-5);
    return bitcast<f32>(select(bitcast<u32>(scale), NAN, is_broken(squares)));
}
