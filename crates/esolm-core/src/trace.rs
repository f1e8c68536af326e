//! What is reported while a model writes: a header, a step after each pass, and the result. `esolm sample --trace`
//! writes these as lines, the library's generations yield them, and the web page reads them; docs/plan-format.md
//! describes their JSON.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::Family;
use crate::plan::{Phase, PromptTail, Schedule};
use crate::reveal::Confidence;
use crate::sampler::Crossing;
use crate::stop::Finish;
use crate::text::Altered;

/// Version of the format.
pub const VERSION: u32 = 1;

/// Largest integer that a JavaScript number represents exactly.
const EXACT_IN_JSON: u64 = 1 << 53;

/// An event of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// What is going to be written. Sent again when texts are redrawn.
    Header(Header),
    /// A pass is complete.
    Step(Step),
    /// Everything is written, or the generation was stopped; the last event.
    Footer(Footer),
}

/// Everything that determines what is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format: 1.
    pub esolm_trace: u32,
    /// Version of the program.
    pub esolm: String,
    /// Name of the model.
    pub model: String,
    /// The family as which the text is written.
    pub family: Family,
    /// Tokens per text.
    pub length: usize,
    /// Tokens per block, for a BD3-LM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Number of last tokens that a block sees, if a BD3-LM writes more than its context; what it then draws is not
    /// exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Fraction of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// T as requested, before steps that draw nothing were dropped.
    pub steps: usize,
    /// How the steps are laid out.
    pub schedule: Schedule,
    /// Number of regions of the schedule block-autoregressive; only with that schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sar_steps: Option<usize>,
    /// How tokens were compared; only with the schedule confidence. Absent in traces of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// Confidence at which tokens were revealed immediately; only with the schedule confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence_threshold: Option<f32>,
    /// Where the blocks of a decoder that is a BD3-LM began, and what its prompt saw. Absent in traces of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tail: Option<PromptTail>,
    /// Tokens that were never drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppress_tokens: Vec<u32>,
    /// Tokens whose confidence was 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begin_suppress_tokens: Vec<u32>,
    /// Number of most likely tokens drawn from, if not all. Absent in traces of earlier versions.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Top-p, if not all tokens.
    pub top_p: Option<f32>,
    /// What happened to the token at which the total reached top-p. Omitted if it was kept.
    #[serde(default, skip_serializing_if = "Crossing::is_default")]
    pub top_p_crossing: Crossing,
    /// Minimum fraction of the largest probability, if any. Absent in traces of earlier versions.
    #[serde(default)]
    pub min_p: Option<f32>,
    /// Temperature.
    pub temperature: f32,
    /// Keys all random numbers. In JSON, a string if a JavaScript number would round it.
    #[serde(with = "seed")]
    pub seed: u64,
    /// Absolute index of the first text.
    pub first: u32,
    /// Number of texts.
    pub batch: usize,
    /// V, including the mask token.
    pub vocab_size: usize,
    /// The mask token.
    pub mask_index: u32,
    /// Number of passes that follow; with a confidence threshold, the maximum.
    pub nfe: usize,
    /// Counted from 0. Texts in which the model extended a given word are redrawn with their own random numbers.
    #[serde(default)]
    pub attempt: u32,
    /// The texts that this attempt writes, as indices within the batch; the others are unchanged.
    #[serde(default)]
    pub texts: Vec<usize>,
    /// Known (position, token) pairs of each text of the batch before the first step.
    pub known: Vec<Vec<(u32, u32)>>,
    /// What the tokenizer made of the first prompt that it altered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<Altered>,
}

/// A token that a step revealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revealed {
    /// Index of the text within the batch.
    pub sequence: u32,
    /// Its natural position in the text.
    pub position: u32,
    /// The token drawn.
    pub token: u32,
    /// Its text; empty without a tokenizer.
    #[serde(default)]
    pub text: String,
    /// Natural log-probability that the model gave the token in this step, before temperature, top-k, top-p and min-p;
    /// if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 0. With a confidence threshold, steps that had nothing left to draw are missing.
    pub step: usize,
    /// The header's `nfe`.
    pub steps: usize,
    /// The phase that the step belongs to.
    pub phase: Phase,
    /// Tokens revealed; empty unless tokens are observed.
    pub revealed: Vec<Revealed>,
    /// Rows that went through the network.
    pub rows: usize,
    /// Text and position of each place at which a SetDLM drew by confidence (its windows). Empty for other models, and
    /// unless tokens are observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub window: Vec<(u32, u32)>,
    /// Cache slots that hold known tokens after the step, summed over texts.
    pub cache_length: usize,
    /// Seconds since the generation began.
    pub seconds: f64,
    /// The header's `attempt`.
    #[serde(default)]
    pub attempt: u32,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Tokens of each text in natural order; unknown ones are the mask token. A text ended by a rule or a stop string
    /// is shorter; its last token may contain the beginning of the stop string, which is not part of the text.
    pub tokens: Vec<Vec<u32>>,
    /// The texts; without a tokenizer, token ids.
    pub text: Vec<String>,
    /// Whether it was stopped before its last step.
    pub interrupted: bool,
    /// Seconds from the start until the last token arrived on the host.
    pub seconds: f64,
    /// The text of each token that occurs, by index; empty without a tokenizer.
    #[serde(deserialize_with = "by_number")]
    pub pieces: BTreeMap<u32, String>,
    /// Passes of all attempts.
    #[serde(default)]
    pub nfe: usize,
    /// Total rows that went through the network.
    #[serde(default)]
    pub rows: usize,
    /// Texts in which the model still extended a given word after the last attempt, as indices within the batch.
    #[serde(default)]
    pub run_on: Vec<usize>,
    /// Texts that a rule or a stop string ended early, as indices within the batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<usize>,
    /// Why each text ended. Absent in traces of earlier versions.
    #[serde(default)]
    pub finish: Vec<Finish>,
    /// If requested, [`Revealed::logprob`] of each token of each text; `None` for tokens that were given or are
    /// unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Vec<Option<f32>>>,
    /// What it cost the device; zeros on the CPU.
    #[serde(default)]
    pub counters: Counters,
}

/// JSON keys are strings; serde does not parse numbers in them while trying the variants of an enum.
fn by_number<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u32, String>, D::Error> {
    let pieces = BTreeMap::<String, String>::deserialize(from)?.into_iter();
    pieces
        .map(|(token, text)| Ok((token.parse().map_err(D::Error::custom)?, text)))
        .collect()
}

/// What passes cost on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Kernel launches.
    pub dispatches: u64,
    /// Command submissions requested by the engine.
    pub submits: u64,
    /// Bytes copied from the device to the host.
    pub bytes_read: u64,
    /// Bytes of device memory reserved now. Nothing is released while a model runs, so this is also the peak.
    pub peak_bytes: u64,
}

impl Counters {
    /// The difference from `before`.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters {
            dispatches: self.dispatches - before.dispatches,
            submits: self.submits - before.submits,
            bytes_read: self.bytes_read - before.bytes_read,
            peak_bytes: self.peak_bytes,
        }
    }
}

/// A seed in JSON: a number, or a string of digits.
#[doc(hidden)]
#[allow(missing_docs, reason = "for serde alone")]
pub mod seed {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub enum Seed {
        Number(u64),
        Digits(String),
        // For the error message.
        Other(serde_json::Value),
    }

    impl Seed {
        pub fn value<E: Error>(self) -> Result<u64, E> {
            let refuse = |given: &dyn std::fmt::Display| {
                E::custom(format!(
                    "seed is {given}; it must be a whole number from 0 to 2^64 - 1"
                ))
            };
            match self {
                Self::Number(seed) => Ok(seed),
                Self::Digits(text) => text.parse().map_err(|_| refuse(&format!("{text:?}"))),
                Self::Other(value) => Err(refuse(&value)),
            }
        }
    }

    pub fn serialize<S: Serializer>(seed: &u64, to: S) -> Result<S::Ok, S::Error> {
        match *seed {
            seed if seed <= super::EXACT_IN_JSON => to.serialize_u64(seed),
            seed => to.serialize_str(&seed.to_string()),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        Seed::deserialize(from)?.value()
    }
}

/// An optional seed.
pub mod optional_seed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::seed::{self, Seed};

    /// Writes a number, a string of digits, or `null`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(seed: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match seed {
            Some(seed) => seed::serialize(seed, to),
            None => to.serialize_none(),
        }
    }

    /// Reads a number, a string of digits, or `null`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Option::<Seed>::deserialize(from)?
            .map(Seed::value)
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Request;

    #[test]
    fn seeds_survive_json() {
        let read = |json: &str| serde_json::from_str::<Request>(json).map(|r| r.seed);
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"seed": null}"#).unwrap(), None);
        assert_eq!(read(r#"{"seed": 7}"#).unwrap(), Some(7));
        let all = format!(r#"{{"seed": "{}"}}"#, u64::MAX);
        assert_eq!(read(&all).unwrap(), Some(u64::MAX));
        for wrong in ["1.5", "-1", r#""x""#, "[]"] {
            let error = read(&format!(r#"{{"seed": {wrong}}}"#)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("seed is ") && text.contains(wrong), "{text}");
        }
        for seed in [0, 1 << 53, (1 << 53) + 1, u64::MAX] {
            let request = Request {
                seed: Some(seed),
                ..Request::default()
            };
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(json.contains(&format!("\"{seed}\"")), seed > 1 << 53);
            assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
        }
    }

    #[test]
    fn traces_of_earlier_programs_are_read() {
        let lines = [
            r#"{"esolm_trace":1,"esolm":"0.1.0","model":"stories","family":"esolm","length":8,"alpha_0":0.5,"steps":4,"schedule":"binomial","top_p":null,"temperature":1.0,"seed":7,"first":0,"batch":1,"vocab_size":97,"mask_index":96,"nfe":5,"known":[[[2,11],[5,42]]]}"#,
            r#"{"step":0,"steps":5,"phase":"diffusion","revealed":[{"sequence":0,"position":7,"token":31}],"rows":4,"cache_length":2,"seconds":0.0123}"#,
            r#"{"tokens":[[4,19]],"text":["Once"],"interrupted":false,"seconds":0.0481,"pieces":{"4":"On"}}"#,
        ];
        let events = lines.map(|line| serde_json::from_str::<Event>(line).unwrap());
        assert!(matches!(&events[0], Event::Header(header) if header.known[0][1] == (5, 42)));
        assert!(matches!(&events[1], Event::Step(step) if step.revealed[0].token == 31));
        assert!(matches!(&events[2], Event::Footer(footer) if footer.pieces[&4] == "On"));
        for event in events {
            let again = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&again).unwrap(), event);
        }
    }
}
