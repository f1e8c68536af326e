//! Rotary attention over prefixes, and its gradient.
//!
//! Every mask of the Eso-LM family is a prefix and the own slot: row r of a sequence attends to the leading `prefix[r]` context rows,
//! and to itself. So no mask is built on the CPU, and scores beyond a block's longest prefix are never computed. The scores are
//! computed again in the backward pass, a block of rows at a time, so that they never leave a core's cache.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};
use esolm::cpu::math::{exp_sum, max, sum_of};
use gemm::Parallelism;
use rayon::prelude::*;

/// Rows whose scores are held at once.
const BLOCK: usize = 64;
/// Score of what may not be attended, as in [`esolm::network`].
const EXCLUDED: f32 = -1e30;

/// The rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of rows.
    pub rows: usize,
    /// How many of them, the first ones, are context that others may attend to.
    pub context: usize,
}

/// Who attends to whom, and where everyone stands.
#[derive(Debug, Clone)]
pub struct Table {
    /// Number of heads.
    pub heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// The sequences, in the order of their rows.
    pub spans: Vec<Span>,
    /// `[R]`: how many leading context rows of its sequence a row attends to, beside itself.
    pub prefix: Vec<u32>,
    /// Cosines of the rotary angles, `[R, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// Sines of them.
    pub sin: Vec<f32>,
}

/// A matrix of [`product`]: values with the steps between rows and between columns.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            row: width,
            column: 1,
        }
    }

    fn transposed(self) -> Self {
        Self {
            values: self.values,
            row: self.column,
            column: self.row,
        }
    }

    fn holds(self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// `out` `[m, n]`, rows `width` apart, = `a` `[m, k]` `b` `[k, n]`, added to what is there where `add`; on this thread.
fn product([m, n, k]: [usize; 3], out: &mut [f32], width: usize, add: bool, a: Matrix, b: Matrix) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= width && (m - 1) * width + n <= out.len());
    assert!(a.holds(m, k) && b.holds(k, n));
    // SAFETY: the assertions above keep every element that gemm touches inside the slices, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            width as isize,
            add,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// One head of one sequence: rotated queries (scaled) and keys, and values, `[rows, head_dim]` each.
#[derive(Default)]
struct Head {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// What one sequence's rows read.
struct Rows<'a> {
    table: &'a Table,
    context: usize,
    prefix: &'a [u32],
    cos: &'a [f32],
    sin: &'a [f32],
    qkv: &'a [f32],
}

impl Rows<'_> {
    fn count(&self) -> usize {
        self.prefix.len()
    }

    /// Whether a row attends to itself beside its prefix.
    fn own(&self, row: usize) -> bool {
        row >= self.prefix[row] as usize
    }

    fn load(&self, head: usize, into: &mut Head) {
        let dim = self.table.head_dim;
        let d = self.table.heads * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        into.v.clear();
        for values in [&mut into.q, &mut into.k] {
            values.resize(self.count() * dim, 0.0);
        }
        for (r, qkv) in self.qkv.chunks_exact(3 * d).enumerate() {
            let half = dim / 2;
            let cos = &self.cos[r * half..][..half];
            let sin = &self.sin[r * half..][..half];
            let at = head * dim;
            rotate(
                &qkv[at..][..dim],
                cos,
                sin,
                scale,
                &mut into.q[r * dim..][..dim],
            );
            rotate(
                &qkv[d + at..][..dim],
                cos,
                sin,
                1.0,
                &mut into.k[r * dim..][..dim],
            );
            into.v.extend_from_slice(&qkv[2 * d + at..][..dim]);
        }
    }

    /// Longest prefix among rows of a block.
    fn reach(&self, rows: std::ops::Range<usize>) -> usize {
        let longest = self.prefix[rows].iter().max();
        longest.map_or(0, |&p| p as usize)
    }

    /// Attention probabilities of the rows `first..first + n`: `scores` `[n, reach]`, and of each row for itself in `own` `[n]`,
    /// zero where its prefix holds it.
    fn probabilities(
        &self,
        head: &Head,
        first: usize,
        reach: usize,
        scores: &mut [f32],
        own: &mut [f32],
    ) {
        let dim = self.table.head_dim;
        let n = own.len();
        let q = &head.q[first * dim..][..n * dim];
        let keys = Matrix::new(&head.k, dim).transposed();
        product(
            [n, reach, dim],
            scores,
            reach,
            false,
            Matrix::new(q, dim),
            keys,
        );
        for (i, own) in own.iter_mut().enumerate() {
            let row = first + i;
            let prefix = self.prefix[row] as usize;
            let (seen, unseen) = scores[i * reach..][..reach].split_at_mut(prefix);
            unseen.fill(0.0);
            let mut top = max(seen, EXCLUDED);
            let own_score = if self.own(row) {
                let score = dot(&q[i * dim..][..dim], &head.k[row * dim..][..dim]);
                top = top.max(score);
                score
            } else {
                EXCLUDED
            };
            let mut total = exp_sum(seen, top);
            *own = if self.own(row) {
                (own_score - top).exp()
            } else {
                0.0
            };
            total += *own;
            let scale = 1.0 / total;
            *own *= scale;
            seen.iter_mut().for_each(|p| *p *= scale);
        }
    }

    fn forward(&self, out: &mut [f32]) {
        let dim = self.table.head_dim;
        let d = self.table.heads * dim;
        let mut head = Head::default();
        let mut scores = vec![0.0; BLOCK * self.context];
        let mut own = [0.0; BLOCK];
        for h in 0..self.table.heads {
            self.load(h, &mut head);
            for first in (0..self.count()).step_by(BLOCK) {
                let n = BLOCK.min(self.count() - first);
                let reach = self.reach(first..first + n);
                let own = &mut own[..n];
                self.probabilities(&head, first, reach, &mut scores, own);
                let out = &mut out[first * d + h * dim..];
                let (p, v) = (Matrix::new(&scores, reach), Matrix::new(&head.v, dim));
                product([n, dim, reach], out, d, false, p, v);
                for (i, &own) in own.iter().enumerate().filter(|(_, own)| **own > 0.0) {
                    let v = &head.v[(first + i) * dim..][..dim];
                    for (out, v) in out[i * d..][..dim].iter_mut().zip(v) {
                        *out += own * v;
                    }
                }
            }
        }
    }

    /// With P the probabilities and dP = dO V^T: dS = P (dP - rowsum(P dP)), dQ = dS K, dK = dS^T Q, dV = P^T dO.
    fn backward(&self, grad: &[f32], out: &mut [f32]) {
        let dim = self.table.head_dim;
        let d = self.table.heads * dim;
        let rows = self.count();
        let mut head = Head::default();
        let mut scores = vec![0.0; BLOCK * self.context];
        let mut slopes = vec![0.0; BLOCK * self.context];
        let mut own = [0.0; BLOCK];
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0f32; rows * dim]);
        let mut dout = vec![0.0; BLOCK * dim];
        for h in 0..self.table.heads {
            self.load(h, &mut head);
            dk.fill(0.0);
            dv.fill(0.0);
            for first in (0..rows).step_by(BLOCK) {
                let n = BLOCK.min(rows - first);
                let reach = self.reach(first..first + n);
                let own = &mut own[..n];
                self.probabilities(&head, first, reach, &mut scores, own);
                for (i, to) in dout.chunks_exact_mut(dim).enumerate().take(n) {
                    to.copy_from_slice(&grad[(first + i) * d + h * dim..][..dim]);
                }
                let douts = Matrix::new(&dout, dim);
                let values = Matrix::new(&head.v, dim).transposed();
                product([n, reach, dim], &mut slopes, reach, false, douts, values);
                let p = Matrix::new(&scores, reach).transposed();
                product([reach, dim, n], &mut dv, dim, true, p, douts);

                let mut own_slopes = [0.0; BLOCK];
                for (i, own_slope) in own_slopes.iter_mut().enumerate().take(n) {
                    let row = first + i;
                    let p = &scores[i * reach..][..reach];
                    let slopes = &mut slopes[i * reach..][..reach];
                    let to = &dout[i * dim..][..dim];
                    let own_gain = dot(to, &head.v[row * dim..][..dim]);
                    let mean = dot(p, slopes) + own[i] * own_gain;
                    for (slope, p) in slopes.iter_mut().zip(p) {
                        *slope = p * (*slope - mean);
                    }
                    *own_slope = own[i] * (own_gain - mean);
                }
                let ds = Matrix::new(&slopes, reach);
                let q = Matrix::new(&head.q[first * dim..], dim);
                let block = &mut dq[first * dim..][..n * dim];
                product(
                    [n, dim, reach],
                    block,
                    dim,
                    false,
                    ds,
                    Matrix::new(&head.k, dim),
                );
                product([reach, dim, n], &mut dk, dim, true, ds.transposed(), q);
                for i in (0..n).filter(|&i| own[i] > 0.0) {
                    let at = (first + i) * dim;
                    for c in 0..dim {
                        dq[at + c] += own_slopes[i] * head.k[at + c];
                        dk[at + c] += own_slopes[i] * head.q[at + c];
                        dv[at + c] += own[i] * dout[i * dim + c];
                    }
                }
            }
            self.store(h, [&dq, &dk, &dv], out);
        }
    }

    /// Turns the gradients of one head back and puts them in their columns of `[rows, 3d]`.
    fn store(&self, head: usize, [dq, dk, dv]: [&[f32]; 3], out: &mut [f32]) {
        let dim = self.table.head_dim;
        let d = self.table.heads * dim;
        let half = dim / 2;
        let scale = 1.0 / (dim as f32).sqrt();
        let at = head * dim;
        for (r, out) in out.chunks_exact_mut(3 * d).enumerate() {
            let cos = &self.cos[r * half..][..half];
            let sin = &self.sin[r * half..][..half];
            let row = r * dim..(r + 1) * dim;
            rotate_back(&dq[row.clone()], cos, sin, scale, &mut out[at..][..dim]);
            rotate_back(&dk[row.clone()], cos, sin, 1.0, &mut out[d + at..][..dim]);
            out[2 * d + at..][..dim].copy_from_slice(&dv[row]);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |a, b| a * b)
}

/// Turns each pair (i, i + dim / 2) by its angle, times `scale`.
fn rotate(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        first[i] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
        second[i] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
    }
}

/// The transposed of [`rotate`].
fn rotate_back(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        first[i] = (a[i] * cos[i] + b[i] * sin[i]) * scale;
        second[i] = (b[i] * cos[i] - a[i] * sin[i]) * scale;
    }
}

impl Table {
    /// Each sequence with its part of an output whose rows are `width` wide.
    fn sequences<'a>(
        &'a self,
        qkv: &'a [f32],
        mut out: &'a mut [f32],
        width: usize,
    ) -> Vec<(Rows<'a>, usize, &'a mut [f32])> {
        let half = self.head_dim / 2;
        let columns = 3 * self.heads * self.head_dim;
        let mut first = 0;
        let mut all = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let (own, rest) = out.split_at_mut(span.rows * width);
            out = rest;
            let rows = Rows {
                table: self,
                context: span.context,
                prefix: &self.prefix[first..][..span.rows],
                cos: &self.cos[first * half..][..span.rows * half],
                sin: &self.sin[first * half..][..span.rows * half],
                qkv: &qkv[first * columns..][..span.rows * columns],
            };
            all.push((rows, first, own));
            first += span.rows;
        }
        all
    }

    /// `qkv` `[R, 3d]` to `out` `[R, d]`.
    pub fn forward(&self, qkv: &[f32], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        self.sequences(qkv, out, width)
            .into_par_iter()
            .for_each(|(rows, _, out)| rows.forward(out));
    }

    /// Gradient for `qkv` from `grad` `[R, d]`.
    pub fn backward(&self, qkv: &[f32], grad: &[f32], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        self.sequences(qkv, out, 3 * width)
            .into_par_iter()
            .for_each(|(rows, first, out)| {
                let grad = &grad[first * width..][..rows.count() * width];
                rows.backward(grad, out);
            });
    }

    /// Sequences of one form that follow each other: number of sequences, their form, first row.
    fn groups(&self) -> Vec<(usize, Span, usize)> {
        let mut groups: Vec<(usize, Span, usize)> = Vec::new();
        let mut row = 0;
        for &span in &self.spans {
            match groups.last_mut() {
                Some((count, form, _)) if *form == span => *count += 1,
                _ => groups.push((1, span, row)),
            }
            row += span.rows;
        }
        groups
    }
}

/// The same of Burn's operations: sequences of one form go together, `[B, heads, rows, context + 1]` scores, the last column being a
/// row's own where its prefix does not hold it. The mask is broadcast over the heads.
pub fn composed(qkv: Tensor<2>, table: &Table) -> Tensor<2> {
    let device = &qkv.device();
    let (heads, dim) = (table.heads, table.head_dim);
    let width = heads * dim;
    let half = dim / 2;
    let parts = table.groups().into_iter().map(|(batch, span, first)| {
        let Span { rows, context } = span;
        let all = batch * rows;
        let part = qkv.clone().narrow(0, first, all);
        // [3, B, heads, rows, dim]
        let part = part
            .reshape([batch, rows, 3, heads, dim])
            .permute([2, 0, 3, 1, 4]);
        let part = |i: usize| part.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let angles = |values: &[f32]| {
            let values = values[first * half..][..all * half].to_vec();
            Tensor::<4>::from_data(TensorData::new(values, [batch, 1, rows, half]), device)
        };
        let (cos, sin) = (angles(&table.cos), angles(&table.sin));
        let rotated = |x: Tensor<4>| {
            let a = x.clone().narrow(3, 0, half);
            let b = x.narrow(3, half, half);
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            Tensor::cat(vec![first, b * cos.clone() + a * sin.clone()], 3)
        };
        let (q, k, v) = (rotated(part(0)), rotated(part(1)), part(2));
        let q = q / (dim as f64).sqrt();

        let prefix = &table.prefix[first..][..all];
        let excluded: Vec<bool> = prefix
            .iter()
            .enumerate()
            .flat_map(|(i, &prefix)| {
                let prefix = prefix as usize;
                let own = i % rows >= prefix;
                (0..=context).map(move |c| if c < context { c >= prefix } else { !own })
            })
            .collect();
        let shape = [batch, 1, rows, context + 1];
        let excluded = Tensor::<4, Bool>::from_data(TensorData::new(excluded, shape), device);

        let seen_k = k.clone().narrow(2, 0, context);
        let seen_v = v.clone().narrow(2, 0, context);
        let own = (q.clone() * k).sum_dim(3);
        let scores = Tensor::cat(vec![q.matmul(seen_k.swap_dims(2, 3)), own], 3);
        let excluded = excluded.expand([batch, heads, rows, context + 1]);
        let p = softmax(scores.mask_fill(excluded, EXCLUDED), 3);
        let out = p.clone().narrow(3, 0, context).matmul(seen_v) + v * p.narrow(3, context, 1);
        out.swap_dims(1, 2).reshape([all, width])
    });
    Tensor::cat(parts.collect(), 0)
}
