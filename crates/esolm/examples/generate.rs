//! Writes a story. Run it in the repository: `cargo run --release -p esolm --example generate`.

use esolm::{LoadOptions, Model, Request};

/// Loads the model, asks for a text, prints it.
pub fn main() -> Result<(), esolm::Error> {
    // Also a .ckpt, a .safetensors file, or hf:owner/name.
    let model = Model::load_blocking("models/stories", LoadOptions::default())?;
    let text = model.blocking().text(Request {
        prompt: vec!["Once upon a time".into()],
        top_p: Some(0.8),
        seed: Some(4),
        ..Request::default()
    })?;
    println!("{text}");
    Ok(())
}
