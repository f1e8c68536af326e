//! Golden numbers of decoders of the Qwen3, Qwen2 and Llama kinds. `ESOLM_GOLDEN_LLM` names a folder of such files to
//! use instead of the repository's.
//!
//! Every `forward/NAME.json` is a case; its numbers are in `NAME.safetensors` next to it, and its field `model` names
//! the folder of its network. Tensor names say what they are: `causal`, `causal_far`, `bidir` and `blockN` are the
//! masks of a pass over `ids` (`ids_masked` for `bidir`); `blockN.noisy` is a block after the first eight tokens, whose
//! cache is in `blockN.cache`.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use esolm::checkpoint::{
    Checkpoint, CheckpointError, Dtype, OpenOptions, SafetensorsWriter, TensorSpec,
};
use esolm::config::{Family, ModelConfig, ReadAs};
use esolm::network::{DecoderNetwork, StepInput};
use esolm::rng::{Purpose, Stream};
use esolm::rows::{Layout, NO_TARGET, Row, StepRows};
use serde_json::{Value, json};

use crate::checks::assert_close;
use crate::golden::repository;
use crate::{Golden, Reference, Runner};

/// Maximum difference from the published code's logits, whose standard deviation is about 3.5.
pub const LOGITS: f32 = 2e-4;
/// Maximum difference of keys and values.
pub const CACHE: f32 = 2e-5;
/// Tokens whose keys and values are recorded.
const CACHED: usize = 8;

/// A forward pass of the published code, and its network.
pub struct Case {
    /// Its file.
    pub name: String,
    /// The network.
    pub checkpoint: Checkpoint,
    /// The input of its pass.
    pub json: Value,
    /// Its numbers.
    pub golden: Golden,
}

/// The folder of the golden files.
pub fn folder() -> PathBuf {
    let folder = std::env::var_os("ESOLM_GOLDEN_LLM");
    folder.map_or_else(|| repository("tests/fixtures/golden-llm"), PathBuf::from)
}

/// All forward cases.
///
/// # Panics
/// If there is none, or one cannot be read.
pub fn cases() -> Vec<Case> {
    let folder = folder();
    let forward = folder.join("forward");
    let entries =
        std::fs::read_dir(&forward).unwrap_or_else(|e| panic!("{}: {e}", forward.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    assert!(!files.is_empty(), "no case in {}", forward.display());
    let read = |path: &PathBuf| {
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        Case {
            name: path.display().to_string(),
            checkpoint: open(&folder.join(json["model"].as_str().unwrap()), &json),
            golden: Golden::read(&path.with_extension("safetensors")),
            json,
        }
    };
    files.iter().map(read).collect()
}

/// A golden network. Some have a configuration that fits both an MDLM and a BD3-LM, and not all name their mask, which
/// is the third token from the end.
pub fn open(folder: &Path, json: &Value) -> Checkpoint {
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let is_open = (config["model_type"].as_str()).is_some_and(|name| name.starts_with("a2d"));
    let vocab = config["vocab_size"].as_u64().unwrap() as u32;
    let mask = json["mask_id"].as_u64().map(|mask| mask as u32);
    let open = |mask| {
        let options = OpenOptions {
            read_as: ReadAs {
                family: is_open.then_some(Family::Mdlm),
                block_size: None,
                mask,
            },
            ..OpenOptions::default()
        };
        Checkpoint::open(&folder.to_string_lossy(), &options)
    };
    match open(mask) {
        Err(CheckpointError::Config { source, .. })
            if source.to_string().contains("mask_token_id") =>
        {
            open(Some(vocab - 3)).unwrap()
        }
        opened => opened.unwrap_or_else(|error| panic!("{}: {error}", folder.display())),
    }
}

impl Case {
    fn ids(&self, field: &str) -> Vec<u32> {
        let list = self.json[field].as_array();
        let list = list.unwrap_or_else(|| panic!("{}: no {field}", self.name));
        list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    /// The last parts of the names of recorded passes that are logits, with their block sizes: `["causal", "block4",
    /// "block4.noisy"...]`.
    fn passes(&self) -> Vec<String> {
        let names = self.golden.names();
        names
            .iter()
            .filter_map(|name| name.strip_suffix(".logits").map(String::from))
            .collect()
    }
}

/// One row per token, at positions from `first` on, which sees the slots below `seen`; logits are computed from row
/// `from` on.
fn pass(slots: std::ops::Range<usize>, first: usize, seen: impl Fn(usize) -> usize) -> StepRows {
    let row = |slot: usize| Row {
        sequence: 0,
        slot: slot as u32,
        position: (first + slot) as u32,
        prefix: seen(slot) as u32,
        own: [seen(slot) as u32; 2],
        source: slot as u32,
        target: NO_TARGET,
    };
    StepRows {
        sampled: (0..slots.len() as u32).collect(),
        rows: slots.map(row).collect(),
    }
}

fn start(runner: &mut dyn Runner, tokens: &[u32]) {
    let layout = Layout {
        sequences: 1,
        slots: tokens.len(),
        tokens: tokens.len(),
    };
    runner.start(&layout, tokens);
}

/// The end of the block that a slot is in.
fn block_end(slot: usize, block: usize, length: usize) -> usize {
    ((slot / block + 1) * block).min(length)
}

/// Logits of a recorded pass, by its name.
pub fn logits(case: &Case, name: &str, runner: &mut dyn Runner) -> Vec<f32> {
    let (mask, noisy) = match name.split_once('.') {
        Some((mask, "noisy")) => (mask, true),
        Some(_) => panic!("{}: no pass is called {name}", case.name),
        None => (name, false),
    };
    let block = mask.strip_prefix("block").map(|size| size.parse().unwrap());
    if let (Some(block), true) = (block, noisy) {
        return over_cache(case, block, runner);
    }
    let mut tokens = case.ids(if mask == "bidir" { "ids_masked" } else { "ids" });
    let vocab = case.checkpoint.config().vocab_size;
    let length = tokens.len();
    let step = match (mask, block) {
        (_, Some(block)) => pass(0..length, 0, |slot| block_end(slot, block, length)),
        ("causal", _) => pass(0..length, 0, |slot| slot + 1),
        ("bidir", _) => pass(0..length, 0, |_| length),
        ("causal_far", _) => {
            let far = case.json["far_position"].as_u64().unwrap() as usize;
            let count = case.golden.shape("causal_far.logits")[0];
            // Positions beyond the context are possible if a text is as long.
            tokens.resize(far + count, 0);
            pass(0..count, far, |slot| slot + 1)
        }
        (mask, _) => panic!("{}: no mask is called {mask}", case.name),
    };
    assert_eq!(case.golden.shape(&format!("{name}.logits"))[1], vocab);
    start(runner, &tokens);
    runner.logits(&step)
}

/// Logits of a noisy block over the clean tokens before it.
fn over_cache(case: &Case, block: usize, runner: &mut dyn Runner) -> Vec<f32> {
    let mut tokens = case.ids("ids")[..CACHED].to_vec();
    tokens.extend(case.ids(&format!("block{block}.noisy")));
    let length = tokens.len();
    let mut clean = pass(0..CACHED, 0, |slot| block_end(slot, block, length));
    let mut noisy = pass(CACHED..length, 0, |_| length);
    start(runner, &tokens);
    if runner.has_cache() {
        runner.logits(&clean);
        return runner.logits(&noisy);
    }
    // All rows at once, with the logits of the last ones.
    noisy
        .sampled
        .iter_mut()
        .for_each(|row| *row += CACHED as u32);
    clean.rows.append(&mut noisy.rows);
    clean.sampled = noisy.sampled;
    runner.logits(&clean)
}

/// Every recorded pass of every case on a runner; returns how many cases and how many passes there were.
pub fn check_forward(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) -> [usize; 2] {
    let (cases, mut passes) = (cases(), 0);
    for case in &cases {
        let mut runner = load(&case.checkpoint);
        let mut largest = 0.0f32;
        let names = case.passes();
        for name in &names {
            let got = logits(case, name, &mut *runner);
            let want = case.golden.f32(&format!("{name}.logits"));
            let what = format!("{}, {name}", case.name);
            largest = largest.max(assert_close(&what, &got, &want, LOGITS));
        }
        assert!(!names.is_empty(), "{}: no pass", case.name);
        passes += names.len();
        println!(
            "{}: {}, largest difference {largest:e}",
            case.name,
            names.join(", ")
        );
    }
    [cases.len(), passes]
}

/// Hidden states, and the keys and values for a cache, of the unfolded network; returns how many arrays were compared.
pub fn check_states(device: &Device) -> usize {
    let mut compared = 0;
    for case in cases() {
        let network = DecoderNetwork::load(&case.checkpoint, device).unwrap();
        for name in case.golden.names() {
            let arrays = match name.split('.').collect::<Vec<_>>()[..] {
                ["bidir", "hidden", "0"] => {
                    let tokens = case.ids("ids_masked");
                    let step = pass(0..tokens.len(), 0, |_| tokens.len());
                    states(&network, &tokens, &step, "bidir.hidden")
                }
                [mask, "cache", "k", "0"] => {
                    let block: usize = mask.strip_prefix("block").unwrap().parse().unwrap();
                    let tokens = &case.ids("ids")[..CACHED];
                    let step = pass(0..CACHED, 0, |slot| block_end(slot, block, CACHED));
                    states(&network, tokens, &step, &format!("{mask}.cache"))
                }
                _ => continue,
            };
            for (name, values) in arrays {
                // Not all of them are recorded for every case.
                if case.golden.has(&name) {
                    let want = case.golden.f32(&name);
                    assert_close(&format!("{}, {name}", case.name), &values, &want, CACHE);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 0, "no states");
    compared
}

/// Intermediate results of a pass, by the names of golden arrays.
fn states(
    network: &DecoderNetwork,
    tokens: &[u32],
    step: &StepRows,
    at: &str,
) -> Vec<(String, Vec<f32>)> {
    let device = network.embedding.weight.val().device();
    let input = StepInput::new(tokens, step, 0, &device);
    let rotary = network.rotary(input.positions);
    let values = |tensor: TensorData| tensor.try_to_vec::<f32>().unwrap();
    let mut x = network.embedding.forward(input.tokens);
    let mut all = vec![(format!("{at}.0"), values(x.clone().into_data()))];
    for (index, layer) in network.layers.iter().enumerate() {
        let [k, v] = (layer.attention).keys_values(layer.norm1.forward(x.clone()), &rotary);
        all.push((format!("{at}.k.{index}"), values(k.into_data())));
        all.push((format!("{at}.v.{index}"), values(v.into_data())));
        x = layer.forward(x, &rotary, Some(&input.mask));
        all.push((format!("{at}.{}", index + 1), values(x.clone().into_data())));
    }
    let last = network.norm.forward(x);
    all.push((format!("{at}.final_norm"), values(last.into_data())));
    all
}

/// A text's logits are the same, bit for bit, alone and together with others, in one pass and token by token.
pub fn check_company(ckpt: &Checkpoint, mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) {
    let vocab = ckpt.config().vocab_size;
    let text = |number: usize| {
        let length = 9 + 4 * number;
        let token = |i: usize| ((7 * i + 13 * number) % vocab) as u32;
        (0..length).map(token).collect::<Vec<u32>>()
    };
    let texts: Vec<Vec<u32>> = (0..3).map(text).collect();
    let slots = texts.iter().map(Vec::len).max().unwrap();
    let layout = |sequences| Layout {
        sequences,
        slots,
        tokens: sequences * slots,
    };
    let mut tokens = vec![0; 3 * slots];
    let mut together = StepRows::default();
    for (sequence, text) in texts.iter().enumerate() {
        tokens[sequence * slots..][..text.len()].copy_from_slice(text);
        let rows = pass(0..text.len(), 0, |slot| slot + 1).rows;
        together.rows.extend(rows.into_iter().map(|row| Row {
            sequence: sequence as u32,
            source: row.source + (sequence * slots) as u32,
            ..row
        }));
    }
    together.sampled = (0..together.rows.len() as u32).collect();
    let mut runner = load(ckpt);
    runner.start(&layout(3), &tokens);
    let all = runner.logits(&together);
    let mut first = 0;
    for (sequence, text) in texts.iter().enumerate() {
        let beside = &all[first * vocab..][..text.len() * vocab];
        first += text.len();
        let own = &tokens[sequence * slots..][..slots];
        let mut alone = load(ckpt);
        alone.start(&layout(1), own);
        let whole = alone.logits(&pass(0..text.len(), 0, |slot| slot + 1));
        assert!(whole == beside, "text {sequence} depends on its batch");
        alone.start(&layout(1), own);
        for slot in 0..text.len() {
            let row = alone.logits(&pass(slot..slot + 1, 0, |slot| slot + 1));
            let what = format!("text {sequence} depends on its passes at {slot}");
            assert!(row == beside[slot * vocab..][..vocab], "{what}");
        }
    }
}

/// A pass over a vocabulary as large as Qwen3's, which is read some thousand tokens at a time and may exceed a binding:
/// rows of tokens at the boundaries of these parts. Weights are random.
pub fn check_wide(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) {
    const VOCAB: usize = 151_936;
    let tokens: [u32; 7] = [0, 4095, 4096, 8191, 75_000, 147_456, 151_935];
    let length = tokens.len();
    for tied in [true, false] {
        let ckpt = random_decoder(VOCAB, 1024, tied);
        let mut pass = pass(0..length, 0, |slot| slot + 1);
        // The logits of a few rows, at 600 KB each, are enough.
        pass.sampled = vec![0, 3, 6];
        let logits = |mut runner: Box<dyn Runner>| {
            start(&mut *runner, &tokens);
            runner.logits(&pass)
        };
        let want = logits(Box::new(Reference::load(&ckpt, &Device::flex())));
        assert_eq!(want.len(), 3 * VOCAB);
        let got = logits(load(&ckpt));
        let largest = assert_close("a wide vocabulary", &got, &want, LOGITS);
        println!("tied: {tied}, largest difference {largest:e}");
    }
}

/// A decoder of one layer with random f16 weights, norms near one.
fn random_decoder(vocab: usize, hidden: usize, tied: bool) -> Checkpoint {
    let config = json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": hidden, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64,
        "vocab_size": vocab, "tie_word_embeddings": tied,
    })
    .to_string();
    let specs: Vec<TensorSpec> = (ModelConfig::from_json(&config).unwrap().parameters())
        .into_iter()
        .map(|parameter| TensorSpec::new(parameter.name, Dtype::F16, parameter.shape))
        .collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), &[], &specs).unwrap();
    let mut random = Stream::new(5, 0, Purpose::Other(0));
    for spec in &specs {
        // About +-0.03, and 1.03 or 0.97 for norms: sign and mantissa are random.
        let (base, mask) = match spec.name.contains("norm") {
            true => (0x3c00, 0x003f),
            false => (0x2400, 0x83ff),
        };
        let count: usize = spec.shape.iter().product();
        let halves = (0..count).map(|_| (random.next_u32() as u16 & mask) | base);
        let bytes: Vec<u8> = halves.flat_map(u16::to_le_bytes).collect();
        writer.write_all(&bytes).unwrap();
    }
    Checkpoint::from_safetensors_bytes(&config, writer.finish().unwrap()).unwrap()
}
