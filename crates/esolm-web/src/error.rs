//! Errors as JavaScript sees them: an `Error` whose `code` a program can tell apart and whose message a person can act upon.

use esolm::EngineError;
use esolm::checkpoint::{CheckpointError, FileError, LightningError};
use esolm::likelihood::LikelihoodError;
use esolm::plan::PlanError;
use esolm::request::RequestError;
use esolm::rows::RowsError;
use esolm::text::TextError;
use js_sys::Reflect;
use serde::Serialize;
use wasm_bindgen::JsValue;

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    fn checkpoint(error: &CheckpointError) -> Self {
        let message = match checkpoint_remedy(error) {
            Some(remedy) => format!("{error}; {remedy}"),
            None => error.to_string(),
        };
        Self::new("checkpoint", message)
    }

    /// A call while another one is under way.
    pub fn busy() -> Self {
        Self::new(
            "busy",
            "the model is at work; wait for the call under way, or stop it",
        )
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        // The engine's sentences name the option of the command line.
        let message = failure
            .message
            .replace("--device cpu", "the CPU (device: \"cpu\")");
        let error = js_sys::Error::new(&message);
        // An object that was just made takes a field.
        let _ = Reflect::set(&error, &"code".into(), &failure.code.into());
        error.into()
    }
}

/// What to change in the call about a checkpoint that does not open.
fn checkpoint_remedy(error: &CheckpointError) -> Option<&'static str> {
    use LightningError as Lightning;
    Some(match error {
        CheckpointError::NoConfig { .. }
        | CheckpointError::Lightning(Lightning::NoConfig | Lightning::Interpolation { .. }) => {
            "give the config.json that belongs to it"
        }
        CheckpointError::RawWeightsNotApplicable => {
            "leave rawWeights out, a safetensors file holds one set of weights"
        }
        CheckpointError::Lightning(
            Lightning::NoEma | Lightning::EmaCount { .. } | Lightning::EmaShape { .. },
        ) => "take state_dict with rawWeights",
        CheckpointError::File(FileError::TooLarge { .. }) => {
            "convert it with `esolm convert` and give the folder"
        }
        _ => return None,
    })
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Checkpoint(error) => return Self::checkpoint(error),
            EngineError::Plan(_) | EngineError::Rows(_) => "plan",
            EngineError::NoAdapter(_) | EngineError::AdapterIndex { .. } => "no_adapter",
            EngineError::DeviceChoice(_) | EngineError::Option { .. } | EngineError::Shape(_) => {
                "option"
            }
            EngineError::Device(_) => "device_lost",
            EngineError::DeviceMemory(_)
            | EngineError::Memory { .. }
            | EngineError::HostMemory { .. } => "out_of_memory",
            EngineError::Kernel(_) => "shader",
        };
        Self::new(code, error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let code = match &error {
            RequestError::Text(_) => "text",
            RequestError::Plan(_) => "plan",
            RequestError::NoTokenizer { .. } => "tokenizer",
            _ => "option",
        };
        Self::new(code, error.to_string())
    }
}

impl From<LikelihoodError> for Failure {
    fn from(error: LikelihoodError) -> Self {
        match error {
            LikelihoodError::Engine(error) => error.into(),
            error => Self::new("option", error.to_string()),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::checkpoint(&error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::new("plan", error.to_string())
    }
}

impl From<RowsError> for Failure {
    fn from(error: RowsError) -> Self {
        Self::new("plan", error.to_string())
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        let code = match &error {
            TextError::Io { .. } | TextError::Unusable(_) | TextError::Vocabulary { .. } => {
                "tokenizer"
            }
            _ => "text",
        };
        Self::new(code, error.to_string())
    }
}

/// A value as JSON.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| {
        Failure::new(
            "internal",
            format!("an answer cannot be written as JSON ({error}); report it"),
        )
    })
}

/// A request from its JSON.
pub fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::new(
            "option",
            format!("the request is not understood: {error}; check its fields"),
        )
    })
}
