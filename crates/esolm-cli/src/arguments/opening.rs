//! Whether texts open with the beginning-of-text token.

use clap::Args;

/// Whether texts open with the beginning-of-text token.
#[derive(Clone, Copy, Debug, Args)]
pub struct Opening {
    /// Begin texts with the beginning-of-text token.
    ///
    /// Default: texts of every model that has such a token do; those of a decoder (Qwen3, Qwen2, Llama, SDAR) only where its tokenizer puts the token before every text.
    #[arg(long, conflicts_with = "no_bos")]
    pub bos: bool,
    /// Do not begin texts with the beginning-of-text token.
    ///
    /// Models that were trained with it saw it at the beginning of each document, so a text without it may be any part of a document. An AR model that has nothing else to go
    /// on from reads it all the same.
    #[arg(long)]
    pub no_bos: bool,
}

impl Opening {
    /// What was said, if anything was.
    pub fn said(self) -> Option<bool> {
        match self {
            Self { bos: true, .. } => Some(true),
            Self { no_bos: true, .. } => Some(false),
            _ => None,
        }
    }
}
