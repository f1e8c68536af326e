//! Rotary attention over prefixes, and its gradient.
//!
//! Every mask of the Eso-LM family is a prefix and a range around the row itself: row r of a sequence attends to the
//! leading `prefix[r]` context rows, and beyond them to the rows `own[r]`, which include itself. No mask is therefore
//! built on the CPU, and scores beyond a block's longest prefix are never computed. The scores are recomputed in the
//! backward pass, a block of rows at a time, so that they never leave a core's cache.

use std::ops::Range;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};
use esolm::cpu::math::{exp_sum, max, sum_of};
use gemm::Parallelism;
use rayon::prelude::*;

/// Rows whose scores are held at once.
const BLOCK: usize = 64;
/// Rows whose own ranges are computed together; divides [`BLOCK`].
const NEAR: usize = 16;
/// Score of excluded columns, as in [`esolm::network`].
const EXCLUDED: f32 = -1e30;

/// The rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of rows.
    pub rows: usize,
    /// How many of them, from the first on, are context that others may attend to.
    pub context: usize,
}

/// Which rows attend to which, and the rows' positions.
#[derive(Debug, Clone)]
pub struct Table {
    /// Number of heads.
    pub heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// The sequences, in the order of their rows.
    pub spans: Vec<Span>,
    /// `[R]`: number of leading context rows of its sequence that a row attends to.
    pub prefix: Vec<u32>,
    /// `[R]`: the rows of its sequence that it attends to beyond those, including itself; empty if it is within its
    /// prefix.
    pub own: Vec<[u32; 2]>,
    /// Cosines of the rotary angles, `[R, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// Sines of them.
    pub sin: Vec<f32>,
}

/// A matrix argument of [`product`]: values, and the strides between rows and between columns.
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

/// `out` `[m, n]` = `a` `[m, k]` `b` `[k, n]`, with rows of `out` `width` apart, added to the previous contents if
/// `add`; on the current thread.
fn product([m, n, k]: [usize; 3], out: &mut [f32], width: usize, add: bool, a: Matrix, b: Matrix) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        let rows = out.chunks_mut(width).take(if add { 0 } else { m });
        rows.for_each(|row| row[..n].fill(0.0));
        return;
    }
    assert!(n <= width && (m - 1) * width + n <= out.len());
    assert!(a.holds(m, k) && b.holds(k, n));
    // SAFETY: the assertions above keep every element that gemm touches inside the slices, and `out` is borrowed
    // exclusively.
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

/// The inputs of one sequence's rows.
struct Rows<'a> {
    table: &'a Table,
    context: usize,
    prefix: &'a [u32],
    own: &'a [[u32; 2]],
    cos: &'a [f32],
    sin: &'a [f32],
    qkv: &'a [f32],
}

impl Rows<'_> {
    fn count(&self) -> usize {
        self.prefix.len()
    }

    /// The rows spanned by the own ranges of some rows.
    fn near(&self, rows: Range<usize>) -> Range<usize> {
        let own = self.own[rows].iter().filter(|[start, end]| start < end);
        let (start, end) = own.fold((u32::MAX, 0), |(least, most), &[start, end]| {
            (least.min(start), most.max(end))
        });
        (start.min(end) as usize)..end as usize
    }

    /// The largest number of rows spanned by the own ranges of any [`NEAR`] rows.
    fn width(&self) -> usize {
        let starts = (0..self.count()).step_by(NEAR);
        let spans = starts.map(|first| self.near(first..(first + NEAR).min(self.count())).len());
        spans.max().unwrap_or(0)
    }

    /// The rows `first..first + n` in parts of [`NEAR`]: each part's rows, relative to `first`, and the rows spanned by
    /// their own ranges.
    fn parts(&self, first: usize, n: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..n).step_by(NEAR).map(move |start| {
            let part = start..(start + NEAR).min(n);
            let near = self.near(first + part.start..first + part.end);
            (part, near)
        })
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

    /// Longest prefix among the rows of a block.
    fn reach(&self, rows: Range<usize>) -> usize {
        let longest = self.prefix[rows].iter().max();
        longest.map_or(0, |&p| p as usize)
    }

    /// Attention probabilities of the rows `first..first + n`: `scores` `[n, reach]`, and `own` `[n, width]` for the
    /// rows spanned by the own ranges of their part.
    fn probabilities(
        &self,
        head: &Head,
        [first, n]: [usize; 2],
        reach: usize,
        scores: &mut [f32],
        own: &mut [f32],
        width: usize,
    ) {
        let dim = self.table.head_dim;
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
        for (part, near) in self.parts(first, n) {
            let keys = Matrix::new(&head.k[near.start * dim..], dim).transposed();
            product(
                [part.len(), near.len(), dim],
                &mut own[part.start * width..],
                width,
                false,
                Matrix::new(&q[part.start * dim..], dim),
                keys,
            );
            for i in part {
                let prefix = self.prefix[first + i] as usize;
                let (seen, unseen) = scores[i * reach..][..reach].split_at_mut(prefix);
                unseen.fill(0.0);
                let range = self.own[first + i].map(|row| row as usize);
                let beyond = &mut own[i * width..][..near.len()];
                let beyond = if range[0] < range[1] {
                    let [start, end] = range.map(|row| row - near.start);
                    beyond[..start].fill(0.0);
                    beyond[end..].fill(0.0);
                    &mut beyond[start..end]
                } else {
                    beyond.fill(0.0);
                    &mut beyond[..0]
                };
                let top = max(beyond, max(seen, EXCLUDED));
                let scale = 1.0 / (exp_sum(seen, top) + exp_sum(beyond, top));
                let all = seen.iter_mut().chain(beyond);
                all.for_each(|p| *p *= scale);
            }
        }
    }

    fn forward(&self, out: &mut [f32]) {
        let dim = self.table.head_dim;
        let d = self.table.heads * dim;
        let mut head = Head::default();
        let mut scores = vec![0.0; BLOCK * self.context];
        let width = self.width();
        let mut own = vec![0.0; BLOCK * width];
        for h in 0..self.table.heads {
            self.load(h, &mut head);
            for first in (0..self.count()).step_by(BLOCK) {
                let n = BLOCK.min(self.count() - first);
                let reach = self.reach(first..first + n);
                self.probabilities(&head, [first, n], reach, &mut scores, &mut own, width);
                let out = &mut out[first * d + h * dim..];
                let (p, v) = (Matrix::new(&scores, reach), Matrix::new(&head.v, dim));
                product([n, dim, reach], out, d, false, p, v);
                for (part, near) in self.parts(first, n) {
                    let p = Matrix::new(&own[part.start * width..], width);
                    let v = Matrix::new(&head.v[near.start * dim..], dim);
                    let out = &mut out[part.start * d..];
                    product([part.len(), dim, near.len()], out, d, true, p, v);
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
        let width = self.width();
        let [mut own, mut own_slopes] = [(); 2].map(|()| vec![0.0; BLOCK * width]);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0f32; rows * dim]);
        let mut dout = vec![0.0; BLOCK * dim];
        for h in 0..self.table.heads {
            self.load(h, &mut head);
            dk.fill(0.0);
            dv.fill(0.0);
            for first in (0..rows).step_by(BLOCK) {
                let n = BLOCK.min(rows - first);
                let reach = self.reach(first..first + n);
                self.probabilities(&head, [first, n], reach, &mut scores, &mut own, width);
                for (i, to) in dout.chunks_exact_mut(dim).enumerate().take(n) {
                    to.copy_from_slice(&grad[(first + i) * d + h * dim..][..dim]);
                }
                let douts = Matrix::new(&dout, dim);
                let values = Matrix::new(&head.v, dim).transposed();
                product([n, reach, dim], &mut slopes, reach, false, douts, values);
                let p = Matrix::new(&scores, reach).transposed();
                product([reach, dim, n], &mut dv, dim, true, p, douts);

                for (part, near) in self.parts(first, n) {
                    let douts = Matrix::new(&dout[part.start * dim..], dim);
                    let values = Matrix::new(&head.v[near.start * dim..], dim).transposed();
                    let to = &mut own_slopes[part.start * width..];
                    product(
                        [part.len(), near.len(), dim],
                        to,
                        width,
                        false,
                        douts,
                        values,
                    );
                    let p = Matrix::new(&own[part.start * width..], width).transposed();
                    let to = &mut dv[near.start * dim..];
                    product([near.len(), dim, part.len()], to, dim, true, p, douts);
                    for i in part {
                        let p = &scores[i * reach..][..reach];
                        let slopes = &mut slopes[i * reach..][..reach];
                        let own = &own[i * width..][..near.len()];
                        let own_slopes = &mut own_slopes[i * width..][..near.len()];
                        let mean = dot(p, slopes) + dot(own, own_slopes);
                        let all = slopes.iter_mut().zip(p);
                        for (slope, p) in all.chain(own_slopes.iter_mut().zip(own)) {
                            *slope = p * (*slope - mean);
                        }
                    }
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
                for (part, near) in self.parts(first, n) {
                    let at = (first + part.start) * dim;
                    let ds = Matrix::new(&own_slopes[part.start * width..], width);
                    let keys = Matrix::new(&head.k[near.start * dim..], dim);
                    product(
                        [part.len(), dim, near.len()],
                        &mut dq[at..],
                        dim,
                        true,
                        ds,
                        keys,
                    );
                    let to = &mut dk[near.start * dim..];
                    let q = Matrix::new(&head.q[at..], dim);
                    let ds = ds.transposed();
                    product([near.len(), dim, part.len()], to, dim, true, ds, q);
                }
            }
            self.store(h, [&dq, &dk, &dv], out);
        }
    }

    /// Rotates the gradients of one head back, and writes them to its columns of `[rows, 3d]`.
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

/// Rotates each pair (i, i + dim / 2) by its angle, times `scale`.
fn rotate(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        first[i] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
        second[i] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
    }
}

/// The transpose of [`rotate`].
fn rotate_back(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = cos.len();
    let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
    for i in 0..half {
        first[i] = (a[i] * cos[i] + b[i] * sin[i]) * scale;
        second[i] = (b[i] * cos[i] - a[i] * sin[i]) * scale;
    }
}

impl Table {
    /// Each sequence, with its part of an output whose rows are `width` wide.
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
                own: &self.own[first..][..span.rows],
                cos: &self.cos[first * half..][..span.rows * half],
                sin: &self.sin[first * half..][..span.rows * half],
                qkv: &qkv[first * columns..][..span.rows * columns],
            };
            all.push((rows, first, own));
            first += span.rows;
        }
        all
    }

    /// Computes `out` `[R, d]` from `qkv` `[R, 3d]`.
    pub fn forward(&self, qkv: &[f32], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        self.sequences(qkv, out, width)
            .into_par_iter()
            .for_each(|(rows, _, out)| rows.forward(out));
    }

    /// Computes the gradient of `qkv` from `grad` `[R, d]`.
    pub fn backward(&self, qkv: &[f32], grad: &[f32], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        self.sequences(qkv, out, 3 * width)
            .into_par_iter()
            .for_each(|(rows, first, out)| {
                let grad = &grad[first * width..][..rows.count() * width];
                rows.backward(grad, out);
            });
    }

    /// Consecutive sequences of the same shape: number of sequences, their shape, first row.
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

/// The same with Burn's operations. Sequences of the same shape are batched: scores are `[B, heads, rows, context +
/// 1]`, where the last column is a row's own if its prefix does not include it, or `[B, heads, rows, rows]` if own
/// ranges have more than one row. The mask is broadcast over the heads.
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
        let own = &table.own[first..][..all];
        if own.iter().any(|[start, end]| end - start > 1) {
            let excluded: Vec<bool> = (prefix.iter().zip(own))
                .flat_map(|(&prefix, &[start, end])| {
                    (0..rows as u32).map(move |c| c >= prefix && !(start..end).contains(&c))
                })
                .collect();
            let data = TensorData::new(excluded, [batch, 1, rows, rows]);
            let excluded = Tensor::<4, Bool>::from_data(data, device);
            let excluded = excluded.expand([batch, heads, rows, rows]);
            let scores = q.matmul(k.swap_dims(2, 3)).mask_fill(excluded, EXCLUDED);
            let out = softmax(scores, 3).matmul(v);
            return out.swap_dims(1, 2).reshape([all, width]);
        }
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
