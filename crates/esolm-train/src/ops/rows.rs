//! Loops over rows: norm and GELU, with their gradients.

use esolm::cpu::math::{for_chunks, gelu_slope, sum, sum_of};

/// Values per task: enough to be worth a task, few enough to stay in a core's cache.
const CHUNK: usize = 1 << 14;

const EPSILON: f32 = 1e-5;

/// Mean of a row, and 1 / sqrt(var + eps).
fn moments(row: &[f32]) -> (f32, f32) {
    let width = row.len() as f32;
    let mean = sum(row) / width;
    let variance = sum_of(row, row, |v, _| (v - mean) * (v - mean)) / width;
    (mean, 1.0 / (variance + EPSILON).sqrt())
}

fn rows_at_once(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

/// `out` = (x - mean) / sqrt(var + eps) of each row.
pub fn normalise(x: &[f32], out: &mut [f32], width: usize) {
    let size = rows_at_once(width);
    for_chunks(out, size, x.len(), |i, out| {
        let x = &x[i * size..][..out.len()];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x);
            for (out, v) in out.iter_mut().zip(x) {
                *out = (v - mean) * scale;
            }
        }
    });
}

/// With y the normalised row: dx = scale (dy - mean(dy) - y mean(dy y)).
pub fn normalise_backward(x: &[f32], grad: &[f32], out: &mut [f32], width: usize) {
    let size = rows_at_once(width);
    for_chunks(out, size, x.len(), |i, out| {
        let x = &x[i * size..][..out.len()];
        let grad = &grad[i * size..][..out.len()];
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
        for ((x, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x);
            let grad_mean = sum(grad) / width as f32;
            let along = sum_of(grad, x, |g, v| g * (v - mean)) * scale / width as f32;
            for ((out, v), g) in out.iter_mut().zip(x).zip(grad) {
                *out = scale * (g - grad_mean - (v - mean) * scale * along);
            }
        }
    });
}

/// `out` = GELU(x).
pub fn gelu(x: &[f32], out: &mut [f32]) {
    for_chunks(out, CHUNK, x.len(), |i, out| {
        let x = &x[i * CHUNK..][..out.len()];
        for (out, &x) in out.iter_mut().zip(x) {
            *out = gelu_slope(x).0;
        }
    });
}

/// `out` = GELU'(x) grad.
pub fn gelu_backward(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for_chunks(out, CHUNK, x.len(), |i, out| {
        let x = &x[i * CHUNK..][..out.len()];
        let grad = &grad[i * CHUNK..][..out.len()];
        for ((out, &x), g) in out.iter_mut().zip(x).zip(grad) {
            *out = gelu_slope(x).1 * g;
        }
    });
}
