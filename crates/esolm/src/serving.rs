//! Serving many requests at once: texts join and leave a running batch between two passes, each on a plan of its own, with a sampler and a
//! seed of its own.
//!
//! A text is the one that [`Model::generate`](crate::Model::generate) writes for its seed and number, whoever else is served: bit for bit on
//! the CPU, and on a GPU up to rounding.

mod batch;
mod desk;
mod echo;
mod log_probs;
mod seat;
mod state;
mod steps;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use esolm_core::config::ModelConfig;
use esolm_core::request::{Request, Resolved};
use esolm_core::stop::Finish;
use esolm_core::text::TextCodec;
use esolm_core::trace::{Header, Step};
use futures_core::Stream;

use crate::device::{DeviceInfo, LoadOptions};
use crate::engine::Engine;
use crate::error::{EngineError, Error};
use crate::files::{ModelFiles, Shared};
use batch::Batch;
use desk::{Desk, Message, Opener};
use echo::EchoJob;
pub(crate) use echo::all as echo_all;
pub use echo::{Echo, Echoed};
pub use log_probs::LogProb;
use seat::Seat;
pub use state::ServingState;

/// Bytes of logits that a pass brings, unless a single text needs more.
const LOGITS_BYTES: usize = 64 << 20;

/// How much is served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingOptions {
    /// Texts that run at once, at least 1. Memory for all of them is taken at the start.
    pub places: usize,
    /// Texts that wait for a place, or to be scored, at most; at least 1.
    pub queue: usize,
    /// Tokens of a text at most, those that are given included; at least 1 and at most the model's context, which it is by default. Each
    /// place has memory for so many.
    pub length: Option<usize>,
}

impl Default for ServingOptions {
    fn default() -> Self {
        Self {
            places: 16,
            queue: 256,
            length: None,
        }
    }
}

/// A text that is to be written.
#[derive(Clone, Debug, Default)]
pub struct TextRequest {
    /// What is asked for: one text, whose number is [`Request::first`]. Its `batch` is not read.
    pub request: Request,
    /// Tokens to go on from, in the place of the request's prompt or template.
    pub tokens: Option<Vec<u32>>,
    /// Tell of each step. Tokens are then read after each pass.
    pub is_watched: bool,
    /// End it with its first end-of-text token, so that nothing more of it is written once that is known, and all before it.
    pub ends_at_eos: bool,
    /// Tell the log-probability of each token that is written, with so many of the most likely ones.
    pub top: Option<usize>,
}

/// What is told of a text.
#[derive(Clone, Debug)]
pub enum Told {
    /// It has a place. A further one comes where the model ran on at a given word, and the text is written anew.
    Header(Box<Header>),
    /// A step of it, where it is watched.
    Step {
        /// As a generation tells it, without the text of single tokens; the text has the index 0.
        step: Step,
        /// One for each token that it revealed, where they were asked for.
        log_probs: Vec<LogProb>,
    },
    /// It is written; nothing follows.
    Written(Written),
}

/// A text that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its tokens in natural order, as far as they are kept.
    pub tokens: Vec<u32>,
    /// Its text, the prompt's with it; without a tokenizer the numbers of its tokens.
    pub text: String,
    /// Why it is as long as it is.
    pub finish: Finish,
    /// Their log-probabilities, where they were asked for; those of given tokens are none.
    pub log_probs: Vec<Option<LogProb>>,
    /// The model ran on at a given word to the last attempt.
    pub ran_on: bool,
    /// Passes that it was in.
    pub nfe: usize,
    /// Rows of them that were its own.
    pub rows: usize,
    /// Seconds since it got a place.
    pub seconds: f64,
}

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// It does not fit the model, or the device failed when it alone was running.
    #[error(transparent)]
    Model(#[from] Error),
    /// The queue is full.
    #[error("all {queue} places of the queue are taken; try again later")]
    Busy {
        /// Places that it has.
        queue: usize,
    },
    /// More texts than the queue ever takes.
    #[error("{texts} texts are more than the queue of {queue} takes; ask for fewer at once")]
    TooMany {
        /// Texts asked for at once.
        texts: usize,
        /// Places of the queue.
        queue: usize,
    },
    /// A text that does not fit a place.
    #[error(
        "a text of {length} tokens is longer than those that are served, which have at most {most}"
    )]
    TooLong {
        /// Its tokens, those that are given included.
        length: usize,
        /// Tokens of a text at most.
        most: usize,
    },
    /// The device was lost and cannot be opened again.
    #[error("the device was lost and does not open again: {0}")]
    Unavailable(String),
}

/// A model that serves. Clones are handles to the same one; its thread ends when the last one is gone and what was asked for is done.
#[derive(Clone)]
pub struct Serving {
    inbox: Sender<Message>,
    /// Closed when the thread has given the model up.
    ended: Receiver<()>,
    shared: Arc<Shared>,
    device: Arc<DeviceInfo>,
    options: ServingOptions,
    counts: Arc<state::Counts>,
}

impl Serving {
    /// Loads a model onto a device, with memory for all places, in a thread of its own. The files stay open: a device that is lost is
    /// opened again.
    ///
    /// # Errors
    /// When no device answers to the choice, memory does not suffice, or texts are to be longer than the context.
    pub async fn start(
        files: ModelFiles,
        load: LoadOptions,
        options: ServingOptions,
    ) -> Result<Self, Error> {
        let ModelFiles { checkpoint, shared } = files;
        let checkpoint = Arc::new(checkpoint);
        let open: Opener = Box::new(move || {
            let checkpoint = checkpoint.clone();
            Box::pin(async move { Engine::load(&checkpoint, &load).await })
        });
        Self::start_with(open, shared, options).await
    }

    async fn start_with(
        open: Opener,
        shared: Arc<Shared>,
        options: ServingOptions,
    ) -> Result<Self, Error> {
        let context = shared.config.length;
        let length = options.length.unwrap_or(context);
        if length > context {
            return Err(Error::Context { length, context });
        }
        let (inbox, messages) = async_channel::unbounded();
        let (ending, ended) = async_channel::bounded::<()>(1);
        let (opened, opening) = async_channel::bounded(1);
        let counts = Arc::new(state::Counts::default());
        let desk = Desk {
            open,
            shared: shared.clone(),
            options,
            length,
            inbox: messages,
            counts: counts.clone(),
            waiting: Default::default(),
            echoes: Default::default(),
            returning: Default::default(),
            suspects: Default::default(),
        };
        let body = move || {
            pollster::block_on(async {
                let batch = match (desk.open)().await {
                    Ok(engine) => {
                        let device = engine.device().clone();
                        Batch::start(engine, options.places, length).map(|batch| (batch, device))
                    }
                    Err(error) => Err(error),
                };
                match batch {
                    Ok((batch, device)) => {
                        desk.counts.set_open(true);
                        // Whoever gave up waiting has dropped the inbox's other end as well.
                        let _ = opened.try_send(Ok(device));
                        desk.serve(batch).await;
                    }
                    Err(error) => {
                        let _ = opened.try_send(Err(error));
                    }
                }
                drop(ending);
            });
        };
        std::thread::Builder::new()
            .name("esolm-serving".into())
            .spawn(body)
            .map_err(|error| EngineError::Thread(error.to_string()))?;
        let device = opening.recv().await.map_err(|_| Error::Crashed)??;
        Ok(Self {
            inbox,
            ended,
            shared,
            device: Arc::new(device),
            options,
            counts,
        })
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The tokenizer, if there is one.
    pub fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    /// What runs it.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// How much is served at once.
    pub fn options(&self) -> ServingOptions {
        self.options
    }

    /// Tokens of a text at most, those that are given included.
    pub fn length(&self) -> usize {
        self.options.length.unwrap_or(self.shared.config.length)
    }

    /// What is going on.
    pub fn state(&self) -> ServingState {
        ServingState {
            is_open: self.counts.state().is_open && !self.inbox.is_closed(),
            ..self.counts.state()
        }
    }

    /// Queues texts, all of them or none. They are written as places become free.
    ///
    /// # Errors
    /// When one does not fit the model, or the queue.
    pub fn write(&self, texts: Vec<TextRequest>) -> Result<Vec<Writing>, ServingError> {
        self.check_count(texts.len())?;
        let seats = texts.iter().map(|text| self.seat(text));
        let seats: Vec<(Seat, Writing)> = seats.collect::<Result<_, _>>()?;
        self.enter_queue(texts.len())?;
        let mut writings = Vec::with_capacity(seats.len());
        for (seat, writing) in seats {
            self.send(Message::Text(Box::new(seat)))?;
            writings.push(writing);
        }
        Ok(writings)
    }

    fn seat(&self, text: &TextRequest) -> Result<(Seat, Writing), ServingError> {
        let (shared, config) = (&self.shared, self.config());
        let request = Request {
            batch: Some(1),
            ..text.request.or(&shared.recommended, config)
        };
        let resolved = match &text.tokens {
            Some(tokens) => request.resolve_tokens(config, self.codec(), tokens),
            None => request.resolve(config, self.codec()),
        };
        let resolved = resolved.map_err(Error::from)?;
        let (length, most) = (resolved.options.length, self.length());
        if length > most {
            return Err(ServingError::TooLong { length, most });
        }
        let plan = shared.draw(&resolved)?;
        let resolved = Arc::new(resolved);
        let (told, events) = async_channel::unbounded();
        let seat = Seat::new(shared.name.clone(), resolved.clone(), plan, text, told);
        let writing = Writing {
            resolved,
            events: Box::pin(events),
            is_over: false,
        };
        Ok((seat, writing))
    }

    /// Queues texts whose tokens' log-probabilities are asked for, all of them or none, and waits for those.
    ///
    /// # Errors
    /// When the model has none, a text does not fit it or the queue, or the device fails.
    pub async fn echo(&self, echoes: Vec<Echo>) -> Result<Vec<Echoed>, ServingError> {
        self.check_count(echoes.len())?;
        for echo in &echoes {
            let (length, most) = (echo.tokens.len(), self.length());
            if length > most {
                return Err(ServingError::TooLong { length, most });
            }
            echo.check(self.config())?;
        }
        self.enter_queue(echoes.len())?;
        let mut answers = Vec::with_capacity(echoes.len());
        for echo in echoes {
            let (told, answer) = async_channel::bounded(1);
            self.send(Message::Echo(EchoJob {
                echo,
                told,
                is_alone: false,
            }))?;
            answers.push(answer);
        }
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.push(answer.recv().await.map_err(|_| Error::Crashed)??);
        }
        Ok(all)
    }

    fn check_count(&self, texts: usize) -> Result<(), ServingError> {
        let queue = self.options.queue;
        match texts > queue {
            true => Err(ServingError::TooMany { texts, queue }),
            false => Ok(()),
        }
    }

    fn enter_queue(&self, texts: usize) -> Result<(), ServingError> {
        let queue = self.options.queue;
        match self.counts.try_queue(texts, queue) {
            true => Ok(()),
            false => Err(ServingError::Busy { queue }),
        }
    }

    fn send(&self, message: Message) -> Result<(), ServingError> {
        // The thread ended before its handles: it panicked.
        let sent = self.inbox.try_send(message);
        sent.map_err(|_| Error::Crashed.into())
    }

    /// Gives this handle up and, where it was the last, waits until what was asked for is done and the model's memory is free.
    pub async fn close(self) {
        let Self { inbox, ended, .. } = self;
        let is_last = inbox.sender_count() == 1;
        drop(inbox);
        if is_last {
            // Nothing is ever sent.
            let _ = ended.recv().await;
        }
    }
}

/// A text under way: a [`Stream`] of what is told of it. Whoever drops it gives it up, and its place is free after the pass under way.
pub struct Writing {
    resolved: Arc<Resolved>,
    events: Pin<Box<Receiver<Result<Told, ServingError>>>>,
    is_over: bool,
}

impl Writing {
    /// Everything that decides what is written.
    pub fn resolved(&self) -> &Arc<Resolved> {
        &self.resolved
    }

    /// The next that is told; nothing after the text or an error.
    pub async fn next(&mut self) -> Option<Result<Told, ServingError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Waits for the text.
    ///
    /// # Errors
    /// When the device fails, or [`Error::Stopped`] when the text or an error was read before.
    pub async fn finish(mut self) -> Result<Written, ServingError> {
        while let Some(told) = self.next().await {
            if let Told::Written(written) = told? {
                return Ok(written);
            }
        }
        Err(Error::Stopped.into())
    }
}

impl Stream for Writing {
    type Item = Result<Told, ServingError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let told = std::task::ready!(this.events.as_mut().poll_next(context));
        // A channel that closes before the text belonged to a thread that panicked.
        let told = told.unwrap_or(Err(Error::Crashed.into()));
        this.is_over = !matches!(told, Ok(Told::Header(_) | Told::Step { .. }));
        Poll::Ready(Some(told))
    }
}

#[cfg(test)]
mod tests;
