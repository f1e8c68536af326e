//! Prefix attention over the KV cache of one block.
//!
//! Products are Burn's; the softmax between them is a loop over host memory, since each row has a prefix of its own, for which
//! Burn's operations would need a dense mask and three passes over the scores.

use burn::backend::flex::FlexTensor;
use burn::backend::flex::ops::matmul::matmul;
use burn::tensor::TensorData;
use esolm_core::rows::{Layout, Row};

use super::math;
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};

/// Most rows of one product of scores, so that these stay in cache and causal rows waste little.
const ROWS: usize = 64;

/// Sizes that all blocks share.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    pub(super) fn hidden(self) -> usize {
        self.heads * self.head_dim
    }
}

/// Rows that share one product: `rows` rows of each of `sequences` consecutive sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    first: usize,
    rows: usize,
    sequence: usize,
    sequences: usize,
    /// The longest prefix among them.
    prefix: usize,
}

/// Splits the rows (grouped by ascending sequence) into spans.
pub(super) fn spans(rows: &[Row]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut first = 0;
    for group in rows.chunk_by(|a, b| a.sequence == b.sequence) {
        for part in group.chunks(ROWS) {
            let prefix = part
                .iter()
                .map(|row| row.prefix as usize)
                .max()
                .unwrap_or(0);
            let sequence = part[0].sequence as usize;
            match spans.last_mut() {
                // Batches whose sequences are in step, AR above all, make one product.
                Some(last)
                    if last.sequence + last.sequences == sequence
                        && (last.rows, last.prefix) == (part.len(), prefix)
                        && last.sequences * last.rows < ROWS =>
                {
                    last.sequences += 1;
                }
                _ => spans.push(Span {
                    first,
                    rows: part.len(),
                    sequence,
                    sequences: 1,
                    prefix,
                }),
            }
            first += part.len();
        }
    }
    spans
}

/// A tensor that is written in place between products, which nothing copies as long as no view of it is alive.
struct Host(FlexTensor);

impl Host {
    fn zeros(purpose: MemoryUse, shape: [usize; 4]) -> Result<Self, EngineError> {
        let values = memory::zeros(purpose, shape.iter().product())?;
        let data = TensorData::new(values, shape);
        Ok(Self(FlexTensor::from_data(data)))
    }

    fn values(&mut self) -> &mut [f32] {
        self.0.storage_mut()
    }
}

/// The values of f32 data.
fn floats(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice::<f32>().unwrap_or_default()
}

/// Keys and values of one block.
pub(super) struct Cache {
    heads: Heads,
    /// `[sequences, heads, head_dim, stride]`: transposed, so that a product reads consecutive slots. The stride is the slots and a
    /// little more: at a power of two all rows of a head would fall into the same few cache lines.
    k: Host,
    /// `[sequences, heads, slots, head_dim]`.
    v: Host,
    slots: usize,
    stride: usize,
}

/// Columns of the key cache for a number of slots.
fn stride(slots: usize) -> usize {
    slots.next_multiple_of(16) + 16
}

/// Bytes of a block's cache; as many as there are where the count does not fit.
pub(super) fn cache_bytes(layout: &Layout, heads: Heads) -> u64 {
    let columns = (stride(layout.slots) as u64).saturating_add(layout.slots as u64);
    (layout.sequences as u64)
        .saturating_mul(heads.hidden() as u64)
        .saturating_mul(columns)
        .saturating_mul(4)
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(super) fn new(layout: &Layout, heads: Heads) -> Result<Self, EngineError> {
        let Layout {
            sequences, slots, ..
        } = *layout;
        let Heads {
            heads: count,
            head_dim,
        } = heads;
        let stride = stride(slots);
        let purpose = MemoryUse::Batch { sequences, slots };
        Ok(Self {
            heads,
            k: Host::zeros(purpose, [sequences, count, head_dim, stride])?,
            v: Host::zeros(purpose, [sequences, count, slots, head_dim])?,
            slots,
            stride,
        })
    }

    /// Writes the rows' keys and values, `[rows, d]` each, to their slots.
    pub(super) fn scatter(&mut self, rows: &[Row], k: &[f32], v: &[f32]) {
        let Heads { heads, head_dim } = self.heads;
        let hidden = self.heads.hidden();
        let (slots, stride) = (self.slots, self.stride);
        let cache = self.k.values();
        for (row, k) in rows.iter().zip(k.chunks_exact(hidden)) {
            let first = row.sequence as usize * hidden * stride + row.slot as usize;
            for (i, &k) in k.iter().enumerate() {
                cache[first + i * stride] = k;
            }
        }
        let cache = self.v.values();
        for (row, v) in rows.iter().zip(v.chunks_exact(hidden)) {
            for (head, v) in v.chunks_exact(head_dim).enumerate() {
                let at =
                    ((row.sequence as usize * heads + head) * slots + row.slot as usize) * head_dim;
                cache[at..at + head_dim].copy_from_slice(v);
            }
        }
    }

    /// softmax(q kT) v of the rows of `spans`; `q` is scaled already. `k` and `v` are the rows' own. All are `[rows, d]`, as is
    /// what comes back, in the zeros of `out`.
    pub(super) fn attend(
        &self,
        rows: &[Row],
        spans: &[Span],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        mut out: Vec<f32>,
    ) -> Vec<f32> {
        let Heads { heads, head_dim } = self.heads;
        let hidden = self.heads.hidden();
        for span in spans {
            let n = span.rows;
            // Index of the row, and where its head's columns stand in [rows, d].
            let place = |group: usize, i: usize| {
                let row = span.first + group / heads * n + i;
                let at = row * hidden + group % heads * head_dim;
                (row, at..at + head_dim)
            };
            let groups = span.sequences * heads;
            let places = || (0..groups).flat_map(|group| (0..n).map(move |i| place(group, i)));
            // A row outside its own prefix attends to itself as well: its score, later its weight.
            let mut own: Vec<Option<f32>> = places()
                .map(|(row, at)| {
                    let outside = rows[row].slot >= rows[row].prefix;
                    outside.then(|| math::dot(&q[at.clone()], &k[at]))
                })
                .collect();
            let attended = if span.prefix == 0 {
                own.fill(Some(1.0));
                None
            } else {
                let q: Vec<f32> = places().flat_map(|(_, at)| &q[at]).copied().collect();
                let q = TensorData::new(q, [span.sequences, heads, n, head_dim]);
                let mut scores = matmul(FlexTensor::from_data(q), self.keys(span)).into_data();
                let mut parts: Vec<(&mut [f32], &mut [Option<f32>])> = floats(&mut scores)
                    .chunks_exact_mut(n * span.prefix)
                    .zip(own.chunks_exact_mut(n))
                    .collect();
                math::for_chunks(&mut parts, 1, groups * n * span.prefix, |group, part| {
                    let (scores, own) = &mut part[0];
                    for (i, (scores, own)) in scores
                        .chunks_exact_mut(span.prefix)
                        .zip(own.iter_mut())
                        .enumerate()
                    {
                        softmax(scores, rows[place(group, i).0].prefix as usize, own);
                    }
                });
                drop(parts);
                Some(matmul(FlexTensor::from_data(scores), self.values(span)).into_data())
            };
            let attended = attended
                .as_ref()
                .map_or(&[][..], |data| data.as_slice::<f32>().unwrap_or_default());
            for ((_, at), part) in places().zip(attended.chunks_exact(head_dim)) {
                out[at].copy_from_slice(part);
            }
            for ((_, at), weight) in places().zip(&own) {
                if let Some(weight) = weight {
                    out[at.clone()]
                        .iter_mut()
                        .zip(&v[at])
                        .for_each(|(out, v)| *out += weight * v);
                }
            }
        }
        out
    }

    /// `[sequences, heads, head_dim, prefix]` of a span.
    fn keys(&self, span: &Span) -> FlexTensor {
        self.k
            .0
            .narrow(0, span.sequence, span.sequences)
            .narrow(3, 0, span.prefix)
    }

    /// `[sequences, heads, prefix, head_dim]` of a span.
    fn values(&self, span: &Span) -> FlexTensor {
        self.v
            .0
            .narrow(0, span.sequence, span.sequences)
            .narrow(2, 0, span.prefix)
    }
}

/// Softmax over the first `prefix` scores and the row's own, if it stands outside; what lies beyond the prefix gets no weight.
fn softmax(scores: &mut [f32], prefix: usize, own: &mut Option<f32>) {
    let (seen, beyond) = scores.split_at_mut(prefix);
    let top = math::max(seen, own.unwrap_or(f32::MIN));
    let mut sum = math::exp_sum(seen, top);
    if let Some(own) = own {
        *own = math::exp_one(*own - top);
        sum += *own;
    }
    let scale = 1.0 / sum;
    seen.iter_mut()
        .chain(own)
        .for_each(|weight| *weight *= scale);
    beyond.fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use esolm_core::rng::{Purpose, Stream};
    use esolm_core::rows::NO_TARGET;

    const HEADS: Heads = Heads {
        heads: 3,
        head_dim: 8,
    };

    fn numbers(random: &mut Stream, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| (random.uniform() * 4.0 - 2.0) as f32)
            .collect()
    }

    /// softmax(q kT) v of one row and head in f64 over all keys and values written so far, `[sequences][slots]` of `[d]`.
    fn naive(
        row: &Row,
        head: usize,
        q: &[f32],
        k: &[Vec<Vec<f32>>],
        v: &[Vec<Vec<f32>>],
    ) -> Vec<f64> {
        let columns = head * HEADS.head_dim..(head + 1) * HEADS.head_dim;
        let sequence = row.sequence as usize;
        let mut slots: Vec<usize> = (0..row.prefix as usize).collect();
        if row.slot >= row.prefix {
            slots.push(row.slot as usize);
        }
        let weight = |slot: &usize| {
            let k = &k[sequence][*slot][columns.clone()];
            let q = &q[columns.clone()];
            q.iter()
                .zip(k)
                .map(|(&q, &k)| f64::from(q) * f64::from(k))
                .sum::<f64>()
                .exp()
        };
        let sum: f64 = slots.iter().map(weight).sum();
        columns
            .clone()
            .map(|c| {
                let terms = slots
                    .iter()
                    .map(|slot| weight(slot) * f64::from(v[sequence][*slot][c]));
                terms.sum::<f64>() / sum
            })
            .collect()
    }

    #[test]
    fn any_rows_attend_as_told() {
        for seed in 0..40 {
            let mut random = Stream::new(seed, 0, Purpose::Other(0));
            let mut below = |n: usize| random.below(n as u32) as usize;
            let (sequences, slots) = (1 + below(4), 1 + below(150));
            let layout = Layout {
                sequences,
                slots,
                tokens: 0,
            };
            let mut cache = Cache::new(&layout, HEADS).expect("a little memory");
            let hidden = HEADS.hidden();
            let empty = vec![vec![vec![0.0; hidden]; slots]; sequences];
            let (mut all_k, mut all_v) = (empty.clone(), empty);
            // Some passes over the same cache; each writes slots in any order and any number of them.
            for _ in 0..3 {
                let in_step = random.below(2) == 0;
                let count = random.below(slots as u32 + 1) as usize;
                let mut rows = Vec::new();
                for sequence in 0..sequences {
                    let count = if in_step {
                        count
                    } else {
                        random.below(slots as u32 + 1) as usize
                    };
                    let mut order: Vec<u32> = (0..slots as u32).collect();
                    random.shuffle(&mut order);
                    let common = random.below(slots as u32 + 1);
                    rows.extend(order[..count].iter().map(|&slot| Row {
                        sequence: sequence as u32,
                        slot,
                        position: slot,
                        prefix: if in_step {
                            common
                        } else {
                            random.below(slots as u32 + 1)
                        },
                        source: 0,
                        target: NO_TARGET,
                    }));
                }
                let [q, k, v] = [(); 3].map(|()| numbers(&mut random, rows.len() * hidden));
                for (i, row) in rows.iter().enumerate() {
                    let at = i * hidden..(i + 1) * hidden;
                    all_k[row.sequence as usize][row.slot as usize] = k[at.clone()].to_vec();
                    all_v[row.sequence as usize][row.slot as usize] = v[at].to_vec();
                }
                cache.scatter(&rows, &k, &v);
                let zeros = vec![0.0; rows.len() * hidden];
                let out = cache.attend(&rows, &spans(&rows), &q, &k, &v, zeros);
                for (i, row) in rows.iter().enumerate() {
                    for head in 0..HEADS.heads {
                        let want =
                            naive(row, head, &q[i * hidden..(i + 1) * hidden], &all_k, &all_v);
                        let got = &out[i * hidden + head * HEADS.head_dim..][..HEADS.head_dim];
                        for (got, want) in got.iter().zip(want) {
                            let error = (f64::from(*got) - want).abs();
                            assert!(
                                error < 2e-5,
                                "seed {seed}, row {i} {row:?}: {got}, want {want}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_cache_is_written_in_place() {
        let purpose = MemoryUse::Logits { rows: 0 };
        let mut host = Host::zeros(purpose, [2, 3, 4, 5]).expect("a little memory");
        let mut places = Vec::new();
        for value in 0..3 {
            let values = host.values();
            places.push(values.as_ptr() as usize);
            values[7] = value as f32;
            let view = host.0.narrow(0, 1, 1).narrow(3, 0, 2);
            let _ = matmul(view.clone(), view.transpose(2, 3)).into_data();
        }
        assert!(places.iter().all(|&place| place == places[0]), "{places:?}");
    }
}
