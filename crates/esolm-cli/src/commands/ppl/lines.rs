//! `esolm ppl --input`: each line is a document that is scored separately.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::likelihood::Purpose;
use esolm::{Corpus, Error, ModelFiles, PerplexityOptions, Score};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::arguments::Ppl;
use crate::failure::Failure;
use crate::fields::{self, Form, TEXT};
use crate::job::{self, Line, Work};
use crate::likelihood::lines::{Options, Scorer};

/// A line, without its id.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    text: Option<String>,
}

const FORM: Form = Form {
    fields: &[("text", TEXT)],
    called: "lines for `ppl`",
    page: "docs/scale.md",
};

/// The result of a line.
#[derive(Serialize)]
pub struct Done {
    #[serde(flatten)]
    score: Score,
    /// Perplexity per token, if there are any tokens.
    ppl: Option<f64>,
}

pub fn run(arguments: &Ppl, mut options: PerplexityOptions) -> Result<(), Failure> {
    let common = Options {
        source: &arguments.source,
        device: &arguments.device,
        form: arguments.form,
        job: &arguments.job,
        batch: arguments.batch,
        quiet: arguments.quiet,
    };
    options.per_document = true;
    let (scorer, mut identity) = common.open(&mut options.likelihood, Purpose::Perplexity)?;
    identity.insert("length".into(), options.length.into());
    identity.insert("bos".into(), options.bos.into());
    let example = Corpus::Documents(vec!["example".into()]);
    options.check(scorer.files()?.config(), &example)?;
    let plan = common.plan("ppl", identity);
    job::run(&plan, Measuring { options, scorer })
}

struct Measuring<'a> {
    options: PerplexityOptions,
    scorer: Scorer<'a>,
}

impl Work for Measuring<'_> {
    type Item = String;
    type Done = Done;

    fn read(&self, fields: Map<String, Value>) -> Result<String, String> {
        let fields: Fields = fields::read(fields, &FORM, &Map::new())?;
        let text = fields.text.ok_or("it has no field text")?;
        // Whitespace around a document is always ignored.
        Ok(text.trim().into())
    }

    fn files(&self) -> Result<&ModelFiles, Failure> {
        self.scorer.files()
    }

    fn load(&mut self, _left: Option<u64>) -> Result<(), Failure> {
        self.scorer.load()
    }

    fn run(
        &mut self,
        lines: Vec<Line<String>>,
        stop: &Arc<AtomicBool>,
        done: &mut Vec<Result<Done, String>>,
    ) -> Result<(), Failure> {
        let is_exact = self.scorer.is_exact;
        let scored = (self.scorer).score(lines, stop, |model, numbers, texts, progress| {
            let mut options = self.options.clone();
            (options.numbers, options.progress) = (numbers, progress);
            // If none of the texts has a token to score, there is nothing to measure.
            let nothing = texts
                .iter()
                .map(|text| Score::nothing(text.len(), is_exact));
            let nothing: Vec<Score> = nothing.collect();
            match model
                .blocking()
                .perplexity(Corpus::Documents(texts), options)
            {
                Ok(measured) => Ok((measured.per_document.into_iter())
                    .map(|(_, score)| score)
                    .collect()),
                Err(Error::NoToken) => Ok(nothing),
                Err(error) => Err(error),
            }
        })?;
        done.extend(scored.into_iter().map(|scored| {
            let score = scored?;
            let ppl = score.nats_per_token.map(f64::exp);
            Ok(Done { score, ppl })
        }));
        Ok(())
    }
}
