//! What decoders are called, and by which names those are told that are not run.
//!
//! Nobody writes the names of these into anything but `model_type`, the classes in `architectures`, or those in `auto_map`; some say `qwen3` or
//! `llada` and are something else by their classes. So all three are looked at.

use serde_json::{Map, Value};

use super::super::fields::{present, shown};
use super::super::partial::classes;
use super::super::{ConfigError, Family, invalid};
use super::DecoderKind;
use crate::message::shorten;

/// What `model_type` says: the network, the family where that follows, and how the classes of its code begin.
pub(super) struct Named {
    pub model_type: &'static str,
    pub kind: DecoderKind,
    pub family: Option<Family>,
    classes: &'static str,
}

const fn named(
    model_type: &'static str,
    kind: DecoderKind,
    family: Option<Family>,
    classes: &'static str,
) -> Named {
    Named {
        model_type,
        kind,
        family,
        classes,
    }
}

pub(super) const NAMED: [Named; 7] = [
    named("qwen3", DecoderKind::Qwen3, Some(Family::Ar), "qwen3"),
    named("qwen2", DecoderKind::Qwen2, Some(Family::Ar), "qwen2"),
    named("llama", DecoderKind::Llama, Some(Family::Ar), "llama"),
    named("a2d-qwen3", DecoderKind::Qwen3, None, "a2dqwen3"),
    named("a2d-qwen2", DecoderKind::Qwen2, None, "a2dqwen2"),
    named("a2d-llama", DecoderKind::Llama, None, "a2dllama"),
    named("sdar", DecoderKind::Sdar, Some(Family::Bd3Lm), "sdar"),
];

/// How the names of classes that hold the whole network end; others have another output, or none.
const CLASS_ENDS: [&str; 5] = [
    "forcausallm",
    "formaskedlm",
    "lmheadmodel",
    "model",
    "config",
];

/// For messages.
pub(in super::super) const MODEL_TYPES: &str = "\"qwen3\", \"qwen2\", \"llama\", \"a2d-qwen3\", \"a2d-qwen2\", \"a2d-llama\" or \"sdar\" of a decoder";

/// Kinds of decoders that are not run, by the beginnings of their names without `_` and `-`.
const OTHER_KINDS: [(&str, &str); 13] = [
    ("lladamoe", "LLaDA-MoE is a mixture of experts"),
    ("llada2", "LLaDA2 is a mixture of experts"),
    ("llada", "LLaDA has a network of its own"),
    (
        "dream",
        "Dream predicts each token from the place before it",
    ),
    (
        "fastdllm",
        "Fast-dLLM v2 predicts each token from the place before it",
    ),
    (
        "efficientdlm",
        "Efficient-DLM is a diffusion model of its own",
    ),
    ("sdarmoe", "SDAR-MoE is a mixture of experts"),
    ("qwen3moe", "it is a mixture of experts"),
    ("qwen2moe", "it is a mixture of experts"),
    (
        "qwen3next",
        "Qwen3-Next is a mixture of experts with linear attention",
    ),
    ("qwen3vl", "it reads pictures"),
    ("qwen2vl", "it reads pictures"),
    ("mixtral", "it is a mixture of experts"),
];

/// Lower case, without the signs by which spellings of a name differ.
fn plain(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    name.retain(|c| c.is_ascii_alphanumeric());
    name
}

/// What is said of a kind of decoder that is not run.
pub(super) fn other_decoder(name: &str) -> Option<&'static str> {
    let name = plain(name);
    // The class without what converted it.
    let name = name.strip_prefix("a2d").unwrap_or(&name);
    let kind = |(start, _): &&(&str, &str)| name.starts_with(start);
    OTHER_KINDS.iter().find(kind).map(|(_, why)| *why)
}

/// Every class that would load the model elsewhere must be one of the network that `model_type` names.
pub(super) fn check_classes(map: &Map<String, Value>, named: &Named) -> Result<(), ConfigError> {
    for (field, is_list, expected) in [
        ("architectures", true, "a list of classes"),
        ("auto_map", false, "an object of classes"),
    ] {
        if let Some(value) = present(map, field)
            && (value.is_array() != is_list || value.is_object() == is_list)
        {
            return Err(invalid(field, shown(value), expected));
        }
    }
    for (field, class) in classes(map) {
        let name = plain(class);
        let end = name.strip_prefix(named.classes);
        if !end.is_some_and(|end| CLASS_ENDS.contains(&end)) {
            return Err(ConfigError::Contradiction {
                first: format!("\"model_type\" is \"{}\"", named.model_type),
                second: format!(
                    "the class in \"{field}\" is \"{}\", which is not a language model of that kind",
                    shorten(class)
                ),
                remedy: "give a model whose class and type agree".into(),
            });
        }
    }
    Ok(())
}
