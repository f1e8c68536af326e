//! The GPU path compared with the published code's golden numbers, with and without its cache, and its guarantees about
//! memory traffic. Needs a GPU adapter; a software one will do.

#[path = "gpu/decoders.rs"]
mod decoders;
#[path = "gpu/recordings.rs"]
mod recordings;

use std::collections::{HashMap, HashSet};

use burn::tensor::Device;
use esolm::device::{AdapterKind, DeviceChoice, Precision, open};
use esolm::engine::{Engine, Run};
use esolm::executor::{Draw, Executor};
use esolm::gpu::GpuExecutor;
use esolm::kernels::attention::AttentionVariant;
use esolm::kernels::product::ProductVariant;
use esolm::plan::{Plan, PlanOptions};
use esolm::rows::{Layout, NO_TARGET, Row, StepRows, own_slot};
use esolm::sampler::Sampler;
use esolm::variants::Chosen;
use esolm::{Activations, LoadOptions, Variants, Weights};
use esolm_tests::{
    Golden, OnDevice, Reference, Runner, blocks, broken, checkpoint, checks, confidence, family,
    family_schedules, halves, losses, mixed, sets_sampling, stories,
};
use pollster::block_on;

#[test]
fn golden_forward() {
    for (model, count) in [("model_a", 14), ("mdlm", 1), ("ar", 1)] {
        let mut gpu = OnDevice::gpu(&checkpoint(model), LoadOptions::default());
        let (cases, largest) = checks::check_forward(model, &mut gpu);
        println!("{model}: {cases} cases, largest difference {largest:e}");
        assert_eq!(cases, count);
    }
}

#[test]
fn golden_family_forward() {
    let load = |ckpt: &_| OnDevice::gpu(ckpt, LoadOptions::default());
    let ran = family::check_forward(|ckpt| Box::new(load(ckpt)));
    println!("{ran} cases");
}

#[test]
fn golden_family_schedules() {
    let load = |ckpt: &_| OnDevice::gpu(ckpt, LoadOptions::default());
    let ran = family_schedules::check_schedules(|ckpt| Box::new(load(ckpt)));
    println!("{ran} traces");
}

#[test]
fn golden_family_likelihood() {
    let load = |ckpt: &_| OnDevice::gpu(ckpt, LoadOptions::default());
    let ran = halves::check_likelihood(|ckpt| Box::new(load(ckpt)));
    println!("{ran} cases");
}

/// Every kernel variant gives the published numbers, whatever this adapter would choose.
#[test]
fn golden_forward_in_every_variant() {
    for (few, many, attention) in [
        (
            ProductVariant::Rows,
            ProductVariant::Rows,
            AttentionVariant::Split,
        ),
        (
            ProductVariant::Split,
            ProductVariant::Tile,
            AttentionVariant::Tile,
        ),
    ] {
        let variants = Variants {
            few: Some(few),
            many: Some(many),
            attention: Some(attention),
        };
        let mut gpu = OnDevice::gpu(
            &checkpoint("model_a"),
            LoadOptions {
                variants,
                ..Default::default()
            },
        );
        checks::check_forward("model_a", &mut gpu);
    }
}

/// Kernel variants are read from a table: loading runs none to choose between them, whatever the kind of the adapter.
#[test]
fn loading_runs_no_kernel() {
    let (checkpoint, options) = (checkpoint("model_a"), LoadOptions::default());
    for kind in [
        AdapterKind::Discrete,
        AdapterKind::Integrated,
        AdapterKind::Virtual,
        AdapterKind::Software,
        AdapterKind::Unknown,
    ] {
        let mut gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
        gpu.info.kind = kind;
        let executor = block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap();
        assert_eq!(executor.counters().dispatches, 0, "{kind:?}");
        assert_eq!(*executor.chosen(), Chosen::by_table(kind), "{kind:?}");
    }
}

/// Generations of published BD3-LMs, token for token.
#[test]
fn golden_family_sampling() {
    let ran = blocks::check_sampling(|ckpt| Box::new(OnDevice::gpu(ckpt, LoadOptions::default())));
    println!("{ran} traces");
}

#[test]
fn golden_losses() {
    let ar = checkpoint("ar");
    let largest = [
        losses::check_model_a(&mut OnDevice::gpu(
            &checkpoint("model_a"),
            LoadOptions::default(),
        )),
        losses::check_mdlm(&mut OnDevice::gpu(
            &checkpoint("mdlm"),
            LoadOptions::default(),
        )),
        losses::check_ar(ar.config(), &mut OnDevice::gpu(&ar, LoadOptions::default())),
    ];
    println!("largest relative differences {largest:?}");
}

#[test]
fn golden_sampling() {
    let options = LoadOptions::default;
    // In the second form, the sums of narrow products are split, and added up by the following kernel.
    for variants in ["", "few=split"] {
        let options = LoadOptions {
            variants: variants.parse().unwrap(),
            ..options()
        };
        let mut gpu = OnDevice::gpu(&checkpoint("model_a"), options);
        assert_eq!(checks::check_sampling_model_a(&mut gpu), 6);
    }
    let ar = checkpoint("ar");
    checks::check_sampling_ar(ar.config(), &mut OnDevice::gpu(&ar, options()));
    checks::check_sampling_mdlm(&mut OnDevice::gpu(&checkpoint("mdlm"), options()));
}

/// Like `esolm replay`: the recorded steps and uniforms give the recorded logits, tokens and sample.
#[test]
fn recorded_runs_replay() {
    let golden = Golden::open("sampling_model_a");
    let mut gpu = OnDevice::gpu(&checkpoint("model_a"), LoadOptions::default());
    for (trace, top_p) in [("alpha05", None), ("alpha1_p09", Some(0.9))] {
        let steps: Vec<[u32; 3]> = golden
            .rows(&format!("{trace}.steps"))
            .iter()
            .map(|s| [s[0], s[1], s[2]])
            .collect();
        let plan = Plan::from_recorded(&golden.rows(&format!("{trace}.sort_idx")), &steps, 96, 97)
            .unwrap();
        let uniforms = golden.f64(&format!("{trace}.u"));
        let sampler = Sampler {
            top_p,
            ..Sampler::default()
        };
        let replay = block_on(gpu.0.replay(&plan, &uniforms, sampler, &mut || true));
        let replay = replay.unwrap().expect("nobody stopped it");
        checks::assert_close(
            trace,
            &replay.logits,
            &golden.f32(&format!("{trace}.logits")),
            1e-4,
        );
        assert_eq!(
            replay.tokens_sorted,
            golden.rows(&format!("{trace}.tokens_sorted"))
        );
        assert_eq!(replay.sample, golden.rows(&format!("{trace}.sample")));
    }
}

/// Quantised weights are the same on every device, and so are the resulting numbers, except for rounding.
#[test]
fn fewer_bits_give_the_numbers_of_the_cpu() {
    for ckpt in [checkpoint("model_a"), stories()] {
        for weights in [Weights::F16, Weights::Q8, Weights::Q4] {
            let mut cpu = OnDevice::rounded(&ckpt, weights, Activations::F32);
            for variants in ["few=rows,many=rows", "few=split,many=tile"] {
                let options = LoadOptions {
                    weights: Some(weights),
                    variants: variants.parse().unwrap(),
                    ..Default::default()
                };
                let mut gpu = OnDevice::gpu(&ckpt, options);
                // A pass of few rows, and one of many.
                for (sequences, length) in [(1, 5), (3, ckpt.config().length)] {
                    let options = PlanOptions {
                        length,
                        ..PlanOptions::new(ckpt.config(), sequences, 4, 4)
                    };
                    let plan = Plan::new(&options).unwrap().uncached();
                    let step = plan.step_rows(plan.nfe() - 1);
                    let tokens = 0..plan.layout().tokens as u32;
                    let text = tokens.map(|at| at * 7 % (ckpt.config().mask_index));
                    let text: Vec<u32> = text.collect();
                    cpu.start(&plan.layout(), &text);
                    gpu.start(&plan.layout(), &text);
                    let (got, want) = (gpu.logits(&step), cpu.logits(&step));
                    let what = format!("{weights}, {variants}, {} rows", step.rows.len());
                    let largest = checks::assert_close(&what, &got, &want, 2e-4);
                    println!("{what}: largest difference {largest:e}");
                }
            }
        }
    }
}

#[test]
fn cached_equals_uncached() {
    for weights in [Weights::F32, Weights::Q8, Weights::Q4] {
        check_cached(weights);
    }
}

/// An Eso-LM (A) samples from what it was trained to compute, step by step.
#[test]
fn mixed_attention_samples_as_it_was_trained() {
    let ckpt = checkpoint("model_a");
    let mut reference = Reference::load(&ckpt, &Device::flex());
    let mut gpu = OnDevice::gpu(&ckpt, LoadOptions::default());
    let steps = mixed::check(ckpt.config(), &mut gpu, &mut reference);
    println!("{steps} steps");
}

#[test]
fn cached_blocks_equal_uncached() {
    let ckpt = blocks::checkpoint();
    let load = || OnDevice::gpu(&ckpt, LoadOptions::default());
    let (mut cached, mut uncached) = (load(), load());
    for (what, options) in blocks::cached_cases(ckpt.config()) {
        let plan = Plan::new(&options).unwrap();
        let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
        println!(
            "{what}: {} steps, largest difference {largest:e}",
            plan.nfe()
        );
    }
}

/// Generations of published SetDLMs, token for token, also past the context.
#[test]
fn golden_family_sets() {
    let ran = sets_sampling::check_sampling(|ckpt| OnDevice::gpu(ckpt, LoadOptions::default()));
    println!("{ran} traces");
}

#[test]
fn cached_sets_equal_uncached() {
    let ckpt = sets_sampling::checkpoint();
    let mut gpu = OnDevice::gpu(&ckpt, LoadOptions::default());
    sets_sampling::check_cached(&ckpt, &mut gpu, checks::GOLDEN);
}

fn check_cached(weights: Weights) {
    let ckpt = stories();
    let load = || {
        let options = LoadOptions {
            weights: Some(weights),
            ..Default::default()
        };
        OnDevice::gpu(&ckpt, options)
    };
    let (mut cached, mut uncached) = (load(), load());
    for (what, options) in checks::cached_cases(ckpt.config()) {
        // Both phases in one plan are enough to tell whether fewer bits change anything.
        if weights != Weights::F32 && what != "alpha_0 = 0.5" {
            continue;
        }
        let plan = Plan::new(&options).unwrap();
        let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
        println!(
            "{weights}, {what}: {} steps, largest difference {largest:e}",
            plan.nfe()
        );
    }
}

fn plan(engine: &Engine, known: Vec<Vec<(u32, u32)>>, first_sequence: u32) -> Plan {
    let options = PlanOptions {
        alpha_0: 0.5,
        length: 64,
        known,
        first_sequence,
        ..PlanOptions::new(engine.config(), 1, 16, 5)
    };
    Plan::new(&options).unwrap()
}

fn run_of<'a>(engine: &'a mut Engine, plan: &'a Plan, observe: bool) -> Run<'a> {
    let draw = Draw {
        sampler: Sampler::default(),
        seed: 5,
        ..Draw::default()
    };
    engine.run(plan, draw, observe).unwrap()
}

/// A sequence's text does not depend on its batch, and the same seed gives it again.
#[test]
fn a_text_does_not_depend_on_its_batch() {
    for weights in [Weights::F32, Weights::Q8, Weights::Q4] {
        check_batches(weights);
    }
}

fn check_batches(weights: Weights) {
    let options = LoadOptions {
        weights: Some(weights),
        ..Default::default()
    };
    let mut engine = OnDevice::gpu(&stories(), options).0;
    let known = vec![vec![], vec![(0, 7), (1, 9)], vec![]];
    let batch = plan(&engine, known.clone(), 0);
    let mut run = |plan: &Plan| {
        block_on(run_of(&mut engine, plan, false).finish())
            .unwrap()
            .tokens
    };
    let together = run(&batch);
    assert_eq!(run(&batch), together);
    for (index, known) in known.into_iter().enumerate() {
        let options = PlanOptions {
            alpha_0: 0.5,
            length: 64,
            known: vec![known],
            first_sequence: index as u32,
            ..PlanOptions::new(stories().config(), 1, 16, 5)
        };
        assert_eq!(
            run(&Plan::new(&options).unwrap())[0],
            together[index],
            "{weights}, sequence {index}"
        );
    }
}

/// Nothing is read back unless the text is watched; watching reports each token once, and the text is the same.
#[test]
fn an_unobserved_run_reads_its_tokens_alone() {
    let options = LoadOptions {
        weights: Some(Weights::F16),
        kv_cache: Precision::F16,
        ..Default::default()
    };
    let mut engine = OnDevice::gpu(&stories(), options).0;
    let plan = plan(&engine, vec![vec![]; 2], 0);
    let before = engine.counters();
    let quiet = block_on(run_of(&mut engine, &plan, false).finish()).unwrap();
    let counters = engine.counters().since(&before);
    assert_eq!(counters.bytes_read, 4 * plan.layout().tokens as u64);
    assert!(counters.dispatches > 0 && counters.submits >= plan.nfe() as u64);
    let mut run = run_of(&mut engine, &plan, true);
    let mut seen = vec![vec![None; 64]; 2];
    let mut steps = 0;
    while let Some(event) = block_on(run.next()).unwrap() {
        assert_eq!(event.step, steps);
        steps += 1;
        for token in event.revealed {
            let place = &mut seen[token.sequence as usize][token.position as usize];
            assert!(
                place.replace(token.token).is_none(),
                "a token is revealed once"
            );
        }
    }
    assert_eq!(steps, plan.nfe());
    assert_eq!(block_on(run.finish()).unwrap().tokens, quiet.tokens);
    let seen: Vec<Vec<u32>> = seen
        .into_iter()
        .map(|s| s.into_iter().flatten().collect())
        .collect();
    assert_eq!(seen, quiet.tokens);
}

#[test]
fn numbers_that_overflow_are_an_error() {
    broken::check(&mut OnDevice::gpu(&broken::checkpoint(), LoadOptions::default()).0);
}

/// With a confidence schedule, a GPU writes the same texts as the CPU and reads nothing back; with a threshold, one
/// word per text and pass.
#[test]
fn confidence_chooses_as_on_the_cpu() {
    for ckpt in confidence::checkpoints() {
        let mut cpu = OnDevice::cpu(&ckpt).0;
        let mut gpu = OnDevice::gpu(&ckpt, LoadOptions::default()).0;
        for case in confidence::cases(ckpt.config()) {
            let name = format!("{}: {}", ckpt.config().family, case.name);
            let plan = case.plan();
            let before = gpu.counters();
            let written = confidence::run(&mut gpu, &case, false);
            let read = gpu.counters().since(&before).bytes_read / 4;
            let tokens = plan.layout().tokens as u64;
            match case.options.reveal.threshold {
                None => assert_eq!(read, tokens, "{name}"),
                Some(_) => {
                    let most = tokens + (written.nfe * plan.sequences.len()) as u64;
                    assert!(read > tokens && read <= most, "{name}: {read}");
                }
            }
            let expected = confidence::run(&mut cpu, &case, false);
            assert_eq!(written.tokens, expected.tokens, "{name}");
            assert!(written.nfe <= plan.nfe(), "{name}");
            let watched = confidence::run(&mut gpu, &case, true);
            assert_eq!(watched.tokens, written.tokens, "{name}");
        }
        gpu.close().unwrap();
    }
}

/// A run that is watched and stopped midway leaves nothing behind: the next one on the same engine writes its usual
/// text.
#[test]
fn a_run_after_one_that_was_stopped() {
    let mut engine = OnDevice::gpu(&stories(), LoadOptions::default()).0;
    let plan = plan(&engine, vec![vec![]], 0);
    let whole = block_on(run_of(&mut engine, &plan, true).finish()).unwrap();
    for steps in [1, 3] {
        let mut run = run_of(&mut engine, &plan, true);
        for _ in 0..steps {
            assert!(block_on(run.next()).unwrap().is_some());
        }
        let part = block_on(run.stop()).unwrap();
        let mask = engine.config().mask_index;
        let known = part.tokens[0].iter().filter(|&&token| token != mask);
        assert!((steps..64).contains(&known.count()));
        let again = block_on(run_of(&mut engine, &plan, true).finish()).unwrap();
        assert_eq!(again.tokens, whole.tokens);
    }
    engine.close().unwrap();
}

/// f16 compared with f32 weights on the shipped model under forced decoding: the most likely token agrees at 99 % of
/// positions, and the perplexity of the forced text within 0.5 %.
#[test]
fn half_precision_is_close() {
    let ckpt = stories();
    let (mut full, mut half) = (
        OnDevice::gpu(&ckpt, LoadOptions::default()),
        OnDevice::gpu(
            &ckpt,
            LoadOptions {
                weights: Some(Weights::F16),
                kv_cache: Precision::F16,
                ..Default::default()
            },
        ),
    );
    let plan = Plan::new(&PlanOptions {
        alpha_0: 0.5,
        ..PlanOptions::new(ckpt.config(), 4, 32, 9)
    })
    .unwrap();
    let ids: Vec<u32> = (0..4).collect();
    let mask_index = ckpt.config().mask_index;
    let draw = Draw {
        sampler: Sampler::default(),
        seed: 9,
        ..Draw::default()
    };
    full.start(&plan.layout(), &plan.initial_tokens());
    for step in 0..plan.nfe() {
        full.step(&plan.step_rows(step), &ids, &draw);
    }
    let text = full.tokens();
    let (mut same, mut all, mut nats) = (0, 0, [0.0, 0.0]);
    // Both read the finished text, step by step as it was written.
    for gpu in [&mut full, &mut half] {
        gpu.start(&plan.layout(), &text);
    }
    for step in 0..plan.nfe() {
        let rows = plan.step_rows(step);
        let (a, b) = (full.logits(&rows), half.logits(&rows));
        let vocab = ckpt.config().vocab_size;
        for ((a, b), &row) in a.chunks(vocab).zip(b.chunks(vocab)).zip(&rows.sampled) {
            let token = text[rows.rows[row as usize].target as usize] as usize;
            let [first, second] = [a, b].map(|logits| scores(logits, mask_index as usize, token));
            same += usize::from(first.0 == second.0);
            all += 1;
            nats[0] -= first.1;
            nats[1] -= second.1;
        }
    }
    let ratio = ((nats[1] - nats[0]) / all as f64).exp();
    println!("top-1 agreement {same} of {all}, perplexity ratio {ratio}");
    assert!(same as f64 >= 0.99 * all as f64, "{same} of {all}");
    assert!((ratio - 1.0).abs() < 0.005, "{ratio}");
}

/// The most likely token and the log-probability of `token`, the mask left out.
fn scores(logits: &[f32], mask: usize, token: usize) -> (usize, f64) {
    let kept = || logits.iter().enumerate().filter(|&(v, _)| v != mask);
    let (best, top) = kept().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let mass: f64 = kept().map(|(_, l)| f64::from(l - top).exp()).sum();
    (best, f64::from(logits[token] - top) - mass.ln())
}
