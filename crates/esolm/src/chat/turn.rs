//! One answer on the model's thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use esolm_core::chat::{Message, Rendering, oldest_turn, without_oldest};
use esolm_core::plan::{Grouping, Plan};
use esolm_core::request::{Request, Resolved};
use esolm_core::rows::Layout;
use esolm_core::stop::Finish;
use web_time::{SystemTime, UNIX_EPOCH};

use super::text::AnswerText;
use super::{
    Answer, ChatError, ChatEvent, ChatOptions, ChatPrompt, ChatStep, Language, drawn_as_answers,
};
use crate::engine::{Engine, Run, Written};
use crate::error::{EngineError, Error};
use crate::executor::{Draw, TOKEN_ALIGN};
use crate::files::Shared;
use crate::turn::turn;
use crate::worker::Worker;

/// Minimum slots of a conversation's cache; it doubles when they do not suffice.
const LEAST_SLOTS: usize = 512;

/// What is in the cache from the previous turn.
#[derive(Debug, Default)]
pub struct Kept {
    /// The engine's batch that holds it.
    batch: u64,
    grouping: Option<Grouping>,
    /// The leading tokens whose keys and values are final.
    pub tokens: Vec<u32>,
}

/// What the model's thread needs to write an answer.
pub struct Turn {
    pub shared: Arc<Shared>,
    pub language: Arc<Language>,
    pub messages: Vec<Message>,
    pub dropped: Arc<AtomicUsize>,
    pub kept: Arc<Mutex<Kept>>,
    pub options: ChatOptions,
    pub stop: Arc<AtomicBool>,
}

type Events = Sender<Result<ChatEvent, Error>>;

impl Turn {
    /// Queues the answer.
    pub fn run(self, worker: &Worker) -> Receiver<Result<ChatEvent, Error>> {
        let (events, receiver) = async_channel::bounded(1);
        worker.queue(Box::new(move |engine| {
            Box::pin(async move {
                let told = match self.write(engine, &events).await {
                    Ok(Some(answer)) => Ok(ChatEvent::Answer(answer)),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                // There may be no receiver left.
                let _ = events.send(told).await;
            })
        }));
        receiver
    }

    /// The prompt's text, its tokens and the number of dropped messages: the oldest turns, if not all fit.
    fn prompt(&self) -> Result<(String, Vec<u32>, usize), Error> {
        let codec = self.shared.codec()?;
        let context = self.shared.config.length;
        let how = rendering(true, self.options.think);
        if self.messages.is_empty() {
            return Err(ChatError::NoMessage.into());
        }
        let answer = self.options.most_tokens(&self.shared.config)?;
        let room = context.saturating_sub(answer);
        let mut dropped = self.dropped.load(Ordering::SeqCst);
        let mut most = room;
        loop {
            let messages = without_oldest(&self.messages, dropped);
            let text = self.language.template.render(&messages, how);
            let text = text.map_err(ChatError::from)?;
            let tokens = codec.encode(&text)?;
            let next = oldest_turn(&self.messages, dropped);
            match next.filter(|_| tokens.len() > most) {
                Some(turn) => {
                    dropped += turn;
                    // Leaves room for the next turns, since a prompt that begins differently has to be recomputed.
                    most = room / 2;
                }
                None if tokens.len() > room => {
                    return Err(ChatError::TooLong {
                        tokens: tokens.len(),
                        answer,
                        context,
                    }
                    .into());
                }
                None => {
                    self.dropped.store(dropped, Ordering::SeqCst);
                    return Ok((text, tokens, dropped));
                }
            }
        }
    }

    /// Makes the plan reuse what is in the cache, starting a new batch if necessary. Returns the number of tokens
    /// reused.
    fn keep(&self, engine: &mut Engine, plan: &mut Plan) -> Result<usize, EngineError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Until the answer has been written, the contents of the cache are undefined.
        let Kept {
            batch,
            grouping,
            tokens,
        } = std::mem::take(&mut *kept);
        let layout = engine.layout();
        let is_own = batch == engine.batch() && layout.slots >= plan.length && batch > 0;
        if !is_own {
            let slots = plan.length.next_power_of_two().max(LEAST_SLOTS);
            let slots = slots.min(self.shared.config.length).max(plan.length);
            let layout = Layout {
                sequences: 1,
                slots,
                tokens: slots.next_multiple_of(TOKEN_ALIGN),
            };
            let (rows, sampled) = plan.largest_pass();
            engine.prepare(&layout, rows, sampled)?;
            engine.start(&layout, &vec![plan.mask_index; layout.tokens])?;
            return Ok(0);
        }
        if grouping != Some(plan.grouping()) {
            return Ok(0);
        }
        let known = plan.sequences[0].known.iter();
        let common = known.zip(&tokens).take_while(|(a, b)| a == b).count();
        Ok(plan.keep(common))
    }

    /// Writes the answer. `None` if the receiver is gone.
    async fn write(&self, engine: &mut Engine, events: &Events) -> Result<Option<Answer>, Error> {
        let codec = self.shared.codec()?;
        let (text, prompt, dropped) = self.prompt()?;
        let resolved = resolve(&self.shared, &self.options, &prompt)?;
        let mut plan = self.shared.draw(&resolved)?;
        let cached = self.keep(engine, &mut plan)?;
        let told = ChatEvent::Prompt(ChatPrompt {
            text,
            tokens: prompt.clone(),
            cached,
            dropped,
            max_tokens: plan.length - prompt.len(),
            seed: resolved.options.seed,
        });
        if events.send(Ok(told)).await.is_err() {
            return Ok(None);
        }
        let draw = Draw {
            sampler: resolved.sampler(0),
            seed: resolved.seed(0),
            noise: None,
            suppressed: &resolved.suppressed,
            unsure: &resolved.unsure,
        };
        let batch = engine.batch();
        let run = engine.go_on(&plan, draw, true)?;
        let mut answer = AnswerText::new(
            codec,
            plan.mask_index,
            &self.language.ends,
            &self.options.request.stop_strings,
            plan.length - prompt.len(),
        );
        let Some(written) = self
            .watch(run, &plan, prompt.len(), &mut answer, events)
            .await?
        else {
            return Ok(None);
        };
        let Written {
            mut tokens,
            is_finished,
            steps,
            nfe,
            rows,
            seconds,
        } = written;
        let tokens = tokens.swap_remove(0);
        let has_ended = answer.has_ended();
        let (own, text, finish) = answer.finish(&tokens[prompt.len()..]);
        let computed = steps
            .checked_sub(1)
            .map_or(cached, |last| plan.cache_length(last));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept {
            batch,
            grouping: Some(plan.grouping()),
            tokens: tokens[..computed].to_vec(),
        };
        let answer = Answer {
            text: String::new(),
            reasoning: None,
            content: String::new(),
            tokens: own,
            finish: match is_finished || has_ended {
                true => finish,
                false => Finish::Interrupted,
            },
            prompt_tokens: prompt.len(),
            cached,
            passes: nfe,
            rows,
            seconds,
        };
        Ok(Some(answer.with_text(text)))
    }

    /// Reports each step. `None` if the receiver is gone.
    async fn watch(
        &self,
        mut run: Run<'_>,
        plan: &Plan,
        prompt: usize,
        answer: &mut AnswerText<'_>,
        events: &Events,
    ) -> Result<Option<Written>, Error> {
        loop {
            if self.stop.load(Ordering::SeqCst) {
                run.launch_no_more();
            }
            let Some(step) = run.next().await? else {
                break;
            };
            for revealed in &step.revealed {
                answer.reveal(
                    (revealed.position as usize).saturating_sub(prompt),
                    revealed.token,
                );
            }
            let had_ended = answer.has_ended();
            let text = answer.look();
            if answer.has_ended() && !had_ended {
                run.end(0);
            }
            let told = ChatEvent::Step(ChatStep {
                step: step.step,
                steps: step.steps,
                text,
                open: answer.open(block_end(plan, step.step).saturating_sub(prompt)),
                tokens: answer.known(),
                rows: step.rows,
                seconds: step.seconds,
            });
            if events.send(Ok(told)).await.is_err() {
                run.settle().await;
                return Ok(None);
            }
            turn().await;
        }
        Ok(Some(run.stop().await?))
    }
}

/// The request that continues the tokens of a prompt.
pub fn resolve(shared: &Shared, options: &ChatOptions, tokens: &[u32]) -> Result<Resolved, Error> {
    let Shared {
        config,
        codec,
        recommended,
        ..
    } = shared;
    let most = options.most_tokens(config)?;
    let asked = options.request.or(recommended, config);
    let request = Request {
        prompt: Vec::new(),
        infill: None,
        length: Some((tokens.len() + most).min(config.length)),
        batch: None,
        first: 0,
        stop: Vec::new(),
        stop_strings: Vec::new(),
        logprobs: false,
        ..drawn_as_answers(asked, config, most)
    };
    Ok(request.resolve_tokens(config, codec.as_ref(), tokens)?)
}

/// How a template is rendered now.
pub fn rendering(add_generation_prompt: bool, enable_thinking: Option<bool>) -> Rendering {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    Rendering {
        add_generation_prompt,
        enable_thinking,
        now: seconds.map_or(0, |since| since.as_secs()),
    }
}

/// One past the last position of the block that a step works on.
fn block_end(plan: &Plan, step: usize) -> usize {
    let text = &plan.sequences[0];
    let drawn = text.steps.get(step).and_then(|step| {
        // If the order is fixed in advance, a step draws only part of its block.
        let size = plan.block_size.unwrap_or(1) as u32;
        let drawn = text.order.get(step.start as usize..step.end as usize)?;
        let last = *drawn.iter().max()?;
        match step.least {
            Some(_) => Some(last + 1),
            None => Some((last / size + 1) * size),
        }
    });
    drawn.map_or(0, |end| (end as usize).min(plan.length))
}
