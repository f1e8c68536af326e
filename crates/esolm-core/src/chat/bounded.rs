//! Bounds on templates beyond the engine's fuel, which counts instructions and the bytes that they produce: values that
//! repeat the same list many times, and methods whose work the engine does not count.

use minijinja::value::{Object, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Maximum elements of a value, with all nested lists expanded.
const MOST_PARTS: usize = 50_000;
/// Maximum bytes of its texts, counted in the same way.
const MOST_BYTES: usize = 16 << 20;
/// Maximum nesting of lists.
const MOST_DEPTH: usize = 32;
/// Bytes that one unit of the engine's fuel pays for.
const BYTES_A_FUEL: usize = 64;

fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// What is left of a value's bounds.
struct Budget {
    parts: usize,
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let too_large = || refuse("a value has too many parts");
        self.parts = self.parts.checked_sub(1).ok_or_else(too_large)?;
        if let Some(text) = value.as_str() {
            self.bytes = self.bytes.checked_sub(text.len()).ok_or_else(too_large)?;
            return Ok(());
        }
        if !matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        ) {
            return Ok(());
        }
        if depth > 0 && is_namespace(value) {
            return Err(refuse("a namespace is put into another value"));
        }
        if depth == MOST_DEPTH {
            return Err(refuse("a value has too many lists within lists"));
        }
        let is_map = value.kind() == ValueKind::Map;
        for item in value.try_iter()? {
            if is_map {
                self.spend(&value.get_item(&item)?, depth + 1)?;
            }
            self.spend(&item, depth + 1)?;
        }
        Ok(())
    }
}

/// Only namespaces are mutable, and so can contain themselves.
fn is_namespace(value: &Value) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// Passes on a value if its expanded size is within bounds.
pub fn bounded(state: &State, value: Value) -> Result<Value, Error> {
    check(state, &value, 0)?;
    Ok(value)
}

/// Like [`bounded`], for a value stored in a namespace.
pub fn held(state: &State, value: Value) -> Result<Value, Error> {
    check(state, &value, 1)?;
    Ok(value)
}

fn check(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    let mut budget = Budget {
        parts: MOST_PARTS,
        bytes: MOST_BYTES,
    };
    budget.spend(value, depth)?;
    state.consume_fuel(((MOST_PARTS - budget.parts) / 4) as u64)
}

/// A function whose result is bounded. Each of its arguments is, but it may make one value of all.
pub fn of(function: Value) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Result<Value, Error> {
    move |state, arguments| {
        let value = function.call(state, &arguments.into_values())?;
        bounded(state, value)
    }
}

/// The test `iterable`; as in Python, none is not iterable.
pub fn is_iterable(value: &Value) -> bool {
    value.kind() != ValueKind::None && value.try_iter().is_ok()
}

/// `range`, with bounded arguments.
pub fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    const MOST: i64 = 1 << 24;
    let number = |value: i64| match (-MOST..=MOST).contains(&value) {
        true => Ok(value as isize),
        false => Err(refuse("range has too many elements")),
    };
    let upper = upper.map(number).transpose()?;
    let step = step.map(number).transpose()?;
    minijinja::functions::range(number(lower)?, upper, step)
}

/// Python's methods of strings, lists and maps.
pub fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let bytes = work(text, name, arguments)?;
        state.consume_fuel((bytes / BYTES_A_FUEL) as u64)?;
    }
    unknown_method_callback(state, value, name, arguments)
}

/// Bytes that a string method reads or produces beyond those that the engine counts.
fn work(text: &str, name: &str, arguments: &[Value]) -> Result<usize, Error> {
    /// Bytes per element of a list.
    const PART: usize = 64;
    let first = arguments.first().and_then(Value::as_str);
    Ok(match name {
        "strip" | "lstrip" | "rstrip" => text.len().saturating_mul(first.map_or(1, str::len)),
        "split" => match first {
            Some("") => 0,
            Some(separator) => PART * text.matches(separator).count(),
            None => PART * text.split_whitespace().count(),
        },
        "splitlines" => PART * text.lines().count(),
        "startswith" | "endswith" => match arguments.first() {
            Some(list) if first.is_none() => {
                let texts = list.try_iter()?;
                texts.map(|item| item.as_str().map_or(0, str::len)).sum()
            }
            _ => 0,
        },
        "join" => {
            let items = arguments.first().map(Value::try_iter).transpose()?;
            let mut bytes = 0usize;
            for item in items.into_iter().flatten() {
                let text = item.as_str();
                let text = text.ok_or_else(|| refuse("join takes texts alone"))?;
                bytes = bytes.saturating_add(text.len());
            }
            bytes
        }
        "format" => {
            let digits = |c: char| !c.is_ascii_digit();
            let widest = text.split(digits).map(|n| {
                n.parse().unwrap_or(match n {
                    "" => 0,
                    _ => usize::MAX,
                })
            });
            let widest = widest.max().unwrap_or(0);
            let mut longest = 0;
            for argument in arguments {
                longest = match argument.kind() {
                    ValueKind::String => longest.max(argument.as_str().map_or(0, str::len)),
                    ValueKind::Number | ValueKind::Bool | ValueKind::None => longest,
                    _ => return Err(refuse("format takes texts and numbers alone")),
                };
            }
            let fields = text.matches('{').count();
            fields.saturating_mul(widest.saturating_add(longest))
        }
        _ => 0,
    })
}

/// The message passed to `raise_exception`.
#[derive(Debug)]
pub struct Raised(pub String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl Object for Raised {}

/// `raise_exception`, with which a template rejects a conversation.
pub fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.as_str().unwrap_or("it says no reason").to_string();
    Err(refuse("raised").with_source(Raised(message)))
}
