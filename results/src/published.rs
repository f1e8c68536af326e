//! Figures of the paper, arXiv 2506.01928: OpenWebText, length 1024, 170 million parameters.

/// A line of the paper's perplexity table.
#[derive(Debug, Clone, Copy)]
pub struct Perplexity {
    /// Family, as plans name it.
    pub family: &'static str,
    /// alpha_0 of training and evaluation.
    pub alpha_0: Option<f64>,
    /// Exact perplexity; MDLM has none.
    pub exact: Option<f64>,
    /// Perplexity by the bound; for AR the same as the exact one.
    pub nelbo: f64,
}

/// The paper's perplexities. AR is the one with adaLN, as the others are; AR models of this project have none.
pub const PERPLEXITIES: [Perplexity; 6] = [
    Perplexity {
        family: "ar",
        alpha_0: None,
        exact: Some(17.78),
        nelbo: 17.78,
    },
    esolm(0.125, 20.53, 21.92),
    esolm(0.25, 23.15, 24.71),
    Perplexity {
        family: "mdlm",
        alpha_0: None,
        exact: None,
        nelbo: 25.19,
    },
    esolm(0.5, 26.61, 27.94),
    esolm(1.0, 29.31, 30.06),
];

const fn esolm(alpha_0: f64, exact: f64, nelbo: f64) -> Perplexity {
    Perplexity {
        family: "esolm",
        alpha_0: Some(alpha_0),
        exact: Some(exact),
        nelbo,
    }
}

/// The paper's line for a family and alpha_0.
pub fn perplexity(family: &str, alpha_0: Option<f64>) -> Option<Perplexity> {
    PERPLEXITIES
        .into_iter()
        .find(|line| line.family == family && line.alpha_0 == alpha_0)
}

/// Seconds to write one text with NFE = L, at L = 2048 and 8192: AR, Eso-LM (B), MDLM.
pub const SECONDS: [(&str, f64, f64); 3] = [
    ("ar", 13.3, 54.0),
    ("esolm", 14.6, 82.1),
    ("mdlm", 201.3, 5438.3),
];
