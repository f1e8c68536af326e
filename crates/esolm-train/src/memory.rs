//! The host memory that a training needs, checked before it begins.

use std::path::Path;

use esolm::EngineError;
use esolm::config::{Family, ModelConfig};
use esolm::memory::{MemoryUse, ask};

use crate::recipe::Recipe;
use crate::state;

/// Checks that the newest state in `out` can be loaded: its file and, if `on_host`, its tensors.
pub(crate) fn for_state(out: &Path, on_host: bool) -> Result<(), EngineError> {
    let states = state::list(&out.join("state"));
    let newest = states.last().and_then(|(_, path)| path.metadata().ok());
    let size = newest.map_or(0, |file| file.len());
    let copies = if on_host { 2 } else { 1 };
    ask(MemoryUse::Training, size.saturating_mul(copies))
}

/// Checks that there is enough memory for training steps, besides a state that has already been loaded (`resumed`):
/// weights as they are created or read from a checkpoint, as numbers and as the bytes of a file; if `on_host`, also
/// weights, averaged weights, two moments and gradients, and the activations that every layer keeps for its gradient. A
/// GPU holds the latter itself.
pub(crate) fn for_steps(
    parameters: u64,
    recipe: &Recipe,
    config: &ModelConfig,
    on_host: bool,
    resumed: bool,
) -> Result<(), EngineError> {
    // For one row: input, norm, three projections, attention and MLP of a block, and the logits.
    let row = (config.n_blocks * config.hidden * 16 + 2 * config.vocab_size) as u64;
    let sequential = recipe.run.batch - recipe.diffusion_rows();
    // In the sequential loss, masked tokens are added to the clean ones.
    let masked = match config.family {
        Family::EsoLm => 1.0 - recipe.loss.alpha_0,
        Family::SetDlm => 1.0,
        Family::Mdlm | Family::Ar | Family::Bd3Lm => 0.0,
    };
    // A BD3-LM reads its texts twice: clean except for the last block, and noised.
    let twice = match config.block_size {
        Some(size) => recipe.run.batch as f64 * (1.0 - size as f64 / config.length as f64),
        None => 0.0,
    };
    let texts = recipe.run.batch as f64 + twice + sequential as f64 * masked;
    let rows = (texts * config.length as f64) as u64;
    let (copies, rows) = match (on_host, resumed) {
        (false, _) => (2, 0),
        (true, true) => (2, rows),
        (true, false) => (6, rows),
    };
    let activations = rows.saturating_mul(row);
    let values = (parameters.saturating_mul(copies)).saturating_add(activations);
    ask(MemoryUse::Training, values.saturating_mul(4))
}
