//! `--trace`: every step as a line of JSON (docs/plan-format.md).

use std::collections::BTreeMap;
use std::path::Path;

use esolm::config::ModelConfig;
use esolm::plan::Plan;
use esolm::request::Given;
use esolm::text::TextCodec;
use esolm::{Generation, StepEvent};
use serde::Serialize;

use super::Settings;
use crate::failure::Failure;
use crate::files::Pending;

/// Version of the format.
const VERSION: u32 = 1;

/// The first line.
#[derive(Serialize)]
struct Header<'a> {
    esolm_trace: u32,
    esolm: &'static str,
    #[serde(flatten)]
    settings: &'a Settings,
    vocab_size: usize,
    mask_index: u32,
    nfe: usize,
    /// Known [position, token] pairs before the first step, a list for each sequence.
    known: &'a [Vec<(u32, u32)>],
}

/// The last line.
#[derive(Serialize)]
struct Footer<'a> {
    tokens: &'a [Vec<u32>],
    text: &'a [String],
    interrupted: bool,
    seconds: f64,
    /// The text of each token that occurs, by its number.
    pieces: BTreeMap<u32, String>,
}

/// A trace under way; it takes its name when it is whole.
pub struct Trace {
    file: Pending,
}

impl Trace {
    /// Begins the file with its header.
    pub fn create(
        path: &Path,
        settings: &Settings,
        config: &ModelConfig,
        given: &Given,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        let mut file = Pending::create(path)?;
        file.json_line(&Header {
            esolm_trace: VERSION,
            esolm: env!("CARGO_PKG_VERSION"),
            settings,
            vocab_size: config.vocab_size,
            mask_index: config.mask_index,
            nfe: plan.nfe(),
            known: &given.known,
        })?;
        Ok(Self { file })
    }

    /// Adds a step.
    pub fn step(&mut self, event: &StepEvent) -> Result<(), Failure> {
        self.file.json_line(event)
    }

    /// Adds the last line and gives the file its name.
    pub fn end(
        mut self,
        generation: &Generation,
        codec: Option<&TextCodec>,
        text: &[String],
        interrupted: bool,
    ) -> Result<(), Failure> {
        let mut pieces = BTreeMap::new();
        if let Some(codec) = codec {
            for &token in generation.tokens.iter().flatten() {
                pieces
                    .entry(token)
                    .or_insert_with(|| codec.decode(&[token]));
            }
        }
        self.file.json_line(&Footer {
            tokens: &generation.tokens,
            text,
            interrupted,
            seconds: generation.seconds,
            pieces,
        })?;
        self.file.commit()
    }
}
