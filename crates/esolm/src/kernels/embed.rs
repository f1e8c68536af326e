//! Token embedding: `shaders/embed.wgsl`.

use esolm_core::rows::{MASKED, Row};
use esolm_shaders::{EMBED, Form};

use super::Precision;
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};
use super::{pack_f16, weight_snippet};
use crate::error::EngineError;

const WG: u32 = 64;

/// The embedding [V, hidden] on the device, in slices of whole tokens that fit a binding.
pub struct Embedding {
    hidden: usize,
    precision: Precision,
    /// First token, tokens and rows of each slice.
    slices: Vec<(usize, usize, Buffer)>,
}

impl Embedding {
    /// Uploads `table` [V, hidden].
    ///
    /// # Errors
    /// When `hidden` is not a multiple of four or a slice does not fit.
    pub fn upload(
        gpu: &Gpu,
        table: &[f32],
        hidden: usize,
        precision: Precision,
    ) -> Result<Self, EngineError> {
        if !hidden.is_multiple_of(4) {
            return Err(EngineError::Shape(format!(
                "a width of {hidden} (not a multiple of four)"
            )));
        }
        let fit = gpu.info.max_binding_bytes() / (hidden as u64 * precision.bytes());
        let fit = fit.max(1) as usize;
        let mut slices = Vec::new();
        for (i, part) in table.chunks(fit * hidden).enumerate() {
            let buffer = match precision {
                Precision::F32 => gpu.floats(part.to_vec())?,
                Precision::F16 => gpu.words(pack_f16(part))?,
            };
            slices.push((i * fit, part.len() / hidden, buffer));
        }
        Ok(Self {
            hidden,
            precision,
            slices,
        })
    }

    /// The buffers, to check that they were allocated.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.slices.iter().map(|(_, _, buffer)| buffer)
    }

    /// Writes x [rows, hidden] from the row table and the token buffer.
    pub fn launch(
        &self,
        gpu: &Gpu,
        x: &Buffer,
        rows: &Buffer,
        count: usize,
        tokens: &Buffer,
        mask_index: u32,
    ) {
        let d4 = (self.hidden / 4) as u32;
        let params = vec![d4, self.precision as u32];
        let kernel = gpu.kernel(&EMBED, params, WG, || Form {
            constants: vec![("WG", WG), ("D4", d4)],
            snippets: vec![weight_snippet(self.precision)],
            ..Default::default()
        });
        for (first, tokens_here, buffer) in &self.slices {
            gpu.launch(
                &kernel,
                &extent(count, self.hidden),
                &[x, buffer, rows, tokens],
                &[count as u32, *first as u32, *tokens_here as u32, mask_index],
            );
        }
    }
}

/// An invocation for each four floats, which it reads and writes.
pub(super) fn extent(rows: usize, hidden: usize) -> Extent {
    let each = 4 * 8 * BYTE * u64::from(WG);
    Extent::line((rows * hidden / 4).div_ceil(WG as usize), each)
}

/// The twin: x [rows, hidden].
pub fn embed_twin(
    table: &[f32],
    hidden: usize,
    rows: &[Row],
    tokens: &[u32],
    mask_index: u32,
) -> Vec<f32> {
    let token = |row: &Row| if row.source == MASKED { mask_index } else { tokens[row.source as usize] } as usize;
    rows.iter()
        .flat_map(|row| {
            table[token(row) * hidden..(token(row) + 1) * hidden]
                .iter()
                .copied()
        })
        .collect()
}
