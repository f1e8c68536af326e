//! Documents and the windows into which they are cut, packed as in training: each document opens with the
//! beginning-of-text token, and all are concatenated and cut every `length` tokens.

use std::borrow::Cow;

use thiserror::Error;

use crate::passes::Window;

/// Normalises what depends on the system that wrote a file: removes a byte order mark, and carriage returns before
/// newlines.
pub fn normalize(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.contains("\r\n") {
        true => text.replace("\r\n", "\n").into(),
        false => text.into(),
    }
}

/// Splits a text into documents at a separator, trimming white space and dropping empty documents. Without a separator,
/// or with an empty one, the text is one document.
pub fn split<'a>(text: &'a str, separator: Option<&'a str>) -> Vec<&'a str> {
    let parts: Vec<&str> = match separator.filter(|separator| !separator.is_empty()) {
        Some(separator) => text.split(separator).collect(),
        None => vec![text],
    };
    parts
        .into_iter()
        .map(str::trim)
        .filter(|document| !document.is_empty())
        .collect()
}

/// Cuts a packed stream of tokens into windows of `length` tokens; the last one may be shorter.
pub fn windows(stream: &[u32], length: usize) -> Vec<Window> {
    (0..)
        .zip(stream.chunks(length.max(1)))
        .map(|(number, tokens)| Window::whole(tokens.to_vec(), number))
        .collect()
}

/// The windows of a single document, numbered from `first`. The opening token, if there is one, is given and not
/// scored. What does not fit into the first window continues in further windows, which are independent of the earlier
/// ones. With `overlap`, each begins with the preceding token, given, as needed by models that cannot predict a first
/// token.
pub fn alone(
    document: &[u32],
    opening: Option<u32>,
    length: usize,
    overlap: bool,
    first: u32,
) -> Vec<Window> {
    let mut all = Vec::new();
    let (mut given, mut rest) = (opening, document);
    while !rest.is_empty() {
        let known = usize::from(given.is_some());
        let (part, others) = rest.split_at(rest.len().min(length.saturating_sub(known).max(1)));
        let tokens: Vec<u32> = given.into_iter().chain(part.iter().copied()).collect();
        all.push(Window {
            free: known..tokens.len(),
            tokens,
            number: first.wrapping_add(all.len() as u32),
        });
        given = part.last().copied().filter(|_| overlap);
        rest = others;
    }
    all
}

/// Why a text cannot be scored between given texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BetweenError {
    /// There is nothing to score.
    #[error("has an empty text to score; give it at least one character")]
    Empty,
    /// The text is longer than the context.
    #[error(
        "has a text of {tokens} tokens to score, but the model's context is {length}{}; shorten it",
        if *.overlap { " with the token before it" } else { "" }
    )]
    TooLong {
        /// Tokens to score.
        tokens: usize,
        /// Tokens of the context.
        length: usize,
        /// Whether one of these is the token before.
        overlap: bool,
    },
    /// Nothing precedes the text, and the model does not predict a first token.
    #[error(
        "has nothing before the text to score, and the model predicts no first token; give a context, or open the text with the beginning-of-text token"
    )]
    NothingBefore,
}

/// The window numbered `number`, with `scored` tokens between given ones, and whether the given ones had to be
/// truncated at their far ends. With `overlap`, a token must precede the scored ones, as needed by models that cannot
/// predict a first token: otherwise a text that begins with an unlikely token would compare too well.
///
/// # Errors
/// [`BetweenError`].
pub fn between(
    before: &[u32],
    scored: &[u32],
    after: &[u32],
    length: usize,
    overlap: bool,
    number: u32,
) -> Result<(Window, bool), BetweenError> {
    if scored.is_empty() {
        return Err(BetweenError::Empty);
    }
    let needed = usize::from(overlap);
    if scored.len() + needed > length {
        return Err(BetweenError::TooLong {
            tokens: scored.len(),
            length,
            overlap,
        });
    }
    if needed > before.len() {
        return Err(BetweenError::NothingBefore);
    }
    let room = length - scored.len();
    let (mut left, mut right) = (before.len(), after.len());
    let cut = left + right > room;
    if cut {
        // Each side gets half of the room, or more if the other side needs less.
        right = right.min((room / 2).max(room - left.min(room)));
        left = room - right;
    }
    let mut tokens = before[before.len() - left..].to_vec();
    tokens.extend(scored);
    tokens.extend(&after[..right]);
    let window = Window {
        tokens,
        free: left..left + scored.len(),
        number,
    };
    Ok((window, cut))
}

/// Adjusts a prefix, a middle and a suffix so that each can be tokenized by itself, as in an infill template: a space
/// moves to the word that follows it.
pub fn spaces_after(prefix: &str, middle: &str, suffix: &str) -> [String; 3] {
    let [mut prefix, mut middle, mut suffix] = [prefix, middle, suffix].map(String::from);
    if prefix.ends_with(' ') {
        prefix.pop();
        middle.insert(0, ' ');
    }
    if middle.len() > 1 && middle.ends_with(' ') && !suffix.is_empty() {
        middle.pop();
        suffix.insert(0, ' ');
    }
    [prefix, middle, suffix]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lie_between_separators() {
        let text = " one\n<|end|>\n\n<|end|>two<|end|>\n";
        assert_eq!(split(text, Some("<|end|>")), ["one", "two"]);
        assert_eq!(split(" one two ", None), ["one two"]);
        assert_eq!(split("a b", Some("")), ["a b"]);
        assert!(split(" \n", Some("x")).is_empty());
    }

    #[test]
    fn packed_windows_keep_every_token() {
        let stream: Vec<u32> = (0..10).collect();
        let windows = windows(&stream, 4);
        let lengths: Vec<usize> = windows.iter().map(|w| w.tokens.len()).collect();
        assert_eq!(lengths, [4, 4, 2]);
        assert_eq!(
            windows
                .iter()
                .flat_map(|w| w.tokens.clone())
                .collect::<Vec<_>>(),
            stream
        );
        assert_eq!(windows[2].number, 2);
        assert_eq!(windows[1].scored(), 4);
    }

    #[test]
    fn a_document_alone_is_scored_after_its_opening() {
        let document = [1, 2, 3, 4, 5];
        let windows = alone(&document, Some(9), 3, false, 7);
        let tokens: Vec<_> = windows.iter().map(|w| w.tokens.clone()).collect();
        assert_eq!(tokens, [vec![9, 1, 2], vec![3, 4, 5]]);
        assert_eq!(windows[0].free, 1..3);
        assert_eq!(windows[1].free, 0..3);
        assert_eq!(windows[1].number, 8);
        let windows = alone(&document, None, 3, true, 0);
        let tokens: Vec<_> = windows.iter().map(|w| w.tokens.clone()).collect();
        assert_eq!(tokens, [vec![1, 2, 3], vec![3, 4, 5]]);
        assert_eq!(windows[1].free, 1..3);
        let scored: usize = windows.iter().map(Window::scored).sum();
        assert_eq!(scored, 5);
        assert!(alone(&[], Some(9), 3, false, 0).is_empty());
    }
}
