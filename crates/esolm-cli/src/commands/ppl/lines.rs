//! `esolm ppl --input`: every line is a document that is scored by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::likelihood::Purpose;
use esolm::{Corpus, Error, ModelFiles, PerplexityOptions, Progress, Score};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::arguments::Ppl;
use crate::commands::score::all_but_bad;
use crate::failure::Failure;
use crate::job::{self, Line, Work};
use crate::setup;

/// A line, without its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    text: String,
}

/// The result of a line.
#[derive(Serialize)]
pub struct Done {
    #[serde(flatten)]
    score: Score,
    /// Perplexity a token.
    ppl: f64,
}

pub fn run(arguments: &Ppl, mut options: PerplexityOptions) -> Result<(), Failure> {
    job::check_format(arguments.form.format)?;
    let files = setup::open(&arguments.source, arguments.quiet)?;
    setup::check_block_size(&arguments.source.model, files.config())?;
    if files.codec().is_none() {
        return Err(Error::NeedsTokenizer.into());
    }
    options.per_document = true;
    let asked = &mut options.likelihood;
    // A document has one figure, which is the exact one where there is one.
    let resolved = asked.resolve(files.config(), Purpose::Perplexity)?;
    if resolved.orders > 0 {
        asked.draws = asked.draws.or(Some(0));
    }
    let mut identity = setup::identity(&arguments.source, &arguments.device);
    identity.insert("alpha_0".into(), asked.alpha_0.into());
    identity.insert("orders".into(), asked.orders.into());
    identity.insert("draws".into(), asked.draws.into());
    identity.insert("seed".into(), asked.seed.into());
    identity.insert("length".into(), options.length.into());
    // Bad options are said before anything is read.
    let example = Corpus::Documents(vec!["example".into()]);
    options.check(files.config(), &example)?;
    let plan = job::Plan {
        command: "ppl",
        job: &arguments.job,
        options: Value::Object(identity),
        first: 0,
        batch: arguments.batch,
        quiet: arguments.quiet,
    };
    let work = Measuring {
        arguments,
        options,
        files: Some(files),
        model: None,
    };
    job::run(&plan, work)
}

struct Measuring<'a> {
    arguments: &'a Ppl,
    options: PerplexityOptions,
    /// Until the model is loaded.
    files: Option<ModelFiles>,
    model: Option<esolm::Model>,
}

impl Work for Measuring<'_> {
    type Item = String;
    type Done = Done;

    fn read(&self, fields: Map<String, Value>) -> Result<String, String> {
        let fields: Fields = serde_json::from_value(Value::Object(fields)).map_err(|error| {
            let why = job::reason(&error);
            format!("it is not an object with a text ({why})")
        })?;
        // White space around a document is left out everywhere.
        match fields.text.trim() {
            "" => Err("its text is empty".into()),
            text => Ok(text.into()),
        }
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
        lines: Vec<Line<String>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<Done, String>>, Failure> {
        let model = self.model.clone().ok_or(Error::Crashed)?;
        let lines: Vec<(u32, String)> = (lines.into_iter())
            .map(|Line { number, item }| (number, item))
            .collect();
        let scored = all_but_bad(lines, |numbers, texts| {
            let count = texts.len();
            let mut options = self.options.clone();
            options.numbers = numbers;
            let stop = stop.clone();
            options.progress = Progress::new(move |_, _| !stop.load(Ordering::SeqCst));
            let corpus = Corpus::Documents(texts);
            match model.blocking().perplexity(corpus, options) {
                Ok(measured) => Ok((measured.per_document.into_iter())
                    .map(|(_, score)| Some(score))
                    .collect()),
                // Of none of them.
                Err(Error::NoToken) => Ok(vec![None; count]),
                Err(error) => Err(error),
            }
        })?;
        let done = scored.into_iter().map(|scored| {
            let score = scored?.filter(|score| score.tokens > 0);
            let score = score.ok_or("nothing predicts its one token")?;
            let ppl = score.nats_per_token.map_or(f64::NAN, f64::exp);
            Ok(Done { score, ppl })
        });
        Ok(done.collect())
    }
}
