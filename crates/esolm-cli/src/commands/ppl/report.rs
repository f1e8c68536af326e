//! What `ppl` prints.

use std::f64::consts::LN_2;
use std::fmt::Write as _;

use esolm::DeviceInfo;
use esolm::config::{Family, ModelConfig};
use esolm::likelihood::{LikelihoodOptions, Summary};
use esolm::scoring::Mean;
use serde::Serialize;

use super::input::Input;

/// A quantity in every unit.
#[derive(Debug, Serialize)]
struct Figure {
    nats_per_token: f64,
    standard_error: Option<f64>,
    bits_per_token: f64,
    bits_per_byte: Option<f64>,
    ppl: f64,
}

#[derive(Debug, Serialize)]
struct Nelbo {
    diffusion: f64,
    sequential: f64,
    total: Figure,
    /// The two parts in every unit, for the table.
    #[serde(skip)]
    parts: [Figure; 2],
}

/// `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    family: Family,
    device: String,
    weights: String,
    alpha_0: f64,
    orders: u32,
    draws: u32,
    seed: u64,
    windows: usize,
    length: usize,
    tokens: usize,
    bytes: Option<usize>,
    documents: usize,
    dropped_documents: usize,
    nelbo: Option<Nelbo>,
    exact: Option<Figure>,
    seconds: f64,
}

impl Report {
    pub fn new(
        model: String,
        device: &DeviceInfo,
        config: &ModelConfig,
        options: &LikelihoodOptions,
        input: &Input,
        summary: &Summary,
        seconds: f64,
    ) -> Self {
        // Nats a token times tokens a byte, of all tokens of the text: where nothing predicts the first token of a window, it counts
        // as much as the others.
        let per_byte = (input.bytes)
            .filter(|&bytes| bytes > 0)
            .map(|bytes| input.text_tokens() as f64 / bytes as f64);
        let figure = |mean: Mean| Figure {
            nats_per_token: mean.per_token,
            standard_error: mean.standard_error,
            bits_per_token: mean.per_token / LN_2,
            bits_per_byte: per_byte.map(|ratio| mean.per_token / LN_2 * ratio),
            ppl: mean.per_token.exp(),
        };
        Self {
            model,
            family: config.family,
            device: device.to_string(),
            weights: device.weights.to_string(),
            alpha_0: options.alpha_0,
            orders: options.orders,
            draws: options.draws,
            seed: options.seed,
            windows: input.windows.len(),
            length: input.length,
            tokens: summary.tokens,
            bytes: input.bytes,
            documents: input.documents.len(),
            dropped_documents: input.dropped,
            nelbo: (options.draws > 0).then(|| Nelbo {
                diffusion: summary.diffusion.per_token,
                sequential: summary.sequential.per_token,
                total: figure(summary.nelbo),
                parts: [figure(summary.diffusion), figure(summary.sequential)],
            }),
            exact: summary.exact.map(figure),
            seconds,
        }
    }

    /// A table for people; `cut` says how the text was cut.
    pub fn text(&self, cut: &str) -> String {
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
                match self.family {
                    Family::EsoLm => format!(", alpha_0 {}", self.alpha_0),
                    _ => String::new(),
                },
                self.weights
            ),
        );
        if let Some(bytes) = self.bytes {
            let dropped = match self.dropped_documents {
                0 => String::new(),
                n => format!(" ({n} with characters beyond ASCII left out)"),
            };
            let documents = self.documents;
            line(
                "text",
                format!("{documents} documents{dropped}, {bytes} bytes"),
            );
        }
        line("cut", cut.into());
        line(
            "scored",
            format!("{} tokens in {:.1} s", self.tokens, self.seconds),
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
        if let Some(nelbo) = &self.nelbo {
            let draws = match self.draws {
                1 => "1 draw".into(),
                n => format!("{n} draws"),
            };
            if self.family == Family::EsoLm {
                row("NELBO, diffusion".into(), &nelbo.parts[0]);
                row("NELBO, sequential".into(), &nelbo.parts[1]);
            }
            row(format!("NELBO, {draws}"), &nelbo.total);
        }
        if let Some(exact) = &self.exact {
            let orders = match (self.family, self.orders) {
                (Family::Ar, _) => String::new(),
                (_, 1) => ", 1 order".into(),
                (_, n) => format!(", {n} orders"),
            };
            row(format!("exact{orders}"), exact);
        }
        if self.bytes.is_some() {
            let _ = writeln!(
                text,
                "\nStandard errors are over windows. Bytes are those of the documents' text; tokens that open documents count nats where they are\nscored, and no bytes."
            );
        }
        text
    }
}
