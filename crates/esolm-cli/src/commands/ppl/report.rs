//! The output of `ppl`.

use std::fmt::Write as _;

use esolm::config::Family;
use esolm::{Figure, Model, Perplexity};
use esolm_checkpoint::message::count;
use serde::Serialize;

/// `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    family: Family,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<usize>,
    device: String,
    weights: String,
    #[serde(flatten)]
    measured: Perplexity,
}

/// A description of how the text was split.
pub fn cut(measured: &Perplexity, by_document: bool, has_orders: bool) -> String {
    let Perplexity {
        windows,
        length,
        last_window,
        ..
    } = measured;
    let opening = |before: &str, after: &str| match &measured.opening {
        Some(opening) => format!("{before}{opening}{after}"),
        None => String::new(),
    };
    if measured.bytes.is_none() {
        let orders = if has_orders {
            ", each with its order"
        } else {
            ""
        };
        let (windows, length) = (count(*windows, "sequence"), count(*length, "token"));
        return format!("{windows} of {length}{orders}");
    }
    if by_document {
        let given = opening(", given ", " before it");
        let (windows, length) = (count(*windows, "window"), count(*length, "token"));
        return format!("each document by itself{given}, in {windows} of at most {length}");
    }
    let opened = opening(", each document opened by ", "");
    let last = match last_window < length {
        true => format!("; the last one has {last_window}"),
        false => String::new(),
    };
    let (windows, length) = (count(*windows, "window"), count(*length, "token"));
    format!("{windows} of {length}, packed without gaps{opened}{last}")
}

impl Report {
    pub fn new(model: &Model, measured: Perplexity) -> Self {
        Self {
            model: model.name().into(),
            family: model.config().family,
            block_size: model.config().block_size,
            device: model.device().to_string(),
            weights: model.device().weights.to_string(),
            measured,
        }
    }

    /// A table for human readers; `cut` describes how the text was split.
    pub fn text(&self, cut: &str) -> String {
        let measured = &self.measured;
        let mut text = String::new();
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "{name:<10}{what}");
        };
        line(
            "model",
            format!(
                "{} ({}{}), {} weights",
                self.model,
                self.family,
                match (self.family, self.block_size) {
                    (Family::EsoLm, _) => format!(", alpha_0 {}", measured.alpha_0),
                    (_, Some(size)) => format!(", blocks of {}", count(size, "token")),
                    _ => String::new(),
                },
                self.weights
            ),
        );
        if let Some(bytes) = measured.bytes {
            let dropped = match measured.dropped_documents {
                0 => String::new(),
                n => format!(" ({n} with characters beyond ASCII left out)"),
            };
            let documents = count(measured.documents, "document");
            let bytes = count(bytes, "byte");
            line("text", format!("{documents}{dropped}, {bytes}"));
        }
        line("cut", cut.into());
        line(
            "scored",
            format!(
                "{} in {:.1} s",
                count(measured.tokens, "token"),
                measured.seconds
            ),
        );
        let _ = writeln!(
            text,
            "\n{:<22}{:>20}{:>13}{:>12}{:>11}",
            "", "nats/token", "bits/token", "bits/byte", "PPL"
        );
        let mut row = |name: String, figure: &Figure| {
            let error = figure.standard_error;
            let nats = match error {
                Some(error) => format!("{:.4} +- {error:.4}", figure.nats_per_token),
                None => format!("{:.4}", figure.nats_per_token),
            };
            let bytes = figure
                .bits_per_byte
                .map_or("-".into(), |bits| format!("{bits:.4}"));
            let _ = writeln!(
                text,
                "{name:<22}{nats:>20}{:>13.4}{bytes:>12}{:>11.3}",
                figure.bits_per_token, figure.ppl
            );
        };
        if let Some(nelbo) = &measured.nelbo {
            let draws = count(measured.draws, "draw");
            if self.family == Family::EsoLm {
                row("NELBO, diffusion".into(), &nelbo.parts[0]);
                row("NELBO, sequential".into(), &nelbo.parts[1]);
            }
            row(format!("NELBO, {draws}"), &nelbo.total);
        }
        if let Some(exact) = &measured.exact {
            let orders = match (self.family, measured.orders) {
                (Family::Ar | Family::Bd3Lm, _) => String::new(),
                (_, n) => format!(", {}", count(n, "order")),
            };
            row(format!("exact{orders}"), exact);
        }
        if measured.windows == 1 && measured.draws + measured.orders > 0 {
            let _ = writeln!(
                text,
                "\nOne window gives no standard error; with more --draws and --orders these figures vary less."
            );
        }
        if measured.bytes.is_some() {
            let _ = writeln!(
                text,
                "\nStandard errors are over windows. Bytes are those of the documents' text; tokens that open documents count nats where they are\nscored, and no bytes."
            );
        }
        text
    }
}
