use super::*;
use crate::forward_process::Level;
use crate::rows::{block_rows, forward_rows};

const MASK: u32 = 9;
const V: usize = 10;

fn noised(mode: MaskMode) -> Noised {
    let x = [1, 2, 3, 4, 5, 6];
    let masked = [true, false, true, false, true, false];
    let order = match mode {
        MaskMode::Bidirectional => vec![0, 1, 2, 3, 4, 5],
        _ => vec![5, 1, 3, 0, 2, 4],
    };
    Noised::gather(&x, &masked, order, MASK)
}

/// Checks that the rows of `pass` are rows of the whole-sequence pass with the same source tokens, and include every
/// row that a scored row sees.
fn is_part_of(pass: &Pass, sequential: bool, mode: MaskMode, noised: &Noised) {
    let (layout, tokens, whole) = forward_rows(
        mode,
        sequential,
        std::slice::from_ref(&noised.sort_idx),
        std::slice::from_ref(&noised.zt_sorted),
        Some(std::slice::from_ref(&noised.x0_sorted)),
        MASK,
        V,
    )
    .unwrap();
    assert_eq!(layout.slots, pass.slots);
    for row in &pass.rows {
        let same = whole.rows.iter().find(|r| r.slot == row.slot).unwrap();
        assert_eq!((same.position, same.prefix), (row.position, row.prefix));
        let token = match row.source {
            MASKED => MASK,
            source => pass.tokens[source as usize],
        };
        assert_eq!(token, tokens[same.source as usize]);
        let has = |slot: u32| pass.rows.iter().any(|r| r.slot == slot);
        assert!((0..row.prefix).all(has), "{row:?}");
    }
    let wanted: Vec<(u32, u32)> = pass
        .scored
        .iter()
        .map(|s| (pass.rows[s.row as usize].position, s.token))
        .collect();
    assert!(
        wanted
            .iter()
            .all(|&(position, token)| position + 1 == token)
    );
    let masked: Vec<u32> = (noised.sort_idx.iter().zip(&noised.masked_sorted))
        .filter_map(|(&p, &masked)| masked.then_some(p))
        .collect();
    assert_eq!(wanted.iter().map(|w| w.0).collect::<Vec<_>>(), masked);
}

#[test]
fn passes_are_parts_of_the_published_ones() {
    for mode in [MaskMode::Causal, MaskMode::Mixed2, MaskMode::Bidirectional] {
        let noised = noised(mode);
        is_part_of(&diffusion(&noised, mode, 0.7), false, mode, &noised);
    }
    for mode in [MaskMode::Causal, MaskMode::Mixed] {
        let noised = noised(mode);
        is_part_of(&sequential(&noised, mode), true, mode, &noised);
    }
    // The exact likelihood is the sequential pass of a fully masked text.
    let x = [1, 2, 3, 4, 5, 6];
    let order = vec![3, 5, 0, 1, 2, 4];
    let all = Noised::gather(&x, &[true; 6], order.clone(), MASK);
    let pass = exact(&x, &order, 0);
    is_part_of(&pass, true, MaskMode::Causal, &all);
    assert_eq!(pass, sequential(&all, MaskMode::Causal));
    let given = exact(&x, &order, 4);
    assert_eq!(given.rows[..5], pass.rows[..5]);
    assert_eq!(given.rows[5..], pass.rows[9..]);
    assert_eq!(given.scored.len(), 2);
    assert!(exact(&x, &order, 6).rows.is_empty());
}

#[test]
fn nothing_masked_needs_no_pass() {
    let clean = Noised::gather(&[1, 2], &[false; 2], vec![1, 0], MASK);
    assert!(diffusion(&clean, MaskMode::Causal, 1.0).rows.is_empty());
    assert!(sequential(&clean, MaskMode::Causal).rows.is_empty());
    assert!(
        diffusion(&noised(MaskMode::Causal), MaskMode::Causal, 0.0)
            .rows
            .is_empty()
    );
}

#[test]
fn ar_reads_what_comes_before() {
    let x = [4, 5, 6];
    let pass = autoregressive(&x, 0..3, None);
    assert_eq!(pass.tokens, [4, 5]);
    let scored: Vec<_> = pass.scored.iter().map(|s| (s.row, s.token)).collect();
    assert_eq!(scored, [(0, 5), (1, 6)]);
    let pass = autoregressive(&x, 1..3, Some(8));
    assert_eq!(pass.tokens, [8, 4, 5]);
    let scored: Vec<_> = pass.scored.iter().map(|s| (s.row, s.token)).collect();
    assert_eq!(scored, [(1, 5), (2, 6)]);
    assert!(autoregressive(&[4], 0..1, None).scored.is_empty());
    assert!(autoregressive(&[], 0..0, None).rows.is_empty());
}

#[test]
fn given_tokens_come_first_and_stay_clean() {
    let window = Window {
        tokens: (0..12).collect(),
        free: 3..8,
        number: 4,
    };
    let order = window.order(1, 0, 0.5);
    assert_eq!(order[..7], [0, 1, 2, 8, 9, 10, 11]);
    let mut rest = order[7..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, [3, 4, 5, 6, 7]);
    for draw in 0..20 {
        let uniforms = window.uniforms(1, draw, Part::Diffusion);
        let noised = Noised::diffusion(&window.tokens, Level::at(0.5, 0.9), &uniforms, MASK);
        assert_eq!(noised.sort_idx[..7], [0, 1, 2, 8, 9, 10, 11]);
        assert!(!noised.masked_sorted[..7].contains(&true));
        // Even if everything else is masked.
        let all = Noised::sequential(&window.tokens, 0.0, &uniforms, MASK);
        assert_eq!(all.masked_count(), 5);
    }
}

#[test]
fn batches_shift_what_passes_read() {
    let (a, b) = (exact(&[1, 2], &[0, 1], 0), exact(&[3], &[0], 0));
    let layout = Layout {
        sequences: 3,
        slots: 4,
        tokens: 6,
    };
    let (tokens, step, targets) = assemble(&[a.clone(), b], &layout);
    assert_eq!(tokens, [1, 2, 3, 0, 0, 0]);
    assert_eq!(targets, [1, 2, 3]);
    assert_eq!(step.rows.len(), 4);
    assert_eq!(step.sampled, [1, 2, 3]);
    assert_eq!(step.rows[..3], a.rows[..]);
    assert_eq!((step.rows[3].sequence, step.rows[3].source), (1, MASKED));
}

#[test]
fn log_probabilities_leave_the_mask_out() {
    let logits = [1.0, 2.0, 30.0, -1.0];
    let total: f64 = [1.0f64, 2.0, -1.0].iter().map(|x| x.exp()).sum();
    assert!((log_probability(&logits, 2, 1) - (2.0 - total.ln())).abs() < 1e-12);
    assert!(log_probability(&logits, 2, 2) < -9e5);
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(log_probability(&[1.0, 2.0, 30.0, strange], 2, 1).is_nan());
        assert!(log_probability(&[1.0, 2.0, strange, 0.0], 2, 1).is_finite());
    }
}

#[test]
fn means_are_over_tokens() {
    assert!((log_mean_exp(&[-1000.0, -1000.0]) + 1000.0).abs() < 1e-9);
    assert!(
        (log_mean_exp(&[-1.0, -3.0]) - ((-1f64).exp() / 2.0 + (-3f64).exp() / 2.0).ln()).abs()
            < 1e-12
    );
    let mean = Mean::of(&[2.0, 4.0, 6.0], &[2, 2, 2]);
    assert!((mean.per_token - 2.0).abs() < 1e-12);
    // The standard deviation of 1, 2, 3 divided by the square root of 3.
    assert!((mean.standard_error.unwrap() - 1.0 / 3f64.sqrt()).abs() < 1e-12);
    assert_eq!(Mean::of(&[3.0], &[1]).standard_error, None);
    assert_eq!(Mean::of(&[], &[]).per_token, 0.0);
}

/// The rows of a pass over blocks are rows of the whole pass, and include every row that a scored row sees.
#[test]
fn blocks_are_parts_of_the_published_pass() {
    let x: Vec<u32> = (1..8).collect();
    for size in [1, 2, 3, 4, 7, 9] {
        let count = x.len().div_ceil(size);
        let times: Vec<f64> = (0..count).map(|block| [0.5, 0.0, 0.8][block % 3]).collect();
        let uniforms = [0.4, 0.9, 0.7, 0.1, 0.6, 0.3, 0.2];
        let mut noised = NoisedBlocks::new(size, &times, &uniforms);
        noised.give(1);
        assert!(!noised.masked[0]);
        let xt = noised.apply(&x, MASK);
        let all = [vec![xt], vec![x.clone()]];
        let (layout, tokens, whole) = block_rows(size, &all[0], &all[1], V).unwrap();
        let pass = blocks(&x, &noised);
        assert_eq!(layout.slots, pass.slots);
        for row in &pass.rows {
            let same = whole.rows.iter().find(|r| r.slot == row.slot).unwrap();
            let token = match row.source {
                MASKED => MASK,
                source => pass.tokens[source as usize],
            };
            assert_eq!(token, tokens[same.source as usize]);
            let (source, target) = (same.source, same.target);
            assert_eq!(
                Row {
                    source,
                    target,
                    ..*row
                },
                *same
            );
            assert!(row.is_sound(pass.slots));
            let has = |slot: usize| pass.rows.iter().any(|r| r.slot as usize == slot);
            assert!(row.slots().all(has), "{row:?}");
            // As specified in docs/architecture.md.
            let (length, slot) = (x.len(), row.slot as usize);
            let block = |slot: usize| slot % length / size;
            for other in 0..2 * length {
                let sees = match (slot < length, other < length) {
                    (true, true) => block(other) <= block(slot),
                    (true, false) => false,
                    (false, true) => block(other) < block(slot),
                    (false, false) => block(other) == block(slot),
                };
                assert_eq!(row.sees(other as u32), sees, "{row:?} {other}");
            }
        }
        let scored: Vec<(u32, u32, f64)> = (pass.scored.iter())
            .map(|s| (s.place, s.token, s.weight))
            .collect();
        let masked = (0..x.len()).filter(|&p| noised.masked[p]);
        let want: Vec<_> = masked
            .map(|p| (p as u32, x[p], 1.0 / times[p / size]))
            .collect();
        assert_eq!(scored, want);
    }
    let clean = NoisedBlocks::new(2, &[0.0; 4], &[0.5; 7]);
    assert!(blocks(&x, &clean).rows.is_empty());
}

#[test]
fn blocks_of_one_token_are_exact() {
    let x = [1, 2, 3, 4, 5];
    let mut noised = NoisedBlocks::new(1, &[1.0; 5], &[0.5; 5]);
    noised.give(2);
    let order: Vec<u32> = (0..5).collect();
    assert_eq!(blocks(&x, &noised), exact(&x, &order, 2));
}
