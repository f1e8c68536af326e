//! Checks a plan of unknown origin: an executor may run whatever passes.

use super::build::{MAX_LENGTH, MAX_TOKENS};
use super::{Plan, PlanError, SequencePlan};
use crate::config::Family;
use crate::rows::is_permutation;

impl Plan {
    /// Checks sizes, orders and steps.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let invalid = |text: String| Err(PlanError::Invalid(text));
        if !(1..=MAX_LENGTH + 1).contains(&self.length) {
            return invalid(format!("a length of {}", self.length));
        }
        if self.sequences.is_empty() || self.sequences.len() > MAX_TOKENS / self.length {
            return invalid(format!("{} sequences", self.sequences.len()));
        }
        if self.lead && self.family != Family::Ar {
            return invalid("only an AR plan has a prepended element".into());
        }
        for (index, sequence) in self.sequences.iter().enumerate() {
            self.check_sequence(sequence).map_err(|text| PlanError::Invalid(format!("sequence {index}: {text}")))?;
        }
        Ok(())
    }

    fn check_sequence(&self, sequence: &SequencePlan) -> Result<(), String> {
        if sequence.order.len() != self.length || !is_permutation(&sequence.order) {
            return Err(format!("its order is no permutation of 0..{}", self.length));
        }
        if self.family == Family::Ar && !sequence.order.is_sorted() {
            return Err("an AR plan goes left to right".into());
        }
        if sequence.known.len() > self.length || (self.family == Family::Ar && sequence.known.is_empty()) {
            return Err(format!("{} given tokens", sequence.known.len()));
        }
        if sequence.known.contains(&self.mask_index) && !self.lead {
            return Err("a given token is the mask token".into());
        }
        let (mut known, mut fed) = (sequence.known.len() as u32, 0);
        for (number, step) in sequence.steps.iter().enumerate() {
            let draws = step.end > step.start;
            // A step that draws goes on where the last one ended; one that does not only feeds given tokens.
            let follows = if draws { step.start == known } else { step.start == step.end && step.start <= known };
            // What was not fed before has to be fed now, or the cache would have a hole.
            let fills = step.clean <= fed && step.clean <= step.start && step.end as usize <= self.length;
            let reads = self.family != Family::Ar || !draws || (step.clean < step.start && step.end == step.start + 1);
            let something = draws || step.clean < step.start;
            if !(follows && fills && reads && something) {
                return Err(format!("step {number} {step:?} does not follow on {known} known and {fed} cached tokens"));
            }
            known = known.max(step.end);
            fed = fed.max(step.start);
        }
        if known as usize != self.length {
            return Err(format!("its steps end at {known} of {} positions", self.length));
        }
        Ok(())
    }
}
