//! Checks plans of unknown origin, so that an executor can run any plan that passes.

use serde::Deserialize;

use super::blocks::Follower;
use super::error::PlanError;
use super::sets::SetRules;
use super::types::{MAX_LENGTH, Phase, PlanStep, SequencePlan};
use super::{Plan, PromptTail};
use crate::config::{AttentionKind, Family, NO_MASK};
use crate::order::is_permutation;
use crate::reveal::Rule;
use crate::rows::MAX_TOKENS;

/// Version of the JSON format, in the field `esolm_plan`.
pub(super) const VERSION: u32 = 1;

/// The fields of a plan as read, before any checks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unchecked {
    esolm_plan: u32,
    family: Family,
    #[serde(default)]
    attention: Option<AttentionKind>,
    length: usize,
    #[serde(default)]
    block_size: Option<usize>,
    #[serde(default)]
    window: Option<usize>,
    #[serde(default)]
    prompt_tail: Option<PromptTail>,
    lead: bool,
    mask_index: u32,
    vocab_size: usize,
    #[serde(default)]
    reveal: Option<Rule>,
    #[serde(default)]
    sets: Option<SetRules>,
    sequences: Vec<SequencePlan>,
}

impl TryFrom<Unchecked> for Plan {
    type Error = PlanError;

    fn try_from(read: Unchecked) -> Result<Self, PlanError> {
        if read.esolm_plan != VERSION {
            return Err(PlanError::Invalid(format!(
                "it has version {}, and this program reads version {VERSION}",
                read.esolm_plan
            )));
        }
        let plan = Plan {
            esolm_plan: VERSION,
            family: read.family,
            attention: read.attention,
            length: read.length,
            block_size: read.block_size,
            window: read.window,
            prompt_tail: read.prompt_tail,
            lead: read.lead,
            mask_index: read.mask_index,
            vocab_size: read.vocab_size,
            reveal: read.reveal,
            sets: read.sets,
            sequences: read.sequences,
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Plan {
    /// Checks sizes, tokens, orders and steps: every position is given or drawn exactly once, the rows of every step
    /// are inside the layout, and a row reads only known tokens and attends only to slots that have been computed.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] with the first problem.
    pub fn check(&self) -> Result<(), PlanError> {
        let invalid = |text: String| Err(PlanError::Invalid(text));
        if !(1..=MAX_LENGTH + 1).contains(&self.length) {
            return invalid(format!("it has a length of {}", self.length));
        }
        if self.sequences.is_empty() || self.sequences.len() > MAX_TOKENS / self.length {
            return invalid(format!("it has {} sequences", self.sequences.len()));
        }
        let has_none = self.family == Family::Ar && self.mask_index == NO_MASK;
        if self.mask_index as usize >= self.vocab_size && !has_none {
            return invalid(format!(
                "its mask token {} lies beyond its vocabulary of {}",
                self.mask_index, self.vocab_size
            ));
        }
        if self.lead && self.family != Family::Ar {
            return invalid("only an AR plan has a prepended token".into());
        }
        if let Some(rule) = self.reveal {
            if !matches!(self.family, Family::Mdlm | Family::Bd3Lm | Family::SetDlm) {
                let family = self.family.one();
                return invalid(format!("confidence cannot choose the order of {family}"));
            }
            if !rule.is_sound() {
                return invalid(format!("its rule has the threshold {:?}", rule.threshold));
            }
        }
        self.check_sets().map_err(PlanError::Invalid)?;
        match (self.family, self.attention) {
            (_, None) | (Family::EsoLm, Some(AttentionKind::Mixed)) => {}
            (family, Some(attention)) => {
                return invalid(format!(
                    "it has {attention} attention, and of a plan for {} that is not said",
                    family.one()
                ));
            }
        }
        self.check_blocks().map_err(PlanError::Invalid)?;
        for (index, sequence) in self.sequences.iter().enumerate() {
            self.check_sequence(sequence)
                .map_err(|text| PlanError::Invalid(format!("sequence {index}: {text}")))?;
        }
        Ok(())
    }

    /// Checks that the text and the window are whole numbers of blocks.
    fn check_blocks(&self) -> Result<(), String> {
        let length = self.length;
        if self.prompt_tail.is_some() && (self.family != Family::Bd3Lm || self.window.is_some()) {
            return Err("only a BD3-LM's plan without a window has a prompt_tail".into());
        }
        match (self.family, self.block_size) {
            // The last block may be shorter, and may be the only one.
            (Family::Bd3Lm, Some(size)) if self.prompt_tail.is_some() => {
                match (1..=MAX_LENGTH).contains(&size) {
                    true => Ok(()),
                    false => Err(format!("it has blocks of {size}")),
                }
            }
            (Family::Bd3Lm, Some(size)) => {
                if size == 0 || !length.is_multiple_of(size) {
                    return Err(format!(
                        "blocks of {size} do not divide its length of {length}"
                    ));
                }
                match self.window {
                    Some(window)
                        if window == 0 || window >= length || !window.is_multiple_of(size) =>
                    {
                        Err(format!(
                            "it has a window of {window}, which must be a whole number of blocks and less than its length of {length}"
                        ))
                    }
                    _ => Ok(()),
                }
            }
            (Family::Bd3Lm, None) => Err("a BD3-LM's plan has a block_size".into()),
            (Family::SetDlm, None) => Ok(()),
            (_, None) if self.window.is_none() => Ok(()),
            _ => Err("only a BD3-LM's plan has blocks and a window".into()),
        }
    }

    /// Checks that rules for sets are present exactly in plans of a SetDLM with confidence.
    fn check_sets(&self) -> Result<(), String> {
        let length = self.length;
        if (self.family == Family::SetDlm && self.reveal.is_some()) != self.sets.is_some() {
            return Err(
                "the plan of a SetDLM that writes by confidence has sets, and no other".into(),
            );
        }
        if let Some(rules) = &self.sets
            && !rules.fit(length)
        {
            return Err(format!(
                "a window of {} places does not fit a context of {} and a text of {length} tokens",
                rules.window, rules.context
            ));
        }
        let beyond = self.sets.map(|rules| rules.context).filter(|&c| c < length);
        match self.family == Family::SetDlm && self.window != beyond {
            true => Err(format!(
                "it has {:?} slots, and its text {beyond:?}",
                self.window
            )),
            false => Ok(()),
        }
    }

    fn check_sequence(&self, sequence: &SequencePlan) -> Result<(), String> {
        if sequence.order.len() != self.length || !is_permutation(&sequence.order) {
            return Err(format!(
                "its order is not a permutation of the {} positions",
                self.length
            ));
        }
        if self.family == Family::Ar && !sequence.order.is_sorted() {
            return Err("an AR plan goes left to right".into());
        }
        let least = usize::from(self.family == Family::Ar);
        if !(least..=self.length).contains(&sequence.known.len()) {
            return Err(format!("it has {} given tokens", sequence.known.len()));
        }
        for (place, &token) in sequence.known.iter().enumerate() {
            let prepended = self.lead && place == 0;
            if token as usize >= self.vocab_size || (token == self.mask_index && !prepended) {
                return Err(format!("the given token {token} is none of the model's"));
            }
        }
        let is_prefix = sequence.order[..sequence.known.len()].is_sorted()
            && (sequence.order[..sequence.known.len()].last())
                .is_none_or(|&last| last as usize + 1 == sequence.known.len());
        if self.prompt_tail.is_some_and(PromptTail::needs_prefix) && !is_prefix {
            return Err("its blocks go by a prompt, and what is given is none".into());
        }
        let (mut known, mut fed) = (sequence.known.len() as u32, 0);
        let mut last = Phase::Prompt;
        let mut blocks = match self.family {
            Family::Bd3Lm => Some(Follower::new(
                self.blocks(sequence),
                &sequence.order,
                sequence.known.len(),
            )),
            _ => None,
        };
        // The stretch among which confidence chooses, and how many of its entries are not yet certain to be known.
        let mut stretch: Option<(PlanStep, u32)> = None;
        for (number, step) in sequence.steps.iter().enumerate() {
            let left = self
                .stretch_left(step, stretch)
                .map_err(|why| format!("step {number} {why}"))?;
            let is_last = left == 0;
            let follows = match &mut blocks {
                // Which blocks are known is more precise than how many entries are.
                Some(blocks) => {
                    let is_next = match step.phase {
                        Phase::Prompt => step.start == step.end && step.end as usize <= self.length,
                        _ => step.start == known && step.start < step.end,
                    };
                    is_next && step.end as usize <= self.length && blocks.follows(step, is_last)
                }
                None => self.step_follows(step, last, known, fed),
            };
            if !follows {
                return Err(format!(
                    "step {number}, {} from {} over {} to {}, does not follow on {known} known and {fed} cached entries",
                    step.phase, step.clean, step.start, step.end
                ));
            }
            if is_last && (blocks.is_none() || step.phase != Phase::Prompt) {
                known = known.max(step.end);
            }
            stretch = (!is_last).then_some((*step, left));
            fed = step.start;
            last = step.phase;
        }
        if known as usize != self.length {
            return Err(format!(
                "its steps end at {known} of {} entries",
                self.length
            ));
        }
        Ok(())
    }

    /// How many entries of a step may still be masked after it, given the current stretch `open`; 0 for a step that
    /// draws all of them.
    fn stretch_left(&self, step: &PlanStep, open: Option<(PlanStep, u32)>) -> Result<u32, String> {
        if let Some((first, _)) = open
            && (step.least.is_none() || (step.start, step.end) != (first.start, first.end))
        {
            return Err(format!(
                "leaves the entries {} to {}, of which some may still be masked",
                first.start, first.end
            ));
        }
        let Some(least) = step.least else {
            return Ok(0);
        };
        if self.reveal.is_none() {
            return Err("lets confidence choose, and the plan has no rule for it".into());
        }
        if least == 0 || step.phase != Phase::Diffusion {
            return Err(format!(
                "lets confidence choose {least} tokens at least in the phase {}",
                step.phase
            ));
        }
        let left = open.map_or(step.end.saturating_sub(step.start), |(_, left)| left);
        Ok(left.saturating_sub(least))
    }

    /// Whether a step can run when `known` entries are known, `fed` of which have been computed as known ones.
    fn step_follows(&self, step: &PlanStep, last: Phase, known: u32, fed: u32) -> bool {
        // Everything not computed before is computed now; otherwise the cache would have a hole.
        let dense = step.clean <= fed && step.end as usize <= self.length;
        let drawn = match step.phase {
            Phase::Prompt => {
                last == Phase::Prompt
                    && step.start == step.end
                    && fed < step.start
                    && step.start <= known
            }
            Phase::Diffusion => {
                last != Phase::Sequential && step.start == known && step.start < step.end
            }
            Phase::Sequential => step.start == known && step.end.checked_sub(1) == Some(step.start),
        };
        let family = match self.family {
            // Before the sequential phase, every row sees the latest tokens.
            Family::EsoLm if self.attention.is_some() => match step.phase {
                Phase::Prompt => false,
                Phase::Diffusion => step.clean == 0,
                Phase::Sequential => step.clean == 0 || last == Phase::Sequential,
            },
            Family::EsoLm | Family::SetDlm => true,
            Family::Mdlm => step.phase == Phase::Diffusion && step.clean == 0,
            Family::Ar => step.phase != Phase::Diffusion && step.clean < step.start,
            // Followed block by block.
            Family::Bd3Lm => false,
        };
        dense && drawn && family
    }
}
