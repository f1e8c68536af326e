//! Prefix attention over the kv_cache of one block.
//!
//! Products are Burn's; the softmax between them is a loop over host memory, since each row has a prefix of its own, for which
//! Burn's operations would need a dense mask and three passes over the scores.

use burn::tensor::{Device, Tensor, TensorData};
use esolm_core::rows::{Layout, Row};

use super::math;

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

/// A tensor in host memory that is written in place between products. As long as no other handle is alive, Flex hands its memory
/// over and takes it back without a copy.
struct Host(Tensor<4>);

impl Host {
    fn zeros(shape: [usize; 4], device: &Device) -> Self {
        let values = vec![0.0f32; shape.iter().product()];
        Self(Tensor::from_data(TensorData::new(values, shape), device))
    }

    fn write(&mut self, device: &Device, f: impl FnOnce(&mut [f32])) {
        self.0.inplace(|tensor| {
            let mut data = tensor.into_data();
            f(floats(&mut data));
            Tensor::from_data(data, device)
        });
    }

    /// Another handle to the same memory, to be dropped before the next write.
    fn view(&self) -> Tensor<4> {
        self.0.clone()
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
    device: Device,
}

/// Columns of the key cache for a number of slots.
fn stride(slots: usize) -> usize {
    slots.next_multiple_of(16) + 16
}

/// Bytes of a block's cache, if that fits a word.
pub(super) fn cache_bytes(layout: &Layout, heads: Heads) -> Option<usize> {
    let slots = layout.slots.checked_mul(2)?.checked_add(32)?;
    layout
        .sequences
        .checked_mul(heads.hidden())?
        .checked_mul(slots)?
        .checked_mul(4)
}

impl Cache {
    pub(super) fn new(layout: &Layout, heads: Heads, device: &Device) -> Self {
        let Layout {
            sequences, slots, ..
        } = *layout;
        let Heads {
            heads: count,
            head_dim,
        } = heads;
        let stride = stride(slots);
        Self {
            heads,
            k: Host::zeros([sequences, count, head_dim, stride], device),
            v: Host::zeros([sequences, count, slots, head_dim], device),
            slots,
            stride,
            device: device.clone(),
        }
    }

    /// Writes the rows' keys and values, `[rows, d]` each, to their slots.
    pub(super) fn scatter(&mut self, rows: &[Row], k: &[f32], v: &[f32]) {
        let Heads { heads, head_dim } = self.heads;
        let hidden = self.heads.hidden();
        let (slots, stride) = (self.slots, self.stride);
        self.k.write(&self.device, |cache| {
            for (row, k) in rows.iter().zip(k.chunks_exact(hidden)) {
                let first = row.sequence as usize * hidden * stride + row.slot as usize;
                for (i, &k) in k.iter().enumerate() {
                    cache[first + i * stride] = k;
                }
            }
        });
        self.v.write(&self.device, |cache| {
            for (row, v) in rows.iter().zip(v.chunks_exact(hidden)) {
                for (head, v) in v.chunks_exact(head_dim).enumerate() {
                    let at = ((row.sequence as usize * heads + head) * slots + row.slot as usize)
                        * head_dim;
                    cache[at..at + head_dim].copy_from_slice(v);
                }
            }
        });
    }

    /// softmax(q kT) v of the rows of `spans`; `q` is scaled already. `k` and `v` are the rows' own. All are `[rows, d]`, as is
    /// what comes back.
    pub(super) fn attend(
        &self,
        rows: &[Row],
        spans: &[Span],
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Vec<f32> {
        let Heads { heads, head_dim } = self.heads;
        let hidden = self.heads.hidden();
        let mut out = vec![0.0; rows.len() * hidden];
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
                let q = Tensor::from_data(
                    TensorData::new(q, [span.sequences, heads, n, head_dim]),
                    &self.device,
                );
                let mut scores = q.matmul(self.keys(span)).into_data();
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
                let weights = Tensor::<4>::from_data(scores, &self.device);
                Some(weights.matmul(self.values(span)).into_data())
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
    fn keys(&self, span: &Span) -> Tensor<4> {
        self.k
            .view()
            .narrow(0, span.sequence, span.sequences)
            .narrow(3, 0, span.prefix)
    }

    /// `[sequences, heads, prefix, head_dim]` of a span.
    fn values(&self, span: &Span) -> Tensor<4> {
        self.v
            .view()
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
