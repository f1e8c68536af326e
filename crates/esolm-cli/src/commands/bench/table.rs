//! The report as text.

use std::fmt::Write;

use super::cost::Cost;
use super::{Line, Report};

const GIGA: f64 = 1e9;

/// Formats the report as a table.
pub fn table(report: &Report) -> String {
    let mut out = format!(
        "{}\n{}\nlength {}, batch {}; all lines run the same weights, only the plan differs\n",
        report.device, report.model, report.length, report.batch
    );
    // Writing to a string cannot fail.
    let rates = &report.rates;
    let _ = match &rates.kernels {
        None => writeln!(
            out,
            "memory {:.1} GB/s, read by all cores; {:.0} GFLOP/s, an f32 product of squares; {:.0} GFLOP/s, a product of 256 rows",
            rates.memory_bytes / GIGA,
            rates.flops / GIGA,
            rates.product_flops / GIGA
        ),
        Some(kernels) => writeln!(
            out,
            "copy {:.2} GB/s; product of 2 rows {:.2} GB/s of weights, {:.0} % of the copy\nregisters {:.1} GFLOP/s; product of 256 rows {:.1} GFLOP/s, {:.0} % of that; Burn's matmul {:.1} GFLOP/s",
            rates.memory_bytes / GIGA,
            kernels.few_row_bytes / GIGA,
            100.0 * kernels.few_row_bytes / rates.memory_bytes,
            rates.flops / GIGA,
            rates.product_flops / GIGA,
            100.0 * rates.product_flops / rates.flops,
            kernels.burn_flops / GIGA
        ),
    };
    let _ = writeln!(out, "an empty launch {:.1} us", 1e6 * rates.launch_seconds);
    let on_gpu = rates.kernels.is_some();
    let first = &report.lines[0].form;
    let against = format!("of {first}");
    let _ = write!(
        out,
        "\n{:<18} {:<7} {:>6} {:>8} {:>9} {:>8} {:>17} {:>17} {:>9} {:>8} {:>18} {:>6} {:>7} {:>8} {:>7} {:>5}",
        "plan",
        "weights",
        "NFE",
        "rows/tok",
        "seconds",
        "ms/pass",
        "range",
        "predicted",
        "tokens/s",
        "of MDLM",
        against,
        "GB/s",
        "of mem",
        "GFLOP/s",
        "of peak",
        "run"
    );
    if on_gpu {
        out.push_str("  launches  submits  read back");
    }
    out.push('\n');
    for line in &report.lines {
        row(&mut out, line, on_gpu);
    }
    if report.peak_bytes > 0 {
        let _ = writeln!(
            out,
            "\ndevice memory at the peak: {} MiB",
            report.peak_bytes >> 20
        );
    }
    if let Some(cost) = &report.cost {
        perplexities(&mut out, cost);
    }
    let _ = writeln!(
        out,
        "\nseconds: the median of {}, with their range; \"{against}\" is the median over rounds of the time against the first form's in the\nsame round, with its range. GB/s: weights and cache that the passes must read; GFLOP/s: what they must compute; predicted: the\nseconds that both take at the rates above, at the same time or in turn, with the launches. \"run\" is the share of the\npasses that was run and timed; the other figures of the line are for the whole plan.{}",
        match report.rounds {
            1 => "1 round".into(),
            rounds => format!("{rounds} rounds"),
        },
        match on_gpu {
            true => " Launches and submits are a pass's.",
            false => "",
        }
    );
    out
}

fn row(out: &mut String, line: &Line, on_gpu: bool) {
    let timing = &line.timing;
    let [least, most] = timing.range;
    let [predicted, bound] = line.predicted;
    let mdlm = line.speedup_over_mdlm;
    let mdlm = mdlm.map_or("-".into(), |ratio| format!("{ratio:.1}x"));
    let of_first = line.of_first.map_or("-".into(), |[median, least, most]| {
        format!("{median:.2} ({least:.2}-{most:.2})")
    });
    let _ = write!(
        out,
        "{:<18} {:<7} {:>6} {:>8.1} {:>9.3} {:>8.1} {:>17} {:>17} {:>9.1} {mdlm:>8} {of_first:>18} {:>6.1} {:>5.0} % {:>8.1} {:>5.0} % {:>3.0} %",
        line.name,
        line.form,
        line.nfe,
        line.rows_per_token,
        timing.seconds,
        1e3 * timing.seconds / line.nfe as f64,
        format!("{least:.3}-{most:.3}"),
        format!("{predicted:.3}-{bound:.3}"),
        line.tokens_per_second,
        line.bytes_per_second / GIGA,
        100.0 * line.memory_share,
        line.flops / GIGA,
        100.0 * line.flops_share,
        100.0 * timing.share,
    );
    if on_gpu {
        let _ = write!(
            out,
            "  {:>8.1}  {:>7.1}  {:>9}",
            timing.dispatches_per_step, timing.submits_per_step, timing.bytes_read
        );
    }
    out.push('\n');
}

/// What each form costs compared with the first.
fn perplexities(out: &mut String, cost: &Cost) {
    let kind = match cost.exact {
        true => "perplexity",
        false => "bound of the perplexity",
    };
    let (writer, first) = &cost.forms[0];
    let _ = write!(
        out,
        "\n{kind} of {} tokens that {writer} wrote: {first:.3}",
        cost.tokens
    );
    for (form, ppl) in &cost.forms[1..] {
        let _ = write!(
            out,
            "; {form} {ppl:.3} ({:+.2} %)",
            100.0 * (ppl / first - 1.0)
        );
    }
    out.push('\n');
}
