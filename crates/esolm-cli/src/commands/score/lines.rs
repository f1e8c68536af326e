//! `esolm score --input`: every line says by its fields what is scored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::likelihood::Purpose;
use esolm::text::Altered;
use esolm::{Error, ModelFiles, Progress, Score, ScoreItem, ScoreOptions, Scored};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Choice;
use crate::arguments;
use crate::failure::Failure;
use crate::job::{self, Line, Work};
use crate::setup;

/// A line, without its id.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    text: Option<String>,
    context: Option<String>,
    continuation: Option<String>,
    choices: Option<Vec<String>>,
    prefix: Option<String>,
    middle: Option<String>,
    suffix: Option<String>,
}

/// What the fields may be.
const FORMS: &str = "it needs text, or context and continuation, or context and choices, or prefix, middle and suffix, and none of the others";

/// The result of a line.
#[derive(Serialize)]
pub struct Done {
    #[serde(flatten)]
    scored: One,
    /// The text is longer than the model's context: it was scored in windows that know nothing of each other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_cut: bool,
    /// Texts of which not everything that is given fits the context.
    #[serde(skip_serializing_if = "is_zero")]
    shortened: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    altered: Option<Altered>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[derive(Serialize)]
#[serde(untagged)]
enum One {
    Score(Score),
    Choice(Choice),
}

/// A text to score; choices are compared, a continuation is the one choice.
pub struct Item {
    item: ScoreItem,
    is_choice: bool,
}

pub fn run(arguments: &arguments::Score, mut options: ScoreOptions) -> Result<(), Failure> {
    job::check_format(arguments.form.format)?;
    let files = setup::open(&arguments.source, arguments.quiet)?;
    setup::check_block_size(&arguments.source.model, files.config())?;
    options.likelihood.resolve(files.config(), Purpose::Score)?;
    if files.codec().is_none() {
        return Err(Error::NeedsTokenizer.into());
    }
    let mut identity = setup::identity(&arguments.source, &arguments.device);
    let asked = &options.likelihood;
    identity.insert("alpha_0".into(), asked.alpha_0.into());
    identity.insert("orders".into(), asked.orders.into());
    identity.insert("draws".into(), asked.draws.into());
    identity.insert("seed".into(), asked.seed.into());
    identity.insert("bos".into(), options.bos.into());
    let normalize = format!("{:?}", arguments.normalize).to_lowercase();
    identity.insert("normalize".into(), normalize.into());
    let plan = job::Plan {
        command: "score",
        job: &arguments.job,
        options: Value::Object(identity),
        first: 0,
        batch: arguments.batch,
        quiet: arguments.quiet,
    };
    options.progress = Progress::default();
    let work = Scoring {
        arguments,
        options,
        files: Some(files),
        model: None,
    };
    job::run(&plan, work)
}

struct Scoring<'a> {
    arguments: &'a arguments::Score,
    options: ScoreOptions,
    /// Until the model is loaded.
    files: Option<ModelFiles>,
    model: Option<esolm::Model>,
}

impl Work for Scoring<'_> {
    type Item = Item;
    type Done = Done;

    fn read(&self, fields: Map<String, Value>) -> Result<Item, String> {
        let fields: Fields = serde_json::from_value(Value::Object(fields)).map_err(|error| {
            let why = job::reason(&error);
            format!("it does not say what to score ({why})")
        })?;
        let mut is_choice = false;
        let item = match fields {
            Fields {
                text: Some(text),
                context: None,
                continuation: None,
                choices: None,
                prefix: None,
                middle: None,
                suffix: None,
            } => ScoreItem::Text(text),
            Fields {
                text: None,
                context: Some(context),
                continuation,
                choices,
                prefix: None,
                middle: None,
                suffix: None,
            } => {
                is_choice = choices.is_some();
                let choices = match (continuation, choices) {
                    (Some(one), None) => vec![one],
                    (None, Some(choices)) => choices,
                    _ => return Err(FORMS.into()),
                };
                ScoreItem::Choices { context, choices }
            }
            Fields {
                text: None,
                context: None,
                continuation: None,
                choices: None,
                prefix: Some(prefix),
                middle: Some(middle),
                suffix: Some(suffix),
            } => ScoreItem::Infill {
                prefix,
                middle,
                suffix,
            },
            _ => return Err(FORMS.into()),
        };
        Ok(Item { item, is_choice })
    }

    fn load(&mut self, _left: Option<u64>) -> Result<(), Failure> {
        if let Some(files) = self.files.take() {
            let model = setup::load(files, &self.arguments.device, self.arguments.quiet)?;
            self.model = Some(model);
        }
        Ok(())
    }

    fn run(
        &mut self,
        lines: Vec<Line<Item>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<Done, String>>, Failure> {
        let model = self.model.clone().ok_or(Error::Crashed)?;
        let choice: Vec<bool> = lines.iter().map(|line| line.item.is_choice).collect();
        let lines = (lines.into_iter())
            .map(|Line { number, item }| (number, item.item))
            .collect();
        let scored = all_but_bad(lines, |numbers, items| {
            let mut options = self.options.clone();
            options.numbers = numbers;
            let stop = stop.clone();
            options.progress = Progress::new(move |_, _| !stop.load(Ordering::SeqCst));
            model.blocking().score(items, options)
        })?;
        let done = scored.into_iter().zip(choice);
        Ok(done
            .map(|(scored, is_choice)| scored.map(|scored| self.done(scored, is_choice)))
            .collect())
    }
}

impl Scoring<'_> {
    fn done(&self, scored: Scored, is_choice: bool) -> Done {
        Done {
            scored: match &scored.scores[..] {
                [score] if !is_choice => One::Score(*score),
                scores => One::Choice(Choice::of(scores, self.arguments.normalize)),
            },
            is_cut: scored.is_cut,
            shortened: scored.shortened,
            altered: scored.altered,
        }
    }
}

/// Scores texts, each with its number; those that cannot be scored are left out, and what is wrong with them stands in their place.
pub fn all_but_bad<I: Clone, S>(
    mut items: Vec<(u32, I)>,
    score: impl Fn(Vec<u32>, Vec<I>) -> Result<Vec<S>, Error>,
) -> Result<Vec<Result<S, String>>, Failure> {
    let mut wrong: Vec<Option<String>> = vec![None; items.len()];
    let mut places: Vec<usize> = (0..items.len()).collect();
    let scored = loop {
        if items.is_empty() {
            break Vec::new();
        }
        let (numbers, texts) = items.iter().cloned().unzip();
        match score(numbers, texts) {
            Ok(scored) => break scored,
            // Found before any pass.
            Err(Error::Item { index, source }) => {
                items.remove(index);
                wrong[places.remove(index)] = Some(source.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut scored = scored.into_iter();
    let results = wrong.into_iter().map(|wrong| match wrong {
        Some(why) => Ok(Err(why)),
        None => scored.next().map(Ok).ok_or(Error::Crashed.into()),
    });
    results.collect()
}
