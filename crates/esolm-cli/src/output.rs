//! Writing to the standard streams.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
#[cfg(unix)]
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
#[cfg(unix)]
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use serde::Serialize;

use crate::arguments::FormatName;
use crate::failure::Failure;

/// Writes text to stdout, exactly as given.
pub fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Writes bytes to stdout.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes a value to stdout as JSON: indented, or for [`FormatName::Jsonl`] on one line.
pub fn json(value: &impl Serialize, format: FormatName) -> Result<(), Failure> {
    match format {
        FormatName::Jsonl => json_line(value),
        _ => text(&(serde_json::to_string_pretty(value).map_err(no_json)? + "\n")),
    }
}

/// Writes a value to stdout as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    text(&(serde_json::to_string(value).map_err(no_json)? + "\n"))
}

fn no_json(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the result cannot be written as JSON: {error}"))
}

/// A progress bar for passes on a terminal's stderr; invisible if stderr is not a terminal, or if `quiet`.
pub fn passes(quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{bar:32.cyan} {pos}/{len} passes  {elapsed}, {eta} left  {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is a constant");
    ProgressBar::new(0).with_style(style)
}

/// A progress bar for the lines of a job, with their number `all` if known.
pub fn lines(quiet: bool, all: Option<u64>) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, style) = match all {
        Some(all) => (
            ProgressBar::new(all),
            "{bar:32.cyan} {pos}/{len} lines  {elapsed}, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {pos} lines  {elapsed}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(style).expect("the template is a constant"))
}

/// Writes a line to stderr. Errors are ignored, since there is nowhere to report them.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Maximum time to wait for the terminal when the program ends.
const TERMINAL_WAIT: Duration = Duration::from_millis(500);

/// The terminal's settings before line editing.
#[cfg(unix)]
static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Saves the terminal's settings before line editing starts, for [`restore_terminal`].
pub fn remember_terminal() {
    #[cfg(unix)]
    {
        let before = tcgetattr(io::stdin()).ok();
        *TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }
}

/// Restores the terminal when the program is about to end: shows the cursor, which drawing may have hidden, and undoes
/// line editing's changes to key and paste handling. A stopped terminal (Ctrl-S) accepts nothing, and does not keep the
/// program from ending.
pub fn restore_terminal() {
    let mut back = b"\x1b[?25h".to_vec();
    #[cfg(unix)]
    if let Some(before) = &*TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        back.extend(b"\x1b[?2004l");
    }
    if !io::stderr().is_terminal() {
        return;
    }
    let (done, shown) = mpsc::channel();
    let writes = thread::Builder::new().spawn(move || {
        write_unlocked(&back);
        let _ = done.send(()); // nobody waits any more
    });
    if writes.is_ok() {
        let _ = shown.recv_timeout(TERMINAL_WAIT);
    }
}

/// Writes to stderr without its lock, which a thread that is blocked in a write may hold.
fn write_unlocked(bytes: &[u8]) {
    #[cfg(unix)]
    let _ = nix::unistd::write(io::stderr(), bytes);
    #[cfg(not(unix))]
    let _ = io::stderr().write_all(bytes);
}

/// Replaces control characters by U+FFFD, except line breaks and tabs. Text of untrusted models is shown this way on
/// terminals.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && !matches!(c, '\n' | '\t') {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_controlled_by_text() {
        assert_eq!(printable("a\x1b[2Jb\n\tc\r"), "a\u{fffd}[2Jb\n\tc\u{fffd}");
    }
}
