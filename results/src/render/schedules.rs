//! Blockwise schedules against the binomial one, time at one token a pass, and what samples look like.

use super::chart::{self, Axis, SHAPES};
use super::samples::{JUDGE_AXIS, own, series, setting, steps, table};
use super::{Names, head, row, short};
use crate::failure::Error;
use crate::published;
use crate::record::{Records, Samples};

/// The blockwise schedules against the binomial one, with a plot.
pub fn section(
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
        "seconds a sample, in a batch",
        "alone",
        "paper, L = 2048",
        "paper, L = 8192",
    ]);
    let lines = [ar, esolm, mdlm];
    let batch = lines.map(|line| line.seconds_per_sample);
    // Without a time alone the one in the batch stands for it.
    let alone = lines.map(|line| line.seconds_alone.unwrap_or(line.seconds_per_sample));
    let paper = |long: bool| {
        published::SECONDS.map(|(_, at_2048, at_8192)| if long { at_8192 } else { at_2048 })
    };
    let columns = [batch, alone, paper(false), paper(true)];
    for (index, line) in lines.iter().enumerate() {
        let mut cells = vec![names.title(&line.name).to_string()];
        cells.extend(columns.iter().map(|column| short(column[index])));
        text += &row(&cells);
    }
    for (name, over, under) in [("MDLM over Eso-LM", 2, 1), ("Eso-LM over AR", 1, 0)] {
        let mut cells = vec![name.to_string()];
        cells.extend(
            columns
                .iter()
                .map(|column| format!("{}x", short(column[over] / column[under]))),
        );
        text += &row(&cells);
    }
    let verdict = match alone[0] < alone[1] && alone[1] < alone[2] {
        true => "The order is the paper's: AR, then Eso-LM, then MDLM.",
        false => "**The order is not the paper's**, which is AR, then Eso-LM, then MDLM.",
    };
    text + &format!(
        "\n{verdict} Texts here have {} tokens, in the batch {} at once: the cache saves less the shorter a text is.\n\n",
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
