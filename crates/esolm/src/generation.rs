//! Running generations: the model's thread carries out a plan, redraws texts in which the model extended a given word,
//! and reports progress as events.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_channel::Sender;
use esolm_core::ending::{Ending, Watch};
use esolm_core::plan::Plan;
use esolm_core::request::{MAX_REDRAWS, Request, Resolved};
use esolm_core::text::TextCodec;
use esolm_core::trace::{Event, Footer, Step};
use futures_core::Stream;

use crate::engine::{Engine, Written};
use crate::error::Error;
use crate::executor::Draw;
use crate::files::Shared;
use crate::turn::turn;
use crate::worker::{Delivery, Worker};

/// A running generation: a [`Stream`] of [`Event`]s. A header comes first, then one step per pass, and finally the
/// footer with the texts.
///
/// Nothing happens until it is first polled. From then on it occupies the model, and other calls wait until it ends.
/// Passes run at most two steps ahead of the reader, so a program that holds an unfinished generation and awaits
/// another call of the same model before reading on deadlocks: finish, stop or drop the generation first.
///
/// It can be dropped at any time; the model then ends it after the current pass and is free for the next call. To end
/// it early and keep what was written, call [`Generation::stop`] and read on to the footer.
pub struct Generation {
    state: State,
    stop: Arc<AtomicBool>,
}

enum State {
    Waiting(Box<Start>),
    Running(Delivery<Result<Event, Error>>),
    Ended,
}

struct Start {
    worker: Worker,
    job: Job,
}

/// What is sent to the model's thread.
struct Job {
    shared: Arc<Shared>,
    request: Request,
    observe: bool,
    stop: Arc<AtomicBool>,
}

impl Generation {
    pub(crate) fn new(worker: Worker, shared: Arc<Shared>, request: Request) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let job = Job {
            shared,
            request,
            observe: true,
            stop: stop.clone(),
        };
        Self {
            state: State::Waiting(Box::new(Start { worker, job })),
            stop,
        }
    }

    /// Does not report which tokens each step revealed ([`Step::revealed`](crate::trace::Step::revealed) stays empty),
    /// so that nothing is read back from a GPU before the end. Has no effect once the generation has started.
    pub fn unobserved(mut self) -> Self {
        if let State::Waiting(start) = &mut self.state {
            start.job.observe = false;
        }
        self
    }

    /// Ends the generation after the current pass. The remaining steps and the footer are still delivered.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// The flag that [`Generation::stop`] sets, for use in a signal handler or on another thread.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The next event, or `None` after the footer or an error.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Runs the generation to its end.
    ///
    /// # Errors
    /// If the request does not fit the model, or the device fails; [`Error::Stopped`] if the footer or an error was
    /// read before.
    pub async fn finish(mut self) -> Result<Footer, Error> {
        while let Some(event) = self.next().await {
            if let Event::Footer(footer) = event? {
                return Ok(footer);
            }
        }
        Err(Error::Stopped)
    }

    /// A blocking iterator over the events. Do not use it from code run by an async executor.
    #[cfg(not(target_family = "wasm"))]
    pub fn blocking(mut self) -> impl Iterator<Item = Result<Event, Error>> {
        std::iter::from_fn(move || pollster::block_on(self.next()))
    }
}

impl Stream for Generation {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let state = &mut self.get_mut().state;
        *state = match std::mem::replace(state, State::Ended) {
            State::Waiting(start) => start.run(),
            other => other,
        };
        let State::Running(events) = state else {
            return Poll::Ready(None);
        };
        if events.is_over() {
            return Poll::Ready(None);
        }
        let event = ready!(events.poll_next(context));
        // If the channel closes before the footer, the model's thread has panicked.
        let event = event.unwrap_or(Err(Error::Crashed));
        if !matches!(event, Ok(Event::Header(_) | Event::Step(_))) {
            events.end();
        }
        Poll::Ready(Some(event))
    }
}

/// The texts of one attempt, watched for their ends.
struct Texts<'a> {
    /// One per text. Lags one step behind the device.
    watches: Vec<Watch<'a>>,
    /// Log-probabilities of each text's tokens, by position.
    logprobs: Vec<Vec<Option<f32>>>,
}

impl<'a> Texts<'a> {
    /// `texts` are the texts' indices in the batch.
    fn new(
        resolved: &'a Resolved,
        codec: Option<&'a TextCodec>,
        plan: &Plan,
        texts: &[usize],
    ) -> Self {
        let known = plan.output(&plan.initial_tokens());
        let logprobs = known.iter().map(|tokens| vec![None; tokens.len()]);
        Self {
            logprobs: logprobs.collect(),
            watches: (texts.iter().zip(known))
                .map(|(&text, known)| resolved.watch(text, known, codec))
                .collect(),
        }
    }

    /// Records a step and returns the texts that end with it.
    fn after(&mut self, step: &Step) -> Vec<usize> {
        for revealed in &step.revealed {
            let text = revealed.sequence as usize;
            self.watches[text].reveal(revealed.position, revealed.token);
            self.logprobs[text][revealed.position as usize] = revealed.logprob;
        }
        let watches = self.watches.iter_mut().enumerate();
        watches
            .filter_map(|(text, watch)| watch.look().then_some(text))
            .collect()
    }
}

impl Start {
    fn run(self) -> State {
        let (events, receiver) = async_channel::bounded(1);
        let Self { worker, job } = self;
        worker.queue(Box::new(move |engine| {
            Box::pin(async move {
                let told = match job.write(engine, &events).await {
                    Ok(Some(footer)) => Ok(Event::Footer(footer)),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                // The receiver may be gone.
                let _ = events.send(told).await;
            })
        }));
        State::Running(worker.delivery(receiver))
    }
}

impl Job {
    /// Runs attempts until all texts are done. Returns no footer if the receiver is gone.
    async fn write(
        &self,
        engine: &mut Engine,
        events: &Sender<Result<Event, Error>>,
    ) -> Result<Option<Footer>, Error> {
        let Shared { codec, name, .. } = &*self.shared;
        let codec = codec.as_ref();
        let resolved = self.shared.resolve(&self.request)?;
        let piece = |token: u32| codec.map_or_else(String::new, |codec| codec.decode(&[token]));
        let before = engine.counters();
        let mut plan = self.shared.draw(&resolved)?;
        let mut texts: Vec<usize> = (0..plan.sequences.len()).collect();
        let mut footer = Footer {
            tokens: vec![Vec::new(); texts.len()],
            logprobs: vec![Vec::new(); if resolved.logprobs { texts.len() } else { 0 }],
            ..Footer::default()
        };
        let mut endings = vec![Ending::default(); texts.len()];
        for attempt in 0.. {
            let header = resolved.header(name, &plan, attempt, texts.clone());
            if events.send(Ok(Event::Header(header))).await.is_err() {
                return Ok(None);
            }
            let draw = Draw {
                sampler: resolved.sampler(attempt),
                seed: resolved.seed(attempt),
                noise: None,
                suppressed: &resolved.suppressed,
                unsure: &resolved.unsure,
            };
            // Stop conditions look at the tokens drawn, so they have to be read.
            let observe = self.observe || resolved.stop.is_any();
            let mut run = engine.run(&plan, draw, observe)?;
            if resolved.logprobs {
                run = run.with_logprobs();
            }
            let mut under_way = Texts::new(&resolved, codec, &plan, &texts);
            loop {
                if self.stop.load(Ordering::SeqCst) {
                    run.launch_no_more();
                }
                let Some(mut step) = run.next().await? else {
                    break;
                };
                for text in under_way.after(&step) {
                    run.end(text);
                }
                step.attempt = attempt;
                step.seconds += footer.seconds;
                for (text, _) in &mut step.window {
                    *text = texts[*text as usize] as u32;
                }
                for revealed in &mut step.revealed {
                    revealed.sequence = texts[revealed.sequence as usize] as u32;
                    revealed.text = piece(revealed.token);
                }
                if events.send(Ok(Event::Step(step))).await.is_err() {
                    run.settle().await;
                    return Ok(None);
                }
                turn().await;
            }
            let Written {
                tokens,
                is_finished,
                nfe,
                rows,
                seconds,
                ..
            } = run.stop().await?;
            footer.interrupted = !is_finished;
            footer.nfe += nfe;
            footer.rows += rows;
            footer.seconds += seconds;
            let Texts { watches, logprobs } = under_way;
            for ((&text, watch), tokens) in texts.iter().zip(watches).zip(tokens) {
                (footer.tokens[text], endings[text]) = watch.finish(tokens);
            }
            if resolved.logprobs {
                for (&text, mut logprobs) in texts.iter().zip(logprobs) {
                    logprobs.truncate(footer.tokens[text].len());
                    footer.logprobs[text] = logprobs;
                }
            }
            if footer.interrupted {
                break;
            }
            // Redrawing until the given words are left whole is rejection sampling: it draws from the model's
            // distribution conditioned on them.
            footer.run_on = resolved.run_on(&footer.tokens, codec);
            if footer.run_on.is_empty() || attempt == MAX_REDRAWS {
                break;
            }
            texts.clone_from(&footer.run_on);
            plan = resolved.redraw(&texts, attempt + 1)?;
        }
        footer.text = resolved.texts(&footer.tokens, &endings, codec);
        footer.finish = endings.iter().map(|ending| ending.finish).collect();
        footer.ended = (0..endings.len())
            .filter(|&text| endings[text].is_early)
            .collect();
        if codec.is_some() {
            for &token in footer.tokens.iter().flatten() {
                let pieces = &mut footer.pieces;
                pieces.entry(token).or_insert_with(|| piece(token));
            }
        }
        footer.counters = engine.counters().since(&before);
        Ok(Some(footer))
    }
}
