//! Which form of a kernel runs: chosen from the adapter's kind and a short measurement, or forced.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterKind;
use crate::error::EngineError;
use crate::kernels::attention::AttentionVariant;
use crate::kernels::product::{Finish, Matrix, ProductVariant, product};
use crate::kernels::runtime::{Buffer, Gpu};

/// Forced variants; what is `None` is measured when a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variants {
    /// Product of up to [`FEW_ROWS`] rows.
    pub few: Option<ProductVariant>,
    /// Product of more rows.
    pub many: Option<ProductVariant>,
    /// Attention; `None` chooses by the number of rows of each pass.
    pub attention: Option<AttentionVariant>,
}

/// Rows up to which a product counts as one of few rows.
pub const FEW_ROWS: usize = 16;

const ALLOWED: &str =
    "few=rows|split, many=rows|split|tile and attention=rows|chunks, joined by commas";

impl FromStr for Variants {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let wrong = || EngineError::Option {
            option: "kernel variant",
            value: text.to_string(),
            allowed: ALLOWED,
        };
        let mut variants = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.split_once('=').ok_or_else(wrong)? {
                ("few", "rows") => variants.few = Some(ProductVariant::Rows),
                ("few", "split") => variants.few = Some(ProductVariant::Split),
                ("many", "rows") => variants.many = Some(ProductVariant::Rows),
                ("many", "split") => variants.many = Some(ProductVariant::Split),
                ("many", "tile") => variants.many = Some(ProductVariant::Tile),
                ("attention", "rows") => variants.attention = Some(AttentionVariant::Rows),
                ("attention", "chunks") => variants.attention = Some(AttentionVariant::Chunks),
                _ => return Err(wrong()),
            }
        }
        Ok(variants)
    }
}

/// The variants that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Product of few rows.
    pub few: ProductVariant,
    /// Product of many rows.
    pub many: ProductVariant,
    /// Forced attention, if any.
    pub attention: Option<AttentionVariant>,
    /// Rows of a pass below which attention is dealt out in chunks.
    pub chunk_rows: usize,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "few={:?}, many={:?}, attention={}",
            self.few,
            self.many,
            match self.attention {
                Some(variant) => format!("{variant:?}"),
                None => format!("Chunks below {} rows, else Rows", self.chunk_rows),
            }
        )
    }
}

/// What an adapter of `kind` would run without a measurement.
pub fn expected(kind: AdapterKind) -> Chosen {
    match kind {
        // Workgroup memory and barriers cost a software adapter 6 to 13 times; two cores need little parallelism.
        AdapterKind::Software => Chosen {
            few: ProductVariant::Rows,
            many: ProductVariant::Rows,
            attention: None,
            chunk_rows: 8,
        },
        _ => Chosen {
            few: ProductVariant::Split,
            many: ProductVariant::Tile,
            attention: None,
            chunk_rows: 64,
        },
    }
}

/// Chooses by timing each candidate on `matrix`, a matrix of the model, unless `forced`.
///
/// # Errors
/// When the device fails meanwhile.
pub async fn choose(gpu: &Gpu, matrix: &Matrix, forced: &Variants) -> Result<Chosen, EngineError> {
    let mut chosen = expected(gpu.info.kind);
    chosen.attention = forced.attention;
    if gpu.info.kind == AdapterKind::Software {
        // Compiling the other forms takes seconds there and they were never faster: what is not forced stays.
        chosen.few = forced.few.unwrap_or(chosen.few);
        chosen.many = forced.many.unwrap_or(chosen.many);
        return Ok(chosen);
    }
    chosen.few = match forced.few {
        Some(variant) => variant,
        None => {
            fastest(
                gpu,
                matrix,
                2,
                &[ProductVariant::Rows, ProductVariant::Split],
            )
            .await?
        }
    };
    chosen.many = match forced.many {
        Some(variant) => variant,
        None => {
            fastest(
                gpu,
                matrix,
                64,
                &[ProductVariant::Rows, ProductVariant::Tile],
            )
            .await?
        }
    };
    Ok(chosen)
}

async fn fastest(
    gpu: &Gpu,
    matrix: &Matrix,
    rows: usize,
    candidates: &[ProductVariant],
) -> Result<ProductVariant, EngineError> {
    let x = gpu.floats(vec![0.0; rows * matrix.k])?;
    let out = gpu.room("the measurement", rows * matrix.padded())?;
    let mut best = (f64::MAX, candidates[0]);
    for &variant in candidates {
        // The first run compiles.
        time(gpu, variant, matrix, &x, &out, rows, 1).await?;
        let mut seconds = f64::MAX;
        for _ in 0..3 {
            seconds = seconds.min(time(gpu, variant, matrix, &x, &out, rows, 4).await?);
        }
        if seconds < best.0 {
            best = (seconds, variant);
        }
    }
    Ok(best.1)
}

async fn time(
    gpu: &Gpu,
    variant: ProductVariant,
    matrix: &Matrix,
    x: &Buffer,
    out: &Buffer,
    rows: usize,
    times: usize,
) -> Result<f64, EngineError> {
    let start = web_time::Instant::now();
    for _ in 0..times {
        product(gpu, variant, false, x, 0..rows, matrix, &Finish::Store(out));
    }
    gpu.check(&[out]).await?;
    Ok(start.elapsed().as_secs_f64())
}
