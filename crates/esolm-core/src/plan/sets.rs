//! How a SetDLM writes where confidence chooses (`predict_and_noise` of kuleshov-group/setdlms): a step draws a token for every masked place
//! of a window, which begins at the first masked place of the text, and the most confident of them become known. Those enter the cache in
//! the next step, beside the masks of the next window.
//!
//! So the rows of a step depend on what confidence chose in the steps before it, and a [`Plan`] only says what each step takes at least; a
//! [`SetRun`] follows a text and makes the rows. Clean tokens have the first slots of the cache in the order in which they came, and each
//! attends to those before it; a masked row attends to all of them and to itself.

use serde::{Deserialize, Serialize};

use super::error::PlanError;
use super::schedule::set_order;
use super::types::{MAX_PROMPT_ROWS, PlanOptions, Schedule};
use super::{Plan, SequencePlan};
use crate::order;
use crate::reveal::Group;
use crate::rows::{MASKED, NO_TARGET, Row, StepRows, own_slot};

/// In which order tokens that became known enter the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Joining {
    /// Those of a step from left to right.
    #[default]
    Position,
    /// Those of a step as they stand in the order of the plan, which the noise draws.
    Time,
    /// As they stand in the order of the plan, and none before all that stand before it. The window goes along the order too: so the text is
    /// read as in training.
    Order,
}

/// What a plan says of a SetDLM that writes by confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRules {
    /// Most masked places that a step draws at: those that lie fewer than so many places right of the first masked one; with
    /// [`Joining::Order`] the first so many of the order.
    pub window: usize,
    /// Most clean tokens and masks that see each other, the context of the model. Beyond it the oldest clean ones leave the cache.
    pub context: usize,
    /// In which order tokens enter the cache.
    #[serde(default)]
    pub joining: Joining,
    /// Whether given tokens right of the first gap are seen from the beginning; else each is once a token right of it was drawn.
    pub sees_right: bool,
}

impl SetRules {
    /// Most given tokens that enter the cache in one step.
    fn portion(&self) -> usize {
        MAX_PROMPT_ROWS.min(self.context / 2).max(1)
    }

    /// Most rows of a step: what enters the cache, and a window.
    pub(super) fn most_rows(&self) -> usize {
        self.portion().max(self.window).saturating_add(self.window)
    }

    /// Whether a text of `length` tokens can be written so.
    pub(super) fn fit(&self, length: usize) -> bool {
        let most = match length > self.context {
            // A whole window may become known at once, and is fed beside the next one.
            true => self.context.saturating_sub(1) / 2,
            false => length,
        };
        (1..=most).contains(&self.window)
    }
}

/// Checks what only a SetDLM has, and it must.
pub(super) fn check(options: &PlanOptions) -> Result<(), PlanError> {
    let (schedule, length, context) = (options.schedule, options.length, options.context);
    let range = |name, value: String, range: String| Err(PlanError::Range { name, value, range });
    if options.sets.is_none() {
        return range("set_size", "missing".into(), "given for a SetDLM".into());
    }
    match (schedule, &options.set_rules) {
        (Schedule::FirstHitting | Schedule::LeftToRight, _) if length > context => range(
            "length",
            length.to_string(),
            format!("at most the context of {context} tokens with the schedule {schedule}"),
        ),
        (Schedule::FirstHitting | Schedule::LeftToRight, _) => Ok(()),
        (Schedule::Confidence, None) => range("window", "missing".into(), "given".into()),
        (Schedule::Confidence, Some(rules))
            if rules.joining == Joining::Order && length > context =>
        {
            range(
                "length",
                length.to_string(),
                format!("at most the context of {context} tokens where an order is followed"),
            )
        }
        (Schedule::Confidence, Some(rules)) if !rules.fit(length) => {
            let most = match length > context {
                // A whole window may become known at once, and is fed beside the next one.
                true => format!(
                    "{}, less than half the context",
                    context.saturating_sub(1) / 2
                ),
                false => length.to_string(),
            };
            range(
                "window",
                rules.window.to_string(),
                format!("from 1 to {most}"),
            )
        }
        (Schedule::Confidence, Some(_)) => Ok(()),
        _ => Err(PlanError::Schedule {
            schedule,
            why: "takes places from all over the text at once, and a SetDLM knows only neighbouring ones; use confidence, first-hitting or left-to-right",
        }),
    }
}

/// Puts the places that are not given, which ascend, in the order in which their tokens join.
pub(super) fn arrange(options: &PlanOptions, sequence: u32, free: &mut [u32]) {
    let joining = options.set_rules.map(|rules| rules.joining);
    if matches!(joining, Some(Joining::Time | Joining::Order)) {
        let drawn = set_order(options, sequence, free);
        free.copy_from_slice(&drawn);
    }
}

/// A text of a SetDLM on its way.
#[derive(Clone, Debug)]
pub struct SetRun {
    rules: SetRules,
    /// Index of the text within the batch.
    index: u32,
    /// First place of its part of the token buffer.
    first: u32,
    /// What each step takes at least.
    counts: Vec<u32>,
    /// Steps that drew.
    drew: usize,
    /// Places in the order of the plan, the given ones first.
    order: Vec<u32>,
    /// Of each place its rank in the order.
    rank: Vec<u32>,
    is_known: Vec<bool>,
    is_cached: Vec<bool>,
    /// The place of the clean token in each slot, with the number of the step in which it came.
    slots: Vec<(u32, u32)>,
    /// Clean tokens that enter the cache next, in order.
    joining: Vec<u32>,
    /// Masked places of the step under way, in the order of their rows.
    drawing: Vec<u32>,
    /// Clean tokens of the step under way, the first ones of `joining`.
    entering: usize,
    /// A token that counts as missing where tokens join in order: so the published code takes its padding token, which may be drawn.
    unseen: Option<u32>,
    /// Whether every step computes all clean rows again.
    is_uncached: bool,
}

/// A slot of a text whose content goes to another one, which is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// Index of the text within the batch.
    pub sequence: u32,
    /// Where it stands.
    pub from: u32,
    /// Where it goes.
    pub to: u32,
}

impl SetRun {
    /// The texts of a plan before the first step; none where the plan says itself which rows run.
    pub fn of(plan: &Plan) -> Option<Vec<Self>> {
        let rules = plan.sets?;
        let run = |(index, sequence): (u32, &SequencePlan)| {
            let known = sequence.known.len();
            let mut is_known = vec![false; plan.length];
            for &place in &sequence.order[..known] {
                is_known[place as usize] = true;
            }
            let gap = is_known.iter().position(|known| !known);
            let gap = gap.unwrap_or(plan.length) as u32;
            let given = sequence.order[..known].iter().copied();
            Self {
                rules,
                index,
                first: index * plan.length as u32,
                counts: sequence
                    .steps
                    .iter()
                    .filter_map(|step| step.least)
                    .collect(),
                drew: 0,
                rank: order::inverse(&sequence.order),
                order: sequence.order.clone(),
                is_cached: vec![false; plan.length],
                slots: Vec::new(),
                joining: given.filter(|&p| rules.sees_right || p < gap).collect(),
                is_known,
                drawing: Vec::new(),
                entering: 0,
                unseen: None,
                is_uncached: false,
            }
        };
        Some((0..).zip(&plan.sequences).map(run).collect())
    }

    /// The run with a token that counts as missing where tokens join in order, as the published code has its padding token.
    #[must_use]
    pub fn without(mut self, token: Option<u32>) -> Self {
        self.unseen = token;
        self
    }

    /// The run without a cache: every step computes all clean rows again. What a run with one is checked against.
    #[must_use]
    pub fn uncached(mut self) -> Self {
        self.is_uncached = true;
        self
    }

    /// Whether every token is known.
    pub fn is_done(&self) -> bool {
        self.is_known.iter().all(|&known| known)
    }

    /// Whether it has taken all steps that its plan counts. Where windows had too few places, tokens may be left, for which further steps
    /// follow.
    pub fn is_counted_out(&self) -> bool {
        self.drew >= self.counts.len()
    }

    /// Clean tokens in the cache before the step under way.
    pub fn cached(&self) -> usize {
        self.slots.len()
    }

    /// Clean tokens in the cache after the step under way.
    pub fn clean(&self) -> usize {
        self.slots.len() + self.entering
    }

    /// Steps that bring tokens into the cache and draw nothing, before the next one that draws.
    pub fn steps_before_drawing(&self) -> usize {
        let portion = self.rules.portion();
        self.joining.len().saturating_sub(portion).div_ceil(portion)
    }

    /// Forgets the step under way and empties the cache, as when the device that held it is gone: what stood there enters it again in the
    /// same order. Of a text that is longer than the context the order in which slots become free is lost.
    pub fn restart(&mut self) {
        self.entering = 0;
        self.drawing.clear();
        let cached: Vec<u32> = self.slots.drain(..).map(|(place, _)| place).collect();
        for &place in &cached {
            self.is_cached[place as usize] = false;
        }
        self.joining.splice(..0, cached);
    }

    /// Masked places of the step under way, in the order of their rows.
    pub fn window(&self) -> &[u32] {
        &self.drawing
    }

    /// Adds the rows of the next step to `out`, which has those of the texts before it, and how many of them become known to `groups`. First
    /// `moves` of slots are to be made, in their order.
    pub fn begin(
        &mut self,
        out: &mut StepRows,
        groups: &mut Vec<Group>,
        moves: &mut Vec<SlotMove>,
    ) {
        let portion = self.rules.portion();
        self.entering = self.joining.len();
        self.drawing = match self.entering > portion {
            true => Vec::new(),
            false => self.next_window(),
        };
        self.entering = self.entering.min(portion);
        self.make_room(moves);
        let cached = self.slots.len() as u32;
        let mut push = |slot: u32, place: u32, prefix: u32, source: u32, target: u32| {
            out.rows.push(Row {
                sequence: self.index,
                slot,
                position: place,
                prefix,
                own: own_slot(slot, prefix),
                source,
                target,
            });
        };
        let again = match self.is_uncached {
            true => &self.slots[..],
            false => &[],
        };
        let entering = &self.joining[..self.entering];
        for (slot, &(place, _)) in (0..).zip(again) {
            push(slot, place, slot + 1, self.first + place, NO_TARGET);
        }
        for (slot, &place) in (cached..).zip(entering) {
            push(slot, place, slot + 1, self.first + place, NO_TARGET);
        }
        let clean = cached + self.entering as u32;
        for (slot, &place) in (clean..).zip(&self.drawing) {
            push(slot, place, clean, MASKED, self.first + place);
        }
        if self.drawing.is_empty() {
            return;
        }
        let rows = out.rows.len() - self.drawing.len()..out.rows.len();
        let first = out.sampled.len() as u32;
        out.sampled.extend(rows.map(|row| row as u32));
        // Where windows had too few places, further steps take as many as the largest did.
        let most = self.counts.iter().copied().max().unwrap_or(1);
        groups.push(Group {
            first,
            rows: self.drawing.len() as u32,
            least: self.counts.get(self.drew).copied().unwrap_or(most),
        });
    }

    /// Ends the step under way, in which the places of its window drew `tokens`; those that are `mask` stay masked.
    pub fn end(&mut self, tokens: &[u32], mask: u32) {
        let step = self.drew as u32;
        for place in self.joining.drain(..self.entering) {
            self.slots.push((place, step));
            self.is_cached[place as usize] = true;
        }
        self.entering = 0;
        if self.drawing.is_empty() {
            return;
        }
        self.drew += 1;
        let drawn = self.drawing.iter().zip(tokens);
        let known: Vec<(u32, u32)> = drawn
            .map(|(&place, &token)| (place, token))
            .filter(|&(_, token)| token != mask)
            .collect();
        for &(place, token) in &known {
            self.is_known[place as usize] = true;
            if Some(token) == self.unseen && self.rules.joining == Joining::Order {
                // It is never seen, and neither is what follows on it.
                self.rank[place as usize] = u32::MAX;
            }
        }
        let mut joining: Vec<u32> = known.into_iter().map(|(place, _)| place).collect();
        match self.rules.joining {
            Joining::Order => {
                let order = self.order.iter().copied();
                let seen = |&place: &u32| {
                    self.is_known[place as usize] && self.rank[place as usize] != u32::MAX
                };
                joining = order.take_while(seen).collect();
                joining.retain(|&place| !self.is_cached[place as usize]);
            }
            _ => {
                if let Some(&last) = joining.iter().max() {
                    // Given tokens left of what was drawn are seen from now on.
                    let waits = |&place: &u32| {
                        let place = place as usize;
                        self.is_known[place] && !self.is_cached[place]
                    };
                    let given = (0..last).filter(waits);
                    let given: Vec<u32> = given.filter(|place| !joining.contains(place)).collect();
                    joining.extend(given);
                }
                match self.rules.joining {
                    Joining::Time => joining.sort_by_key(|&place| self.rank[place as usize]),
                    _ => joining.sort_unstable(),
                }
            }
        }
        self.joining = joining;
    }

    /// The rows of all steps that are left, where of each window the leftmost places become known; of several texts side by side.
    pub(super) fn leftmost(runs: &mut [Self], mask: u32) -> Vec<StepRows> {
        let mut steps = Vec::new();
        while runs.iter().any(|run| !run.is_done()) {
            let (mut step, mut moves) = (StepRows::default(), Vec::new());
            for run in runs.iter_mut().filter(|run| !run.is_done()) {
                let mut groups = Vec::new();
                run.begin(&mut step, &mut groups, &mut moves);
                let least = groups
                    .first()
                    .map_or(0, |group: &Group| group.least as usize);
                let known = |place: usize| if place < least { mask ^ 1 } else { mask };
                let tokens: Vec<u32> = (0..run.window().len()).map(known).collect();
                run.end(&tokens, mask);
            }
            steps.push(step);
        }
        steps
    }

    /// The masked places that the next step draws at.
    fn next_window(&self) -> Vec<u32> {
        let is_masked = |&place: &u32| !self.is_known[place as usize];
        match self.rules.joining {
            Joining::Order => {
                let masked = self.order.iter().copied().filter(is_masked);
                masked.take(self.rules.window).collect()
            }
            _ => {
                let mut masked = (0..self.is_known.len() as u32).filter(is_masked).peekable();
                let end = masked
                    .peek()
                    .map_or(0, |first| first + self.rules.window as u32);
                masked.take_while(|&place| place < end).collect()
            }
        }
    }

    /// Lets the oldest clean tokens go where the context is full, and closes the gaps that they leave. Tokens that join by time go from the
    /// left end of the text, as in the published code.
    fn make_room(&mut self, moves: &mut Vec<SlotMove>) {
        let wanted = self.slots.len() + self.entering + self.drawing.len();
        let over = wanted
            .saturating_sub(self.rules.context)
            .min(self.slots.len());
        if over == 0 {
            return;
        }
        let mut oldest: Vec<usize> = (0..self.slots.len()).collect();
        match self.rules.joining {
            Joining::Time => oldest.sort_by_key(|&slot| self.slots[slot].0),
            _ => oldest.sort_by_key(|&slot| self.age(slot)),
        }
        let mut gone: Vec<usize> = oldest[..over].to_vec();
        gone.sort_unstable();
        let left = self.slots.len() - over;
        // What stays beyond the slots that are left fills the gaps below.
        let staying: Vec<usize> = (left..self.slots.len())
            .filter(|s| !gone.contains(s))
            .collect();
        for (&to, &from) in gone.iter().zip(&staying) {
            self.slots[to] = self.slots[from];
            moves.push(SlotMove {
                sequence: self.index,
                from: from as u32,
                to: to as u32,
            });
        }
        self.slots.truncate(left);
    }

    /// Orders slots by when their tokens came: those of one step in the order in which they joined.
    fn age(&self, slot: usize) -> (u32, u32) {
        let (place, step) = self.slots[slot];
        let within = match self.rules.joining {
            Joining::Position => place,
            Joining::Time | Joining::Order => self.rank[place as usize],
        };
        (step, within)
    }
}
