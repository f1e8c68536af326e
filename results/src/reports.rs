//! What `esolm` prints with `--json`, as far as it is used here. Times are seconds without loading, likelihoods are in nats where the name
//! does not say otherwise.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use esolm_core::config::Family;
use serde::{Deserialize, Serialize};

/// `inspect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspected {
    pub family: Family,
    pub alpha_0: Option<f64>,
    pub n_blocks: u64,
    pub hidden: u64,
    pub length: u64,
    pub vocab_size: u64,
    pub parameters: u64,
    /// Settings that it recommends to sample with, by their names.
    #[serde(default)]
    pub recommended: BTreeMap<String, f64>,
}

/// `ppl`: the bound, which AR does not have, and the exact likelihood, which MDLM does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    pub device: String,
    pub windows: u64,
    /// Tokens of a window.
    pub length: u64,
    /// Tokens and bytes of the text.
    pub tokens: u64,
    pub bytes: Option<u64>,
    /// Orders of the exact likelihood, noise draws of the NELBO.
    pub orders: Option<u64>,
    pub draws: Option<u64>,
    pub nelbo: Option<Nelbo>,
    pub exact: Option<Figure>,
    pub seconds: f64,
}

/// The bound, and the parts that it is the sum of, per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nelbo {
    pub diffusion: Option<f64>,
    pub sequential: Option<f64>,
    pub total: Figure,
}

/// A likelihood in its units. The standard error is that of nats per token over windows; a single window has none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub nats_per_token: f64,
    pub standard_error: Option<f64>,
    pub bits_per_byte: Option<f64>,
    pub ppl: f64,
}

/// A line of `score`, or of `ppl --per-document`: how many tokens, and their log-probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub tokens: u64,
    pub logp: f64,
}

/// `sample`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    pub device: String,
    /// Tokens of a text.
    pub length: usize,
    /// Passes through the network.
    pub nfe: u64,
    pub seconds: f64,
    pub sequences: Vec<Sequence>,
}

/// All tokens of one text of `sample`, and the text itself if there is a tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub text: Option<String>,
    pub tokens: Vec<u32>,
}

/// A line of the log of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LogLine {
    Start {},
    Train {
        step: u64,
        tokens: u64,
        loss: f64,
        seconds: f64,
    },
    Validation {
        step: u64,
        tokens: u64,
        loss: f64,
    },
    End {
        interrupted: bool,
    },
}
