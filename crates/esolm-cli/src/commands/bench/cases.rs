//! The plans that are timed.

use esolm::config::{AttentionKind, Family, ModelConfig, Prepend, Sets};
use esolm::plan::{
    BlockRules, Joining, Plan, PlanError, PlanOptions, PromptTail, Schedule, SetRules,
};
use esolm::reveal::Counts;

use crate::arguments::Bench;

/// Default numbers of steps T.
const STEPS: [usize; 3] = [16, 64, 1024];
/// Tokens per block of a decoder without a block size of its own, as published.
const DECODER_BLOCK: usize = 32;
/// Tokens that a decoder reveals in a step.
const AT_ONCE: [usize; 3] = [1, 2, 4];

/// A plan to time.
pub struct Case {
    pub name: String,
    pub family: Family,
    attention: AttentionKind,
    schedule: Schedule,
    /// For decoders that write by diffusion.
    block_size: Option<usize>,
    pub steps: usize,
}

impl Case {
    /// The cases for a network.
    pub fn all(config: &ModelConfig, arguments: &Bench) -> Vec<Self> {
        let mut cases = match config.decoder {
            None => published(arguments),
            Some(_) => decoder(config, arguments),
        };
        // In a text of one token, AR has nothing to predict.
        cases.retain(|case| arguments.length > 1 || case.family != Family::Ar);
        cases
    }

    /// Its plan, for the weights of any of the families that share a network.
    ///
    /// # Errors
    /// If the length or the number of texts is not possible.
    pub fn plan(&self, config: &ModelConfig, arguments: &Bench) -> Result<Plan, PlanError> {
        Plan::new(&self.options(config, arguments))
    }

    fn options(&self, config: &ModelConfig, arguments: &Bench) -> PlanOptions {
        let length = arguments.length;
        let options = PlanOptions {
            family: self.family,
            attention: self.attention,
            context: length,
            alpha_0: 1.0,
            length,
            schedule: self.schedule,
            prepend: Prepend::None,
            bos: Some(0),
            ..PlanOptions::new(config, arguments.batch, self.steps, 1)
        };
        if config.decoder.is_some() {
            return PlanOptions {
                block_size: self.block_size,
                // The same number in every step.
                block_rules: self.block_size.map(|_| BlockRules {
                    tail: PromptTail::Shared,
                    counts: Counts::Even,
                }),
                ..options
            };
        }
        let is_set = self.family == Family::SetDlm;
        PlanOptions {
            block_size: (self.family == Family::Bd3Lm).then(|| block_size(length)),
            sets: is_set.then_some(SETS),
            set_rules: is_set.then_some(SetRules {
                window: SETS.largest.min(length),
                context: length,
                joining: Joining::Position,
                sees_right: true,
            }),
            ..options
        }
    }
}

/// For a decoder: blocks with a cache, next to the same steps without one, which is how an MDLM writes; and AR. A
/// decoder that is only AR has no mask.
fn decoder(config: &ModelConfig, arguments: &Bench) -> Vec<Case> {
    let length = arguments.length;
    let size = config.block_size.unwrap_or(DECODER_BLOCK).min(length);
    let mut cases = Vec::new();
    let by_confidence = |name: String, family, attention, steps| Case {
        name,
        family,
        attention,
        schedule: Schedule::Confidence,
        block_size: Some(size),
        steps,
    };
    let at_once = AT_ONCE.into_iter().filter(|&tokens| tokens <= size);
    for tokens in at_once.filter(|_| config.mask().is_some()) {
        let steps = size.div_ceil(tokens);
        let all = steps * length.div_ceil(size);
        let (bidirectional, block) = (AttentionKind::Bidirectional, AttentionKind::Block);
        cases.push(by_confidence(
            format!("MDLM, {tokens} a step"),
            Family::Mdlm,
            bidirectional,
            all,
        ));
        cases.push(by_confidence(
            format!("BD3-LM ({size}), {tokens}"),
            Family::Bd3Lm,
            block,
            steps,
        ));
    }
    cases.push(Case {
        name: "AR".into(),
        family: Family::Ar,
        attention: AttentionKind::Causal,
        schedule: Schedule::LeftToRight,
        block_size: None,
        steps: length,
    });
    cases
}

/// For the networks of models/dit.py, which all families share.
fn published(arguments: &Bench) -> Vec<Case> {
    let any_order = [
        ("MDLM", Family::Mdlm, AttentionKind::Bidirectional),
        ("Eso-LM", Family::EsoLm, AttentionKind::Causal),
        ("Eso-LM (A)", Family::EsoLm, AttentionKind::Mixed),
    ];
    let mut cases = Vec::new();
    let mut add = |name: String, family, attention, schedule, steps| {
        cases.push(Case {
            name,
            family,
            attention,
            schedule,
            block_size: None,
            steps,
        });
    };
    let steps = match arguments.steps.is_empty() {
        true => &STEPS[..],
        false => &arguments.steps,
    };
    for &steps in steps {
        for (name, family, attention) in any_order {
            let name = format!("{name} T={steps}");
            add(name, family, attention, Schedule::Binomial, steps);
        }
    }
    // One token per pass is what the published speed table compares.
    let length = arguments.length;
    for (name, family, attention) in any_order {
        let name = format!("{name} NFE=L");
        add(name, family, attention, Schedule::BlocksShuffled, length);
    }
    let size = block_size(length);
    let name = format!("BD3-LM ({size}) NFE=L");
    let (block, causal) = (AttentionKind::Block, AttentionKind::Causal);
    add(name, Family::Bd3Lm, block, Schedule::FirstHitting, length);
    let window = SETS.largest.min(length);
    let name = format!("SetDLM ({window}) NFE=L");
    let (set, by_confidence) = (AttentionKind::Set, Schedule::Confidence);
    add(name, Family::SetDlm, set, by_confidence, length);
    let binomial = Schedule::Binomial;
    add("AR".into(), Family::Ar, causal, binomial, length);
    cases
}

/// Blocks of 16, as in the published comparison, or the largest smaller size that divides the length.
fn block_size(length: usize) -> usize {
    let divides = |size: &usize| length.is_multiple_of(*size);
    (1..=16).rev().find(divides).unwrap_or(1)
}

/// The sets of a published SetDLM, whose window is as large as its largest set.
const SETS: Sets = Sets {
    desired: 4,
    largest: 8,
    keeps_first: true,
    cache_by_time: false,
    pad: None,
};
