//! The golden losses and bounds of the published code, which every [`Runner`] must reach with the recorded uniforms.

use esolm::config::{ModelConfig, Prepend};
use esolm::forward_process::{
    Level, Noised, Uniforms, antithetic_times, any_order, masked, sequential_order,
};
use esolm::passes::{Pass, assemble, autoregressive, diffusion, exact, log_mean_exp, sequential};
use esolm::rows::{Layout, MaskMode};

use crate::{Golden, Runner};

/// Maximum relative difference from the published code's losses.
pub const RELATIVE: f64 = 1e-5;

const MASK: u32 = 96;
const BOS: u32 = 95;
const L: usize = 32;

/// Fails if `got` is not `want`; tokens may have losses near zero, for which the bound is relative to one nat.
pub fn close(what: &str, got: f64, want: f32) -> f64 {
    let want = f64::from(want);
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(error <= RELATIVE, "{what}: {got}, want {want}");
    error
}

/// The weighted negative log-probabilities of each pass by position, `[L]`, zero where nothing is scored.
fn losses(runner: &mut dyn Runner, passes: &[Pass]) -> Vec<Vec<f64>> {
    tables(runner, passes, L)
}

/// As [`losses`], for texts of at most `length` tokens.
pub(crate) fn tables(runner: &mut dyn Runner, passes: &[Pass], length: usize) -> Vec<Vec<f64>> {
    let layout = Layout {
        sequences: passes.len(),
        slots: 2 * length,
        tokens: passes.len() * length,
    };
    let (tokens, step, targets) = assemble(passes, &layout);
    runner.start(&layout, &tokens);
    let log_p = runner.score(&step, &targets);
    let mut rest = &log_p[..];
    passes
        .iter()
        .map(|pass| {
            let (own, others) = rest.split_at(pass.scored.len());
            rest = others;
            let mut table = vec![0.0; length];
            for (scored, &log_p) in pass.scored.iter().zip(own) {
                table[scored.place as usize] = -scored.weight * f64::from(log_p);
            }
            table
        })
        .collect()
}

pub(crate) fn check_table(what: &str, got: &[Vec<f64>], want: &[f32]) -> f64 {
    let got: Vec<f64> = got.concat();
    assert_eq!(got.len(), want.len(), "{what}");
    (got.iter().zip(want))
        .map(|(&got, &want)| close(what, got, want))
        .fold(0.0, f64::max)
}

/// A golden f32 tensor in f64.
pub fn f64s(golden: &Golden, name: &str) -> Vec<f64> {
    golden.f32(name).into_iter().map(f64::from).collect()
}

/// The recorded uniforms of each row under `prefix`.
pub fn uniforms(golden: &Golden, prefix: &str, offsets: bool) -> Vec<Uniforms> {
    let mask = f64s(golden, &format!("{prefix}.u_move"));
    let offsets = match offsets {
        true => f64s(golden, &format!("{prefix}.u_offsets")),
        false => Vec::new(),
    };
    (0..mask.len() / L)
        .map(|row| Uniforms {
            mask: mask[row * L..(row + 1) * L].to_vec(),
            offsets: offsets
                .get(row * L..(row + 1) * L)
                .unwrap_or_default()
                .to_vec(),
        })
        .collect()
}

/// Losses and bounds of model_a; returns the largest relative difference.
pub fn check_model_a(runner: &mut dyn Runner) -> f64 {
    let golden = Golden::open("losses");
    let largest = [
        check_diffusion(&golden, runner),
        check_sequential(&golden, runner),
        check_halves(&golden, runner),
        check_orders(&golden, runner),
    ];
    largest.into_iter().fold(0.0, f64::max)
}

fn check_diffusion(golden: &Golden, runner: &mut dyn Runner) -> f64 {
    let x0 = golden.rows("x0");
    let mut largest = 0.0f64;
    for (case, alpha_0) in [("diffusion.a05", 0.5), ("diffusion.a1", 1.0)] {
        let times = antithetic_times(&f64s(golden, &format!("{case}.u_t")));
        let uniforms = uniforms(golden, case, true);
        for low_var in [false, true] {
            let passes: Vec<Pass> = (x0.iter().zip(&times).zip(&uniforms))
                .map(|((x0, &t), uniforms)| {
                    let level = Level::at(alpha_0, t);
                    let noised = Noised::diffusion(x0, level, uniforms, MASK);
                    let weight = if low_var { 1.0 } else { level.weight };
                    diffusion(&noised, MaskMode::Causal, weight)
                })
                .collect();
            let name = if low_var { "nll_low_var" } else { "nll_elbo" };
            let name = format!("{case}.{name}");
            let got = losses(runner, &passes);
            largest = largest.max(check_table(&name, &got, &golden.f32(&name)));
        }
    }
    largest
}

fn check_sequential(golden: &Golden, runner: &mut dyn Runner) -> f64 {
    let x0 = golden.rows("x0");
    let mut largest = 0.0f64;
    for (case, mode) in [
        ("reconstruction.shuffle", MaskMode::Causal),
        ("reconstruction.noshuffle_mixed", MaskMode::Mixed),
    ] {
        let shuffled = mode == MaskMode::Causal;
        let passes: Vec<Pass> = (x0.iter().zip(uniforms(golden, case, shuffled)))
            .map(|(x0, uniforms)| {
                let masked = masked(&uniforms.mask, 0.5);
                let offsets = shuffled.then_some(&uniforms.offsets[..]);
                let order = sequential_order(&masked, offsets);
                sequential(&Noised::gather(x0, &masked, order, MASK), mode)
            })
            .collect();
        let name = format!("{case}.loss");
        let got = losses(runner, &passes);
        largest = largest.max(check_table(&name, &got, &golden.f32(&name)));
    }
    largest
}

/// The whole loss: half of the rows for each part, each averaged over its valid tokens.
fn check_halves(golden: &Golden, runner: &mut dyn Runner) -> f64 {
    let x0 = golden.rows("x0");
    let valid = golden.f32("valid_tokens");
    let times = antithetic_times(&f64s(golden, "loss_half.diff.u_t"));
    let mut orders = Vec::new();
    let mut passes = Vec::new();
    for (row, uniforms) in uniforms(golden, "loss_half.diff", true)
        .into_iter()
        .enumerate()
    {
        let level = Level::at(0.5, times[row]);
        let noised = Noised::diffusion(&x0[row], level, &uniforms, MASK);
        passes.push(diffusion(&noised, MaskMode::Causal, level.weight));
        orders.push(noised.sort_idx);
    }
    for (row, uniforms) in uniforms(golden, "loss_half.seq", true)
        .into_iter()
        .enumerate()
    {
        let noised = Noised::sequential(&x0[row + 2], 0.5, &uniforms, MASK);
        passes.push(sequential(&noised, MaskMode::Causal));
        orders.push(noised.sort_idx);
    }
    let table = losses(runner, &passes);
    let mut sums = [0.0; 2];
    let mut counts = [0.0; 2];
    for (row, (losses, order)) in table.iter().zip(&orders).enumerate() {
        for (loss, &position) in losses.iter().zip(order) {
            let valid = f64::from(valid[row * L + position as usize]);
            sums[row / 2] += loss * valid;
            counts[row / 2] += valid;
        }
    }
    let scalar = |name: &str| golden.f32(&format!("loss_half.{name}"))[0];
    let sequential = sums[1] / counts[1];
    let loss = sums[0] / counts[0] + sequential;
    let differences = [
        // Recorded as totals over the valid tokens of the diffusion rows.
        close(
            "reconstruction_loss",
            sequential * counts[0],
            scalar("reconstruction_loss"),
        ),
        close("num_tokens", counts[0], scalar("num_tokens")),
        close("loss", loss, scalar("loss")),
        close("nlls", loss * counts[0], scalar("nlls")),
    ];
    differences.into_iter().fold(0.0, f64::max)
}

/// The importance-weighted bound: four orders, each over every row.
fn check_orders(golden: &Golden, runner: &mut dyn Runner) -> f64 {
    let x0 = golden.rows("x0");
    let offsets = f64s(golden, "iw.u_offsets");
    let diffusion = golden.u32("iw.num_diffusion");
    let orders: Vec<Vec<u32>> = (diffusion.iter().zip(offsets.chunks(L)))
        .map(|(&n, offsets)| any_order(offsets, n as usize))
        .collect();
    let want = golden.f32("iw.logp_per_seq");
    let (mut largest, mut total) = (0.0f64, 0.0);
    for (row, x0) in x0.iter().enumerate() {
        let passes: Vec<Pass> = orders.iter().map(|order| exact(x0, order, 0)).collect();
        let log_p: Vec<f64> = losses(runner, &passes)
            .iter()
            .map(|losses| -losses.iter().sum::<f64>())
            .collect();
        for (log_p, &want) in log_p.iter().zip(&want[row * 4..]) {
            largest = largest.max(close("iw.logp_per_seq", *log_p, want));
        }
        total -= log_mean_exp(&log_p);
    }
    let tokens = (x0.len() * L) as f64;
    let bounds = [
        close("iw.nlls", total, golden.f32("iw.nlls")[0]),
        close("iw.loss", total / tokens, golden.f32("iw.loss")[0]),
    ];
    bounds.into_iter().fold(largest, f64::max)
}

/// Losses of mdlm; returns the largest relative difference.
pub fn check_mdlm(runner: &mut dyn Runner) -> f64 {
    let golden = Golden::open("losses");
    let times = antithetic_times(&f64s(&golden, "mdlm.u_t"));
    let (x0, uniforms) = (golden.rows("x0"), uniforms(&golden, "mdlm", false));
    let mut largest = 0.0f64;
    for (name, low_var) in [("mdlm.nll_elbo", false), ("mdlm.nll_low_var", true)] {
        let passes: Vec<Pass> = (x0.iter().zip(&times).zip(&uniforms))
            .map(|((x0, &t), uniforms)| {
                let level = Level::at(1.0, t);
                let noised = Noised::mdlm(x0, level, uniforms, MASK);
                let weight = if low_var { 1.0 } else { level.weight };
                diffusion(&noised, MaskMode::Bidirectional, weight)
            })
            .collect();
        let got = losses(runner, &passes);
        largest = largest.max(check_table(name, &got, &golden.f32(name)));
    }
    largest
}

/// Losses of ar with every prepended token; returns the largest relative difference.
pub fn check_ar(config: &ModelConfig, runner: &mut dyn Runner) -> f64 {
    let golden = Golden::open("losses");
    let (x0, valid) = (golden.rows("x0"), golden.f32("valid_tokens"));
    assert_eq!(config.prepend, Prepend::None);
    let mut largest = 0.0f64;
    for (name, token) in [("none", None), ("bos", Some(BOS)), ("mask", Some(MASK))] {
        let tensor = |what: &str| format!("ar.{name}.{what}");
        let passes: Vec<Pass> = x0
            .iter()
            .map(|x0| autoregressive(x0, 0..L, token))
            .collect();
        let inputs: Vec<Vec<u32>> = passes.iter().map(|pass| pass.tokens.clone()).collect();
        assert_eq!(inputs, golden.rows(&tensor("input")));
        let table = losses(runner, &passes);
        let first = usize::from(token.is_none());
        let (mut sum, mut count) = (0.0, 0.0);
        for (losses, valid) in table.iter().zip(valid.chunks(L)) {
            for (loss, &valid) in losses[first..].iter().zip(&valid[first..]) {
                sum += loss * f64::from(valid);
                count += f64::from(valid);
            }
        }
        let table: Vec<Vec<f64>> = table.iter().map(|row| row[first..].to_vec()).collect();
        let differences = [
            check_table(&tensor("nll"), &table, &golden.f32(&tensor("nll"))),
            close(
                &tensor("num_tokens"),
                count,
                golden.f32(&tensor("num_tokens"))[0],
            ),
            close(&tensor("loss"), sum / count, golden.f32(&tensor("loss"))[0]),
        ];
        largest = differences.into_iter().fold(largest, f64::max);
    }
    largest
}
