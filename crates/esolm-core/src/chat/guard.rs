//! Looks through the text of a template before it is compiled. What no template needs is refused; and wherever a value is kept or a list is
//! made, a filter is put that keeps it from growing beyond all bounds ([`super::bounded`]): the engine's fuel does not count what a list says
//! many times over.

use std::ops::Range;

use super::error::ChatTemplateError;

/// The filter for values; no template can name it otherwise, since it may not have the name in its text.
pub const BOUNDED: &str = "esolm_bounded";
/// The filter for what a namespace holds.
pub const HELD: &str = "esolm_held";
const OURS: &str = "esolm_";

/// Bytes of a template.
const MOST_BYTES: usize = 256 << 10;
/// Bytes of a tag beside its quoted texts, which bounds how deep its expression is.
const MOST_CODE: usize = 4000;
/// Branches of the template's conditions, likewise.
const MOST_BRANCHES: usize = 500;
/// The most that a list may be multiplied by.
const MOST_REPEATS: usize = 1000;

/// Statements that read other templates, or hand on what they are given.
const FOREIGN: [&str; 6] = ["include", "import", "from", "extends", "block", "with"];
/// Words after which an expression begins.
const WORDS: [&str; 9] = ["in", "not", "and", "or", "if", "else", "elif", "is", "do"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Name,
    Number,
    Mark,
}

/// A word of an expression.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// Where it begins.
    at: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.at + self.text.len()
    }

    fn opens(&self) -> bool {
        self.kind == Kind::Mark && matches!(self.text, "(" | "[" | "{")
    }

    fn closes(&self) -> bool {
        self.kind == Kind::Mark && matches!(self.text, ")" | "]" | "}")
    }

    /// Whether an operand is complete with it, so that a bracket behind it calls or picks.
    fn completes(&self) -> bool {
        match self.kind {
            Kind::Text | Kind::Number => true,
            Kind::Name => !WORDS.contains(&self.text),
            Kind::Mark => self.closes(),
        }
    }
}

/// The template with the filters in it.
///
/// # Errors
/// When it does what is not allowed.
pub fn guarded(source: &str) -> Result<String, ChatTemplateError> {
    if source.len() > MOST_BYTES {
        let (bytes, most) = (source.len(), MOST_BYTES);
        return Err(ChatTemplateError::TooLong { bytes, most });
    }
    let mut guard = Guard {
        source,
        changed: Vec::new(),
        branches: 0,
    };
    guard.look()?;
    let Guard { mut changed, .. } = guard;
    // A stable sort: what is put in at one place stays in its order.
    changed.sort_by_key(|(place, _)| place.start);
    let mut out = String::with_capacity(source.len() + 64 * changed.len());
    let mut from = 0;
    for (place, text) in changed {
        out.push_str(&source[from..place.start]);
        out.push_str(&text);
        from = place.end;
    }
    out.push_str(&source[from..]);
    Ok(out)
}

struct Guard<'a> {
    source: &'a str,
    /// What is put in the place of what.
    changed: Vec<(Range<usize>, String)>,
    branches: usize,
}

impl<'a> Guard<'a> {
    fn put(&mut self, at: usize, text: impl Into<String>) {
        self.changed.push((at..at, text.into()));
    }

    fn refuse<T>(&self, what: &'static str, at: usize) -> Result<T, ChatTemplateError> {
        let line = 1 + self.source[..at].matches('\n').count();
        Err(ChatTemplateError::NotAllowed { what, line })
    }

    fn look(&mut self) -> Result<(), ChatTemplateError> {
        if let Some(at) = self.source.find(OURS) {
            return self.refuse("uses names of this program's own", at);
        }
        let mut at = 0;
        while let Some(found) = self.source[at..].find('{') {
            let start = at + found;
            let rest = &self.source[start..];
            at = if rest.starts_with("{#") {
                rest.find("#}")
                    .map_or(self.source.len(), |end| start + end + 2)
            } else if rest.starts_with("{{") {
                self.tag(start + 2, "}}")?
            } else if rest.starts_with("{%") {
                self.tag(start + 2, "%}")?
            } else {
                start + 1
            };
        }
        Ok(())
    }

    /// Looks at a tag whose inside begins at `start`, and gives its end.
    fn tag(&mut self, start: usize, close: &str) -> Result<usize, ChatTemplateError> {
        let (tokens, end) = self.tokens(start, close)?;
        let is_statement = close == "%}";
        let tokens = match tokens.first() {
            Some(token) if matches!(token.text, "-" | "+") && token.at == start => &tokens[1..],
            _ => &tokens[..],
        };
        self.check_products(tokens)?;
        match tokens
            .first()
            .filter(|token| is_statement && token.kind == Kind::Name)
        {
            None => self.bound(tokens),
            Some(word) => match word.text {
                "raw" => return Ok(self.end_of_raw(end)),
                "generation" | "endgeneration" => {
                    // Tells trainers what is the model's own; says nothing here.
                    let is_start = word.text == "generation";
                    let same = if is_start { "if true" } else { "endif" };
                    self.changed.push((word.at..word.end(), same.into()));
                }
                "macro" => {}
                "set" => self.set(&tokens[1..]),
                "for" => {
                    let first = tokens
                        .iter()
                        .position(|t| t.kind == Kind::Name && t.text == "in");
                    self.bound(&tokens[first.map_or(tokens.len(), |first| first + 1)..]);
                }
                text if FOREIGN.contains(&text) => {
                    return self.refuse(
                        "reads other templates, or uses blocks that chat templates do not have",
                        start,
                    );
                }
                text => {
                    if matches!(text, "elif" | "if" | "else") {
                        self.branches += 1;
                        if self.branches > MOST_BRANCHES {
                            return self.refuse("has too many conditions", start);
                        }
                    }
                    self.bound(&tokens[1..]);
                }
            },
        }
        Ok(end)
    }

    /// The words of a tag, and where it ends.
    fn tokens(
        &self,
        start: usize,
        close: &str,
    ) -> Result<(Vec<Token<'a>>, usize), ChatTemplateError> {
        let source = self.source;
        let bytes = source.as_bytes();
        let (mut tokens, mut at, mut depth, mut code) = (Vec::new(), start, 0usize, 0);
        while at < source.len() {
            if depth == 0 && source[at..].starts_with(close) {
                return Ok((tokens, at + close.len()));
            }
            let first = at;
            let kind = match bytes[at] {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    at += 1;
                    continue;
                }
                quote @ (b'"' | b'\'') => {
                    at += 1;
                    while at < source.len() && bytes[at] != quote {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at = (at + 1).min(source.len());
                    while !source.is_char_boundary(at) {
                        at += 1;
                    }
                    Kind::Text
                }
                b'0'..=b'9' => {
                    while at < source.len()
                        && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_')
                    {
                        at += 1;
                    }
                    Kind::Number
                }
                c if c.is_ascii_alphabetic() || c == b'_' => {
                    while at < source.len()
                        && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_')
                    {
                        at += 1;
                    }
                    Kind::Name
                }
                c => {
                    match c {
                        b'(' | b'[' | b'{' => depth += 1,
                        b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    let is_pair = |pair: &&str| source[at..].starts_with(*pair);
                    let pairs = ["**", "==", "!=", "<=", ">=", "//"];
                    at += pairs
                        .iter()
                        .find(|pair| is_pair(pair))
                        .map_or(1, |pair| pair.len());
                    while !source.is_char_boundary(at) {
                        at += 1;
                    }
                    Kind::Mark
                }
            };
            if kind != Kind::Text {
                code += at - first;
                if code > MOST_CODE {
                    return self.refuse("has an expression that is too long", start);
                }
            }
            tokens.push(Token {
                kind,
                text: &source[first..at],
                at: first,
            });
        }
        Ok((tokens, source.len()))
    }

    fn end_of_raw(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(found) = self.source[at..].find("{%") {
            let inside = at + found + 2;
            let rest = self.source[inside..]
                .trim_start_matches(['-', '+'])
                .trim_start();
            if rest.starts_with("endraw") {
                let end = self.source[inside..].find("%}");
                return end.map_or(self.source.len(), |end| inside + end + 2);
            }
            at = inside;
        }
        self.source.len()
    }

    /// A product of a list repeats it. That of a text is counted by the engine.
    fn check_products(&self, tokens: &[Token<'a>]) -> Result<(), ChatTemplateError> {
        let sides = |index: usize| [index.checked_sub(1), Some(index + 1)];
        let side = |place: Option<usize>| place.and_then(|place| tokens.get(place));
        // The first factor of several.
        let first = |index: usize| {
            let mut first = index;
            while first >= 3 && tokens[first - 2].text == "*" {
                first -= 2;
            }
            side(first.checked_sub(1))
        };
        let is_product = |&index: &usize| {
            let [before, after] = sides(index).map(side);
            let is_text = |token: Option<&Token<'a>>| token.is_some_and(|t| t.kind == Kind::Text);
            tokens[index].kind == Kind::Mark
                && tokens[index].text == "*"
                && before.is_some_and(Token::completes)
                && !is_text(first(index))
                && !is_text(after)
        };
        let is_small = |token: Option<&Token<'a>>| {
            let number = token.filter(|token| token.kind == Kind::Number);
            let number = number.and_then(|number| number.text.parse::<usize>().ok());
            number.is_some_and(|number| number <= MOST_REPEATS)
        };
        let products: Vec<usize> = (0..tokens.len()).filter(is_product).collect();
        for &index in &products {
            if products.len() > 1 || !sides(index).map(side).into_iter().any(is_small) {
                return self.refuse("multiplies by more than a small number", tokens[index].at);
            }
        }
        Ok(())
    }

    /// Bounds the right side of an assignment.
    fn set(&mut self, tokens: &[Token<'a>]) {
        let mut depth = 0usize;
        for (index, token) in tokens.iter().enumerate() {
            depth = match (token.opens(), token.closes()) {
                (true, _) => depth + 1,
                (_, true) => depth.saturating_sub(1),
                _ => depth,
            };
            let is_sign = token.kind == Kind::Mark && token.text == "=" && depth == 0;
            let value = &tokens[index + 1..];
            if let (true, Some(first), Some(last)) = (is_sign, value.first(), value.last()) {
                let last = match (last.text, value.len()) {
                    // What trims the text behind the tag.
                    ("-" | "+", 2..) => &value[value.len() - 2],
                    _ => last,
                };
                let is_held = tokens[..index].iter().any(|token| token.text == ".");
                let filter = if is_held { HELD } else { BOUNDED };
                self.put(first.at, "(");
                self.bound(value);
                self.put(last.end(), format!(")|{filter}"));
                return;
            }
        }
    }

    /// Bounds the lists, maps and groups of an expression.
    fn bound(&mut self, tokens: &[Token<'a>]) {
        // Whether the brackets that are open are bounded.
        let mut open = Vec::new();
        let mut before: Option<&Token<'a>> = None;
        for token in tokens {
            if token.opens() {
                let is_operand = before.is_none_or(|before| !before.completes());
                if is_operand {
                    self.put(token.at, "(");
                }
                open.push(is_operand);
            } else if token.closes() && open.pop() == Some(true) {
                self.put(token.end(), format!("|{BOUNDED})"));
            }
            before = Some(token);
        }
    }
}
