//! Checks whether a configuration describes a valid network.

use super::decoder::FIELD_NAMES;
use super::fields::Figure;
use super::{
    AttentionKind, ConfigError, Family, MAX_BLOCKS, MAX_LENGTH, MAX_VOCAB, MAX_WIDTH, ModelConfig,
    NO_BLOCK_SIZE, NO_MASK, Prepend, Sets, decoder, invalid,
};

impl ModelConfig {
    /// Checks that the values describe a network: positive and bounded sizes, heads that divide the width into even
    /// head dimensions (the rotary embedding rotates pairs), tokens inside the vocabulary, `alpha_0` in [0, 1], blocks
    /// that divide the length.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the first field that fails.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let size = |field, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                Ok(())
            } else {
                Err(invalid(
                    field,
                    value,
                    format!("a whole number from 1 to {max}"),
                ))
            }
        };
        size("hidden_size", self.hidden, MAX_WIDTH)?;
        if self.cond_dim > 0 {
            size("cond_dim", self.cond_dim, MAX_WIDTH)?;
        }
        let named = self.field_names();
        size(named.blocks, self.n_blocks, MAX_BLOCKS)?;
        size(named.heads, self.n_heads, MAX_WIDTH)?;
        size(named.length, self.length, MAX_LENGTH)?;
        if !(2..=MAX_VOCAB).contains(&self.vocab_size) {
            return Err(invalid(
                "vocab_size",
                self.vocab_size,
                format!("a whole number from 2 to {MAX_VOCAB}"),
            ));
        }
        if self.decoder.is_none()
            && (!self.hidden.is_multiple_of(self.n_heads)
                || !(self.hidden / self.n_heads).is_multiple_of(2))
        {
            return Err(invalid(
                "n_heads",
                self.n_heads,
                format!(
                    "a number that divides the width {} into heads of even size",
                    self.hidden
                ),
            ));
        }
        let ends = self.more_eos.iter().map(|&eos| ("eos_token_id", Some(eos)));
        let tokens = [
            (named.mask, self.mask()),
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
        ];
        for (field, token) in tokens.into_iter().chain(ends) {
            if let Some(token) = token
                && token as usize >= self.vocab_size
            {
                return Err(invalid(
                    field,
                    token,
                    format!("below vocab_size, which is {}", self.vocab_size),
                ));
            }
        }
        if let Some(alpha_0) = self.alpha_0
            && !(0.0..=1.0).contains(&alpha_0)
        {
            return Err(invalid("alpha_0", Figure(alpha_0), "a number from 0 to 1"));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(invalid(
                "dropout",
                Figure(self.dropout),
                "a number from 0 to 1",
            ));
        }
        if self.family != Family::Ar && self.prepend != Prepend::None {
            return Err(invalid(
                "prepend_token",
                self.prepend,
                "\"none\", since only AR models prepend a token",
            ));
        }
        let attention_fits = match self.family {
            Family::EsoLm => ![AttentionKind::Block, AttentionKind::Set].contains(&self.attention),
            Family::Mdlm => self.attention == AttentionKind::Bidirectional,
            Family::Ar => self.attention == AttentionKind::Causal,
            Family::Bd3Lm => self.attention == AttentionKind::Block,
            Family::SetDlm => self.attention == AttentionKind::Set,
        };
        if !attention_fits {
            return Err(invalid(
                "diffusion_attn_mode",
                self.attention,
                format!("left out, since {} has only one", self.family),
            ));
        }
        match (self.family, &self.sets) {
            (Family::SetDlm, None) => return Err(Sets::MISSING),
            (Family::SetDlm, Some(sets)) => sets.validate(self)?,
            (_, Some(sets)) => {
                let why = format!("left out, since {} has no sets", self.family);
                return Err(invalid(
                    "noise_config.desired_block_size",
                    sets.desired,
                    why,
                ));
            }
            (_, None) => {}
        }
        if let Some(decoder) = &self.decoder {
            decoder::validate(self, decoder)?;
        } else if self.mask().is_none() {
            return Err(invalid("mask_index", NO_MASK, "a token index"));
        }
        self.validate_blocks()
    }

    /// Names of fields in the file of such a network.
    fn field_names(&self) -> FieldNames {
        match self.decoder {
            None => FieldNames {
                blocks: "n_blocks",
                heads: "n_heads",
                length: "model_length",
                mask: "mask_index",
            },
            Some(_) => FIELD_NAMES,
        }
    }

    /// Checks the settings that only a BD3-LM has, and must have.
    fn validate_blocks(&self) -> Result<(), ConfigError> {
        let is_block = self.family == Family::Bd3Lm;
        match self.block_size {
            None if is_block => return Err(NO_BLOCK_SIZE),
            Some(size) if !is_block => {
                let why = format!("left out, since {} has no blocks", self.family);
                return Err(invalid("block_size", size, why));
            }
            Some(_) if self.decoder.is_some() => {}
            Some(size) if size == 0 || !self.length.is_multiple_of(size) => {
                let divides = format!(
                    "a whole number from 1 that divides the context length {}",
                    self.length
                );
                return Err(invalid("block_size", size, divides));
            }
            _ => {}
        }
        let Some([least, most]) = self.noise_range else {
            return Ok(());
        };
        if !is_block {
            let why = format!("left out, since {} has no such range", self.family);
            return Err(invalid("sampling_eps_min", Figure(least), why));
        }
        if !(most > 0.0 && most <= 1.0) {
            return Err(invalid(
                "sampling_eps_max",
                Figure(most),
                "a share of masked tokens above 0, up to 1",
            ));
        }
        if !(0.0..=most).contains(&least) {
            return Err(invalid(
                "sampling_eps_min",
                Figure(least),
                format!(
                    "a number from 0 to sampling_eps_max, which is {}",
                    Figure(most)
                ),
            ));
        }
        Ok(())
    }
}

/// Names of fields whose spelling depends on the network.
pub(super) struct FieldNames {
    pub(super) blocks: &'static str,
    pub(super) heads: &'static str,
    pub(super) length: &'static str,
    pub(super) mask: &'static str,
}
