//! The noise schedule: how much of a text is unmasked at diffusion time t.
//!
//! `LogLinear` of the published trainer_base.py (arXiv 2506.01928): alpha_t = alpha_0 (1 - (1 - 1e-3) t), for t from 1
//! (masked) to 0. At t = 0 the fraction alpha_0 is unmasked; the rest is left to the sequential phase.

/// How far below 1 the time is scaled, so that alpha_t stays above 0 at t = 1 (`eps` of `LogLinear`).
pub const EPS: f64 = 1e-3;

/// Share of unmasked tokens at time `t` in [0, 1]: alpha_0 (1 - (1 - eps) t).
pub fn alpha(alpha_0: f64, t: f64) -> f64 {
    alpha_0 * (1.0 - (1.0 - EPS) * t)
}

/// The derivative of [`alpha`] by t, the same at every time.
pub fn alpha_derivative(alpha_0: f64) -> f64 {
    -alpha_0 * (1.0 - EPS)
}

/// Probability that a token masked at time `t` is unmasked at time `s < t`: (alpha_s - alpha_t) / (1 - alpha_t).
pub fn unmask_probability(alpha_0: f64, t: f64, s: f64) -> f64 {
    let (alpha_t, alpha_s) = (alpha(alpha_0, t), alpha(alpha_0, s));
    ((alpha_s - alpha_t) / (1.0 - alpha_t)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_derivative() {
        for alpha_0 in [0.0, 0.125, 0.5, 1.0] {
            assert_eq!(alpha(alpha_0, 0.0), alpha_0);
            assert!((alpha(alpha_0, 1.0) - alpha_0 * 1e-3).abs() < 1e-15);
            let slope = (alpha(alpha_0, 0.75) - alpha(alpha_0, 0.25)) / 0.5;
            assert!((slope - alpha_derivative(alpha_0)).abs() < 1e-12);
        }
    }

    #[test]
    fn unmasking_ends_in_certainty_where_diffusion_takes_all() {
        assert_eq!(unmask_probability(1.0, 0.125, 0.0), 1.0);
        assert_eq!(unmask_probability(0.0, 1.0, 0.0), 0.0);
    }

    #[test]
    fn steps_compose() {
        // Masked through every part of the way = masked through the whole.
        for alpha_0 in [0.25, 0.5, 0.9] {
            let stays: f64 = (0..8)
                .map(|i| f64::from(8 - i) / 8.0)
                .map(|t| 1.0 - unmask_probability(alpha_0, t, t - 0.125))
                .product();
            assert!((stays - (1.0 - unmask_probability(alpha_0, 1.0, 0.0))).abs() < 1e-12);
        }
    }
}
