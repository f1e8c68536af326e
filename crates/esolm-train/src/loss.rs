//! The losses: the rows of a batch of texts, and the weights of the network's predictions.
//!
//! Sources: `nll` of `Eso-LM` in algo.py, and of `MDLM` and `AR` in trainer_base.py of the published code; arXiv
//! 2506.01928, section 3. The first fraction `batch_split` of a batch trains the diffusion loss, the rest the
//! sequential loss. Each is divided by the number of its valid tokens, masked or not, and the two are added.
//!
//! A BD3-LM (arXiv 2503.09573; diffusion.py of kuleshov-group/bd3lms) has a time per block. Its first token is neither
//! masked nor counted.
//!
//! A SetDLM (kuleshov-group/setdlms) has an order per text, drawn from its noise, and reads every token along with a
//! mask for it: the loss is the unweighted -log p in that order.

use std::ops::Range;

use burn::tensor::Tensor;
use esolm::config::{Family, ModelConfig};
use esolm::forward_process::{
    Level, Noised, NoisedBlocks, Part, Staggered, TIME_EPS, Uniforms, antithetic_times,
    block_times, draw_exponentials, draw_time, draw_times, resample, sequential_order,
};
use esolm::network::Network;
use esolm::rng::Stream;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchBuilder};
use crate::ops::Dropout;
use crate::pass::scored_nll;
use crate::purpose;
use crate::recipe::{Loss, LossKind};
use crate::weights::host;

/// Per-token means in nats. `sequential` is zero for MDLM and BD3-LM, and is the whole loss of AR and SetDLM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Diffusion loss.
    pub diffusion: f64,
    /// Sequential loss.
    pub sequential: f64,
}

impl Losses {
    /// The sum of both, which is minimised; with [`LossKind::Elbo`], a bound of -log p.
    pub fn total(self) -> f64 {
        self.diffusion + self.sequential
    }

    /// `self` plus `share` times `other`.
    pub fn plus(self, other: Self, share: f64) -> Self {
        Self {
            diffusion: self.diffusion + share * other.diffusion,
            sequential: self.sequential + share * other.sequential,
        }
    }
}

/// The noise of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Noise {
    /// alpha_0 of each text; if empty, the objective's.
    pub alpha_0: Vec<f64>,
    /// For each text of the sequential loss, positions to mask instead of random ones, if any.
    pub gaps: Vec<Option<Range<u32>>>,
    /// Diffusion time of each sequence of the diffusion loss.
    pub times: Vec<f64>,
    /// Masks and orders for the sequences of the diffusion loss.
    pub diffusion: Vec<Uniforms>,
    /// The same for the sequential loss.
    pub sequential: Vec<Uniforms>,
    /// For a BD3-LM only: what is masked in each text.
    pub blocks: Vec<NoisedBlocks>,
    /// For a SetDLM only: the order of each text.
    pub orders: Vec<Vec<u32>>,
}

/// Noise settings of a BD3-LM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockNoise {
    /// Tokens per block.
    pub size: usize,
    /// Range of the times, i.e. of the fraction of masked tokens.
    pub range: [f64; 2],
    /// Whether blocks whose fraction of masked tokens is outside the range are masked again.
    pub resample: bool,
}

impl BlockNoise {
    /// The range for which the loss is the bound.
    pub const WHOLE: [f64; 2] = [TIME_EPS, 1.0];
}

impl Noise {
    /// The noise of the sequences from number `first` on, the first `diffusion` of which train the diffusion loss;
    /// their times are antithetic.
    pub fn draw(seed: u64, first: u32, diffusion: usize, sequential: usize, length: usize) -> Self {
        let number = |i: usize| first.wrapping_add(i as u32);
        let uniforms: Vec<f64> = (0..diffusion)
            .map(|i| draw_time(seed, number(i), 0))
            .collect();
        let draw = |i: usize, part| Uniforms::draw(seed, number(i), 0, part, length);
        Self {
            times: antithetic_times(&uniforms),
            diffusion: (0..diffusion).map(|i| draw(i, Part::Diffusion)).collect(),
            sequential: (diffusion..diffusion + sequential)
                .map(|i| draw(i, Part::Sequential))
                .collect(),
            ..Self::default()
        }
    }

    /// Orders of `count` texts of a SetDLM from number `first` on. With `keeps_first`, their first token is given.
    pub fn draw_orders(
        seed: u64,
        first: u32,
        count: usize,
        length: usize,
        config: &ModelConfig,
    ) -> Self {
        let Some(sets) = &config.sets else {
            return Self::default();
        };
        let schedule = Staggered::new(sets, config.length);
        let free = usize::from(sets.keeps_first)..length;
        let numbers = (0..count as u32).map(|i| first.wrapping_add(i));
        let orders = numbers.map(|number| {
            let exponentials = draw_exponentials(seed, number, 0, free.len());
            schedule.order(length, &free, &exponentials)
        });
        Self {
            orders: orders.collect(),
            ..Self::default()
        }
    }

    /// The noise of `count` texts of a BD3-LM from number `first` on; times are antithetic among all their blocks.
    pub fn draw_blocks(
        seed: u64,
        first: u32,
        count: usize,
        length: usize,
        noise: &BlockNoise,
    ) -> Self {
        let numbers = (0..count as u32).map(|i| first.wrapping_add(i));
        let blocks = length.div_ceil(noise.size);
        let uniforms = numbers
            .clone()
            .flat_map(|number| draw_times(seed, number, 0, blocks));
        let times = block_times(&uniforms.collect::<Vec<f64>>(), noise.range);
        let noised = numbers.zip(times.chunks(blocks)).map(|(number, times)| {
            let draw = |n| Uniforms::draw(seed, number, n, Part::Diffusion, length).mask;
            let mut noised = NoisedBlocks::new(noise.size, times, &draw(0));
            if noise.resample && noise.range != BlockNoise::WHOLE {
                let mut draws = 0;
                resample(&mut noised, times, noise.range, || {
                    draws += 1;
                    draw(draws)
                });
            }
            // Nothing predicts the first token.
            noised.give(1);
            noised
        });
        Self {
            blocks: noised.collect(),
            ..Self::default()
        }
    }

    /// Adds the recipe's extensions of the published loss: an alpha_0 per text, and texts with a single gap.
    pub fn widen(&mut self, loss: &Loss, seed: u64, first: u32, length: usize) {
        let stream = |i: usize| Stream::new(seed, first.wrapping_add(i as u32), purpose::WIDEN);
        let split = self.times.len();
        let texts = split + self.sequential.len();
        if let Some([low, high]) = loss.alpha_0_range {
            let drawn = (0..texts).map(|i| low + (high - low) * stream(i).uniform());
            self.alpha_0 = drawn.collect();
        }
        if loss.infill > 0.0 {
            let gap = |i: usize| {
                let mut stream = stream(i);
                stream.uniform();
                (stream.uniform() < loss.infill).then(|| {
                    let size = 1 + stream.below(length as u32);
                    let start = stream.below(length as u32 - size + 1);
                    start..start + size
                })
            };
            self.gaps = (split..texts).map(gap).collect();
        }
    }
}

/// The loss of a network.
#[derive(Debug, Clone)]
pub struct Objective {
    /// The network's configuration.
    pub config: ModelConfig,
    /// Fraction of the tokens that diffusion writes; 1 for all families except Eso-LM.
    pub alpha_0: f64,
    /// Weight of masked tokens in the diffusion loss.
    pub kind: LossKind,
}

/// A batch, and the numbers of valid tokens by which the losses are divided.
pub struct Prepared {
    /// The rows.
    pub batch: Batch,
    diffusion_tokens: f64,
    sequential_tokens: f64,
}

impl Objective {
    /// The rows of `texts` `[B, L]`: the first ones, as many as `noise` has times, for the diffusion loss, the rest for
    /// the sequential loss; for AR all of them from left to right, and for SetDLM in the orders of `noise`. Tokens at
    /// positions where `valid(sequence, position)` is false are read, but do not count in any loss.
    pub fn prepare(
        &self,
        texts: &[&[u32]],
        noise: &Noise,
        valid: impl Fn(usize, u32) -> bool,
    ) -> Prepared {
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut builder = BatchBuilder::new(&self.config, length);
        let count = |range: Range<usize>, from: usize| {
            let of = |i: usize| {
                (from..texts[i].len())
                    .filter(|&p| valid(i, p as u32))
                    .count()
            };
            range.map(of).sum::<usize>() as f64
        };
        if self.config.family == Family::Ar {
            // Without a token before the text, nothing predicts its first token.
            let before = self.config.prepended();
            let first = usize::from(before.is_none());
            for (i, text) in texts.iter().enumerate() {
                let input: Vec<u32> = before.into_iter().chain(text.iter().copied()).collect();
                let targets = &text[first..];
                builder.autoregressive(&input[..targets.len()], targets, |p| {
                    valid(i, p + first as u32)
                });
            }
            return Prepared {
                batch: builder.finish(0),
                diffusion_tokens: 0.0,
                sequential_tokens: count(0..texts.len(), first),
            };
        }
        if self.config.family == Family::Bd3Lm {
            for (i, (text, noised)) in texts.iter().zip(&noise.blocks).enumerate() {
                let weight = |block: usize| match self.kind {
                    LossKind::Elbo => noised.weights[block],
                    LossKind::LowVar => 1.0,
                };
                builder.blocks(text, noised, weight, |p| valid(i, p));
            }
            let diffusion = builder.scored();
            return Prepared {
                batch: builder.finish(diffusion),
                diffusion_tokens: count(0..texts.len(), 1),
                sequential_tokens: 0.0,
            };
        }
        let mask = self.config.mask_index;
        if let Some(sets) = &self.config.sets {
            let first = usize::from(sets.keeps_first);
            let sorted = texts.iter().zip(&noise.orders).map(|(text, order)| {
                let masked: Vec<bool> = (0..text.len()).map(|p| p >= first).collect();
                Noised::gather(text, &masked, order.clone(), mask)
            });
            builder.sequential(&sorted.collect::<Vec<_>>(), &valid);
            return Prepared {
                batch: builder.finish(0),
                diffusion_tokens: 0.0,
                sequential_tokens: count(0..texts.len(), first),
            };
        }
        let split = noise.times.len();
        let alpha_0 = |i: usize| noise.alpha_0.get(i).copied().unwrap_or(self.alpha_0);
        for (i, (uniforms, &t)) in noise.diffusion.iter().zip(&noise.times).enumerate() {
            let level = Level::at(alpha_0(i), t);
            let weight = match self.kind {
                LossKind::Elbo => level.weight,
                LossKind::LowVar => 1.0,
            };
            let valid = |p| valid(i, p);
            if self.config.family == Family::Mdlm {
                let text = Noised::mdlm(texts[i], level, uniforms, mask);
                builder.diffusion(&text, weight, valid, |_| texts[i].len());
            } else {
                let text = Noised::diffusion(texts[i], level, uniforms, mask);
                builder.diffusion(&text, weight, valid, |slot| slot + 1);
            }
        }
        let diffusion = builder.scored();
        let rest: Vec<Noised> = texts[split..]
            .iter()
            .zip(&noise.sequential)
            .enumerate()
            .map(|(i, (text, uniforms))| match noise.gaps.get(i) {
                Some(Some(gap)) => {
                    let masked: Vec<bool> =
                        (0..text.len() as u32).map(|p| gap.contains(&p)).collect();
                    // From left to right, the order of given tokens in an infill or a prompt.
                    Noised::gather(text, &masked, sequential_order(&masked, None), mask)
                }
                _ => Noised::sequential(text, alpha_0(split + i), uniforms, mask),
            })
            .collect();
        builder.sequential(&rest, |i, p| valid(split + i, p));
        Prepared {
            batch: builder.finish(diffusion),
            diffusion_tokens: count(0..split, 0),
            sequential_tokens: count(split..texts.len(), 0),
        }
    }
}

impl Prepared {
    /// Weight of each scored row's -log p in the loss, `[S]`.
    fn coefficients(&self) -> Vec<f32> {
        let split = self.batch.diffusion.end;
        let divided = |(i, weight): (usize, &f32)| {
            let tokens = if i < split {
                self.diffusion_tokens
            } else {
                self.sequential_tokens
            };
            (f64::from(*weight) / tokens) as f32
        };
        self.batch.weights.iter().enumerate().map(divided).collect()
    }

    /// The loss as a tensor to differentiate, `[1]`, and -log p of the scored rows, `[S]`; `None` if nothing is masked,
    /// in which case the loss is zero regardless of the network.
    pub fn loss(
        &self,
        network: &Network,
        dropout: Option<Dropout>,
    ) -> Option<(Tensor<1>, Tensor<1>)> {
        if self.batch.scored.is_empty() {
            return None;
        }
        let nll = scored_nll(network, &self.batch, dropout);
        let coefficients = self.coefficients();
        let coefficients = Tensor::<1>::from_floats(coefficients.as_slice(), &nll.device());
        // `sum` uses another kernel, which needs float atomics that few GPUs have.
        Some(((nll.clone() * coefficients).sum_dim(0), nll))
    }

    /// The parts of the loss, computed from -log p of the scored rows.
    pub fn losses(&self, nll: Tensor<1>) -> Losses {
        let nll = host(nll);
        let weighted = |range: Range<usize>, tokens: f64| {
            let terms = nll[range.clone()].iter().zip(&self.batch.weights[range]);
            let sum: f64 = terms.map(|(&n, &w)| f64::from(n) * f64::from(w)).sum();
            if tokens > 0.0 { sum / tokens } else { 0.0 }
        };
        let split = self.batch.diffusion.end.min(nll.len());
        Losses {
            diffusion: weighted(0..split, self.diffusion_tokens),
            sequential: weighted(split..nll.len(), self.sequential_tokens),
        }
    }
}
