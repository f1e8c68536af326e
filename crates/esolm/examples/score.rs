//! Says how likely a text is, and which of two endings is likelier. Run it in the repository:
//! `cargo run --release -p esolm --example score`.

use esolm::{LoadOptions, Model, ScoreItem, ScoreOptions};

/// Loads the model, scores a text and two endings.
pub fn main() -> Result<(), esolm::Error> {
    let model = Model::load_blocking("models/stories", LoadOptions::default())?;
    let items = vec![
        ScoreItem::Text("Once upon a time, there was a little girl.".into()),
        ScoreItem::Choices {
            context: "Tim was very happy. He ran to the park to ".into(),
            choices: vec!["play with his friends.".into(), "the of and.".into()],
        },
    ];
    for item in model.blocking().score(items, ScoreOptions::default())? {
        for score in item.scores {
            println!("log p = {:.2} nats", score.logp);
        }
    }
    Ok(())
}
