//! The text of an answer while its tokens become known, in any order.

use esolm_core::stop::Finish;
use esolm_core::text::TextCodec;

/// What is known of an answer.
pub struct AnswerText<'a> {
    codec: &'a TextCodec,
    mask: u32,
    ends: &'a [u32],
    stops: &'a [String],
    /// The mask where none is known.
    tokens: Vec<u32>,
    /// Tokens up to the first that is not known.
    known: usize,
    /// Bytes of the text that were told.
    told: usize,
    text: String,
    finish: Option<Finish>,
}

impl<'a> AnswerText<'a> {
    /// Of `length` tokens none is known.
    pub fn new(
        codec: &'a TextCodec,
        mask: u32,
        ends: &'a [u32],
        stops: &'a [String],
        length: usize,
    ) -> Self {
        Self {
            codec,
            mask,
            ends,
            stops,
            tokens: vec![mask; length],
            known: 0,
            told: 0,
            text: String::new(),
            finish: None,
        }
    }

    /// A token became known, at a place counted from the answer's beginning.
    pub fn reveal(&mut self, place: usize, token: u32) {
        if let Some(known) = self.tokens.get_mut(place) {
            *known = token;
        }
    }

    /// Tokens up to the first that is not known, or to the end.
    pub fn known(&self) -> usize {
        self.known
    }

    /// Whether it ends with what is known.
    pub fn has_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// Looks at what became known: gives the text that joined, which will not change.
    pub fn look(&mut self) -> String {
        if self.finish.is_none() {
            self.settle();
        }
        let is_over = self.finish.is_some() || self.known == self.tokens.len();
        let end = match is_over {
            true => self.text.len(),
            false => self.certain(),
        };
        let end = end.max(self.told);
        let joined = self.text[self.told..end].to_string();
        self.told = end;
        joined
    }

    fn settle(&mut self) {
        let before = self.known;
        let unknown = |&token: &u32| token == self.mask;
        let rest = self.tokens[before..].iter().position(unknown);
        let known = rest.map_or(self.tokens.len(), |count| before + count);
        if known == before {
            return;
        }
        let new = &self.tokens[before..known];
        let end = new.iter().position(|token| self.ends.contains(token));
        self.known = end.map_or(known, |end| before + end);
        self.text = self.codec.decode_plain(&self.tokens[..self.known]);
        self.finish = end.map(|_| Finish::Eos);
        let cuts = self
            .stops
            .iter()
            .filter_map(|stop| self.text.find(stop.as_str()));
        if let Some(cut) = cuts.min() {
            self.text.truncate(cut);
            self.finish = Some(Finish::Stop);
        }
    }

    /// Bytes of the text that no further token changes: not half a character, and not what may be the beginning of a stop string.
    fn certain(&self) -> usize {
        let whole = self.text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let begins = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(whole.len());
            let lengths = (1..=most)
                .rev()
                .filter(|length| stop.is_char_boundary(*length));
            lengths
                .into_iter()
                .find(|&length| whole.ends_with(&stop[..length]))
        };
        let held = self.stops.iter().filter_map(begins).max().unwrap_or(0);
        whole.len() - held
    }

    /// The places from the first unknown one up to `end`: texts of tokens, nothing where none is known.
    pub fn open(&self, end: usize) -> Vec<Option<String>> {
        if self.finish.is_some() {
            return Vec::new();
        }
        let end = end.min(self.tokens.len());
        let places = self.tokens.get(self.known..end).unwrap_or_default();
        let piece = |&token: &u32| (token != self.mask).then(|| self.codec.decode_plain(&[token]));
        places.iter().map(piece).collect()
    }

    /// The tokens of the text, the text, and why it ends. `tokens` are those of the answer as the device has them.
    pub fn finish(mut self, tokens: &[u32]) -> (Vec<u32>, String, Finish) {
        if self.finish.is_none() {
            self.tokens = tokens.to_vec();
            self.settle();
        }
        let is_whole = self.known == self.tokens.len();
        let natural = if is_whole {
            Finish::Length
        } else {
            Finish::Interrupted
        };
        self.tokens.truncate(self.known);
        (self.tokens, self.text, self.finish.unwrap_or(natural))
    }
}
