//! Conversations with a model: the checkpoint's chat template turns messages into a prompt, the model continues it, and
//! events report the answer while it is written. The part of the prompt that is still in the cache from the previous
//! turn is not recomputed.

mod error;
mod event;
mod text;
mod turn;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use esolm_core::chat::{ChatTemplate, Message};
use esolm_core::config::{Family, ModelConfig};
use esolm_core::request::Request;
use esolm_core::text::{Ends, TextCodec};
use futures_core::Stream;

use crate::error::Error;
use crate::files::{ModelFiles, Shared};
use crate::model::{Model, random_seed};
use crate::worker::{Delivery, Worker};

pub use error::ChatError;
pub use event::{Answer, ChatEvent, ChatPrompt, ChatStep};
use turn::{Kept, Turn};

/// Special tokens that end an answer; each model has some of them.
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
    /// How the model draws; its prompts, template, length, batch and stop rules are ignored. If neither it nor the
    /// checkpoint says otherwise, the temperature is 0 for a diffusion model, as in the published scripts, and 0.7 with
    /// a top-p of 0.9 for an AR model. Without a seed, each answer gets a random one.
    pub request: Request,
    /// Maximum tokens of an answer, at least 1. Default: 1024 for an AR model, 256 for a BD3-LM and 128 for an MDLM, which
    /// computes all of them in every step; but at most half the context.
    pub max_tokens: Option<usize>,
    /// Whether the model thinks before it answers, if its template supports that. Default: up to the template.
    pub think: Option<bool>,
}

impl ChatOptions {
    fn most_tokens(&self, config: &ModelConfig) -> Result<usize, Error> {
        match self.max_tokens {
            Some(0) => Err(Error::Range {
                option: "max_tokens",
                value: "0".into(),
                range: "at least 1".into(),
            }),
            Some(most) => Ok(most),
            None => Ok(usual_answer(config, config.length)),
        }
    }
}

/// Default maximum number of tokens of an answer ([`ChatOptions::max_tokens`]), for texts of at most `longest` tokens:
/// the model's context, or a server's limit.
pub fn usual_answer(config: &ModelConfig, longest: usize) -> usize {
    let own = match config.family {
        Family::Ar => 1024,
        Family::Mdlm => 128,
        _ => 256,
    };
    own.min(longest / 2).max(1)
}

/// A request for an answer of at most `most` tokens: `asked`, which already includes the checkpoint's recommendations
/// ([`Request::or`]), with the defaults for answers ([`ChatOptions::request`]).
pub fn drawn_as_answers(asked: Request, config: &ModelConfig, most: usize) -> Request {
    let is_ar = config.family == Family::Ar;
    let says_how = asked.temperature.is_some() || asked.top_k.is_some() || asked.top_p.is_some();
    let temperature = if is_ar { 0.7 } else { 0.0 };
    Request {
        // Templates write the opening token themselves if there is one.
        bos: Some(false),
        temperature: asked.temperature.or((!says_how).then_some(temperature)),
        top_p: asked.top_p.or((is_ar && !says_how).then_some(0.9)),
        steps: asked
            .steps
            .or((config.family == Family::Mdlm).then_some(most)),
        ..asked
    }
}

/// What a conversation needs besides the weights, which need not be loaded yet.
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
            ends: answer_ends(&template, codec, config),
            template,
        })
    }
}

/// The tokens that end an answer: those that the checkpoint names, and special tokens that usually end a turn, since
/// many checkpoints name only the end of a text.
pub fn answer_ends(template: &ChatTemplate, codec: &TextCodec, config: &ModelConfig) -> Vec<u32> {
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
    /// Checks, before its weights are loaded, that the model can converse with these options.
    ///
    /// # Errors
    /// As [`Chat::new`], and if an option does not fit the model.
    pub fn check_chat(&self, options: &ChatOptions) -> Result<(), Error> {
        Language::new(&self.shared)?;
        let config = self.config();
        let (most, context) = (options.most_tokens(config)?, config.length);
        if most >= context {
            return Err(Error::Range {
                option: "max_tokens",
                value: most.to_string(),
                range: format!("less than the model's context of {context} tokens"),
            });
        }
        // Any token will do as the prompt.
        let token = (0..)
            .find(|&token| Some(token) != config.mask())
            .unwrap_or(0);
        let resolved = turn::resolve(&self.shared, options, &[token])?;
        resolved.plan()?;
        Ok(())
    }
}

/// A conversation: its messages, and what of them is in the model's cache. A model can have several conversations, but
/// each continues from the cache only if it was the last to use it.
pub struct Chat {
    worker: Worker,
    shared: Arc<Shared>,
    language: Arc<Language>,
    kept: Arc<Mutex<Kept>>,
    messages: Vec<Message>,
    /// Number of messages after the system message that no longer fit the context.
    dropped: Arc<AtomicUsize>,
    /// How the next answers are written.
    pub options: ChatOptions,
}

impl Chat {
    /// Whether the model's chat template has a switch for thinking ([`ChatOptions::think`]).
    pub fn asks_for_thinking(&self) -> bool {
        self.language.template.asks_for_thinking()
    }

    /// Starts a conversation without messages.
    ///
    /// # Errors
    /// If the model has no tokenizer, no usable chat template, or is not a decoder.
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

    /// All messages so far, including those that no longer fit the context.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a message: the user's before [`Chat::answer`], and the answer itself afterwards ([`Answer::message`]).
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Removes the last message.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// Replaces all messages.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
        self.dropped = Arc::default();
    }

    /// What the chat template makes of all messages, whether or not they fit the context; with `add_generation_prompt`
    /// the beginning of the answer too.
    ///
    /// # Errors
    /// If there are no messages, or the template refuses them.
    pub fn prompt(&self, add_generation_prompt: bool) -> Result<String, Error> {
        if self.messages.is_empty() {
            return Err(ChatError::NoMessage.into());
        }
        let how = turn::rendering(add_generation_prompt, self.options.think);
        let text = self.language.template.render(&self.messages, how);
        Ok(text.map_err(ChatError::from)?)
    }

    /// Number of cached tokens that a prompt with the same beginning as the last one would reuse.
    pub fn cached(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tokens.len()
    }

    /// Answers the messages. If the prompt and the answer do not fit the context together, the oldest turns are dropped
    /// until the prompt takes up at most half the room, so that the next turns fit too: a prompt that begins
    /// differently has to be recomputed. The answer is not added to the messages.
    pub fn answer(&self) -> Answering {
        let mut options = self.options.clone();
        options.request.seed.get_or_insert_with(random_seed);
        let stop = Arc::new(AtomicBool::new(false));
        let turn = Turn {
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

/// An answer: a [`Stream`] of [`ChatEvent`]s, first the prompt, then a step after each pass, and finally the answer.
/// Like [`Generation`](crate::Generation), it starts when first polled, may be dropped at any time, and can be stopped.
pub struct Answering {
    state: State,
    stop: Arc<AtomicBool>,
}

enum State {
    Waiting(Box<(Worker, Turn)>),
    Running(Delivery<Result<ChatEvent, Error>>),
    Ended,
}

impl Answering {
    /// Ends the answer after the current pass; what has been written is still reported.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// The flag that [`Answering::stop`] sets, for a signal handler or another thread.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The next event; `None` after the answer or an error.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// If the messages cannot be turned into a prompt, or the device fails; [`Error::Stopped`] if the answer or an
    /// error has already been read.
    pub async fn finish(mut self) -> Result<Answer, Error> {
        while let Some(event) = self.next().await {
            if let ChatEvent::Answer(answer) = event? {
                return Ok(answer);
            }
        }
        Err(Error::Stopped)
    }

    /// An iterator over the events, which blocks for each. Not for use inside an async executor.
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
                let events = turn.run(&worker);
                State::Running(worker.delivery(events))
            }
            other => other,
        };
        let State::Running(events) = state else {
            return Poll::Ready(None);
        };
        if events.is_over() {
            return Poll::Ready(None);
        }
        // A channel that closes before the answer means that the model's thread panicked.
        let event = ready!(events.poll_next(context)).unwrap_or(Err(Error::Crashed));
        if !matches!(event, Ok(ChatEvent::Prompt(_) | ChatEvent::Step(_))) {
            events.end();
        }
        Poll::Ready(Some(event))
    }
}
