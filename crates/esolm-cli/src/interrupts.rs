//! Signals that ask the program to end: Ctrl-C (SIGINT), and on Unix also SIGTERM and SIGHUP, unless ignored when the
//! program starts.
//!
//! If a command has registered a flag ([`stop`]), the first signal ends its work after the current step. Any other
//! signal ends the program at once, leaving no temporary files.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use esolm_checkpoint::atomic;

use crate::output;

/// The exit code of a program that Ctrl-C ended: 128 plus the number of the signal.
pub const INTERRUPTED: u8 = 130;

/// The exit code for the first signal.
static CODE: AtomicU8 = AtomicU8::new(INTERRUPTED);
/// What the next signal does.
static NEXT: Mutex<Next> = Mutex::new(Next::EndsProgram);

enum Next {
    EndsProgram,
    /// The flag stops the current work.
    Sets(Arc<AtomicBool>),
    /// Ctrl-C does nothing; the others end the program.
    EndsUnlessCtrlC,
}

fn next() -> MutexGuard<'static, Next> {
    NEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the next signal set `flag`, which ends the work after the current step, instead of ending the program.
pub fn stop(flag: Arc<AtomicBool>) {
    *next() = Next::Sets(flag);
}

/// Makes the next signal end the program again, when the stoppable work is done.
pub fn stop_nothing() {
    *next() = Next::EndsProgram;
}

/// Ignores Ctrl-C between answers, where it is a key of the line editor: one that was meant to stop an answer may arrive
/// just after it.
pub fn ignore_ctrl_c() {
    *next() = Next::EndsUnlessCtrlC;
}

/// The exit code of a program whose work was stopped.
pub fn exit_code() -> u8 {
    CODE.load(Ordering::SeqCst)
}

/// Starts handling signals. Must be called before other threads start.
pub fn listen() {
    // If this fails, the system's default applies: the first signal ends the program.
    if let Err(error) = system::listen() {
        output::note(&format!(
            "Ctrl-C will end the program at once, with nothing saved or printed: {error}"
        ));
    }
}

/// Handles a signal; `code` is its exit code.
fn requested(code: u8) {
    match &*next() {
        Next::Sets(flag) if !flag.load(Ordering::SeqCst) => {
            CODE.store(code, Ordering::SeqCst);
            flag.store(true, Ordering::SeqCst);
            return;
        }
        Next::EndsUnlessCtrlC if code == INTERRUPTED => return,
        _ => {}
    }
    atomic::abandon_all();
    output::restore_terminal();
    exit(code);
}

/// Ends the program. What is still in the buffer of the standard output is lost.
pub fn exit(code: u8) -> ! {
    system::exit(code)
}

#[cfg(unix)]
mod system {
    use std::mem::MaybeUninit;
    use std::{ptr, thread};

    use nix::libc;
    use nix::sys::signal::{SigSet, Signal};

    /// Signals are blocked in all threads, and one thread waits for them, so its handling is not restricted to
    /// async-signal-safe functions.
    pub fn listen() -> std::io::Result<()> {
        // Whoever starts the program decides which signals it ignores: `nohup` SIGHUP, so that it outlives its
        // terminal, and a script SIGINT for what it runs in the background with `&`, so that Ctrl-C ends only the
        // script.
        let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let signals: SigSet = (all.into_iter())
            .filter(|&signal| !is_ignored(signal))
            .collect();
        if signals.iter().next().is_none() {
            return Ok(());
        }
        signals.thread_block()?;
        let waits = thread::Builder::new().name("signals".into());
        let waits = waits.spawn(move || {
            while let Ok(signal) = signals.wait() {
                super::requested(128 + signal as u8);
            }
        });
        if let Err(error) = waits {
            signals.thread_unblock()?;
            return Err(error);
        }
        Ok(())
    }

    fn is_ignored(signal: Signal) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: with a null action, the call only reads the current one, which it has filled in if it succeeds.
        unsafe {
            libc::sigaction(signal as libc::c_int, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    /// Not `std::process::exit`, which would tear down what other threads still use, such as a GPU driver.
    pub fn exit(code: u8) -> ! {
        // SAFETY: it takes any number, and does not return.
        unsafe { libc::_exit(code.into()) }
    }
}

#[cfg(not(unix))]
mod system {
    pub fn listen() -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(|| super::requested(super::INTERRUPTED))
    }

    pub fn exit(code: u8) -> ! {
        std::process::exit(code.into())
    }
}
