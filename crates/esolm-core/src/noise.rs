//! The noise schedule: alpha_t is the probability that a token is clean at time t (paper section 3; `noise_schedules.py` and
//! `algo.py` of the published code).

/// The smallest share of masked tokens: t = 0 still masks 1e-3 of what t = 1 does.
pub const EPS: f64 = 1e-3;

/// alpha_t = alpha_0 (1 - (1 - eps) t) for t in [0, 1].
pub fn alpha(alpha_0: f64, t: f64) -> f64 {
    alpha_0 * (1.0 - (1.0 - EPS) * t)
}

/// The derivative of [`alpha`] by t.
pub fn alpha_derivative(alpha_0: f64) -> f64 {
    -alpha_0 * (1.0 - EPS)
}

/// The probability that a token masked at t is unmasked by s < t: (alpha_s - alpha_t) / (1 - alpha_t).
pub fn unmask_probability(alpha_0: f64, t: f64, s: f64) -> f64 {
    let (at, as_) = (alpha(alpha_0, t), alpha(alpha_0, s));
    ((as_ - at) / (1.0 - at)).clamp(0.0, 1.0)
}
