//! Texts of a SetDLM decoded by confidence: each step is derived from the tokens that the previous one revealed.

use esolm_core::plan::{Plan, SetRun};
use esolm_core::reveal::{Choice, Rule};
use esolm_core::rows::StepRows;

use super::Engine;
use crate::error::EngineError;
use crate::executor::Draw;

/// The texts of a batch.
pub(super) struct Sets {
    rule: Rule,
    mask: u32,
    runs: Vec<SetRun>,
    /// Indices of the texts in the pending step.
    under_way: Vec<usize>,
}

impl Sets {
    /// The texts of a plan that leaves its rows open.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        Some(Self {
            rule: plan.reveal?,
            mask: plan.mask_index,
            runs: SetRun::of(plan)?,
            under_way: Vec::new(),
        })
    }

    /// Whether any text that has not `ended` still has masked positions.
    pub(super) fn goes_on(&self, ended: &[bool]) -> bool {
        let mut texts = self.runs.iter().zip(ended);
        texts.any(|(run, ended)| !ended && !run.is_done())
    }

    /// Launches the next step of the texts that continue, and returns its rows.
    pub(super) fn launch(
        &mut self,
        engine: &mut Engine,
        ids: &[u32],
        ended: &[bool],
        draw: &Draw,
    ) -> Result<StepRows, EngineError> {
        let (mut step, mut groups, mut moves) = (StepRows::default(), Vec::new(), Vec::new());
        self.under_way.clear();
        for (text, (run, ended)) in self.runs.iter_mut().zip(ended).enumerate() {
            if !ended && !run.is_done() {
                run.begin(&mut step, &mut groups, &mut moves);
                self.under_way.push(text);
            }
        }
        engine.move_slots(&moves)?;
        let rule = self.rule;
        engine.reveal(&step, ids, draw, &Choice { rule, groups })?;
        Ok(step)
    }

    /// Clean tokens in the cache after the pending step.
    pub(super) fn cache_length(&self) -> usize {
        self.runs.iter().map(SetRun::clean).sum()
    }

    /// Completes the pending step, whose sampled rows revealed `tokens`. Returns the text, index and token of each
    /// revealed token.
    pub(super) fn end(&mut self, tokens: &[u32]) -> Vec<(usize, u32, u32)> {
        let (mut rest, mut known) = (tokens, Vec::new());
        for &text in &self.under_way {
            let run = &mut self.runs[text];
            let (own, others) = rest.split_at(run.window().len().min(rest.len()));
            rest = others;
            let drawn = run.window().iter().zip(own);
            let drawn = drawn.filter(|&(_, &token)| token != self.mask);
            known.extend(drawn.map(|(&place, &token)| (text, place, token)));
            run.end(own, self.mask);
        }
        known
    }
}
