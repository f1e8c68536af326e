//! Passes of few rows, recorded: such a pass takes less time on a large GPU than its launches take the host.

use std::collections::{HashMap, HashSet};

use super::tables::Leading;
use crate::error::EngineError;
use crate::kernels::runtime::{Gpu, Recording};

/// Most passes that are kept; each keeps some megabytes of small buffers from others.
const MOST: usize = 32;

/// What of a pass decides which launches it takes, on the buffers of one batch: of all rows, and of those that are wanted.
pub(super) type Shape = [Leading; 2];

/// The recorded passes of a batch.
#[derive(Default)]
pub(super) struct Recordings {
    seen: HashSet<Shape>,
    kept: HashMap<Shape, Recording>,
    /// The device records nothing.
    is_off: bool,
}

impl Recordings {
    /// Runs a pass that `launch` launches: one by one the first time, which compiles what is missing, and later from a recording.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device is lost.
    pub fn run(&mut self, gpu: &Gpu, shape: Shape, launch: impl Fn()) -> Result<(), EngineError> {
        // In a browser each model that recorded left some 90 KB of the module's memory taken.
        if cfg!(target_family = "wasm") {
            launch();
            return Ok(());
        }
        let kept = self.kept.get(&shape);
        if let Some(recording) = kept.filter(|recording| gpu.can_replay(recording)) {
            return gpu.replay(recording);
        }
        let is_first = self.seen.insert(shape);
        if is_first || self.is_off || self.kept.len() >= MOST {
            launch();
            return Ok(());
        }
        let Some(recording) = gpu.record(&launch) else {
            self.is_off = true;
            launch();
            return Ok(());
        };
        gpu.replay(&recording)?;
        self.kept.insert(shape, recording);
        Ok(())
    }
}
