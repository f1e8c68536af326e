//! Errors as JavaScript sees them: an `Error` with a machine-readable `code` and a message that users can act on. The
//! library's messages get their remedies here, and options their JavaScript names.

use esolm::checkpoint::{CheckpointError, FileError, LightningError};
use esolm::config::ConfigError;
use esolm::plan::PlanError;
use esolm::sampler::SamplerError;
use esolm::text::TextError;
use esolm::{EngineError, Error, ItemError, MemoryUse, RequestError, Weights};
use js_sys::Reflect;
use wasm_bindgen::JsValue;

/// A failed call.
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

    /// Names the argument that the error is about.
    pub fn about(self, name: &str) -> Self {
        let message = format!("{name}: {}", self.message);
        Self { message, ..self }
    }

    fn with_remedy(code: &'static str, error: &impl ToString, remedy: &str) -> Self {
        Self::new(code, format!("{}; {remedy}", error.to_string()))
    }

    fn out_of_range(option: &str, value: &dyn std::fmt::Display, range: &str) -> Self {
        let message = format!("{} is {value}; it must be {range}", camel(option));
        Self::new("option", message)
    }

    fn not_applicable(option: &str, why: &str) -> Self {
        let message = format!("{} does not apply to {why}; leave it out", camel(option));
        Self::new("option", message)
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        let error = js_sys::Error::new(&failure.message);
        // Setting a field of a new object cannot fail.
        let _ = Reflect::set(&error, &"code".into(), &failure.code.into());
        error.into()
    }
}

/// The JavaScript name of an option: `topP` for `top_p`.
pub fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_string();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            Error::Checkpoint(error) | Error::Engine(EngineError::Checkpoint(error)) => {
                checkpoint(&error)
            }
            Error::Text(error)
            | Error::Item {
                source: ItemError::Text(error),
                ..
            } => text(&error),
            error @ Error::NeedsTokenizer => {
                Self::with_remedy("tokenizer", &error, "load it with its tokenizer.json")
            }
            Error::Request(error) => request(error),
            Error::Plan(error) => plan(&error),
            Error::Engine(error) => engine(&error),
            Error::Chat(error) => Self::new("chat", error.to_string()),
            Error::Item {
                source: ItemError::Between(error),
                ..
            } => Self::new("text", format!("the text {error}")),
            Error::Item { source, .. } => {
                Self::new("option", format!("the text cannot be scored: {source}"))
            }
            Error::Range {
                option,
                value,
                range,
            } => Self::out_of_range(option, &value, &range),
            Error::NotApplicable { option, why } => Self::not_applicable(option, why),
            error => {
                let code = match &error {
                    Error::Rows(_) => "plan",
                    Error::Stopped => "aborted",
                    Error::Crashed => "internal",
                    _ => "option",
                };
                Self::new(code, error.to_string())
            }
        }
    }
}

fn checkpoint(error: &CheckpointError) -> Failure {
    match checkpoint_remedy(error) {
        Some(remedy) => Failure::with_remedy("checkpoint", error, remedy),
        None => Failure::new("checkpoint", error.to_string()),
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
        CheckpointError::Config {
            source: ConfigError::Open(open),
            ..
        } => match (open.model_type.is_some(), open.block_size, open.mask) {
            (true, _, false) => "say as: \"mdlm\", or as: \"bd3lm\" with blockSize",
            (true, _, true) => {
                "say as: \"mdlm\", or as: \"bd3lm\" with blockSize, and give the model's tokenizer"
            }
            (false, true, false) => "give it with blockSize",
            (false, true, true) => "give it with blockSize, and the model's tokenizer",
            (false, false, _) => "give the model's tokenizer",
        },
        CheckpointError::Config {
            source: ConfigError::OtherFamily { .. },
            ..
        } => "leave as out",
        CheckpointError::MaskUnknown { .. } | CheckpointError::PaddedMask { .. } => {
            "give a config.json with \"mask_index\""
        }
        CheckpointError::RawWeightsNotApplicable => {
            "leave rawWeights out, a safetensors file holds one set of weights"
        }
        CheckpointError::Lightning(
            Lightning::NoEma | Lightning::EmaCount { .. } | Lightning::EmaShape { .. },
        ) => "take state_dict with rawWeights",
        CheckpointError::File(FileError::TooLarge { .. })
        | CheckpointError::Shard {
            source: FileError::TooLarge { .. },
            ..
        } => "convert it with `esolm convert` and give the folder",
        _ => return None,
    })
}

fn text(error: &TextError) -> Failure {
    let code = match error.is_of_tokenizer() {
        true => "tokenizer",
        false => "text",
    };
    Failure::new(code, error.to_string())
}

fn request(error: RequestError) -> Failure {
    match error {
        RequestError::Text(error) => text(&error),
        RequestError::Plan(error) => plan(&error),
        RequestError::Range {
            option,
            value,
            range,
        } => Failure::out_of_range(option, &value, &range),
        RequestError::NotApplicable { option, why } => Failure::not_applicable(option, why),
        RequestError::NoToken {
            option,
            token,
            vocab_size,
        } => Failure::new(
            "option",
            format!(
                "{token} in {} is not one token of the model; give a token's name, or its number below {vocab_size}",
                camel(option)
            ),
        ),
        RequestError::NothingLeft { option } => Failure::new(
            "option",
            format!(
                "{} leaves no token to draw; leave some of them out",
                camel(option)
            ),
        ),
        RequestError::Sampler(SamplerError {
            option,
            value,
            range,
        }) => Failure::out_of_range(option, &value, range),
        RequestError::NoTokenizer { .. } => Failure::new("tokenizer", error.to_string()),
        error => Failure::new("option", error.to_string()),
    }
}

fn plan(error: &PlanError) -> Failure {
    let message = match error {
        PlanError::Range { name, value, range } => {
            format!("{} is {value}; it must be {range}", camel(name))
        }
        error => error.to_string(),
    };
    Failure::new("plan", message)
}

fn engine(error: &EngineError) -> Failure {
    const LESS: &str = "use a shorter length, a smaller batch, f16 or the CPU (device: \"cpu\")";
    let (code, remedy) = match error {
        EngineError::NoAdapter(_) | EngineError::Refused { .. } => (
            "no_adapter",
            "update the browser and the graphics driver, or use the CPU (device: \"cpu\")",
        ),
        EngineError::Overflow {
            weights: Weights::F32,
            ..
        } => ("checkpoint", "give another checkpoint"),
        EngineError::Overflow { .. } => ("checkpoint", "load it with weights: \"f32\""),
        EngineError::CpuOnly { .. } => (
            "option",
            "use the CPU (device: \"cpu\"), or leave activations out",
        ),
        EngineError::Activations { .. } => {
            ("option", "use weights: \"q8\", or leave activations out")
        }
        EngineError::AdapterIndex { .. } => {
            ("no_adapter", "leave its number out (device: \"gpu\")")
        }
        EngineError::Device(_) => (
            "device_lost",
            "run again, and if it stays so use the CPU (device: \"cpu\") or a smaller batch",
        ),
        EngineError::DeviceMemory(_) | EngineError::Memory { .. } => ("out_of_memory", LESS),
        EngineError::Kernel(_) => (
            "shader",
            "use the CPU (device: \"cpu\"), and report it with the name of the GPU",
        ),
        EngineError::NotFinite { .. } => (
            "checkpoint",
            "load it with weights: \"f32\" and kvCache: \"f32\", or give another checkpoint",
        ),
        EngineError::MaskDrawn { .. } => ("checkpoint", "give another checkpoint"),
        EngineError::Shape(_) => ("option", "use the CPU (device: \"cpu\")"),
        EngineError::HostMemory { purpose, .. } => (
            "out_of_memory",
            match purpose {
                // Browsers neither train nor measure.
                MemoryUse::Model | MemoryUse::Training | MemoryUse::Rates => {
                    "use a smaller model, or the GPU, which keeps the weights itself"
                }
                MemoryUse::Batch { .. } => "use a smaller batch or a shorter length",
                MemoryUse::Logits { .. } => "give fewer sequences at once",
            },
        ),
        EngineError::Thread(_) => return Failure::new("internal", error.to_string()),
        EngineError::Rows(_) => return Failure::new("plan", error.to_string()),
        EngineError::Option { .. } => return Failure::new("option", error.to_string()),
        EngineError::Checkpoint(error) => return checkpoint(error),
    };
    Failure::with_remedy(code, error, remedy)
}
