//! The comparison of two models.

use super::{grouped, head, percent, row, short};
use crate::record::{Comparison, TextFigures};

/// The section in docs/results.md.
pub fn section(comparison: &Comparison) -> String {
    let mut text = format!(
        "## The model that ships\n\nMeasured on {}, made by:\n\n```sh\n{}\n```\n\n{}",
        comparison.date,
        comparison.command,
        table(comparison)
    );
    text += &verdict(comparison);
    for model in &comparison.models {
        text += &format!(
            "<details><summary>{}: samples and commands</summary>\n\n",
            model.name
        );
        for example in &model.examples {
            text += &format!("```text\n{}\n```\n\n", example.replace("```", "'''"));
        }
        text += &format!(
            "```text\n{}\n```\n\n</details>\n\n",
            model.commands.join("\n")
        );
    }
    text
}

/// The table, for docs/results.md and the model card.
pub fn table(comparison: &Comparison) -> String {
    let mut cells = vec![""];
    cells.extend(comparison.models.iter().map(|model| model.name.as_str()));
    cells.push("hold-out text itself");
    let mut text = head(&cells);
    let mut line = |name: String, of: &dyn Fn(usize) -> String, baseline: String| {
        let mut cells = vec![name];
        cells.extend((0..comparison.models.len()).map(of));
        cells.push(baseline);
        text += &row(&cells);
    };
    let models = &comparison.models;
    line(
        "shape".into(),
        &|index| models[index].shape.clone(),
        String::new(),
    );
    line(
        "parameters".into(),
        &|index| models[index].parameters.map_or_else(|| "-".into(), grouped),
        String::new(),
    );
    // Settings that any of the models was scored under, in their order.
    let mut settings: Vec<(Option<f64>, u64)> = Vec::new();
    for at in models.iter().flat_map(|model| &model.exact) {
        if !settings.contains(&(at.alpha_0, at.length)) {
            settings.push((at.alpha_0, at.length));
        }
    }
    for (alpha_0, length) in settings {
        let find = |index: usize| {
            models[index]
                .exact
                .iter()
                .find(|at| at.alpha_0 == alpha_0 && at.length == length)
        };
        let at = match alpha_0 {
            Some(alpha_0) => format!("alpha_0 = {alpha_0}, windows of {length}"),
            None => format!("windows of {length}"),
        };
        line(
            format!("hold-out, exact, bits a byte ({at})"),
            &|index| {
                find(index)
                    .and_then(|at| at.figure.bits_per_byte)
                    .map_or_else(|| "-".into(), |bits| format!("{bits:.3}"))
            },
            String::new(),
        );
        line(
            format!("hold-out, exact perplexity a token ({at})"),
            &|index| find(index).map_or_else(|| "-".into(), |at| short(at.figure.ppl)),
            String::new(),
        );
    }
    line(
        format!(
            "{} held-out middles of {} words between {} and {}, exact, bits a byte",
            comparison.middles,
            comparison.middle_words,
            comparison.around_words,
            comparison.around_words
        ),
        &|index| {
            let middles = &models[index].middles;
            format!(
                "{:.3} +- {:.3}",
                middles.bits_per_byte, middles.bits_per_byte_error
            )
        },
        String::new(),
    );
    line(
        "the same, nats a token".into(),
        &|index| format!("{:.3}", models[index].middles.nats_per_token),
        String::new(),
    );
    let mut of_texts = |name: String, figure: &dyn Fn(&TextFigures) -> String| {
        line(
            name,
            &|index| figure(&models[index].texts),
            figure(&comparison.baseline),
        );
    };
    of_texts(
        format!("the judge's perplexity of {} samples", comparison.samples),
        &|texts| short(texts.judge_ppl),
    );
    of_texts("the judge's bits a byte".into(), &|texts| {
        format!("{:.3}", texts.judge_bits_per_byte)
    });
    for n in 0..3 {
        of_texts(
            format!(
                "distinct-{} (of the first {} words)",
                n + 1,
                grouped(comparison.distinct_words as u64)
            ),
            &|texts| format!("{:.3}", texts.distinct[n]),
        );
    }
    of_texts(
        "word 8-grams that occur in the training text".into(),
        &|texts| percent(texts.copied),
    );
    of_texts("entropy of the words of a sample, nats".into(), &|texts| {
        format!("{:.2}", texts.entropy)
    });
    text + &format!(
        "\nHold-out: {} documents, {} bytes. Perplexities a token depend on the tokenizer, bits a byte do not. Samples: {}. The judge: {}. \
         8-grams are looked up in {} documents with {} words.\n\n",
        grouped(comparison.holdout.documents as u64),
        grouped(comparison.holdout.bytes as u64),
        comparison.sampling,
        comparison.judge,
        grouped(comparison.train.documents as u64),
        grouped(comparison.train.words as u64)
    )
}

/// Which figures are better than the older model's.
fn verdict(comparison: &Comparison) -> String {
    let [old, new] = comparison.models.as_slice() else {
        return String::new();
    };
    let bits = |model: &crate::record::Compared, alpha_0, length| {
        model
            .exact
            .iter()
            .find(|at| at.alpha_0 == alpha_0 && at.length == length)
            .and_then(|at| at.figure.bits_per_byte)
    };
    let mut lines: Vec<(String, f64, f64)> = old
        .exact
        .iter()
        .filter_map(|at| {
            let name = match at.alpha_0 {
                Some(alpha_0) => format!("bits a byte of the hold-out at alpha_0 = {alpha_0}"),
                None => "bits a byte of the hold-out".into(),
            };
            Some((
                name,
                at.figure.bits_per_byte?,
                bits(new, at.alpha_0, at.length)?,
            ))
        })
        .collect();
    lines.push((
        "bits a byte of held-out middles".into(),
        old.middles.bits_per_byte,
        new.middles.bits_per_byte,
    ));
    lines.push((
        "the judge's perplexity".into(),
        old.texts.judge_ppl,
        new.texts.judge_ppl,
    ));
    let of = |better: bool| -> String {
        let lines: Vec<String> = lines
            .iter()
            .filter(|(_, old, new)| (new < old) == better)
            .map(|(name, old, new)| format!("{name} ({} to {})", short(*old), short(*new)))
            .collect();
        lines.join("; ")
    };
    let mut text = String::new();
    for (better, word) in [(true, "Better"), (false, "**Not better**")] {
        let which = of(better);
        if !which.is_empty() {
            text += &format!("{word} than {}: {which}.\n\n", old.name);
        }
    }
    text
}
