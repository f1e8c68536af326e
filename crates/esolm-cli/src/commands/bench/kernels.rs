//! `esolm bench --kernels`: where the table that selects kernel variants is wrong for a device.

use std::fmt::Write;

use esolm::engine::Engine;
use esolm::measure::forms::{Comparison, Scope, Shape};
use pollster::block_on;
use serde::Serialize;

use crate::arguments::{Bench, FormatName};
use crate::failure::Failure;
use crate::output;

/// The whole report.
#[derive(Serialize)]
struct Report {
    device: String,
    model: String,
    /// Comparisons in which the table's variant is not the best.
    wrong: usize,
    comparisons: Vec<Comparison>,
}

pub fn run(engine: &Engine, model: String, arguments: &Bench) -> Result<(), Failure> {
    if arguments.batch == 0 || arguments.length == 0 {
        return Err(Failure::usage("--batch and --length must be at least 1"));
    }
    let scope = Scope {
        sequences: arguments.batch,
        length: arguments.length,
        seconds: arguments.max_seconds,
    };
    output::note(
        "kernels: each form is compiled first, which takes a minute or more on a software adapter",
    );
    let comparisons = block_on(engine.compare(&scope))?.ok_or_else(|| {
        Failure::failed("--kernels compares the kernels of a GPU, and no real GPU was found; give --device gpu for one in software")
    })?;
    let wrong = |comparison: &&Comparison| comparison.better.is_some();
    let report = Report {
        device: engine.device().to_string(),
        model,
        wrong: comparisons.iter().filter(wrong).count(),
        comparisons,
    };
    match arguments.form.format() {
        FormatName::Text => output::text(&table(&report)),
        format => output::json(&report, format),
    }
}

fn table(report: &Report) -> String {
    let mut out = format!(
        "{}\n{}\nmicroseconds, median of alternated runs; * is what the table says for this kind of adapter\n\n",
        report.device, report.model
    );
    out.push_str("kernel     rows  shape                       forms\n");
    for comparison in &report.comparisons {
        let shape = match comparison.shape {
            Shape::Product { inputs, outputs } => format!("{inputs} x {outputs}"),
            Shape::Attention { sequences, prefix } => {
                format!("{sequences} sequences, {prefix} slots")
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{:<10} {:>4}  {shape:<26}",
            comparison.kernel, comparison.rows
        );
        for timed in &comparison.forms {
            let mark = match timed.form == comparison.table {
                true => "*",
                false => "",
            };
            let name = format!("{}{mark}", timed.form);
            let _ = write!(out, "  {name:<7} {:>10.1}", 1e6 * timed.seconds);
        }
        let better = comparison.better;
        for timed in comparison.forms.iter().filter(|t| better == Some(t.form)) {
            let share = 100.0 * timed.of_table;
            let _ = write!(out, "  <- {} takes {share:.0} %", timed.form);
        }
        out.push('\n');
    }
    let all = report.comparisons.len();
    let _ = match report.wrong {
        0 => writeln!(
            out,
            "\nThe table is right for this device at all {all} shapes."
        ),
        wrong => writeln!(
            out,
            "\nThe table is wrong for this device at {wrong} of {all} shapes: another form was faster in every run and took less than 90 % of\nthe time. --variants forces a form: few=... up to 16 rows, many=... above, attention=..."
        ),
    };
    out
}
