//! `esolm forward`: one pass over given tokens, for a comparison with another implementation.

use esolm::config::{AttentionKind, ModelConfig};
use esolm::rows::{MaskMode, forward_rows};

use crate::arguments::{Forward, ModeName};
use crate::failure::Failure;
use crate::files::Pending;
use crate::output::note;
use crate::tensors::{Input, Output};
use crate::{setup, tensors};

/// Sequences go through the network together up to so many rows, so that memory does not grow with the batch.
const ROWS_AT_ONCE: usize = 2048;

pub fn run(arguments: &Forward) -> Result<(), Failure> {
    let (checkpoint, _) = setup::open(&arguments.model)?;
    let config = checkpoint.config().clone();
    let sequential = arguments.mode == ModeName::Sequential;
    let mask = match arguments.mask {
        Some(mask) => mask.into(),
        None => own_mask(&config, sequential),
    };
    if sequential && !matches!(mask, MaskMode::Causal | MaskMode::Mixed) {
        return Err(Failure::usage(
            "the sequential mode knows --mask causal and --mask mixed; choose one of them",
        ));
    }
    let input = Input::read(&arguments.input)?;
    let zt_sorted = input.rows("zt_sorted", ["B", "L"])?;
    let sort_idx = input.rows("sort_idx", ["B", "L"])?;
    let x0_sorted = match sequential {
        true => Some(input.rows("x0_sorted", ["B", "L"])?),
        false => None,
    };
    check_length(&config, &sort_idx)?;
    let batch = sort_idx.len();
    for (name, rows) in [
        ("zt_sorted", Some(&zt_sorted)),
        ("x0_sorted", x0_sorted.as_ref()),
    ] {
        if let Some(rows) = rows
            && rows.len() != batch
        {
            return Err(Failure::failed(format!(
                "{name} has {} rows where sort_idx has {batch}; give arrays of the same shape [B, L]",
                rows.len()
            )));
        }
    }
    // The whole input is checked before the model is loaded.
    let passes = passes(&config, mask, &sort_idx, &zt_sorted, x0_sorted.as_deref())?;

    let output = Pending::create(&arguments.output)?;
    let mut engine = setup::load(&checkpoint, &arguments.device, false)?;
    let (length, vocab) = (sort_idx[0].len(), config.vocab_size);
    let mut logits = Vec::with_capacity(batch * length * vocab);
    for (layout, tokens, rows) in passes {
        logits.extend(pollster::block_on(engine.forward(&layout, &tokens, &rows))?);
    }
    let shape = [batch, length, vocab];
    tensors::write(output, vec![Output::f32("logits", &shape, &logits)])?;
    note(&format!("{}: logits {shape:?}", arguments.output.display()));
    Ok(())
}

type Pass = (esolm::rows::Layout, Vec<u32>, esolm::rows::StepRows);

/// The passes over the whole input, some sequences each.
fn passes(
    config: &ModelConfig,
    mask: MaskMode,
    sort_idx: &[Vec<u32>],
    zt_sorted: &[Vec<u32>],
    x0_sorted: Option<&[Vec<u32>]>,
) -> Result<Vec<Pass>, Failure> {
    let length = sort_idx.first().map_or(0, Vec::len).max(1);
    let rows = length * if x0_sorted.is_some() { 2 } else { 1 };
    let share = (ROWS_AT_ONCE / rows).max(1);
    let starts = (0..sort_idx.len().max(1)).step_by(share);
    starts
        .map(|start| {
            let range = start..(start + share).min(sort_idx.len());
            Ok(forward_rows(
                mask,
                x0_sorted.is_some(),
                &sort_idx[range.clone()],
                &zt_sorted[range.clone()],
                x0_sorted.map(|rows| &rows[range]),
                config.mask_index,
                config.vocab_size,
            )?)
        })
        .collect()
}

/// The mask that the published code uses for the model.
fn own_mask(config: &ModelConfig, sequential: bool) -> MaskMode {
    match (config.attention, sequential) {
        (AttentionKind::Causal, _) => MaskMode::Causal,
        (AttentionKind::Bidirectional, _) => MaskMode::Bidirectional,
        (AttentionKind::Mixed, false) => MaskMode::Mixed2,
        (AttentionKind::Mixed, true) => MaskMode::Mixed,
    }
}

/// Sequences must fit the model's context.
pub fn check_length(config: &ModelConfig, sort_idx: &[Vec<u32>]) -> Result<(), Failure> {
    let length = sort_idx.first().map_or(0, Vec::len);
    if length > config.length {
        return Err(Failure::failed(format!(
            "sort_idx has sequences of {length} tokens, but the model's context is {}; give shorter ones",
            config.length
        )));
    }
    Ok(())
}
