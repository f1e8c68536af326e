//! Host memory: how much is left, and checking before work begins. Rust aborts a program that runs out of memory, so
//! the needs of a model or batch are estimated in advance, and its largest buffers are allocated fallibly.

use std::fmt;

use esolm_core::message::count;

use crate::error::EngineError;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;

/// What limits the memory that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The process's address space (`ulimit -v`).
    AddressSpace,
    /// The process's data segment (`ulimit -d`).
    Data,
    /// A control group of the process, such as a container's or a service's.
    ControlGroup,
    /// The machine's free memory.
    Machine,
    /// The address space of a WebAssembly module.
    Module,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSpace => "the limit on this process's address space",
            Self::Data => "the limit on this process's data",
            Self::ControlGroup => "the memory limit of this process's control group",
            Self::Machine => "what else runs on this machine",
            Self::Module => "the address space of a WebAssembly module",
        })
    }
}

/// The memory that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Bytes that can still be allocated.
    pub bytes: u64,
    /// What sets this limit.
    pub limit: MemoryLimit,
}

/// What memory is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// A model's weights, including reading them.
    Model,
    /// The plan, the cache and the largest pass of a batch.
    Batch {
        /// Sequences at once.
        sequences: usize,
        /// Cache slots per sequence.
        slots: usize,
    },
    /// Logits returned to the caller.
    Logits {
        /// Rows of logits.
        rows: usize,
    },
    /// Weights, moments, gradients, and what a training step keeps for its backward pass.
    Training,
    /// The buffers on which a device's rates are measured.
    Rates,
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("the model"),
            Self::Batch {
                sequences: 1,
                slots,
            } => write!(f, "a sequence of {}", count(*slots, "slot")),
            Self::Batch { sequences, slots } => {
                let slots = count(*slots, "slot");
                write!(f, "a batch of {sequences} sequences of {slots}")
            }
            Self::Logits { rows } => write!(f, "the logits of {}", count(*rows, "row")),
            Self::Training => f.write_str("this training"),
            Self::Rates => f.write_str("measuring the device"),
        }
    }
}

/// What is left for this process, if the system reports it.
pub(crate) fn room() -> Option<MemoryRoom> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return linux::room(std::path::Path::new("/"));
    #[cfg(target_family = "wasm")]
    {
        // A module's allocated but unused memory cannot be told from what is in use: only trying shows what is left.
        None
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_family = "wasm")))]
    {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        let bytes = system.available_memory() + system.free_swap();
        (bytes > 0).then_some(MemoryRoom {
            bytes,
            limit: MemoryLimit::Machine,
        })
    }
}

/// What was left when an allocation failed.
fn left() -> Option<MemoryRoom> {
    #[cfg(target_family = "wasm")]
    return Some(MemoryRoom {
        bytes: (1 << 32) - ((core::arch::wasm32::memory_size(0) as u64) << 16),
        limit: MemoryLimit::Module,
    });
    #[cfg(not(target_family = "wasm"))]
    room()
}

/// An estimate plus what it does not count: small buffers, threads, and allocator overhead.
pub(crate) fn with_margin(bytes: u64) -> u64 {
    const SMALL: u64 = 8 << 20;
    bytes.saturating_add(bytes / 16).saturating_add(SMALL)
}

/// Checks that `bytes` more can be allocated, before any work is done.
///
/// # Errors
/// [`EngineError::HostMemory`] if they cannot.
pub fn ask(purpose: MemoryUse, bytes: u64) -> Result<(), EngineError> {
    let bytes = with_margin(bytes);
    if let Some(room) = room()
        && bytes > room.bytes
    {
        return Err(EngineError::HostMemory {
            purpose,
            bytes,
            room: Some(room),
        });
    }
    if is_to_be_had(bytes) {
        Ok(())
    } else {
        Err(refused(purpose, bytes))
    }
}

/// Asks the allocator, which may know of further limits. Untouched pages cost nothing.
#[cfg(not(target_family = "wasm"))]
fn is_to_be_had(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Whether a module can ever hold that much. Trying would leave it that large, since its memory only grows.
#[cfg(target_family = "wasm")]
fn is_to_be_had(bytes: u64) -> bool {
    bytes < 1 << 32
}

fn refused(purpose: MemoryUse, bytes: u64) -> EngineError {
    EngineError::HostMemory {
        purpose,
        bytes,
        room: left().filter(|room| room.bytes < bytes),
    }
}

/// `len` zeros. Large vectors take no memory until they are written to.
///
/// # Errors
/// [`EngineError::HostMemory`] if the allocation fails.
pub(crate) fn zeros(purpose: MemoryUse, len: usize) -> Result<Vec<f32>, EngineError> {
    bytemuck::try_zeroed_vec(len).map_err(|()| refused(purpose, len as u64 * 4))
}

/// An empty vector with capacity for `len` values.
///
/// # Errors
/// [`EngineError::HostMemory`] if the allocation fails.
pub(crate) fn with_capacity(purpose: MemoryUse, len: usize) -> Result<Vec<f32>, EngineError> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(refused(purpose, len as u64 * 4)),
    }
}

/// The first `len` values of a reused buffer, which hold old contents or `empty`. Grows the buffer if it is too short.
///
/// # Errors
/// [`EngineError::HostMemory`] if the allocation fails.
pub(crate) fn grown<T: Clone>(
    purpose: MemoryUse,
    buffer: &mut Vec<T>,
    len: usize,
    empty: T,
) -> Result<&mut [T], EngineError> {
    if buffer.len() < len {
        // The old contents are not needed, so free them first: both never exist at once.
        *buffer = Vec::new();
        if buffer.try_reserve_exact(len).is_err() {
            let bytes = len as u64 * size_of::<T>() as u64;
            return Err(refused(purpose, bytes));
        }
        buffer.resize(len, empty);
    }
    Ok(&mut buffer[..len])
}
