//! Quality of samples against time, schedules, and time at one token a pass.

use super::chart::{self, Axis, COLOURS, SHAPES, Series};
use super::{Names, head, row, short};
use crate::failure::Error;
use crate::published;
use crate::record::{Records, Samples};

const JUDGE_AXIS: Axis = Axis {
    title: "generative perplexity under the judge",
    log: true,
};

/// The published schedule; AR has none other.
fn is_published(line: &Samples) -> bool {
    line.schedule
        .as_deref()
        .is_none_or(|schedule| schedule == "binomial")
}

/// Samples at the alpha_0 of training under the published schedule, by model in the order of the plan, by steps.
fn own<'a>(records: &'a Records, names: &'a Names) -> Vec<(&'a str, Vec<&'a Samples>)> {
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
fn steps(line: &Samples) -> String {
    line.steps
        .map_or_else(String::new, |steps| format!("T = {steps}"))
}

/// Name of a setting in running text.
fn setting<'a>(line: &'a Samples, names: &'a Names) -> String {
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

fn series(
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
        labels: match labelled {
            true => lines
                .iter()
                .map(|line| {
                    line.steps
                        .map_or_else(String::new, |steps| steps.to_string())
                })
                .collect(),
            false => Vec::new(),
        },
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
        title: "seconds a sample (numbers: steps T)",
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
    text += "![Generative perplexity against seconds a sample](results/pareto.svg)\n\n\
             ![Generative perplexity against entropy](results/entropy.svg)\n\n";

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

fn table(lines: &[&Samples], names: &Names) -> String {
    let mut text = head(&[
        "model",
        "alpha_0 at evaluation",
        "schedule",
        "T",
        "NFE",
        "seconds a sample",
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

/// The settings that no other beats in both time and quality.
fn front(lines: &[&Samples], names: &Names) -> String {
    let beats = |a: &Samples, b: &Samples| {
        a.seconds_per_sample <= b.seconds_per_sample
            && a.judge.ppl <= b.judge.ppl
            && (a.seconds_per_sample < b.seconds_per_sample || a.judge.ppl < b.judge.ppl)
    };
    let mut front: Vec<&&Samples> = lines
        .iter()
        .filter(|line| !lines.iter().any(|other| beats(other, line)))
        .collect();
    front.sort_by(|a, b| a.seconds_per_sample.total_cmp(&b.seconds_per_sample));
    let names: Vec<String> = front
        .iter()
        .map(|line| format!("{}: {}", setting(line, names), short(line.judge.ppl)))
        .collect();
    format!(
        "**The Pareto front**, from fast to good (no other setting is both faster and better): {}.\n\n",
        names.join("; ")
    )
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

/// The blockwise schedules against the binomial one, with a plot.
pub fn schedules(
    records: &Records,
    names: &Names,
    plots: &mut Vec<(&'static str, String)>,
) -> Result<String, Error> {
    let mut all = Vec::new();
    let mut lines = Vec::new();
    let mut verdicts = Vec::new();
    for model in &names.plan.models {
        let of = |schedule: &str| -> Vec<&Samples> {
            let mut found: Vec<&Samples> = records
                .samples
                .iter()
                .filter(|line| {
                    line.name == model.name
                        && line.alpha_0 == model.alpha_0
                        && line.schedule.as_deref() == Some(schedule)
                })
                .collect();
            found.sort_by_key(|line| line.steps);
            found
        };
        let binomial = of("binomial");
        // The runs at one token a pass are for times.
        let blocks: Vec<(&str, Vec<&Samples>)> = ["blocks", "blocks-shuffled"]
            .into_iter()
            .map(|schedule| {
                let mut found = of(schedule);
                found.retain(|line| line.steps != Some(line.length));
                (schedule, found)
            })
            .filter(|(_, found)| !found.is_empty())
            .collect();
        let Some(most) = blocks
            .iter()
            .flat_map(|(_, found)| found.iter().map(|line| line.nfe))
            .max()
        else {
            continue;
        };
        let compared: Vec<&Samples> = binomial
            .iter()
            .copied()
            .filter(|line| line.nfe <= most)
            .collect();
        let index = names.index(&model.name);
        for (at, (schedule, found)) in [("binomial", compared.clone())]
            .iter()
            .chain(&blocks)
            .enumerate()
        {
            let mut one = series(
                format!("{}, {schedule}", model.title),
                index,
                found,
                |line| (line.nfe as f64, line.judge.ppl),
                false,
            );
            one.shape = SHAPES[at % SHAPES.len()];
            one.dashed = at > 0;
            all.push(one);
            lines.extend(found.iter().copied());
        }
        for (schedule, found) in &blocks {
            let pairs: Vec<(&Samples, &Samples)> = found
                .iter()
                .filter_map(|block| {
                    Some((
                        *block,
                        *binomial.iter().find(|line| line.steps == block.steps)?,
                    ))
                })
                .collect();
            let better = pairs
                .iter()
                .filter(|(block, other)| block.judge.ppl < other.judge.ppl)
                .count();
            let figures: Vec<String> = pairs
                .iter()
                .map(|(block, other)| {
                    format!(
                        "{}: {} against {}",
                        steps(block),
                        short(block.judge.ppl),
                        short(other.judge.ppl)
                    )
                })
                .collect();
            verdicts.push(format!(
                "* {}, {schedule}: better at {better} of {} T ({})",
                model.title,
                pairs.len(),
                figures.join(", ")
            ));
        }
    }
    if all.is_empty() {
        return Ok(String::new());
    }
    let nfe = Axis {
        title: "passes through the network (NFE)",
        log: true,
    };
    plots.push((
        "blocks.svg",
        chart::draw(
            "Blockwise and binomial schedules at low NFE",
            &nfe,
            &JUDGE_AXIS,
            &all,
        )?,
    ));
    Ok(format!(
        "## Blockwise against binomial schedule\n\nThe binomial schedule draws which positions a step takes, so neighbours may fall into one step, \
         where neither sees the other. The blockwise one takes positions that lie L/T apart. The paper's optimized schedule is of that \
         kind and better at low NFE.\n\n![Generative perplexity against NFE by schedule](results/blocks.svg)\n\n{}\n\n{}",
        verdicts.join("\n"),
        table(&lines, names)
    ))
}

/// Seconds a sample at one token a pass beside the paper's ratios.
pub fn time(records: &Records, names: &Names) -> String {
    let at_full = |family: &str| {
        records.samples.iter().find(|line| {
            names
                .plan
                .model(&line.name)
                .is_some_and(|model| model.family == family)
                && line.nfe + 1 >= line.length as u64
                && line
                    .schedule
                    .as_deref()
                    .is_none_or(|schedule| schedule == "blocks-shuffled")
        })
    };
    let (Some(ar), Some(esolm), Some(mdlm)) = (at_full("ar"), at_full("esolm"), at_full("mdlm"))
    else {
        return String::new();
    };
    let mut text = "## Time at one token a pass (NFE = L)\n\n".to_string();
    text += &head(&[
        "",
        "here, seconds a sample",
        "paper, L = 2048",
        "paper, L = 8192",
    ]);
    for (line, (_, short_text, long_text)) in [ar, esolm, mdlm].into_iter().zip(published::SECONDS)
    {
        text += &row(&[
            names.title(&line.name).to_string(),
            short(line.seconds_per_sample),
            format!("{short_text:.1}"),
            format!("{long_text:.1}"),
        ]);
    }
    let seconds = [ar, esolm, mdlm].map(|line| line.seconds_per_sample);
    let [
        (_, ar_2048, ar_8192),
        (_, eso_2048, eso_8192),
        (_, mdlm_2048, mdlm_8192),
    ] = published::SECONDS;
    text += &row(&[
        "MDLM over Eso-LM".into(),
        format!("{:.1}x", seconds[2] / seconds[1]),
        format!("{:.1}x", mdlm_2048 / eso_2048),
        format!("{:.1}x", mdlm_8192 / eso_8192),
    ]);
    text += &row(&[
        "Eso-LM over AR".into(),
        format!("{:.2}x", seconds[1] / seconds[0]),
        format!("{:.2}x", eso_2048 / ar_2048),
        format!("{:.2}x", eso_8192 / ar_8192),
    ]);
    let verdict = match seconds[0] < seconds[1] && seconds[1] < seconds[2] {
        true => "The order is the paper's: AR, then Eso-LM, then MDLM.",
        false => "**The order is not the paper's**, which is AR, then Eso-LM, then MDLM.",
    };
    text + &format!(
        "\n{verdict} Texts here have {} tokens, in batches of {}: the cache saves less the shorter a text is.\n\n",
        ar.length, ar.batch
    )
}

/// What samples look like.
pub fn examples(records: &Records, names: &Names) -> String {
    let own = own(records, names);
    let mut text = String::new();
    for (_, lines) in &own {
        for line in [lines.first(), lines.last()].into_iter().flatten() {
            let block = format!(
                "{}, {} passes, generative perplexity of its batch {}:\n\n```text\n{}\n```\n\n",
                setting(line, names),
                line.nfe,
                short(line.judge.ppl),
                line.text.replace("```", "'''")
            );
            if !text.contains(&block) {
                text += &block;
            }
        }
    }
    match text.is_empty() {
        true => text,
        false => format!(
            "## What samples look like\n\nThe beginning of sample 0, up to its first end of text, at the fewest and the most steps.\n\n{text}"
        ),
    }
}
