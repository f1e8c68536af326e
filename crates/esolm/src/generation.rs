//! Texts under way: a plan is run on the model's thread, texts that ran on at a given word are drawn again, and events tell of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_channel::{Receiver, Sender};
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
use crate::worker::Worker;

/// A generation: a [`Stream`] of [`Event`]s, first a header, then a step after each pass, last the footer with the texts.
///
/// Nothing happens before it is first polled; from then on it holds the model, and calls made meanwhile wait until it ends. Passes run
/// at most two steps ahead of whoever reads, so a program that awaits another call of the same model while it holds an unfinished
/// generation, and reads on only afterwards, waits for ever: finish, stop or drop the generation first.
///
/// It may be dropped at any moment: the model ends it after the pass under way and is free for the next call. To end it early and keep
/// what was written, call [`Generation::stop`] and read on to the footer.
pub struct Generation {
    state: State,
    stop: Arc<AtomicBool>,
}

enum State {
    Waiting(Box<Start>),
    Running(Pin<Box<Receiver<Result<Event, Error>>>>),
    Ended,
}

struct Start {
    worker: Worker,
    job: Job,
}

/// What the model's thread is told.
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

    /// Leaves out which tokens each step revealed ([`Step::revealed`](crate::trace::Step::revealed) stays empty), so that nothing is
    /// read back from a GPU before the end. Without effect once it runs.
    pub fn unobserved(mut self) -> Self {
        if let State::Waiting(start) = &mut self.state {
            start.job.observe = false;
        }
        self
    }

    /// Ends the run after the pass under way. The steps so far and the footer still come.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// What [`Generation::stop`] sets, for a signal handler or another thread.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The next event; nothing after the footer or an error.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Lets the run go to its end.
    ///
    /// # Errors
    /// When the request does not fit the model, or the device fails; [`Error::Stopped`] when the footer or an error was read before.
    pub async fn finish(mut self) -> Result<Footer, Error> {
        while let Some(event) = self.next().await {
            if let Event::Footer(footer) = event? {
                return Ok(footer);
            }
        }
        Err(Error::Stopped)
    }

    /// The events one by one, each waited for. Not for code that an async executor runs.
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
            State::Waiting(start) => State::Running(Box::pin(start.run())),
            other => other,
        };
        let State::Running(events) = state else {
            return Poll::Ready(None);
        };
        let event = ready!(events.as_mut().poll_next(context));
        // A channel that closes before the footer belonged to a thread that panicked.
        let event = event.unwrap_or(Err(Error::Crashed));
        if !matches!(event, Ok(Event::Header(_) | Event::Step(_))) {
            *state = State::Ended;
        }
        Poll::Ready(Some(event))
    }
}

/// The texts of an attempt, watched for their ends.
struct Texts<'a> {
    /// One for each, as far as it is known: one step behind the device.
    watches: Vec<Watch<'a>>,
    /// Their log-probabilities by position.
    logprobs: Vec<Vec<Option<f32>>>,
}

impl<'a> Texts<'a> {
    /// `texts` are their indices within the batch.
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

    /// The texts that end with a step.
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
    fn run(self) -> Receiver<Result<Event, Error>> {
        let (events, receiver) = async_channel::bounded(1);
        let Self { worker, job } = self;
        worker.queue(Box::new(move |engine| {
            Box::pin(async move {
                let told = match job.write(engine, &events).await {
                    Ok(Some(footer)) => Ok(Event::Footer(footer)),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                // Nobody may be left to hear it.
                let _ = events.send(told).await;
            })
        }));
        receiver
    }
}

impl Job {
    /// Runs attempt after attempt. There is no footer once nobody listens any more.
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
            // What ends texts is seen in what was drawn.
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
            // Drawing again until the words are whole draws from the model's distribution given that they are.
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
