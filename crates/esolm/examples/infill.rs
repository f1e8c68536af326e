//! Fills gaps: `____{12}` is one of twelve tokens. Run it in the repository: `cargo run --release -p esolm --example infill`.

use esolm::{LoadOptions, Model, Request};

/// Loads the model, fills the gaps, prints the text.
pub fn main() -> Result<(), esolm::Error> {
    let model = Model::load_blocking("models/stories", LoadOptions::default())?;
    let text = model.blocking().text(Request {
        infill: Some("Once ____ a time, Lily ____{12} the end.".into()),
        top_p: Some(0.8),
        seed: Some(3),
        ..Request::default()
    })?;
    println!("{text}");
    Ok(())
}
