//! What asks the program to end: Ctrl-C (SIGINT), and on Unix SIGTERM and SIGHUP too, each unless it is ignored when the program starts.
//!
//! The first request ends the work after the step under way, where the command said that it can be ended so ([`stop`]). Any other ends
//! the program at once, and leaves no temporary file.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use esolm_checkpoint::atomic;

use crate::output;

/// What a shell reports for a program that Ctrl-C ended: 128 and the number of the signal.
pub const INTERRUPTED: u8 = 130;

/// The exit code that belongs to the first signal.
static CODE: AtomicU8 = AtomicU8::new(INTERRUPTED);
/// What ends the work under way.
static STOP: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Lets the next request set `flag`, which ends the work after the step under way, instead of ending the program.
pub fn stop(flag: Arc<AtomicBool>) {
    *STOP.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
}

/// Lets the next request end the program again, when the work that could be ended alone is done.
pub fn stop_nothing() {
    *STOP.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The exit code of a program whose work was ended so.
pub fn exit_code() -> u8 {
    CODE.load(Ordering::SeqCst)
}

/// Listens from now on. To be called before any other thread is there.
pub fn listen() {
    // Without it the system's own way holds, which ends the program at the first request.
    if let Err(error) = system::listen() {
        output::note(&format!(
            "Ctrl-C will end the program at once, with nothing saved or printed: {error}"
        ));
    }
}

/// A request of the user's, or of who runs the program; `code` is what it ends with.
fn requested(code: u8) {
    let flag = STOP.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(flag) = flag
        && !flag.load(Ordering::SeqCst)
    {
        CODE.store(code, Ordering::SeqCst);
        flag.store(true, Ordering::SeqCst);
        return;
    }
    atomic::abandon_all();
    output::show_cursor();
    system::exit(code);
}

#[cfg(unix)]
mod system {
    use std::mem::MaybeUninit;
    use std::{ptr, thread};

    use nix::libc;
    use nix::sys::signal::{SigSet, Signal};

    /// Signals are blocked in all threads, and one thread waits for them: so what is done about them may do anything.
    pub fn listen() -> std::io::Result<()> {
        // Who starts the program decides what it ignores: `nohup` SIGHUP, so that it outlives its terminal, and a script SIGINT for what
        // it runs in the background with `&`, so that Ctrl-C ends the script alone.
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
        // SAFETY: without a new action the call only tells the one in force, and it has filled it in where it succeeds.
        unsafe {
            libc::sigaction(signal as libc::c_int, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    /// Not `std::process::exit`, which would tear down what other threads still use, such as a GPU's driver.
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
