//! The steps of one text: which rows come next, and which tokens the last ones revealed.

use esolm_core::plan::{Phase, Plan, SetRun, SlotMove};
use esolm_core::reveal::{Group, Rule};
use esolm_core::rows::StepRows;

/// A text's plan and how far it has been carried out.
pub(super) struct Steps {
    plan: Plan,
    /// For a SetDLM's text decoded by confidence: derives each step from what the previous one revealed.
    sets: Option<SetRun>,
    /// The step to launch next.
    next: usize,
    /// Number of steps whose tokens have been read.
    read: usize,
    /// Number of steps reported; exceeds `read` while steps are being repeated.
    told: usize,
    /// Whether the next step depends on one still pending.
    is_awaited: bool,
}

/// A step to launch.
pub(super) struct Taken {
    pub index: usize,
    pub rows: StepRows,
    /// Where confidence chooses, how many of the tokens drawn are revealed.
    pub groups: Vec<Group>,
    /// Cache moves to perform before the step.
    pub moves: Vec<SlotMove>,
    pub phase: Phase,
    /// Clean tokens in the cache after the step.
    pub cache_length: usize,
}

impl Steps {
    /// The steps of a plan for one text.
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

    /// The rule by which confidence chooses, if it does.
    pub fn rule(&self) -> Option<Rule> {
        self.plan.reveal
    }

    /// Whether revealed tokens determine which steps follow.
    pub fn is_led(&self) -> bool {
        self.makes_rows() || self.rule().is_some_and(|rule| rule.threshold.is_some())
    }

    /// Whether each step is derived from what the previous one revealed, so that none can be launched ahead.
    pub fn makes_rows(&self) -> bool {
        self.sets.is_some()
    }

    /// Upper bounds of the rows of the next step and of those sampled; `None` if no step is left, or if the pending one
    /// has to finish first.
    pub fn next_size(&self) -> Option<[usize; 2]> {
        if self.sets.is_some() {
            let (rows, sampled) = self.plan.largest_pass();
            return (!self.is_awaited).then_some([rows, sampled]);
        }
        let step = self.plan.sequences[0].steps.get(self.next)?;
        let rows = self.plan.positions_computed(self.next);
        Some([rows, (step.end - step.start) as usize])
    }

    /// Launches the next step.
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

    /// Whether this is the plan's last step, after which tokens are always read.
    pub fn is_last(&self, index: usize) -> bool {
        self.sets.is_none() && index + 1 == self.plan.nfe()
    }

    /// Processes the tokens after a step. Returns whether the step is new, as opposed to repeated.
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
                // Steps of a stretch that is fully known already would change nothing.
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

    /// Whether the text is finished after a step that left these tokens.
    pub fn is_over(&self, index: usize, tokens: &[u32]) -> bool {
        match &self.sets {
            Some(run) => run.is_done(),
            None => self.is_last(index) || self.is_led() && !tokens.contains(&self.plan.mask_index),
        }
    }

    /// Goes back to the last step whose tokens were read, with an empty cache; the next step recomputes it.
    pub fn rewind(&mut self) {
        self.is_awaited = false;
        if let Some(run) = &mut self.sets {
            // Refilling the cache may take more steps than the original run had left before drawing. Steps that draw
            // keep their numbers, which key their noise.
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
