//! Passes that are recorded when they come again: a pass of few rows takes less time on a large GPU than its launches take the host.

use std::collections::VecDeque;

use super::tables::Leading;
use crate::error::EngineError;
use crate::kernels::runtime::{Gpu, Recording};

/// Most passes that are kept; each keeps some megabytes of small buffers from others.
const MOST: usize = 32;
/// Shapes of passes that were launched and are remembered.
const SEEN: usize = 64;
/// Passes after which a recording that was not replayed makes room for another. Each makes room in turn only where it has been of no use
/// for long, since it costs more to record a pass than to launch it.
const STALE: u64 = 128;

/// What of a pass decides which launches it takes, on the buffers of one batch: of all rows, and of those that are wanted.
pub(super) type Shape = [Leading; 2];

/// The recorded passes of a batch.
#[derive(Default)]
pub(super) struct Recordings {
    /// Those launched last.
    seen: VecDeque<Shape>,
    kept: Vec<Kept>,
    passes: u64,
    /// The device records nothing.
    is_off: bool,
}

/// A recorded pass.
struct Kept {
    shape: Shape,
    recording: Recording,
    /// The number of the pass that it was last replayed for.
    used: u64,
}

impl Recordings {
    /// Runs a pass that `launch` launches: one by one the first time, which compiles what is missing, and later from a recording.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device is lost.
    pub fn run(&mut self, gpu: &Gpu, shape: Shape, launch: impl Fn()) -> Result<(), EngineError> {
        // In a browser each model that recorded left some 90 KB of the module's memory taken.
        if cfg!(target_family = "wasm") || self.is_off {
            launch();
            return Ok(());
        }
        self.passes += 1;
        // What was recorded on another thread is of no use here.
        self.kept.retain(|kept| gpu.can_replay(&kept.recording));
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.shape == shape) {
            kept.used = self.passes;
            return gpu.replay(&kept.recording);
        }
        if !self.is_worth_it(shape) {
            launch();
            return Ok(());
        }
        let Some(recording) = gpu.record(&launch) else {
            self.is_off = true;
            launch();
            return Ok(());
        };
        gpu.replay(&recording)?;
        self.kept.push(Kept {
            shape,
            recording,
            used: self.passes,
        });
        Ok(())
    }

    /// How many passes are recorded.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether a pass that is not kept has come before, and there is room for it.
    fn is_worth_it(&mut self, shape: Shape) -> bool {
        if !self.seen.contains(&shape) {
            if self.seen.len() == SEEN {
                self.seen.pop_front();
            }
            self.seen.push_back(shape);
            return false;
        }
        if self.kept.len() < MOST {
            return true;
        }
        let oldest = (0..MOST).min_by_key(|&i| self.kept[i].used);
        let stale = oldest.filter(|&i| self.passes - self.kept[i].used >= STALE);
        stale.map(|i| self.kept.swap_remove(i)).is_some()
    }
}
