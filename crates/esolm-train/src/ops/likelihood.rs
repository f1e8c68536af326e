//! -log p of given tokens, excluding the mask token.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use esolm::cpu::math::{exp_sum, for_chunks, max};

/// The target token of each scored row.
#[derive(Debug, Clone)]
pub struct Targets {
    /// `[S]`; none of them is the mask token.
    pub tokens: Vec<u32>,
    /// The column of the mask token, whose probability is zero.
    pub mask_index: usize,
}

/// Logit of excluded tokens, as in the published code (`neg_infinity`, trainer_base.py).
const EXCLUDED: f32 = -1e6;

impl Targets {
    /// Writes e^(logit - top) of a row to `scratch`; returns the row's maximum `top` and their sum.
    fn exponentials(&self, logits: &[f32], scratch: &mut Vec<f32>) -> (f32, f32) {
        scratch.clear();
        scratch.extend_from_slice(logits);
        scratch[self.mask_index] = EXCLUDED;
        let top = max(scratch, EXCLUDED);
        (top, exp_sum(scratch, top))
    }

    /// Computes `out` `[S]` from `logits` `[S, V]`.
    pub fn forward(&self, logits: &[f32], out: &mut [f32]) {
        let vocabulary = logits.len() / out.len().max(1);
        for_chunks(out, 16, logits.len(), |i, out| {
            let mut scratch = Vec::with_capacity(vocabulary);
            for (j, out) in out.iter_mut().enumerate() {
                let row = i * 16 + j;
                let logits = &logits[row * vocabulary..][..vocabulary];
                let (top, total) = self.exponentials(logits, &mut scratch);
                *out = top + total.ln() - logits[self.tokens[row] as usize];
            }
        });
    }

    /// grad (softmax - one-hot of the target), zero in the mask token's column.
    pub fn backward(&self, logits: &[f32], grad: &[f32], out: &mut [f32]) {
        let vocabulary = logits.len() / grad.len().max(1);
        for_chunks(out, 16 * vocabulary, logits.len(), |i, out| {
            let mut scratch = Vec::with_capacity(vocabulary);
            for (j, out) in out.chunks_exact_mut(vocabulary).enumerate() {
                let row = i * 16 + j;
                let (_, total) =
                    self.exponentials(&logits[row * vocabulary..][..vocabulary], &mut scratch);
                let scale = grad[row] / total;
                for (out, e) in out.iter_mut().zip(&scratch) {
                    *out = e * scale;
                }
                out[self.tokens[row] as usize] -= grad[row];
            }
        });
    }
}

/// The same with Burn's operations.
pub fn composed(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let device = &logits.device();
    let [rows, vocabulary] = logits.dims();
    let mut column = vec![0.0f32; vocabulary];
    column[targets.mask_index] = 1.0;
    let column = Tensor::<1>::from_floats(column.as_slice(), device).unsqueeze::<2>();
    let logits = logits * (column.clone() * -1.0 + 1.0) + column * EXCLUDED;
    // Selected from one long row, since Burn's gather needs 64-bit integers in shaders, which few GPUs support.
    let places = targets.tokens.iter().enumerate();
    let places = places.map(|(row, &token)| (row * vocabulary) as i32 + token as i32);
    let places = TensorData::new(places.collect::<Vec<i32>>(), [rows]);
    let places = Tensor::<1, Int>::from_data(places, device);
    let log_p = log_softmax(logits, 1).reshape([rows * vocabulary]);
    -log_p.select(0, places)
}
