//! Plans run step by step on an engine, and what became known in each step.

use std::collections::VecDeque;

use esolm_core::plan::{Phase, Plan};
use esolm_core::reveal::Outcome;
use esolm_core::rng::step_seed;
use esolm_core::trace::{Revealed, Step};
use web_time::Instant;

use super::Engine;
use super::sets::Sets;
use crate::error::EngineError;
use crate::executor::{Draw, Pending, check_drawn};

impl Engine {
    /// Begins to run `plan`. Nothing happens before [`Run::next`] or [`Run::finish`].
    ///
    /// # Errors
    /// When the batch does not fit the device.
    pub fn run<'a>(
        &'a mut self,
        plan: &'a Plan,
        draw: Draw<'a>,
        observe: bool,
    ) -> Result<Run<'a>, EngineError> {
        let began = Instant::now();
        self.prepare_plan(plan)?;
        self.start(&plan.layout(), &plan.initial_tokens())?;
        Ok(self.begin(plan, draw, observe, began))
    }

    /// As [`Engine::run`], in the batch that was started last, which has one sequence and may have more slots than the plan needs. What
    /// stands in its cache stays, so that a plan need not compute again what it [keeps](Plan::keep).
    ///
    /// # Errors
    /// When the plan does not fit the batch.
    pub fn go_on<'a>(
        &'a mut self,
        plan: &'a Plan,
        draw: Draw<'a>,
        observe: bool,
    ) -> Result<Run<'a>, EngineError> {
        let began = Instant::now();
        let (layout, needed) = (self.layout, plan.layout());
        if [layout.sequences, needed.sequences] != [1, 1] || needed.slots > layout.slots {
            return Err(EngineError::Rows(format!(
                "a plan for {needed:?} does not go on in a batch of {layout:?}"
            )));
        }
        let (rows, sampled) = plan.largest_pass();
        self.prepare(&layout, rows, sampled)?;
        self.write(0, &plan.initial_tokens())?;
        Ok(self.begin(plan, draw, observe, began))
    }

    fn begin<'a>(
        &'a mut self,
        plan: &'a Plan,
        draw: Draw<'a>,
        observe: bool,
        began: Instant,
    ) -> Run<'a> {
        Run {
            ids: plan.ids(),
            engine: self,
            plan,
            draw,
            observe,
            logprobs: false,
            next: 0,
            launched: 0,
            rows: 0,
            waiting: VecDeque::new(),
            known: vec![0; plan.sequences.len()],
            wanted: match plan.sets {
                // Until no place is masked.
                Some(_) => usize::MAX,
                None => plan.nfe(),
            },
            sets: Sets::of(plan),
            ended: vec![false; plan.sequences.len()],
            is_stopped: false,
            began,
        }
    }
}

/// Passes that are queued at most while nobody watches.
const QUEUED_STEPS: usize = 32;

/// A plan under way. Between steps it may be stopped ([`Run::stop`]). Whoever drops it awaits [`Run::settle`] first: a reading that is
/// dropped half done would keep its staging buffer mapped.
pub struct Run<'a> {
    engine: &'a mut Engine,
    plan: &'a Plan,
    ids: Vec<u32>,
    draw: Draw<'a>,
    /// Report which tokens each step revealed. They are read back asynchronously and one step behind.
    observe: bool,
    /// Report what the model gave each of them.
    logprobs: bool,
    /// The step of the plan that comes next.
    next: usize,
    /// Passes so far: steps of which confidence left nothing to draw are not run.
    launched: usize,
    rows: usize,
    /// Steps launched but not yet reported: one, while somebody watches.
    waiting: VecDeque<Waiting>,
    /// Steps to run: all of the plan, unless it is stopped or its last texts have ended.
    wanted: usize,
    /// The texts of a SetDLM, where what became known decides which rows are run.
    sets: Option<Sets>,
    /// Texts of which no further step is run.
    ended: Vec<bool>,
    /// Entries of each text that are known before the plan would know it.
    known: Vec<u32>,
    /// Whether steps of texts that have not ended were given up.
    is_stopped: bool,
    began: Instant,
}

struct Waiting {
    step: Step,
    /// Sequence and place in the token buffer of each token drawn.
    targets: Vec<(u32, u32)>,
    reading: Option<Reading>,
    /// What the model gave each of them, where that was asked for.
    logprobs: Vec<f32>,
    /// Whether confidence chose among them.
    is_chosen: bool,
}

/// What is read of a step.
enum Reading {
    /// The token buffer.
    Tokens(Pending<'static, Vec<u32>>),
    /// What became known, and of each text that was drawn from the entries that are known when nothing of them is left.
    Outcome(Pending<'static, Outcome>, Vec<(usize, u32)>),
}

impl Run<'_> {
    /// Runs the next step and reports one: this one, or, while tokens are observed, the one before, so that reading them
    /// never holds up the device.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn next(&mut self) -> Result<Option<Step>, EngineError> {
        let step = self.advance().await;
        if step.is_err() {
            self.settle().await;
        }
        step
    }

    /// Has the log-probability of each token told with it ([`Revealed::logprob`]), and so tokens read back in every step.
    pub fn with_logprobs(mut self) -> Self {
        self.observe = true;
        self.logprobs = true;
        self
    }

    /// Lets no further step begin; those under way are still reported.
    pub fn launch_no_more(&mut self) {
        self.is_stopped |= match &self.sets {
            Some(sets) => sets.goes_on(&self.ended),
            None => self.next < self.wanted,
        };
        self.wanted = self.next;
    }

    /// Runs no further step of a text; the others go on. What is not known of it stays the mask token.
    pub fn end(&mut self, text: usize) {
        self.ended[text] = true;
        if self.sets.is_some() {
            return;
        }
        let texts = self.plan.sequences.iter().zip(&self.ended);
        let left = texts
            .filter(|(_, ended)| !**ended)
            .map(|(text, _)| text.steps.len());
        self.wanted = self.wanted.min(left.max().unwrap_or(0).max(self.next));
    }

    /// Whether what became known decides which steps are run.
    fn is_led(&self) -> bool {
        let rule = self.plan.reveal.as_ref();
        rule.is_some_and(|rule| rule.threshold.is_some())
    }

    /// Steps that are launched before one of them is read, so that a device need not wait. What the CPU did is there at once, and where it
    /// leads, no step is run for nothing. The next step of a SetDLM is made of what became known in the one before.
    fn ahead(&self) -> usize {
        if self.sets.is_some() {
            return 0;
        }
        let is_cpu = self.engine.device.adapter.is_none();
        if self.sets.is_some() {
            // The next step of a SetDLM is made of what became known in this one.
            return 0;
        }
        usize::from(match self.is_led() {
            true => !is_cpu,
            false => self.observe,
        })
    }

    async fn advance(&mut self) -> Result<Option<Step>, EngineError> {
        let ahead = self.ahead();
        while self.next < self.wanted && self.waiting.len() <= ahead {
            self.launch()?;
            if self.logprobs {
                self.score_drawn().await?;
            }
            self.keep_up().await?;
        }
        let Some(mut oldest) = self.waiting.pop_front() else {
            return Ok(None);
        };
        let drawn = match oldest.reading {
            None => Vec::new(),
            Some(Reading::Tokens(reading)) => {
                let tokens = reading.await?;
                let of = |&(_, target): &(u32, u32)| tokens[target as usize];
                oldest.targets.iter().map(of).collect()
            }
            Some(Reading::Outcome(reading, stretches)) => {
                let Outcome { left, tokens } = reading.await?;
                if let Some(sets) = &mut self.sets {
                    for (text, place, token) in sets.end(&tokens) {
                        check_drawn(self.ids[text], place, token, self.plan.mask_index)?;
                    }
                }
                for ((text, end), left) in stretches.into_iter().zip(left) {
                    if left == 0 {
                        self.known[text] = end;
                    }
                }
                tokens
            }
        };
        let is_chosen = oldest.is_chosen;
        for (index, ((sequence, target), token)) in
            oldest.targets.into_iter().zip(drawn).enumerate()
        {
            // Where confidence chooses, what was not chosen is still the mask.
            if is_chosen && token == self.plan.mask_index {
                continue;
            }
            let position = self.plan.output_position(target);
            let text = self.ids[sequence as usize];
            check_drawn(text, position, token, self.plan.mask_index)?;
            oldest.step.revealed.push(Revealed {
                sequence,
                position,
                token,
                text: String::new(),
                logprob: oldest.logprobs.get(index).copied(),
            });
        }
        oldest.step.seconds = self.began.elapsed().as_secs_f64();
        Ok(Some(oldest.step))
    }

    /// Lets the device catch up now and then while nobody reads tokens, so that few passes are queued and a stop is soon one.
    async fn keep_up(&mut self) -> Result<(), EngineError> {
        if !self.observe && self.launched.is_multiple_of(QUEUED_STEPS) {
            self.engine.wait().await?;
        }
        Ok(())
    }

    /// What the step that was launched last gave the tokens that it drew, before the next one takes its place.
    async fn score_drawn(&mut self) -> Result<(), EngineError> {
        let Some(last) = self.waiting.back_mut() else {
            return Ok(());
        };
        let (tokens, reading) = match last.reading.take() {
            None => return Ok(()),
            Some(Reading::Tokens(reading)) => {
                let tokens = reading.await?;
                let of = |&(_, target): &(u32, u32)| tokens[target as usize];
                let drawn = last.targets.iter().map(of).collect();
                let again = Reading::Tokens(Box::pin(std::future::ready(Ok(tokens))));
                (drawn, again)
            }
            Some(Reading::Outcome(reading, stretches)) => {
                let outcome = reading.await?;
                let drawn: Vec<u32> = outcome.tokens.clone();
                let again = std::future::ready(Ok(outcome));
                (drawn, Reading::Outcome(Box::pin(again), stretches))
            }
        };
        last.reading = Some(reading);
        for (&(sequence, target), &token) in last.targets.iter().zip(&tokens) {
            if !(last.is_chosen && token == self.plan.mask_index) {
                let position = self.plan.output_position(target);
                let text = self.ids[sequence as usize];
                check_drawn(text, position, token, self.plan.mask_index)?;
            }
        }
        if !tokens.is_empty() {
            last.logprobs = self.engine.executor.score(&tokens).await?;
        }
        Ok(())
    }

    /// Launches the next step, but for the texts of which it would draw nothing.
    fn launch(&mut self) -> Result<(), EngineError> {
        if self.sets.is_some() {
            return self.launch_sets();
        }
        let (plan, index) = (self.plan, self.next);
        self.next += 1;
        let is_known = |text: usize, known: u32| {
            let step = plan.sequences[text].steps.get(index);
            step.is_some_and(|step| step.least.is_some() && step.end <= known)
        };
        let runs: Vec<bool> = (self.ended.iter().zip(&self.known).enumerate())
            .map(|(text, (ended, &known))| !ended && !is_known(text, known))
            .collect();
        let step = plan.step_rows_of(index, |text| runs[text]);
        if step.rows.is_empty() {
            return Ok(());
        }
        let choice = plan.choice(index, |text| runs[text]);
        match &choice {
            None => self.engine.step(&step, &self.ids, &self.draw)?,
            Some(choice) => {
                let draw = Draw {
                    seed: step_seed(self.draw.seed, index as u32),
                    ..self.draw
                };
                self.engine.reveal(&step, &self.ids, &draw, choice)?;
            }
        }
        self.launched += 1;
        self.rows += step.rows.len();
        let drawn = step.sampled.iter().map(|&row| {
            let row = step.rows[row as usize];
            (row.sequence, row.target)
        });
        let reading = match &choice {
            None => self
                .observe
                .then(|| Reading::Tokens(self.engine.executor.tokens())),
            Some(_) if !self.observe && !self.is_led() => None,
            Some(_) => {
                let end = |text: usize| {
                    let step = plan.sequences[text].steps.get(index)?;
                    (runs[text] && step.start < step.end).then_some((text, step.end))
                };
                let stretches = (0..runs.len()).filter_map(end).collect();
                Some(Reading::Outcome(
                    self.engine.outcome(self.observe),
                    stretches,
                ))
            }
        };
        self.waiting.push_back(Waiting {
            targets: drawn.filter(|_| self.observe).collect(),
            reading,
            logprobs: Vec::new(),
            is_chosen: choice.is_some(),
            step: Step {
                step: index,
                steps: plan.nfe(),
                phase: plan.phase(index),
                revealed: Vec::new(),
                rows: step.rows.len(),
                window: Vec::new(),
                cache_length: plan.cache_length(index),
                seconds: 0.0,
                attempt: 0,
            },
        });
        Ok(())
    }

    /// Launches the next step of a SetDLM, or ends the run where nothing is masked any more.
    fn launch_sets(&mut self) -> Result<(), EngineError> {
        let (plan, index) = (self.plan, self.next);
        let sets = self.sets.as_mut().filter(|sets| sets.goes_on(&self.ended));
        let Some(sets) = sets else {
            self.wanted = self.next;
            return Ok(());
        };
        let draw = Draw {
            seed: step_seed(self.draw.seed, index as u32),
            ..self.draw
        };
        let step = sets.launch(self.engine, &self.ids, &self.ended, &draw)?;
        self.next += 1;
        self.launched += 1;
        self.rows += step.rows.len();
        let cache_length = sets.cache_length();
        let drawn = (step.sampled.iter())
            .filter(|_| self.observe)
            .map(|&row| step.rows[row as usize]);
        let window = drawn.clone().map(|row| (row.sequence, row.position));
        let window = window.collect();
        let phase = match step.sampled.is_empty() {
            true => Phase::Prompt,
            false => Phase::Diffusion,
        };
        self.waiting.push_back(Waiting {
            targets: drawn.map(|row| (row.sequence, row.target)).collect(),
            reading: Some(Reading::Outcome(self.engine.outcome(true), Vec::new())),
            logprobs: Vec::new(),
            is_chosen: true,
            step: Step {
                step: index,
                steps: plan.nfe().max(index + 1),
                phase,
                revealed: Vec::new(),
                rows: step.rows.len(),
                window,
                cache_length,
                seconds: 0.0,
                attempt: 0,
            },
        });
        Ok(())
    }

    /// Runs the steps that are left, reports none, and reads the tokens.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn finish(mut self) -> Result<Written, EngineError> {
        self.observe = false;
        self.settle().await;
        while self.next().await?.is_some() {}
        self.stop().await
    }

    /// Waits for the readings under way and gives up what they bring.
    pub async fn settle(&mut self) {
        for waiting in self.waiting.drain(..) {
            // An error comes again with whatever is read next.
            match waiting.reading {
                Some(Reading::Tokens(reading)) => drop(reading.await),
                Some(Reading::Outcome(reading, _)) => drop(reading.await),
                None => {}
            }
        }
    }

    /// Stops here and reads the tokens; what is not known yet is the mask token.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn stop(mut self) -> Result<Written, EngineError> {
        self.settle().await;
        let mut tokens = self.engine.tokens().await?;
        // The batch may have room for more.
        tokens.truncate(self.plan.layout().tokens);
        let tokens = self.plan.output(&tokens);
        let is_finished = self.next == self.wanted && !self.is_stopped;
        for (text, tokens) in tokens.iter().enumerate() {
            let is_whole = is_finished && !self.ended[text];
            check_text(self.plan.mask_index, self.ids[text], tokens, is_whole)?;
        }
        Ok(Written {
            tokens,
            is_finished,
            steps: self.next,
            nfe: self.launched,
            rows: self.rows,
            seconds: self.began.elapsed().as_secs_f64(),
        })
    }
}

/// Checks that a text holds tokens, and the mask only where it is not whole.
pub(super) fn check_text(
    mask: u32,
    text: u32,
    tokens: &[u32],
    is_whole: bool,
) -> Result<(), EngineError> {
    for (position, &token) in (0..).zip(tokens) {
        if is_whole || token != mask {
            check_drawn(text, position, token, mask)?;
        }
    }
    Ok(())
}

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct Written {
    /// Tokens in natural order, a sequence each.
    pub tokens: Vec<Vec<u32>>,
    /// Whether no step was given up but those of texts that ended.
    pub is_finished: bool,
    /// Steps of the plan, run or left out because nothing was masked any more.
    pub steps: usize,
    /// Forward passes.
    pub nfe: usize,
    /// Rows that went through the network in all.
    pub rows: usize,
    /// Seconds from the start to the last token on the host.
    pub seconds: f64,
}
