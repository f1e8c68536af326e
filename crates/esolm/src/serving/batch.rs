//! The running batch: a fixed number of places that texts take and leave between passes, each text with its own plan.

use std::collections::VecDeque;

use esolm_core::plan::SlotMove;
use esolm_core::reveal::{Choice, Group};
use esolm_core::rows::{Layout, MASKED, Row, StepRows};
use esolm_core::text::TextCodec;

use super::LOGITS_BYTES;
use super::seat::{Landed, Seat};
use super::steps::Taken;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::executor::{Pending, Share};
use crate::likelihood::busy_rows;

/// Maximum number of queued passes while no tokens are read.
const QUEUED_PASSES: usize = 32;

/// An engine whose running batch is divided into places.
pub(super) struct Batch {
    /// Tokens per place in the token buffer.
    span: usize,
    seats: Vec<Option<Seat>>,
    /// The place at which the next pass starts collecting steps, in case they do not all fit.
    next: usize,
    /// Passes whose tokens have not been looked at yet: one, as long as there is more to run.
    flights: VecDeque<Flight>,
    /// Passes since the last time the device was waited for.
    unread: usize,
    /// Maximum rows per pass, unless a single text needs more.
    rows: usize,
    /// Dropped last, since pending reads keep a device from being closed.
    engine: Engine,
}

/// A launched pass.
struct Flight {
    reading: Option<Pending<'static, Vec<u32>>>,
    steps: Vec<Flown>,
}

/// One text's step in a pass.
struct Flown {
    place: usize,
    serial: u64,
    landed: Landed,
}

/// Size of a pass, for the statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ran {
    pub rows: usize,
    pub drawn: usize,
}

impl Batch {
    /// Starts a batch of `places` empty places, each for texts of up to `length` tokens.
    ///
    /// # Errors
    /// If it does not fit the device.
    pub fn start(mut engine: Engine, places: usize, length: usize) -> Result<Self, EngineError> {
        let one = Engine::place(length);
        let layout = Layout {
            sequences: places,
            slots: one.slots,
            tokens: places * one.tokens,
        };
        let rows = busy_rows(&engine).min(places * one.slots).max(one.slots);
        engine.prepare(&layout, rows, rows)?;
        engine.start(&layout, &vec![engine.config().mask_index; layout.tokens])?;
        Ok(Self {
            engine,
            span: one.tokens,
            seats: (0..places).map(|_| None).collect(),
            next: 0,
            flights: VecDeque::new(),
            unread: 0,
            rows,
        })
    }

    /// The engine, for work outside the batch. That work must swap the batch back in.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Number of texts that have a place.
    pub fn running(&self) -> usize {
        self.seats.iter().flatten().count()
    }

    /// Whether nothing is left to run or to look at.
    pub fn is_idle(&self) -> bool {
        self.running() == 0 && self.flights.is_empty()
    }

    /// Whether a place is free.
    pub fn has_place(&self) -> bool {
        self.seats.iter().any(Option::is_none)
    }

    /// Gives a text a free place; there must be one.
    ///
    /// # Errors
    /// If the device fails. The text keeps its place even then.
    pub fn seat(&mut self, seat: Seat) -> Result<(), EngineError> {
        let place = self.seats.iter().position(Option::is_none);
        let place = place.ok_or_else(|| EngineError::Rows("no place is free".into()))?;
        let seat = self.seats[place].insert(seat);
        self.engine.write(place * self.span, seat.tokens())
    }

    /// Runs one step of every unfinished text, as far as they fit into one pass, and reports the previous pass.
    ///
    /// # Errors
    /// If the device fails. Errors that concern a single text are reported to that text instead.
    pub async fn round(&mut self, codec: Option<&TextCodec>) -> Result<Ran, EngineError> {
        // A text whose caller is gone leaves its place; the outcome of its pending steps is discarded.
        for seat in &mut self.seats {
            if seat.as_ref().is_some_and(Seat::is_forsaken) {
                *seat = None;
            }
        }
        let chosen = self.choose();
        let ran = match chosen.is_empty() {
            true => Ran::default(),
            false => self.launch(&chosen).await?,
        };
        let waits = |&place: &usize| self.seats[place].as_ref().is_some_and(Seat::waits);
        let is_ahead = !chosen.is_empty() && !chosen.iter().any(waits);
        let ahead = usize::from(is_ahead);
        while self.flights.len() > ahead {
            self.land(codec).await?;
        }
        Ok(ran)
    }

    /// The places whose texts take a step in the next pass, in ascending order: texts whose rows are drawn alike, as
    /// many as fit.
    fn choose(&mut self) -> Vec<usize> {
        let (mut chosen, mut kind) = (Vec::new(), None);
        let [mut rows, mut drawn] = [0; 2];
        let mut with_logits = false;
        let places = self.seats.len();
        let most_drawn = LOGITS_BYTES / (4 * self.engine.config().vocab_size);
        let mut next = None;
        for place in (0..places).map(|i| (self.next + i) % places) {
            let Some(seat) = &self.seats[place] else {
                continue;
            };
            let Some([more_rows, more_drawn]) = seat.next_size() else {
                continue;
            };
            let is_much = rows + more_rows > self.rows
                || (with_logits || seat.wants_logits()) && drawn + more_drawn > most_drawn;
            if !chosen.is_empty() && (is_much || kind != seat.kind()) {
                next = next.or(Some(place));
                continue;
            }
            kind = seat.kind();
            rows += more_rows;
            drawn += more_drawn;
            with_logits |= seat.wants_logits();
            chosen.push(place);
        }
        self.next = next.unwrap_or(0);
        chosen.sort_unstable();
        chosen
    }

    async fn launch(&mut self, chosen: &[usize]) -> Result<Ran, EngineError> {
        let mut ids = vec![0; self.seats.len()];
        let mut step = StepRows::default();
        let mut drawn = Vec::with_capacity(chosen.len());
        let mut steps = Vec::with_capacity(chosen.len());
        let (mut groups, mut moves) = (Vec::new(), Vec::new());
        let (mut rule, mut is_read, mut with_logits) = (None, false, false);
        for &place in chosen {
            let Some(seat) = &mut self.seats[place] else {
                continue;
            };
            ids[place] = seat.number();
            rule = seat.kind().map(|(rule, ..)| rule);
            let (taken, seed, landed) = seat.launch();
            let Taken { rows: own, .. } = taken;
            let (first_row, first_token) = (step.rows.len() as u32, (place * self.span) as u32);
            let moved = |token: u32| match token {
                // Neither the mask marker nor the no-target marker is an index.
                MASKED => MASKED,
                token => token + first_token,
            };
            step.rows.extend(own.rows.iter().map(|row| Row {
                sequence: place as u32,
                source: moved(row.source),
                target: moved(row.target),
                ..*row
            }));
            let from = step.sampled.len();
            let sampled = own.sampled.iter().map(|&row| first_row + row);
            step.sampled.extend(sampled);
            let rows = from..step.sampled.len();
            groups.extend(taken.groups.iter().map(|group| Group {
                first: from as u32 + group.first,
                ..*group
            }));
            moves.extend(taken.moves.iter().map(|one| SlotMove {
                sequence: place as u32,
                ..*one
            }));
            drawn.push((place, rows, seed));
            is_read |= seat.is_read_after(&landed);
            with_logits |= seat.wants_logits() && from < step.sampled.len();
            steps.push(Flown {
                place,
                serial: seat.serial(),
                landed,
            });
        }
        let mut shares: Vec<Share> = Vec::new();
        for (place, rows, seed) in drawn {
            let Some(seat) = self.seats[place].as_ref().filter(|_| !rows.is_empty()) else {
                continue;
            };
            let draw = seat.draw(seed);
            match shares.last_mut() {
                Some(last) if last.draw.is_like(&draw) => last.rows.end = rows.end,
                _ => shares.push(Share { rows, draw }),
            }
        }
        let vocab = self.engine.config().vocab_size;
        self.engine.move_slots(&moves)?;
        let choice = rule.map(|rule| Choice { rule, groups });
        let logits = (self.engine)
            .step_each(&step, &ids, &shares, choice.as_ref(), with_logits)
            .await?;
        if with_logits {
            let mut rest = &logits[..];
            for flown in &mut steps {
                let (own, others) = rest.split_at(flown.landed.targets.len() * vocab);
                rest = others;
                let seat = self.seats[flown.place].as_ref();
                if seat.is_some_and(Seat::wants_logits) {
                    flown.landed.logits = own.to_vec();
                }
            }
        }
        self.unread += 1;
        if is_read {
            self.unread = 0;
        } else if self.unread >= QUEUED_PASSES {
            // Limits the queue, so that a text that leaves is gone soon.
            self.engine.wait().await?;
            self.unread = 0;
        }
        self.flights.push_back(Flight {
            reading: is_read.then(|| self.engine.reading()),
            steps,
        });
        Ok(Ran {
            rows: step.rows.len(),
            drawn: step.sampled.len(),
        })
    }

    /// Looks at the oldest pass.
    async fn land(&mut self, codec: Option<&TextCodec>) -> Result<(), EngineError> {
        let Some(flight) = self.flights.pop_front() else {
            return Ok(());
        };
        let Some(reading) = flight.reading else {
            return Ok(());
        };
        let tokens = reading.await?;
        for Flown {
            place,
            serial,
            landed,
        } in flight.steps
        {
            let Some(seat) = &mut self.seats[place] else {
                continue;
            };
            if seat.serial() != serial {
                continue;
            }
            let own = &tokens[place * self.span..][..seat.tokens().len()];
            match seat.land(landed, own, codec) {
                // The text is redrawn.
                Some(true) => self.engine.write(place * self.span, seat.tokens())?,
                Some(false) => {}
                None => self.seats[place] = None,
            }
        }
        Ok(())
    }

    /// Dissolves the batch into the engine and the texts that had a place, ready to continue in another batch.
    pub async fn take_apart(mut self) -> (Engine, Vec<Seat>) {
        for flight in self.flights.drain(..) {
            if let Some(reading) = flight.reading {
                // Dropping a readback half way would leave its staging buffer mapped.
                let _ = reading.await;
            }
        }
        let mut seats: Vec<Seat> = self.seats.drain(..).flatten().collect();
        seats.iter_mut().for_each(Seat::rewind);
        (self.engine, seats)
    }
}
