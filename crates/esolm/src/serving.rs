//! Serving many requests at once (continuous batching): texts join and leave a running batch between passes, each with
//! its own plan, sampler and seed.
//!
//! A served text is the one that [`Model::generate`](crate::Model::generate) writes for the same seed and number, no
//! matter what else is being served: bit for bit on the CPU, and up to rounding on a GPU.

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
use crate::turn::unless;
use crate::worker::Joined;
use batch::Batch;
use desk::{Desk, Message, Opener};
use echo::EchoJob;
pub(crate) use echo::all as echo_all;
pub use echo::{Echo, Echoed};
pub use log_probs::LogProb;
use seat::Seat;
pub use state::ServingState;

/// Bytes of logits per pass, unless a single text needs more.
const LOGITS_BYTES: usize = 64 << 20;

/// How much is served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingOptions {
    /// Texts that run at once, at least 1. Memory for all of them is allocated at the start.
    pub places: usize,
    /// Maximum number of texts waiting for a place or to be scored, at least 1.
    pub queue: usize,
    /// Maximum tokens per text including the given ones, from 1 to the model's context. Every place has memory for that
    /// many. Default: the context.
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

/// A request for one text.
#[derive(Clone, Debug, Default)]
pub struct TextRequest {
    /// The request; its text has the number [`Request::first`]. `batch` is ignored.
    pub request: Request,
    /// Tokens to continue from, instead of the request's prompt or template.
    pub tokens: Option<Vec<u32>>,
    /// Report every step, which requires reading the tokens after each pass.
    pub is_watched: bool,
    /// End the text at its first end-of-text token: generation stops once that token and everything before it are
    /// known.
    pub ends_at_eos: bool,
    /// Report the log-probability of each generated token, and those of this many most likely tokens.
    pub top: Option<usize>,
    /// More tokens that end the text, for example those that end an answer ([`answer_ends`](crate::answer_ends)).
    pub ends: Vec<u32>,
}

/// Events of a text.
#[derive(Clone, Debug)]
pub enum Told {
    /// The text has been given a place. Sent again if the model extended a given word and the text is redrawn.
    Header(Box<Header>),
    /// A step of the text, if it is watched.
    Step {
        /// As a generation reports it, but without the text of single tokens. The text has index 0.
        step: Step,
        /// One for each token revealed, if requested.
        log_probs: Vec<LogProb>,
    },
    /// The text is finished; this is the last event.
    Written(Written),
}

/// A finished text.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its tokens in natural order, up to where it ends.
    pub tokens: Vec<u32>,
    /// Its text including the prompt; without a tokenizer, its token ids.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The tokens' log-probabilities, if requested; `None` for given tokens.
    pub log_probs: Vec<Option<LogProb>>,
    /// Whether the model still extended a given word in the last attempt.
    pub ran_on: bool,
    /// Number of passes that it took part in.
    pub nfe: usize,
    /// Number of its own rows in those passes.
    pub rows: usize,
    /// Seconds since it was given a place.
    pub seconds: f64,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The request does not fit the model, or the device failed while running it alone.
    #[error(transparent)]
    Model(#[from] Error),
    /// The queue is full.
    #[error("all {queue} places of the queue are taken; try again later")]
    Busy {
        /// Capacity of the queue.
        queue: usize,
    },
    /// More texts at once than the queue can ever hold.
    #[error("{texts} texts are more than the queue of {queue} takes; ask for fewer at once")]
    TooMany {
        /// Texts asked for at once.
        texts: usize,
        /// Capacity of the queue.
        queue: usize,
    },
    /// The text does not fit a place.
    #[error(
        "a text of {length} tokens is longer than those that are served, which have at most {most}"
    )]
    TooLong {
        /// Its tokens, including the given ones.
        length: usize,
        /// Maximum tokens per text.
        most: usize,
    },
    /// The device was lost and could not be reopened.
    #[error("the device was lost and does not open again: {0}")]
    Unavailable(String),
}

/// A model that serves requests. Clones are handles to the same one. Whoever drops the last handle waits until pending
/// requests are done and the model's memory has been freed.
#[derive(Clone)]
pub struct Serving {
    inbox: Sender<Message>,
    /// Closed when the thread has given the model up.
    ended: Receiver<()>,
    shared: Arc<Shared>,
    device: Arc<DeviceInfo>,
    options: ServingOptions,
    counts: Arc<state::Counts>,
    /// Dropped after `inbox`, whose end the thread waits for.
    _thread: Arc<Joined>,
}

impl Serving {
    /// Loads a model onto a device, with memory for all places, on a thread of its own. The files stay open so that the
    /// model can be reloaded if the device is lost.
    ///
    /// # Errors
    /// If the requested device is not available, there is not enough memory, or texts are to be longer than the
    /// context.
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
        // Dropped last if the caller gives up: the thread waits for the ends of these channels.
        let joined = Arc::<Joined>::default();
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
                let Some(engine) = unless(|| opened.is_closed(), (desk.open)()).await else {
                    return;
                };
                let batch = match engine {
                    Ok(engine) => {
                        let device = engine.device().clone();
                        Batch::start(engine, options.places, length).map(|batch| (batch, device))
                    }
                    Err(error) => Err(error),
                };
                match batch {
                    Ok((batch, device)) => {
                        desk.counts.set_open(true);
                        // If the caller gave up waiting, the inbox's other end is gone as well.
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
        let thread = std::thread::Builder::new()
            .name("esolm-serving".into())
            .spawn(body)
            .map_err(|error| EngineError::Thread(error.to_string()))?;
        joined.join(thread);
        let device = opening.recv().await.map_err(|_| Error::Crashed)??;
        Ok(Self {
            inbox,
            ended,
            shared,
            device: Arc::new(device),
            options,
            counts,
            _thread: joined,
        })
    }

    /// The network's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The tokenizer, if there is one.
    pub fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    /// The device that runs the model.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// How much is served at once.
    pub fn options(&self) -> ServingOptions {
        self.options
    }

    /// Maximum tokens per text, including the given ones.
    pub fn length(&self) -> usize {
        self.options.length.unwrap_or(self.shared.config.length)
    }

    /// The current state.
    pub fn state(&self) -> ServingState {
        ServingState {
            is_open: self.counts.state().is_open && !self.inbox.is_closed(),
            ..self.counts.state()
        }
    }

    /// Queues texts, either all or none. They are written as places become free.
    ///
    /// # Errors
    /// If one does not fit the model, or they do not fit the queue.
    pub fn write(&self, texts: Vec<TextRequest>) -> Result<Vec<Writing>, ServingError> {
        self.check_count(texts.len())?;
        let seats = texts.iter().map(|text| self.seat(text));
        let seats: Vec<(Seat, Writing)> = seats.collect::<Result<_, _>>()?;
        self.enter_queue(texts.len())?;
        let (seats, writings) = seats.into_iter().unzip();
        self.send(Message::Texts(seats))?;
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
        let mut resolved = resolved.map_err(Error::from)?;
        resolved.stop.ends.more.extend(&text.ends);
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

    /// Queues token sequences to be scored, either all or none, and waits for their log-probabilities.
    ///
    /// # Errors
    /// If the model has no exact likelihood, a sequence does not fit it, they do not fit the queue, or the device
    /// fails.
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
        // If the thread ended before its handles did, it panicked.
        let sent = self.inbox.try_send(message);
        sent.map_err(|_| Error::Crashed.into())
    }

    /// Drops this handle. If it was the last one, waits until pending requests are done and the model's memory has been
    /// freed.
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

/// A text being written: a [`Stream`] of its events. Dropping it cancels the text and frees its place after the current
/// pass.
pub struct Writing {
    resolved: Arc<Resolved>,
    events: Pin<Box<Receiver<Result<Told, ServingError>>>>,
    is_over: bool,
}

impl Writing {
    /// The resolved request, which determines what is written.
    pub fn resolved(&self) -> &Arc<Resolved> {
        &self.resolved
    }

    /// The next event, or `None` after the text or an error.
    pub async fn next(&mut self) -> Option<Result<Told, ServingError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Waits for the finished text.
    ///
    /// # Errors
    /// If the device fails, or [`Error::Stopped`] if the text or an error was read before.
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
        // If the channel closes before the text is finished, the thread has panicked.
        let told = told.unwrap_or(Err(Error::Crashed.into()));
        this.is_over = !matches!(told, Ok(Told::Header(_) | Told::Step { .. }));
        Poll::Ready(Some(told))
    }
}

#[cfg(test)]
mod tests;
