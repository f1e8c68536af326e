//! Where the blocks of a decoder's text begin, and what its prompt sees.

use serde::{Deserialize, Serialize};

use crate::config::{Decoder, DecoderKind};
use crate::reveal::Counts;

/// How the end of a prompt that does not fill a block is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptTail {
    /// Blocks are counted from the beginning of the text, and the prompt's tail is part of the first block written, all
    /// of whose tokens see each other (SDAR).
    #[default]
    Shared,
    /// Blocks are counted from the end of the prompt, so the first block of the text may be shorter (dllm).
    Own,
    /// Blocks are counted from the beginning of the text. While the first block is written, the prompt's tail does not
    /// see it; the tail is recomputed once the block is complete (the sampler in the model cards of published models).
    Blind,
}

impl PromptTail {
    /// Whether it requires a prompt, and does not support gaps.
    pub fn needs_prefix(self) -> bool {
        self != Self::Shared
    }
}

/// How the published samplers of decoders go through the blocks of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRules {
    /// Where blocks begin.
    pub tail: PromptTail,
    /// How many tokens each step reveals.
    pub counts: Counts,
}

impl BlockRules {
    /// The rules of a decoder's published sampler, optionally with another treatment of the prompt's tail.
    pub fn new(decoder: &Decoder, tail: Option<PromptTail>) -> Self {
        let is_sdar = decoder.kind == DecoderKind::Sdar;
        let tail = tail.unwrap_or(match is_sdar {
            true => PromptTail::Shared,
            false => PromptTail::Own,
        });
        let counts = match (is_sdar, tail) {
            (true, _) => Counts::Block,
            (false, PromptTail::Blind) => Counts::Even,
            (false, _) => Counts::Linear,
        };
        Self { tail, counts }
    }
}
