//! Rotary position embedding.

use esolm_core::config::rotary_frequencies;
use esolm_core::rows::Row;

/// Cosines and sines of each row's rotary angles, `[rows, head_dim / 2]`.
#[derive(Default)]
pub(super) struct Rotary {
    frequencies: Vec<f32>,
    /// Cosine and sine.
    turns: Vec<(f32, f32)>,
}

impl Rotary {
    /// Computes the angles for the positions of `rows`, with frequencies derived from `base`.
    pub(super) fn fill(&mut self, rows: &[Row], head_dim: usize, base: f64) {
        self.frequencies.clear();
        self.frequencies.extend(rotary_frequencies(head_dim, base));
        self.turns.clear();
        self.turns.reserve_exact(rows.len() * head_dim / 2);
        for row in rows {
            let position = row.position as f32;
            self.turns.extend(self.frequencies.iter().map(|f| {
                let (sin, cos) = (position * f).sin_cos();
                (cos, sin)
            }));
        }
    }

    /// Rotates each pair (i, i + head_dim / 2) of a row's head.
    pub(super) fn turn(&self, row: usize, head: &mut [f32]) {
        let half = head.len() / 2;
        let (a, b) = head.split_at_mut(half);
        let turns = &self.turns[row * half..(row + 1) * half];
        for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
