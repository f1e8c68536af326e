//! `cargo xtask results compare`: two models on the same text. Everything that does not depend on the tokenizer is said in bits a byte.

use std::f64::consts::LN_2;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::arguments::{Arguments, many, one};
use crate::clock;
use crate::corpus::{Documents, SEPARATOR, middles};
use crate::failure::Error;
use crate::metrics::{self, Grams};
use crate::program::{Esolm, json_lines};
use crate::record::{self, Compared, Comparison, ExactAt, MODEL, MiddleFigures, TextFigures};
use crate::run::{beginning, report};
use crate::words;

/// Words of an n-gram that counts as copied.
const COPIED: usize = 8;
/// Words of a held-out middle, and before and after it: together short enough for a context of 128 tokens.
const INSIDE: usize = 8;
/// Words on each side of a middle.
const AROUND: usize = 24;
/// Middles that are scored.
const MIDDLES: usize = 200;
/// Samples that are shown, and their characters.
const EXAMPLES: (usize, usize) = (3, 400);
/// alpha_0 that every Eso-LM is scored at.
const ALPHAS: [f64; 3] = [1.0, 0.25, 0.0];

/// What the measurements of both models share.
struct Settings {
    samples: usize,
    length: usize,
    top_p: String,
    seed: String,
    device: String,
    holdout: Documents,
}

/// A line of `esolm ppl --per-document`, of `esolm score` too as far as it is used.
#[derive(Debug, Deserialize)]
struct Scored {
    tokens: u64,
    logp: f64,
}

/// `compare`.
///
/// # Errors
/// A sentence about what is missing, or about the command of `esolm` that failed.
pub fn compare(words: &[String], root: &Path) -> Result<(), Error> {
    let arguments = Arguments::parse(
        words,
        &[
            one("--old"),
            one("--new"),
            one("--judge"),
            one("--old-name"),
            one("--new-name"),
            many("--train"),
            one("--holdout"),
            one("--work"),
            one("--esolm"),
            one("--out"),
            one("--device"),
            one("--samples"),
            one("--length"),
            one("--top-p"),
            one("--seed"),
        ],
    )?;
    let folder = |name, meaning| arguments.required(name, meaning).map(PathBuf::from);
    let old = folder("--old", "the folder of the older model")?;
    let new = folder("--new", "the folder of the newer model")?;
    let judge = folder("--judge", "the folder of an AR model that scores samples")?;
    let train = Documents::read(
        &arguments.paths("--train", "the text files that the models learnt from")?,
    )?;
    let holdout = Documents::read(&arguments.paths("--holdout", "the text file to measure on")?)?;
    let work = arguments.required("--work", "a folder outside the repository for answers")?;
    let path = |name, default: PathBuf| arguments.get(name).map_or(default, PathBuf::from);
    let out = path("--out", root.join("docs/results"));
    let esolm = Esolm::new(
        &path("--esolm", root.join("target/release/esolm")),
        Path::new(work),
    )?;
    holdout.write(&esolm.path("data/holdout.txt"))?;

    let names = [
        ("old", arguments.get("--old-name").unwrap_or("old"), &old),
        ("new", arguments.get("--new-name").unwrap_or("new"), &new),
        ("judge", "judge", &judge),
    ];
    for (key, _, source) in names {
        take_over(&esolm, key, source)?;
    }
    let configs = [0, 1].map(|index| inspect(&esolm, names[index].0));
    let [old_config, new_config] = configs;
    let configs = [old_config?, new_config?];
    let common = configs
        .iter()
        .filter_map(|config| config["length"].as_u64())
        .min()
        .unwrap_or(128) as usize;
    let settings = Settings {
        samples: arguments.count("--samples", 200)?,
        length: arguments.count("--length", common)?,
        top_p: arguments.get("--top-p").unwrap_or("0.9").into(),
        seed: arguments.get("--seed").unwrap_or("1").into(),
        device: arguments.get("--device").unwrap_or("auto").into(),
        holdout,
    };

    let mut models = Vec::new();
    let mut texts = Vec::new();
    for ((key, name, _), config) in names.into_iter().zip(&configs) {
        eprintln!("{name}");
        let mut commands = Vec::new();
        let exact = exact(&esolm, key, config, &settings, &mut commands)?;
        let scored = score_middles(&esolm, key, &settings, &mut commands)?;
        let samples = sample(&esolm, key, &settings, &mut commands)?;
        models.push(Compared {
            name: name.into(),
            shape: shape(config),
            parameters: config["parameters"].as_u64(),
            exact,
            middles: scored,
            texts: judged(
                &esolm,
                &format!("{key}--texts"),
                &samples,
                &settings,
                &mut commands,
            )?,
            examples: samples
                .iter()
                .take(EXAMPLES.0)
                .map(|text| beginning(text, EXAMPLES.1))
                .collect(),
            commands,
        });
        texts.push(samples);
    }

    // Hold-out texts cut to the length of the newer model's samples are the measure of what is good.
    let length = models[1].texts.words / settings.samples.max(1);
    let real: Vec<String> = settings
        .holdout
        .texts
        .iter()
        .take(settings.samples)
        .map(|text| first_words(text, length))
        .collect();
    let mut baseline = judged(&esolm, "holdout--texts", &real, &settings, &mut Vec::new())?;
    texts.push(real);
    let worded: Vec<Vec<Vec<String>>> = texts
        .iter()
        .map(|texts| texts.iter().map(|text| metrics::words(text)).collect())
        .collect();
    let count = |texts: &Vec<Vec<String>>| texts.iter().map(Vec::len).sum::<usize>();
    let distinct_words = worded.iter().map(count).min().unwrap_or(0);
    let grams = Grams::new(COPIED, train.texts.iter().map(String::as_str));
    let figures = models
        .iter_mut()
        .map(|model| &mut model.texts)
        .chain([&mut baseline]);
    for (texts, figures) in worded.iter().zip(figures) {
        let first = metrics::first_words(texts, distinct_words);
        figures.distinct = [1, 2, 3].map(|n| metrics::distinct(&first, n));
        figures.copied = grams.share(texts);
    }

    let comparison = Comparison {
        date: clock::now(),
        command: format!(
            "cargo xtask results compare --old MODEL --new MODEL --judge MODEL --train FILE... --holdout FILE --work DIR --samples {} --length {} \
             --top-p {} --seed {}",
            settings.samples, settings.length, settings.top_p, settings.seed
        ),
        judge: shape(&inspect(&esolm, "judge")?),
        sampling: format!(
            "{} of {} tokens of the model's own tokenizer, up to the first end of text, alpha_0 of training, T = the length, nucleus {}, seed {}",
            settings.samples, settings.length, settings.top_p, settings.seed
        ),
        samples: settings.samples,
        distinct_words,
        middles: held_out(&settings).len(),
        middle_words: INSIDE,
        around_words: AROUND,
        train: train.extent(),
        holdout: settings.holdout.extent(),
        models,
        baseline,
    };
    fs::create_dir_all(&out).map_err(Error::writing(&out))?;
    record::write(&out.join(MODEL), &comparison)
}

/// Copies a model into the work folder, so that commands name no path of this machine. Where another one stood there, the answers about it
/// are forgotten.
fn take_over(esolm: &Esolm, key: &str, source: &Path) -> Result<(), Error> {
    let folder = esolm.path(&format!("models/{key}"));
    fs::create_dir_all(&folder).map_err(Error::writing(&folder))?;
    let mut changed = false;
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let from = source.join(name);
        let bytes = fs::read(&from).map_err(Error::reading(&from))?;
        let to = folder.join(name);
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        changed = true;
        fs::write(&to, bytes).map_err(Error::writing(&to))?;
    }
    if changed {
        esolm.forget(|answer| match key {
            "judge" => answer.starts_with("judge--") || answer.contains("--texts"),
            key => answer.starts_with(&format!("{key}--")),
        })?;
    }
    Ok(())
}

/// Where a model lies, as seen from the work folder.
fn model(key: &str) -> String {
    format!("models/{key}")
}

fn inspect(esolm: &Esolm, key: &str) -> Result<Value, Error> {
    let answer = esolm.answer(
        &format!("{key}--inspect"),
        &words!["inspect", model(key), "--json"],
    )?;
    Ok(answer.report)
}

/// A shape in words.
fn shape(config: &Value) -> String {
    let mut text = match config["family"].as_str() {
        Some("ar") => "AR".to_string(),
        Some("mdlm") => "MDLM".to_string(),
        _ => "Eso-LM".to_string(),
    };
    if let Some(alpha_0) = config["alpha_0"].as_f64() {
        text += &format!(" (alpha_0 = {alpha_0})");
    }
    for (field, name) in [
        ("n_blocks", "blocks"),
        ("hidden", "wide"),
        ("length", "tokens of context"),
        ("vocab_size", "tokens of vocabulary"),
    ] {
        if let Some(number) = config[field].as_u64() {
            text += &format!(", {number} {name}");
        }
    }
    text
}

/// The exact likelihood of the hold-out: at the common length, and at the model's own context where that is longer.
fn exact(
    esolm: &Esolm,
    key: &str,
    config: &Value,
    settings: &Settings,
    commands: &mut Vec<String>,
) -> Result<Vec<ExactAt>, Error> {
    let alphas: Vec<Option<f64>> = match config["family"].as_str() {
        Some("ar") => vec![None],
        _ => ALPHAS.map(Some).into(),
    };
    let own = config["length"].as_u64().unwrap_or(0) as usize;
    let mut lengths = vec![settings.length];
    if own > settings.length {
        lengths.push(own);
    }
    let mut exact = Vec::new();
    for length in lengths {
        for &alpha_0 in &alphas {
            let mut arguments = words![
                "ppl",
                "data/holdout.txt",
                "--model",
                model(key),
                "--separator",
                SEPARATOR,
                "--length",
                length,
                "--draws",
                0,
                "--seed",
                settings.seed,
                "--device",
                settings.device,
                "--json",
            ];
            if let Some(alpha_0) = alpha_0 {
                arguments.extend(words!["--alpha0", alpha_0]);
            }
            let answer = esolm.answer(
                &format!("{key}--ppl-{length}-{}", alpha_0.unwrap_or(0.0)),
                &arguments,
            )?;
            let report = report(&answer.command, answer.report)?;
            commands.push(answer.command);
            if let Some(figure) = report.exact {
                exact.push(ExactAt {
                    alpha_0,
                    length: report.length,
                    figure,
                });
            }
        }
    }
    Ok(exact)
}

/// The middles to be scored.
fn held_out(settings: &Settings) -> Vec<crate::corpus::Middle> {
    middles(&settings.holdout.texts, AROUND, INSIDE, MIDDLES)
}

/// log p(middle | prefix, suffix) of held-out texts.
fn score_middles(
    esolm: &Esolm,
    key: &str,
    settings: &Settings,
    commands: &mut Vec<String>,
) -> Result<MiddleFigures, Error> {
    let held_out = held_out(settings);
    let lines: Vec<Value> = held_out.iter().map(|middle| json!(middle)).collect();
    write_lines(&esolm.path("data/middles.jsonl"), &lines)?;
    let answer = esolm.answer_lines(
        &format!("{key}--middles"),
        &words![
            "score",
            "--infill",
            "data/middles.jsonl",
            "--model",
            model(key),
            "--device",
            settings.device,
            "--json",
        ],
    )?;
    commands.push(answer.command.clone());
    let scored: Vec<Scored> = parsed(&answer.command, answer.report)?;
    if scored.len() != held_out.len() || scored.is_empty() {
        return Err(Error::Data(format!(
            "`{}` scored {} of {} middles; look at its messages in log.txt of the work folder",
            answer.command,
            scored.len(),
            held_out.len()
        )));
    }
    let bits: Vec<f64> = scored.iter().map(|one| -one.logp / LN_2).collect();
    let bytes: Vec<f64> = held_out.iter().map(|one| one.middle.len() as f64).collect();
    let (ratio, error) = ratio(&bits, &bytes);
    let tokens: u64 = scored.iter().map(|one| one.tokens).sum();
    Ok(MiddleFigures {
        nats_per_token: bits.iter().sum::<f64>() * LN_2 / tokens as f64,
        bits_per_byte: ratio,
        bits_per_byte_error: error,
    })
}

/// Sum of `a` over sum of `b`, and the standard error of this ratio over the entries.
fn ratio(a: &[f64], b: &[f64]) -> (f64, f64) {
    let count = a.len() as f64;
    let ratio = a.iter().sum::<f64>() / b.iter().sum::<f64>();
    let residuals: f64 = a.iter().zip(b).map(|(a, b)| (a - ratio * b).powi(2)).sum();
    let middle = b.iter().sum::<f64>() / count;
    (
        ratio,
        (residuals / (count - 1.0).max(1.0) / count).sqrt() / middle,
    )
}

/// The texts of a model's samples.
fn sample(
    esolm: &Esolm,
    key: &str,
    settings: &Settings,
    commands: &mut Vec<String>,
) -> Result<Vec<String>, Error> {
    let answer = esolm.answer(
        &format!("{key}--samples"),
        &words![
            "sample",
            "--model",
            model(key),
            "--batch",
            settings.samples,
            "--length",
            settings.length,
            "--top-p",
            settings.top_p,
            "--seed",
            settings.seed,
            "--device",
            settings.device,
            "--quiet",
            "--json",
        ],
    )?;
    commands.push(answer.command.clone());
    let texts = answer.report["sequences"].as_array().map(|sequences| {
        sequences
            .iter()
            .filter_map(|one| one["text"].as_str().map(String::from))
            .collect()
    });
    texts.ok_or_else(|| {
        Error::Data(format!(
            "`{}` gave no texts; the model needs a tokenizer",
            answer.command
        ))
    })
}

/// What the judge says of texts, each by itself; distinct-n and copies are added later, when all texts are there.
fn judged(
    esolm: &Esolm,
    key: &str,
    texts: &[String],
    settings: &Settings,
    commands: &mut Vec<String>,
) -> Result<TextFigures, Error> {
    let texts: Vec<&String> = texts
        .iter()
        .filter(|text| !text.trim().is_empty())
        .collect();
    let lines: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
    let file = format!("data/{key}.jsonl");
    let changed = write_lines(&esolm.path(&file), &lines)?;
    if changed {
        esolm.forget(|answer| answer == format!("{key}.json"))?;
    }
    let each = format!("data/{key}.scored.jsonl");
    let answer = esolm.answer(
        key,
        &words![
            "ppl",
            file,
            "--model",
            model("judge"),
            "--per-document",
            each,
            "--device",
            settings.device,
            "--json",
        ],
    )?;
    commands.push(answer.command.clone());
    let path = esolm.path(&each);
    let scored = fs::read_to_string(&path).map_err(Error::reading(&path))?;
    let scored: Vec<Scored> = parsed(
        &answer.command,
        json_lines(&scored).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })?,
    )?;
    let (tokens, logp) = scored.iter().fold((0, 0.0), |(tokens, logp), one| {
        (tokens + one.tokens, logp + one.logp)
    });
    let worded: Vec<Vec<String>> = texts.iter().map(|text| metrics::words(text)).collect();
    let entropies: Vec<f64> = worded.iter().map(|words| metrics::entropy(words)).collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    Ok(TextFigures {
        judge_ppl: (-logp / tokens as f64).exp(),
        judge_bits_per_byte: -logp / LN_2 / bytes as f64,
        distinct: [0.0; 3],
        copied: 0.0,
        words: worded.iter().map(Vec::len).sum(),
        entropy: metrics::mean(&entropies).0,
    })
}

/// The beginning of a text, up to a number of words.
fn first_words(text: &str, count: usize) -> String {
    let mut ends = text
        .char_indices()
        .filter(|(_, c)| c.is_whitespace())
        .map(|(at, _)| at);
    let mut words = 0;
    let mut from = 0;
    let end = ends.find(|&end| {
        words += usize::from(!text[from..end].trim().is_empty());
        from = end;
        words == count
    });
    text[..end.unwrap_or(text.len())].into()
}

/// Writes JSON lines, and says whether the file was another one before.
fn write_lines(path: &Path, lines: &[Value]) -> Result<bool, Error> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    record::replace(path, &text)?;
    Ok(true)
}

fn parsed<T: DeserializeOwned>(command: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|source| Error::Json {
        what: format!("the answer of `{command}`"),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_keep_their_spaces() {
        assert_eq!(first_words("one  two\nthree four", 3), "one  two\nthree");
        assert_eq!(first_words("one two", 5), "one two");
    }

    #[test]
    fn ratios_and_their_error() {
        let (value, error) = ratio(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]);
        assert_eq!((value, error), (2.0, 0.0));
        let (value, error) = ratio(&[1.0, 3.0], &[1.0, 1.0]);
        assert_eq!(value, 2.0);
        assert!((error - 1.0).abs() < 1e-12);
    }
}
