//! Prefix attention over one block's KV cache, parallel over heads and rows.
//!
//! Every sum of a row runs over the slots in ascending order, in blocks that start at the same slots for all rows. The
//! result therefore depends neither on the other rows of a pass nor on the number of cores.

#![allow(
    clippy::needless_range_loop,
    reason = "closures and iterators may end up as functions that lack the instruction set of their caller"
)]

use esolm_core::config::ModelConfig;
use esolm_core::rows::{Layout, Row};

use super::level::{Level, Work};
use super::math;
use super::simd::Simd;
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};

/// Number of adjacent slots whose keys are interleaved, and the multiple to which values are padded: a multiple of
/// every vector width.
const TILE: usize = 16;
/// Slots whose scores are computed at a time. A multiple of the slots per product of scores.
const BLOCK: usize = 256;
/// Maximum rows of a sequence that process a block of slots together.
const ROWS: usize = 24;
/// Rows of a head per task.
const SHARE: usize = 4 * ROWS;

/// Sizes common to all blocks.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) heads: usize,
    /// Key-value heads, a divisor of the query heads.
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    pub(super) fn of(config: &ModelConfig) -> Self {
        Self {
            heads: config.n_heads,
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
        }
    }

    /// Columns of all query heads.
    pub(super) fn width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of all key heads, or value heads.
    pub(super) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The key-value head that a query head reads.
    fn kv_head(self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// Padded columns of a row of a head.
    pub(super) fn wide(self) -> usize {
        self.head_dim.next_multiple_of(TILE)
    }
}

/// Keys and values of one block.
pub(super) struct Cache {
    heads: Heads,
    /// `[sequences, kv_heads, slots / 16, head_dim, 16]`: adjacent slots are interleaved, so that a vector holds the
    /// scores of several slots.
    k: Vec<f32>,
    /// `[sequences, kv_heads, slots, wide]`.
    v: Vec<f32>,
    slots: usize,
}

/// Number of slots, padded.
fn held(slots: usize) -> usize {
    slots.next_multiple_of(4 * TILE)
}

/// Bytes of a block's cache; saturates on overflow.
pub(super) fn cache_bytes(layout: &Layout, heads: Heads) -> u64 {
    let columns = heads.head_dim + heads.wide();
    (layout.sequences as u64)
        .saturating_mul(heads.kv_heads as u64 * columns as u64)
        .saturating_mul((layout.slots as u64).next_multiple_of(4 * TILE as u64))
        .saturating_mul(4)
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn new(layout: &Layout, heads: Heads) -> Result<Self, EngineError> {
        let Layout {
            sequences, slots, ..
        } = *layout;
        let purpose = MemoryUse::Batch { sequences, slots };
        let rows = sequences * heads.kv_heads * held(slots);
        Ok(Self {
            heads,
            k: memory::zeros(purpose, rows * heads.head_dim)?,
            v: memory::zeros(purpose, rows * heads.wide())?,
            slots: held(slots),
        })
    }

    /// Copies the keys and values of one slot to another.
    pub(super) fn move_slot(&mut self, sequence: usize, from: usize, to: usize) {
        let Heads {
            kv_heads, head_dim, ..
        } = self.heads;
        let (slots, wide) = (self.slots, self.heads.wide());
        let group = |slot: usize| slot / TILE * TILE * head_dim + slot % TILE;
        for place in sequence * kv_heads..(sequence + 1) * kv_heads {
            let keys = &mut self.k[place * slots * head_dim..][..slots * head_dim];
            for column in 0..head_dim {
                keys[group(to) + column * TILE] = keys[group(from) + column * TILE];
            }
            let values = &mut self.v[place * slots * wide..][..slots * wide];
            values.copy_within(from * wide..(from + 1) * wide, to * wide);
        }
    }

    /// Writes the keys and values of rows, grouped by ascending sequence, to their slots. `k` is `[kv_heads, rows,
    /// wide]`; `value(row, head, to)` writes the `head_dim` values of a row.
    pub(super) fn scatter(
        &mut self,
        rows: &[Row],
        k: &[f32],
        value: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let Heads {
            kv_heads: heads,
            head_dim,
            ..
        } = self.heads;
        let (slots, wide) = (self.slots, self.heads.wide());
        let work = rows.len() * heads * wide * 4;
        let sizes = (slots * head_dim, slots * wide);
        math::for_pairs(
            (&mut self.k, sizes.0),
            (&mut self.v, sizes.1),
            work,
            |place, keys, values| {
                let (sequence, head) = (place / heads, place % heads);
                let first = rows.partition_point(|row| (row.sequence as usize) < sequence);
                let of_sequence = rows[first..]
                    .iter()
                    .take_while(|row| row.sequence as usize == sequence);
                for (row, Row { slot, .. }) in (first..).zip(of_sequence) {
                    let slot = *slot as usize;
                    let k = &k[(head * rows.len() + row) * wide..][..head_dim];
                    let at = slot / TILE * head_dim * TILE + slot % TILE;
                    for (to, k) in keys[at..].iter_mut().step_by(TILE).zip(k) {
                        *to = *k;
                    }
                    value(row, head, &mut values[slot * wide..][..head_dim]);
                }
            },
        );
    }

    /// softmax(q kT) v for rows whose keys and values have been written. `q` is already scaled; `q` and `out` are
    /// `[heads, rows, wide]`.
    pub(super) fn attend(&self, rows: &[Row], q: &[f32], out: &mut [f32]) {
        self.attend_on(Level::best(), rows, q, out);
    }

    fn attend_on(&self, level: Level, rows: &[Row], q: &[f32], out: &mut [f32]) {
        let wide = self.heads.wide();
        let slots: usize = rows.iter().map(Row::seen).sum();
        let work = slots * wide * self.heads.heads;
        let per_head = (rows.len() * wide).max(1);
        math::for_chunks(out, per_head, work, |head, out| {
            let work = slots * wide;
            math::for_chunks(out, SHARE * wide, work, |share, out| {
                let first = share * SHARE;
                let count = out.len() / wide;
                let q = &q[(head * rows.len() + first) * wide..][..out.len()];
                let rows = &rows[first..first + count];
                level.run(Share {
                    cache: self,
                    head,
                    rows,
                    q,
                    out,
                });
            });
        });
    }
}

/// Rows of one head.
struct Share<'a> {
    cache: &'a Cache,
    head: usize,
    rows: &'a [Row],
    /// `[rows, wide]`, like `out`.
    q: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Share<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let heads = self.cache.heads;
        let head_dim = heads.head_dim;
        let (slots, wide) = (self.cache.slots, self.cache.heads.wide());
        let mut scores = [0.0; ROWS * BLOCK];
        let mut first = 0;
        while first < self.rows.len() {
            let sequence = self.rows[first].sequence;
            let mut end = first + 1;
            while end < self.rows.len().min(first + ROWS) && self.rows[end].sequence == sequence {
                end += 1;
            }
            let place = sequence as usize * heads.kv_heads + heads.kv_head(self.head);
            let span = Span {
                rows: &self.rows[first..end],
                q: &self.q[first * wide..end * wide],
                k: &self.cache.k[place * slots * head_dim..(place + 1) * slots * head_dim],
                v: &self.cache.v[place * slots * wide..(place + 1) * slots * wide],
                head_dim,
                wide,
            };
            // Safety: guaranteed by the caller.
            unsafe { span.attend::<S>(&mut scores, &mut self.out[first * wide..end * wide]) };
            first = end;
        }
    }
}

/// Rows of one head of one sequence, at most [`ROWS`].
struct Span<'a> {
    rows: &'a [Row],
    q: &'a [f32],
    /// `[slots / 16, head_dim, 16]`.
    k: &'a [f32],
    /// `[slots, wide]`.
    v: &'a [f32],
    head_dim: usize,
    wide: usize,
}

impl Span<'_> {
    /// Processes block by block with online softmax: scores, weights relative to the largest score so far, and weighted
    /// values.
    ///
    /// # Safety
    /// See [`Simd`].
    #[inline(always)]
    unsafe fn attend<S: Simd>(&self, scores: &mut [f32; ROWS * BLOCK], out: &mut [f32]) {
        // Largest score, and sum of the weights.
        let mut state = [(f32::MIN, 0.0f32); ROWS];
        for (i, row) in self.rows.iter().enumerate() {
            let out = &mut out[i * self.wide..(i + 1) * self.wide];
            // Beyond its prefix, this row sees only itself.
            if self.is_lone(i) {
                state[i] = (self.own_score(i), 1.0);
                out.copy_from_slice(&self.v[row.slot as usize * self.wide..][..self.wide]);
            } else {
                out.fill(0.0);
            }
        }
        let mut longest = 0;
        for row in self.rows {
            longest = longest.max(row.prefix as usize);
        }
        for block in (0..longest).step_by(BLOCK) {
            // Number of slots in this block that each row sees.
            let mut seen = [0; ROWS];
            for (seen, row) in seen.iter_mut().zip(self.rows) {
                *seen = (row.prefix as usize).saturating_sub(block).min(BLOCK);
            }
            let seen = &seen[..self.rows.len()];
            // Safety: guaranteed by the caller.
            unsafe { self.passes::<S>(block, 0, 0, seen, &mut state, scores, out) };
        }
        // Then the own ranges; adjacent rows often share theirs.
        let mut first = 0;
        while first < self.rows.len() {
            let [start, end] = self.rows[first].own;
            let mut last = first + 1;
            while last < self.rows.len() && self.rows[last].own == [start, end] {
                last += 1;
            }
            if start < end && !self.is_lone(first) {
                let (start, end) = (start as usize, end as usize);
                // Same block boundaries as for prefixes, so that vector loads stay inside the cache.
                for block in (start / BLOCK * BLOCK..end).step_by(BLOCK) {
                    let from = start.saturating_sub(block);
                    let seen = [(end - block).min(BLOCK); ROWS];
                    let seen = &seen[..last - first];
                    // Safety: guaranteed by the caller.
                    unsafe { self.passes::<S>(block, first, from, seen, &mut state, scores, out) };
                }
            }
            first = last;
        }
        for (out, (_, sum)) in out.chunks_exact_mut(self.wide).zip(state) {
            let scale = 1.0 / sum;
            for value in out {
                *value *= scale;
            }
        }
    }

    /// Whether the only slot that a row sees beyond its prefix is its own.
    #[inline(always)]
    fn is_lone(&self, row: usize) -> bool {
        let [start, end] = self.rows[row].own;
        end == start + 1
    }

    /// The rows from `start` on process the slots `from..seen` of a block, a few rows at a time.
    ///
    /// # Safety
    /// See [`Simd`].
    #[inline(always)]
    #[allow(
        clippy::too_many_arguments,
        reason = "what one loop over a block works with"
    )]
    unsafe fn passes<S: Simd>(
        &self,
        block: usize,
        start: usize,
        from: usize,
        seen: &[usize],
        state: &mut [(f32, f32); ROWS],
        scores: &mut [f32; ROWS * BLOCK],
        out: &mut [f32],
    ) {
        let most = if S::LANES >= 16 { 6 } else { 4 };
        let mut first = 0;
        while first < seen.len() {
            let count = (seen.len() - first).min(most);
            let (row, seen) = (start + first, &seen[first..first + count]);
            // Safety: guaranteed by the caller.
            unsafe {
                match count {
                    1 => self.pass::<S, 1>(block, row, from, seen, state, scores, out),
                    2 => self.pass::<S, 2>(block, row, from, seen, state, scores, out),
                    3 => self.pass::<S, 3>(block, row, from, seen, state, scores, out),
                    4 => self.pass::<S, 4>(block, row, from, seen, state, scores, out),
                    5 => self.pass::<S, 5>(block, row, from, seen, state, scores, out),
                    _ => self.pass::<S, 6>(block, row, from, seen, state, scores, out),
                }
            }
            first += count;
        }
    }

    /// A row's score with itself.
    #[inline(always)]
    fn own_score(&self, row: usize) -> f32 {
        let slot = self.rows[row].slot as usize;
        let k = &self.k[slot / TILE * self.head_dim * TILE + slot % TILE..];
        let q = &self.q[row * self.wide..][..self.head_dim];
        let mut sum = 0.0;
        for (i, q) in q.iter().enumerate() {
            sum += q * k[i * TILE];
        }
        sum
    }

    /// The `R` rows from `first` on process a block of slots; each sees those from `from` up to its entry in `seen`.
    ///
    /// # Safety
    /// See [`Simd`].
    #[inline(always)]
    #[allow(
        clippy::too_many_arguments,
        reason = "what one loop over a block works with"
    )]
    unsafe fn pass<S: Simd, const R: usize>(
        &self,
        block: usize,
        first: usize,
        from: usize,
        seen: &[usize],
        state: &mut [(f32, f32); ROWS],
        scores: &mut [f32; ROWS * BLOCK],
        out: &mut [f32],
    ) {
        let (mut fewest, mut most) = (BLOCK, 0);
        for &seen in seen {
            (fewest, most) = (fewest.min(seen), most.max(seen));
        }
        let q: &[f32] = &self.q[first * self.wide..(first + R) * self.wide];
        let out = &mut out[first * self.wide..(first + R) * self.wide];
        // Safety: guaranteed by the caller.
        unsafe {
            for slot in (from / (4 * TILE) * (4 * TILE)..most).step_by(4 * TILE) {
                // Four tiles at a time.
                let tile = (block + slot) / TILE;
                let k = &self.k[tile * self.head_dim * TILE..][..4 * self.head_dim * TILE];
                let to = &mut scores[slot..];
                if S::LANES >= 16 {
                    self.scores::<S, 4, R>(k, q, to);
                } else {
                    self.scores::<S, 2, R>(k, q, to);
                }
            }
            for r in 0..R {
                let (top, sum) = &mut state[first + r];
                let scores = &mut scores[r * BLOCK..][from..seen[r]];
                let highest = math::max(scores, *top);
                // 1 if the maximum does not change.
                let factor = math::exp_one(*top - highest);
                *sum = *sum * factor + math::exp_sum(scores, highest);
                *top = highest;
                for value in &mut out[r * self.wide..(r + 1) * self.wide] {
                    *value *= factor;
                }
            }
            let v = &self.v[block * self.wide..][..most * self.wide];
            self.values::<S, R>(v, from, fewest, scores, out);
            for r in 0..R {
                let out = &mut out[r * self.wide..(r + 1) * self.wide];
                self.values::<S, 1>(v, fewest, seen[r], &scores[r * BLOCK..], out);
            }
        }
    }

    /// Scores of `R` rows with four tiles of keys, `C` vectors at a time.
    ///
    /// # Safety
    /// See [`Simd`]. `C` vectors must divide a tile or be a multiple of one.
    #[inline(always)]
    unsafe fn scores<S: Simd, const C: usize, const R: usize>(
        &self,
        k: &[f32],
        q: &[f32],
        to: &mut [f32],
    ) {
        assert!(to.len() > (R - 1) * BLOCK + 4 * TILE - 1);
        let mut vector = 0;
        while vector * S::LANES < 4 * TILE {
            let mut from = [k; C];
            for c in 0..C {
                let lane = (vector + c) * S::LANES;
                from[c] = &k[lane / TILE * self.head_dim * TILE + lane % TILE..];
                assert!(from[c].len() >= (self.head_dim - 1) * TILE + S::LANES);
            }
            let mut rows = [q; R];
            for r in 0..R {
                rows[r] = &q[r * self.wide..][..self.head_dim];
            }
            // Safety: checked by the asserts.
            unsafe {
                let zeros = [[S::splat(0.0); C]; R];
                let sums = multiply::<S, C, R, 4>(from, TILE, rows, self.head_dim, zeros);
                for r in 0..R {
                    for c in 0..C {
                        let at = r * BLOCK + (vector + c) * S::LANES;
                        S::store(to[at..at + S::LANES].as_mut_ptr(), sums[r][c]);
                    }
                }
            }
            vector += C;
        }
    }

    /// Adds the weighted values of the slots `from..to` of a block to `R` rows of `out`.
    ///
    /// # Safety
    /// See [`Simd`].
    #[inline(always)]
    unsafe fn values<S: Simd, const R: usize>(
        &self,
        v: &[f32],
        from: usize,
        to: usize,
        weights: &[f32],
        out: &mut [f32],
    ) {
        if from >= to {
            return;
        }
        let mut column = 0;
        while column < self.wide {
            // Safety: guaranteed by the caller.
            unsafe {
                let (slots, left) = (from..to, (self.wide - column) / S::LANES);
                column += if left >= 4 && S::LANES >= 16 {
                    self.columns::<S, 4, R>(v, slots, column, weights, out)
                } else if left >= 2 {
                    self.columns::<S, 2, R>(v, slots, column, weights, out)
                } else {
                    self.columns::<S, 1, R>(v, slots, column, weights, out)
                };
            }
        }
    }

    /// Handles `C` vectors of columns for [`Span::values`], and returns the number of columns.
    ///
    /// # Safety
    /// See [`Simd`].
    #[inline(always)]
    unsafe fn columns<S: Simd, const C: usize, const R: usize>(
        &self,
        v: &[f32],
        slots: std::ops::Range<usize>,
        column: usize,
        weights: &[f32],
        out: &mut [f32],
    ) -> usize {
        let count = slots.len();
        assert!(column + C * S::LANES <= self.wide && v.len() >= slots.end * self.wide);
        let mut from = [v; C];
        for c in 0..C {
            from[c] = &v[slots.start * self.wide + column + c * S::LANES..];
        }
        let mut rows = [weights; R];
        for r in 0..R {
            rows[r] = &weights[r * BLOCK + slots.start..][..count];
        }
        // Safety: checked by the assert.
        unsafe {
            let mut sums = [[S::splat(0.0); C]; R];
            for r in 0..R {
                for c in 0..C {
                    let at = r * self.wide + column + c * S::LANES;
                    sums[r][c] = S::load(out[at..at + S::LANES].as_ptr());
                }
            }
            let sums = multiply::<S, C, R, 0>(from, self.wide, rows, count, sums);
            for r in 0..R {
                for c in 0..C {
                    let at = r * self.wide + column + c * S::LANES;
                    S::store(out[at..at + S::LANES].as_mut_ptr(), sums[r][c]);
                }
            }
        }
        C * S::LANES
    }
}

/// sums + `x` `[R, count]` times `count` rows of `C` vectors, `step` values apart. Unless `AHEAD` is 0, it prefetches
/// `AHEAD` times `count` rows ahead: four tiles of keys are four streams of about a page each, and hardware prefetchers
/// stop at page boundaries.
///
/// # Safety
/// See [`Simd`]. Each of `weights` must have a vector at `(count - 1) * step`, and each row of `x` `count` values.
#[inline(always)]
unsafe fn multiply<S: Simd, const C: usize, const R: usize, const AHEAD: usize>(
    weights: [&[f32]; C],
    step: usize,
    x: [&[f32]; R],
    count: usize,
    mut sums: [[S::F; C]; R],
) -> [[S::F; C]; R] {
    unsafe {
        for k in 0..count {
            let mut vectors = [S::splat(0.0); C];
            for c in 0..C {
                let from = weights[c].as_ptr().add(k * step);
                vectors[c] = S::load(from);
                if AHEAD > 0 {
                    S::prefetch(from.wrapping_add(AHEAD * count * step).cast());
                }
            }
            for r in 0..R {
                let x = S::splat(*x[r].as_ptr().add(k));
                for c in 0..C {
                    sums[r][c] = S::mul_add(vectors[c], x, sums[r][c]);
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests;
