//! The CPU executor compared with the published code's golden numbers, with and without its cache.

use burn::tensor::Device;
use esolm::checkpoint::{Checkpoint, OpenOptions, SHARD_BYTES};
use esolm::executor::Draw;
use esolm::network::store::{stored_form, write_quantised};
use esolm::plan::{Plan, PlanOptions};
use esolm::sampler::Sampler;
use esolm::{Activations, Weights};
use esolm_tests::checks::GOLDEN;
use esolm_tests::golden::{with_biases, without_biases};
use esolm_tests::{
    OnDevice, Reference, Runner, answers, blocks, broken, checkpoint, checks, confidence, decoders,
    family, family_schedules, halves, losses, mixed, samplers, sets, sets_sampling, stories,
};

/// All forms of weights with fewer bits.
const ROUNDED: [(Weights, Activations); 5] = [
    (Weights::F16, Activations::F32),
    (Weights::Q8, Activations::F32),
    (Weights::Q8, Activations::Q8),
    (Weights::Q4, Activations::F32),
    (Weights::Q4, Activations::Q8),
];

#[test]
fn golden_forward() {
    for (model, count) in [("model_a", 14), ("mdlm", 1), ("ar", 1)] {
        let (cases, largest) = checks::check_forward(model, &mut OnDevice::cpu(&checkpoint(model)));
        println!("{model}: {cases} cases, largest difference {largest:e}");
        assert_eq!(cases, count);
    }
}

/// The embedding and the output matrix are read in parts.
#[test]
fn a_wide_vocabulary_gives_the_numbers_of_the_reference() {
    decoders::check_wide(|ckpt| Box::new(OnDevice::cpu(ckpt)));
}

/// adaLN is a property of the tensors, not of the family.
#[test]
fn golden_family_forward() {
    let ran = family::check_forward(|ckpt| Box::new(OnDevice::cpu(ckpt)));
    println!("{ran} cases");
}

/// scaling-dllms' schedules over contiguous blocks, token for token.
#[test]
fn golden_family_schedules() {
    let ran = family_schedules::check_schedules(|ckpt| Box::new(OnDevice::cpu(ckpt)));
    println!("{ran} traces");
}

/// Generations of published BD3-LMs, token for token.
#[test]
fn golden_family_sampling() {
    let ran = blocks::check_sampling(|ckpt| Box::new(OnDevice::cpu(ckpt)));
    println!("{ran} traces");
}

/// Generations of published SetDLMs, token for token, also past the context.
#[test]
fn golden_family_sets() {
    let ran = sets_sampling::check_sampling(OnDevice::cpu);
    println!("{ran} traces");
}

/// When a SetDLM's noise masks each position, and the resulting orders.
#[test]
fn golden_family_set_schedules() {
    println!("{} schedules", sets::check_schedule());
}

/// When the published BD3-LM ends a text.
#[test]
fn golden_family_stop_rules() {
    println!("{} texts", blocks::check_stop_rules());
}

/// Decoders of the Qwen3, Qwen2 and Llama kinds.
#[test]
fn golden_llm_forward() {
    let [cases, passes] = decoders::check_forward(|ckpt| Box::new(OnDevice::cpu(ckpt)));
    println!("{cases} cases, {passes} passes");
}

/// The samplers that decoders were published with.
#[test]
fn golden_llm_traces() {
    let ran = samplers::check_traces(OnDevice::cpu);
    println!("{} traces: {ran:?}", ran.kinds.values().sum::<usize>());
}

/// The answers of chat models, requested as by a user.
#[test]
fn golden_llm_answers() {
    println!("{} answers", answers::check_answers(OnDevice::cpu));
}

/// With fewer bits too, a decoder's text does not depend on its batch.
#[test]
fn golden_llm_company() {
    for case in decoders::cases() {
        let (f32, rounded) = ((Weights::F32, Activations::F32), ROUNDED);
        for (weights, activations) in rounded.into_iter().chain([f32]) {
            decoders::check_company(&case.checkpoint, |ckpt| {
                Box::new(OnDevice::rounded(ckpt, weights, activations))
            });
        }
    }
}

/// Decoders with fewer bits stay close to the published numbers: the effect of 16 bits is hardly noticeable, and 4 bits
/// change no logit by more than the logits' standard deviation.
#[test]
fn golden_llm_rounded() {
    for case in decoders::cases() {
        let pass = case
            .golden
            .names()
            .into_iter()
            .find(|name| name.ends_with(".logits"));
        let pass = pass.unwrap().trim_end_matches(".logits");
        let want = case.golden.f32(&format!("{pass}.logits"));
        let square = |values: &mut dyn Iterator<Item = f32>| {
            let all: Vec<f32> = values.collect();
            (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt()
        };
        let size = square(&mut want.iter().copied());
        for ((weights, activations), bound) in ROUNDED.into_iter().zip([2e-3, 0.05, 0.08, 0.6, 0.6])
        {
            let mut runner = OnDevice::rounded(&case.checkpoint, weights, activations);
            let got = decoders::logits(&case, pass, &mut runner);
            let error = square(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / size;
            println!("{}, {weights}/{activations}: {error}", case.name);
            assert!(
                error < bound,
                "{}, {weights}/{activations}: {error}",
                case.name
            );
        }
    }
}

#[test]
fn golden_family_likelihood() {
    let ran = halves::check_likelihood(|ckpt| Box::new(OnDevice::cpu(ckpt)));
    println!("{ran} cases");
}

#[test]
fn golden_losses() {
    let ar = checkpoint("ar");
    let largest = [
        losses::check_model_a(&mut OnDevice::cpu(&checkpoint("model_a"))),
        losses::check_mdlm(&mut OnDevice::cpu(&checkpoint("mdlm"))),
        losses::check_ar(ar.config(), &mut OnDevice::cpu(&ar)),
    ];
    println!("largest relative differences {largest:?}");
}

#[test]
fn golden_sampling() {
    let traces = checks::check_sampling_model_a(&mut OnDevice::cpu(&checkpoint("model_a")));
    assert_eq!(traces, 6);
    let ar = checkpoint("ar");
    checks::check_sampling_ar(ar.config(), &mut OnDevice::cpu(&ar));
    checks::check_sampling_mdlm(&mut OnDevice::cpu(&checkpoint("mdlm")));
}

#[test]
fn cached_equals_uncached() {
    let ckpt = stories();
    let (mut cached, mut uncached) = (OnDevice::cpu(&ckpt), OnDevice::cpu(&ckpt));
    let own = ckpt.config();
    for config in [own.clone(), mixed::config(own)] {
        for (what, options) in checks::cached_cases(&config) {
            let plan = Plan::new(&options).unwrap();
            let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
            println!(
                "{what}, {}: {} steps, largest difference {largest:e}",
                config.attention,
                plan.nfe()
            );
        }
    }
}

/// An Eso-LM (A) samples from what it was trained to compute, step by step.
#[test]
fn mixed_attention_samples_as_it_was_trained() {
    let ckpt = checkpoint("model_a");
    let mut reference = Reference::load(&ckpt, &Device::flex());
    let steps = mixed::check(ckpt.config(), &mut OnDevice::cpu(&ckpt), &mut reference);
    println!("{steps} steps");
}

#[test]
fn cached_blocks_equal_uncached() {
    let ckpt = blocks::checkpoint();
    let (mut cached, mut uncached) = (OnDevice::cpu(&ckpt), OnDevice::cpu(&ckpt));
    for (what, options) in blocks::cached_cases(ckpt.config()) {
        let plan = Plan::new(&options).unwrap();
        let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
        println!(
            "{what}: {} steps, largest difference {largest:e}",
            plan.nfe()
        );
    }
}

/// Confidence schedules: compared with a plain loop, with and without a cache, alone and in a batch, watched or not.
#[test]
fn confidence_chooses() {
    let saved = confidence::check(|ckpt| OnDevice::cpu(ckpt).0);
    assert!(saved > 0, "no threshold ended anything early");
    println!("{saved} passes saved");
}

#[test]
fn cached_sets_equal_uncached() {
    let ckpt = sets_sampling::checkpoint();
    sets_sampling::check_cached(&ckpt, &mut OnDevice::cpu(&ckpt), GOLDEN);
    let (mut cached, mut uncached) = (OnDevice::cpu(&ckpt), OnDevice::cpu(&ckpt));
    for (what, options) in sets_sampling::ordered_cases(ckpt.config()) {
        let plan = Plan::new(&options).unwrap();
        checks::check_cached(what, &plan, &mut cached, &mut uncached);
    }
}

#[test]
fn numbers_that_overflow_are_an_error() {
    broken::check(&mut OnDevice::cpu(&broken::checkpoint()).0);
}

#[test]
fn unusable_batches_end_in_a_sentence() {
    use esolm::engine::Engine;
    use esolm::rows::{Layout, Row, StepRows};
    let mut cpu = OnDevice::cpu(&checkpoint("model_a")).0;
    let layout = |sequences, slots, tokens| Layout {
        sequences,
        slots,
        tokens,
    };
    let message = |result: Result<(), esolm::EngineError>| result.unwrap_err().to_string();
    let short = message(cpu.start(&layout(1, 4, 4), &[1, 2]));
    assert!(short.contains("2 tokens for a layout of 4"), "{short}");
    let foreign = message(cpu.start(&layout(1, 2, 2), &[1, 97]));
    assert!(foreign.contains("token 97"), "{foreign}");
    // A batch that does not fit leaves nothing behind that could be taken for the next one's cache.
    let inside = |slot: u32| Row {
        sequence: 0,
        slot,
        position: slot,
        prefix: slot + 1,
        own: [slot + 1; 2],
        source: slot,
        target: slot,
    };
    let pass = StepRows {
        rows: vec![inside(0), inside(1)],
        sampled: vec![1],
    };
    let forward = |cpu: &mut Engine| {
        pollster::block_on(cpu.forward(&layout(1, 2, 2), &[1, 2], &pass)).unwrap()
    };
    let before = forward(&mut cpu);
    let large = message(cpu.start(&layout(1 << 20, 1 << 20, 1), &[1]));
    assert!(
        large.contains("a batch of 1048576 sequences of 1048576 slots needs"),
        "{large}"
    );

    assert_eq!(forward(&mut cpu), before);

    cpu.start(&layout(1, 2, 2), &[1, 2]).unwrap();
    let row = Row {
        sequence: 0,
        slot: 2,
        position: 0,
        prefix: 1,
        own: [2, 3],
        source: 0,
        target: 0,
    };
    let step = StepRows {
        rows: vec![row],
        sampled: vec![0],
    };
    let outside = pollster::block_on(cpu.logits(&step))
        .unwrap_err()
        .to_string();
    assert!(outside.contains("row 0"), "{outside}");
    let empty = pollster::block_on(cpu.logits(&StepRows::default())).unwrap();
    assert!(empty.is_empty());
}

/// The same (seed, sequence) gives the same text alone, in a batch and after a different first sequence.
#[test]
fn a_text_does_not_depend_on_its_batch() {
    check_batches(Weights::F32, Activations::F32);
    for (weights, activations) in ROUNDED {
        check_batches(weights, activations);
    }
}

fn check_batches(weights: Weights, activations: Activations) {
    let ckpt = stories();
    let mut cpu = OnDevice::rounded(&ckpt, weights, activations);
    let mut texts = |first_sequence: u32, batch: usize| {
        let plan = Plan::new(&PlanOptions {
            alpha_0: 0.6,
            first_sequence,
            ..PlanOptions::new(ckpt.config(), batch, 12, 9)
        })
        .unwrap();
        let ids = plan.ids();
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 9,
            ..Draw::default()
        };
        cpu.start(&plan.layout(), &plan.initial_tokens());
        let mut logits = vec![Vec::new(); batch];
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let all = cpu.logits(&step);
            for (&row, logit) in step.sampled.iter().zip(all.chunks(plan.vocab_size)) {
                logits[step.rows[row as usize].sequence as usize].extend_from_slice(logit);
            }
            cpu.step(&step, &ids, &draw);
        }
        let texts = plan.output(&cpu.tokens());
        texts.into_iter().zip(logits).collect::<Vec<_>>()
    };
    let batch = texts(4, 5);
    for (index, expected) in (0..).zip(&batch) {
        let name = format!("{weights} {activations}, sequence {}", 4 + index);
        assert!(texts(4 + index, 1)[0] == *expected, "{name}");
    }
}

/// A folder that is removed on drop.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esolm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Stored weights equal those that the engine would quantise, code for code: logits are the same bit for bit, also for
/// networks that are too narrow for whole groups, and storing them again gives the same file.
#[test]
fn stored_weights_are_those_that_are_rounded() {
    let folder = Folder::new("stored");
    let open = |path: &std::path::Path| {
        let options = OpenOptions::default();
        Checkpoint::open(&path.to_string_lossy(), &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden");
    let family = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden-family");
    let of_file = |folder: &str, name: &str| open(&std::path::Path::new(folder).join(name));
    let decoders = decoders::cases()
        .into_iter()
        .map(|case| (file_stem(&case.name), case.checkpoint));
    let networks = [
        ("stories", stories()),
        ("mdlm", checkpoint("mdlm")),
        ("ar", checkpoint("ar")),
        ("mini_esolm", of_file(golden, "mini_esolm.ckpt")),
        ("mini_ar", of_file(golden, "mini_ar.ckpt")),
        ("owt_ar", of_file(family, "setdlm/owt_ar")),
        ("owt_setdlm", of_file(family, "setdlm/owt_setdlm_smax8")),
        ("mdlm with biases", with_biases("mdlm")),
        ("ar with biases", with_biases("ar")),
        ("ar without biases", without_biases("ar")),
    ];
    let networks = networks.map(|(name, ckpt)| (name.to_string(), ckpt));
    for (name, ckpt) in networks.into_iter().chain(decoders) {
        for weights in [Weights::Q8, Weights::Q4] {
            let [once, twice] =
                ["once", "twice"].map(|copy| folder.0.join(format!("{name}-{weights}-{copy}")));
            write_quantised(&ckpt, &once, weights, SHARD_BYTES).unwrap();
            let stored = open(&once);
            assert_eq!(stored.config().cond_dim, 0);
            let form = pollster::block_on(stored_form(&stored)).unwrap();
            assert_eq!(form, weights, "{name}");
            for activations in [Activations::F32, Activations::Q8] {
                let rounded =
                    checks::text_logits(&ckpt, &mut OnDevice::rounded(&ckpt, weights, activations));
                let read =
                    checks::text_logits(&ckpt, &mut OnDevice::as_stored(&stored, activations));
                assert!(
                    rounded == read,
                    "{name} in {weights} with {activations} activations"
                );
            }
            // As floats, it computes with the weights that the codes represent. What stayed floats in a narrow network
            // is quantised in the other run, which in 4 bits moves the large logits of decoders too far to compare.
            if !is_narrow(&ckpt) || ckpt.config().decoder.is_none() {
                let mut device = OnDevice::rounded(&ckpt, weights, Activations::F32);
                let rounded = checks::text_logits(&ckpt, &mut device);
                let floats = checks::text_logits(&ckpt, &mut OnDevice::cpu(&stored));
                let bound = if is_narrow(&ckpt) { 1.0 } else { 1e-3 };
                checks::assert_close(&name, &floats, &rounded, bound);
            }

            write_quantised(&stored, &twice, weights, SHARD_BYTES).unwrap();
            for file in ["model.safetensors", "config.json"] {
                let read = |path: &std::path::Path| std::fs::read(path.join(file)).unwrap();
                assert!(read(&once) == read(&twice), "{name} in {weights}: {file}");
            }
        }
    }
}

/// The name of a case, whose file has a path.
fn file_stem(path: &str) -> String {
    let stem = std::path::Path::new(path).file_stem().unwrap();
    stem.to_string_lossy().into_owned()
}

/// Weights that are too many for one file are split into several, and read as the same, bit for bit.
#[test]
fn a_decoder_is_stored_in_several_files() {
    let folder = Folder::new("sharded");
    const MOST: u64 = 20_000;
    for case in decoders::cases() {
        let ckpt = case.checkpoint;
        let out = folder.0.join(file_stem(&case.name));
        let names = write_quantised(&ckpt, &out, Weights::Q8, MOST).unwrap();
        let stored = Checkpoint::open(&out.to_string_lossy(), &OpenOptions::default()).unwrap();
        let logits = |ckpt: &Checkpoint| {
            let mut device = OnDevice::rounded(ckpt, Weights::Q8, Activations::F32);
            checks::text_logits(ckpt, &mut device)
        };
        assert!(logits(&ckpt) == logits(&stored), "{}", case.name);
        let (index, shards) = names.split_last().unwrap();
        assert!(
            index == "model.safetensors.index.json" && shards.len() > 2,
            "{names:?}"
        );
        let mut all = 0;
        for shard in shards {
            let bytes = std::fs::read(out.join(shard)).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let sizes = file.iter().map(|(_, tensor)| tensor.data().len());
            let sizes: Vec<usize> = sizes.collect();
            let values = sizes.iter().sum::<usize>() as u64;
            assert!(values <= MOST || sizes.len() == 1, "{shard}: {values}");
            all += sizes.len();
        }
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join(index)).unwrap()).unwrap();
        assert_eq!(index["weight_map"].as_object().unwrap().len(), all);
    }
}

/// Matrices without whole groups are stored as floats.
fn is_narrow(ckpt: &Checkpoint) -> bool {
    let is_narrow = |shape: &[usize]| matches!(shape, [_, inputs] if !inputs.is_multiple_of(32));
    ckpt.parameters().any(|matrix| is_narrow(&matrix.shape))
}

/// Groups of other sizes, and matrices into which something is still to be folded, would have to be quantised again:
/// they are held in f16.
#[test]
fn what_would_be_rounded_twice_is_held_in_f16() {
    let folder = Folder::new("rounded-twice");
    let form = |ckpt: &Checkpoint| pollster::block_on(stored_form(ckpt)).unwrap();
    assert_eq!(form(&stories()), Weights::F32);
    write_quantised(&stories(), &folder.0, Weights::Q8, SHARD_BYTES).unwrap();
    let path = |name: &str| folder.0.join(name);
    let weights = std::fs::read(path("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(path("config.json")).unwrap();
    let whole = Checkpoint::from_safetensors_bytes(&config, weights.clone()).unwrap();
    assert_eq!(form(&whole), Weights::Q8);
    // A matrix that is stored as floats would be quantised.
    let floats = whole.f32("blocks.1.attn_out.weight").unwrap();
    let floats: Vec<u8> = floats
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let mixed = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let of_matrix = |name: &str| name.starts_with("backbone.blocks.1.attn_out.");
    let mut mixed = mixed.tensors();
    mixed.retain(|(name, _)| !of_matrix(name) || name.ends_with(".bias"));
    let shape = vec![whole.config().hidden; 2];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &floats);
    mixed.push(("backbone.blocks.1.attn_out.weight".into(), view.unwrap()));
    let mixed = safetensors::serialize(mixed, None).unwrap();
    let mixed = Checkpoint::from_safetensors_bytes(&config, mixed).unwrap();
    assert_eq!(form(&mixed), Weights::F16);
    // Changes the last value of the last layer norm in the file.
    let mut scaled = weights;
    let end = scaled.len() - 4;
    scaled[end..].copy_from_slice(&1.5f32.to_le_bytes());
    let scaled = Checkpoint::from_safetensors_bytes(&config, scaled).unwrap();
    assert_eq!(form(&scaled), Weights::F16);
    checks::text_logits(&scaled, &mut OnDevice::as_stored(&scaled, Activations::F32));
}
