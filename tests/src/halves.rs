//! Golden numbers of BD3-LMs: passes over noised and clean text, blocks following a cache, losses and bounds.

use std::path::Path;

use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::config::{Family, ModelConfig};
use esolm::forward_process::{Noised, NoisedBlocks, block_times, resample};
use esolm::passes::{Pass, assemble, autoregressive, blocks, diffusion};
use esolm::rows::{Layout, MaskMode, NO_TARGET, Row, StepRows, block_rows};

use crate::checks::{GOLDEN, assert_close};
use crate::golden::repository;
use crate::losses::{check_table, close, f64s, tables};
use crate::{Golden, Runner, family, sets};

/// Every pass of a file; returns the largest difference of logits.
pub fn check_forward(golden: &Golden, config: &ModelConfig, runner: &mut dyn Runner) -> f32 {
    let (size, vocab) = (config.block_size.expect("blocks"), config.vocab_size);
    let x0 = golden.rows("x0");
    let names = golden.names();
    let mut largest = 0.0f32;
    let mut cases = 0;
    for case in names.iter().filter_map(|name| name.strip_suffix("xt")) {
        let xt = golden.rows(&format!("{case}xt"));
        let (layout, tokens, step) = block_rows(size, &xt, &x0, vocab).unwrap();
        runner.start(&layout, &tokens);
        let logits = runner.logits(&step);
        let name = format!("{case}logits");
        largest = largest.max(assert_close(&name, &logits, &golden.f32(&name), GOLDEN));
        cases += 1;
    }
    for name in names.iter().filter(|name| name.ends_with(".logits_cached")) {
        let parts: Vec<&str> = name.split('.').collect();
        let [_, case, block, _] = parts[..] else {
            panic!("{name}")
        };
        let block: usize = block.strip_prefix('b').unwrap().parse().unwrap();
        let xt = golden.rows(&format!("{case}.xt"));
        let logits = after_clean(block, size, &xt, &x0, runner);
        largest = largest.max(assert_close(name, &logits, &golden.f32(name), GOLDEN));
    }
    assert!(cases > 0, "no case");
    largest
}

/// Logits of a block of `xt` after the blocks of `x0` before it, which are in the cache if there is one.
fn after_clean(
    block: usize,
    size: usize,
    xt: &[Vec<u32>],
    x0: &[Vec<u32>],
    runner: &mut dyn Runner,
) -> Vec<f32> {
    let (first, end) = (block * size, (block + 1) * size);
    let layout = Layout {
        sequences: x0.len(),
        slots: end,
        tokens: x0.len() * end,
    };
    let mut tokens = Vec::new();
    for (x0, xt) in x0.iter().zip(xt) {
        tokens.extend(&x0[..first]);
        tokens.extend(&xt[first..end]);
    }
    let row = |sequence: usize, position: usize| {
        let prefix = ((position / size + 1) * size) as u32;
        Row {
            sequence: sequence as u32,
            slot: position as u32,
            position: position as u32,
            prefix,
            own: [prefix; 2],
            source: (sequence * end + position) as u32,
            target: NO_TARGET,
        }
    };
    let step = |from: usize| {
        let mut step = StepRows::default();
        for sequence in 0..x0.len() {
            for position in from..end {
                if position >= first {
                    step.sampled.push(step.rows.len() as u32);
                }
                step.rows.push(row(sequence, position));
            }
        }
        step
    };
    runner.start(&layout, &tokens);
    if !runner.has_cache() {
        return runner.logits(&step(0));
    }
    let clean = (0..x0.len()).flat_map(|sequence| (0..first).map(move |p| (sequence, p)));
    let clean = StepRows {
        rows: clean.map(|(sequence, p)| row(sequence, p)).collect(),
        sampled: Vec::new(),
    };
    if first > 0 {
        runner.logits(&clean);
    }
    runner.logits(&step(first))
}

const LIKELIHOOD: &str = "likelihood.safetensors";

/// Every file of likelihoods in the family's folder; returns how many cases there were.
///
/// # Panics
/// If a loss differs, or there is no file.
pub fn check_likelihood(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) -> usize {
    let mut ran = 0;
    for (golden, checkpoint) in likelihoods() {
        ran += check_published(&golden, checkpoint.config(), &mut *load(&checkpoint));
    }
    for file in family::files(LIKELIHOOD) {
        let golden = Golden::read(&file);
        for family in ["mdlm", "bd3lm", "ar", "setdlm"] {
            if !golden.has(&format!("{family}.nlls")) {
                continue;
            }
            let around = std::fs::read_dir(file.parent().unwrap()).unwrap();
            let start = format!("owt_{family}");
            let folder = (around.map(|entry| entry.unwrap().path())).find(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with(&start)
            });
            let checkpoint = open(&folder.unwrap_or_else(|| panic!("no {start}")));
            let (config, mut runner) = (checkpoint.config(), load(&checkpoint));
            match config.family {
                Family::SetDlm => sets::check_likelihood(&golden, config, &mut *runner),
                _ => check_nested(&golden, config, family, &mut *runner),
            }
            ran += 1;
        }
    }
    assert!(ran > 0, "no case");
    ran
}

/// The files of bd3lms' likelihoods, `NAME.likelihood.safetensors`, each with its network from the folder `NAME` next
/// to it.
pub fn likelihoods() -> Vec<(Golden, Checkpoint)> {
    let end = format!(".{LIKELIHOOD}");
    let files = family::files(&end).into_iter();
    files
        .map(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            let folder = file.with_file_name(name.strip_suffix(&end).unwrap());
            (Golden::read(&file), open(&folder))
        })
        .collect()
}

/// One of the repository's BD3-LMs, with another block size.
pub fn in_blocks_of(size: usize) -> Checkpoint {
    let folder = repository("tests/fixtures/golden-family/bd3lm/bs4");
    let config = ModelConfig {
        block_size: Some(size),
        ..open(&folder).config().clone()
    };
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    Checkpoint::from_safetensors_bytes(&config.to_json(), weights).unwrap()
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(&folder.to_string_lossy(), &OpenOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// "03" means 0.3, "1" means 1.
fn share(digits: &str) -> f64 {
    let (whole, rest) = digits.split_at(1);
    format!("{whole}.{rest}0").parse().unwrap()
}

/// A case of bd3lms, with its noise from recorded uniforms.
pub struct Published {
    /// The prefix of its tensors' names.
    pub name: String,
    /// Tokens per block.
    pub size: usize,
    /// The masked positions of each text.
    pub noised: Vec<NoisedBlocks>,
}

/// The cases of bd3lms: `bsSIZE.nelbo`, `.nll` (all masked), `.clip_LOW_HIGH` and the same with `_resample`.
pub fn published(golden: &Golden) -> Vec<Published> {
    let names = golden.names();
    let cases = (names.iter()).filter_map(|name| name.strip_suffix(".u_move"));
    cases.map(|case| read(golden, case)).collect()
}

fn read(golden: &Golden, case: &str) -> Published {
    let [texts, length] = golden.shape("x0").try_into().unwrap();
    let tensor = |name: &str| format!("{case}.{name}");
    let (size, kind) = case.strip_prefix("bs").unwrap().split_once('.').unwrap();
    let size: usize = size.parse().unwrap();
    let range = match kind {
        "nelbo" => [1e-3, 1.0],
        "nll" => [1.0, 1.0],
        clip => {
            let mut ends = clip.strip_prefix("clip_").unwrap().split('_');
            [(); 2].map(|()| share(ends.next().unwrap()))
        }
    };
    let count = length / size;
    let times = block_times(&f64s(golden, &tensor("u_t")), range);
    assert_eq!(times.len(), texts * count, "{case}");
    for (got, want) in times.iter().zip(golden.f32(&tensor("t")).chunks(size)) {
        close(&tensor("t"), *got, want[0]);
    }
    let u_move = f64s(golden, &tensor("u_move"));
    let again = golden.has(&tensor("u_resample"));
    let again = again.then(|| f64s(golden, &tensor("u_resample")));
    let noised = (0..texts).map(|row| {
        let times = &times[row * count..(row + 1) * count];
        let mut noised = NoisedBlocks::new(size, times, &u_move[row * length..][..length]);
        if let Some(again) = &again {
            let mut redraws = again.chunks(texts * length);
            let redraw = || redraws.next().unwrap()[row * length..][..length].to_vec();
            resample(&mut noised, times, range, redraw);
        }
        noised.give(1);
        if range[0] > 0.5 {
            // It is there whatever the times are.
            noised.weights.fill(1.0);
        }
        noised
    });
    Published {
        name: case.into(),
        size,
        noised: noised.collect(),
    }
}

fn check_published(golden: &Golden, config: &ModelConfig, runner: &mut dyn Runner) -> usize {
    let x0 = golden.rows("x0");
    let length = x0[0].len();
    let cases = published(golden);
    for Published { name, noised, .. } in &cases {
        let tensor = |what: &str| format!("{name}.{what}");
        let passes: Vec<Pass> = (x0.iter().zip(noised))
            .enumerate()
            .map(|(row, (x0, noised))| {
                let xt = noised.apply(x0, config.mask_index);
                assert_eq!(xt, golden.rows(&tensor("xt"))[row], "{name}, row {row}");
                blocks(x0, noised)
            })
            .collect();
        // Losses are recorded only for tokens that count.
        let counted = f64s(golden, &tensor("token_mask"));
        let table: Vec<Vec<f64>> = tables(runner, &passes, length)
            .iter()
            .zip(counted.chunks(length))
            .map(|(row, counted)| row.iter().zip(counted).map(|(x, m)| x * m).collect())
            .collect();
        check_table(&tensor("nlls"), &table, &golden.f32(&tensor("nlls")));
        let sum: f64 = table.concat().iter().sum();
        let loss = sum / counted.iter().sum::<f64>();
        close(&tensor("loss"), loss, golden.f32(&tensor("loss"))[0]);
    }
    cases.len()
}

/// Likelihoods of setdlms, whose texts are padded and whose loss is a mean of means.
fn check_nested(golden: &Golden, config: &ModelConfig, name: &str, runner: &mut dyn Runner) {
    let x0 = golden.rows("x0");
    let length = x0[0].len();
    let real = golden.rows("attention_mask");
    let tensor = |what: &str| format!("{name}.{what}");
    let per_row = |what: &str| f64s(golden, what);
    let passes: Vec<Pass> = x0
        .iter()
        .zip(&real)
        .enumerate()
        .map(|(row, (x0, real))| {
            let count = real.iter().sum::<u32>() as usize;
            // As in its f32 arithmetic.
            let weight = |t: f64| 1.0 / f64::from(1.0 - (1.0 - t as f32));
            if config.family == Family::Ar {
                // The last token of a text predicts the one after it.
                let text = &x0[..(count + 1).min(length)];
                return autoregressive(text, 1..text.len(), None);
            }
            let text = &x0[..count];
            let uniforms = &per_row(&tensor("u_move"))[row * length..][..count];
            if config.family == Family::Mdlm {
                let t = per_row("t")[row];
                let mut masked: Vec<bool> = uniforms.iter().map(|&u| u < t).collect();
                masked[0] = false;
                let order = (0..count as u32).collect();
                let noised = Noised::gather(text, &masked, order, config.mask_index);
                return diffusion(&noised, MaskMode::Bidirectional, weight(t));
            }
            let size = config.block_size.unwrap();
            let times = &per_row(&tensor("t"))[row * length..][..count];
            let times: Vec<f64> = times.iter().step_by(size).copied().collect();
            let mut noised = NoisedBlocks::new(size, &times, uniforms);
            noised.give(1);
            noised.weights = times.into_iter().map(weight).collect();
            blocks(text, &noised)
        })
        .collect();
    let table = match config.family {
        Family::Ar => with_mask(runner, &passes, config.vocab_size, length),
        _ => tables(runner, &passes, length),
    };
    let table: Vec<Vec<f64>> = table.iter().map(|row| row[1..].to_vec()).collect();
    let counted = golden.rows(&tensor("tokens_mask"));
    let want = golden.f32(&tensor("nlls"));
    let mut mean = 0.0;
    for (row, (losses, counted)) in table.iter().zip(&counted).enumerate() {
        let (mut sum, mut count) = (0.0, 0.0);
        for (place, (&loss, &is_counted)) in losses.iter().zip(counted).enumerate() {
            if is_counted == 1 {
                close(&tensor("nlls"), loss, want[row * (length - 1) + place]);
                sum += loss;
                count += 1.0;
            }
        }
        mean += sum / count / x0.len() as f64;
    }
    close(&tensor("loss"), mean, golden.f32(&tensor("loss"))[0]);
}

/// As [`tables`], with the mask treated like other tokens.
fn with_mask(
    runner: &mut dyn Runner,
    passes: &[Pass],
    vocab: usize,
    length: usize,
) -> Vec<Vec<f64>> {
    let layout = Layout {
        sequences: passes.len(),
        slots: length,
        tokens: passes.len() * length,
    };
    let (tokens, step, targets) = assemble(passes, &layout);
    runner.start(&layout, &tokens);
    let logits = runner.logits(&step);
    let losses = logits.chunks(vocab).zip(targets).map(|(row, target)| {
        let mass: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        mass.ln() - f64::from(row[target as usize])
    });
    let mut losses = losses.collect::<Vec<f64>>().into_iter();
    let row = |pass: &Pass| {
        let mut row = vec![0.0; length];
        for (scored, loss) in pass.scored.iter().zip(&mut losses) {
            row[scored.place as usize] = loss;
        }
        row
    };
    passes.iter().map(row).collect()
}
