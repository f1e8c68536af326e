// Whether a value is infinite or not a number, from its exponent: a compiler may assume that there are none, so comparisons do not tell.
const NAN: u32 = 0x7fc00000u;
fn is_broken(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
}
// The scale of a layer norm. Squares overflow before their numbers do, and 1 over infinity would make plausible zeros of such a row.
fn norm_scale(squares: f32, variance: f32) -> f32 {
    let scale = inverseSqrt(variance + 1e-5);
    return bitcast<f32>(select(bitcast<u32>(scale), NAN, is_broken(squares)));
}
