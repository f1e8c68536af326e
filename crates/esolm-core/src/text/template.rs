//! Infill templates: text with gaps, `Once ____ a time`.

use thiserror::Error;

use super::{TextCodec, TextError};

/// More tokens than any context; keeps sums of gap lengths from overflowing.
const MAX_GAP: usize = 1 << 24;

/// Why a template cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// There is nothing to fill.
    #[error(
        "the infill template has no gap; mark one with underscores, as in 'Once ____ a time' or 'Once ____{{12}} a time'"
    )]
    NoGap,
    /// The braces after a gap contain something other than a number.
    #[error(
        "the gap {found:?} has no length in its braces; write ____{{12}} for 12 tokens, or \\{{ for a brace that belongs to the text"
    )]
    GapLength {
        /// The underscores and what follows them.
        found: String,
    },
    /// A gap is empty, or longer than any context.
    #[error("the gap {found:?} is {problem}; give it 1 to {MAX_GAP} tokens")]
    GapRange {
        /// The underscores and the number.
        found: String,
        /// "empty" or "too long".
        problem: &'static str,
    },
    /// The template does not fit.
    #[error(
        "the infill template needs {needed} tokens ({given} given, {gaps} in gaps{opening}), but the length is {length}; shorten the gaps, or raise the length if the model's context is longer"
    )]
    TooLong {
        /// Tokens that the template needs, including opening ones.
        needed: usize,
        /// Tokens of given text.
        given: usize,
        /// Tokens in gaps.
        gaps: usize,
        /// ", 1 to open the text", or empty.
        opening: String,
        /// Tokens available.
        length: usize,
    },
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text that is kept word for word.
    Given(String),
    /// A gap for the model to fill.
    Gap {
        /// Number of tokens, at least 1.
        tokens: usize,
        /// Whether a word and a space came right before it: the filling must not extend that word.
        after_word: bool,
    },
}

/// A text with gaps.
///
/// | syntax | meaning |
/// |---|---|
/// | `____` | a gap of as many tokens as underscores, here 4 |
/// | `____{12}` | a gap of 12 tokens, regardless of the number of underscores |
/// | `\_` `\{` `\\` | the character itself |
///
/// Byte-pair tokenizers attach a space to the word that follows it. One space right before a gap therefore belongs to
/// the gap: the model writes its own if it wants one. It must not extend the word before the gap, though, see
/// [`TextCodec::keeps_words`]. The space after a gap belongs to the following word, and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Alternating given texts and gaps; no text is empty.
    pub parts: Vec<Part>,
}

/// A template as tokens at positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Given tokens with their natural positions, ascending.
    pub known: Vec<(u32, u32)>,
    /// Length up to and including the last part of the template.
    pub length: usize,
    /// Length up to and including the last given token.
    pub given: usize,
    /// First positions of the gaps that must not extend the word before them.
    pub word_ends: Vec<usize>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError::NoGap`], [`TemplateError::GapLength`], [`TemplateError::GapRange`].
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(next) = rest.chars().next() {
            if next == '_' {
                let (gap, after) = parse_gap(rest)?;
                let spaced = text.ends_with(' ');
                if spaced {
                    text.pop();
                }
                let after_word = spaced && text.ends_with(char::is_alphanumeric);
                push_text(&mut parts, &mut text);
                push_gap(&mut parts, gap, after_word);
                rest = after;
                continue;
            }
            let mut chars = rest.chars();
            let mut taken = chars.next();
            if next == '\\' {
                let escaped = chars.clone().next();
                if matches!(escaped, Some('_' | '{' | '\\')) {
                    taken = escaped;
                    chars.next();
                }
            }
            text.extend(taken);
            rest = chars.as_str();
        }
        push_text(&mut parts, &mut text);
        if !parts.iter().any(|part| matches!(part, Part::Gap { .. })) {
            return Err(TemplateError::NoGap);
        }
        Ok(Self { parts })
    }

    /// Encodes the given texts and places them after the `opening` tokens (the beginning-of-text token). Each given
    /// text is encoded by itself, so that no token crosses the border of a gap, and decoding its tokens gives the same
    /// text back.
    ///
    /// # Errors
    /// [`TextError::Template`] with [`TemplateError::TooLong`] if more than `length` positions are needed;
    /// [`TextError::Lossy`] if the tokenizer would alter given words; errors of [`TextCodec::encode`].
    pub fn place(
        &self,
        codec: &TextCodec,
        opening: &[u32],
        length: usize,
    ) -> Result<Placed, TextError> {
        let mut tokens: Vec<Option<u32>> = opening.iter().map(|&token| Some(token)).collect();
        let mut gaps = 0;
        // Gaps may be absurdly long, so their sum is checked before anything of that size is allocated.
        let mut encoded = Vec::new();
        let mut needed = opening.len();
        for part in &self.parts {
            match part {
                Part::Given(text) => {
                    let piece = codec.encode(text)?;
                    if let Some(altered) = codec.altered(text, &piece) {
                        return Err(TextError::Lossy(altered));
                    }
                    needed += piece.len();
                    encoded.push(piece);
                }
                Part::Gap { tokens, .. } => {
                    needed += tokens;
                    gaps += tokens;
                }
            }
        }
        if needed > length {
            return Err(TemplateError::TooLong {
                needed,
                given: needed - gaps - opening.len(),
                gaps,
                opening: match opening.len() {
                    0 => String::new(),
                    n => format!(", {n} to open the text"),
                },
                length,
            }
            .into());
        }
        let mut pieces = encoded.into_iter();
        let mut word_ends = Vec::new();
        for part in &self.parts {
            match part {
                Part::Given(_) => tokens.extend(pieces.next().into_iter().flatten().map(Some)),
                Part::Gap {
                    tokens: n,
                    after_word,
                } => {
                    if *after_word {
                        word_ends.push(tokens.len());
                    }
                    tokens.resize(tokens.len() + n, None);
                }
            }
        }
        let known: Vec<(u32, u32)> = (0u32..)
            .zip(&tokens)
            .filter_map(|(position, token)| token.map(|token| (position, token)))
            .collect();
        Ok(Placed {
            given: known
                .last()
                .map_or(0, |&(position, _)| position as usize + 1),
            known,
            length: tokens.len(),
            word_ends,
        })
    }
}

/// Parses the gap at the start of `rest`: returns its length in tokens, and what follows.
fn parse_gap(rest: &str) -> Result<(usize, &str), TemplateError> {
    let after = rest.trim_start_matches('_');
    let underscores = rest.len() - after.len();
    let Some(inside) = after.strip_prefix('{') else {
        return Ok((underscores, after));
    };
    let digits = inside.len()
        - inside
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let found = |end: usize| rest.chars().take(underscores + end).collect::<String>();
    if digits == 0 || !inside[digits..].starts_with('}') {
        let shown = inside.chars().take(12).take_while(|&c| c != '}').count() + 2;
        return Err(TemplateError::GapLength {
            found: found(shown),
        });
    }
    let after = &inside[digits + 1..];
    // Only a number that does not fit a usize fails to parse.
    let problem = match inside[..digits].parse::<usize>() {
        Ok(0) => "empty",
        Ok(n) if n <= MAX_GAP => return Ok((n, after)),
        _ => "too long",
    };
    Err(TemplateError::GapRange {
        found: found((digits + 2).min(24)),
        problem,
    })
}

fn push_text(parts: &mut Vec<Part>, text: &mut String) {
    if !text.is_empty() {
        parts.push(Part::Given(std::mem::take(text)));
    }
}

/// Adjacent gaps are merged.
fn push_gap(parts: &mut Vec<Part>, n: usize, after_word: bool) {
    match parts.last_mut() {
        Some(Part::Gap { tokens, .. }) => *tokens += n,
        _ => parts.push(Part::Gap {
            tokens: n,
            after_word,
        }),
    }
}
