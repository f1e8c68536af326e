//! The passes whose logits make a likelihood: which rows enter the network for a text, which tokens they must predict, and what
//! each prediction counts. Pure data; an executor turns a [`Pass`] into log-probabilities.
//!
//! The quantities are those of arXiv 2506.01928 and of its published code (algo.py); docs/likelihood.md writes them out:
//!
//! * [`exact`]: log p(x | order), the sum over slots of log p(x_i | the tokens of lower slots), of an Eso-LM (B) and of a SetDLM. Attention
//!   is causal over slots, so one pass over two rows a token gives all terms: x_i in slot i, and the mask z_i, which sees the x of lower slots and itself.
//! * [`diffusion`], [`sequential`]: the two parts of the NELBO for one draw of the noise, from a [`Noised`] text.
//! * [`blocks`]: the NELBO of a BD3-LM for one draw of the noise. With blocks of one token it is exact, and what [`exact`] makes of the order
//!   from left to right.
//! * [`autoregressive`]: log p(x) of an AR model.
//!
//! Only rows that something depends on are there: z rows of clean tokens and the x row of the last slot are left out.

use std::ops::Range;

use crate::forward_process::{
    Noised, NoisedBlocks, Part, Staggered, Uniforms, draw_exponentials, draw_order,
};
use crate::rows::{Layout, MASKED, MaskMode, NO_TARGET, Row, StepRows, block_row, own_slot};
use crate::sampler::{MASK_LOGIT, are_finite};

/// A text to score: its tokens in natural order, and the stretch of them that is scored given the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens, `[L]`.
    pub tokens: Vec<u32>,
    /// What is scored. Tokens outside are given: they are clean, and take the first slots of every order.
    pub free: Range<usize>,
    /// Keys the random numbers of this text, whatever batch it is in.
    pub number: u32,
}

impl Window {
    /// A text of which every token is scored.
    pub fn whole(tokens: Vec<u32>, number: u32) -> Self {
        Self {
            free: 0..tokens.len(),
            tokens,
            number,
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

    /// A drawn order: given positions from left to right, then Binomial(scored, alpha_0) random positions, then the rest from left to
    /// right.
    pub fn order(&self, seed: u64, draw: u32, alpha_0: f64) -> Vec<u32> {
        let free = draw_order(seed, self.number, draw, self.scored(), alpha_0);
        let start = self.free.start as u32;
        self.given()
            .chain(free.into_iter().map(|p| p + start))
            .collect()
    }

    /// As [`Window::order`], of a SetDLM: the tokens outside of `free` from left to right, then those within by drawn hitting times.
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

    /// The uniforms of a draw of the noise, such that given tokens stay clean and come first.
    pub fn uniforms(&self, seed: u64, draw: u32, part: Part) -> Uniforms {
        let mut uniforms = Uniforms::draw(seed, self.number, draw, part, self.tokens.len());
        for position in self.given() {
            // 2 is within no share of masked tokens, and -1 sorts before every offset.
            uniforms.mask[position as usize] = 2.0;
            uniforms.offsets[position as usize] = -1.0;
        }
        uniforms
    }
}

/// A prediction of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The row that predicts, an index into [`Pass::rows`].
    pub row: u32,
    /// The token that it must predict.
    pub token: u32,
    /// The token's slot in the order of the text; of an AR model its natural position.
    pub place: u32,
    /// What its -log p counts.
    pub weight: f64,
}

/// One pass over one text. Rows belong to sequence 0 and read `tokens` from its beginning; [`assemble`] puts several together.
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
    /// The sum of weight times log p over the predictions; `log_p` has one value for each.
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

/// log p(x | order) of a model whose clean tokens see each other causally: Eso-LM (B), SetDLM. `order` lists natural positions; the tokens
/// of its first `given` slots are not scored.
pub fn exact(x: &[u32], order: &[u32], given: usize) -> Pass {
    let tokens = order.iter().map(|&p| x[p as usize]).collect();
    beside(tokens, order, 0, given..order.len())
}

/// `tokens` in sorted order in the slots 0..L, each seeing those of lower slots and at least `least`, and masks beside them at the
/// slots `wanted`, which are scored.
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

/// The diffusion part of the NELBO: the noised text alone, masked tokens scored with `weight` ([`crate::forward_process::Level::weight`]).
/// `mode` is causal for Eso-LM (B), mixed2 for Eso-LM (A), bidirectional for MDLM.
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

/// The sequential part of the NELBO: the text beside its masked tokens. `mode` is causal for Eso-LM (B), mixed for Eso-LM (A),
/// whose clean tokens all see each other.
pub fn sequential(noised: &Noised, mode: MaskMode) -> Pass {
    let length = noised.sort_idx.len();
    let least = match mode {
        MaskMode::Mixed => length - noised.masked_count(),
        _ => 0,
    };
    let wanted = (0..length).filter(|&slot| noised.masked_sorted[slot]);
    beside(noised.x0_sorted.clone(), &noised.sort_idx, least, wanted)
}

/// A text of a BD3-LM in natural order, noised block by block: masked tokens see their own block as it is noised, and the clean tokens
/// of the blocks before it. They are scored with the weight of their block.
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

/// log p(x) of an AR model, which reads `prepended` before the text. Without such a token nothing predicts the first token, which
/// is then given; `free` says which tokens are scored besides.
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

/// Several passes as one over a batch whose layout stays the same from one call to the next, so that caches are kept: `layout` has at
/// least as many sequences as there are passes, and room for the slots and tokens of each. Returns the token buffer, the rows, and
/// the token that each sampled row must predict.
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

/// log softmax of `logits` `[V]` at `token`, the mask token's logit being [`MASK_LOGIT`]: the twin of `shaders/score.wgsl`. Not a number
/// where a logit other than the mask's is not finite.
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

/// ln of the mean of e^x over `values`: the likelihood of a text over several orders, each as likely as the others.
pub fn log_mean_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = values.iter().map(|x| (x - top).exp()).sum();
    top + (sum / values.len().max(1) as f64).ln()
}

/// A mean a token over texts of different lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Total of the values over the total of the tokens.
    pub per_token: f64,
    /// Its standard error over the texts, of the ratio; `None` for fewer than two texts.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of `values`, one of each text, over its `tokens`. Zero where there are no tokens.
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
