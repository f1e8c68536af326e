//! What a likelihood must be, whatever the model says: probabilities that sum to one, bounds that meet the exact value where they
//! are tight, figures that depend on no batch, and one number a row read back from a GPU.

use esolm::checkpoint::Checkpoint;
use esolm::engine::Engine;
use esolm::forward_process::Staggered;
use esolm::likelihood::{LikelihoodOptions, Summary, TextScore, evaluate};
use esolm::passes::{Pass, Window, assemble, exact, log_mean_exp};
use esolm::rows::Layout;
use esolm::{DeviceChoice, LoadOptions};
use esolm_tests::{checkpoint, halves, sets, stories};
use pollster::block_on;

const MASK: u32 = 96;

const EXACT: LikelihoodOptions = LikelihoodOptions {
    alpha_0: 0.0,
    orders: 1,
    draws: 0,
    seed: 3,
    batch: None,
};

fn engine(ckpt: &Checkpoint, device: DeviceChoice) -> Engine {
    let options = LoadOptions {
        device,
        ..LoadOptions::default()
    };
    block_on(Engine::load(ckpt, &options)).unwrap_or_else(|error| panic!("{error}"))
}

fn scores(engine: &mut Engine, windows: &[Window], options: LikelihoodOptions) -> Vec<TextScore> {
    block_on(evaluate(engine, windows, None, &options, &mut |_, _| true))
        .unwrap_or_else(|error| panic!("{error}"))
        .expect("nobody stopped it")
}

/// Every pair of tokens in the middle of a text, all in the same order.
fn pairs(before: &[u32], after: &[u32]) -> Vec<Window> {
    let free = before.len()..before.len() + 2;
    (0..MASK * MASK)
        .map(|pair| Window {
            tokens: [before, &[pair / MASK, pair % MASK], after].concat(),
            free: free.clone(),
            number: 7,
        })
        .collect()
}

#[test]
fn probabilities_of_all_middles_sum_to_one() {
    let mut cpu = engine(&checkpoint("model_a"), DeviceChoice::Cpu);
    for (before, after, alpha_0) in [
        (&[5, 6][..], &[7, 8][..], 0.0),
        (&[5], &[7, 8, 9], 1.0),
        (&[], &[], 1.0),
    ] {
        let options = LikelihoodOptions { alpha_0, ..EXACT };
        let all = scores(&mut cpu, &pairs(before, after), options);
        let log_p: Vec<f64> = all.iter().map(|score| score.exact().unwrap()).collect();
        let sum = (log_mean_exp(&log_p) + f64::from(MASK * MASK).ln()).exp();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert!(all.iter().all(|score| score.tokens == 2));
    }
    // From left to right, a model needs no given suffix.
    for ckpt in [checkpoint("ar"), halves::in_blocks_of(1)] {
        let mut cpu = engine(&ckpt, DeviceChoice::Cpu);
        let all = scores(&mut cpu, &pairs(&[5, 6], &[]), EXACT);
        let log_p: Vec<f64> = all.iter().map(|score| score.exact().unwrap()).collect();
        let sum = (log_mean_exp(&log_p) + f64::from(MASK * MASK).ln()).exp();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
}

fn texts(count: u32, length: u32) -> Vec<Window> {
    (0..count)
        .map(|n| {
            // Ragged on purpose.
            let tokens = (0..length - n % 3).map(|i| (i * 37 + n * 11) % MASK);
            Window::whole(tokens.collect(), n)
        })
        .collect()
}

#[test]
fn the_bound_is_exact_where_nothing_is_left_to_diffusion() {
    let mut cpu = engine(&checkpoint("model_a"), DeviceChoice::Cpu);
    let options = LikelihoodOptions { draws: 2, ..EXACT };
    for score in scores(&mut cpu, &texts(5, 20), options) {
        assert_eq!(score.diffusion, 0.0);
        let exact = score.exact().unwrap();
        assert!((score.nelbo() + exact).abs() < 1e-5 * exact.abs());
    }
}

/// The bound of a text of one token is its cross-entropy under one masked token, but for the share 1e-3 that the schedule never
/// masks: a bound that forgets its weights would not come near.
#[test]
fn bounds_of_one_token_are_cross_entropies() {
    let all: Vec<Window> = (0..MASK)
        .map(|token| Window::whole(vec![token], token))
        .collect();
    let layout = Layout {
        sequences: all.len(),
        slots: 2,
        tokens: all.len(),
    };
    let passes: Vec<Pass> = (all.iter().map(|window| exact(&window.tokens, &[0], 0))).collect();
    let (tokens, step, targets) = assemble(&passes, &layout);
    for (name, alpha_0) in [("mdlm", 1.0), ("model_a", 1.0), ("model_a", 0.5)] {
        let mut cpu = engine(&checkpoint(name), DeviceChoice::Cpu);
        cpu.start(&layout, &tokens).unwrap();
        let log_p = block_on(cpu.score(&step, &targets)).unwrap();
        let want = -log_p.iter().copied().map(f64::from).sum::<f64>() / f64::from(MASK);
        let options = LikelihoodOptions {
            alpha_0,
            orders: 0,
            draws: 256,
            ..EXACT
        };
        let all = scores(&mut cpu, &all, options);
        let mean = all.iter().map(TextScore::nelbo).sum::<f64>() / f64::from(MASK);
        println!("{name}, alpha_0 = {alpha_0}: {mean}, cross-entropy {want}");
        assert!((mean - want).abs() < 0.02 * want, "{mean} and {want}");
    }
}

/// In blocks of one token the bound of a BD3-LM is its exact value on average, but for the share 1e-3.
#[test]
fn blocks_of_one_token_meet_the_exact_value() {
    let mut cpu = engine(&halves::in_blocks_of(1), DeviceChoice::Cpu);
    let options = LikelihoodOptions {
        draws: 4096,
        ..EXACT
    };
    let scores_of_all = scores(&mut cpu, &texts(3, 12), options);
    let summary = Summary::of(&scores_of_all);
    let (bound, exact) = (summary.nelbo.per_token, summary.exact.unwrap().per_token);
    assert!(
        (bound - exact).abs() < 0.03 * exact,
        "{bound}, exactly {exact}"
    );
    // The first token is given.
    let one = scores(&mut cpu, &[Window::whole(vec![5, 6], 0)], EXACT);
    assert_eq!(one[0].tokens, 1);
}

/// A SetDLM scores the recorded texts in the recorded orders as the published code does, and in orders of its own as in the same ones
/// given; all middles between given tokens together have probability one.
#[test]
fn sets_are_scored_in_their_orders() {
    for (golden, ckpt) in sets::likelihoods() {
        let mut cpu = engine(&ckpt, DeviceChoice::Cpu);
        let (x0, orders) = (golden.rows("x0"), golden.rows("setdlm.perm"));
        let windows: Vec<Window> = (0..).zip(x0).map(|(n, x)| Window::whole(x, n)).collect();
        let length = windows[0].tokens.len();
        let mut given = |orders: &[Vec<u32>]| {
            let go_on = &mut |_, _| true;
            let scored = evaluate(&mut cpu, &windows, Some(orders), &EXACT, go_on);
            block_on(scored).unwrap().unwrap()
        };
        let recorded = golden.f32("setdlm.neg_log_p");
        let whole = golden.rows("setdlm.tokens_mask");
        let mut compared = 0;
        for (row, score) in given(&orders).iter().enumerate() {
            assert_eq!(score.tokens, length - 1);
            // For other texts, the published code leaves tokens out.
            if whole[row].iter().all(|&counts| counts == 1) {
                let losses = &recorded[row * (length - 1)..][..length - 1];
                let want: f64 = losses.iter().map(|&x| f64::from(x)).sum();
                let got = -score.log_likelihood();
                assert!((got - want).abs() < 1e-5 * want, "{got}, want {want}");
                compared += 1;
            }
        }
        assert!(compared > 0, "no whole text");
        let schedule = Staggered::new(&ckpt.config().sets.unwrap(), ckpt.config().length);
        let drawn = |window: &Window| window.set_order(EXACT.seed, 0, &schedule, &(1..length));
        let drawn: Vec<Vec<u32>> = windows.iter().map(drawn).collect();
        let same = given(&drawn);
        assert_eq!(scores(&mut cpu, &windows, EXACT), same);
        let one = LikelihoodOptions {
            batch: Some(64),
            ..EXACT
        };
        let pairs = pairs(&[95, 5, 6], &[7, 8]);
        let all = scores(&mut cpu, &pairs, one);
        let log_p: Vec<f64> = all.iter().map(|score| score.exact().unwrap()).collect();
        let sum = (log_mean_exp(&log_p) + f64::from(MASK * MASK).ln()).exp();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
}

#[test]
fn figures_depend_on_no_batch() {
    for (ckpt, orders) in [
        (checkpoint("model_a"), 3),
        (checkpoint("mdlm"), 0),
        (checkpoint("ar"), 1),
        (halves::in_blocks_of(4), 0),
        (halves::in_blocks_of(1), 1),
    ] {
        let mut cpu = engine(&ckpt, DeviceChoice::Cpu);
        let options = |batch| LikelihoodOptions {
            alpha_0: 0.5,
            orders,
            draws: 2,
            seed: 11,
            batch,
        };
        let texts = texts(7, 24);
        let alone = scores(&mut cpu, &texts, options(Some(1)));
        for batch in [Some(3), None] {
            let together = scores(&mut cpu, &texts, options(batch));
            for (a, b) in alone.iter().zip(&together) {
                let near = |x: f64, y: f64| (x - y).abs() <= 1e-5 * x.abs().max(1.0);
                assert_eq!((a.tokens, a.log_p.len()), (b.tokens, b.log_p.len()));
                assert!(near(a.diffusion, b.diffusion) && near(a.sequential, b.sequential));
                assert!((a.log_p.iter().zip(&b.log_p)).all(|(x, y)| near(*x, *y)));
            }
        }
        let part = scores(&mut cpu, &texts[2..5], options(None));
        assert!((part[0].nelbo() - alone[2].nelbo()).abs() < 1e-4);
        let summary = Summary::of(&alone);
        assert_eq!(
            summary.tokens,
            alone.iter().map(|s| s.tokens).sum::<usize>()
        );
        assert_eq!(summary.exact.is_some(), orders > 0);
    }
}

#[test]
fn a_stopped_evaluation_has_no_result() {
    let mut cpu = engine(&checkpoint("model_a"), DeviceChoice::Cpu);
    let mut calls = 0;
    let mut stop = |done: usize, all: usize| {
        calls += 1;
        assert!(done <= all);
        false
    };
    let options = LikelihoodOptions {
        batch: Some(1),
        ..EXACT
    };
    let result = block_on(evaluate(&mut cpu, &texts(3, 8), None, &options, &mut stop)).unwrap();
    assert!(result.is_none());
    assert_eq!(calls, 1);
}

/// Logits stay on the device: four bytes are read for each scored row, with the vocabulary of the model that ships.
#[test]
fn a_gpu_gives_back_one_number_a_row() {
    let ckpt = stories();
    let mut gpu = engine(&ckpt, DeviceChoice::Gpu(None));
    let windows: Vec<Window> = (0..3)
        .map(|n| Window::whole((1..65).map(|i| i * 13 + n).collect(), n))
        .collect();
    let before = gpu.counters();
    let on_gpu = scores(&mut gpu, &windows, EXACT);
    assert_eq!(gpu.counters().since(&before).bytes_read, 4 * 3 * 64);
    let on_cpu = scores(&mut engine(&ckpt, DeviceChoice::Cpu), &windows, EXACT);
    for (a, b) in on_gpu.iter().zip(&on_cpu) {
        let (a, b) = (a.exact().unwrap(), b.exact().unwrap());
        assert!((a - b).abs() < 1e-5 * b.abs(), "{a} and {b}");
    }
}
