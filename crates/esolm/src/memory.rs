//! The machine's own memory: what is left of it, and asking for it before work begins. Rust ends a program whose memory runs out, so a
//! model or a batch is estimated beforehand, and its largest buffers are allocated such that a refusal is an error.

use std::fmt;

use esolm_core::message::count;

use crate::error::EngineError;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;

/// What decides how much memory is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The process's address space (`ulimit -v`).
    AddressSpace,
    /// The process's data (`ulimit -d`).
    Data,
    /// A control group that the process is in, such as that of a container or a service.
    ControlGroup,
    /// The memory that the machine has left.
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

/// Memory that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Bytes that can still be had.
    pub bytes: u64,
    /// What allows no more.
    pub limit: MemoryLimit,
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// A model's weights, and reading them.
    Model,
    /// The plan, the cache and the largest pass of a batch.
    Batch {
        /// Sequences at once.
        sequences: usize,
        /// Cache slots of each.
        slots: usize,
    },
    /// Logits that are handed out.
    Logits {
        /// Rows of them.
        rows: usize,
    },
    /// Weights, moments, gradients, and what a training step keeps for them.
    Training,
    /// What a device's rates are measured on.
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

/// What is left for this process, as its system tells; nothing where it does not.
pub(crate) fn room() -> Option<MemoryRoom> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return linux::room(std::path::Path::new("/"));
    #[cfg(target_family = "wasm")]
    {
        // What the module holds and does not use cannot be told from what it uses: only an allocation shows what is left.
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

/// What an allocation that just failed had left.
fn left() -> Option<MemoryRoom> {
    #[cfg(target_family = "wasm")]
    return Some(MemoryRoom {
        bytes: (1 << 32) - ((core::arch::wasm32::memory_size(0) as u64) << 16),
        limit: MemoryLimit::Module,
    });
    #[cfg(not(target_family = "wasm"))]
    room()
}

/// The estimate with what it leaves out: small buffers, threads, and what an allocator wastes.
pub(crate) fn with_margin(bytes: u64) -> u64 {
    const SMALL: u64 = 8 << 20;
    bytes.saturating_add(bytes / 16).saturating_add(SMALL)
}

/// Asks whether `bytes` more can be had, before anything is done with them.
///
/// # Errors
/// [`EngineError::HostMemory`] where they cannot.
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

/// The system's own word, which may know of more limits. Pages that nothing touches cost nothing.
#[cfg(not(target_family = "wasm"))]
fn is_to_be_had(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Whether a module can ever hold as much. To try would leave it that large, since its memory only grows.
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

/// `len` zeros. Where they are not written to, large ones take no memory yet.
///
/// # Errors
/// [`EngineError::HostMemory`] where the system does not give the memory.
pub(crate) fn zeros(purpose: MemoryUse, len: usize) -> Result<Vec<f32>, EngineError> {
    bytemuck::try_zeroed_vec(len).map_err(|()| refused(purpose, len as u64 * 4))
}

/// An empty vector with room for `len` values.
///
/// # Errors
/// [`EngineError::HostMemory`] where the system does not give the memory.
pub(crate) fn with_capacity(purpose: MemoryUse, len: usize) -> Result<Vec<f32>, EngineError> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(refused(purpose, len as u64 * 4)),
    }
}

/// The first `len` values of a buffer that is used again: whatever stood there, or `empty` ones. It grows where it is too short.
///
/// # Errors
/// [`EngineError::HostMemory`] where the system does not give the memory.
pub(crate) fn grown<T: Clone>(
    purpose: MemoryUse,
    buffer: &mut Vec<T>,
    len: usize,
    empty: T,
) -> Result<&mut [T], EngineError> {
    if buffer.len() < len {
        // What was there is not wanted, so that there is never more than the new one.
        *buffer = Vec::new();
        if buffer.try_reserve_exact(len).is_err() {
            let bytes = len as u64 * size_of::<T>() as u64;
            return Err(refused(purpose, bytes));
        }
        buffer.resize(len, empty);
    }
    Ok(&mut buffer[..len])
}
