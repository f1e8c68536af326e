//! `cargo xtask results compare`: two models on the same text. Everything that does not depend on the tokenizer is given in bits per byte.

use std::f64::consts::LN_2;
use std::fs;
use std::path::Path;

use esolm_core::config::Family;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::arguments::Compare;
use crate::corpus::{Documents, Middle, SEPARATOR, beginning, first_words, middles};
use crate::error::Error;
use crate::metrics::{self, all_words};
use crate::program::{self, Esolm, json_lines};
use crate::record::Answer;
use crate::record::{self, Compared, Comparison, ExactAt, MODEL, MiddleFigures, TextFigures};
use crate::reports::{Inspected, Perplexity, Sampled, Scored};

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

/// Ends the key of the judge's answers about texts.
const TEXTS: &str = "--texts";

/// What measures one of the models, and what it ran for that.
struct Bench<'a> {
    esolm: &'a Esolm,
    arguments: &'a Compare,
    /// Tokens of a sample and of a window.
    length: u64,
    /// `old` or `new`.
    key: &'a str,
    commands: Vec<String>,
}

/// `compare`.
///
/// # Errors
/// A sentence about what is missing, or about the command of `esolm` that failed.
pub fn compare(arguments: &Compare) -> Result<(), Error> {
    let common = &arguments.common;
    let train = Documents::read(&common.train)?;
    let holdout = Documents::read(std::slice::from_ref(&common.holdout))?;
    let esolm = Esolm::new(common)?;
    record::replace(&esolm.path("data/holdout.txt"), holdout.joined().as_bytes())?;
    let (old, new, judge) = (&arguments.old, &arguments.new, &arguments.judge);
    let [old, new, judge] = [("old", old), ("new", new), ("judge", judge)].map(|(key, source)| {
        copy_model(&esolm, key, source)?;
        let command = format!("esolm inspect models/{key} --json");
        esolm.answer::<Inspected>(&format!("{key}--inspect"), command, program::json)
    });
    let (old, new, judge) = (old?.report, new?.report, judge?.report);
    let shorter = old.length.min(new.length);
    let length = arguments.length.map_or(shorter, u64::from);
    let held_out = middles(&holdout.texts, AROUND, INSIDE, MIDDLES);
    let bench = |key| Bench {
        esolm: &esolm,
        arguments,
        length,
        key,
        commands: Vec::new(),
    };
    let (mut bench_old, mut bench_new) = (bench("old"), bench("new"));
    let (texts_old, texts_new) = (bench_old.sample(&old)?, bench_new.sample(&new)?);
    // Hold-out texts cut to the length of the newer model's samples show what is good.
    let cut = all_words(&texts_new).concat().len() / arguments.samples as usize;
    let real = holdout.texts.iter().take(arguments.samples as usize);
    let real: Vec<String> = real.map(|text| first_words(text, cut).into()).collect();

    let counts = [&texts_old, &texts_new, &real].map(|texts| all_words(texts).concat().len());
    let distinct_words = counts.into_iter().min().unwrap_or(0);
    let body = all_words(&train.texts);
    let mut models = Vec::new();
    for (mut bench, name, model, texts) in [
        (bench_old, &arguments.old_name, &old, texts_old),
        (bench_new, &arguments.new_name, &new, texts_new),
    ] {
        eprintln!("{name}");
        let examples = texts.iter().take(EXAMPLES.0);
        models.push(Compared {
            name: name.clone(),
            shape: shape(model),
            parameters: Some(model.parameters),
            exact: bench.exact(model)?,
            middles: bench.score(&held_out)?,
            sampling: bench.sampling(model).0,
            texts: bench.judge(&texts, distinct_words, &body)?,
            examples: examples.map(|text| beginning(text, EXAMPLES.1)).collect(),
            commands: bench.commands,
        });
    }
    let settings = format!(
        "--samples {} --length {length} --top-p {} --seed {}",
        arguments.samples, arguments.top_p, arguments.seed
    );
    let comparison = Comparison {
        date: record::now(),
        command: format!(
            "cargo xtask results compare --old MODEL --new MODEL --judge MODEL --train FILE... --holdout FILE --work DIR {settings}"
        ),
        judge: shape(&judge),
        sampling: format!(
            "{} of {length} tokens of the model's own tokenizer, up to the first end of text, T = the length, seed {}",
            arguments.samples, arguments.seed
        ),
        samples: arguments.samples as usize,
        distinct_words,
        middles: held_out.len(),
        middle_words: INSIDE,
        around_words: AROUND,
        train: train.extent(),
        holdout: holdout.extent(),
        models,
        baseline: bench("holdout").judge(&real, distinct_words, &body)?,
    };
    record::write(&common.out.join(MODEL), &comparison)
}

/// Copies a model into the work folder, so that commands name no path of this machine. Where it replaces another one, the answers about
/// that one are forgotten.
fn copy_model(esolm: &Esolm, key: &str, source: &Path) -> Result<(), Error> {
    let mut changed = false;
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
    ] {
        let from = source.join(name);
        if name == "generation_config.json" && !from.exists() {
            continue;
        }
        let bytes = fs::read(&from).map_err(Error::file("read", &from))?;
        changed |= record::replace(&esolm.path(&format!("models/{key}/{name}")), &bytes)?;
    }
    if !changed {
        return Ok(());
    }
    let prefix = format!("{key}--");
    esolm.forget(|answer| answer.starts_with(&prefix) || key == "judge" && answer.ends_with(TEXTS))
}

/// A shape in words.
fn shape(model: &Inspected) -> String {
    let Inspected {
        family,
        n_blocks,
        hidden,
        length,
        vocab_size,
        ..
    } = model;
    let alpha_0 = model.alpha_0.filter(|_| *family == Family::EsoLm);
    let alpha_0 = alpha_0.map_or_else(String::new, |alpha_0| format!(" (alpha_0 = {alpha_0})"));
    format!(
        "{family}{alpha_0}, {n_blocks} blocks, {hidden} wide, {length} tokens of context, {vocab_size} tokens of vocabulary"
    )
}

impl Bench<'_> {
    /// What a command says of a model; the command is noted.
    fn ask<T: Serialize + DeserializeOwned>(
        &mut self,
        key: &str,
        command: &str,
        model: &str,
        options: &str,
        parse: fn(&str) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let device = &self.esolm.device;
        let command =
            format!("esolm {command} {options} --model models/{model} --device {device} --json");
        let answer: Answer<T> = self.esolm.answer(key, command, parse)?;
        self.commands.push(answer.command);
        Ok(answer.report)
    }

    /// The exact likelihood of the hold-out: at the common length, and at the model's own context where that is longer.
    fn exact(&mut self, model: &Inspected) -> Result<Vec<ExactAt>, Error> {
        let alphas = match model.family {
            Family::Ar => vec![None],
            _ => ALPHAS.map(Some).into(),
        };
        let own = (model.length > self.length).then_some(model.length);
        let mut exact = Vec::new();
        for length in [self.length].into_iter().chain(own) {
            for &alpha_0 in &alphas {
                let mut options =
                    format!("data/holdout.txt --separator '{SEPARATOR}' --length {length}");
                options += &format!(" --draws 0 --seed {}", self.arguments.seed);
                if let Some(alpha_0) = alpha_0 {
                    options += &format!(" --alpha0 {alpha_0}");
                }
                let key = format!("{}--ppl-{length}-{}", self.key, alpha_0.unwrap_or(0.0));
                let report: Perplexity =
                    self.ask(&key, "ppl", self.key, &options, program::json)?;
                exact.extend(report.exact.map(|figure| ExactAt {
                    alpha_0,
                    length,
                    figure,
                }));
            }
        }
        Ok(exact)
    }

    /// log p(middle | prefix, suffix) of held-out texts.
    fn score(&mut self, middles: &[Middle]) -> Result<MiddleFigures, Error> {
        write_lines(self.esolm, "data/middles.jsonl", middles)?;
        let key = format!("{}--middles", self.key);
        let options = "--infill data/middles.jsonl";
        let scored: Vec<Scored> = self.ask(&key, "score", self.key, options, json_lines)?;
        let (found, all) = (scored.len(), middles.len());
        if found != all || all == 0 {
            let why = format!(
                "`esolm score` scored {found} of {all} middles; see log.txt in the work folder"
            );
            return Err(Error::Data(why));
        }
        let nats: Vec<f64> = scored.iter().map(|one| -one.logp).collect();
        let bytes: Vec<f64> = middles.iter().map(|one| one.middle.len() as f64).collect();
        let (nats_per_byte, error) = metrics::ratio(&nats, &bytes);
        let tokens: u64 = scored.iter().map(|one| one.tokens).sum();
        Ok(MiddleFigures {
            nats_per_token: nats.iter().sum::<f64>() / tokens as f64,
            bits_per_byte: nats_per_byte / LN_2,
            bits_per_byte_error: error / LN_2,
        })
    }

    /// How the model is sampled, in words and as options: with what it recommends, which needs no option, or in its nucleus.
    fn sampling(&self, model: &Inspected) -> (String, String) {
        if model.recommended.is_empty() {
            let top_p = self.arguments.top_p;
            return (format!("top_p {top_p}"), format!("--top-p {top_p} "));
        }
        let settings = model.recommended.iter();
        let settings: Vec<_> = settings
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        (settings.join(", "), String::new())
    }

    /// The texts of the model's samples, without those that are empty.
    fn sample(&mut self, model: &Inspected) -> Result<Vec<String>, Error> {
        let Compare { samples, seed, .. } = self.arguments;
        let (length, settings) = (self.length, self.sampling(model).1);
        let options =
            format!("--batch {samples} --length {length} {settings}--seed {seed} --quiet");
        let key = format!("{}--samples", self.key);
        let sampled: Sampled = self.ask(&key, "sample", self.key, &options, program::json)?;
        let texts = sampled.sequences.into_iter().map(|one| one.text);
        let texts: Option<Vec<String>> = texts.collect();
        let Some(mut texts) = texts else {
            return Err(Error::Data(format!(
                "the {} model gave no texts; it needs a tokenizer",
                self.key
            )));
        };
        texts.retain(|text| !text.trim().is_empty());
        Ok(texts)
    }

    /// What is measured on texts: the judge scores each by itself, distinct-n counts `distinct_words` words, copies are looked up in `body`.
    fn judge(
        &mut self,
        texts: &[String],
        distinct_words: usize,
        body: &[Vec<String>],
    ) -> Result<TextFigures, Error> {
        let key = format!("{}{TEXTS}", self.key);
        let documents: Vec<_> = texts.iter().map(|text| json!({ "text": text })).collect();
        write_lines(self.esolm, &format!("data/{key}.jsonl"), &documents)?;
        let options = format!("data/{key}.jsonl --per-document data/{key}.scored.jsonl");
        let _: Perplexity = self.ask(&key, "ppl", "judge", &options, program::json)?;
        let path = self.esolm.path(&format!("data/{key}.scored.jsonl"));
        let scored = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let scored: Vec<Scored> = json_lines(&scored).map_err(Error::json(path.display()))?;
        let nats = -scored.iter().map(|one| one.logp).sum::<f64>();
        let tokens: u64 = scored.iter().map(|one| one.tokens).sum();
        let words = all_words(texts);
        let first = metrics::first_words(&words, distinct_words);
        let entropies: Vec<f64> = words.iter().map(|words| metrics::entropy(words)).collect();
        Ok(TextFigures {
            judge_ppl: (nats / tokens as f64).exp(),
            judge_bits_per_byte: nats / LN_2 / texts.concat().len() as f64,
            distinct: [1, 2, 3].map(|n| metrics::distinct(&first, n)),
            copied: metrics::copied(&words, body, COPIED),
            words: words.concat().len(),
            entropy: metrics::mean(&entropies).0,
        })
    }
}

/// Writes JSON lines into the work folder.
fn write_lines<T: Serialize>(esolm: &Esolm, name: &str, lines: &[T]) -> Result<(), Error> {
    let text: String = lines
        .iter()
        .map(|line| format!("{}\n", json!(line)))
        .collect();
    record::replace(&esolm.path(name), text.as_bytes()).map(|_| ())
}
