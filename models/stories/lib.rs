//! A very small Eso-LM (B), 4.5 million parameters, that writes children's stories: the model that `esolm` runs when no other is named.
//!
//! The files are those of a Hugging Face folder. How the model was trained, on what and how well it does is said in its card, the
//! README of this crate. The files are under the licence of the crate, MIT or Apache 2.0; the texts it was trained on are not part of it.

/// `config.json`: the shape of the network.
pub const CONFIG: &str = include_str!("config.json");
/// `generation_config.json`: how it recommends to sample.
pub const GENERATION: &str = include_str!("generation_config.json");
/// `tokenizer.json`: byte-level BPE with 3,968 tokens.
pub const TOKENIZER: &str = include_str!("tokenizer.json");
/// `model.safetensors`: the weights in f16, under the names of the published code.
pub const WEIGHTS: &[u8] = include_bytes!("model.safetensors");

#[cfg(test)]
mod tests {
    /// The files travel inside a package, which the registry bounds at 10 MiB.
    #[test]
    fn the_model_is_small_enough_to_ship() {
        let bytes = super::CONFIG.len() + super::TOKENIZER.len() + super::WEIGHTS.len();
        assert!(bytes <= 9_500_000, "{bytes} bytes");
    }
}
