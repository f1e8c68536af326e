//! NELBO and exact perplexity beside the paper's.

use super::chart::{self, Axis, COLOURS, SHAPES, Series};
use super::order::{Agreement, Ranked};
use super::{Names, head, row, short};
use crate::failure::Error;
use crate::published;
use crate::record::{Figure, Likelihood, Records};

/// The section, and the plot of the losses.
pub fn section(
    records: &Records,
    names: &Names,
    plots: &mut Vec<(&'static str, String)>,
) -> Result<String, Error> {
    let mut text = "## Likelihood\n\n".to_string();
    let losses = losses(records, names);
    if !losses.is_empty() {
        let tokens = Axis {
            title: "training tokens (millions)",
            log: false,
        };
        let loss = Axis {
            title: "validation loss (nats a token)",
            log: false,
        };
        plots.push((
            "loss.svg",
            chart::draw(
                "Loss on the hold-out while training",
                &tokens,
                &loss,
                &losses,
            )?,
        ));
        text += "![Loss on the hold-out over training tokens](results/loss.svg)\n\n\
                 The validation loss, of the first windows alone, is each model's own: the NELBO for Eso-LM (alpha_0 of its training) and MDLM, the exact one for AR.\n\n";
    }
    let lines: Vec<&Likelihood> = records
        .likelihood
        .iter()
        .filter(|line| line.whole && names.is_compared(&line.name))
        .collect();
    if lines.is_empty() {
        return Ok(text);
    }
    text += &table(&lines, names);
    text += &orders(&lines, names);
    text += &bound(&lines, names);
    text += &more_orders(records, names);
    text += &controls(records, names);
    text += &cross(records, names);
    Ok(text)
}

/// Validation losses over millions of tokens; the first validations, which would squeeze the rest, are left out.
fn losses(records: &Records, names: &Names) -> Vec<Series> {
    records
        .training
        .iter()
        .filter(|training| training.name != names.plan.judge.name)
        .map(|training| {
            let index = names.index(&training.name);
            let from = training.tokens / 12;
            Series {
                title: names.title(&training.name).into(),
                colour: COLOURS[index % COLOURS.len()],
                shape: SHAPES[index % SHAPES.len()],
                dashed: !names.is_compared(&training.name),
                points: training
                    .validation
                    .iter()
                    .filter(|point| point.tokens >= from)
                    .map(|point| (point.tokens as f64 / 1e6, point.loss))
                    .collect(),
                labels: Vec::new(),
            }
        })
        .filter(|series| !series.points.is_empty())
        .collect()
}

fn table(lines: &[&Likelihood], names: &Names) -> String {
    let first = &lines[0].report;
    let mut text = format!(
        "The whole hold-out: {} windows of {} tokens, alpha_0 at evaluation that of training. Perplexities here are a token of this \
         tokenizer, the paper's of GPT-2's on OpenWebText, so only their order compares. +- is the standard error over windows.\n\n",
        first.windows, first.length
    );
    text += &head(&[
        "model",
        "paper: NELBO PPL",
        "here: NELBO PPL",
        "nats a token",
        "diffusion + sequential",
        "paper: exact PPL",
        "here: exact PPL",
        "nats a token",
        "bits a byte",
    ]);
    let published =
        |figure: Option<f64>| figure.map_or_else(|| "-".into(), |ppl| format!("{ppl:.2}"));
    for line in lines {
        let paper = paper(line, names);
        let nelbo = line.report.nelbo.as_ref();
        let exact = line.report.exact.as_ref();
        let part = |part: Option<f64>| part.map_or_else(|| "0".into(), |nats| format!("{nats:.3}"));
        text += &row(&[
            names.title(&line.name).to_string(),
            published(paper.map(|paper| paper.nelbo)),
            bound_or_exact(line).map_or_else(|| "-".into(), |figure| short(figure.ppl)),
            bound_or_exact(line).map_or_else(|| "-".into(), nats),
            nelbo.map_or_else(
                || "-".into(),
                |nelbo| format!("{} + {}", part(nelbo.diffusion), part(nelbo.sequential)),
            ),
            published(paper.and_then(|paper| paper.exact)),
            exact.map_or_else(|| "-".into(), |figure| short(figure.ppl)),
            exact.map_or_else(|| "-".into(), nats),
            exact
                .or(nelbo.map(|nelbo| &nelbo.total))
                .and_then(|figure| figure.bits_per_byte)
                .map_or_else(|| "-".into(), |bits| format!("{bits:.3}")),
        ]);
    }
    text + "\nThe bits a byte are the exact ones, for MDLM those of the bound. For AR the bound is the likelihood itself.\n\n"
}

fn nats(figure: &Figure) -> String {
    format!("{:.3} +- {:.3}", figure.nats_per_token, figure.error())
}

/// The bound, or the exact figure of a model that needs none.
fn bound_or_exact(line: &Likelihood) -> Option<&Figure> {
    match &line.report.nelbo {
        Some(nelbo) => Some(&nelbo.total),
        None => line.report.exact.as_ref(),
    }
}

fn paper(line: &Likelihood, names: &Names) -> Option<published::Perplexity> {
    let model = names.plan.model(&line.name)?;
    published::perplexity(&model.family, model.alpha_0)
}

/// Both orders beside the paper's.
fn orders(lines: &[&Likelihood], names: &Names) -> String {
    let ranked = |published: fn(published::Perplexity) -> Option<f64>,
                  measured: fn(&Likelihood) -> Option<&Figure>| {
        lines
            .iter()
            .filter_map(|line| {
                let figure = measured(line)?;
                Some(Ranked {
                    title: names.title(&line.name).into(),
                    published: published(paper(line, names)?)?,
                    measured: figure.nats_per_token,
                    error: figure.error(),
                })
            })
            .collect::<Vec<_>>()
    };
    let nelbo = ranked(|paper| Some(paper.nelbo), bound_or_exact);
    let exact = ranked(|paper| paper.exact, |line| line.report.exact.as_ref());
    format!(
        "{}\n\n{}\n\n",
        Agreement::of(&nelbo).text("NELBO", "nats a token"),
        Agreement::of(&exact).text("exact likelihood", "nats a token")
    )
}

/// Whether the exact likelihood beats the bound, as it must in the mean.
fn bound(lines: &[&Likelihood], names: &Names) -> String {
    let gaps: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let gap = line.report.nelbo.as_ref()?.total.nats_per_token
                - line.report.exact.as_ref()?.nats_per_token;
            let paper = paper(line, names)?;
            Some(format!(
                "{} {gap:+.3} (paper {:+.3})",
                names.title(&line.name),
                (paper.nelbo / paper.exact?).ln()
            ))
        })
        .collect();
    match gaps.is_empty() {
        true => String::new(),
        false => format!(
            "How far the bound lies above the exact likelihood, nats a token: {}.\n\n",
            gaps.join("; ")
        ),
    }
}

/// What the mean over several orders gains over one order.
fn more_orders(records: &Records, names: &Names) -> String {
    let few = names.plan.likelihood.orders as u64;
    let many = names.plan.likelihood.more_orders as u64;
    let first = |name: &str, orders: u64| {
        let alpha_0 = names.plan.model(name)?.alpha_0;
        let line = records.likelihood.iter().find(|line| {
            !line.whole
                && line.name == name
                && line.alpha_0 == alpha_0
                && line.report.orders == Some(orders)
        })?;
        Some((
            line.report.windows,
            line.report.exact.as_ref()?.nats_per_token,
        ))
    };
    let mut windows = 0;
    let gains: Vec<String> = names
        .plan
        .models
        .iter()
        .filter(|_| few != many)
        .filter_map(|model| {
            let (_, one) = first(&model.name, few)?;
            let (count, several) = first(&model.name, many)?;
            windows = count;
            Some(format!("{} {one:.3} to {several:.3}", model.title))
        })
        .collect();
    match gains.is_empty() {
        true => String::new(),
        false => format!(
            "The mean over several orders tightens the exact likelihood. From {} to {} orders a window, first {windows} windows, nats a \
             token: {}.\n\n",
            few,
            many,
            gains.join("; ")
        ),
    }
}

/// Models that stand in no order, trained to find the reason of a result.
fn controls(records: &Records, names: &Names) -> String {
    let lines: Vec<String> = names
        .plan
        .controls
        .iter()
        .filter_map(|model| {
            let line = records
                .likelihood
                .iter()
                .find(|line| line.whole && line.name == model.name)?;
            let set: Vec<String> = model
                .set
                .iter()
                .map(|(key, value)| format!("{key} = {value}"))
                .collect();
            Some(format!(
                "* {} ({}): {} nats a token\n",
                model.title,
                set.join(", "),
                bound_or_exact(line).map_or_else(|| "-".into(), nats)
            ))
        })
        .collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!(
            "Trained with the same budget to find reasons, NELBO on the same windows:\n\n{}\n",
            lines.concat()
        ),
    }
}

/// Exact likelihood of every Eso-LM at every alpha_0.
fn cross(records: &Records, names: &Names) -> String {
    let orders = Some(names.plan.likelihood.orders as u64);
    let lines: Vec<&Likelihood> = records
        .likelihood
        .iter()
        .filter(|line| !line.whole && line.report.orders == orders)
        .collect();
    let Some(first) = lines.first() else {
        return String::new();
    };
    let mut alphas: Vec<f64> = lines.iter().filter_map(|line| line.alpha_0).collect();
    alphas.sort_by(|a, b| b.total_cmp(a));
    alphas.dedup();
    let mut text = format!(
        "One model may be asked for any alpha_0. Exact likelihood of the first {} windows, nats a token, by alpha_0 at evaluation:\n\n",
        first.report.windows
    );
    let mut cells = vec!["trained with".to_string()];
    cells.extend(alphas.iter().map(f64::to_string));
    let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
    text += &head(&cells);
    let mut models: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    models.dedup();
    let mut at_own_best = Vec::new();
    for name in models {
        let figures: Vec<Option<f64>> = alphas
            .iter()
            .map(|&alpha_0| {
                let line = lines
                    .iter()
                    .find(|line| line.name == name && line.alpha_0 == Some(alpha_0))?;
                Some(line.report.exact.as_ref()?.nats_per_token)
            })
            .collect();
        let mut cells = vec![names.title(name).to_string()];
        cells.extend(
            figures
                .iter()
                .map(|nats| nats.map_or_else(|| "-".into(), |nats| format!("{nats:.3}"))),
        );
        text += &row(&cells);
        at_own_best.push((name, figures));
    }
    let winners: Vec<String> = alphas
        .iter()
        .enumerate()
        .filter_map(|(column, alpha_0)| {
            let (name, _) = at_own_best
                .iter()
                .filter_map(|(name, figures)| Some((*name, figures[column]?)))
                .min_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(format!("{alpha_0}: {}", names.title(name)))
        })
        .collect();
    text + &format!(
        "\nBest at each alpha_0 of evaluation: {}.\n\n",
        winners.join("; ")
    )
}
