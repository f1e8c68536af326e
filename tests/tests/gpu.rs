//! The GPU path compared with the published code's golden numbers, with and without its cache, and its guarantees about
//! memory traffic. Needs a GPU adapter; a software one will do.

#[path = "gpu/decoders.rs"]
mod decoders;

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

/// A pass of few rows takes five launches per block, one to embed and one to normalise the sampled rows; without
/// sampled rows, the last block only writes keys and values. When a pass occurs again it is recorded, and then
/// replayed: with the same numbers, for any tokens.
#[test]
fn passes_of_few_rows_are_recorded() {
    let checkpoint = checkpoint("model_a");
    let gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
    let options = LoadOptions::default();
    let loaded = GpuExecutor::load(gpu, &checkpoint, &options);
    let mut executor = block_on(loaded).unwrap();
    let blocks = checkpoint.config().n_blocks as u64;
    let layout = Layout {
        sequences: 2,
        slots: 6,
        tokens: 12,
    };
    // The sampled rows are neither the first ones nor neighbours.
    let rows: Vec<Row> = [(0, 3, 2), (0, 1, 2), (0, 0, 1), (1, 0, 1), (1, 2, 1)]
        .map(|(sequence, slot, prefix)| Row {
            sequence,
            slot,
            position: slot,
            prefix,
            own: own_slot(slot, prefix),
            source: 6 * sequence + slot,
            target: NO_TARGET,
        })
        .into();
    let mut run = |tokens: &[u32], sampled: &[u32]| {
        executor.start(&layout, tokens).unwrap();
        let step = StepRows {
            rows: rows.clone(),
            sampled: sampled.to_vec(),
        };
        let keys = vec![[0; 2]; sampled.len()];
        let before = executor.counters();
        executor.pass(&step, &keys).unwrap();
        let launches = executor.counters().since(&before).dispatches;
        (launches, block_on(executor.logits()).unwrap())
    };
    let [some, others]: [Vec<u32>; 2] = [3, 7].map(|n| (0..12).map(|i| (n * i) % 11).collect());
    let vocab = checkpoint.config().vocab_size;
    let (_, all) = run(&some, &[0, 1, 2, 3, 4]);
    let (launches, first) = run(&some, &[0, 2, 4]);
    assert_eq!(launches, 5 * blocks + 2);
    for (row, logits) in [0, 2, 4].into_iter().zip(first.chunks(vocab)) {
        for (a, b) in logits.iter().zip(&all[row * vocab..]) {
            assert!((a - b).abs() < 1e-4, "row {row}: {a} is not {b}");
        }
    }
    let (_, of_others) = run(&others, &[0, 2, 4]);
    assert_ne!(first, of_others);
    for _ in 0..3 {
        assert_eq!(run(&some, &[0, 2, 4]), (launches, first.clone()));
        assert_eq!(run(&others, &[0, 2, 4]), (launches, of_others.clone()));
        let (launches, none) = run(&some, &[]);
        assert_eq!((launches, none.len()), (5 * (blocks - 1) + 2, 0));
    }
}

/// A pass is filled up with rows that change nothing: neither the logits of others nor what the cache holds. As many are then launched alike,
/// and give the same numbers whether they are launched, recorded or replayed.
#[test]
fn passes_that_are_filled_up_are_those_of_their_rows() {
    let checkpoint = checkpoint("model_a");
    let vocab = checkpoint.config().vocab_size;
    let layout = Layout {
        sequences: 3,
        slots: 20,
        tokens: 60,
    };
    let tokens: Vec<u32> = (0..60).map(|i| (3 * i) % 11).collect();
    let row = |sequence, slot| Row {
        sequence,
        slot,
        position: slot,
        prefix: slot + 1,
        own: own_slot(slot, slot + 1),
        source: 20 * sequence + slot,
        target: NO_TARGET,
    };
    let open_as = |kind| {
        let mut gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
        gpu.info.kind = kind;
        let options = LoadOptions::default();
        block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap()
    };
    let run = |executor: &mut GpuExecutor, rows: Vec<Row>, sampled: &[u32]| {
        let step = StepRows {
            rows,
            sampled: sampled.to_vec(),
        };
        let before = executor.counters();
        executor.pass(&step, &vec![[0; 2]; sampled.len()]).unwrap();
        let launches = executor.counters().since(&before).dispatches;
        (launches, block_on(executor.logits()).unwrap())
    };
    // Every row sees those before it in its sequence, so its logits do not depend on how many come after it.
    let first = |count: u32| (0..count).map(|r| row(r / 20, r % 20)).collect::<Vec<_>>();
    let mut executor = open_as(AdapterKind::Software);
    executor.start(&layout, &tokens).unwrap();
    let every: Vec<u32> = (0..60).collect();
    let (_, reference) = run(&mut executor, first(60), &every);
    let close = |name: &str, got: &[f32], sampled: &[u32]| {
        assert_eq!(got.len(), sampled.len() * vocab, "{name}");
        for (&row, got) in sampled.iter().zip(got.chunks(vocab)) {
            let want = &reference[row as usize * vocab..][..vocab];
            for (a, b) in got.iter().zip(want) {
                assert!((a - b).abs() < 1e-4, "{name}, row {row}: {a} is not {b}");
            }
        }
    };
    for kind in [AdapterKind::Software, AdapterKind::Discrete] {
        let mut executor = open_as(kind);
        executor.start(&layout, &tokens).unwrap();
        let mut seen = HashMap::new();
        for round in 0..4 {
            for count in [37, 40, 33, 60, 11, 5] {
                let few = [0, 2, 3, count - 1];
                let many: Vec<u32> = (0..count).filter(|r| r % 3 != 1).collect();
                for sampled in [&few[..], &many] {
                    let name = format!("{kind:?}, {count} rows, {}, round {round}", sampled.len());
                    let ran = run(&mut executor, first(count), sampled);
                    close(&name, &ran.1, sampled);
                    let key = (count, sampled.len());
                    assert_eq!(seen.entry(key).or_insert(ran.clone()), &ran, "{name}");
                    // What the cache holds of the first slots.
                    let last = count.min(20) - 1;
                    let (_, alone) = run(&mut executor, vec![row(0, last)], &[0]);
                    close(&format!("{name}, alone"), &alone, &[last]);
                }
            }
        }
        // Of these 15 passes those that are filled up alike are recorded once.
        let expected = match kind {
            AdapterKind::Software => 14,
            _ => 12,
        };
        assert_eq!(executor.recorded(), expected, "{kind:?}");
    }
}

/// Recordings are bounded in number, those that are of use stay, and a pass too long for one submission is recorded too.
#[test]
fn recordings_are_few() {
    let checkpoint = checkpoint("model_a");
    let tokens: Vec<u32> = (0..20).map(|i| (3 * i) % 11).collect();
    let layout = Layout {
        sequences: 1,
        slots: 20,
        tokens: 20,
    };
    for (submit, most_rows, most) in [(None, 8, 32), (Some(1), 1, 1)] {
        let mut gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
        gpu.limits.submit = submit.unwrap_or(gpu.limits.submit);
        let options = LoadOptions::default();
        let mut executor = block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap();
        executor.start(&layout, &tokens).unwrap();
        let chosen = *executor.chosen();
        let mut run = |count: u32, sampled: u32| {
            let rows = (0..count).map(|slot| Row {
                sequence: 0,
                slot,
                position: slot,
                prefix: slot + 1,
                own: own_slot(slot, slot + 1),
                source: slot,
                target: NO_TARGET,
            });
            let step = StepRows {
                rows: rows.collect(),
                sampled: (0..sampled).collect(),
            };
            executor
                .pass(&step, &vec![[0; 2]; sampled as usize])
                .unwrap();
            (executor.recorded(), block_on(executor.logits()).unwrap())
        };
        let shapes = (1..=most_rows).flat_map(|rows| (1..=rows).map(move |wanted| (rows, wanted)));
        // Shapes that are filled up alike share a recording, in which hardware fills up more of them than software.
        let (mut filled, mut held) = (HashSet::new(), 0);
        for (at, (rows, wanted)) in shapes.enumerate() {
            filled.insert([rows, wanted].map(|count| chosen.filled(count as usize)));
            let (_, launched) = run(rows, wanted);
            for _ in 0..2 {
                let (recorded, logits) = run(rows, wanted);
                let expected = most.min(filled.len())..=most.min(at + 1);
                assert!(
                    expected.contains(&recorded),
                    "{rows} rows, {wanted} wanted: {recorded}"
                );
                assert_eq!(logits, launched, "{rows} rows, {wanted} wanted");
                held = recorded;
            }
        }
        // After many passes of one shape those of others make room.
        let (_, launched) = run(most_rows, most_rows);
        for _ in 0..128 {
            assert_eq!(run(1, 1).0, held);
        }
        for _ in 0..3 {
            assert_eq!(run(most_rows, most_rows), (held, launched.clone()));
        }
    }
}

/// What the recordings of a batch hold is free again when the next one of another shape starts.
#[test]
fn recordings_of_old_batches_leave_nothing() {
    let checkpoint = checkpoint("model_a");
    let gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
    let options = LoadOptions::default();
    let mut executor = block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap();
    let mut held = vec![];
    for batch in 0..30 {
        let sequences = 2 + batch % 2;
        let layout = Layout {
            sequences,
            slots: 20,
            tokens: 20 * sequences,
        };
        executor.start(&layout, &vec![1; layout.tokens]).unwrap();
        for wanted in [40, 32, 20, 40, 32, 20, 40, 32, 20, 40, 32, 20] {
            let rows = (0..40).map(|r| Row {
                sequence: r / 20,
                slot: r % 20,
                position: r % 20,
                prefix: r % 20 + 1,
                own: own_slot(r % 20, r % 20 + 1),
                source: r,
                target: NO_TARGET,
            });
            let step = StepRows {
                rows: rows.collect(),
                sampled: (0..wanted).collect(),
            };
            let keys = vec![[0; 2]; wanted as usize];
            executor.pass(&step, &keys).unwrap();
        }
        block_on(executor.logits()).unwrap();
        assert_eq!(executor.recorded(), 3);
        held.push(executor.counters().peak_bytes);
    }
    assert!(held[5..].iter().all(|&bytes| bytes == held[5]), "{held:?}");
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
