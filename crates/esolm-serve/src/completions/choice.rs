//! A choice in progress: the part of its text that is final.

use std::collections::BTreeMap;
use std::sync::Arc;

use esolm::ending::Examined;
use esolm::request::Resolved;
use esolm::stop::Finish;
use esolm::text::{TextCodec, until_eos};
use esolm::trace::Step;
use esolm::{LogProb, Written};
use serde::Serialize;

use super::order::Placed;

/// The object `logprobs` of a choice.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogProbs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    /// Texts and log-probabilities of the most likely tokens; null if not requested. Of the same numeric type as those
    /// of the tokens, since clients compare them.
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
    /// Number of characters before each token, counted from the beginning of the prompt.
    text_offset: Vec<usize>,
}

/// What has been added to a choice.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    pub text: String,
    pub logprobs: Option<LogProbs>,
    pub finish: Option<&'static str>,
}

impl Piece {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        let tokens = self
            .logprobs
            .as_ref()
            .map_or(0, |logprobs| logprobs.tokens.len());
        self.text.is_empty() && tokens == 0 && self.finish.is_none()
    }
}

/// A choice of a completion.
pub struct Choice {
    codec: Arc<TextCodec>,
    resolved: Option<Arc<Resolved>>,
    /// Range of the generated tokens.
    start: usize,
    end: usize,
    /// Known tokens, in natural order.
    tokens: Vec<u32>,
    /// How much of them has been examined for where the text ends.
    examined: Examined,
    log_probs: Vec<Option<LogProb>>,
    /// How many of the most likely tokens to report with each token.
    top: Option<usize>,
    prompt: String,
    /// The prompt including its opening token, which a tokenizer may render as text.
    opened: String,
    /// Bytes of the completion, and tokens of the text, that have been sent.
    sent: (usize, usize),
    /// Number of generated tokens.
    pub written: usize,
}

impl Choice {
    pub fn new(
        codec: Arc<TextCodec>,
        placed: &Placed,
        resolved: Option<Arc<Resolved>>,
        top: Option<usize>,
    ) -> Self {
        let start = placed.start();
        let mut choice = Self {
            prompt: codec.decode_plain(&placed.tokens),
            opened: codec.decode_plain(&placed.given()),
            codec,
            resolved,
            start,
            end: start + placed.max_tokens,
            tokens: Vec::new(),
            examined: Examined::default(),
            log_probs: Vec::new(),
            top,
            sent: (0, start),
            written: 0,
        };
        choice.begin();
        choice
    }

    /// Whether the text may still be redrawn, so that nothing is final before its end.
    fn may_begin_anew(&self) -> bool {
        let resolved = self.resolved.as_ref();
        resolved.is_some_and(|resolved| !resolved.given.word_ends.is_empty())
    }

    /// The text starts, or starts over.
    pub fn begin(&mut self) {
        let Some(resolved) = &self.resolved else {
            return;
        };
        self.tokens = vec![resolved.options.mask_index; resolved.options.length];
        for &(position, token) in &resolved.given.known[0] {
            self.tokens[position as usize] = token;
        }
        self.examined = Examined::default();
        self.log_probs = vec![None; self.tokens.len()];
    }

    /// Processes a step, and returns what has become final.
    pub fn step(&mut self, step: &Step, log_probs: Vec<LogProb>) -> Piece {
        let mut log_probs = log_probs.into_iter();
        for revealed in &step.revealed {
            let position = revealed.position as usize;
            if let Some(token) = self.tokens.get_mut(position) {
                *token = revealed.token;
                self.log_probs[position] = log_probs.next();
            }
        }
        let Some(resolved) = self.resolved.clone().filter(|_| !self.may_begin_anew()) else {
            return Piece::default();
        };
        let watch = resolved.watch(0, self.tokens.clone(), Some(&self.codec));
        let mut watch = watch.after(self.examined);
        // Once the text has ended, `finish` sends the rest. What ends it is found again by any later step.
        if watch.look() {
            return Piece::default();
        }
        self.examined = watch.examined();
        let known = watch.prefix().len().min(self.end);
        let text = match watch.prefix().len() > self.end {
            true => self.codec.decode_plain(&self.tokens[..known]),
            false => watch.text(),
        };
        let completion = self.completion(&text);
        let kept = completion.len() - held_back(completion, &resolved.stop.strings);
        let text = completion[..kept].to_string();
        // The end-of-text token is included, but nothing after it.
        let body = until_eos(
            &self.tokens[..known],
            resolved.given.until[0],
            &resolved.stop.ends,
        )
        .len();
        let mut known = known.min(body + 1);
        if kept < completion.len() {
            // Tokens that may belong to a stop string are held back along with their text.
            let says_more = |count: usize| {
                let text = self.codec.decode_plain(&self.tokens[..count]);
                self.completion(&text).len() > kept
            };
            while known > self.sent.1 && says_more(known) {
                known -= 1;
            }
        }
        self.piece(&text, known)
    }

    /// The text is finished; returns what has not been sent yet.
    pub fn finish(&mut self, written: Written) -> Piece {
        self.tokens = written.tokens;
        self.log_probs = written.log_probs;
        let end = self.tokens.len().min(self.end);
        let is_cut = end < self.tokens.len();
        let text = match is_cut {
            // Without a suffix, or the rest of a block.
            true => self.codec.decode_plain(&self.tokens[..end]),
            false => written.text,
        };
        self.written = end.saturating_sub(self.start);
        let text = self.completion(&text).to_string();
        let finish = match written.finish {
            Finish::Stop | Finish::Eos if !is_cut => "stop",
            _ => "length",
        };
        Piece {
            finish: Some(finish),
            ..self.piece(&text, end)
        }
    }

    /// The part of a text after the prompt.
    fn completion<'t>(&self, text: &'t str) -> &'t str {
        after(&self.opened, text)
    }

    /// The part of the completion `text`, and of the first `known` tokens, that has not been sent.
    fn piece(&mut self, text: &str, known: usize) -> Piece {
        let (bytes, first) = self.sent;
        let first = first.min(self.tokens.len());
        // If a tokenizer renders earlier text differently once more is known, what has been sent cannot be taken back.
        let fresh = text.get(bytes..).unwrap_or_default().to_string();
        self.sent = (bytes.max(text.len()), known.max(first));
        let logprobs = self.top.map(|top| {
            let before = self.prompt.chars().count()
                + self
                    .codec
                    .decode_plain(&self.tokens[self.start..first])
                    .chars()
                    .count();
            let range = first..known.max(first);
            let log_probs = self.log_probs.get(range.clone()).unwrap_or_default();
            LogProbs::of(&self.codec, &self.tokens[range], log_probs, top, before)
        });
        Piece {
            text: fresh,
            logprobs,
            finish: None,
        }
    }

    /// The echo of the prompt itself, with the log-probabilities of its tokens.
    pub fn echo(&self, tokens: &[u32], log_probs: &[Option<LogProb>]) -> Piece {
        Piece {
            text: self.prompt.clone(),
            logprobs: self
                .top
                .map(|top| LogProbs::of(&self.codec, tokens, log_probs, top, 0)),
            finish: None,
        }
    }
}

impl LogProbs {
    fn of(
        codec: &TextCodec,
        tokens: &[u32],
        log_probs: &[Option<LogProb>],
        top: usize,
        mut offset: usize,
    ) -> Self {
        let mut told = Self {
            top_logprobs: (top > 0).then(Vec::new),
            ..Self::default()
        };
        for (index, &token) in tokens.iter().enumerate() {
            let own = log_probs.get(index).and_then(Option::as_ref);
            let text = said(codec, token);
            told.text_offset.push(offset);
            offset += codec.decode(&[token]).chars().count();
            told.tokens.push(text);
            told.token_logprobs.push(own.map(|own| own.logp));
            if let Some(all) = &mut told.top_logprobs {
                all.push(own.map(|own| {
                    let mut most = BTreeMap::new();
                    for &(token, logp) in &own.top {
                        let mut text = said(codec, token);
                        if most.contains_key(&text) {
                            text = numbered(token);
                        }
                        most.insert(text, logp);
                    }
                    most
                }));
            }
        }
        told
    }

    /// Appends the log-probabilities that follow.
    pub fn append(&mut self, mut other: Self) {
        self.tokens.append(&mut other.tokens);
        self.token_logprobs.append(&mut other.token_logprobs);
        self.text_offset.append(&mut other.text_offset);
        if let (Some(all), Some(more)) = (&mut self.top_logprobs, &mut other.top_logprobs) {
            all.append(more);
        }
    }
}

/// A token's text, or its number if it is only part of a character or has no text.
fn said(codec: &TextCodec, token: u32) -> String {
    let text = codec.decode(&[token]);
    match text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) {
        true => numbered(token),
        false => text,
    }
}

fn numbered(token: u32) -> String {
    format!("token:{token}")
}

/// The part of a text after the prompt. The text begins with the prompt only as far as its tokens decode in the same
/// way when followed by others: an incomplete character at the end may have become a complete one.
fn after<'t>(prompt: &str, text: &'t str) -> &'t str {
    let same = text.chars().zip(prompt.chars()).take_while(|(a, b)| a == b);
    let bytes = same.map(|(own, _)| own.len_utf8()).sum();
    &text[bytes..]
}

/// Number of bytes at the end of a text that may be the beginning of a stop string.
fn held_back(text: &str, stops: &[String]) -> usize {
    let longest = |stop: &String| {
        let ends = stop.char_indices().map(|(end, _)| end).rev();
        ends.into_iter()
            .find(|&end| end > 0 && text.ends_with(&stop[..end]))
            .unwrap_or(0)
    };
    stops.iter().map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{after, held_back};

    #[test]
    fn a_completion_is_what_comes_after_its_prompt() {
        assert_eq!(after("Once", "Once upon"), " upon");
        assert_eq!(after("", "Once"), "Once");
        assert_eq!(after("caf\u{fffd}", "caf\u{e9}s"), "\u{e9}s");
        assert_eq!(after("Once upon", "Once"), "");
    }

    #[test]
    fn what_may_be_a_stop_string_is_held_back() {
        let stops = ["END".to_string(), "né!".to_string()];
        assert_eq!(held_back("the E", &stops), 1);
        assert_eq!(held_back("the EN", &stops), 2);
        assert_eq!(held_back("the END", &stops), 0);
        assert_eq!(held_back("né", &stops), 3);
        assert_eq!(held_back("n", &stops), 1);
        assert_eq!(held_back("", &stops), 0);
        assert_eq!(held_back("the E", &[]), 0);
    }
}
