//! What the jobs of `ppl` and `score` share: the model, which is loaded when there is a line to process, and the
//! handling of lines that cannot be scored among others that can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::likelihood::Purpose;
use esolm::{Error, Likelihood, LikelihoodError, Model, ModelFiles, Progress};
use serde_json::{Map, Value};

use crate::arguments::{Device, Job, OutputFormat, Source};
use crate::failure::{Failure, OVERFLOWED};
use crate::job::{self, Line};
use crate::setup;

/// The options of both commands.
pub struct Options<'a> {
    pub source: &'a Source,
    pub device: &'a Device,
    pub form: OutputFormat,
    pub job: &'a Job,
    pub batch: Option<usize>,
    pub quiet: bool,
}

impl<'a> Options<'a> {
    /// Opens the model, and reports bad options before anything is read. Fills in `likelihood` with what the job
    /// depends on, which the second result describes.
    pub fn open(
        &self,
        likelihood: &mut Likelihood,
        purpose: Purpose,
    ) -> Result<(Scorer<'a>, Map<String, Value>), Failure> {
        job::check_format(self.form)?;
        let files = setup::open(self.source, self.quiet)?;
        setup::check_block_size(&self.source.model, files.config())?;
        let resolved = likelihood.resolve(files.config(), purpose)?;
        if files.codec().is_none() {
            return Err(Error::NeedsTokenizer.into());
        }
        // A line has one figure, the exact one if there is one.
        if purpose == Purpose::Perplexity && resolved.orders > 0 {
            if likelihood.draws.is_some_and(|draws| draws > 0) {
                return Err(Failure::usage(
                    "--draws is for the bound, and a line has the exact figure alone; leave it out, or add --no-exact",
                ));
            }
            likelihood.draws = likelihood.draws.or(Some(0));
        }
        let mut identity = setup::identity(self.source, self.device, &files)?;
        identity.insert("alpha_0".into(), likelihood.alpha_0.into());
        identity.insert("orders".into(), likelihood.orders.into());
        identity.insert("draws".into(), likelihood.draws.into());
        identity.insert("seed".into(), likelihood.seed.into());
        let scorer = Scorer {
            device: self.device,
            quiet: self.quiet,
            is_exact: resolved.orders > 0,
            state: State::Files(Box::new(files)),
        };
        Ok((scorer, identity))
    }

    /// The job, whose results depend on `identity`.
    pub fn plan(&self, command: &'static str, identity: Map<String, Value>) -> job::Plan<'a> {
        job::Plan {
            command,
            job: self.job,
            options: Value::Object(identity),
            first: 0,
            batch: self.batch,
            quiet: self.quiet,
        }
    }
}

/// Whether the numbers of a text overflow, which depends on the text.
fn is_of_text(error: &Error) -> bool {
    match error {
        Error::Likelihood(LikelihoodError::NotFinite { .. }) => true,
        Error::Engine(error) => error.is_of_text(),
        _ => false,
    }
}

/// Scores lines.
pub struct Scorer<'a> {
    device: &'a Device,
    quiet: bool,
    /// Whether figures are exact.
    pub is_exact: bool,
    state: State,
}

enum State {
    Files(Box<ModelFiles>),
    Loaded(Model),
    Gone,
}

impl Scorer<'_> {
    /// The model's files, while it is not loaded.
    pub fn files(&self) -> Result<&ModelFiles, Failure> {
        match &self.state {
            State::Files(files) => Ok(files),
            _ => Err(Error::Crashed.into()),
        }
    }

    pub fn load(&mut self) -> Result<(), Failure> {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Files(files) => State::Loaded(setup::load(*files, self.device, self.quiet)?),
            state => state,
        };
        Ok(())
    }

    /// Scores texts with `score`, which gets them with their numbers. Texts that cannot be scored have an error as their
    /// result. Returns nothing if `stop` ends this.
    pub fn score<I: Clone, S>(
        &self,
        lines: Vec<Line<I>>,
        stop: &Arc<AtomicBool>,
        score: impl Fn(&Model, Vec<u32>, Vec<I>, Progress) -> Result<Vec<S>, Error>,
    ) -> Result<Vec<Result<S, String>>, Failure> {
        let State::Loaded(model) = &self.state else {
            return Err(Error::Crashed.into());
        };
        let score = |items: &[(u32, I)]| {
            let (numbers, texts) = items.iter().cloned().unzip();
            let stopped = stop.clone();
            let progress = Progress::new(move |_, _| !stopped.load(Ordering::SeqCst));
            score(model, numbers, texts, progress)
        };
        let mut items: Vec<(u32, I)> = (lines.into_iter())
            .map(|Line { number, item }| (number, item))
            .collect();
        let mut wrong: Vec<Option<String>> = vec![None; items.len()];
        let mut places: Vec<usize> = (0..items.len()).collect();
        let scored: Vec<Result<S, String>> = loop {
            if items.is_empty() {
                break Vec::new();
            }
            match score(&items) {
                Ok(scored) => break scored.into_iter().map(Ok).collect(),
                // The text at fault is known when each is scored alone.
                Err(error) if is_of_text(&error) => {
                    let alone = items.chunks(1).map(|item| match score(item) {
                        Ok(scored) => Ok(scored.into_iter().map(Ok).collect::<Vec<_>>()),
                        Err(error) if is_of_text(&error) => {
                            let why = format!("its probability is not finite; {OVERFLOWED}");
                            Ok(vec![Err(why)])
                        }
                        Err(error) => Err(error),
                    });
                    match alone.collect::<Result<Vec<_>, Error>>() {
                        Ok(alone) => break alone.into_iter().flatten().collect(),
                        Err(Error::Stopped) if stop.load(Ordering::SeqCst) => {
                            return Ok(Vec::new());
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                // Found before any pass.
                Err(Error::Item { index, source }) => {
                    items.remove(index);
                    wrong[places.remove(index)] = Some(source.to_string());
                }
                Err(Error::Stopped) if stop.load(Ordering::SeqCst) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            }
        };
        let mut scored = scored.into_iter();
        let results = wrong.into_iter().map(|wrong| match wrong {
            Some(why) => Ok(Err(why)),
            None => scored.next().ok_or(Error::Crashed.into()),
        });
        results.collect()
    }
}
