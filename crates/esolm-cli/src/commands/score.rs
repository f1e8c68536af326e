//! `esolm score`: log-likelihoods of lines, of choices given a context, and of middles given both sides.

mod lines;

use std::fmt::Write as _;
use std::path::PathBuf;

use esolm::config::Family;
use esolm::likelihood::Purpose;
use esolm::{Error, Likelihood, Score, ScoreItem, ScoreOptions, Scored};
use esolm_checkpoint::message::count;
use serde::{Deserialize, Serialize};

use crate::arguments::{self, FormatName, Normalize};
use crate::failure::Failure;
use crate::likelihood::{self, Line};
use crate::{output, setup, texts};

pub fn run(arguments: &arguments::Score) -> Result<(), Failure> {
    let mut options = ScoreOptions {
        likelihood: Likelihood {
            alpha_0: arguments.alpha0,
            orders: arguments.orders,
            draws: arguments.draws,
            seed: Some(arguments.seed),
            batch: arguments.batch,
        },
        bos: arguments.opening.said(),
        ..ScoreOptions::default()
    };
    if arguments.job.input.is_some() {
        return lines::run(arguments, options);
    }
    if arguments.normalize != Normalize::None && !arguments.choices {
        return Err(Failure::usage(
            "--normalize compares choices; give --choices, or a job with --input",
        ));
    }
    let files = setup::open(&arguments.source, arguments.quiet)?;
    setup::check_block_size(&arguments.source.model, files.config())?;
    let config = files.config();
    if arguments.infill && matches!(config.family, Family::Ar | Family::Bd3Lm) {
        return Err(Failure::usage(format!(
            "--infill needs a model that reads what comes after a gap, which {} does not; give an Eso-LM, an MDLM or a SetDLM",
            config.family.one()
        )));
    }
    let is_exact = options.likelihood.resolve(config, Purpose::Score)?.orders > 0;
    if files.codec().is_none() {
        return Err(Error::NeedsTokenizer.into());
    }
    let Input { items, places } = Input::read(arguments)?;
    let place = |error| match error {
        Error::Item { index, source } => Failure::item(&places[index], &source),
        error => error.into(),
    };
    options.check(config, &items).map_err(place)?;
    let model = setup::load(files, &arguments.device, arguments.quiet)?;
    let scored = likelihood::run(arguments.quiet, |progress| {
        options.progress = progress;
        model.blocking().score(items, options)
    });
    let scored = scored.map_err(place)?;
    if !arguments.quiet {
        notes(&scored, &places, is_exact)
            .iter()
            .for_each(|note| output::note(note));
    }
    for (index, scored) in scored.iter().enumerate() {
        match &scored.scores[..] {
            scores if arguments.choices => print_choices(index, scores, arguments)?,
            [score] if arguments.form.format() != FormatName::Text => {
                output::json_line(&Line { index, score })?
            }
            scores => scores
                .iter()
                .try_for_each(|score| output::text(&format!("{:.6}\n", score.logp)))?,
        }
    }
    Ok(())
}

/// What is scored, and the place of each item in the input.
#[derive(Default)]
struct Input {
    items: Vec<ScoreItem>,
    places: Vec<String>,
}

/// A line of `--choices`.
#[derive(Deserialize)]
struct Choices {
    context: String,
    choices: Vec<String>,
}

/// A line of `--infill`.
#[derive(Deserialize)]
struct Infill {
    prefix: String,
    middle: String,
    suffix: String,
}

impl Input {
    fn read(arguments: &arguments::Score) -> Result<Self, Failure> {
        let stdin = [PathBuf::from(texts::STDIN)];
        let files = match &arguments.files[..] {
            [] => &stdin[..],
            files => files,
        };
        let mut all = Self::default();
        for text in texts::read(files)? {
            let items: Vec<(usize, ScoreItem)> = if arguments.choices {
                let lines = text.json_lines(
                    "a JSON object with the fields context, a text, and choices, a list of texts",
                )?;
                let item = |Choices { context, choices }| ScoreItem::Choices { context, choices };
                lines.into_iter().map(|(n, line)| (n, item(line))).collect()
            } else if arguments.infill {
                let lines = text.json_lines(
                    "a JSON object with the fields prefix, middle and suffix, each a text",
                )?;
                let item = |line: Infill| ScoreItem::Infill {
                    prefix: line.prefix,
                    middle: line.middle,
                    suffix: line.suffix,
                };
                lines.into_iter().map(|(n, line)| (n, item(line))).collect()
            } else {
                if text.is_jsonl && !arguments.quiet {
                    output::note(&format!(
                        "{} is scored as lines of plain text; --choices and --infill read JSON",
                        text.name
                    ));
                }
                let lines = (1..).zip(text.content.lines());
                lines
                    .map(|(n, line)| (n, ScoreItem::Text(line.into())))
                    .collect()
            };
            for (number, item) in items {
                all.items.push(item);
                all.places.push(format!("line {number} of {}", text.name));
            }
        }
        match all.items.is_empty() {
            true => Err(Failure::failed(
                "there is no line to score; give lines of text",
            )),
            false => Ok(all),
        }
    }
}

/// Notes on how the texts were scored.
fn notes(scored: &[Scored], places: &[String], is_exact: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let altered = |(item, place): (&Scored, _)| Some((item.altered.clone()?, place));
    let mut altered = scored.iter().zip(places).filter_map(altered);
    if let Some((first, place)) = altered.next() {
        notes.push(likelihood::altered(&first, place, 1 + altered.count()));
    }
    let windows = "scored in windows that know nothing of each other";
    match scored.iter().filter(|item| item.is_cut).count() {
        0 => {}
        1 => notes.push(format!(
            "a line is longer than the model's context: it is {windows}"
        )),
        n => notes.push(format!(
            "{n} lines are longer than the model's context: they are {windows}"
        )),
    }
    let shortened: usize = scored.iter().map(|item| item.shortened).sum();
    if shortened > 0 {
        let texts: usize = scored.iter().map(|item| item.scores.len()).sum();
        let texts = count(texts, "text");
        notes.push(format!(
            "what is given does not fit the model's context in {shortened} of {texts}: its farthest tokens are left out"
        ));
    }
    if !is_exact {
        notes.push("the figures are lower bounds: this model has no exact likelihood".into());
    }
    notes
}

/// A line of JSON for `--choices`.
#[derive(Serialize)]
struct ChoiceLine {
    index: usize,
    #[serde(flatten)]
    choice: Choice,
}

/// The choices of one context.
#[derive(Serialize)]
struct Choice {
    best: usize,
    logp: Vec<f64>,
    tokens: Vec<usize>,
    bytes: Vec<usize>,
    /// The values that were compared.
    normalized: Vec<f64>,
    exact: bool,
}

impl Choice {
    fn of(scores: &[Score], normalize: Normalize) -> Self {
        let normalized: Vec<f64> = scores
            .iter()
            .map(|score| match normalize {
                Normalize::None => score.logp,
                Normalize::Token => score.logp / score.tokens.max(1) as f64,
                Normalize::Byte => score.logp / score.bytes.max(1) as f64,
            })
            .collect();
        // Of equal ones, the first.
        let better = |best, i| {
            if normalized[i] > normalized[best] {
                i
            } else {
                best
            }
        };
        Self {
            best: (0..normalized.len()).fold(0, better),
            logp: scores.iter().map(|score| score.logp).collect(),
            tokens: scores.iter().map(|score| score.tokens).collect(),
            bytes: scores.iter().map(|score| score.bytes).collect(),
            normalized,
            exact: scores.iter().all(|score| score.exact),
        }
    }
}

fn print_choices(
    index: usize,
    scores: &[Score],
    arguments: &arguments::Score,
) -> Result<(), Failure> {
    let choice = Choice::of(scores, arguments.normalize);
    if arguments.form.format() != FormatName::Text {
        return output::json_line(&ChoiceLine { index, choice });
    }
    let mut text = choice.best.to_string();
    for score in scores {
        // Writing to a String cannot fail.
        let _ = write!(text, "\t{:.6}", score.logp);
    }
    output::text(&(text + "\n"))
}
