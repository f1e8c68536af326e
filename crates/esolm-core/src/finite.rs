//! Checks for values that are not finite, or too large to be stored.

/// Index of the first value whose magnitude exceeds `limit`, or that is NaN. With [`f32::MAX`], the first value that is
/// not finite.
pub fn first_beyond(values: &[f32], limit: f32) -> Option<usize> {
    // NaN fails every comparison.
    let is_beyond =
        |value: &f32| !matches!(value.abs().partial_cmp(&limit), Some(order) if order.is_le());
    // Branch-free stretches, which compilers vectorise.
    const STRETCH: usize = 1024;
    let stretch = (values.chunks(STRETCH)).position(|values| {
        values
            .iter()
            .fold(false, |any, value| any | is_beyond(value))
    })?;
    let start = stretch * STRETCH;
    let index = values[start..].iter().position(is_beyond)?;
    Some(start + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_beyond_a_limit_is_found() {
        for (at, value) in [
            (0, f32::NAN),
            (1023, f32::INFINITY),
            (1024, f32::NEG_INFINITY),
            (2500, -65505.0),
        ] {
            let mut values = vec![-65504.0; 2501];
            assert_eq!(first_beyond(&values, 65504.0), None);
            values[at] = value;
            values[2500] = value;
            assert_eq!(first_beyond(&values, 65504.0), Some(at));
            let finite = value.is_finite();
            assert_eq!(first_beyond(&values, f32::MAX), (!finite).then_some(at));
        }
        assert_eq!(first_beyond(&[f32::MAX, f32::MIN, 0.0], f32::MAX), None);
        assert_eq!(first_beyond(&[], 1.0), None);
    }
}
