//! The serving thread: requests wait at the desk until they get a place in the running batch.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use async_channel::Receiver;

use super::batch::Batch;
use super::echo::{self, EchoJob};
use super::seat::Seat;
use super::state::Counts;
use super::{ServingError, ServingOptions};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::files::Shared;

/// Opens the device and loads the model onto it.
pub(super) type Opener = Box<dyn Fn() -> Opening + Send>;
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Engine, EngineError>>>>;

/// A message to the desk.
pub(super) enum Message {
    /// Texts that may start in one pass.
    Texts(Vec<Seat>),
    Echo(EchoJob),
}

pub(super) struct Desk {
    pub open: Opener,
    pub shared: Arc<Shared>,
    pub options: ServingOptions,
    /// Maximum tokens per text.
    pub length: usize,
    pub inbox: Receiver<Message>,
    pub counts: Arc<Counts>,
    pub waiting: VecDeque<Seat>,
    pub echoes: VecDeque<EchoJob>,
    /// Texts that had a place when the device failed for an unrelated reason.
    pub returning: VecDeque<Seat>,
    /// Texts that were in the pass in which the device failed. One of them may be the cause, so each now runs alone.
    pub suspects: VecDeque<Seat>,
}

/// When the thread ends, even by a panic, pending messages are dropped so that their senders are notified.
impl Drop for Desk {
    fn drop(&mut self) {
        self.inbox.close();
        while self.inbox.try_recv().is_ok() {}
    }
}

impl Desk {
    /// Serves until all handles are dropped and nothing is left to do, starting with `batch`.
    pub async fn serve(mut self, batch: Batch) {
        let mut batch = Some(batch);
        while self
            .receive(batch.as_ref().is_none_or(Batch::is_idle))
            .await
        {
            let mut running = match batch.take() {
                Some(batch) => batch,
                None => match self.reopen().await {
                    Ok(batch) => batch,
                    Err(error) => {
                        self.turn_away(&error);
                        continue;
                    }
                },
            };
            self.forget();
            match self.work(&mut running).await {
                Ok(()) => batch = Some(running),
                Err(failed) => batch = self.recover(running, failed).await,
            }
            let running = batch.as_ref().map_or(0, Batch::running);
            self.counts.set_running(running);
        }
        if let Some(batch) = batch {
            let (engine, _) = batch.take_apart().await;
            // A lost device has nothing to release.
            let _ = engine.close();
        }
    }

    /// Takes in new messages, waiting for one if there is nothing else to do. Returns false once no more messages can
    /// come and nothing is left to do.
    async fn receive(&mut self, is_idle: bool) -> bool {
        let has_work = !(is_idle
            && self.waiting.is_empty()
            && self.returning.is_empty()
            && self.suspects.is_empty()
            && self.echoes.is_empty());
        if !has_work {
            match self.inbox.recv().await {
                Ok(message) => self.take(message),
                Err(_) => return false,
            }
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        true
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Texts(seats) => self.waiting.extend(seats),
            Message::Echo(job) => self.echoes.push_back(job),
        }
    }

    /// Drops requests whose callers are gone.
    fn forget(&mut self) {
        let before = self.waiting.len() + self.echoes.len();
        self.waiting.retain(|seat| !seat.is_forsaken());
        self.echoes.retain(|job| !job.told.is_closed());
        self.returning.retain(|seat| !seat.is_forsaken());
        self.suspects.retain(|seat| !seat.is_forsaken());
        let left = self.waiting.len() + self.echoes.len();
        self.counts.leave_queue(before - left);
    }

    /// Runs one step of the running batch, and scores one group of texts.
    async fn work(&mut self, batch: &mut Batch) -> Result<(), Failed> {
        self.admit(batch)?;
        if !batch.is_idle() {
            let ran = batch.round(self.shared.codec.as_ref()).await;
            self.counts.ran(ran.map_err(Failed::in_batch)?);
        }
        let count = echo::group(
            batch.engine(),
            self.echoes.iter().map(|job| (&job.echo, job.is_alone)),
        );
        if count == 0 {
            return Ok(());
        }
        let mut jobs: Vec<EchoJob> = self.echoes.drain(..count).collect();
        let Err(error) = echo::run(batch.engine(), &jobs).await else {
            self.counts.leave_queue(count);
            return Ok(());
        };
        let failed = Failed {
            is_lost: error.device_fault().is_some(),
            of_batch: None,
        };
        // A job is rejected only when it fails for the second time, running alone: the first failure may have been
        // caused by another.
        if let Some(job) = jobs.first().filter(|job| job.is_alone) {
            self.counts.leave_queue(1);
            job.tell(Err(ServingError::Model(error.into())));
            jobs.clear();
        }
        for mut job in jobs.into_iter().rev() {
            job.is_alone = true;
            self.echoes.push_front(job);
        }
        Err(failed)
    }

    /// Gives places to waiting texts, first come, first served.
    fn admit(&mut self, batch: &mut Batch) -> Result<(), Failed> {
        if batch.running() == 0
            && let Some(seat) = self.suspects.pop_front()
        {
            return batch.seat(seat).map_err(Failed::in_batch);
        }
        while self.suspects.is_empty() && batch.has_place() {
            let seat = match self.returning.pop_front() {
                Some(seat) => seat,
                None => {
                    let Some(mut seat) = self.waiting.pop_front() else {
                        break;
                    };
                    self.counts.leave_queue(1);
                    seat.begin();
                    seat
                }
            };
            batch.seat(seat).map_err(Failed::in_batch)?;
        }
        Ok(())
    }

    /// Handles a failure: if it can be attributed to a single text, that text is told; the others are kept. A lost
    /// device is reopened.
    async fn recover(&mut self, batch: Batch, failed: Failed) -> Option<Batch> {
        self.counts.failed();
        let (engine, mut seats) = batch.take_apart().await;
        // One whose caller is gone may have caused it as well as any other.
        let was_alone = seats.len() == 1;
        seats.retain(|seat| !seat.is_forsaken());
        match failed.of_batch {
            None => self.returning.extend(seats),
            Some(error) if was_alone => {
                if let Some(seat) = seats.pop() {
                    seat.fail(ServingError::Model(error.into()));
                }
            }
            Some(_) => self.suspects.extend(seats),
        }
        let restarted = if failed.is_lost {
            // A lost device has nothing to release.
            let _ = engine.close();
            self.reopen().await
        } else {
            Batch::start(engine, self.options.places, self.length)
        };
        match restarted {
            Ok(batch) => Some(batch),
            Err(error) => {
                self.turn_away(&error);
                None
            }
        }
    }

    async fn reopen(&mut self) -> Result<Batch, EngineError> {
        let engine = (self.open)().await?;
        let batch = Batch::start(engine, self.options.places, self.length)?;
        self.counts.set_open(true);
        Ok(batch)
    }

    /// Tells every caller that there is no device. The next request tries again.
    fn turn_away(&mut self, error: &EngineError) {
        self.counts.set_open(false);
        self.counts.set_running(0);
        self.counts
            .leave_queue(self.waiting.len() + self.echoes.len());
        let unavailable = || ServingError::Unavailable(error.to_string());
        let seats = self.suspects.drain(..).chain(self.returning.drain(..));
        for seat in seats.chain(self.waiting.drain(..)) {
            seat.fail(unavailable());
        }
        for job in self.echoes.drain(..) {
            job.tell(Err(unavailable()));
        }
    }
}

/// A failed pass.
struct Failed {
    /// The device has to be reopened.
    is_lost: bool,
    /// The error, if it was a pass of the running batch.
    of_batch: Option<EngineError>,
}

impl Failed {
    fn in_batch(error: EngineError) -> Self {
        Self {
            is_lost: error.device_fault().is_some(),
            of_batch: Some(error),
        }
    }
}
