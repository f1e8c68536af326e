//! Golden numbers of the family's other code: networks with and without adaLN, whatever their family, in their
//! published formats. `ESOLM_GOLDEN_FAMILY` names a folder of such files to use instead of the repository's.
//!
//! Every `NAME.forward.safetensors` is a case. Its network is next to it as `NAME.ckpt`, as `NAME.weights.safetensors`
//! with `NAME.config.json`, or as a folder `NAME` or `owt_NAME...`; or it is computed from a seed in the file's
//! metadata.

use std::path::{Path, PathBuf};

use esolm::checkpoint::{
    Checkpoint, CheckpointError, Dtype, OpenOptions, SafetensorsWriter, TensorSpec,
};
use esolm::config::Family;
use esolm::rows::{MaskMode, forward_rows};

use crate::checks::{GOLDEN, assert_close};
use crate::golden::repository;
use crate::{Golden, Runner, halves, sets};

/// Runs every case whose network can be run, and returns how many there are.
///
/// # Panics
/// If logits differ, a network is refused for a reason other than its kind, or there is no case.
pub fn check_forward(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) -> usize {
    let mut ran = 0;
    for file in files(FORWARD) {
        let golden = Golden::read(&file);
        let checkpoint = match open(&file, FORWARD, &golden) {
            Ok(checkpoint) => checkpoint,
            Err(error) if is_other_kind(&error.to_string()) => {
                println!("{}: not run: {error}", file.display());
                continue;
            }
            Err(error) => panic!("{}: {error}", file.display()),
        };
        let mut runner = load(&checkpoint);
        let largest = match checkpoint.config().family {
            Family::Bd3Lm => halves::check_forward(&golden, checkpoint.config(), &mut *runner),
            Family::SetDlm => sets::check_forward(&golden, checkpoint.config(), &mut *runner),
            _ => check(&golden, &checkpoint, &mut *runner),
        };
        let config = checkpoint.config();
        println!(
            "{}: {}, conditioning width {}, largest difference {largest:e}",
            file.display(),
            config.family,
            config.cond_dim
        );
        ran += 1;
    }
    assert!(ran > 0, "no case");
    ran
}

/// All files whose names have this ending: from the repository, or from the folder that `ESOLM_GOLDEN_FAMILY` names.
pub(crate) fn files(end: &str) -> Vec<PathBuf> {
    let folder = std::env::var_os("ESOLM_GOLDEN_FAMILY");
    let folder = folder.map_or_else(|| repository("tests/fixtures/golden-family"), PathBuf::from);
    let mut files = Vec::new();
    collect(&folder, end, &mut files);
    files.sort();
    files
}

fn collect(folder: &Path, end: &str, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, end, files);
        } else if path.to_string_lossy().ends_with(end) {
            files.push(path);
        }
    }
}

const FORWARD: &str = ".forward.safetensors";

/// Whether a network is refused because of its kind: uniform noise, or a live time input.
fn is_other_kind(error: &str) -> bool {
    ["Duo", "time_conditioning"]
        .iter()
        .any(|kind| error.contains(kind))
}

/// The network of a case, whose file's name ends in `end`.
pub(crate) fn open(file: &Path, end: &str, golden: &Golden) -> Result<Checkpoint, CheckpointError> {
    let name = file.file_name().unwrap().to_string_lossy().replace(end, "");
    let beside = |end: &str| file.with_file_name(format!("{name}{end}"));
    let open = |path: &Path, config: Option<PathBuf>| {
        let options = OpenOptions {
            config,
            ..OpenOptions::default()
        };
        Checkpoint::open(&path.to_string_lossy(), &options)
    };
    let (ckpt, weights) = (beside(".ckpt"), beside(".weights.safetensors"));
    if ckpt.exists() {
        return open(&ckpt, None);
    }
    let config = Some(beside(".config.json")).filter(|config| config.exists());
    if weights.exists() {
        return match config {
            Some(config) => open(&weights, Some(config)),
            None => Checkpoint::from_safetensors_bytes(
                &described(golden),
                std::fs::read(&weights).unwrap(),
            ),
        };
    }
    let is_folder = |path: &PathBuf| {
        let folder = path.file_name().unwrap().to_string_lossy().to_string();
        let is_named = folder == name || folder.starts_with(&format!("owt_{name}"));
        path.is_dir() && is_named
    };
    let around = std::fs::read_dir(file.parent().unwrap()).unwrap();
    if let Some(folder) = around.map(|entry| entry.unwrap().path()).find(is_folder) {
        return open(&folder, None);
    }
    // Without weights in any format, they are computed.
    let config = config.unwrap_or_else(|| panic!("{}: there is no network", file.display()));
    let config = std::fs::read_to_string(config).unwrap();
    Checkpoint::from_safetensors_bytes(&config, computed(golden))
}

/// A configuration if none is given: the inputs determine the family, and the tensors the sizes.
fn described(golden: &Golden) -> String {
    let names = golden.names();
    let named = |end: &str| {
        names
            .iter()
            .find(|name| name.rsplit('.').next() == Some(end))
    };
    let family = match (named("sort_idx"), named("xt")) {
        (Some(_), _) => "EsoLM",
        (_, Some(_)) => "mdlm",
        _ => "ar",
    };
    let text = named("x0").or(named("sample")).expect("a text");
    format!(
        r#"{{"model_type": "{family}", "model_length": {}, "mask_index": {}}}"#,
        golden.shape(text)[1],
        golden.metadata()["mask_index"]
    )
}

/// Weights that are hashes of their indices: the metadata have the number, shape and sum of each parameter.
fn computed(golden: &Golden) -> Vec<u8> {
    let metadata = golden.metadata();
    let seed: u32 = metadata["seed"].parse().unwrap();
    let (mut specs, mut values) = (Vec::new(), Vec::new());
    for (name, described) in metadata
        .iter()
        .filter(|(name, _)| name.starts_with("backbone."))
    {
        let (number, rest) = described.split_once(" [").unwrap();
        let (shape, sum) = rest.split_once("] sum ").unwrap();
        let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
        let start = number
            .parse::<u32>()
            .unwrap()
            .wrapping_mul(0x9E37_79B1)
            .wrapping_add(seed);
        let count: usize = shape.iter().product();
        let these: Vec<f32> = (0..count as u32)
            .map(|i| weight(name, start.wrapping_add(i)))
            .collect();
        let found: f64 = these.iter().map(|&value| f64::from(value)).sum();
        assert!(
            (found - sum.parse::<f64>().unwrap()).abs() < 1e-4,
            "{name}: {found}, want {sum}"
        );
        specs.push(TensorSpec::new(name.as_str(), Dtype::F32, shape));
        values.push(these);
    }
    let mut writer = SafetensorsWriter::new(Vec::new(), &[("format", "pt")], &specs).unwrap();
    for values in values {
        writer.f32(&values).unwrap();
    }
    writer.finish().unwrap()
}

/// The weight of a parameter at an index of the hash.
fn weight(name: &str, place: u32) -> f32 {
    let mut x = place;
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^= x >> 16;
    let f = (x >> 8) as f32 * 2f32.powi(-23) - 1.0;
    match name {
        _ if name.contains("norm") => 1.0 + f / 8.0,
        _ if name.contains("embedding") => f,
        _ if name.contains("adaLN") && name.ends_with("bias") => 0.125 + f / 2.0,
        _ if name.contains("adaLN") => f / 2.0,
        _ if name.ends_with("bias") => f / 8.0,
        _ if name.contains("sigma_map") => f / 4.0,
        _ if name.contains("attn_qkv") => f / 8.0,
        _ if name.contains("mlp.2.") => f / 16.0,
        _ => f / 8.0,
    }
}

/// The largest difference of logits.
fn check(golden: &Golden, checkpoint: &Checkpoint, runner: &mut dyn Runner) -> f32 {
    let config = checkpoint.config();
    let (mode, input) = match config.family {
        Family::EsoLm => (MaskMode::Causal, "zt_sorted"),
        Family::Mdlm => (MaskMode::Bidirectional, "xt"),
        Family::Ar => (MaskMode::Causal, "x0"),
        Family::Bd3Lm | Family::SetDlm => panic!("its passes have rows of their own"),
    };
    let tokens = golden.rows(input);
    let natural = |t: &Vec<u32>| (0..t.len() as u32).collect();
    let order: Vec<Vec<u32>> = match config.family {
        Family::EsoLm => golden.rows("sort_idx"),
        _ => tokens.iter().map(natural).collect(),
    };
    let (vocab, mask) = (config.vocab_size, config.mask_index);
    let (layout, tokens, step) =
        forward_rows(mode, false, &order, &tokens, None, mask, vocab).unwrap();
    runner.start(&layout, &tokens);
    let mut logits = runner.logits(&step);
    if golden.has("logits") {
        return assert_close("logits", &logits, &golden.f32("logits"), GOLDEN);
    }
    // Old AR models have only log-probabilities, in which the mask has a logit of -1000 and no probability.
    let mut expected = golden.f32("logprobs");
    for (row, expected) in logits.chunks_mut(vocab).zip(expected.chunks_mut(vocab)) {
        assert!(expected[mask as usize] < -900.0);
        (row[mask as usize], expected[mask as usize]) = (f32::NEG_INFINITY, 0.0);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter_mut().for_each(|x| *x -= sum.ln() as f32);
        row[mask as usize] = 0.0;
    }
    assert_close("logprobs", &logits, &expected, GOLDEN)
}
