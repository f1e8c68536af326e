//! Rotary embedding: the column order that keeps a pair in one register, and the table of angles. Kernels rotate in
//! `shaders/lib/finish_qkv.wgsl` and `finish_grouped.wgsl`.

use esolm_core::config::rotary_frequencies;

/// The column order in which kernels hold q and k, with the columns of a rotary pair (i, i + head_dim / 2) side by side within each head.
/// Of `columns` columns, in whole heads, the first `turned` are paired; the others (v) stay in place.
pub fn pair_order(columns: usize, turned: usize, head_dim: usize) -> Vec<usize> {
    let paired = |c: usize| {
        let (head, within) = (c / head_dim * head_dim, c % head_dim);
        head + within / 2 + within % 2 * (head_dim / 2)
    };
    (0..columns)
        .map(|c| if c < turned { paired(c) } else { c })
        .collect()
}

/// Angles (cos, sin) [positions, head_dim / 2] for `base`, computed as the published code does: frequencies and angles in f32.
pub fn rotary_table(positions: usize, head_dim: usize, base: f64) -> Vec<f32> {
    let frequencies: Vec<f32> = rotary_frequencies(head_dim, base).collect();
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}

/// The twin of the rotation of q and k, on the pair-ordered columns of some heads of a row.
pub fn rotary_twin(heads: &mut [f32], position: usize, head_dim: usize, table: &[f32]) {
    for (c, pair) in heads.chunks_mut(2).enumerate() {
        let i = c % (head_dim / 2);
        let at = (position * head_dim / 2 + i) * 2;
        let (cos, sin) = (table[at], table[at + 1]);
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_neighbours_within_their_heads() {
        // Two heads that are rotated and one that is not.
        let order = pair_order(12, 8, 4);
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7, 8, 9, 10, 11]);
    }
}
