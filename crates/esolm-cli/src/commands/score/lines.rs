//! `esolm score --input`: the fields of each line determine what is scored.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::likelihood::Purpose;
use esolm::text::Altered;
use esolm::{ModelFiles, Score, ScoreItem, ScoreOptions, Scored};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Choice;
use crate::arguments::{self, Normalize};
use crate::failure::Failure;
use crate::fields::{self, Form, TEXT};
use crate::job::{self, Line, Work};
use crate::likelihood::lines::{Options, Scorer};

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

const FORM: Form = Form {
    fields: &[
        ("text", TEXT),
        ("context", TEXT),
        ("continuation", TEXT),
        ("choices", "a list of texts"),
        ("prefix", TEXT),
        ("middle", TEXT),
        ("suffix", TEXT),
    ],
    called: "lines for `score`",
    page: "docs/scale.md",
};

/// The combinations of fields.
const FORMS: &str = "it needs text, or context and continuation, or context and choices, or prefix, middle and suffix, and none of the others";

/// The result of a line.
#[derive(Serialize)]
pub struct Done {
    #[serde(flatten)]
    scored: One,
    /// Whether the text is longer than the model's context, and was scored in independent windows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_cut: bool,
    /// Number of texts whose given part was shortened to fit the context.
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

/// A text to score. Choices are compared; a continuation is a single choice.
pub struct Item {
    item: ScoreItem,
    is_choice: bool,
}

pub fn run(arguments: &arguments::Score, mut options: ScoreOptions) -> Result<(), Failure> {
    let common = Options {
        source: &arguments.source,
        device: &arguments.device,
        form: arguments.form,
        job: &arguments.job,
        batch: arguments.batch,
        quiet: arguments.quiet,
    };
    let (scorer, mut identity) = common.open(&mut options.likelihood, Purpose::Score)?;
    identity.insert("bos".into(), options.bos.into());
    let normalize = format!("{:?}", arguments.normalize).to_lowercase();
    identity.insert("normalize".into(), normalize.into());
    let plan = common.plan("score", identity);
    let work = Scoring {
        normalize: arguments.normalize,
        options,
        scorer,
    };
    job::run(&plan, work)
}

struct Scoring<'a> {
    normalize: Normalize,
    options: ScoreOptions,
    scorer: Scorer<'a>,
}

impl Work for Scoring<'_> {
    type Item = Item;
    type Done = Done;

    fn read(&self, fields: Map<String, Value>) -> Result<Item, String> {
        let fields: Fields = fields::read(fields, &FORM, &Map::new())?;
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

    fn files(&self) -> Result<&ModelFiles, Failure> {
        self.scorer.files()
    }

    fn load(&mut self, _left: Option<u64>) -> Result<(), Failure> {
        self.scorer.load()
    }

    fn run(
        &mut self,
        lines: Vec<Line<Item>>,
        stop: &Arc<AtomicBool>,
        done: &mut Vec<Result<Done, String>>,
    ) -> Result<(), Failure> {
        let choice: Vec<bool> = lines.iter().map(|line| line.item.is_choice).collect();
        let lines = (lines.into_iter())
            .map(|Line { number, item }| Line {
                number,
                item: item.item,
            })
            .collect();
        let scored = (self.scorer).score(lines, stop, |model, numbers, items, progress| {
            let mut options = self.options.clone();
            (options.numbers, options.progress) = (numbers, progress);
            model.blocking().score(items, options)
        })?;
        for (scored, is_choice) in scored.into_iter().zip(choice) {
            done.push(scored.map(|scored| self.done(scored, is_choice)));
        }
        Ok(())
    }
}

impl Scoring<'_> {
    fn done(&self, scored: Scored, is_choice: bool) -> Done {
        Done {
            scored: match &scored.scores[..] {
                [score] if !is_choice => One::Score(*score),
                scores => One::Choice(Choice::of(scores, self.normalize)),
            },
            is_cut: scored.is_cut,
            shortened: scored.shortened,
            altered: scored.altered,
        }
    }
}
