//! The steps of one text: which rows come next, and what became known of them.

use esolm_core::plan::{Phase, Plan, SetRun, SlotMove};
use esolm_core::reveal::{Group, Rule};
use esolm_core::rows::StepRows;

/// A text's plan under way.
pub(super) struct Steps {
    plan: Plan,
    /// Of a SetDLM's text in which confidence chooses: makes each step of what became known in the one before.
    sets: Option<SetRun>,
    /// The step that is launched next.
    next: usize,
    /// Steps after which the tokens were read.
    read: usize,
    /// Steps that were told, beyond `read` where some are taken again.
    told: usize,
    /// Whether a step is under way whose outcome the next one is made of.
    is_awaited: bool,
}

/// A step that is to be launched.
pub(super) struct Taken {
    pub index: usize,
    pub rows: StepRows,
    /// How many of what it draws become known, where confidence chooses.
    pub groups: Vec<Group>,
    /// What moves in the cache before it.
    pub moves: Vec<SlotMove>,
    pub phase: Phase,
    /// Clean tokens that it leaves in the cache.
    pub cache_length: usize,
}

impl Steps {
    /// The steps of a plan of one text.
    pub fn new(plan: Plan) -> Self {
        Self {
            sets: SetRun::of(&plan).map(|mut runs| runs.remove(0)),
            plan,
            next: 0,
            read: 0,
            told: 0,
            is_awaited: false,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How confidence chooses what becomes known, if it does.
    pub fn rule(&self) -> Option<Rule> {
        self.plan.reveal
    }

    /// Whether what becomes known decides which steps follow.
    pub fn is_led(&self) -> bool {
        self.makes_rows() || self.rule().is_some_and(|rule| rule.threshold.is_some())
    }

    /// Whether a step is made of what became known in the one before, so that none is launched ahead.
    pub fn makes_rows(&self) -> bool {
        self.sets.is_some()
    }

    /// Rows of the next step and how many of them are drawn from, at most; nothing where none is left or the one under way comes first.
    pub fn next_size(&self) -> Option<[usize; 2]> {
        if self.sets.is_some() {
            let (rows, sampled) = self.plan.largest_pass();
            return (!self.is_awaited).then_some([rows, sampled]);
        }
        let step = self.plan.sequences[0].steps.get(self.next)?;
        let rows = self.plan.positions_computed(self.next);
        Some([rows, (step.end - step.start) as usize])
    }

    /// The next step, which counts as launched.
    pub fn take(&mut self) -> Taken {
        let index = self.next;
        self.next += 1;
        let Some(run) = &mut self.sets else {
            let choice = self.plan.choice(index, |_| true);
            return Taken {
                index,
                rows: self.plan.step_rows(index),
                groups: choice.map_or_else(Vec::new, |choice| choice.groups),
                moves: Vec::new(),
                phase: self.plan.phase(index),
                cache_length: self.plan.cache_length(index),
            };
        };
        self.is_awaited = true;
        let (mut rows, mut groups, mut moves) = (StepRows::default(), Vec::new(), Vec::new());
        run.begin(&mut rows, &mut groups, &mut moves);
        Taken {
            index,
            phase: match rows.sampled.is_empty() {
                true => Phase::Prompt,
                false => Phase::Diffusion,
            },
            rows,
            groups,
            moves,
            cache_length: run.clean(),
        }
    }

    /// Whether the plan has no step behind this one, so that its tokens are read whoever watches.
    pub fn is_last(&self, index: usize) -> bool {
        self.sets.is_none() && index + 1 == self.plan.nfe()
    }

    /// Takes the tokens that there are after a step. Tells whether the step is a new one, not one that was taken again.
    pub fn land(&mut self, index: usize, tokens: &[u32]) -> bool {
        let (mask, is_led) = (self.plan.mask_index, self.is_led());
        self.read = index + 1;
        match &mut self.sets {
            Some(run) => {
                self.is_awaited = false;
                let window = run.window().iter();
                let drawn: Vec<u32> = window.map(|&place| tokens[place as usize]).collect();
                run.end(&drawn, mask);
            }
            None if is_led => {
                // Steps of a stretch that is known already would change nothing.
                let sequence = &self.plan.sequences[0];
                let is_known = |place: &u32| tokens[*place as usize] != mask;
                while let Some(step) = sequence.steps.get(self.next) {
                    let mut stretch = sequence.order[step.start as usize..step.end as usize].iter();
                    if step.least.is_none() || !stretch.all(is_known) {
                        break;
                    }
                    self.next += 1;
                }
            }
            None => {}
        }
        let is_new = index >= self.told;
        self.told = self.told.max(self.read);
        is_new
    }

    /// Whether nothing is left to be written after a step that left these tokens.
    pub fn is_over(&self, index: usize, tokens: &[u32]) -> bool {
        match &self.sets {
            Some(run) => run.is_done(),
            None => self.is_last(index) || self.is_led() && !tokens.contains(&self.plan.mask_index),
        }
    }

    /// Goes back to the last step whose tokens were read, with nothing in the cache: the next one computes again what stood there.
    pub fn rewind(&mut self) {
        self.is_awaited = false;
        if let Some(run) = &mut self.sets {
            // What enters the cache again may take more steps than what was left to enter it; those that draw keep their numbers,
            // which key their noise.
            let before = run.steps_before_drawing();
            run.restart();
            let after = run.steps_before_drawing();
            self.next = (self.read + before).saturating_sub(after);
            return;
        }
        self.next = self.read;
        if let Some(step) = self.plan.sequences[0].steps.get_mut(self.next) {
            step.clean = 0;
        }
    }
}
