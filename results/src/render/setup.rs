//! What was run, and the commands and logs behind every figure.

use super::{Names, grouped, head, row};
use crate::corpus::Extent;
use crate::record::{Records, Setup};

/// The section at the top.
pub fn section(setup: &Setup, records: &Records, names: &Names) -> String {
    let plan = &setup.plan;
    let mut text = format!(
        "Models of one small shape, trained by `esolm train` on the same children's stories with the same budget of {} tokens each, \
         then measured by `esolm ppl` and `esolm sample`. The figures are those of very small models after a very short training: \
         what counts is their order.\n\n",
        grouped(plan.tokens)
    );
    text += &head(&["text", "documents", "words", "bytes", "who learns from it"]);
    let extent = |name: &str, extent: &Extent, who: &str| {
        row(&[
            name.into(),
            grouped(extent.documents as u64),
            grouped(extent.words as u64),
            grouped(extent.bytes as u64),
            who.into(),
        ])
    };
    text += &extent(
        "documents 0, 2, 4, ... of the corpus",
        &setup.train,
        "the models",
    );
    text += &extent("documents 1, 3, 5, ...", &setup.judge_train, "the judge");
    text += &extent("the hold-out", &setup.holdout, "nobody");
    text += &format!(
        "\nDocuments with characters outside ASCII are left out. All models share one byte-level BPE tokenizer of {} tokens. \
         The judge is an AR model of another shape and seed; it scores samples as `esolm ppl` scores any text, so its perplexity of a \
         sample is the *generative perplexity* below.\n\n",
        grouped(plan.vocab_size as u64)
    );
    text += &head(&[
        "model",
        "parameters",
        "tokens",
        "steps",
        "minutes",
        "tokens/s",
    ]);
    for training in &records.training {
        text += &row(&[
            names.title(&training.name).to_string(),
            training.parameters.map_or_else(|| "-".into(), grouped),
            grouped(training.tokens),
            grouped(training.steps),
            format!("{:.1}", training.seconds / 60.0),
            format!("{:.0}", training.tokens as f64 / training.seconds.max(1e-9)),
        ]);
    }
    text += &format!(
        "\nMeasured on {} ({}), {}. Other work ran on the machine, so times are rough. Made by:\n\n```sh\n{}\ncargo xtask results render\n```\n\n",
        setup.machine, setup.version, setup.date, setup.command
    );
    text
}

/// The section at the end.
pub fn commands(setup: &Setup, records: &Records, names: &Names) -> String {
    let mut text = format!(
        "## Commands and logs\n\nEach record in [results](results) holds its command line, its date and what came out; the commands run in the \
         work folder that `--work` names. The recipe that all models share:\n\n```toml\n{}\n```\n\n",
        setup.recipe.trim()
    );
    for training in &records.training {
        text += &format!(
            "<details><summary>{}: trained by {}, the end of its log</summary>\n\n```text\n{}\n\n",
            names.title(&training.name),
            training.date,
            training.command
        );
        for line in &training.tail {
            text += &format!("{line}\n");
        }
        text += "```\n\n</details>\n\n";
    }
    let mut lines: Vec<&str> = Vec::new();
    lines.extend(records.likelihood.iter().map(|line| line.command.as_str()));
    for line in &records.samples {
        lines.extend([line.command.as_str(), line.judge_command.as_str()]);
    }
    if !lines.is_empty() {
        text += &format!(
            "<details><summary>Measurements: {} commands</summary>\n\n```text\n{}\n```\n\n</details>\n\n",
            lines.len(),
            lines.join("\n")
        );
    }
    text
}
