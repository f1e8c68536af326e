//! Decoders of the Qwen3, Qwen2 and Llama kinds on the GPU path.

use esolm::checkpoint::Checkpoint;
use esolm::device::{DeviceChoice, Precision, open};
use esolm::executor::Executor;
use esolm::gpu::GpuExecutor;
use esolm::plan::SlotMove;
use esolm::rows::{Layout, NO_TARGET, Row, StepRows, own_slot};
use esolm::{Activations, LoadOptions, Weights};
use esolm_tests::answers::check_answers;
use esolm_tests::checks::assert_close;
use esolm_tests::decoders::{Case, LOGITS, cases, check_forward, check_wide, logits};
use esolm_tests::samplers::check_traces;
use esolm_tests::{OnDevice, Runner};
use pollster::block_on;

/// Every selection that runs kernels other than this adapter would choose.
const VARIANTS: [&str; 3] = [
    "few=rows,many=rows,attention=split",
    "few=split,many=tile,attention=tile",
    "few=split,many=split,attention=rows",
];

/// The recorded passes of a case.
fn passes(case: &Case) -> Vec<String> {
    let names = case.golden.names();
    let passes = names.iter().filter_map(|name| name.strip_suffix(".logits"));
    let passes: Vec<String> = passes.map(String::from).collect();
    assert!(!passes.is_empty(), "{}: no pass", case.name);
    passes
}

fn on_gpu(ckpt: &Checkpoint, options: LoadOptions) -> Box<dyn Runner> {
    Box::new(OnDevice::gpu(ckpt, options))
}

/// The network of a case, and a batch of two short sequences with their tokens.
fn opened(case: &Case) -> (GpuExecutor, Layout, Vec<u32>) {
    let gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
    let options = LoadOptions::default();
    let executor = block_on(GpuExecutor::load(gpu, &case.checkpoint, &options)).unwrap();
    let layout = Layout {
        sequences: 2,
        slots: 6,
        tokens: 12,
    };
    (executor, layout, (0..12).map(|i| (3 * i) % 11).collect())
}

#[test]
fn golden_llm_forward() {
    let [cases, passes] = check_forward(|ckpt| on_gpu(ckpt, LoadOptions::default()));
    println!("{cases} cases, {passes} passes");
}

/// The embedding and the output matrix are read in parts, and lie in several slices where a binding is small.
#[test]
fn a_wide_vocabulary_gives_the_numbers_of_the_reference() {
    check_wide(|ckpt| on_gpu(ckpt, LoadOptions::default()));
}

/// The samplers that decoders were published with.
#[test]
fn golden_llm_traces() {
    let ran = check_traces(|ckpt| OnDevice::gpu(ckpt, LoadOptions::default()));
    println!("{} traces: {ran:?}", ran.kinds.values().sum::<usize>());
}

/// The answers of chat models.
#[test]
fn golden_llm_answers() {
    let asked = check_answers(|ckpt| OnDevice::gpu(ckpt, LoadOptions::default()));
    println!("{asked} answers");
}

/// Every kernel variant gives the published numbers, whatever this adapter would choose.
#[test]
fn golden_llm_forward_in_every_variant() {
    for variants in VARIANTS {
        check_forward(|ckpt| {
            let variants = variants.parse().unwrap();
            on_gpu(
                ckpt,
                LoadOptions {
                    variants,
                    ..LoadOptions::default()
                },
            )
        });
    }
}

/// Quantised weights are the same on every device, also if the output matrix is the embedding, and so are the resulting
/// numbers, except for rounding.
#[test]
fn golden_llm_fewer_bits_give_the_numbers_of_the_cpu() {
    for case in cases() {
        for (weights, variants) in [Weights::F16, Weights::Q8, Weights::Q4]
            .into_iter()
            .zip(VARIANTS)
        {
            let mut cpu = OnDevice::rounded(&case.checkpoint, weights, Activations::F32);
            let options = LoadOptions {
                weights: Some(weights),
                variants: variants.parse().unwrap(),
                ..LoadOptions::default()
            };
            let mut gpu = OnDevice::gpu(&case.checkpoint, options);
            for pass in &passes(&case) {
                let (got, want) = (logits(&case, pass, &mut gpu), logits(&case, pass, &mut cpu));
                let what = format!("{}, {weights}, {variants}, {pass}", case.name);
                let largest = assert_close(&what, &got, &want, LOGITS);
                println!("{what}: largest difference {largest:e}");
            }
        }
    }
}

/// With a 16-bit cache, the numbers stay close to the published ones: rounding is a few thousandths of them.
#[test]
fn golden_llm_half_a_cache_is_close() {
    for case in cases() {
        let options = LoadOptions {
            kv_cache: Precision::F16,
            ..LoadOptions::default()
        };
        let mut gpu = OnDevice::gpu(&case.checkpoint, options);
        let pass = &passes(&case)[0];
        let got = logits(&case, pass, &mut gpu);
        let want = case.golden.f32(&format!("{pass}.logits"));
        let size =
            |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
        let error = size(&mut got.iter().zip(&want).map(|(a, b)| a - b));
        let share = error / size(&mut want.iter().copied());
        println!("{}: {share:e}", case.name);
        assert!(share > 0.0 && share < 3e-3, "{}: {share:e}", case.name);
    }
}

/// A pass of few rows takes five launches per block, and one more if heads are normalised; plus one to embed and one to
/// normalise the sampled rows. When a pass occurs again it is recorded and replayed, with the same numbers, until it
/// reaches positions whose angles have not been computed.
#[test]
fn golden_llm_passes_of_few_rows_are_recorded() {
    for case in cases() {
        let config = case.checkpoint.config();
        let has_norms = config.decoder.is_some_and(|decoder| decoder.has_qk_norm());
        let each = if has_norms { 6 } else { 5 };
        let blocks = config.n_blocks as u64;
        let (mut executor, layout, tokens) = opened(&case);
        let mut run = |first: u32, sampled: &[u32]| {
            executor.start(&layout, &tokens).unwrap();
            // The sampled rows are neither the first ones nor neighbours.
            let rows = [(0, 3, 2), (0, 1, 2), (0, 0, 1), (1, 0, 1), (1, 2, 1)];
            let rows = rows.map(|(sequence, slot, prefix)| Row {
                sequence,
                slot,
                position: first + slot,
                prefix,
                own: own_slot(slot, prefix),
                source: 6 * sequence + slot,
                target: NO_TARGET,
            });
            let step = StepRows {
                rows: rows.into(),
                sampled: sampled.to_vec(),
            };
            let before = executor.counters();
            let keys = vec![[0; 2]; sampled.len()];
            executor.pass(&step, &keys).unwrap();
            let launches = executor.counters().since(&before).dispatches;
            (launches, block_on(executor.logits()).unwrap())
        };
        let (_, all) = run(0, &[0, 1, 2, 3, 4]);
        let (launches, near) = run(0, &[0, 2, 4]);
        assert_eq!(launches, each * blocks + 2, "{}", case.name);
        for (row, logits) in [0, 2, 4].into_iter().zip(near.chunks(config.vocab_size)) {
            let of_all = &all[row * config.vocab_size..][..config.vocab_size];
            assert_close("a row among others", logits, of_all, 1e-4);
        }
        for _ in 0..3 {
            assert_eq!(run(0, &[0, 2, 4]), (launches, near.clone()));
            let (launches, none) = run(0, &[]);
            let last = if has_norms { 2 } else { 1 };
            let expected = each * (blocks - 1) + last + 1;
            assert_eq!((launches, none.len()), (expected, 0));
        }
        // Only distances matter, and the angles of all positions are computed in f32.
        for first in [1000, 5000, 1000, 5000] {
            let (launches_there, there) = run(first, &[0, 2, 4]);
            assert_eq!(launches_there, launches);
            assert_close(&format!("from {first} on"), &there, &near, 0.1);
        }
    }
}

/// Keys and values that are moved to another slot are those that were computed there, however wide they are.
#[test]
fn slots_are_moved_whole() {
    for case in cases() {
        let (mut executor, layout, tokens) = opened(&case);
        let row = |position: u32, slot: u32| Row {
            sequence: 1,
            slot,
            position,
            prefix: position,
            own: own_slot(slot, position),
            source: 6 + position,
            target: NO_TARGET,
        };
        let mut run = |third: u32| {
            executor.start(&layout, &tokens).unwrap();
            for (position, slot) in [(0, 0), (1, 1), (2, third), (3, 5)] {
                if position == 3 && third != 2 {
                    let moved = SlotMove {
                        sequence: 1,
                        from: third,
                        to: 2,
                    };
                    executor.move_slots(&[moved]).unwrap();
                }
                let step = StepRows {
                    rows: vec![row(position, slot)],
                    sampled: vec![0],
                };
                executor.pass(&step, &[[0; 2]]).unwrap();
            }
            block_on(executor.logits()).unwrap()
        };
        assert_eq!(run(4), run(2), "{}", case.name);
    }
}
