//! Settings for sampling that come with a checkpoint: `generation_config.json`, under the key `esolm`. What else stands in that file was
//! chosen for text that is written from left to right, mostly by other models, and is not taken.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::ConfigError;
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
    /// Reads the text of a `generation_config.json`; one that is not a JSON object, or has no field `esolm`, recommends nothing.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where that field is not an object of known settings within their ranges.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let Ok(Value::Object(mut file)) = serde_json::from_str(text) else {
            return Ok(Self::default());
        };
        let Some(own) = file.remove(KEY).filter(|own| !own.is_null()) else {
            return Ok(Self::default());
        };
        let invalid = |found: String, expected: String| ConfigError::Invalid {
            field: KEY,
            found,
            expected,
        };
        let read: Self = serde_json::from_value(own).map_err(|error| {
            invalid(
                format!("not usable ({error})"),
                "an object with any of alpha_0, temperature, top_k, top_p and min_p".into(),
            )
        })?;
        if let Some(alpha_0) = read.alpha_0.filter(|a| !(0.0..=1.0).contains(a)) {
            let found = format!("an object whose alpha_0 is {alpha_0}");
            return Err(invalid(found, "one whose alpha_0 lies from 0 to 1".into()));
        }
        let usual = Sampler::default();
        let sampler = Sampler {
            temperature: read.temperature.unwrap_or(usual.temperature),
            top_k: read.top_k,
            top_p: read.top_p,
            min_p: read.min_p,
            ..usual
        };
        sampler.validate().map_err(|error| {
            let found = format!("not usable: {error}");
            invalid(found, "an object of settings within their ranges".into())
        })?;
        Ok(read)
    }

    /// The text of a file that [`Recommended::from_json`] reads back; `None` where nothing is recommended.
    pub fn to_json(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let file = serde_json::json!({ KEY: self });
        Some(format!("{file:#}\n"))
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
            "[1]",
            "not JSON",
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
        assert_eq!(Recommended::from_json(&written), Ok(read));
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        for (own, words) in [
            ("3", "an object"),
            (r#"{"topP": 0.9}"#, "topP"),
            (r#"{"top_p": "0.9"}"#, "0.9"),
            (r#"{"top_p": 1.5}"#, "top-p is 1.5"),
            (r#"{"top_k": 0}"#, "top-k is 0"),
            (r#"{"temperature": -1}"#, "temperature is -1"),
            (r#"{"alpha_0": 2}"#, "alpha_0 is 2"),
        ] {
            let error = Recommended::from_json(&format!(r#"{{"esolm": {own}}}"#)).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("\"esolm\"") && text.contains(words),
                "{own}: {text}"
            );
        }
    }
}
