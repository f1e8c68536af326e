use super::*;
use esolm_core::rng::{Purpose, Stream};
use esolm_core::rows::NO_TARGET;

fn numbers(random: &mut Stream, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| (random.uniform() * 4.0 - 2.0) as f32)
        .collect()
}

/// softmax(q kT) v of one row and head in f64, over all keys and values written so far, `[sequences][slots]` for all
/// heads; `columns` are those of the head it reads.
fn naive(
    row: &Row,
    columns: std::ops::Range<usize>,
    q: &[f32],
    k: &[Vec<Vec<f32>>],
    v: &[Vec<Vec<f32>>],
) -> Vec<f64> {
    let sequence = row.sequence as usize;
    let slots: Vec<usize> = row.slots().collect();
    let score = |slot: &usize| {
        let k = &k[sequence][*slot][columns.clone()];
        let products = q.iter().zip(k);
        products
            .map(|(&q, &k)| f64::from(q) * f64::from(k))
            .sum::<f64>()
    };
    let scores: Vec<f64> = slots.iter().map(score).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    columns
        .map(|c| {
            let terms = weights.iter().zip(&slots);
            let terms = terms.map(|(weight, &slot)| weight * f64::from(v[sequence][slot][c]));
            terms.sum::<f64>() / weights.iter().sum::<f64>()
        })
        .collect()
}

/// `[rows, d]` as `[heads, rows, wide]`.
fn by_head(values: &[f32], heads: Heads, count: usize) -> Vec<f32> {
    let width = count * heads.head_dim;
    let rows = values.len() / width;
    // Padding after a head's columns is not read.
    let mut out = vec![f32::NAN; rows * count * heads.wide()];
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (head, values) in values.chunks_exact(heads.head_dim).enumerate() {
            let at = (head * rows + row) * heads.wide();
            out[at..at + heads.head_dim].copy_from_slice(values);
        }
    }
    out
}

#[test]
fn any_rows_attend_as_told_in_any_company() {
    for level in Level::all() {
        for seed in 0..40 {
            check(level, seed);
        }
    }
}

fn check(level: Level, seed: u64) {
    let mut random = Stream::new(seed, 0, Purpose::Other(0));
    let mut below = |n: usize| random.below(n as u32) as usize;
    let [heads, kv_heads] = [[3, 3], [4, 2], [3, 1]][below(3)];
    let heads = Heads {
        heads,
        kv_heads,
        head_dim: [2, 8, 16, 24, 32, 48, 64, 80][below(8)],
    };
    // Some need several blocks of slots.
    let most = [9, 150, 600][below(3)];
    let (sequences, slots) = (1 + below(4), 1 + below(most));
    let layout = Layout {
        sequences,
        slots,
        tokens: 0,
    };
    let mut cache = Cache::new(&layout, heads).expect("a little memory");
    let (hidden, head_dim, wide) = (heads.width(), heads.head_dim, heads.wide());
    let kv_width = heads.kv_width();
    let empty = vec![vec![vec![0.0; kv_width]; slots]; sequences];
    let (mut all_k, mut all_v) = (empty.clone(), empty);
    // Several passes over the same cache, each writing slots in any order and number.
    for _ in 0..3 {
        let in_step = random.below(2) == 0;
        let count = random.below(slots.min(150) as u32 + 1) as usize;
        let mut rows = Vec::new();
        for sequence in 0..sequences {
            let count = if in_step {
                count
            } else {
                random.below(slots.min(150) as u32 + 1) as usize
            };
            let mut order: Vec<u32> = (0..slots as u32).collect();
            random.shuffle(&mut order);
            let common = random.below(slots as u32 + 1);
            // Beyond their prefix, rows see only themselves, or the block of slots that they belong to.
            let block = [1, 1 + random.below(40), 1 + random.below(400)][random.below(3) as usize];
            order[..count].sort_unstable_by_key(|slot| (slot / block, slot % 3));
            rows.extend(order[..count].iter().map(|&slot| {
                let prefix = match in_step {
                    true => common,
                    false => random.below(slots as u32 + 1),
                };
                let first = slot / block * block;
                Row {
                    sequence: sequence as u32,
                    slot,
                    position: slot,
                    prefix,
                    own: match slot < prefix {
                        true => [prefix; 2],
                        false => [first.max(prefix), (first + block).min(slots as u32)],
                    },
                    source: 0,
                    target: NO_TARGET,
                }
            }));
        }
        let [mut q, k, v] =
            [hidden, kv_width, kv_width].map(|width| numbers(&mut random, rows.len() * width));
        q.iter_mut().for_each(|q| *q /= (head_dim as f32).sqrt());
        for (i, row) in rows.iter().enumerate() {
            let at = i * kv_width..(i + 1) * kv_width;
            all_k[row.sequence as usize][row.slot as usize] = k[at.clone()].to_vec();
            all_v[row.sequence as usize][row.slot as usize] = v[at].to_vec();
        }
        let value = |row: usize, head: usize, to: &mut [f32]| {
            to.copy_from_slice(&v[row * kv_width + head * head_dim..][..head_dim]);
        };
        cache.scatter(&rows, &by_head(&k, heads, kv_heads), value);
        let attend = |rows: &[Row], q: &[f32]| {
            let mut out = vec![f32::NAN; rows.len() * heads.heads * wide];
            cache.attend_on(level, rows, &by_head(q, heads, heads.heads), &mut out);
            out
        };
        let out = attend(&rows, &q);
        for (i, row) in rows.iter().enumerate() {
            let q = &q[i * hidden..(i + 1) * hidden];
            let alone = attend(&rows[i..=i], q);
            for head in 0..heads.heads {
                let q = &q[head * head_dim..(head + 1) * head_dim];
                let read = head * kv_heads / heads.heads;
                let columns = read * head_dim..(read + 1) * head_dim;
                let want = naive(row, columns, q, &all_k, &all_v);
                let got = &out[(head * rows.len() + i) * wide..][..head_dim];
                let name = format!("{level:?}, seed {seed}, row {i} {row:?}");
                assert!(*got == alone[head * wide..][..head_dim], "{name}");
                for (got, want) in got.iter().zip(want) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error < 2e-5, "{name}: {got}, want {want}");
                }
            }
        }
    }
}
