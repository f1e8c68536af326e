//! The bench as text.

use std::fmt::Write;

use super::Report;

/// The report as a table of lines.
pub fn table(report: &Report) -> String {
    let mut out = format!(
        "{}\n{}\nlength {}, batch {}; Eso-LM, MDLM and AR run the same weights, only the plan differs\n\n",
        report.device, report.model, report.length, report.batch
    );
    out.push_str("plan                     NFE     seconds   tokens/s  of MDLM  rows computed  launches/step  submits/step  read back   run\n");
    for line in &report.lines {
        let ratio = line
            .speedup_over_mdlm
            .map_or("-".into(), |r| format!("{r:.1}x"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<20} {:>7} {:>11.3} {:>10.1} {:>8} {:>14} {:>14.1} {:>13.1} {:>10} {:>4.0}%",
            line.name,
            line.nfe,
            line.seconds,
            line.tokens_per_second,
            ratio,
            line.rows,
            line.dispatches_per_step,
            line.submits_per_step,
            line.bytes_read,
            100.0 * line.share
        );
    }
    if report.peak_bytes > 0 {
        let _ = writeln!(
            out,
            "\ndevice memory at the peak: {} MiB",
            report.peak_bytes >> 20
        );
    }
    if let Some(rates) = &report.rates {
        let giga = 1e9;
        let _ = writeln!(
            out,
            "copy {:.2} GB/s; product of 2 rows {:.2} GB/s of weights, {:.0} % of the copy\nregisters {:.1} GFLOP/s; product of 256 rows {:.1} GFLOP/s, {:.0} % of that; Burn's matmul {:.1} GFLOP/s",
            rates.copy_bytes / giga,
            rates.few_row_bytes / giga,
            100.0 * rates.few_row_bytes / rates.copy_bytes,
            rates.peak_flops / giga,
            rates.many_row_flops / giga,
            100.0 * rates.many_row_flops / rates.peak_flops,
            rates.burn_flops / giga
        );
    }
    out.push_str("\n\"run\" is the share of the passes that was run and timed; the other figures of the line are for the whole plan.\n");
    out
}
