//! Checks and rewrites the text of a template before it is compiled. Constructs that no template needs are rejected,
//! and wherever a value is stored or a list is created, a filter is inserted that keeps it within bounds
//! ([`super::bounded`]): the engine's fuel does not count repetitions of the same list.

use std::ops::Range;

use super::error::ChatTemplateError;

/// The filter for values. A template cannot use the name, since it must not occur in its text.
pub const BOUNDED: &str = "esolm_bounded";
/// The filter for what is stored in a namespace.
pub const HELD: &str = "esolm_held";
const OURS: &str = "esolm_";

/// Maximum bytes of a template.
const MOST_BYTES: usize = 256 << 10;
/// Maximum bytes of a tag, excluding quoted strings; this bounds the nesting of its expression.
const MOST_CODE: usize = 4000;
/// Maximum branches of the template's conditions, for the same reason.
const MOST_BRANCHES: usize = 500;
/// Maximum factor by which a list may be multiplied.
const MOST_REPEATS: usize = 1000;

/// Statements that read other templates, or pass on their arguments.
const FOREIGN: [&str; 6] = ["include", "import", "from", "extends", "block", "with"];
/// Words after which an expression starts.
const WORDS: [&str; 9] = ["in", "not", "and", "or", "if", "else", "elif", "is", "do"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Name,
    Number,
    Mark,
}

/// A token of an expression.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// Its offset.
    at: usize,
}

/// What a bracket encloses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    /// A list, map or group, which is bounded as a whole.
    Value,
    /// The arguments of a call, each of which is bounded.
    Arguments,
    /// The arguments of a filter. What it makes of them is bounded as well.
    Filter,
    /// The parameters of a macro, whose defaults are bounded.
    Parameters,
    Index,
}

impl Bracket {
    /// That of the bracket at `index`.
    fn of(tokens: &[Token<'_>], index: usize) -> Self {
        let before = |count: usize| Some(&tokens[index.checked_sub(count)?]);
        let is_filter = before(2).is_some_and(|pipe| pipe.kind == Kind::Mark && pipe.text == "|");
        match before(1).is_some_and(Token::completes) {
            false => Self::Value,
            true if tokens[index].text != "(" => Self::Index,
            true if is_filter => Self::Filter,
            true => Self::Arguments,
        }
    }
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

    /// Whether it completes an operand, so that a following bracket calls or indexes.
    fn completes(&self) -> bool {
        match self.kind {
            Kind::Text | Kind::Number => true,
            Kind::Name => !WORDS.contains(&self.text),
            Kind::Mark => self.closes(),
        }
    }
}

/// The template with the filters inserted.
///
/// # Errors
/// If it contains something that is not allowed.
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
    // The sort is stable, so insertions at the same place keep their order.
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
    /// Ranges to replace, and their replacements.
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
            at = if let Some(comment) = rest.strip_prefix("{#") {
                comment
                    .find("#}")
                    .map_or(self.source.len(), |end| start + 2 + end + 2)
            } else if rest.starts_with("{{") {
                self.tag(start + 2, "}}")?
            } else if let Some(tag) = rest.strip_prefix("{%") {
                match basic_tag(tag, "raw") {
                    Some(length) => self.end_of_raw(start + 2 + length),
                    None => self.tag(start + 2, "%}")?,
                }
            } else {
                start + 1
            };
        }
        Ok(())
    }

    /// Checks a tag whose contents begin at `start`, and returns its end.
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
            None => self.bound(tokens, None),
            Some(word) => match word.text {
                "generation" | "endgeneration" => {
                    // Marks the model's own text for training; has no effect here.
                    let is_start = word.text == "generation";
                    let same = if is_start { "if true" } else { "endif" };
                    self.changed.push((word.at..word.end(), same.into()));
                }
                "macro" => self.bound(&tokens[1..], Some(Bracket::Parameters)),
                "call" => {
                    let named = tokens.get(1).filter(|token| token.text == "(");
                    self.bound(&tokens[1..], named.map(|_| Bracket::Parameters));
                }
                "filter" => self.bound(&tokens[1..], Some(Bracket::Filter)),
                "set" => self.set(&tokens[1..]),
                "for" => {
                    let first = tokens
                        .iter()
                        .position(|t| t.kind == Kind::Name && t.text == "in");
                    let list = first.map_or(tokens.len(), |first| first + 1);
                    self.bound(&tokens[list..], None);
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
                    self.bound(&tokens[1..], None);
                }
            },
        }
        Ok(end)
    }

    /// The tokens of a tag, and where it ends.
    fn tokens(
        &self,
        start: usize,
        close: &str,
    ) -> Result<(Vec<Token<'a>>, usize), ChatTemplateError> {
        let source = self.source;
        let bytes = source.as_bytes();
        let (mut tokens, mut at, mut depth, mut code) = (Vec::new(), start, 0isize, 0);
        while at < source.len() {
            if depth == 0 && source[at..].starts_with(close) {
                return Ok((tokens, at + close.len()));
            }
            let first = at;
            let kind = match bytes[at] {
                c if c.is_ascii_whitespace() => {
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
                        b')' | b']' | b'}' => depth -= 1,
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
            at += found + 2;
            if let Some(length) = basic_tag(&self.source[at..], "endraw") {
                return at + length;
            }
        }
        self.source.len()
    }

    /// Multiplying a list repeats it. For strings, the engine counts this.
    fn check_products(&self, tokens: &[Token<'a>]) -> Result<(), ChatTemplateError> {
        let sides = |index: usize| [index.checked_sub(1), Some(index + 1)];
        let side = |place: Option<usize>| place.and_then(|place| tokens.get(place));
        // The first of several factors.
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
            let (before, after) = (tokens[..index].iter().rev(), tokens[index + 1..].iter());
            if joins(before, Token::opens) || joins(after, Token::closes) {
                return self.refuse("joins a product without parentheses", tokens[index].at);
            }
        }
        Ok(())
    }

    /// Bounds what is assigned: the right-hand side, or, for a block, what filters make of its text.
    fn set(&mut self, tokens: &[Token<'a>]) {
        let mut depth = 0usize;
        for (index, token) in tokens.iter().enumerate() {
            depth = match (token.opens(), token.closes()) {
                (true, _) => depth + 1,
                (_, true) => depth.saturating_sub(1),
                _ => depth,
            };
            let is_mark = token.kind == Kind::Mark && depth == 0;
            let value = &tokens[index + 1..];
            let (Some(first), Some(last)) = (value.first(), value.last()) else {
                continue;
            };
            let last = match (last.text, value.len()) {
                // A sign that trims the text after the tag.
                ("-" | "+", 2..) => &value[value.len() - 2],
                _ => last,
            };
            let is_held = tokens[..index].iter().any(|token| token.text == ".");
            let filter = if is_held { HELD } else { BOUNDED };
            match token.text {
                "=" if is_mark => {
                    self.put(first.at, "(");
                    self.bound(value, None);
                    self.put(last.end(), format!(")|{filter}"));
                    return;
                }
                "|" if is_mark => {
                    self.bound(&tokens[index..], None);
                    self.put(last.end(), format!("|{filter}"));
                    return;
                }
                _ => {}
            }
        }
    }

    /// Bounds the lists, maps, groups and arguments of an expression. `first` says what its first bracket encloses, if
    /// that is not to be seen from the tokens before it.
    fn bound(&mut self, tokens: &[Token<'a>], mut first: Option<Bracket>) {
        // The open brackets, and for each whether one of its arguments is being bounded.
        let mut open: Vec<(Bracket, bool)> = Vec::new();
        let mut before: Option<&Token<'a>> = None;
        for (index, token) in tokens.iter().enumerate() {
            let rest = &tokens[index + 1..];
            let is_comma = token.kind == Kind::Mark && token.text == ",";
            if let (true, Some((_, true)), Some(last)) =
                (is_comma || token.closes(), open.last(), before)
            {
                self.put(last.end(), format!(")|{BOUNDED}"));
            }
            if token.opens() {
                let bracket = first.take().unwrap_or_else(|| Bracket::of(tokens, index));
                if bracket == Bracket::Value {
                    self.put(token.at, "(");
                }
                open.push((bracket, self.argument(bracket, rest)));
            } else if token.closes() {
                match open.pop() {
                    Some((Bracket::Value, _)) => self.put(token.end(), format!("|{BOUNDED})")),
                    Some((Bracket::Filter, _)) => self.put(token.end(), format!("|{BOUNDED}")),
                    _ => {}
                }
            } else if let (true, Some((bracket, is_bounded))) = (is_comma, open.last_mut()) {
                *is_bounded = self.argument(*bracket, rest);
            }
            before = Some(token);
        }
    }

    /// Begins to bound the argument or default with which the tokens begin, if it needs to be.
    fn argument(&mut self, bracket: Bracket, tokens: &[Token<'a>]) -> bool {
        let is = |index: usize, marks: &[&str]| {
            let token: Option<&Token<'a>> = tokens.get(index);
            token.is_some_and(|token| token.kind == Kind::Mark && marks.contains(&token.text))
        };
        let first = match (is(0, &["*", "**"]), is(1, &["="])) {
            (true, _) => 1,
            (_, true) => 2,
            _ => 0,
        };
        let is_value = match bracket {
            Bracket::Arguments | Bracket::Filter => true,
            Bracket::Parameters => first == 2,
            Bracket::Value | Bracket::Index => false,
        };
        let Some(value) = tokens
            .get(first)
            .filter(|token| is_value && !token.closes())
        else {
            return false;
        };
        let is_plain = matches!(value.kind, Kind::Text | Kind::Number);
        if is_plain && is(first + 1, &[",", ")"]) {
            return false;
        }
        self.put(value.at, "(");
        true
    }
}

/// Whether there is a `~` among the tokens before the bracket around them ends.
fn joins<'t>(tokens: impl Iterator<Item = &'t Token<'t>>, ends: fn(&Token<'t>) -> bool) -> bool {
    let mut depth = 0usize;
    for token in tokens {
        let is_bracket = token.opens() || token.closes();
        match (ends(token), depth) {
            (true, 0) => return false,
            (true, _) => depth -= 1,
            (false, _) if is_bracket => depth += 1,
            (false, 0) if token.kind == Kind::Mark && token.text == "~" => return true,
            _ => {}
        }
    }
    false
}

/// The length of the rest of a tag, behind its `{%`, if it says `name` and nothing else. This must be the engine's own
/// rule, since it does not read what is between two such tags.
fn basic_tag(tag: &str, name: &str) -> Option<usize> {
    fn unsigned(text: &str) -> &str {
        text.strip_prefix(['-', '+']).unwrap_or(text)
    }
    let rest = unsigned(tag).trim_ascii_start().strip_prefix(name)?;
    let rest = unsigned(rest.trim_ascii_start()).strip_prefix("%}")?;
    Some(tag.len() - rest.len())
}
