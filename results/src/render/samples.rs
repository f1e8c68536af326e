//! Quality of samples against time.

use super::chart::{self, Axis, COLOURS, SHAPES, Series};
use super::{Names, head, row, short};
use crate::failure::Error;
use crate::record::{Records, Samples};

pub(super) const JUDGE_AXIS: Axis = Axis {
    title: "generative perplexity under the judge",
    log: true,
};

/// The published schedule; AR has none other.
pub(super) fn is_published(line: &Samples) -> bool {
    line.schedule
        .as_deref()
        .is_none_or(|schedule| schedule == "binomial")
}

/// Samples at the alpha_0 of training under the published schedule, by model in the order of the plan, by steps.
pub(super) fn own<'a>(records: &'a Records, names: &'a Names) -> Vec<(&'a str, Vec<&'a Samples>)> {
    names
        .plan
        .models
        .iter()
        .map(|model| {
            let mut lines: Vec<&Samples> = records
                .samples
                .iter()
                .filter(|line| {
                    line.name == model.name && line.alpha_0 == model.alpha_0 && is_published(line)
                })
                .collect();
            lines.sort_by_key(|line| line.steps);
            (model.name.as_str(), lines)
        })
        .filter(|(_, lines)| !lines.is_empty())
        .collect()
}

/// "T = 8", or nothing for AR.
pub(super) fn steps(line: &Samples) -> String {
    line.steps
        .map_or_else(String::new, |steps| format!("T = {steps}"))
}

/// Name of a setting in running text.
pub(super) fn setting<'a>(line: &'a Samples, names: &'a Names) -> String {
    let mut text = names.title(&line.name).to_string();
    let trained = names.plan.model(&line.name).and_then(|model| model.alpha_0);
    if line.alpha_0 != trained
        && let Some(alpha_0) = line.alpha_0
    {
        text += &format!(" at {alpha_0}");
    }
    match line.steps {
        Some(_) => format!("{text} ({})", steps(line)),
        None => text,
    }
}

pub(super) fn series(
    title: String,
    index: usize,
    lines: &[&Samples],
    point: impl Fn(&Samples) -> (f64, f64),
    labelled: bool,
) -> Series {
    Series {
        title,
        colour: COLOURS[index % COLOURS.len()],
        shape: SHAPES[index % SHAPES.len()],
        dashed: false,
        points: lines.iter().map(|line| point(line)).collect(),
        // The ends tell the direction; more numbers would cover each other.
        labels: lines
            .iter()
            .enumerate()
            .map(|(index, line)| match line.steps {
                Some(steps) if labelled && (index == 0 || index + 1 == lines.len()) => {
                    steps.to_string()
                }
                _ => String::new(),
            })
            .collect(),
    }
}

/// The section on quality against time, with its plots.
pub fn quality(
    records: &Records,
    names: &Names,
    plots: &mut Vec<(&'static str, String)>,
) -> Result<String, Error> {
    let own = own(records, names);
    let Some(first) = records.samples.first() else {
        return Ok(String::new());
    };
    let mut text = format!(
        "## Samples: quality against time\n\n{} samples of {} tokens a setting, drawn as one batch on {}, nucleus {} as published, each \
         opened by the end-of-text token. Seconds a sample are those of the batch over its size. Entropy is the published code's: of the \
         token counts inside a sample, in nats, the mean over samples; low perplexity with low entropy is repetition, not quality.\n\n",
        first.batch, first.length, first.device, names.plan.sampling.top_p
    );
    let judged = records
        .likelihood
        .iter()
        .find(|line| line.whole && line.name == names.plan.judge.name)
        .and_then(|line| line.report.exact.as_ref());
    if let Some(figure) = judged {
        text += &format!(
            "For comparison, the judge's perplexity of the hold-out itself is {}. Samples of a nucleus below 1 can fall under it.\n\n",
            short(figure.ppl)
        );
    }
    let chart = |label: bool, point: fn(&Samples) -> (f64, f64)| -> Vec<Series> {
        own.iter()
            .map(|(name, lines)| {
                series(
                    names.title(name).into(),
                    names.index(name),
                    lines,
                    point,
                    label,
                )
            })
            .collect()
    };
    let seconds = Axis {
        title: "seconds a sample (numbers: fewest and most steps T)",
        log: true,
    };
    let pareto = |line: &Samples| (line.seconds_per_sample, line.judge.ppl);
    plots.push((
        "pareto.svg",
        chart::draw(
            "Quality against time",
            &seconds,
            &JUDGE_AXIS,
            &chart(true, pareto),
        )?,
    ));
    let alone = Axis {
        title: "seconds of a sample drawn alone (numbers: fewest and most steps T)",
        log: true,
    };
    let mut latency = chart(true, |line| {
        (line.seconds_alone.unwrap_or(f64::NAN), line.judge.ppl)
    });
    latency.retain(|series| series.points.iter().all(|point| point.0.is_finite()));
    let has_latency = !latency.is_empty();
    if has_latency {
        plots.push((
            "latency.svg",
            chart::draw(
                "Quality against time, batch of one",
                &alone,
                &JUDGE_AXIS,
                &latency,
            )?,
        ));
    }
    let entropy = Axis {
        title: "entropy of a sample (nats)",
        log: false,
    };
    plots.push((
        "entropy.svg",
        chart::draw(
            "Entropy and quality",
            &entropy,
            &JUDGE_AXIS,
            &chart(true, |line| (line.entropy, line.judge.ppl)),
        )?,
    ));
    text += "![Generative perplexity against seconds a sample](results/pareto.svg)\n\n";
    if has_latency {
        text += "![Generative perplexity against seconds of a sample drawn alone](results/latency.svg)\n\n";
    }
    text += "![Generative perplexity against entropy](results/entropy.svg)\n\n";

    let mut lines: Vec<&Samples> = own
        .iter()
        .flat_map(|(_, lines)| lines.iter().copied())
        .collect();
    text += &table(&lines, names);
    text += &more_steps(&own, names);
    text += &front(&lines, names);
    text += &few_passes(&own, names);

    if let Some((name, alphas)) = swept(records, names) {
        let title = names.title(name);
        lines = alphas
            .iter()
            .flat_map(|(_, lines)| lines.iter().copied())
            .collect();
        let swept: Vec<Series> = alphas
            .iter()
            .enumerate()
            .map(|(index, (alpha_0, lines))| {
                series(
                    format!("at evaluation {alpha_0}"),
                    index,
                    lines,
                    pareto,
                    true,
                )
            })
            .collect();
        plots.push((
            "alpha.svg",
            chart::draw(
                &format!("One model at several alpha_0 of evaluation ({title})"),
                &seconds,
                &JUDGE_AXIS,
                &swept,
            )?,
        ));
        text += &format!(
            "### One model at several alpha_0\n\n{title} sampled at other alpha_0 than that of its training.\n\n\
             ![Generative perplexity against seconds a sample by alpha_0](results/alpha.svg)\n\n"
        );
        text += &table(&lines, names);
        text += &front(&lines, names);
    }
    Ok(text)
}

/// Samples at one alpha_0 of evaluation.
type ByAlpha<'a> = (f64, Vec<&'a Samples>);

/// The first model that was sampled at more than one alpha_0, its samples by alpha_0, high first.
fn swept<'a>(records: &'a Records, names: &'a Names) -> Option<(&'a str, Vec<ByAlpha<'a>>)> {
    names.plan.models.iter().find_map(|model| {
        let mut lines: Vec<&Samples> = records
            .samples
            .iter()
            .filter(|line| line.name == model.name && line.alpha_0.is_some() && is_published(line))
            .collect();
        lines.sort_by(|a, b| {
            let alpha = |line: &Samples| line.alpha_0.unwrap_or(0.0);
            alpha(b).total_cmp(&alpha(a)).then(a.steps.cmp(&b.steps))
        });
        let groups: Vec<ByAlpha> = lines
            .chunk_by(|a, b| a.alpha_0 == b.alpha_0)
            .map(|group| (group[0].alpha_0.unwrap_or(0.0), group.to_vec()))
            .collect();
        (groups.len() > 1).then_some((model.name.as_str(), groups))
    })
}

pub(super) fn table(lines: &[&Samples], names: &Names) -> String {
    let mut text = head(&[
        "model",
        "alpha_0 at evaluation",
        "schedule",
        "T",
        "NFE",
        "seconds a sample",
        "alone",
        "generative perplexity",
        "entropy",
    ]);
    for line in lines {
        let error = line.judge.ppl * line.judge.error();
        text += &row(&[
            names.title(&line.name).to_string(),
            line.alpha_0
                .map_or_else(|| "-".into(), |alpha_0| alpha_0.to_string()),
            line.schedule.clone().unwrap_or_else(|| "-".into()),
            line.steps
                .map_or_else(|| "-".into(), |steps| steps.to_string()),
            line.nfe.to_string(),
            short(line.seconds_per_sample),
            line.seconds_alone.map_or_else(|| "-".into(), short),
            format!("{} +- {}", short(line.judge.ppl), short(error)),
            format!("{:.2}", line.entropy),
        ]);
    }
    text + "\n"
}

/// Does quality rise with the number of steps, as in the paper?
fn more_steps(own: &[(&str, Vec<&Samples>)], names: &Names) -> String {
    let verdicts: Vec<String> = own
        .iter()
        .filter(|(_, lines)| lines.len() > 1)
        .map(|(name, lines)| {
            let better = lines
                .windows(2)
                .filter(|pair| pair[1].judge.ppl < pair[0].judge.ppl)
                .count();
            format!(
                "{} in {better} of {} steps upwards ({} to {})",
                names.title(name),
                lines.len() - 1,
                short(lines[0].judge.ppl),
                short(lines[lines.len() - 1].judge.ppl)
            )
        })
        .collect();
    match verdicts.is_empty() {
        true => String::new(),
        false => format!(
            "**More steps, better samples?** In the paper generative perplexity falls with T. Here it falls for {}.\n\n",
            verdicts.join("; ")
        ),
    }
}

/// The settings that no other beats in both time and quality, by the time in the batch and by that of a sample alone.
fn front(lines: &[&Samples], names: &Names) -> String {
    let mut text =
        "**The Pareto front**, from fast to good (no other setting is both faster and better). "
            .to_string();
    text += &format!(
        "In the batch: {}.",
        front_by(lines, names, |line| line.seconds_per_sample)
    );
    if lines.iter().all(|line| line.seconds_alone.is_some()) {
        text += &format!(
            " Alone: {}.",
            front_by(lines, names, |line| line.seconds_alone.unwrap_or(0.0))
        );
    }
    text + "\n\n"
}

fn front_by(lines: &[&Samples], names: &Names, seconds: fn(&Samples) -> f64) -> String {
    let beats = |a: &Samples, b: &Samples| {
        seconds(a) <= seconds(b)
            && a.judge.ppl <= b.judge.ppl
            && (seconds(a) < seconds(b) || a.judge.ppl < b.judge.ppl)
    };
    let mut front: Vec<&&Samples> = lines
        .iter()
        .filter(|line| !lines.iter().any(|other| beats(other, line)))
        .collect();
    front.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    let names: Vec<String> = front
        .iter()
        .map(|line| format!("{}: {}", setting(line, names), short(line.judge.ppl)))
        .collect();
    names.join("; ")
}

/// Eso-LMs against MDLM at the same number of steps.
fn few_passes(own: &[(&str, Vec<&Samples>)], names: &Names) -> String {
    let family = |name: &str| names.plan.model(name).map(|model| model.family.as_str());
    let Some((_, mdlm)) = own.iter().find(|(name, _)| family(name) == Some("mdlm")) else {
        return String::new();
    };
    let Some((name, esolm)) = own.iter().find(|(name, _)| {
        names
            .plan
            .model(name)
            .is_some_and(|model| model.alpha_0 == Some(1.0))
    }) else {
        return String::new();
    };
    let mut pairs = Vec::new();
    let mut better = 0;
    for a in esolm {
        if let Some(b) = mdlm.iter().find(|b| b.steps == a.steps) {
            better += usize::from(a.judge.ppl < b.judge.ppl);
            pairs.push(format!(
                "{}: {} against {}, {:.1} times as fast",
                steps(a),
                short(a.judge.ppl),
                short(b.judge.ppl),
                b.seconds_per_sample / a.seconds_per_sample.max(1e-12)
            ));
        }
    }
    match pairs.is_empty() {
        true => String::new(),
        false => format!(
            "**{} against MDLM at the same T**, perplexity (lower in {better} of {}): {}. The paper calls Eso-LMs competitive with MDLM at \
             low NFE, and faster at every NFE.\n\n",
            names.title(name),
            pairs.len(),
            pairs.join("; ")
        ),
    }
}
