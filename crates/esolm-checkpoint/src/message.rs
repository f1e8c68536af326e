//! Text from untrusted files inside messages: short, and without characters that control a terminal.

use std::fmt::Display;

/// The first 80 characters of `text`, control characters escaped.
pub fn shorten(text: &str) -> String {
    first(text, 80)
}

/// A number with what it counts: `1 token`, `2 tokens`; `1 pass`, `2 passes`.
pub fn count<N: Display + PartialEq + From<u8>>(n: N, noun: &str) -> String {
    let ending = match (n == N::from(1), noun.ends_with('s')) {
        (true, _) => "",
        (false, true) => "es",
        (false, false) => "s",
    };
    format!("{n} {noun}{ending}")
}

/// What the JSON reader says, which quotes the file, without its flood.
pub fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let shown = first(&text, 160);
    if shown.ends_with("...") {
        format!("{shown} at line {} column {}", error.line(), error.column())
    } else {
        shown
    }
}

fn first(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            shown.push_str("...");
            break;
        }
        if matches!(c, '"' | '\'' | '\\') {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{count, json_error, shorten};

    #[test]
    fn one_of_a_kind_is_not_many() {
        assert_eq!(count(1, "token"), "1 token");
        assert_eq!(count(0u64, "token"), "0 tokens");
        assert_eq!(count(1usize, "pass"), "1 pass");
        assert_eq!(count(12u32, "pass"), "12 passes");
    }

    #[test]
    fn floods_and_control_characters_stay_out() {
        assert_eq!(shorten("a \"quoted\" name"), "a \"quoted\" name");
        assert_eq!(shorten("\x1b[2J\u{202e}"), "\\u{1b}[2J\\u{202e}");
        assert_eq!(shorten(&"x".repeat(81)), format!("{}...", "x".repeat(80)));
        let flood = format!("\n[\"{}\"]", "y".repeat(9000));
        let error = serde_json::from_str::<Vec<u32>>(&flood).unwrap_err();
        let message = json_error(&error);
        assert!(
            message.len() < 220 && message.ends_with("... at line 2 column 9003"),
            "{message}"
        );
    }
}
