//! Writing to the standard streams.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Text on stdout, exactly as given.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output(&error))
}

/// A value as JSON on stdout, one object over several lines.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut json = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::failed(format!("the result cannot be written as JSON: {error}"))
    })?;
    json.push('\n');
    text(&json)
}

/// A line on stderr. Nobody is told when stderr itself is gone.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Characters that a terminal would obey rather than show become U+FFFD; lines and tabs stay. Text of an unknown model is shown
/// this way on terminals.
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
