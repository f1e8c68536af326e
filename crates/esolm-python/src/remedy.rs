//! What the library says, with its fields for programs and what helps in the words of Python.

use esolm::SamplerError;
use esolm::checkpoint::{CheckpointError, FileError, LightningError};
use esolm::config::{ConfigError, Open};
use esolm::plan::PlanError;
use esolm::text::TextError;
use esolm::{
    ChatError, ChatTemplateError, EngineError, Error, ItemError, LikelihoodError, MemoryUse,
    RequestError, Weights,
};
use serde_json::{Value, json};

use crate::error::Failure;

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            Error::Checkpoint(error) => checkpoint(&error),
            Error::Text(error) => text(&error),
            error @ Error::NeedsTokenizer => tokenizer(&error),
            Error::Request(error) => request(&error),
            Error::Plan(error) => plan(&error),
            Error::Engine(error) => engine(&error),
            Error::Likelihood(error) => likelihood(&error),
            Error::Chat(error) => chat(&error),
            Error::Item { index, source } => item(index, &source),
            error => {
                let code = match &error {
                    Error::Crashed => "internal",
                    Error::Stopped => "stopped",
                    _ => "option",
                };
                Self::new(code, error.to_string()).with(fields(&error))
            }
        }
    }
}

/// The fields of an error that needs no other words.
fn fields(error: &Error) -> Value {
    match error {
        Error::Range {
            option,
            value,
            range,
        } => json!({"option": option, "value": value, "range": range}),
        Error::NotApplicable { option, why } => json!({"option": option, "why": why}),
        Error::Context { length, context } | Error::LongSequences { length, context } => {
            json!({"length": length, "context": context})
        }
        Error::Orders { orders, sequences } => json!({"orders": orders, "sequences": sequences}),
        Error::NoDocument { dropped } => json!({"dropped": dropped}),
        _ => Value::Null,
    }
}

fn tokenizer(error: &impl ToString) -> Failure {
    let remedy = "load the model with tokenizer=\"tokenizer.json\"";
    Failure::with_remedy("tokenizer", error, remedy)
}

fn item(index: usize, error: &ItemError) -> Failure {
    let code = match error {
        ItemError::Text(_) | ItemError::Between(_) => "text",
        _ => "option",
    };
    Failure::new(code, format!("item {index}: {error}")).with(json!({"index": index}))
}

fn likelihood(error: &LikelihoodError) -> Failure {
    let fields = match error {
        LikelihoodError::Engine(error) => return engine(error),
        LikelihoodError::Token { text, token, vocab } => {
            json!({"text": text, "token": token, "vocab_size": vocab})
        }
        LikelihoodError::Order { text, length } => json!({"text": text, "length": length}),
        LikelihoodError::FirstOfOrder { text } | LikelihoodError::NotFinite { text } => {
            json!({"text": text})
        }
        LikelihoodError::NoExact(_) | LikelihoodError::NoBos => Value::Null,
    };
    let code = match error {
        LikelihoodError::NotFinite { .. } | LikelihoodError::NoBos => "checkpoint",
        _ => "option",
    };
    Failure::new(code, error.to_string()).with(fields)
}

fn checkpoint(error: &CheckpointError) -> Failure {
    match checkpoint_remedy(error) {
        Some(remedy) => Failure::with_remedy("checkpoint", error, remedy),
        None => Failure::new("checkpoint", error.to_string()),
    }
}

fn checkpoint_remedy(error: &CheckpointError) -> Option<&'static str> {
    use LightningError as Lightning;
    Some(match error {
        CheckpointError::NoConfig { .. }
        | CheckpointError::Lightning(Lightning::NoConfig | Lightning::Interpolation { .. }) => {
            "give the config.json that belongs to it as config="
        }
        CheckpointError::Config {
            source: ConfigError::Open(open),
            ..
        } => left_open(open),
        CheckpointError::Config {
            source: ConfigError::OtherFamily { .. },
            ..
        } => "leave as_ out",
        CheckpointError::MaskUnknown { .. } | CheckpointError::PaddedMask { .. } => {
            "give a config.json with \"mask_index\" as config="
        }
        CheckpointError::RawWeightsNotApplicable => {
            "leave raw_weights out, a safetensors file holds one set of weights"
        }
        CheckpointError::Lightning(
            Lightning::NoEma | Lightning::EmaCount { .. } | Lightning::EmaShape { .. },
        ) => "take state_dict with raw_weights=True",
        CheckpointError::File(FileError::TooLarge { .. })
        | CheckpointError::Shard {
            source: FileError::TooLarge { .. },
            ..
        } => "convert it with `esolm convert` and give the folder",
        _ => return None,
    })
}

/// What a decoder's configuration leaves open.
fn left_open(open: &Open) -> &'static str {
    match (open.model_type.is_some(), open.block_size, open.mask) {
        (true, _, false) => "say as_=\"mdlm\", or as_=\"bd3lm\" with block_size=",
        (true, _, true) => {
            "say as_=\"mdlm\", or as_=\"bd3lm\" with block_size=, and put the model's tokenizer files beside the weights"
        }
        (false, true, false) => "give it with block_size=",
        (false, true, true) => {
            "give it with block_size=, and put the model's tokenizer files beside the weights"
        }
        (false, false, _) => "put the model's tokenizer files beside the weights",
    }
}

fn text(error: &TextError) -> Failure {
    let code = match error.is_of_tokenizer() {
        true => "tokenizer",
        false => "text",
    };
    Failure::new(code, error.to_string())
}

fn chat(error: &ChatError) -> Failure {
    let remedy = match error {
        ChatError::Template(ChatTemplateError::Refused(_)) | ChatError::NoMessage => {
            return Failure::new("chat", error.to_string());
        }
        ChatError::Template(ChatTemplateError::Missing) => "load the model with chat_template=",
        ChatError::Template(_) => "load the model with another chat_template=",
        ChatError::NotADecoder { .. } => "continue text with generate(prompt=…)",
        ChatError::TooLong { .. } => "shorten it, or give a smaller max_tokens",
    };
    let failure = Failure::with_remedy("chat", error, remedy);
    match error {
        ChatError::TooLong {
            tokens,
            answer,
            context,
        } => failure.with(json!({"tokens": tokens, "answer": answer, "context": context})),
        _ => failure,
    }
}

fn request(error: &RequestError) -> Failure {
    let fields = match error {
        RequestError::Text(error) => return text(error),
        RequestError::Plan(error) => return plan(error),
        RequestError::NoTokenizer { .. } => return tokenizer(error),
        RequestError::Length { length, context } => json!({"length": length, "context": context}),
        RequestError::Batch { batch } => json!({"batch": batch}),
        RequestError::Range {
            option,
            value,
            range,
        } => json!({"option": option, "value": value, "range": range}),
        RequestError::Prompts { prompts, batch } => json!({"prompts": prompts, "batch": batch}),
        RequestError::PromptTooLong { tokens, length, .. } => {
            json!({"tokens": tokens, "length": length})
        }
        RequestError::NoToken {
            option,
            token,
            vocab_size,
        } => json!({"option": option, "token": token, "vocab_size": vocab_size}),
        RequestError::NothingLeft { option } => json!({"option": option}),
        RequestError::NotApplicable { option, why } => json!({"option": option, "why": why}),
        RequestError::Sampler(error) => return sampler(error),
        RequestError::PromptAndInfill | RequestError::EmptyStopString => Value::Null,
    };
    Failure::new("option", error.to_string()).with(fields)
}

fn sampler(error: &SamplerError) -> Failure {
    let SamplerError {
        option,
        value,
        range,
    } = error;
    let fields = json!({"option": option, "value": value, "range": range});
    Failure::new("option", error.to_string()).with(fields)
}

fn plan(error: &PlanError) -> Failure {
    let fields = match error {
        PlanError::Range { name, value, range } => {
            json!({"option": name, "value": value, "range": range})
        }
        _ => Value::Null,
    };
    Failure::new("option", error.to_string()).with(fields)
}

fn engine(error: &EngineError) -> Failure {
    const LESS: &str =
        "use a shorter length, a smaller batch, weights=\"f16\" or the CPU (device=\"cpu\")";
    let (code, remedy) = match error {
        EngineError::Checkpoint(error) => return checkpoint(error),
        EngineError::NoAdapter(_) => (
            "no_adapter",
            "install a Vulkan, Metal or DirectX 12 driver, or use device=\"cpu\"",
        ),
        EngineError::AdapterIndex { .. } => ("no_adapter", "esolm.devices() lists them"),
        EngineError::Refused { .. } => (
            "no_adapter",
            "update the driver, or use device=\"cpu\" or another GPU of esolm.devices()",
        ),
        EngineError::Overflow {
            weights: Weights::F32,
            ..
        }
        | EngineError::MaskDrawn { .. } => ("checkpoint", "give another checkpoint"),
        EngineError::Overflow { .. } => ("checkpoint", "load it with weights=\"f32\""),
        EngineError::NotFinite { .. } => (
            "checkpoint",
            "load it with weights=\"f32\" and kv_cache=\"f32\", or give another checkpoint",
        ),
        EngineError::CpuOnly { .. } => ("option", "use device=\"cpu\", or leave activations out"),
        EngineError::Activations { .. } => {
            ("option", "use weights=\"q8\", or leave activations out")
        }
        EngineError::Option {
            option: "device", ..
        } => ("option", "esolm.devices() lists the GPUs"),
        EngineError::Device(_) => (
            "device_lost",
            "run again, and if it happens again use device=\"cpu\" or a smaller batch",
        ),
        EngineError::Memory { .. } | EngineError::DeviceMemory(_) => ("out_of_memory", LESS),
        EngineError::HostMemory { purpose, .. } => (
            "out_of_memory",
            match purpose {
                MemoryUse::Model => {
                    "free or allow more, or use a smaller model or fewer bits, as weights=\"q8\" or \"q4\""
                }
                MemoryUse::Batch { .. } => "use a smaller batch or a shorter length",
                MemoryUse::Logits { .. } => "give fewer sequences at once",
                MemoryUse::Rates | MemoryUse::Training => "free or allow more",
            },
        ),
        EngineError::Thread(_) => (
            "out_of_memory",
            "allow this user more processes or more memory",
        ),
        EngineError::Kernel(_) => (
            "shader",
            "use device=\"cpu\", and report it with the name of the GPU",
        ),
        EngineError::Shape(_) => ("option", "use device=\"cpu\""),
        EngineError::Rows(_) | EngineError::Option { .. } => {
            return Failure::new("option", error.to_string()).with(of_engine(error));
        }
    };
    Failure::with_remedy(code, error, remedy).with(of_engine(error))
}

fn of_engine(error: &EngineError) -> Value {
    let mut fields = match error {
        EngineError::AdapterIndex { index, count } => json!({"index": index, "count": count}),
        EngineError::Option {
            option,
            value,
            allowed,
        } => json!({"option": option, "value": value, "allowed": allowed}),
        EngineError::Refused { adapter, why } => json!({"adapter": adapter, "why": why}),
        EngineError::Memory { what, bytes, limit } => {
            json!({"what": what, "bytes": bytes, "limit": limit})
        }
        EngineError::HostMemory { bytes, .. } => json!({"bytes": bytes}),
        EngineError::Overflow { tensor, value, .. } => json!({"tensor": tensor, "value": value}),
        EngineError::NotFinite { text, position } | EngineError::MaskDrawn { text, position } => {
            json!({"text": text, "position": position})
        }
        _ => json!({}),
    };
    if let Some(fault) = error.device_fault() {
        fields["fault"] = json!(fault);
    }
    fields
}
