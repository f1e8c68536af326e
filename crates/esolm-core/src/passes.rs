//! The passes that compute a likelihood: which rows enter the network for a text, which tokens they must predict, and
//! the weight of each prediction. Pure data; an executor turns a [`Pass`] into log-probabilities.
//!
//! The quantities are those of arXiv 2506.01928 and its published code (algo.py); docs/likelihood.md spells them out:
//!
//! * [`exact`]: log p(x | order), the sum over slots of log p(x_i | the tokens of lower slots), for an Eso-LM (B) or a
//!   SetDLM. Since attention is causal over slots, one pass with two rows per token yields all terms: x_i in slot i,
//!   and a mask z_i that sees itself and the x of lower slots.
//! * [`diffusion`], [`sequential`]: the two parts of the NELBO for one draw of the noise, from a [`Noised`] text.
//! * [`blocks`]: the NELBO of a BD3-LM for one draw of the noise. With blocks of one token it is exact, and equals
//!   [`exact`] for the order from left to right.
//! * [`autoregressive`]: log p(x) of an AR model.
//!
//! Rows on which nothing depends are left out: the z rows of clean tokens, and the x row of the last slot.

use std::ops::Range;

use crate::forward_process::{
    Noised, NoisedBlocks, Part, Staggered, Uniforms, draw_exponentials, draw_order,
};
use crate::rng::philox4x32;
use crate::rows::{Layout, MASKED, MaskMode, NO_TARGET, Row, StepRows, block_row, own_slot};
use crate::sampler::{MASK_LOGIT, are_finite};

/// A text to score: its tokens in natural order, and the range that is scored given the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens, `[L]`.
    pub tokens: Vec<u32>,
    /// The range that is scored. Tokens outside it are given: they are clean and take the first slots of every order.
    pub free: Range<usize>,
    /// Keys this text's random numbers, independent of its batch.
    pub number: u32,
}

impl Window {
    /// A text in which every token is scored.
    pub fn whole(tokens: Vec<u32>, number: u32) -> Self {
        Self {
            free: 0..tokens.len(),
            tokens,
            number,
        }
    }

    /// Numbers the windows of a text so that their random numbers depend only on the text's `number`.
    pub fn number_by(windows: &mut [Self], number: u32) {
        for (place, window) in (0..).zip(windows) {
            // The first window gets the text's own number, so that a text of one window scores like that window.
            window.number = match place {
                0 => number,
                _ => philox4x32([number, place, 0, 0], [0, 0])[0],
            };
        }
    }

    /// Number of scored tokens.
    pub fn scored(&self) -> usize {
        self.free.len()
    }

    /// Given positions from left to right.
    fn given(&self) -> impl Iterator<Item = u32> + use<> {
        let (length, free) = (self.tokens.len(), self.free.clone());
        (0..length)
            .filter(move |p| !free.contains(p))
            .map(|p| p as u32)
    }

    /// A random order: given positions from left to right, then Binomial(scored, alpha_0) random positions, then the
    /// rest from left to right.
    pub fn order(&self, seed: u64, draw: u32, alpha_0: f64) -> Vec<u32> {
        let free = draw_order(seed, self.number, draw, self.scored(), alpha_0);
        let start = self.free.start as u32;
        self.given()
            .chain(free.into_iter().map(|p| p + start))
            .collect()
    }

    /// Like [`Window::order`] for a SetDLM: tokens outside `free` from left to right, then those within it by randomly
    /// drawn hitting times.
    pub fn set_order(
        &self,
        seed: u64,
        draw: u32,
        schedule: &Staggered,
        free: &Range<usize>,
    ) -> Vec<u32> {
        let exponentials = draw_exponentials(seed, self.number, draw, free.len());
        schedule.order(self.tokens.len(), free, &exponentials)
    }

    /// The uniforms of one draw of the noise, adjusted so that given tokens stay clean and come first.
    pub fn uniforms(&self, seed: u64, draw: u32, part: Part) -> Uniforms {
        let mut uniforms = Uniforms::draw(seed, self.number, draw, part, self.tokens.len());
        for position in self.given() {
            // 2 exceeds every masking probability, and -1 sorts before every offset.
            uniforms.mask[position as usize] = 2.0;
            uniforms.offsets[position as usize] = -1.0;
        }
        uniforms
    }
}

/// A prediction in a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Index of the predicting row in [`Pass::rows`].
    pub row: u32,
    /// The token to predict.
    pub token: u32,
    /// The token's slot in the order of the text; for an AR model, its natural position.
    pub place: u32,
    /// Weight of its -log p.
    pub weight: f64,
}

/// One pass over one text. Rows belong to sequence 0 and read `tokens` from its start; [`assemble`] combines several
/// passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    /// Tokens that the rows read.
    pub tokens: Vec<u32>,
    /// Cache slots that the rows use.
    pub slots: usize,
    /// The rows.
    pub rows: Vec<Row>,
    /// The predictions, in the order of their rows.
    pub scored: Vec<Scored>,
}

impl Pass {
    /// The weighted sum of log p over the predictions; `log_p` has one value per prediction.
    pub fn total(&self, log_p: &[f32]) -> f64 {
        let terms = self.scored.iter().zip(log_p);
        terms.map(|(s, &log_p)| s.weight * f64::from(log_p)).sum()
    }

    fn push(
        &mut self,
        slot: usize,
        position: u32,
        prefix: usize,
        source: u32,
        wanted: Option<Scored>,
    ) {
        let (slot, prefix) = (slot as u32, prefix as u32);
        let row = Row {
            sequence: 0,
            slot,
            position,
            prefix,
            own: own_slot(slot, prefix),
            source,
            target: NO_TARGET,
        };
        self.push_row(row, wanted);
    }

    fn push_row(&mut self, row: Row, wanted: Option<Scored>) {
        if let Some(scored) = wanted {
            self.scored.push(Scored {
                row: self.rows.len() as u32,
                ..scored
            });
        }
        self.rows.push(row);
    }
}

fn scored(token: u32, place: usize, weight: f64) -> Option<Scored> {
    let place = place as u32;
    Some(Scored {
        row: 0,
        token,
        place,
        weight,
    })
}

/// log p(x | order) of a model whose clean tokens see each other causally: Eso-LM (B), SetDLM. `order` lists natural
/// positions; the tokens of its first `given` slots are not scored.
pub fn exact(x: &[u32], order: &[u32], given: usize) -> Pass {
    let tokens = order.iter().map(|&p| x[p as usize]).collect();
    beside(tokens, order, 0, given..order.len())
}

/// `tokens` in sorted order in the slots 0..L, each seeing lower slots and at least the first `least`, plus masks at
/// the slots `wanted`, which are scored.
fn beside(
    tokens: Vec<u32>,
    order: &[u32],
    least: usize,
    wanted: impl IntoIterator<Item = usize>,
) -> Pass {
    let length = order.len();
    let mut pass = Pass {
        tokens,
        slots: 2 * length,
        ..Pass::default()
    };
    let mut wanted = wanted.into_iter().peekable();
    if wanted.peek().is_none() {
        return pass;
    }
    for (slot, &position) in order[..length - 1].iter().enumerate() {
        pass.push(slot, position, least.max(slot + 1), slot as u32, None);
    }
    for slot in wanted {
        let scored = scored(pass.tokens[slot], slot, 1.0);
        pass.push(length + slot, order[slot], slot, MASKED, scored);
    }
    pass
}

/// The diffusion part of the NELBO: only the noised text, with masked tokens scored with `weight`
/// ([`crate::forward_process::Level::weight`]). `mode` is causal for Eso-LM (B), mixed2 for Eso-LM (A), bidirectional
/// for MDLM.
pub fn diffusion(noised: &Noised, mode: MaskMode, weight: f64) -> Pass {
    let length = noised.sort_idx.len();
    let masked = noised.masked_count();
    let mut pass = Pass {
        tokens: noised.x0_sorted.clone(),
        slots: length,
        ..Pass::default()
    };
    if masked == 0 || weight == 0.0 {
        return pass;
    }
    let clean = length - masked;
    for (slot, &position) in noised.sort_idx.iter().enumerate() {
        let prefix = match mode {
            MaskMode::Bidirectional => length,
            MaskMode::Mixed if slot >= clean => length,
            MaskMode::Mixed2 if slot < clean => clean,
            MaskMode::Causal | MaskMode::Mixed | MaskMode::Mixed2 => slot + 1,
        };
        if noised.masked_sorted[slot] {
            let wanted = scored(noised.x0_sorted[slot], slot, weight);
            pass.push(slot, position, prefix, MASKED, wanted);
        } else {
            pass.push(slot, position, prefix, slot as u32, None);
        }
    }
    pass
}

/// The sequential part of the NELBO: the text along with its masked tokens. `mode` is causal for Eso-LM (B), mixed for
/// Eso-LM (A), whose clean tokens all see each other.
pub fn sequential(noised: &Noised, mode: MaskMode) -> Pass {
    let length = noised.sort_idx.len();
    let least = match mode {
        MaskMode::Mixed => length - noised.masked_count(),
        _ => 0,
    };
    let wanted = (0..length).filter(|&slot| noised.masked_sorted[slot]);
    beside(noised.x0_sorted.clone(), &noised.sort_idx, least, wanted)
}

/// A BD3-LM's text in natural order, noised block by block: masked tokens see their own block as noised, and the clean
/// tokens of earlier blocks. They are scored with the weight of their block.
pub fn blocks(x: &[u32], noised: &NoisedBlocks) -> Pass {
    let length = x.len();
    let mut pass = Pass {
        tokens: x.to_vec(),
        slots: 2 * length,
        ..Pass::default()
    };
    let size = noised.size;
    let is_noised: Vec<bool> = (noised.masked.chunks(size))
        .map(|block| block.contains(&true))
        .collect();
    let Some(last) = is_noised.iter().rposition(|&is_noised| is_noised) else {
        return pass;
    };
    for position in 0..last * size {
        pass.push_row(block_row(position as u32, false, size, length), None);
    }
    for position in (0..length).filter(|position| is_noised[position / size]) {
        let row = block_row(position as u32, true, size, length);
        match noised.masked[position] {
            true => {
                let weight = noised.weights[position / size];
                let wanted = scored(x[position], position, weight);
                let source = MASKED;
                pass.push_row(Row { source, ..row }, wanted);
            }
            false => pass.push_row(row, None),
        }
    }
    pass
}

/// log p(x) of an AR model, which reads `prepended` before the text. Without such a token nothing predicts the first
/// token, so that one is given. `free` is the range to score.
pub fn autoregressive(x: &[u32], free: Range<usize>, prepended: Option<u32>) -> Pass {
    let shift = usize::from(prepended.is_some());
    let mut tokens: Vec<u32> = prepended.into_iter().chain(x.iter().copied()).collect();
    // The last token has nothing left to predict.
    tokens.pop();
    let mut pass = Pass {
        slots: tokens.len(),
        ..Pass::default()
    };
    for slot in 0..tokens.len() {
        let place = slot + 1 - shift;
        let wanted = free
            .contains(&place)
            .then(|| scored(x[place], place, 1.0))
            .flatten();
        pass.push(slot, slot as u32, slot + 1, slot as u32, wanted);
    }
    pass.tokens = tokens;
    pass
}

/// Combines several passes into one over a batch whose layout is the same in every call, so that caches can be reused:
/// `layout` needs at least as many sequences as there are passes, and room for the slots and tokens of each. Returns
/// the token buffer, the rows, and the token that each sampled row must predict.
pub fn assemble(passes: &[Pass], layout: &Layout) -> (Vec<u32>, StepRows, Vec<u32>) {
    let share = layout.tokens / layout.sequences.max(1);
    let mut tokens = vec![0; layout.tokens];
    let mut step = StepRows::default();
    let mut targets = Vec::new();
    for (sequence, pass) in passes.iter().enumerate() {
        let (first_row, first_token) = (step.rows.len() as u32, sequence * share);
        tokens[first_token..first_token + pass.tokens.len()].copy_from_slice(&pass.tokens);
        step.rows.extend(pass.rows.iter().map(|row| Row {
            sequence: sequence as u32,
            source: match row.source {
                MASKED => MASKED,
                source => source + first_token as u32,
            },
            ..*row
        }));
        for scored in &pass.scored {
            step.sampled.push(first_row + scored.row);
            targets.push(scored.token);
        }
    }
    (tokens, step, targets)
}

/// log softmax of `logits` `[V]` at `token`, with [`MASK_LOGIT`] as the mask token's logit: the counterpart of
/// `shaders/score.wgsl`. NaN if a logit other than the mask's is not finite.
pub fn log_probability(logits: &[f32], mask_index: u32, token: u32) -> f64 {
    if !are_finite(logits, mask_index) {
        return f64::NAN;
    }
    let value = |v: usize| {
        f64::from(if v as u32 == mask_index {
            MASK_LOGIT
        } else {
            logits[v]
        })
    };
    let top = (0..logits.len()).map(value).fold(f64::MIN, f64::max);
    let mass: f64 = (0..logits.len()).map(|v| (value(v) - top).exp()).sum();
    value(token as usize) - top - mass.ln()
}

/// ln of the mean of e^x over `values`: the log-likelihood of a text over several equally likely orders.
pub fn log_mean_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = values.iter().map(|x| (x - top).exp()).sum();
    top + (sum / values.len().max(1) as f64).ln()
}

/// A per-token mean over texts of different lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Sum of the values divided by the number of tokens.
    pub per_token: f64,
    /// Standard error of this ratio over the texts; `None` for fewer than two texts.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of `values`, one per text, over the texts' `tokens`. Zero if there are no tokens.
    pub fn of(values: &[f64], tokens: &[usize]) -> Self {
        let total = tokens.iter().sum::<usize>() as f64;
        if total == 0.0 {
            return Self {
                per_token: 0.0,
                standard_error: None,
            };
        }
        let per_token = values.iter().sum::<f64>() / total;
        let n = values.len() as f64;
        let squares: f64 = values
            .iter()
            .zip(tokens)
            .map(|(value, &tokens)| (value - per_token * tokens as f64).powi(2))
            .sum();
        let standard_error = (n > 1.0).then(|| (squares * n / (n - 1.0)).sqrt() / total);
        Self {
            per_token,
            standard_error,
        }
    }
}

#[cfg(test)]
mod tests;
