//! The log of a training: one JSON object per line.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::state::write_whole;

/// A line in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Describes the training, once per start.
    Start {
        /// Steps already done.
        step: u64,
        /// Total steps.
        steps: u64,
        /// Parameters of the network.
        parameters: u64,
        /// Training tokens per epoch.
        epoch_tokens: u64,
        /// The device.
        device: String,
    },
    /// Means over the steps since the previous such line.
    Train {
        /// Steps done.
        step: u64,
        /// Tokens trained on.
        tokens: u64,
        /// Sum of both losses, in nats per token.
        loss: f64,
        /// The diffusion part.
        diffusion: f64,
        /// The sequential part; the whole loss of AR.
        sequential: f64,
        /// Learning rate of the last step.
        lr: f64,
        /// Norm of the last gradient before clipping.
        grad_norm: f64,
        /// Speed since the previous such line.
        tokens_per_second: f64,
        /// Total seconds, including earlier runs.
        seconds: f64,
    },
    /// Results of the averaged weights on the hold-out, always with the same noise.
    Validation {
        /// Steps done.
        step: u64,
        /// Tokens trained on.
        tokens: u64,
        /// The bound, the sum of both parts, in nats per token.
        loss: f64,
        /// The diffusion part.
        diffusion: f64,
        /// The sequential part.
        sequential: f64,
    },
    /// The run ended.
    End {
        /// Steps done.
        step: u64,
        /// Tokens trained on.
        tokens: u64,
        /// Total seconds.
        seconds: f64,
        /// Whether it was stopped before its last step.
        interrupted: bool,
    },
}

impl Line {
    /// Number of steps done when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start { step, .. }
            | Self::Train { step, .. }
            | Self::Validation { step, .. }
            | Self::End { step, .. } => *step,
        }
    }
}

/// Opens the log for appending, after removing lines that a stopped run wrote after its last state.
pub(crate) fn open_log(path: &Path, step: u64) -> Result<File, TrainError> {
    let lines: Vec<Line> = match read_log(path) {
        Ok(lines) => lines,
        Err(TrainError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let kept: String = lines
        .iter()
        .filter(|line| line.step() <= step)
        .filter_map(|line| Some(serde_json::to_string(line).ok()? + "\n"))
        .collect();
    write_whole(path, kept)?;
    OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(|e| TrainError::write(path, e))
}

/// The lines of a log, skipping anything else.
///
/// # Errors
/// If the file cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<Line>, TrainError> {
    let bytes = fs::read(path).map_err(|e| TrainError::read(path, e))?;
    // A torn or foreign line must not keep a training from continuing.
    Ok(String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}
