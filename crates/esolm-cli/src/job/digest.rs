//! SHA-256 of what a job's results depend on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use esolm::ModelFiles;
use esolm::checkpoint::{Checkpoint, CheckpointError, Parameter};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// Tensors are digested at once by so many threads at most: beyond it the disk is the limit.
const THREADS: usize = 8;

/// The digits of a digest.
pub fn hexadecimal(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of(bytes: impl AsRef<[u8]>) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// What a model is, whatever its files are called and wherever they are: the digests of its configuration, its weights, its tokenizer and
/// the settings that it recommends; `name` is for readers.
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

/// The digest of all parameters, each with its name, shape and form. It reads them once, as loading does, so that on most machines the
/// system still has them in memory when they are loaded.
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
        // A thread that panicked has said so.
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Ok(())));
        others.fold(own, Result::and)
    })?;
    let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    lines.sort();
    Ok(of(lines.concat()))
}
