//! Conversations with a model: messages become a prompt by the checkpoint's chat template, the model goes on from it, and events tell of the
//! answer while it is written. What stands in the cache from the turn before is not computed again, as far as the prompt begins alike.

mod error;
mod event;
mod text;
mod turn;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_channel::Receiver;
use esolm_core::chat::{ChatTemplate, Message};
use esolm_core::config::{Family, ModelConfig};
use esolm_core::request::Request;
use esolm_core::text::{Ends, TextCodec};
use futures_core::Stream;

use crate::error::Error;
use crate::files::{ModelFiles, Shared};
use crate::model::{Model, random_seed};
use crate::worker::Worker;

pub use error::ChatError;
pub use event::{Answer, ChatEvent, ChatPrompt, ChatStep};
use turn::{Kept, Turn};

/// Special tokens that end an answer, whichever of them a model has.
const END_NAMES: [&str; 9] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
];

/// How answers are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatOptions {
    /// How the model draws; its prompts, template, length, batch and rules for ends are not read. Where neither it nor the checkpoint says,
    /// the temperature is 0 for a model that writes by diffusion, as in the published scripts, and 0.7 with a top-p of 0.9 for an AR model. Without a seed each answer has a random one.
    pub request: Request,
    /// Tokens of an answer at most. Default: 1024 of an AR model, 256 of a BD3-LM, 128 of an MDLM, which computes all of them in every step;
    /// and no more than half the context.
    pub max_tokens: Option<usize>,
    /// Whether the model thinks before it answers, of models whose template knows of it. Default: as the template has it.
    pub think: Option<bool>,
}

impl ChatOptions {
    fn most_tokens(&self, config: &ModelConfig) -> usize {
        let own = match config.family {
            Family::Ar => 1024,
            Family::Mdlm => 128,
            _ => 256,
        };
        self.max_tokens.unwrap_or(own.min(config.length / 2)).max(1)
    }
}

/// A request for an answer of at most `most` tokens with how answers are drawn where it says nothing ([`ChatOptions::request`]); what the
/// checkpoint recommends is in it already ([`Request::or`]).
pub fn drawn_as_answers(asked: Request, config: &ModelConfig, most: usize) -> Request {
    let is_ar = config.family == Family::Ar;
    let says_how = asked.temperature.is_some() || asked.top_k.is_some() || asked.top_p.is_some();
    let temperature = if is_ar { 0.7 } else { 0.0 };
    Request {
        // Templates write it themselves where there is one.
        bos: Some(false),
        temperature: asked.temperature.or((!says_how).then_some(temperature)),
        top_p: asked.top_p.or((is_ar && !says_how).then_some(0.9)),
        steps: asked
            .steps
            .or((config.family == Family::Mdlm).then_some(most)),
        ..asked
    }
}

/// What is needed to talk with a model, whose weights need not be loaded yet.
struct Language {
    template: ChatTemplate,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

impl Language {
    fn new(shared: &Shared) -> Result<Self, Error> {
        let codec = shared.codec()?;
        let template = ChatTemplate::new(&shared.chat).map_err(ChatError::from)?;
        let config = &shared.config;
        if config.decoder.is_none() {
            let family = config.family;
            return Err(ChatError::NotADecoder { family }.into());
        }
        Ok(Self {
            ends: ends(&template, codec, config),
            template,
        })
    }
}

fn ends(template: &ChatTemplate, codec: &TextCodec, config: &ModelConfig) -> Vec<u32> {
    let named = END_NAMES.iter().copied().chain(template.eos_token());
    let named = named.filter_map(|name| codec.special_token(name));
    let Ends { eos, more, .. } = codec.ends();
    let told = config.eos.into_iter().chain(eos).chain(more);
    let mut ends: Vec<u32> = named.chain(told).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

impl ModelFiles {
    /// Checks that the model can be talked to, and answer so, before its weights are loaded.
    ///
    /// # Errors
    /// As [`Chat::new`], and where an option does not fit the model.
    pub fn check_chat(&self, options: &ChatOptions) -> Result<(), Error> {
        Language::new(&self.shared)?;
        let config = self.config();
        let (most, context) = (options.most_tokens(config), config.length);
        if most >= context {
            return Err(Error::Range {
                option: "max_tokens",
                value: most.to_string(),
                range: format!("less than the model's context of {context} tokens"),
            });
        }
        // Any token will do for what a prompt is.
        let token = (0..)
            .find(|&token| Some(token) != config.mask())
            .unwrap_or(0);
        let resolved = turn::resolve(&self.shared, options, &[token])?;
        resolved.plan()?;
        Ok(())
    }
}

/// A conversation. It holds the messages, and knows what of them stands in the model's cache; several conversations with one model are
/// possible, and each goes on from the cache only if it was the last to use it.
pub struct Chat {
    worker: Worker,
    shared: Arc<Shared>,
    language: Arc<Language>,
    kept: Arc<Mutex<Kept>>,
    messages: Vec<Message>,
    /// Messages after the system's that no longer fit the context.
    dropped: Arc<AtomicUsize>,
    /// How the next answers are written.
    pub options: ChatOptions,
}

impl Chat {
    /// Whether the model's chat template asks if it is to think first ([`ChatOptions::think`]).
    pub fn asks_for_thinking(&self) -> bool {
        self.language.template.asks_for_thinking()
    }

    /// Begins a conversation without messages.
    ///
    /// # Errors
    /// When the model has no tokenizer, no usable chat template, or is not a decoder.
    pub fn new(model: &Model, options: ChatOptions) -> Result<Self, Error> {
        let (worker, shared) = model.parts();
        Ok(Self {
            language: Arc::new(Language::new(&shared)?),
            worker,
            shared,
            kept: Arc::default(),
            messages: Vec::new(),
            dropped: Arc::default(),
            options,
        })
    }

    /// What was said so far, also what no longer fits the context.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a message: the user's before an [answer](Chat::answer), and afterwards that answer ([`Answer::message`]).
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes back the last message.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// Goes on with other messages.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
        self.dropped = Arc::default();
    }

    /// Tokens of the cache that would be kept for a prompt that begins as the last one did.
    pub fn cached(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tokens.len()
    }

    /// Answers the messages. What does not fit the context beside the answer is left out, the oldest turns first; so much of it that
    /// the prompt takes half of the room, since the cache holds nothing of a prompt that begins otherwise. The answer does not become a message by itself.
    pub fn answer(&self) -> Answering {
        let mut options = self.options.clone();
        options.request.seed.get_or_insert_with(random_seed);
        let stop = Arc::new(AtomicBool::new(false));
        let turn = Turn {
            most_tokens: options.most_tokens(&self.shared.config),
            shared: self.shared.clone(),
            language: self.language.clone(),
            messages: self.messages.clone(),
            dropped: self.dropped.clone(),
            kept: self.kept.clone(),
            options,
            stop: stop.clone(),
        };
        Answering {
            state: State::Waiting(Box::new((self.worker.clone(), turn))),
            stop,
        }
    }
}

/// An answer: a [`Stream`] of [`ChatEvent`]s, first the prompt, then a step after each pass, last the answer. As a
/// [`Generation`](crate::Generation) it begins when it is first polled, may be dropped at any moment, and can be stopped.
pub struct Answering {
    state: State,
    stop: Arc<AtomicBool>,
}

enum State {
    Waiting(Box<(Worker, Turn)>),
    Running(Pin<Box<Receiver<Result<ChatEvent, Error>>>>),
    Ended,
}

impl Answering {
    /// Ends the answer after the pass under way; what was written still comes.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// What [`Answering::stop`] sets, for a signal handler or another thread.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The next event; nothing after the answer or an error.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Lets the model write to the end.
    ///
    /// # Errors
    /// When the messages make no prompt, or the device fails; [`Error::Stopped`] when the answer or an error was read before.
    pub async fn finish(mut self) -> Result<Answer, Error> {
        while let Some(event) = self.next().await {
            if let ChatEvent::Answer(answer) = event? {
                return Ok(answer);
            }
        }
        Err(Error::Stopped)
    }

    /// The events one by one, each waited for. Not for code that an async executor runs.
    #[cfg(not(target_family = "wasm"))]
    pub fn blocking(mut self) -> impl Iterator<Item = Result<ChatEvent, Error>> {
        std::iter::from_fn(move || pollster::block_on(self.next()))
    }
}

impl Stream for Answering {
    type Item = Result<ChatEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let state = &mut self.get_mut().state;
        *state = match std::mem::replace(state, State::Ended) {
            State::Waiting(waiting) => {
                let (worker, turn) = *waiting;
                State::Running(Box::pin(turn.run(&worker)))
            }
            other => other,
        };
        let State::Running(events) = state else {
            return Poll::Ready(None);
        };
        // A channel that closes before the answer belonged to a thread that panicked.
        let event = ready!(events.as_mut().poll_next(context)).unwrap_or(Err(Error::Crashed));
        if !matches!(event, Ok(ChatEvent::Prompt(_) | ChatEvent::Step(_))) {
            *state = State::Ended;
        }
        Poll::Ready(Some(event))
    }
}
