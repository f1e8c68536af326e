//! Where a text ends and why. A text is watched while it is written, in any order: what is looked at is its *finished prefix*, the
//! positions up to the first one that is not known, since nothing that comes later can change where that ends.

use crate::stop::{Finish, StopRules};
use crate::text::{TextCodec, until_eos};

/// Where a text ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub finish: Finish,
    /// Tokens to keep. The last one may also hold the beginning of the stop string, which is no part of the text.
    pub tokens: usize,
    /// The text up to its stop string; nothing where it is what the tokens say.
    pub text: Option<String>,
    /// Whether a rule or, beside a stop string, an end-of-text token ended it before its last position. What else was drawn is cut off.
    pub is_early: bool,
}

/// A stop string is searched in the last tokens alone, in so many more than it has bytes: a decoder may change the first ones.
const MARGIN: usize = 8;

/// What writes a text, which decides how its rules are read.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// The published networks, in blocks.
    Blocks,
    /// A SetDLM, whose rules are looked at after each token.
    Sets,
    /// A decoder, in blocks or token by token.
    Decoder,
}

/// What is known of a text under way.
#[derive(Clone, Debug)]
pub struct Watch<'a> {
    rules: &'a StopRules,
    codec: Option<&'a TextCodec>,
    mask: u32,
    /// Tokens of a block.
    size: usize,
    /// By so many tokens the first block is short.
    pad: usize,
    /// Which rules end it.
    writer: Writer,
    /// In natural order, the mask where none is known.
    tokens: Vec<u32>,
    /// Given positions, ascending.
    given: Vec<u32>,
    /// Positions up to the last given one, in which no end-of-text token ends the text.
    until: usize,
    /// Tokens of the finished prefix.
    known: usize,
    /// Blocks that were looked at.
    blocks: usize,
    ending: Option<Ending>,
}

impl<'a> Watch<'a> {
    /// Watches a text of which `tokens` are known, in natural order, the mask where none is. `known` are the given (position, token)
    /// pairs, `block_size` is that of a model that writes in blocks.
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
            known: 0,
            blocks: 0,
            ending: None,
        }
    }

    /// The same of a text that a SetDLM writes.
    pub fn of_sets(mut self) -> Self {
        self.writer = Writer::Sets;
        self.size = 1;
        self
    }

    /// The same of a text that a decoder writes from left to right.
    pub fn of_tokens(mut self) -> Self {
        self.writer = Writer::Decoder;
        self.size = 1;
        self
    }

    /// The same of a text that a decoder writes in blocks, whose first block is short by `pad` tokens.
    pub fn of_decoder(mut self, pad: usize) -> Self {
        self.writer = Writer::Decoder;
        self.pad = pad;
        self
    }

    /// A token was drawn. Positions beyond the text are ignored.
    pub fn reveal(&mut self, position: u32, token: u32) {
        if let Some(place) = self.tokens.get_mut(position as usize) {
            *place = token;
        }
    }

    /// The finished prefix, as far as it was looked at.
    pub fn prefix(&self) -> &[u32] {
        &self.tokens[..self.known]
    }

    /// The text of the finished prefix, special tokens left out: what can be shown of the text and will not change. Half a character is left
    /// out too, and where the text has ended it is the text. Empty without a tokenizer.
    pub fn text(&self) -> String {
        if let Some(text) = self.ending.as_ref().and_then(|ending| ending.text.clone()) {
            return text;
        }
        let kept = self.ending.as_ref().map_or(self.known, |e| e.tokens);
        let (body, is_over) = self.body(&self.tokens[..kept]);
        self.codec
            .map_or_else(String::new, |codec| said(codec, body, is_over))
    }

    /// Where the text ends, if that is known already.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Looks at what became known; tells once whether the text ends there, so that nothing more of it has to be drawn.
    pub fn look(&mut self) -> bool {
        if self.ending.is_some() {
            return false;
        }
        let before = self.known;
        let unknown = |&token: &u32| token == self.mask;
        let rest = self.tokens[before..].iter().position(unknown);
        self.known = rest.map_or(self.tokens.len(), |count| before + count);
        self.ending = if self.may_end(before) {
            self.string_ending(self.known)
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

    /// Ends the watch with the text's tokens as the device has them: the tokens that are kept, and why there are no more.
    pub fn finish(mut self, tokens: Vec<u32>) -> (Vec<u32>, Ending) {
        let is_whole = !tokens.contains(&self.mask);
        if self.ending.is_none() {
            self.tokens = tokens;
            self.look();
            // What the look in the last tokens alone may miss.
            if self.ending.is_none() && !self.rules.strings.is_empty() {
                self.ending = self.string_ending(self.known);
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

    /// The tokens up to the end-of-text token that ends them, and whether there is one.
    fn body<'t>(&self, tokens: &'t [u32]) -> (&'t [u32], bool) {
        let body = until_eos(tokens, self.until, &self.rules.ends);
        (body, body.len() < tokens.len())
    }

    /// Whether the prefix may end the text for the sake of what it has beyond `before` tokens.
    fn may_end(&self, before: usize) -> bool {
        let Some(codec) = self.codec.filter(|_| before < self.known) else {
            return false;
        };
        let Some(longest) = self.rules.strings.iter().map(String::len).max() else {
            return false;
        };
        let new = &self.tokens[before..self.known];
        if new.iter().any(|&token| self.rules.ends.is_end(token)) {
            return true;
        }
        let last = &self.tokens[before.saturating_sub(longest + MARGIN)..self.known];
        let last = codec.decode_plain(last);
        self.rules.strings.iter().any(|stop| last.contains(stop))
    }

    /// Where the first `known` tokens end for the sake of a stop string, or of the end-of-text token before any.
    fn string_ending(&self, known: usize) -> Option<Ending> {
        let codec = self.codec?;
        let (body, is_over) = self.body(&self.tokens[..known]);
        let text = said(codec, body, is_over || known == self.tokens.len());
        let cut = self.first_stop(codec, body, &text);
        if let Some((token, start)) = cut {
            // The token in which the stop string begins is kept for what it has before that.
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

    /// The stop string that is complete first, of those that begin in what the model wrote: the token in which it begins, and the byte of
    /// the text. A stop string is complete once all before its end is known; so it does not matter how many tokens become known at once.
    fn first_stop(&self, codec: &TextCodec, body: &[u32], text: &str) -> Option<(usize, usize)> {
        let mut first: Option<(usize, usize, usize)> = None;
        for stop in &self.rules.strings {
            let mut from = 0;
            while let Some(at) = text[from..].find(stop.as_str()) {
                let start = from + at;
                let end = start + stop.len();
                if first.is_some_and(|(best, at, _)| (best, at) <= (end, start)) {
                    break;
                }
                let token = token_at(codec, body, text, start);
                if self.given.binary_search(&(token as u32)).is_err() {
                    first = Some((end, start, token));
                    break;
                }
                from = start + text[start..].chars().next().map_or(1, char::len_utf8);
            }
        }
        first.map(|(_, start, token)| (token, start))
    }

    /// Where a rule that is looked at after each block ends the text.
    fn block_ending(&mut self) -> Option<Ending> {
        if self.rules.rules.is_empty() {
            return None;
        }
        // Blocks that were given whole are looked at with the one after them.
        let blocks = (self.tokens.len() + self.pad).div_ceil(self.size);
        while self.blocks < blocks {
            let end = ((self.blocks + 1) * self.size - self.pad).min(self.tokens.len());
            if end > self.known {
                break;
            }
            self.blocks += 1;
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

/// The text of tokens, without the half of a character that more of them would complete.
fn said(codec: &TextCodec, tokens: &[u32], is_over: bool) -> String {
    let mut text = codec.decode_plain(tokens);
    if !is_over {
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        text.truncate(whole);
    }
    text
}

/// How many bytes of `text`, that of more tokens, these stand for.
fn covered(codec: &TextCodec, tokens: &[u32], text: &str) -> usize {
    let own = codec.decode_plain(tokens);
    let same = own.bytes().zip(text.bytes()).take_while(|(a, b)| a == b);
    same.count()
}

/// The token that holds the byte `place` of `text`, which is what `tokens` say.
fn token_at(codec: &TextCodec, tokens: &[u32], text: &str, place: usize) -> usize {
    let (mut low, mut high) = (0, tokens.len());
    // The least number of tokens that reach beyond the place.
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
