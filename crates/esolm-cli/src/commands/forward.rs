//! `esolm forward`: one pass over given tokens, for a comparison with another implementation.

use esolm::config::{AttentionKind, ModelConfig};
use esolm::rows::MaskMode;

use crate::arguments::{Forward, ModeName};
use crate::failure::Failure;
use crate::files::Pending;
use crate::output::note;
use crate::tensors::{Input, Output};
use crate::{setup, tensors};

pub fn run(arguments: &Forward) -> Result<(), Failure> {
    let files = setup::open_without_tokenizer(&arguments.model, false)?;
    let config = files.config();
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
    let pass = esolm::Forward {
        mode,
        zt_sorted: rows("zt_sorted")?,
        sort_idx: rows("sort_idx")?,
        x0_sorted: sequential.then(|| rows("x0_sorted")).transpose()?,
    };
    pass.check(config)?;
    let shape = [
        pass.sort_idx.len(),
        pass.sort_idx[0].len(),
        config.vocab_size,
    ];
    let output = Pending::create_or_stdout(&arguments.output)?;
    let model = setup::load(files, &arguments.device, false)?;
    let logits = model.blocking().forward(pass)?;
    tensors::write(output, vec![Output::f32("logits", &shape, &logits)])?;
    note(&format!("{}: logits {shape:?}", arguments.output.display()));
    Ok(())
}

/// The mask that the published code uses for the model.
fn own_mask(config: &ModelConfig, sequential: bool) -> Result<MaskMode, Failure> {
    Ok(match (config.attention, sequential) {
        (AttentionKind::Causal, _) => MaskMode::Causal,
        (AttentionKind::Bidirectional, _) => MaskMode::Bidirectional,
        (AttentionKind::Mixed, false) => MaskMode::Mixed2,
        (AttentionKind::Mixed, true) => MaskMode::Mixed,
        (AttentionKind::Block, _) => {
            return Err(Failure::failed(
                "the attention of a BD3-LM goes by blocks, which no mask here has; use --mask causal or bidirectional to run its network in another way",
            ));
        }
    })
}
