//! How much work a launch does, and how one with too much is split. This is decided nowhere else.
//!
//! Drivers reset a device that does not answer for a while: Windows after two seconds of a submission, others after a few; and while a
//! launch runs, nothing else is drawn on the screen. So work is bounded twice: per launch by [`Limits::launch`], and per submission by
//! [`Limits::submit`].
//!
//! Work is counted in floating-point operations. Each byte read or written counts as [`BYTE`] operations, and a workgroup costs the
//! larger of its arithmetic and its traffic. The yardstick is a slow integrated GPU: 20 to 80 billion operations a second in a product,
//! and 5 to 20 GB a second from memory. It takes at most a quarter of a second for a launch, and one second for a submission.
//!
//! A launch is split between workgroups: each part runs a box of the grid and is given the box's first workgroup. A workgroup does the
//! same in any part, so the results are bit for bit those of a single launch.

/// Operations that a byte of memory traffic counts for.
pub const BYTE: u64 = 4;

/// Operations that a vocabulary entry counts for in one pass over a row of logits: its four bytes, which also covers an exponential.
pub const ENTRY: u64 = 4 * BYTE;

/// Most workgroups per grid dimension that WebGPU guarantees.
const MAX_GRID: u32 = 65_535;

/// The most that runs at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum work of a launch; a single workgroup is never split.
    pub launch: u64,
    /// Maximum work of a submission.
    pub submit: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            launch: 5_000_000_000,
            submit: 20_000_000_000,
        }
    }
}

/// The workgroups that a kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Workgroups in each dimension, without a limit.
    pub grid: [usize; 3],
    /// Most work of one workgroup.
    pub each: u64,
}

/// A part of an [`Extent`] that is one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first workgroup of the part.
    pub origin: [u32; 3],
    /// Workgroups in each dimension.
    pub grid: [u32; 3],
    /// Most work of the part.
    pub work: u64,
}

impl Extent {
    /// `count` workgroups in one dimension.
    pub fn line(count: usize, each: u64) -> Self {
        Self {
            grid: [count, 1, 1],
            each,
        }
    }

    /// Splits it into launches: as few as a limit of `most` work each allows, of about the same size, with every workgroup in exactly one.
    /// None if there is nothing to do.
    pub fn parts(&self, most: u64) -> impl Iterator<Item = Part> + use<> {
        let Self { grid, each } = *self;
        // Workgroups that a launch can still take; the last dimension is cut first, so that neighbours stay together.
        let mut left = (most / each.max(1)).max(1);
        let size = grid.map(|count| {
            let fit = left.min(u64::from(MAX_GRID)) as usize;
            let pieces = count.div_ceil(fit);
            let size = count.div_ceil(pieces.max(1)).max(1);
            left = (left / size as u64).max(1);
            size
        });
        let firsts = |d: usize| (0..grid[d]).step_by(size[d]);
        let [xs, ys, zs] = [0, 1, 2].map(firsts);
        zs.flat_map(move |z| {
            let xs = xs.clone();
            ys.clone()
                .flat_map(move |y| xs.clone().map(move |x| [x, y, z]))
        })
        .map(move |first| {
            let here = [0, 1, 2].map(|d| size[d].min(grid[d] - first[d]) as u32);
            Part {
                origin: first.map(|at| at as u32),
                grid: here,
                work: here.iter().map(|&n| u64::from(n)).product::<u64>() * each,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use esolm_core::sampler::Sampler;
    use esolm_core::sampler::kept::Filter;

    use super::*;
    use crate::adapter::AdapterKind;
    use crate::kernels::attention::{Geometry, rows_extent, split_extent};
    use crate::kernels::product::{Block, ProductVariant};
    use crate::kernels::{Precision, embed, heads, norm, reveal, sample, score};
    use crate::weights::Weights;

    fn workgroups(grid: &[usize; 3]) -> u64 {
        grid.iter().map(|&n| n as u64).product()
    }

    #[test]
    fn parts_hold_every_workgroup_once() {
        for grid in [
            [1, 1, 1],
            [7, 1, 1],
            [5, 3, 2],
            [1, 9, 4],
            [13, 1, 11],
            [0, 4, 4],
        ] {
            for each in [0, 1, 3, 1000] {
                for most in [1, 2, 3, 7, 10, 29, 3000, u64::MAX] {
                    let mut seen = HashSet::new();
                    for part in (Extent { grid, each }).parts(most) {
                        let [x, y, z] =
                            [0, 1, 2].map(|d: usize| part.origin[d]..part.origin[d] + part.grid[d]);
                        let count = x.len() * y.len() * z.len();
                        assert_eq!(part.work, count as u64 * each);
                        assert!(part.work <= most || count == 1, "{grid:?} {each} {most}");
                        for z in z {
                            for y in y.clone() {
                                let new = x.clone().all(|x| seen.insert([x, y, z]));
                                assert!(new, "{grid:?} {each} {most}: a workgroup runs twice");
                            }
                        }
                    }
                    assert_eq!(seen.len() as u64, workgroups(&grid));
                }
            }
        }
        // What fits one launch is not split; what exceeds a grid dimension is.
        assert_eq!(Extent::line(65_535, 1).parts(u64::MAX).count(), 1);
        assert_eq!(Extent::line(65_536, 1).parts(u64::MAX).count(), 2);
    }

    /// Every kernel of a pass of `rows` rows, in sequences of `length`, with logits of `sampled` rows held at once.
    fn pass(
        geometry: &Geometry,
        vocab: usize,
        rows: usize,
        length: usize,
        sampled: usize,
    ) -> Vec<(String, Extent)> {
        let hidden = geometry.width();
        let all_heads = geometry.heads + 2 * geometry.kv_heads;
        let mut all = vec![
            ("embed".to_string(), embed::extent(rows, hidden)),
            (
                "heads".into(),
                heads::extent(rows, all_heads, geometry.head_dim),
            ),
            ("norm".into(), norm::extent(rows, hidden)),
            (
                "attention in rows".into(),
                rows_extent(geometry, 64, rows.div_ceil(length), length, length),
            ),
            (
                "split attention".into(),
                split_extent(geometry, rows, geometry.slots),
            ),
            ("score".into(), score::extent(sampled, vocab)),
            ("suppress".into(), sample::suppress_extent(sampled, vocab)),
            (
                "reveal".into(),
                reveal::extent(rows.div_ceil(length), length),
            ),
        ];
        let both = Sampler {
            top_k: Some(50),
            top_p: Some(0.9),
            ..Sampler::default()
        };
        for filter in [None, Filter::new(&both)] {
            for source in [None, Some("SEEDED"), Some("GIVEN")] {
                let extent = sample::extent(sampled, vocab, source, filter.as_ref());
                all.push((format!("sample {source:?} {filter:?}"), extent));
            }
            let filter = filter.unwrap_or(Filter::all(1.0));
            let extent = reveal::confidence_extent(sampled, vocab, &filter);
            all.push((format!("confidence {filter:?}"), extent));
        }
        for variant in [
            ProductVariant::Rows,
            ProductVariant::Split,
            ProductVariant::Tile,
        ] {
            for weights in [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4] {
                for (rows, k, n) in [
                    (rows, hidden, 3 * hidden),
                    (rows, hidden, hidden),
                    (rows, hidden, 4 * hidden),
                    (rows, 4 * hidden, hidden),
                    (sampled, hidden, vocab),
                ] {
                    let block = Block::new(variant, weights, rows, k, n.div_ceil(4), 1);
                    let name = format!("{variant:?} {weights} {rows} x {k} x {n}");
                    all.push((name, block.extent));
                }
            }
        }
        all
    }

    /// An MDLM of the size of GPT-2 with 64 texts of 1024 tokens at once: its q, k, v product alone is 232 GFLOP. Then one with the heads
    /// and the vocabulary of Qwen3-0.6B.
    #[test]
    fn no_launch_of_a_large_pass_is_long() {
        let Limits { launch, submit } = Limits::default();
        assert!(launch <= 5_000_000_000 && submit >= launch);
        let rows = 64 * 1024;
        let mut longest = 0;
        let of = |[heads, kv_heads, head_dim, vocab]: [usize; 4]| {
            let geometry = Geometry {
                heads,
                kv_heads,
                head_dim,
                slots: 1024,
                cache: Precision::F32,
                kind: AdapterKind::Discrete,
            };
            pass(&geometry, vocab, rows, 1024, 320)
        };
        let networks = [[12, 12, 64, 50_258], [16, 8, 128, 151_936]];
        for (name, extent) in networks.into_iter().flat_map(of) {
            let mut count = 0;
            for part in extent.parts(launch) {
                assert!(part.work <= launch, "{name}: {}", part.work);
                longest = longest.max(part.work);
                count += workgroups(&part.grid.map(|n| n as usize));
            }
            assert_eq!(count, workgroups(&extent.grid), "{name}");
        }
        // Launches are not smaller than necessary, either.
        assert!(longest > launch / 2);
        // The work counted for products is what they compute.
        for (variant, parts) in [
            (ProductVariant::Rows, 1),
            (ProductVariant::Tile, 1),
            (ProductVariant::Split, 1),
            (ProductVariant::Split, 4),
        ] {
            let Extent { grid, each } =
                Block::new(variant, Weights::F32, rows, 768, 2304 / 4, parts).extent;
            let counted = workgroups(&grid) * each;
            assert_eq!(counted, 2 * rows as u64 * 768 * 2304, "{variant:?} {parts}");
        }
    }

    /// Passes of a small model are not split: one launch per kernel, and no submission within a pass.
    #[test]
    fn a_small_pass_is_not_split() {
        let geometry = Geometry {
            heads: 6,
            kv_heads: 6,
            head_dim: 32,
            slots: 128,
            cache: Precision::F32,
            kind: AdapterKind::Discrete,
        };
        let Limits { launch, submit } = Limits::default();
        for rows in [1, 5, 64, 512] {
            let extents = pass(&geometry, 2049, rows, 128, rows);
            for (name, extent) in &extents {
                assert_eq!(extent.parts(launch).count(), 1, "{name}, {rows} rows");
            }
            let work: u64 = extents
                .iter()
                .flat_map(|(_, extent)| extent.parts(launch))
                .map(|part| part.work)
                .sum();
            // The products of all forms stand in for those of six blocks.
            assert!(work < submit, "{rows} rows: {work}");
        }
    }
}
