//! Passes over single texts: in a given or random order, or noised by a draw.

use esolm_core::config::{AttentionKind, Family, ModelConfig};
use esolm_core::forward_process::{Level, Noised, NoisedBlocks, Part, Staggered, spread_time};
use esolm_core::passes::{Pass, Window, blocks, diffusion, exact, sequential};
use esolm_core::rows::MaskMode;

use super::{Job, Kind, LikelihoodOptions, scored};

/// A text of an Eso-LM in a given or random order.
pub(super) fn exact_pass(
    window: &Window,
    order: Option<&[u32]>,
    draw: u32,
    options: &LikelihoodOptions,
) -> Pass {
    match order {
        Some(order) => exact(&window.tokens, order, 0),
        None => {
            let order = window.order(options.seed, draw, options.alpha_0);
            let given = window.tokens.len() - window.scored();
            exact(&window.tokens, &order, given)
        }
    }
}

/// A text of a SetDLM in a given order, or in one drawn from its noise.
pub(super) fn set_pass(
    window: &Window,
    order: Option<&[u32]>,
    draw: u32,
    config: &ModelConfig,
    options: &LikelihoodOptions,
) -> Pass {
    let free = scored(config, window);
    match (order, &config.sets) {
        (None, Some(sets)) => {
            let schedule = Staggered::new(sets, config.length);
            let order = window.set_order(options.seed, draw, &schedule, &free);
            exact(&window.tokens, &order, window.tokens.len() - free.len())
        }
        // Tokens that nothing predicts come first in every order.
        (order, _) => exact(&window.tokens, order.unwrap_or_default(), free.start),
    }
}

/// One draw of a BD3-LM's bound. The times of its blocks are stratified like those of as many separate draws.
pub(super) fn blocks_pass(
    window: &Window,
    job: Job,
    config: &ModelConfig,
    shift: f64,
    options: &LikelihoodOptions,
) -> Pass {
    let size = config.block_size.unwrap_or(config.length);
    let count = window.tokens.len().div_ceil(size) as u64;
    let (first, all) = (
        u64::from(job.draw) * count,
        u64::from(options.draws) * count,
    );
    let times: Vec<f64> = (first..first + count)
        .map(|part| spread_time(shift, window.number, part, all))
        .collect();
    let uniforms = window.uniforms(options.seed, job.draw, Part::Diffusion);
    let mut noised = NoisedBlocks::new(size, &times, &uniforms.mask);
    noised.give(scored(config, window).start);
    blocks(&window.tokens, &noised)
}

/// One draw of a part of an Eso-LM's bound, or of an MDLM's bound.
pub(super) fn noised_pass(
    window: &Window,
    job: Job,
    config: &ModelConfig,
    shift: f64,
    options: &LikelihoodOptions,
) -> Pass {
    let (x, mask) = (&window.tokens, config.mask_index);
    let mixed = config.attention == AttentionKind::Mixed;
    let uniforms = |part| window.uniforms(options.seed, job.draw, part);
    if job.kind == Kind::Sequential {
        let uniforms = uniforms(Part::Sequential);
        let noised = Noised::sequential(x, options.alpha_0, &uniforms, mask);
        let mode = if mixed {
            MaskMode::Mixed
        } else {
            MaskMode::Causal
        };
        return sequential(&noised, mode);
    }
    let alpha_0 = match config.family {
        Family::EsoLm => options.alpha_0,
        _ => 1.0,
    };
    let level = Level::at(
        alpha_0,
        spread_time(shift, window.number, job.draw.into(), options.draws.into()),
    );
    let uniforms = uniforms(Part::Diffusion);
    let (noised, mode) = match config.attention {
        AttentionKind::Bidirectional => (
            Noised::mdlm(x, level, &uniforms, mask),
            MaskMode::Bidirectional,
        ),
        AttentionKind::Mixed => (
            Noised::diffusion(x, level, &uniforms, mask),
            MaskMode::Mixed2,
        ),
        // BD3-LMs and SetDLMs have passes of their own.
        AttentionKind::Causal | AttentionKind::Block | AttentionKind::Set => (
            Noised::diffusion(x, level, &uniforms, mask),
            MaskMode::Causal,
        ),
    };
    diffusion(&noised, mode, level.weight)
}
