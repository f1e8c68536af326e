//! A text in the running batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_channel::Sender;
use esolm_core::ending::{Ending, Examined};
use esolm_core::plan::{Phase, Plan};
use esolm_core::request::{MAX_REDRAWS, Resolved};
use esolm_core::reveal::Rule;
use esolm_core::rng::step_seed;
use esolm_core::sampler::Sampler;
use esolm_core::text::{TextCodec, until_eos};
use esolm_core::trace::{Revealed, Step};
use web_time::Instant;

use super::log_probs::{LogProb, log_prob};
use super::steps::{Steps, Taken};
use super::{ServingError, TextRequest, Told, Written};
use crate::error::EngineError;
use crate::executor::{Draw, check_drawn};

/// Identifies an attempt at a text, independent of its place.
static SERIALS: AtomicU64 = AtomicU64::new(0);

fn next_serial() -> u64 {
    SERIALS.fetch_add(1, Ordering::Relaxed)
}

/// A text in progress.
pub(super) struct Seat {
    resolved: Arc<Resolved>,
    name: String,
    steps: Steps,
    attempt: u32,
    serial: u64,
    /// The tokens known on the host, in the order of the token buffer.
    tokens: Vec<u32>,
    /// How much of them has been examined for where the text ends.
    examined: Examined,
    is_watched: bool,
    /// Ends at its first end-of-text token.
    ends_at_eos: bool,
    /// If log-probabilities are requested, how many of the most likely tokens to report with each.
    top: Option<usize>,
    log_probs: Vec<Option<LogProb>>,
    told: Sender<Result<Told, ServingError>>,
    began: Instant,
    /// Cost of all passes so far, and of those whose tokens have been read.
    cost: Cost,
    read_cost: Cost,
}

/// Number of passes that a text took part in, and of its own rows in them.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    passes: usize,
    rows: usize,
}

/// What the rows of a pass must have in common. Texts that differ in it run in separate passes.
pub(super) type Kind<'a> = Option<(Rule, Sampler, &'a [u32], &'a [u32])>;

/// A launched step of a text, and what it will have drawn.
pub(super) struct Landed {
    index: usize,
    rows: usize,
    phase: Phase,
    cache_length: usize,
    /// The text's cost up to and including this step.
    cost: Cost,
    /// Indices into the text's token buffer.
    pub targets: Vec<u32>,
    /// `[targets, V]`, if requested.
    pub logits: Vec<f32>,
}

impl Seat {
    /// A text that has not started. `plan` has one sequence.
    pub fn new(
        name: String,
        resolved: Arc<Resolved>,
        plan: Plan,
        text: &TextRequest,
        told: Sender<Result<Told, ServingError>>,
    ) -> Self {
        Self {
            tokens: plan.initial_tokens(),
            examined: Examined::default(),
            log_probs: vec![None; plan.length - usize::from(plan.lead)],
            top: text.top.or(resolved.logprobs.then_some(0)),
            ends_at_eos: text.ends_at_eos,
            is_watched: text.is_watched,
            resolved,
            name,
            steps: Steps::new(plan),
            attempt: 0,
            serial: next_serial(),
            told,
            began: Instant::now(),
            cost: Cost::default(),
            read_cost: Cost::default(),
        }
    }

    /// Starts the clock, and sends the header.
    pub fn begin(&mut self) {
        self.began = Instant::now();
        self.announce();
    }

    fn plan(&self) -> &Plan {
        self.steps.plan()
    }

    fn announce(&self) {
        let header = (self.resolved).header(&self.name, self.plan(), self.attempt, vec![0]);
        self.tell(Ok(Told::Header(Box::new(header))));
    }

    /// Sends an event. The receiver may be gone; the channel is unbounded, so a slow reader does not hold up the
    /// others.
    fn tell(&self, told: Result<Told, ServingError>) {
        let _ = self.told.try_send(told);
    }

    /// Reports why the text will not be written.
    pub fn fail(self, error: ServingError) {
        self.tell(Err(error));
    }

    /// Whether the caller is gone.
    pub fn is_forsaken(&self) -> bool {
        self.told.is_closed()
    }

    /// Absolute index of the text, which together with the seed keys its random numbers.
    pub fn number(&self) -> u32 {
        self.plan().sequences[0].sequence
    }

    /// Identifies the attempt and the text.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What its rows must have in common with others in the same pass.
    pub fn kind(&self) -> Kind<'_> {
        let sampler = self.resolved.sampler(self.attempt);
        let (suppressed, unsure) = (&self.resolved.suppressed[..], &self.resolved.unsure[..]);
        self.steps
            .rule()
            .map(|rule| (rule, sampler, suppressed, unsure))
    }

    /// How the rows of a step are drawn, with noise keyed by `seed`.
    pub fn draw(&self, seed: u64) -> Draw<'_> {
        Draw {
            sampler: self.resolved.sampler(self.attempt),
            seed,
            noise: None,
            suppressed: &self.resolved.suppressed,
            unsure: &self.resolved.unsure,
        }
    }

    pub fn wants_logits(&self) -> bool {
        self.top.is_some()
    }

    /// Rows of its next step, and how many of them are sampled. `None` once all steps are launched, or if the next step
    /// depends on one still pending.
    pub fn next_size(&self) -> Option<[usize; 2]> {
        self.steps.next_size()
    }

    /// Whether its next step depends on the tokens revealed by the pending one.
    pub fn waits(&self) -> bool {
        self.steps.makes_rows()
    }

    /// Launches its next step: returns the step, and the seed that keys its noise.
    pub fn launch(&mut self) -> (Taken, u64, Landed) {
        let step = self.steps.take();
        let rows = &step.rows.rows;
        self.cost.passes += 1;
        self.cost.rows += rows.len();
        let target = |&row: &u32| rows[row as usize].target;
        let landed = Landed {
            index: step.index,
            rows: rows.len(),
            phase: step.phase,
            cache_length: step.cache_length,
            cost: self.cost,
            targets: step.rows.sampled.iter().map(target).collect(),
            logits: Vec::new(),
        };
        let seed = self.resolved.seed(self.attempt);
        // Here a position may be drawn more than once, so each step gets noise of its own.
        let seed = match self.steps.rule() {
            Some(_) => step_seed(seed, step.index as u32),
            None => seed,
        };
        (step, seed, landed)
    }

    /// Whether the tokens of every step are read: because the text is watched, or because the tokens may end the text
    /// or decide how it continues.
    fn is_read(&self) -> bool {
        let may_end = self.ends_at_eos || self.resolved.stop.is_any();
        self.is_watched || self.wants_logits() || may_end || self.steps.is_led()
    }

    /// Whether tokens have to be read after this step.
    pub fn is_read_after(&self, landed: &Landed) -> bool {
        self.is_read() || self.steps.is_last(landed.index)
    }

    /// Processes the tokens drawn by a step. `tokens` is the text's part of the token buffer after it. Returns `None`
    /// once the text is finished or has failed, otherwise whether it starts over.
    pub fn land(
        &mut self,
        landed: Landed,
        tokens: &[u32],
        codec: Option<&TextCodec>,
    ) -> Option<bool> {
        if !self.is_read_after(&landed) {
            // Tokens were read for another text; this one would resume from its start in any case.
            return Some(false);
        }
        let before = std::mem::replace(&mut self.tokens, tokens.to_vec());
        let is_new = self.steps.land(landed.index, tokens);
        self.read_cost = landed.cost;
        let step = match self.step(&landed, &before) {
            Ok(step) => step,
            Err(error) => return self.failed(error),
        };
        if self.is_watched && is_new {
            self.tell(Ok(step));
        }
        let is_over = self.steps.is_over(landed.index, tokens);
        if !is_over && !self.has_ended(codec) {
            return Some(false);
        }
        match self.finish(is_over, codec) {
            Ok(true) => Some(true),
            Ok(false) => None,
            Err(error) => self.failed(error),
        }
    }

    fn failed(&self, error: crate::Error) -> Option<bool> {
        self.tell(Err(ServingError::Model(error)));
        None
    }

    /// Checks what a step drew and builds its report. `before` are the tokens before the step.
    fn step(&mut self, landed: &Landed, before: &[u32]) -> Result<Told, crate::Error> {
        let (mask, number) = (self.plan().mask_index, self.number());
        let vocab = self.plan().vocab_size;
        let is_chosen = self.steps.rule().is_some();
        let window = match self.steps.makes_rows() {
            // The buffer of a single text is indexed by position.
            true => landed.targets.iter().map(|&place| (0, place)).collect(),
            false => Vec::new(),
        };
        let mut revealed = Vec::with_capacity(landed.targets.len());
        let mut log_probs = Vec::new();
        for (index, &target) in landed.targets.iter().enumerate() {
            let position = self.plan().output_position(target);
            let token = self.tokens[target as usize];
            // Tokens not chosen by confidence are still masked; those chosen earlier are not new.
            if is_chosen && (token == mask || before[target as usize] != mask) {
                continue;
            }
            check_drawn(number, position, token, mask)?;
            let mut logprob = None;
            if let Some(top) = self.top {
                let logits = &landed.logits[index * vocab..][..vocab];
                let own = log_prob(logits, mask, token, top);
                let own = own.ok_or(EngineError::NotFinite {
                    text: number,
                    position,
                })?;
                logprob = Some(own.logp);
                log_probs.push(own.clone());
                self.log_probs[position as usize] = Some(own);
            }
            revealed.push(Revealed {
                sequence: 0,
                position,
                token,
                text: String::new(),
                logprob,
            });
        }
        let step = Step {
            step: landed.index,
            steps: self.plan().nfe().max(landed.index + 1),
            phase: landed.phase,
            revealed,
            rows: landed.rows,
            window,
            cache_length: landed.cache_length,
            seconds: self.began.elapsed().as_secs_f64(),
            attempt: self.attempt,
        };
        Ok(Told::Step { step, log_probs })
    }

    /// The tokens known on the host, in natural order.
    fn natural(&self) -> Vec<u32> {
        self.plan().output(&self.tokens).remove(0)
    }

    /// The number of tokens up to and including the end-of-text token that ends the text, if that is known.
    fn up_to_eos(&self, tokens: &[u32]) -> Option<usize> {
        let unknown = |&token: &u32| token == self.plan().mask_index;
        let known = tokens.iter().position(unknown).unwrap_or(tokens.len());
        let ends = &self.resolved.stop.ends;
        let body = until_eos(&tokens[..known], self.resolved.given.until[0], ends).len();
        (self.ends_at_eos && body < known).then_some(body + 1)
    }

    /// Whether the tokens known so far determine where the text ends, so that no more have to be written.
    fn has_ended(&mut self, codec: Option<&TextCodec>) -> bool {
        let tokens = self.natural();
        if self.up_to_eos(&tokens).is_some() {
            return true;
        }
        if !self.resolved.stop.is_any() {
            return false;
        }
        let watch = self.resolved.watch(0, tokens, codec);
        let mut watch = watch.after(self.examined);
        let has_ended = watch.look();
        self.examined = watch.examined();
        has_ended
    }

    /// Reports the finished text, or starts over if the model extended a given word. Returns whether it starts over.
    fn finish(&mut self, is_whole: bool, codec: Option<&TextCodec>) -> Result<bool, crate::Error> {
        let (tokens, mask) = (self.natural(), self.plan().mask_index);
        for (position, &token) in (0..).zip(&tokens) {
            if token != mask || is_whole {
                check_drawn(self.number(), position, token, mask)?;
            }
        }
        let texts = [tokens];
        let ran_on = !self.resolved.run_on(&texts, codec).is_empty();
        if ran_on && self.attempt < MAX_REDRAWS {
            self.attempt += 1;
            self.steps = Steps::new(self.resolved.redraw(&[0], self.attempt)?);
            self.serial = next_serial();
            self.tokens = self.plan().initial_tokens();
            self.examined = Examined::default();
            self.log_probs.fill(None);
            self.announce();
            return Ok(true);
        }
        let [mut tokens] = texts;
        if let Some(count) = self.up_to_eos(&tokens) {
            tokens.truncate(count);
        }
        let known = self.plan().output(&self.plan().initial_tokens()).remove(0);
        let (tokens, ending) = self.resolved.watch(0, known, codec).finish(tokens);
        let mut log_probs = std::mem::take(&mut self.log_probs);
        log_probs.truncate(tokens.len());
        let (texts, endings) = ([tokens], [ending]);
        let text = self.resolved.texts(&texts, &endings, codec).remove(0);
        let ([tokens], [Ending { finish, .. }]) = (texts, endings);
        self.tell(Ok(Told::Written(Written {
            tokens,
            text,
            finish,
            log_probs,
            ran_on,
            nfe: self.cost.passes,
            rows: self.cost.rows,
            seconds: self.began.elapsed().as_secs_f64(),
        })));
        Ok(false)
    }

    /// Prepares the text for another place. Since its reported steps must remain valid, it continues after the last
    /// step that was looked at; its next pass recomputes the cache.
    pub fn rewind(&mut self) {
        self.serial = next_serial();
        self.cost = self.read_cost;
        self.steps.rewind();
    }
}
