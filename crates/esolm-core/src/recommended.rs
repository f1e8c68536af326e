//! Settings for sampling that come with a checkpoint: `generation_config.json`, under the key `esolm`. What else stands in that file was
//! chosen for text that is written from left to right, mostly by other models, and is not taken, but for the tokens that end a decoder's text
//! ([`ModelConfig::more_eos`](crate::config::ModelConfig::more_eos)).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::ConfigError;
use crate::documents::normalize;
use crate::message::{json_error, shorten};
use crate::sampler::Sampler;

/// The file.
pub const FILE: &str = "generation_config.json";
/// The field in it.
pub const KEY: &str = "esolm";

/// What is used where a request does not say. What a checkpoint leaves out has its usual value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recommended {
    /// Share of the tokens that diffusion writes, in [0, 1], of an Eso-LM that runs as one. Likelihoods have that of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_0: Option<f64>,
    /// Divides the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// As [`Sampler::top_k`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// As [`Sampler::top_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// As [`Sampler::min_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
}

impl Recommended {
    /// Reads the text of a `generation_config.json`; one without a field `esolm` recommends nothing.
    ///
    /// # Errors
    /// [`ConfigError::Settings`] where the text is not a JSON object, or that field not an object of known settings within their ranges.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let unusable = |why: String| Err(ConfigError::Settings(why));
        let mut file: Map<String, Value> = match serde_json::from_str(&normalize(text)) {
            Ok(file) => file,
            Err(error) => {
                return unusable(format!(
                    "they are not a JSON object ({})",
                    json_error(&error)
                ));
            }
        };
        let own = match file.remove(KEY) {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(own) if own.is_object() => own,
            Some(own) => {
                let found = shorten(&own.to_string());
                return unusable(format!("\"{KEY}\" is {found}, which is not an object"));
            }
        };
        let read: Self = match serde_json::from_value(own) {
            Ok(read) => read,
            Err(error) => return unusable(format!("\"{KEY}\" has {}", json_error(&error))),
        };
        let usual = Sampler::default();
        let sampler = Sampler {
            temperature: read.temperature.unwrap_or(usual.temperature),
            top_k: read.top_k,
            top_p: read.top_p,
            min_p: read.min_p,
            ..usual
        };
        let wrong = match (read.alpha_0, sampler.validate()) {
            (Some(alpha_0), _) if !(0.0..=1.0).contains(&alpha_0) => {
                format!("alpha_0 is {alpha_0}, which lies outside of 0 to 1")
            }
            // The remedy behind the semicolon is for who can change an option.
            (_, Err(error)) => error
                .to_string()
                .split(';')
                .next()
                .unwrap_or_default()
                .into(),
            (_, Ok(())) => return Ok(read),
        };
        unusable(wrong)
    }

    /// The text of a file that [`Recommended::from_json`] reads back; `None` where nothing is recommended.
    pub fn to_json(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let file = BTreeMap::from([(KEY, self)]);
        let text = serde_json::to_string_pretty(&file);
        Some(text.expect("numbers are always JSON") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_this_engine_are_taken() {
        let none = Recommended::default();
        for text in [
            r#"{"temperature": 0.6, "top_p": 0.95, "do_sample": true}"#,
            r#"{"esolm": null}"#,
            r#"{"esolm": {}}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(Recommended::from_json(text), Ok(none), "{text}");
        }
        assert_eq!(none.to_json(), None);
        let text = r#"{"temperature": 0.6, "esolm": {"alpha_0": 0.5, "top_k": 40, "min_p": 0}}"#;
        let read = Recommended::from_json(text).unwrap();
        let expected = Recommended {
            alpha_0: Some(0.5),
            top_k: Some(40),
            min_p: Some(0.0),
            ..none
        };
        assert_eq!(read, expected);
        let written = read.to_json().unwrap();
        let short = Recommended {
            top_p: Some(0.9),
            ..none
        };
        assert!(short.to_json().unwrap().contains(": 0.9\n"));
        assert_eq!(Recommended::from_json(&written), Ok(read));
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        for (own, words) in [
            ("3", "is 3, which is not an object"),
            ("[0.25, 0.9]", "is [0.25,0.9], which is not an object"),
            (r#"{"topP": 0.9}"#, "topP"),
            (r#"{"top_p": "0.9"}"#, "0.9"),
            (r#"{"top_p": 1.5}"#, "top-p is 1.5"),
            (r#"{"top_k": 0}"#, "top-k is 0"),
            (r#"{"temperature": -1}"#, "temperature is -1"),
            (r#"{"alpha_0": 2}"#, "alpha_0 is 2"),
        ] {
            let error = Recommended::from_json(&format!(r#"{{"esolm": {own}}}"#)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(words), "{own}: {text}");
        }
        for text in [
            "[1]",
            "not JSON",
            r#"{"esolm": {"top_p": 0.9},}"#,
            r#"{"a": 1e400}"#,
        ] {
            let error = Recommended::from_json(text).unwrap_err().to_string();
            assert!(error.contains("not a JSON object"), "{text}: {error}");
        }
        let flood = format!(r#"{{"esolm": {{"{}": 1}}}}"#, "x".repeat(1 << 20));
        assert!(
            Recommended::from_json(&flood)
                .unwrap_err()
                .to_string()
                .len()
                < 400
        );
    }
}
