//! Where a text ends, and why. A text is watched while it is written, in any order. Only its *finished prefix* is
//! examined, i.e. the positions before the first unknown one, since later tokens cannot change where the prefix ends.

use crate::stop::{Finish, StopRules};
use crate::text::{TextCodec, until_eos};

/// Where a text ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The reason.
    pub finish: Finish,
    /// Number of tokens to keep. The last one may also contain the beginning of the stop string, which is not part of
    /// the text.
    pub tokens: usize,
    /// The text up to its stop string; `None` if it is simply the text of the tokens.
    pub text: Option<String>,
    /// Whether the text was ended before its last position, by a rule or, with stop strings, by an end-of-text token.
    /// Anything else drawn is cut off.
    pub is_early: bool,
}

/// Stop strings are searched for only in the last tokens: in this many more tokens than the string has bytes, since a
/// decoder may alter the first ones.
const MARGIN: usize = 8;

/// How a text is written, which determines how its rules are applied.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// By the published networks, in blocks.
    Blocks,
    /// By a SetDLM, with rules applied after each token.
    Sets,
    /// By a decoder, in blocks or token by token.
    Decoder,
}

/// How far a text has been examined without finding where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// Length of the finished prefix.
    known: usize,
    /// Number of blocks.
    blocks: usize,
}

/// What is known about a text being written.
#[derive(Clone, Debug)]
pub struct Watch<'a> {
    rules: &'a StopRules,
    codec: Option<&'a TextCodec>,
    mask: u32,
    /// Tokens per block.
    size: usize,
    /// Number of tokens by which the first block is shorter.
    pad: usize,
    /// Which rules end it.
    writer: Writer,
    /// In natural order; the mask where unknown.
    tokens: Vec<u32>,
    /// Given positions, ascending.
    given: Vec<u32>,
    /// Length up to the last given position; an end-of-text token within does not end the text.
    until: usize,
    examined: Examined,
    ending: Option<Ending>,
}

impl<'a> Watch<'a> {
    /// Watches a text. `tokens` are in natural order, with the mask where unknown; `known` has the given (position,
    /// token) pairs; `block_size` is for models that write in blocks.
    pub fn new(
        rules: &'a StopRules,
        codec: Option<&'a TextCodec>,
        mask: u32,
        block_size: Option<usize>,
        known: &[(u32, u32)],
        tokens: Vec<u32>,
    ) -> Self {
        let mut given: Vec<u32> = known.iter().map(|&(position, _)| position).collect();
        given.sort_unstable();
        Self {
            rules,
            codec,
            mask,
            size: block_size.unwrap_or(tokens.len()).max(1),
            pad: 0,
            writer: Writer::Blocks,
            until: given.last().map_or(0, |&last| last as usize + 1),
            given,
            tokens,
            examined: Examined::default(),
            ending: None,
        }
    }

    /// For a text that a SetDLM writes.
    pub fn of_sets(mut self) -> Self {
        self.writer = Writer::Sets;
        self.size = 1;
        self
    }

    /// For a text that a decoder writes from left to right.
    pub fn of_tokens(mut self) -> Self {
        self.writer = Writer::Decoder;
        self.size = 1;
        self
    }

    /// For a text that a decoder writes in blocks, whose first block is shorter by `pad` tokens.
    pub fn of_decoder(mut self, pad: usize) -> Self {
        self.writer = Writer::Decoder;
        self.pad = pad;
        self
    }

    /// For a text of which another watch has already [examined](Watch::examined) a part.
    pub fn after(mut self, examined: Examined) -> Self {
        self.examined = Examined {
            known: examined.known.min(self.tokens.len()),
            ..examined
        };
        self
    }

    /// How much of the text need not be examined again, unless this watch has found where it ends.
    pub fn examined(&self) -> Examined {
        self.examined
    }

    /// Records a drawn token. Positions beyond the text are ignored.
    pub fn reveal(&mut self, position: u32, token: u32) {
        if let Some(place) = self.tokens.get_mut(position as usize) {
            *place = token;
        }
    }

    /// The finished prefix, as far as it has been examined.
    pub fn prefix(&self) -> &[u32] {
        &self.tokens[..self.examined.known]
    }

    /// The text of the finished prefix without special tokens: what can be shown and will not change. An incomplete
    /// character is left out. Once the text has ended, this is the final text. Empty without a tokenizer.
    pub fn text(&self) -> String {
        if let Some(text) = self.ending.as_ref().and_then(|ending| ending.text.clone()) {
            return text;
        }
        let kept = (self.ending.as_ref()).map_or(self.examined.known, |e| e.tokens);
        let (body, is_over) = self.body(&self.tokens[..kept]);
        self.codec
            .map_or_else(String::new, |codec| said(codec, body, is_over))
    }

    /// Where the text ends, if that is known.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Examines what became known. Returns true, once, if the text ends there, so that no more of it has to be drawn.
    pub fn look(&mut self) -> bool {
        if self.ending.is_some() {
            return false;
        }
        let before = self.examined.known;
        let unknown = |&token: &u32| token == self.mask;
        let rest = self.tokens[before..].iter().position(unknown);
        self.examined.known = rest.map_or(self.tokens.len(), |count| before + count);
        self.ending = if self.may_end(before) {
            self.string_ending()
        } else {
            None
        };
        if let Some(ending) = self.block_ending() {
            let is_shorter = |kept: &Ending| kept.tokens <= ending.tokens;
            if !self.ending.as_ref().is_some_and(is_shorter) {
                self.ending = Some(ending);
            }
        }
        self.ending.is_some()
    }

    /// Finishes the watch with the text's tokens as read from the device. Returns the tokens to keep, and why there are
    /// no more.
    pub fn finish(mut self, tokens: Vec<u32>) -> (Vec<u32>, Ending) {
        let is_whole = !tokens.contains(&self.mask);
        if self.ending.is_none() {
            self.tokens = tokens;
            self.look();
            // Looking only at the last tokens may have missed a stop string.
            if self.ending.is_none() && !self.rules.strings.is_empty() {
                self.ending = self.string_ending();
            }
        }
        let natural = || Ending {
            finish: match (is_whole, self.body(&self.tokens).1) {
                (false, _) => Finish::Interrupted,
                (true, true) => Finish::Eos,
                (true, false) => Finish::Length,
            },
            tokens: self.tokens.len(),
            ..Ending::default()
        };
        let ending = self.ending.clone().unwrap_or_else(natural);
        self.tokens.truncate(ending.tokens);
        (self.tokens, ending)
    }

    /// The tokens before the end-of-text token that ends them, and whether there is one.
    fn body<'t>(&self, tokens: &'t [u32]) -> (&'t [u32], bool) {
        let body = until_eos(tokens, self.until, &self.rules.ends);
        (body, body.len() < tokens.len())
    }

    /// Whether the part of the prefix after `before` tokens may end the text.
    fn may_end(&self, before: usize) -> bool {
        let known = self.examined.known;
        let Some(codec) = self.codec.filter(|_| before < known) else {
            return false;
        };
        let Some(longest) = self.rules.strings.iter().map(String::len).max() else {
            return false;
        };
        let new = &self.tokens[before..known];
        if new.iter().any(|&token| self.rules.ends.is_end(token)) {
            return true;
        }
        let last = &self.tokens[before.saturating_sub(longest + MARGIN)..known];
        let last = codec.decode_plain(last);
        self.rules.strings.iter().any(|stop| last.contains(stop))
    }

    /// Where the finished prefix ends because of a stop string, or of an end-of-text token before one.
    fn string_ending(&self) -> Option<Ending> {
        let codec = self.codec?;
        let prefix = self.prefix();
        let (body, is_over) = self.body(prefix);
        let text = said(codec, body, is_over || prefix.len() == self.tokens.len());
        let cut = self.first_stop(codec, body, &text);
        if let Some((token, start)) = cut {
            // The token in which the stop string begins is kept for the text before the string.
            let before = covered(codec, &body[..token], &text);
            return Some(Ending {
                finish: Finish::Stop,
                tokens: token + usize::from(before < start),
                text: Some(text[..start].into()),
                is_early: true,
            });
        }
        is_over.then(|| Ending {
            finish: Finish::Eos,
            tokens: body.len() + 1,
            text: None,
            is_early: true,
        })
    }

    /// The stop string that is completed first, among those that begin in text written by the model: the token in which
    /// it begins, and its byte offset in the text. A stop string is complete once everything before its end is known,
    /// so the result does not depend on how many tokens become known at once.
    fn first_stop(&self, codec: &TextCodec, body: &[u32], text: &str) -> Option<(usize, usize)> {
        let mut first: Option<(usize, usize, usize)> = None;
        // Whatever begins in a stretch of given tokens is passed over at once, since a prompt may be full of stop
        // strings, and each place that is looked up takes several decodings of the text.
        let written = place_after(codec, body, text, self.given_until(0));
        for stop in &self.rules.strings {
            let mut from = written;
            while let Some(at) = text[from..].find(stop.as_str()) {
                let start = from + at;
                let end = start + stop.len();
                if first.is_some_and(|(best, at, _)| (best, at) <= (end, start)) {
                    break;
                }
                let token = token_at(codec, body, text, start);
                let next = self.given_until(token);
                if next == token {
                    first = Some((end, start, token));
                    break;
                }
                let character = text[start..].chars().next().map_or(1, char::len_utf8);
                from = place_after(codec, body, text, next).max(start + character);
            }
        }
        first.map(|(_, start, token)| (token, start))
    }

    /// Where the stretch of given tokens around `token` ends; `token` itself if it is not given.
    fn given_until(&self, token: usize) -> usize {
        let Ok(at) = self.given.binary_search(&(token as u32)) else {
            return token;
        };
        let stretch = (token..).zip(&self.given[at..]);
        let stretch = stretch.take_while(|&(position, &given)| position == given as usize);
        token + stretch.count()
    }

    /// Where a rule that is checked after each block ends the text.
    fn block_ending(&mut self) -> Option<Ending> {
        if self.rules.rules.is_empty() {
            return None;
        }
        // Blocks that are entirely given are checked together with the next one.
        let blocks = (self.tokens.len() + self.pad).div_ceil(self.size);
        while self.examined.blocks < blocks {
            let end = (self.examined.blocks + 1) * self.size - self.pad;
            let end = end.min(self.tokens.len());
            if end > self.examined.known {
                break;
            }
            self.examined.blocks += 1;
            let so_far = &self.tokens[..end];
            let ends = match self.writer {
                Writer::Sets => self.rules.end_of_sets(so_far, self.until),
                Writer::Decoder => self.rules.end_of_decoder(so_far, self.until),
                Writer::Blocks => self.rules.end(so_far),
            };
            if let Some((tokens, finish)) = ends {
                return Some(Ending {
                    finish,
                    tokens,
                    text: None,
                    is_early: true,
                });
            }
        }
        None
    }
}

/// The text of tokens, without a trailing character that further tokens would complete.
fn said(codec: &TextCodec, tokens: &[u32], is_over: bool) -> String {
    let mut text = codec.decode_plain(tokens);
    if !is_over {
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        text.truncate(whole);
    }
    text
}

/// How many bytes of `text`, the text of more tokens, these tokens stand for.
fn covered(codec: &TextCodec, tokens: &[u32], text: &str) -> usize {
    let own = codec.decode_plain(tokens);
    let same = own.bytes().zip(text.bytes()).take_while(|(a, b)| a == b);
    same.count()
}

/// The first byte of `text`, the text of `tokens`, at which a character begins that is not among the first `count`
/// tokens.
fn place_after(codec: &TextCodec, tokens: &[u32], text: &str, count: usize) -> usize {
    let before = covered(codec, &tokens[..count.min(tokens.len())], text);
    // Of a character whose tokens are only partly there, the first bytes may seem to be.
    text.ceil_char_boundary(before)
}

/// The token that contains the byte `place` of `text`, the text of `tokens`.
fn token_at(codec: &TextCodec, tokens: &[u32], text: &str, place: usize) -> usize {
    let (mut low, mut high) = (0, tokens.len());
    // Find the smallest number of tokens that reach beyond `place`.
    while low < high {
        let middle = (low + high) / 2;
        match covered(codec, &tokens[..middle], text) > place {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    low.saturating_sub(1)
}

#[cfg(test)]
mod tests;
