//! Texts under way: a plan is run on the model's thread, texts that ran on at a given word are drawn again, and events tell of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_channel::{Receiver, Sender};
use esolm_core::config::Family;
use esolm_core::plan::Plan;
use esolm_core::request::{MAX_REDRAWS, Request, Resolved};
use esolm_core::stop::StopRules;
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

/// Watches for texts that the rules end, block by block.
struct Ends<'a> {
    rules: &'a StopRules,
    mask: u32,
    /// Tokens of a block; of a SetDLM, which is looked at after each, one.
    size: usize,
    /// Leading tokens of each text that are given, of a SetDLM.
    given: Option<&'a [usize]>,
    /// As far as they are known, one step behind the device.
    texts: Vec<Vec<u32>>,
    /// The blocks of each text that were looked at; all once it has ended.
    seen: Vec<usize>,
}

impl<'a> Ends<'a> {
    fn new(resolved: &'a Resolved, plan: &Plan) -> Self {
        let texts = plan.output(&plan.initial_tokens());
        Self {
            rules: &resolved.stop,
            mask: plan.mask_index,
            size: match plan.family {
                Family::SetDlm => 1,
                _ => plan.block_size.unwrap_or(plan.length).max(1),
            },
            given: (plan.family == Family::SetDlm).then_some(&resolved.given.until[..]),
            seen: vec![0; texts.len()],
            texts,
        }
    }

    /// The texts that end with a step, and how many of their tokens to keep.
    fn after(&mut self, step: &Step) -> Vec<(usize, usize)> {
        let mut ended = Vec::new();
        if self.rules.rules.is_empty() {
            return ended;
        }
        for revealed in &step.revealed {
            self.texts[revealed.sequence as usize][revealed.position as usize] = revealed.token;
        }
        for (index, (text, seen)) in self.texts.iter().zip(&mut self.seen).enumerate() {
            let blocks = text.chunks(self.size).skip(*seen);
            let known = blocks
                .take_while(|block| !block.contains(&self.mask))
                .count();
            // Blocks that were given whole are looked at with the one after them.
            for _ in 0..known {
                *seen += 1;
                let so_far = &text[..text.len().min(*seen * self.size)];
                let end = match self.given {
                    Some(given) => self.rules.end_of_sets(so_far, given[index % given.len()]),
                    None => self.rules.end(so_far),
                };
                if let Some(kept) = end {
                    ended.push((index, kept));
                    *seen = text.len();
                    break;
                }
            }
        }
        ended
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
            ..Footer::default()
        };
        // Where rules end texts. No text that they end is drawn again.
        let mut cut = vec![None; texts.len()];
        for attempt in 0.. {
            let header = resolved.header(name, &plan, attempt, texts.clone());
            if events.send(Ok(Event::Header(header))).await.is_err() {
                return Ok(None);
            }
            let draw = Draw {
                sampler: resolved.sampler(attempt),
                seed: resolved.seed(attempt),
                noise: None,
            };
            // Rules read what was drawn.
            let observe = self.observe || !resolved.stop.rules.is_empty();
            let mut run = engine.run(&plan, draw, observe)?;
            let mut ends = Ends::new(&resolved, &plan);
            loop {
                if self.stop.load(Ordering::SeqCst) {
                    run.launch_no_more();
                }
                let Some(mut step) = run.next().await? else {
                    break;
                };
                for (text, kept) in ends.after(&step) {
                    run.end(text);
                    footer.ended.push(text);
                    cut[text] = Some(kept);
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
            } = run.stop().await?;
            footer.interrupted = !is_finished;
            footer.nfe += nfe;
            footer.rows += rows;
            footer.seconds += seconds;
            for (&text, tokens) in texts.iter().zip(tokens) {
                footer.tokens[text] = tokens;
            }
            for (tokens, cut) in footer.tokens.iter_mut().zip(&cut) {
                tokens.truncate(cut.unwrap_or(tokens.len()));
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
        footer.text = resolved.texts(&footer.tokens, codec);
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
