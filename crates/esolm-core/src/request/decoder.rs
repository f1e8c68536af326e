//! What is asked of decoders.

use super::{Request, RequestError, Resolved};
use crate::config::{DecoderKind, Family, ModelConfig};
use crate::plan::{BlockRules, PromptTail, Schedule};
use crate::stop::StopRule;
use crate::text::{Ends, TextCodec};

/// Tokens that are written after a prompt where no length is asked for, as the published scripts do.
const NEW_TOKENS: usize = 128;
/// Tokens of a block of an MDLM there.
const MDLM_BLOCK: usize = 32;

/// Whether it is a decoder that writes by diffusion.
fn diffuses(config: &ModelConfig) -> bool {
    config.decoder.is_some() && config.family != Family::Ar
}

impl Request {
    /// Whether confidence chooses, when nothing else is asked for.
    pub(super) fn is_by_confidence(&self, config: &ModelConfig) -> bool {
        match self.schedule {
            Some(schedule) => schedule == Schedule::Confidence,
            None => diffuses(config),
        }
    }

    /// Tokens that an MDLM writes before any behind them, where it does not choose among all.
    pub(super) fn mdlm_block(&self, config: &ModelConfig) -> Option<usize> {
        let own = (diffuses(config) && self.infill.is_none()).then_some(MDLM_BLOCK);
        (self.block_size.or(own)).filter(|_| self.is_by_confidence(config))
    }

    /// How a decoder goes through its blocks; none for other networks. A template knows no prompt's end.
    pub(super) fn block_rules(&self, config: &ModelConfig) -> Option<BlockRules> {
        let decoder = config.decoder.as_ref().filter(|_| diffuses(config))?;
        let tail = (self.prompt_tail).or(self.infill.as_ref().map(|_| PromptTail::Shared));
        Some(BlockRules::new(decoder, tail))
    }

    /// Refuses what only a decoder that is a BD3-LM has.
    pub(super) fn check_decoder(&self, config: &ModelConfig) -> Result<(), RequestError> {
        let Some(tail) = self.prompt_tail else {
            return Ok(());
        };
        let why = match config.family {
            Family::Bd3Lm if config.decoder.is_some() => {
                if self.infill.is_none() || !tail.needs_prefix() {
                    return Ok(());
                }
                "a template, whose blocks are counted from its beginning"
            }
            _ => "a model that is not a decoder with blocks",
        };
        let option = "prompt_tail";
        Err(RequestError::NotApplicable { option, why })
    }

    /// The length of a text of which `known` tokens are given, where none is asked for and the context is not what is meant. SDAR writes
    /// whole blocks.
    pub(super) fn own_length(&self, config: &ModelConfig, known: usize) -> Option<usize> {
        if self.length.is_some() || config.decoder.is_none() {
            return None;
        }
        let length = known.saturating_add(NEW_TOKENS);
        let is_sdar = config.decoder.is_some_and(|d| d.kind == DecoderKind::Sdar);
        let whole = match (is_sdar, config.block_size) {
            (true, Some(size)) => length.next_multiple_of(size.max(1)),
            _ => length,
        };
        Some(whole.min(config.length))
    }

    /// What ends a text early. The answer of a decoder that writes in blocks or from left to right ends with its end-of-text token.
    pub(super) fn stop_rules(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Vec<StopRule> {
        let mut rules = self.stop.clone();
        let ends = codec.map_or_else(|| Ends::of(config), TextCodec::ends);
        let in_turn = config.decoder.is_some() && config.family != Family::Mdlm;
        let is_answer = in_turn && self.infill.is_none();
        if is_answer && ends.has_end() && !rules.contains(&StopRule::Eos) {
            rules.push(StopRule::Eos);
        }
        rules
    }
}

impl Resolved {
    /// By how many tokens the first block of a text (an index within the batch) is short.
    pub(super) fn pad(&self, text: usize) -> usize {
        let size = self.options.block_size.unwrap_or(1).max(1);
        match self.options.block_rules.map(|rules| rules.tail) {
            Some(PromptTail::Own) => (size - self.given.known[text].len() % size) % size,
            _ => 0,
        }
    }
}
