//! `esolm forward`: one pass over given tokens, for comparison with another implementation.

use esolm::config::{AttentionKind, ModelConfig};
use esolm::rows::MaskMode;

use crate::arguments::{Forward, ModeName};
use crate::failure::Failure;
use crate::files::{Pending, check_apart};
use crate::output::note;
use crate::tensors::{Input, Output};
use crate::{setup, tensors};

pub fn run(arguments: &Forward) -> Result<(), Failure> {
    check_apart([arguments.input.as_path()], &arguments.output)?;
    let files = setup::open_without_tokenizer(&arguments.model, false)?;
    let config = files.config();
    let (pass, [texts, length]) = pass(arguments, config)?;
    pass.check(config)?;
    let shape = [texts, length, config.vocab_size];
    let output = Pending::create_or_stdout(&arguments.output)?;
    let model = setup::load(files, &arguments.device, false)?;
    let logits = model.blocking().forward(pass)?;
    tensors::write(output, vec![Output::f32("logits", &shape, &logits)])?;
    note(&format!("{}: logits {shape:?}", arguments.output.display()));
    Ok(())
}

/// The requested pass, and the shape of its arrays.
fn pass(
    arguments: &Forward,
    config: &ModelConfig,
) -> Result<(esolm::Forward, [usize; 2]), Failure> {
    if arguments.mode == ModeName::Block {
        if arguments.mask.is_some() {
            return Err(Failure::usage(
                "--mode block has a mask of its own; leave out --mask",
            ));
        }
        if config.block_size.is_none() && arguments.model.block_size.is_none() {
            return Err(Failure::usage(format!(
                "--mode block needs a block size, which {} does not name; give one with --block-size",
                config.family.one()
            )));
        }
        let input = Input::read(&arguments.input)?;
        let rows = |name| input.rows(name, ["B", "L"]);
        let (xt, x0) = (rows("xt")?, rows("x0")?);
        let shape = shape(&xt);
        let block_size = arguments.model.block_size;
        return Ok((esolm::Forward::Blocks { block_size, xt, x0 }, shape));
    }
    let is_of_model = config.decoder.is_some() && config.block_size.is_some();
    if arguments.model.block_size.is_some() && !is_of_model {
        return Err(Failure::usage(
            "--block-size goes with --mode block; give both or neither",
        ));
    }
    if arguments.mode == ModeName::Set {
        if arguments.mask.is_some() {
            return Err(Failure::usage(
                "--mode set has a mask of its own; leave out --mask",
            ));
        }
        let input = Input::read(&arguments.input)?;
        let rows = |name| input.rows(name, ["B", "L"]);
        let (sort_idx, x0_sorted) = (rows("sort_idx")?, rows("x0_sorted")?);
        let shape = shape(&sort_idx);
        return Ok((
            esolm::Forward::Sets {
                sort_idx,
                x0_sorted,
            },
            shape,
        ));
    }
    let sequential = arguments.mode == ModeName::Sequential;
    let mode = match arguments.mask {
        Some(mask) => mask.into(),
        None => own_mask(config, sequential)?,
    };
    if sequential && !matches!(mode, MaskMode::Causal | MaskMode::Mixed) {
        return Err(Failure::usage(
            "--mode sequential goes with --mask causal or --mask mixed; choose one of them",
        ));
    }
    let input = Input::read(&arguments.input)?;
    let rows = |name| input.rows(name, ["B", "L"]);
    let zt_sorted = rows("zt_sorted")?;
    let sort_idx = rows("sort_idx")?;
    let x0_sorted = sequential.then(|| rows("x0_sorted")).transpose()?;
    let shape = shape(&sort_idx);
    let pass = esolm::Forward::Sorted {
        mode,
        sort_idx,
        zt_sorted,
        x0_sorted,
    };
    Ok((pass, shape))
}

fn shape(rows: &[Vec<u32>]) -> [usize; 2] {
    [rows.len(), rows.first().map_or(0, Vec::len)]
}

/// The model's mask, as the published code numbers it.
fn own_mask(config: &ModelConfig, sequential: bool) -> Result<MaskMode, Failure> {
    Ok(match (config.attention, sequential) {
        (AttentionKind::Causal, _) => MaskMode::Causal,
        (AttentionKind::Bidirectional, _) => MaskMode::Bidirectional,
        (AttentionKind::Mixed, false) => MaskMode::Mixed2,
        (AttentionKind::Mixed, true) => MaskMode::Mixed,
        (AttentionKind::Block, _) => {
            return Err(Failure::usage(
                "the attention of a BD3-LM goes by blocks; use --mode block, or --mask causal or bidirectional to run its network in another way",
            ));
        }
        (AttentionKind::Set, _) => {
            return Err(Failure::usage(
                "the masked tokens of a SetDLM see clean ones alone; use --mode set, or --mask causal or bidirectional to run its network in another way",
            ));
        }
    })
}
