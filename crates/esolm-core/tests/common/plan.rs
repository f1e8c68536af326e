//! Options of a small Eso-LM, to vary.

use esolm_core::config::{AttentionKind, Family, Prepend};
use esolm_core::plan::{PlanOptions, Schedule};
use esolm_core::reveal::Rule;

pub const MASK: u32 = 96;
pub const V: usize = 97;
pub const BOS: u32 = 95;

pub fn options() -> PlanOptions {
    PlanOptions {
        family: Family::EsoLm,
        attention: AttentionKind::Causal,
        length: 32,
        alpha_0: 0.5,
        steps: 8,
        schedule: Schedule::Binomial,
        sar_steps: 1,
        reveal: Rule::default(),
        seed: 1,
        first_sequence: 0,
        known: vec![vec![]],
        prepend: Prepend::None,
        bos: Some(BOS),
        mask_index: MASK,
        vocab_size: V,
        block_size: None,
        block_rules: None,
        context: 32,
        sets: None,
        set_rules: None,
    }
}
