//! Recording passes that occur again and replaying them: on a large GPU, a pass with few rows takes less time than launching
//! it takes the host.

use std::collections::VecDeque;

use super::tables::Leading;
use crate::error::EngineError;
use crate::kernels::runtime::{Gpu, Recording};

/// Maximum number of recordings; each holds some megabytes of small buffers.
const MOST: usize = 32;
/// How many shapes of launched passes to remember.
const SEEN: usize = 64;
/// Number of passes after which a recording that was not replayed may be dropped for another. Not sooner, since recording a
/// pass costs more than launching it.
const STALE: u64 = 128;

/// What determines the launches of a pass on the buffers of one batch: for all rows, and for the sampled ones.
pub(super) type Shape = [Leading; 2];

/// The recorded passes of a batch.
#[derive(Default)]
pub(super) struct Recordings {
    /// Shapes of launched passes that are not recorded, in the order of their first launch.
    seen: VecDeque<Shape>,
    kept: Vec<Kept>,
    passes: u64,
    /// Whether the device cannot record.
    is_off: bool,
}

/// A recorded pass.
struct Kept {
    shape: Shape,
    recording: Recording,
    /// The number of the pass for which it was last replayed.
    used: u64,
}

impl Recordings {
    /// Runs a pass that `launch` launches: kernel by kernel the first time, which compiles missing pipelines, and later from a
    /// recording.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the device is lost.
    pub fn run(&mut self, gpu: &Gpu, shape: Shape, launch: impl Fn()) -> Result<(), EngineError> {
        // In a browser, each model that recorded left some 90 KB of the module's memory allocated.
        if cfg!(target_family = "wasm") || self.is_off {
            launch();
            return Ok(());
        }
        self.passes += 1;
        // Recordings made on another thread cannot be replayed here.
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

    /// Number of recordings.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether a pass without a recording occurred before and there is room to record it.
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
