//! Token embedding: `shaders/embed.wgsl`, or `embed_tied.wgsl` where the output matrix is also the embedding.

use std::ops::Range;

use esolm_core::rows::{MASKED, Row};
use esolm_shaders::{EMBED, EMBED_TIED, Form, Snippet, TABLE_Q8, WEIGHT_F16, WEIGHT_F32};

use super::packed::{self, pack_table};
use super::product::{Matrix, weight_snippet};
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};
use crate::error::EngineError;
use crate::network::fold;
use crate::weights::Weights;

const WG: u32 = 64;

/// The embedding [V, hidden] on the device, in slices of whole tokens that each fit a binding.
pub struct Embedding {
    hidden: usize,
    weights: Weights,
    /// First token, number of tokens and buffer of each slice.
    slices: Vec<(usize, usize, Buffer)>,
}

impl Embedding {
    /// Uploads `table` [V, hidden], keeping its stored groups if they are in the format of `weights`.
    ///
    /// # Errors
    /// If its width is not a multiple of four or a slice does not fit.
    pub fn upload(
        gpu: &Gpu,
        table: &fold::Embedding,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        let sizes = [table.tokens(), table.hidden];
        Self::new(gpu, sizes, weights, |words, tokens| {
            words.extend(pack_table(table, tokens, weights));
            Ok(())
        })
    }

    /// Same as [`Embedding::upload`], but converts some tokens at a time.
    ///
    /// # Errors
    /// As there, and if a value cannot be read or represented.
    pub fn upload_rows(
        gpu: &Gpu,
        table: &fold::EmbeddingRows,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        Self::new(gpu, table.sizes(), weights, |words, tokens| {
            // Queued uploads are held in host memory as well.
            gpu.submit()?;
            for part in fold::parts(tokens) {
                let part = table.part(part)?;
                fold::check_range(part.name, &part.values, weights)?;
                words.extend(pack_table(&part, 0..part.tokens(), weights));
            }
            Ok(())
        })
    }

    /// Builds an embedding `[V, hidden]`; `fill` appends the words of a range of tokens.
    fn new(
        gpu: &Gpu,
        [all, hidden]: [usize; 2],
        weights: Weights,
        fill: impl Fn(&mut Vec<u32>, Range<usize>) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        if !hidden.is_multiple_of(4) {
            return Err(EngineError::Shape(format!(
                "a width of {hidden} (not a multiple of four)"
            )));
        }
        let row_words = packed::row_words(hidden, weights);
        let fit = (gpu.info.max_binding_bytes() / (4 * row_words as u64)).max(1) as usize;
        let mut slices = Vec::new();
        for first in (0..all).step_by(fit) {
            let tokens = first..all.min(first + fit);
            let mut words = Vec::with_capacity(tokens.len() * row_words);
            fill(&mut words, tokens.clone())?;
            slices.push((first, tokens.len(), gpu.words(words)?));
        }
        Ok(Self {
            hidden,
            weights,
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
        let params = vec![d4, self.weights as u32];
        let kernel = gpu.kernel(&EMBED, params, WG, || Form {
            constants: vec![("WG", WG), ("N4", d4)],
            snippets: vec![table_snippet(self.weights)],
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

/// Same as [`Embedding::launch`], from an output matrix [hidden, V] whose columns are the embedding.
pub fn embed_tied(
    gpu: &Gpu,
    head: &Matrix,
    x: &Buffer,
    rows: &Buffer,
    count: usize,
    tokens: &Buffer,
    mask_index: u32,
) {
    let k4 = (head.k / 4) as u32;
    for (first, columns, buffer) in head.slices() {
        let params = vec![k4, columns as u32 / 4, head.weights() as u32];
        let kernel = gpu.kernel(&EMBED_TIED, params, WG, || Form {
            constants: vec![("WG", WG), ("K4", k4), ("N4", columns as u32 / 4)],
            snippets: vec![weight_snippet(head.weights())],
            ..Default::default()
        });
        gpu.launch(
            &kernel,
            &extent(count, head.k),
            &[x, buffer, rows, tokens],
            &[count as u32, first as u32, columns as u32, mask_index],
        );
    }
}

/// The snippet that reads the table.
fn table_snippet(weights: Weights) -> &'static Snippet {
    match weights {
        Weights::F32 => &WEIGHT_F32,
        Weights::F16 => &WEIGHT_F16,
        Weights::Q8 | Weights::Q4 => &TABLE_Q8,
    }
}

/// One invocation per four floats, which it reads and writes.
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
