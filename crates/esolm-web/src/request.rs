//! What JavaScript asks for, as JSON.

use esolm::config::{AttentionKind, Family, ModelConfig, Prepend};
use esolm::plan::Schedule;
use esolm::request::Request;
use esolm::rows::MaskMode;
use esolm::sampler::Sampler;
use esolm::{EngineOptions, Precision};
use serde::Deserialize;

use crate::error::Failure;

/// One or several texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Texts {
    One(String),
    Several(Vec<String>),
}

/// A whole number of 64 bits; JavaScript's own numbers are exact up to 2^53 only.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Whole {
    Number(u64),
    Text(String),
}

impl Whole {
    fn value(&self, name: &str) -> Result<u64, Failure> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) => text.parse().map_err(|_| {
                Failure::new(
                    "option",
                    format!("{name} is {text:?}; give a whole number from 0 to 2^64 - 1"),
                )
            }),
        }
    }
}

/// How a model is loaded.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    device: Option<String>,
    weights: Option<String>,
    kv_cache: Option<String>,
    variants: Option<String>,
    pub raw_weights: bool,
}

impl Load {
    pub fn options(&self) -> Result<EngineOptions, Failure> {
        let precision = |text: &Option<String>| match text {
            Some(text) => text.parse(),
            None => Ok(Precision::F32),
        };
        Ok(EngineOptions {
            device: self.device.as_deref().unwrap_or("auto").parse()?,
            weights: precision(&self.weights)?,
            kv_cache: precision(&self.kv_cache)?,
            variants: self.variants.as_deref().unwrap_or_default().parse()?,
        })
    }
}

/// Another way to run a network than its own.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DecodeAs {
    /// As a masked diffusion model: every position in every step, all attending to all, nothing kept.
    Mdlm,
}

/// What is to be written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Generate {
    prompt: Option<Texts>,
    infill: Option<String>,
    length: Option<usize>,
    alpha_0: Option<f64>,
    steps: Option<usize>,
    schedule: Option<Schedule>,
    top_p: Option<f32>,
    temperature: Option<f32>,
    seed: Option<Whole>,
    batch: Option<usize>,
    first: u32,
    bos: Option<bool>,
    decode_as: Option<DecodeAs>,
    /// For each text the number of the attempt at which it was last drawn again, since it went on with a given word; 0 for one that was not.
    pub attempts: Vec<u32>,
}

impl Generate {
    pub fn request(&self) -> Result<Request, Failure> {
        Ok(Request {
            prompts: match &self.prompt {
                None => Vec::new(),
                Some(Texts::One(text)) => vec![text.clone()],
                Some(Texts::Several(texts)) => texts.clone(),
            },
            infill: self.infill.clone(),
            length: self.length,
            alpha_0: self.alpha_0,
            steps: self.steps,
            schedule: self.schedule,
            sampler: Sampler {
                temperature: self.temperature.unwrap_or(1.0),
                top_p: self.top_p,
            },
            seed: match &self.seed {
                Some(seed) => seed.value("the seed")?,
                None => (js_sys::Math::random() * f64::from(u32::MAX)) as u64,
            },
            batch: self.batch,
            first: self.first,
            no_bos: self.bos == Some(false),
        })
    }

    /// The configuration that the text is written with.
    pub fn config(&self, own: &ModelConfig) -> Result<ModelConfig, Failure> {
        let mut config = own.clone();
        if self.decode_as == Some(DecodeAs::Mdlm) {
            if own.family == Family::Ar {
                return Err(Failure::new(
                    "option",
                    "an AR model cannot be run as an MDLM; leave decode_as out",
                ));
            }
            config.family = Family::Mdlm;
            config.attention = AttentionKind::Bidirectional;
            config.prepend = Prepend::None;
        }
        Ok(config)
    }
}

/// What is to be scored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub text: Option<String>,
    pub infill: Option<Middle>,
    pub alpha_0: Option<f64>,
    pub orders: Option<u32>,
    pub draws: Option<u32>,
    seed: Option<Whole>,
    pub bos: Option<bool>,
}

impl Score {
    pub fn seed(&self) -> Result<u64, Failure> {
        self.seed
            .as_ref()
            .map_or(Ok(0), |seed| seed.value("the seed"))
    }
}

/// A text whose middle is scored, given both sides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Middle {
    pub prefix: String,
    pub middle: String,
    pub suffix: String,
}

/// One pass of the network.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    pub mode: MaskMode,
    pub sort_idx: Vec<Vec<u32>>,
    pub zt_sorted: Vec<Vec<u32>>,
    pub x0_sorted: Option<Vec<Vec<u32>>>,
}
