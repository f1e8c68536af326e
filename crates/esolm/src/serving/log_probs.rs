//! Log-probabilities from rows of logits.

use esolm_core::sampler::{MASK_LOGIT, are_finite};

use crate::cpu::math;

/// How likely the model considered a token, before temperature and before tokens are excluded.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProb {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logp: f32,
    /// The most likely tokens and their log-probabilities, in descending order; ties go to the lower token. As many as
    /// requested.
    pub top: Vec<(u32, f32)>,
}

/// The log-probability of `token` and the `top` most likely tokens, from its row of logits `[V]`, excluding the mask.
/// `None` if a logit is not finite. On the CPU it equals the scoring result bit for bit.
pub(super) fn log_prob(logits: &[f32], mask: u32, token: u32, top: usize) -> Option<LogProb> {
    if !are_finite(logits, mask) {
        return None;
    }
    let mut logits = logits.to_vec();
    // Not every model has a mask.
    if let Some(logit) = logits.get_mut(mask as usize) {
        *logit = MASK_LOGIT;
    }
    let largest = math::max(&logits, f32::MIN);
    let mut masses = logits.clone();
    let norm = math::exp_sum(&mut masses, largest).ln();
    let of = |token: u32| logits[token as usize] - largest - norm;
    let mut order: Vec<u32> = (0..logits.len() as u32).filter(|&v| v != mask).collect();
    let likelier = |a: &u32, b: &u32| {
        let (a_logit, b_logit) = (logits[*a as usize], logits[*b as usize]);
        b_logit.total_cmp(&a_logit).then(a.cmp(b))
    };
    let top = top.min(order.len());
    if top < order.len() && top > 0 {
        order.select_nth_unstable_by(top, likelier);
    }
    order.truncate(top);
    order.sort_unstable_by(likelier);
    Some(LogProb {
        token,
        logp: of(token),
        top: order.into_iter().map(|token| (token, of(token))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_a_softmax_without_the_mask() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, -2.0];
        let mass: f64 = [1.0f64, 3.0, 3.0, -2.0].iter().map(|l| l.exp()).sum();
        let expected = |logit: f64| (logit - mass.ln()) as f32;
        let got = log_prob(&logits, 2, 0, 3).expect("finite");
        assert!((got.logp - expected(1.0)).abs() < 1e-6);
        let tokens: Vec<u32> = got.top.iter().map(|&(token, _)| token).collect();
        assert_eq!(tokens, [1, 3, 0]);
        assert_eq!(got.top[2].1, got.logp);
        assert!((got.top[0].1 - expected(3.0)).abs() < 1e-6);
        assert_eq!(log_prob(&logits, 2, 0, 0).expect("finite").top, []);
        assert_eq!(log_prob(&logits, 2, 0, 9).expect("finite").top.len(), 4);
        assert_eq!(log_prob(&[f32::INFINITY, 1.0, 0.0], 2, 1, 1), None);
    }
}
