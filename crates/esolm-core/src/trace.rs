//! What is told while a model writes: a header, a step after each pass, the result. `esolm sample --trace` writes these lines, the
//! library's generations yield them, and the page reads them; docs/plan-format.md describes their JSON.

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

/// Largest whole number that JavaScript holds exactly.
const EXACT_IN_JSON: u64 = 1 << 53;

/// What a generation tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// What is going to be written. A further one comes where texts are drawn again.
    Header(Header),
    /// A pass is done.
    Step(Step),
    /// All is written, or the generation was stopped. Nothing follows.
    Footer(Footer),
}

/// What decides what is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format: 1.
    pub esolm_trace: u32,
    /// Version of the program.
    pub esolm: String,
    /// Name of the model.
    pub model: String,
    /// Family that the text is written as.
    pub family: Family,
    /// Tokens of a text.
    pub length: usize,
    /// Tokens of a block, of a BD3-LM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// The last tokens that a block sees, where a BD3-LM writes more than its context: what it draws then is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Share of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// T as it was asked for, before steps that draw nothing were dropped.
    pub steps: usize,
    /// How the steps are laid out.
    pub schedule: Schedule,
    /// Stretches of the schedule block-autoregressive, of that alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sar_steps: Option<usize>,
    /// What tokens were compared by, of the schedule confidence alone; in no trace of an earlier program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// Confidence at which tokens became known at once, of the schedule confidence alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence_threshold: Option<f32>,
    /// Where the blocks of a decoder that is a BD3-LM began, and what its prompt saw; in no trace of an earlier program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tail: Option<PromptTail>,
    /// Tokens that were never drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppress_tokens: Vec<u32>,
    /// Tokens whose confidence was 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begin_suppress_tokens: Vec<u32>,
    /// Most likely tokens that were drawn from, if not all; in no trace of an earlier program.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Nucleus, if not all tokens.
    pub top_p: Option<f32>,
    /// What became of the token at which the mass reached top-p; in no trace where it was kept.
    #[serde(default, skip_serializing_if = "Crossing::is_default")]
    pub top_p_crossing: Crossing,
    /// Fraction of the largest probability that a token needed, if any; in no trace of an earlier program.
    #[serde(default)]
    pub min_p: Option<f32>,
    /// Temperature.
    pub temperature: f32,
    /// Keys all random numbers. In JSON a string where JavaScript's numbers would round it.
    #[serde(with = "seed")]
    pub seed: u64,
    /// Absolute index of the first text.
    pub first: u32,
    /// Number of texts.
    pub batch: usize,
    /// V, the mask token included.
    pub vocab_size: usize,
    /// The mask token.
    pub mask_index: u32,
    /// Passes that follow; with a confidence threshold at most.
    pub nfe: usize,
    /// From 0; texts in which the model ran on at a given word are drawn again with numbers of their own.
    #[serde(default)]
    pub attempt: u32,
    /// The texts that this attempt writes, as indices within the batch; the others stay as they are.
    #[serde(default)]
    pub texts: Vec<usize>,
    /// Known (position, token) pairs of each text of the batch before the first step.
    pub known: Vec<Vec<(u32, u32)>>,
    /// What the tokenizer made of a prompt whose words it does not keep; the first one, if there are several.
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
    /// Natural logarithm of the probability that the model gave it in this step, before temperature, top-k, top-p and min-p; where it was
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 0. Some are left out where a confidence threshold left them nothing to draw.
    pub step: usize,
    /// The header's `nfe`.
    pub steps: usize,
    /// Which phase the step belongs to.
    pub phase: Phase,
    /// Tokens that became known; empty unless they are observed.
    pub revealed: Vec<Revealed>,
    /// Rows that went through the network.
    pub rows: usize,
    /// Texts and positions at which a SetDLM drew by confidence, its windows; empty for others, and unless tokens are observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub window: Vec<(u32, u32)>,
    /// Cache slots that hold known tokens after the step, over all texts.
    pub cache_length: usize,
    /// Seconds since the generation began.
    pub seconds: f64,
    /// The header's `attempt`.
    #[serde(default)]
    pub attempt: u32,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Tokens of every text in natural order; what is not known yet is the mask token. A text that a rule or a stop string ended is shorter; its
    /// last token may hold the beginning of the stop string, which is not in the text.
    pub tokens: Vec<Vec<u32>>,
    /// The texts; without a tokenizer the numbers of their tokens.
    pub text: Vec<String>,
    /// Whether it was stopped before its last step.
    pub interrupted: bool,
    /// Seconds from the start to the last token on the host.
    pub seconds: f64,
    /// The text of each token that occurs, by its number; empty without a tokenizer.
    #[serde(deserialize_with = "by_number")]
    pub pieces: BTreeMap<u32, String>,
    /// Passes of all attempts.
    #[serde(default)]
    pub nfe: usize,
    /// Rows that went through the network in all.
    #[serde(default)]
    pub rows: usize,
    /// Texts in which the model still ran on at a given word after the last attempt, as indices within the batch.
    #[serde(default)]
    pub run_on: Vec<usize>,
    /// Texts that a rule or a stop string ended before their length, as indices within the batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<usize>,
    /// Why each text is as long as it is; in no trace of an earlier program.
    #[serde(default)]
    pub finish: Vec<Finish>,
    /// Where it was asked for, for each text and token what [`Revealed::logprob`] says; nothing for what was given or is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Vec<Option<f32>>>,
    /// What it cost the device; zeros on the CPU.
    #[serde(default)]
    pub counters: Counters,
}

/// Names in JSON are text; serde does not see the numbers in them where it has to try an enum's variants.
fn by_number<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u32, String>, D::Error> {
    let pieces = BTreeMap::<String, String>::deserialize(from)?.into_iter();
    pieces
        .map(|(token, text)| Ok((token.parse().map_err(D::Error::custom)?, text)))
        .collect()
}

/// What passes cost a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Kernel launches.
    pub dispatches: u64,
    /// Command submissions that the engine asked for.
    pub submits: u64,
    /// Bytes copied from the device to the host.
    pub bytes_read: u64,
    /// Bytes of device memory reserved now. Nothing is given back while a model runs, so that is also the most so far.
    pub peak_bytes: u64,
}

impl Counters {
    /// What was added since `before`.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters {
            dispatches: self.dispatches - before.dispatches,
            submits: self.submits - before.submits,
            bytes_read: self.bytes_read - before.bytes_read,
            peak_bytes: self.peak_bytes,
        }
    }
}

/// A seed in JSON: a number, or its digits as a string.
#[doc(hidden)]
#[allow(missing_docs, reason = "for serde alone")]
pub mod seed {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub enum Seed {
        Number(u64),
        Digits(String),
        // For its message.
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

/// A seed that may be left out.
pub mod optional_seed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::seed::{self, Seed};

    /// As a number, its digits, or `null`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(seed: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match seed {
            Some(seed) => seed::serialize(seed, to),
            None => to.serialize_none(),
        }
    }

    /// A number, its digits, or `null`.
    ///
    /// # Errors
    /// When it is neither.
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
