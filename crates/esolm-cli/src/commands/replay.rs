//! `esolm replay`: repeats a recorded generation with its random numbers.

use esolm::config::{AttentionKind, Family};
use esolm::plan::Plan;
use esolm::rows::RowsError;
use esolm_checkpoint::message::count;

use crate::arguments::Replay;
use crate::failure::Failure;
use crate::files::{Pending, check_apart};
use crate::output::note;
use crate::tensors::{Input, Output};
use crate::{setup, tensors};

pub fn run(arguments: &Replay) -> Result<(), Failure> {
    check_apart([arguments.input.as_path()], &arguments.output)?;
    let files = setup::open_without_tokenizer(&arguments.model, false)?;
    let config = files.config();
    if config.family != Family::EsoLm {
        return Err(Failure::failed(format!(
            "the model is of the family {}, but only generations of an Eso-LM can be replayed; `esolm forward` compares its logits",
            config.family
        )));
    }
    setup::check_block_size(&arguments.model, config)?;
    let input = Input::read(&arguments.input)?;
    let sort_idx = input.rows("sort_idx", ["B", "L"])?;
    let (length, context) = (sort_idx.first().map_or(0, Vec::len), config.length);
    if length > context {
        let name = "sort_idx";
        let error = RowsError::Context {
            name,
            length,
            context,
        };
        return Err(error.into());
    }
    let steps = steps(&input.rows("steps", ["N", "3"])?)?;
    let shape = [sort_idx.len(), length, config.vocab_size];
    let uniforms = input.f64("u", shape)?;
    if let Some(index) = uniforms.iter().position(|u| !(*u > 0.0 && *u < 1.0)) {
        return Err(Failure::failed(format!(
            "u holds {} at flat index {index}; uniforms lie between 0 and 1, both excluded",
            uniforms[index]
        )));
    }
    let recorded = match config.attention {
        AttentionKind::Mixed => Plan::from_recorded_mixed,
        _ => Plan::from_recorded,
    };
    let plan = recorded(&sort_idx, &steps, config.mask_index, config.vocab_size)?;

    let output = Pending::create_or_stdout(&arguments.output)?;
    let passes = plan.nfe();
    let model = setup::load(files, &arguments.device, false)?;
    let replay = (model.blocking()).replay(plan, uniforms, arguments.filters.sampler())?;
    let flat = |rows: &[Vec<u32>]| {
        rows.concat()
            .into_iter()
            .map(|token| token as i32)
            .collect::<Vec<_>>()
    };
    let (tokens_sorted, sample) = (flat(&replay.tokens_sorted), flat(&replay.sample));
    tensors::write(
        output,
        vec![
            Output::f32("logits", &shape, &replay.logits),
            Output::i32("tokens_sorted", &shape[..2], &tokens_sorted),
            Output::i32("sample", &shape[..2], &sample),
        ],
    )?;
    note(&format!(
        "{}: logits {shape:?}, tokens_sorted and sample {:?}, {}",
        arguments.output.display(),
        &shape[..2],
        count(passes, "step")
    ));
    Ok(())
}

fn steps(rows: &[Vec<u32>]) -> Result<Vec<[u32; 3]>, Failure> {
    rows.iter()
        .map(|row| <[u32; 3]>::try_from(row.as_slice()))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            Failure::failed(
                "steps must be int32 [N, 3]: last start, current start and current end of each step",
            )
        })
}
