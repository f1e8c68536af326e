//! Where the blocks of a decoder's text begin, and what its prompt sees.

use serde::{Deserialize, Serialize};

use crate::config::{Decoder, DecoderKind};
use crate::reveal::Counts;

/// What becomes of the end of a prompt that fills no whole block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptTail {
    /// Blocks are counted from the beginning of the text, and the prompt's tail is part of the first block that is written: all of it sees
    /// each other (SDAR).
    #[default]
    Shared,
    /// Blocks are counted from the end of the prompt, so that the first one of the text may be short (dllm).
    Own,
    /// Blocks are counted from the beginning of the text. While the first one is written the prompt's tail does not see it, and is computed
    /// again when it is whole (the sampler on the cards of published models).
    Blind,
}

impl PromptTail {
    /// Whether it takes a prompt, and knows nothing of gaps.
    pub fn needs_prefix(self) -> bool {
        self != Self::Shared
    }
}

/// How the published samplers of decoders go through the blocks of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRules {
    /// Where blocks begin.
    pub tail: PromptTail,
    /// How many tokens become known in a step.
    pub counts: Counts,
}

impl BlockRules {
    /// Those of a decoder's published sampler, where its prompt's tail is treated as said, or as there.
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
