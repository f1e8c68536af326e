//! The residual stream, `[panels, rows, 64]` as products leave it, and the inputs of the next product derived from it.

use esolm_core::quantise::GROUP;

use super::attention::Heads;
use super::inputs::Source;
use super::level::{Level, Work};
use super::math;
use super::packed::PANEL;
use super::shape::Norm;
use super::simd::Simd;

/// Rows per task of [`moments`].
const SHARE: usize = 8;

/// Padded columns of a row of `width` columns.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(PANEL)
}

/// `[panels, rows, 64]`, zero-padded after a row's last column.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
}

impl<'a> Panels<'a> {
    /// The columns from `first` to the end of their panel.
    #[inline(always)]
    fn from(&self, row: usize, first: usize) -> &'a [f32] {
        let at = (first / PANEL * self.rows + row) * PANEL;
        &self.values[at + first % PANEL..at + PANEL]
    }

    /// Fills `to` with columns from `first` on.
    #[inline(always)]
    pub(super) fn copy(&self, row: usize, first: usize, to: &mut [f32]) {
        let mut done = 0;
        while done < to.len() {
            let part = self.from(row, first + done);
            let count = part.len().min(to.len() - done);
            to[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
    }
}

impl Source for Panels<'_> {
    #[inline(always)]
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
        to.copy_from_slice(&self.from(row, group * GROUP)[..GROUP]);
    }
}

/// Writes a row of `[panels, rows, 64]`.
pub(super) fn write_row(values: &mut [f32], rows: usize, row: usize, from: &[f32]) {
    for (panel, from) in from.chunks(PANEL).enumerate() {
        let to = &mut values[(panel * rows + row) * PANEL..][..PANEL];
        to[..from.len()].copy_from_slice(from);
        to[from.len()..].fill(0.0);
    }
}

/// Keeps only the rows in `kept`, ascending, of the `rows` rows of `[parts, rows, width]`, and compacts them.
pub(super) fn keep(values: &mut [f32], rows: usize, width: usize, kept: &[u32]) {
    if rows == 0 {
        return;
    }
    for part in 0..values.len() / (rows * width) {
        for (to, &from) in kept.iter().enumerate() {
            let from = (part * rows + from as usize) * width;
            values.copy_within(from..from + width, (part * kept.len() + to) * width);
        }
    }
}

/// What a norm needs from a row: its centre and the reciprocal of its spread. These are the mean and standard
/// deviation, or zero and the root mean square.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    mean: f32,
    scale: f32,
}

/// Normalised rows of `width` columns, minus a centre.
pub(super) struct Normed<'a> {
    pub(super) x: Panels<'a>,
    pub(super) width: usize,
    /// Moments of the rows from `first` on, which is the source's first row.
    pub(super) moments: &'a [Moments],
    pub(super) first: usize,
    /// See [`super::centre`]: one value per column of the groups, or none.
    pub(super) centre: &'a [f32],
}

impl Source for Normed<'_> {
    #[inline(always)]
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
        let Moments { mean, scale } = self.moments[row];
        let x = &self.x.from(self.first + row, group * GROUP)[..GROUP];
        for (to, x) in to.iter_mut().zip(x) {
            *to = (x - mean) * scale;
        }
        if !self.centre.is_empty() {
            let centre = &self.centre[group * GROUP..(group + 1) * GROUP];
            for (to, centre) in to.iter_mut().zip(centre) {
                *to -= centre;
            }
        }
        let filled = self.width - group * GROUP;
        if filled < GROUP {
            to[filled..].fill(0.0);
        }
    }
}

/// Normalised rows, times a factor per column, minus a centre.
pub(super) struct Scaled<'a> {
    /// Must have no centre of its own.
    pub(super) normed: Normed<'a>,
    /// One factor per column of the groups.
    pub(super) scale: &'a [f32],
    /// The centre, subtracted last: one value per column of the groups, or none.
    pub(super) centre: &'a [f32],
}

impl Source for Scaled<'_> {
    #[inline(always)]
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
        self.normed.read(row, group, to);
        for (to, scale) in to.iter_mut().zip(&self.scale[group * GROUP..]) {
            *to *= scale;
        }
        for (to, centre) in to.iter_mut().zip(self.centre.iter().skip(group * GROUP)) {
            *to -= centre;
        }
    }
}

/// Gated outputs in the panels of a product, `[panels, rows, 64]`: the first half of each panel, which is one group.
pub(super) struct Gated<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
}

impl Source for Gated<'_> {
    #[inline(always)]
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
        let at = (group * self.rows + row) * PANEL;
        to.copy_from_slice(&self.values[at..at + GROUP]);
    }
}

/// Computes `moments` for the rows of `x` from `first` on.
pub(super) fn moments(x: Panels, norm: Norm, width: usize, first: usize, moments: &mut [Moments]) {
    let work = moments.len() * width * 2;
    math::for_chunks(moments, SHARE, work, |share, to| {
        Level::best().run(Measure {
            x,
            norm,
            width,
            first: first + share * SHARE,
            to,
        });
    });
}

struct Measure<'a> {
    x: Panels<'a>,
    norm: Norm,
    width: usize,
    first: usize,
    to: &'a mut [Moments],
}

impl Work for Measure<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        match self.norm {
            Norm::Layer => self.layer(),
            Norm::Rms { eps } => self.rms(eps),
        }
    }
}

impl Measure<'_> {
    #[inline(always)]
    fn rms(self, eps: f32) {
        let count = self.width as f32;
        for (row, to) in self.to.iter_mut().enumerate() {
            let mut squares = 0.0;
            for first in (0..self.width).step_by(PANEL) {
                // Columns after the last are zeros.
                let x = self.x.from(self.first + row, first);
                squares += math::sum_of(x, x, |a, b| a * b);
            }
            *to = Moments {
                mean: 0.0,
                scale: inverse_root(squares / count, eps),
            };
        }
    }

    #[inline(always)]
    fn layer(self) {
        let count = self.width as f32;
        for (row, to) in self.to.iter_mut().enumerate() {
            let mut sum = 0.0;
            for first in (0..self.width).step_by(PANEL) {
                sum += math::sum(self.x.from(self.first + row, first));
            }
            let mean = sum / count;
            let mut squares = 0.0;
            for first in (0..self.width).step_by(PANEL) {
                let x = self.x.from(self.first + row, first);
                let x = &x[..PANEL.min(self.width - first)];
                squares += math::sum_of(x, x, |a, b| (a - mean) * (b - mean));
            }
            *to = Moments {
                mean,
                scale: inverse_root(squares / count, 1e-5),
            };
        }
    }
}

/// 1 / sqrt(square + eps).
#[inline(always)]
pub(super) fn inverse_root(square: f32, eps: f32) -> f32 {
    // If the squares overflow, 1 / infinity would yield plausible zeros.
    match square.is_finite() {
        true => 1.0 / (square + eps).sqrt(),
        false => f32::NAN,
    }
}

/// Rows of heads `[heads, rows, wide]`, joined; only the first `head_dim` columns of each head are used.
pub(super) struct Joined<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    /// The source's first row.
    pub(super) first: usize,
    pub(super) heads: Heads,
}

impl Source for Joined<'_> {
    #[inline(always)]
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
        let Heads {
            heads, head_dim, ..
        } = self.heads;
        let wide = self.heads.wide();
        let mut done = 0;
        while done < GROUP {
            let column = group * GROUP + done;
            let (head, first) = (column / head_dim, column % head_dim);
            if head >= heads {
                to[done..].fill(0.0);
                return;
            }
            let count = (head_dim - first).min(GROUP - done);
            let at = (head * self.rows + self.first + row) * wide + first;
            to[done..done + count].copy_from_slice(&self.values[at..at + count]);
            done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_whose_squares_overflow_is_not_a_number() {
        let mut values = vec![0.0; 2 * PANEL];
        write_row(&mut values, 2, 0, &[1e25, -1e25, 0.0, 1.0]);
        write_row(&mut values, 2, 1, &[1.0, -1.0, 1.0, -1.0]);
        let x = Panels {
            values: &values,
            rows: 2,
        };
        let mut both = [Moments::default(); 2];
        moments(x, Norm::Layer, 4, 0, &mut both);
        let normed = Normed {
            x,
            width: 4,
            moments: &both,
            first: 0,
            centre: &[],
        };
        let mut row = [[0.0; GROUP]; 2];
        normed.read(0, 0, &mut row[0]);
        normed.read(1, 0, &mut row[1]);
        assert!(row[0][..4].iter().all(|x| x.is_nan()), "{row:?}");
        let near = |x: &f32| (x.abs() - 1.0).abs() < 1e-4;
        assert!(row[1][..4].iter().all(near), "{row:?}");
        assert!(row.iter().all(|row| row[4..] == [0.0; GROUP - 4]));
    }

    #[test]
    fn kept_rows_move_together() {
        // Three parts of four rows of two values.
        let mut values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        keep(&mut values, 4, 2, &[1, 3]);
        let kept = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23].map(|i| i as f32);
        assert_eq!(values[..12], kept);
    }
}
