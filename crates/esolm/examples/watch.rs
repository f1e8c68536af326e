//! Tells which tokens each pass of the network reveals. Run it in the repository: `cargo run --release -p esolm --example watch`.

use esolm::trace::Event;
use esolm::{LoadOptions, Model, Request};

/// Loads the model and prints what each step reveals.
pub fn main() -> Result<(), esolm::Error> {
    let model = Model::load_blocking("models/stories", LoadOptions::default())?;
    let request = Request {
        length: Some(48),
        alpha_0: Some(1.0),
        steps: Some(12),
        ..Request::default()
    };
    // In async code: `while let Some(event) = generation.next().await`.
    for event in model.generate(request).blocking() {
        match event? {
            Event::Header(header) => println!("{} passes, seed {}", header.nfe, header.seed),
            Event::Step(step) => {
                let words = step.revealed.iter().map(|one| (one.position, &one.text));
                println!("{:3}  {:?}", step.step, words.collect::<Vec<_>>());
            }
            Event::Footer(footer) => println!("{}", footer.text[0]),
        }
    }
    Ok(())
}
