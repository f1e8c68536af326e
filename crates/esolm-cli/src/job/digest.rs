//! SHA-256 of what a job's results depend on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use esolm::ModelFiles;
use esolm::checkpoint::{Checkpoint, CheckpointError, Parameter};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// Maximum threads that hash tensors at once: with more, the disk is the bottleneck.
const THREADS: usize = 8;

/// The hexadecimal digits of a digest.
pub fn hexadecimal(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of(bytes: impl AsRef<[u8]>) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// Identifies a model, regardless of the names and location of its files: the digests of its configuration, weights,
/// tokenizer and recommended settings; `name` is for human readers.
pub fn model(files: &ModelFiles) -> Result<Value, Failure> {
    let config = serde_json::to_string(files.config()).unwrap_or_default();
    let recommended = serde_json::to_string(files.recommended()).unwrap_or_default();
    let tokenizer = files.codec().map(|codec| codec.json()).transpose();
    Ok(json!({
        "name": files.name(),
        "configuration": of(config),
        "weights": weights(files.checkpoint())?,
        "tokenizer": tokenizer.map_err(esolm::Error::from)?.map(of),
        "recommended settings": of(recommended),
    }))
}

/// The digest of all parameters, each with its name, shape and form. Reads them once, as loading does, so on most
/// machines they are still in the page cache when the model is loaded.
fn weights(checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
    let parameters: Vec<&Parameter> = checkpoint.parameters().collect();
    let lines = Mutex::new(Vec::with_capacity(parameters.len()));
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), CheckpointError> {
        while let Some(parameter) = parameters.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut hash = Sha256::new();
            checkpoint.stored(parameter, &mut |bytes| hash.update(bytes))?;
            let (name, shape) = (&parameter.name, &parameter.shape);
            let (form, digest) = (parameter.form(), hexadecimal(hash));
            let line = format!("{name} {shape:?} {form} {digest}\n");
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(THREADS))
            .map(|_| scope.spawn(work))
            .collect();
        let own = work();
        // A panic has already been reported by its thread.
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Ok(())));
        others.fold(own, Result::and)
    })?;
    let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    lines.sort();
    Ok(of(lines.concat()))
}
