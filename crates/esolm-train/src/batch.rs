//! The rows of a training step, on the CPU: which tokens enter the network at which positions, which rows attend to
//! which, and which rows are scored.
//!
//! The rows of all sequences are concatenated, so that each matrix product covers the whole step at once, the diffusion
//! half together with the sequential half.

use std::ops::Range;
use std::sync::Arc;

use esolm::config::{ModelConfig, ROTARY_BASE, rotary_frequencies};
use esolm::forward_process::{Noised, NoisedBlocks};
use esolm::rows::own_slot;

use crate::ops::{Span, Table, Targets};

/// The rows of one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token of each row, `[R]`.
    pub tokens: Vec<u32>,
    /// Which rows attend to which.
    pub table: Arc<Table>,
    /// Rows whose token is predicted, ascending, `[S]`.
    pub scored: Vec<u32>,
    /// Their tokens.
    pub targets: Arc<Targets>,
    /// Weight of each scored row's -log p in its loss, before dividing by the number of tokens, `[S]`.
    pub weights: Vec<f32>,
    /// Which scored rows belong to the diffusion loss; the others belong to the sequential loss.
    pub diffusion: Range<usize>,
}

/// Builds a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    mask_index: u32,
    half: usize,
    /// Cosines and sines of all positions, `[L, head_dim / 2]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    tokens: Vec<u32>,
    /// First row of the current sequence.
    first: usize,
    table: Table,
    scored: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl BatchBuilder {
    /// An empty batch for sequences of at most `length` tokens.
    pub fn new(config: &ModelConfig, length: usize) -> Self {
        let head_dim = config.hidden / config.n_heads;
        let frequencies: Vec<f32> = rotary_frequencies(head_dim, ROTARY_BASE).collect();
        let angles = (0..length).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let angles: Vec<f32> = angles.collect();
        Self {
            mask_index: config.mask_index,
            half: head_dim / 2,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
            tokens: Vec::new(),
            first: 0,
            table: Table {
                heads: config.n_heads,
                head_dim,
                spans: Vec::new(),
                prefix: Vec::new(),
                own: Vec::new(),
                cos: Vec::new(),
                sin: Vec::new(),
            },
            scored: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Adds a row to the current sequence that, beyond its prefix, attends only to itself. Returns its index.
    fn row(&mut self, token: u32, position: u32, prefix: usize) -> u32 {
        let own = own_slot((self.tokens.len() - self.first) as u32, prefix as u32);
        self.row_with(token, position, prefix, own)
    }

    fn row_with(&mut self, token: u32, position: u32, prefix: usize, own: [u32; 2]) -> u32 {
        let at = position as usize * self.half;
        self.tokens.push(token);
        self.table.prefix.push(prefix as u32);
        self.table.own.push(own);
        for (to, from) in [
            (&mut self.table.cos, &self.cos),
            (&mut self.table.sin, &self.sin),
        ] {
            to.extend_from_slice(&from[at..at + self.half]);
        }
        self.tokens.len() as u32 - 1
    }

    fn score(&mut self, row: u32, target: u32, weight: f64) {
        self.scored.push(row);
        self.targets.push(target);
        self.weights.push(weight as f32);
    }

    /// Ends the current sequence, whose first `context` rows may be attended to by others.
    fn end(&mut self, context: usize) {
        let rows = self.tokens.len() - self.first;
        self.table.spans.push(Span { rows, context });
        self.first = self.tokens.len();
    }

    /// Adds a text as read by the loss of a BD3-LM: first the clean blocks except the last, which no row sees, each row
    /// seeing its own block and earlier ones; then all blocks as noised, each row seeing the clean blocks before its
    /// own, and its own noised block. Masked tokens are scored with `weight(block)`, unless `valid` excludes their
    /// position.
    pub fn blocks(
        &mut self,
        text: &[u32],
        noised: &NoisedBlocks,
        weight: impl Fn(usize) -> f64,
        valid: impl Fn(u32) -> bool,
    ) {
        let (length, size) = (text.len(), noised.size);
        let clean = (length.div_ceil(size) - 1) * size;
        for (position, &token) in text[..clean].iter().enumerate() {
            let end = (position / size + 1) * size;
            self.row(token, position as u32, end);
        }
        for (position, &masked) in noised.masked.iter().enumerate() {
            let block = position / size;
            let (start, end) = (block * size, ((block + 1) * size).min(length));
            let own = [start, end].map(|p| (clean + p) as u32);
            let token = if masked {
                self.mask_index
            } else {
                text[position]
            };
            let row = self.row_with(token, position as u32, start, own);
            if masked && valid(position as u32) {
                self.score(row, text[position], weight(block));
            }
        }
        self.end(clean);
    }

    /// Adds a sequence as read by the diffusion loss: each row sees itself and `prefix(slot)` leading slots; masked
    /// slots are scored with `weight`, unless `valid` excludes their natural position.
    pub fn diffusion(
        &mut self,
        text: &Noised,
        weight: f64,
        valid: impl Fn(u32) -> bool,
        prefix: impl Fn(usize) -> usize,
    ) {
        let length = text.sort_idx.len();
        for slot in 0..length {
            let position = text.sort_idx[slot];
            let row = self.row(text.zt_sorted[slot], position, prefix(slot));
            if text.masked_sorted[slot] && valid(position) {
                self.score(row, text.x0_sorted[slot], weight);
            }
        }
        self.end(length);
    }

    /// Adds sequences as read by the sequential loss: the clean text in slot order (row x_i sees x up to itself), then
    /// rows z_i, which see the x of lower slots and themselves. The z rows of clean slots are not needed and come
    /// first, so each sequence has only those from the lowest masked slot of the whole batch on. All sequences thus
    /// keep the same shape, and the network reads fewer than 2L rows.
    pub fn sequential(&mut self, texts: &[Noised], valid: impl Fn(usize, u32) -> bool) {
        let lowest = |text: &Noised| text.masked_sorted.iter().position(|&masked| masked);
        let Some(first) = texts.iter().filter_map(lowest).min() else {
            return;
        };
        for (index, text) in texts.iter().enumerate() {
            let length = text.sort_idx.len();
            for slot in 0..length {
                self.row(text.x0_sorted[slot], text.sort_idx[slot], slot + 1);
            }
            for slot in first..length {
                let position = text.sort_idx[slot];
                let row = self.row(text.zt_sorted[slot], position, slot);
                if text.masked_sorted[slot] && valid(index, position) {
                    self.score(row, text.x0_sorted[slot], 1.0);
                }
            }
            self.end(length);
        }
    }

    /// Adds a text read from left to right: row i, with token `input[i]`, predicts `targets[i]` with weight 1.
    pub fn autoregressive(&mut self, input: &[u32], targets: &[u32], valid: impl Fn(u32) -> bool) {
        for (i, (&token, &target)) in input.iter().zip(targets).enumerate() {
            let row = self.row(token, i as u32, i + 1);
            if valid(i as u32) {
                self.score(row, target, 1.0);
            }
        }
        self.end(targets.len());
    }

    /// Number of rows scored so far.
    pub fn scored(&self) -> usize {
        self.scored.len()
    }

    /// The batch; its first `diffusion` scored rows belong to the diffusion loss.
    pub fn finish(self, diffusion: usize) -> Batch {
        Batch {
            tokens: self.tokens,
            table: Arc::new(self.table),
            scored: self.scored,
            targets: Arc::new(Targets {
                tokens: self.targets,
                mask_index: self.mask_index as usize,
            }),
            weights: self.weights,
            diffusion: 0..diffusion,
        }
    }
}
