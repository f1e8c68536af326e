//! A pickle reader that executes nothing.
//!
//! Pickle is a stack program that builds Python objects by naming and calling functions. Here a name stays a name, and
//! a call stays a record of what would have been called: [`Node::Global`] and [`Node::Object`]. Readers look for the
//! few names whose meaning they know; everything else is ignored. Supports protocols 0 to 5, to the extent that
//! `torch.save` uses them (Python's `Lib/pickletools.py` documents the opcodes).
//!
//! Values are stored in one flat arena and refer to each other by index. Cycles are therefore harmless, and neither
//! dropping nor reading needs recursion, however deeply a hostile file nests. Strings are ranges of the input. Every
//! opcode takes at least one byte and allocates a bounded amount, and the limits below hold for inputs of any size.

mod machine;

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::message::shorten;

/// Maximum size of a pickle. Real ones are far smaller, since weights are stored separately.
pub(crate) const MAX_BYTES: usize = 64 << 20;
/// Maximum number of values, stack entries and memo entries.
const MAX_NODES: usize = 4 << 20;
/// Maximum bytes of the name of a module, class or function. Many objects can share a name, which is checked for each.
const MAX_NAME: usize = 1024;

/// Why a pickle was rejected.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PickleError {
    /// The input ends inside an instruction, or before the last one.
    #[error(
        "it ends after {0} bytes in the middle of an instruction; the file is truncated, copy it again"
    )]
    Truncated(usize),
    /// An instruction that `torch.save` does not use.
    #[error(
        "it has the unsupported instruction {opcode:#04x} at byte {at}; write the checkpoint with torch.save of PyTorch 1.6 or newer"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Its offset.
        at: usize,
    },
    /// An instruction does not match the contents of the stack.
    #[error(
        "its instruction {opcode:#04x} at byte {at} {problem}; the file is damaged, copy it again"
    )]
    Malformed {
        /// The instruction.
        opcode: u8,
        /// Its offset.
        at: usize,
        /// What does not match.
        problem: &'static str,
    },
    /// A limit far above any real checkpoint was exceeded.
    #[error("it is too large ({what}); real checkpoints are far smaller, check the file")]
    TooLarge {
        /// Which limit.
        what: String,
    },
}

/// Index of a value in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ref(u32);

#[derive(Debug)]
enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string or bytes: a range of the input.
    Text(Range<u32>),
    /// A value that is never needed: long integers, sets.
    Opaque,
    /// A range of the pool.
    Tuple(Range<u32>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// A name that would have been imported: ranges of the input.
    Global {
        module: Range<u32>,
        name: Range<u32>,
    },
    /// What a call or an instantiation would have created.
    Object {
        class: Ref,
        args: Ref,
        state: Option<Ref>,
    },
    /// A value stored outside the pickle, by its id.
    Persistent(Ref),
}

/// A parsed pickle.
pub(crate) struct Pickle {
    /// Its input, which contains strings and names.
    bytes: Vec<u8>,
    nodes: Vec<Node>,
    /// Elements of tuples.
    pool: Vec<Ref>,
    root: Ref,
}

impl Pickle {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PickleError> {
        if bytes.len() > MAX_BYTES {
            return Err(PickleError::TooLarge {
                what: format!("{} bytes, at most {MAX_BYTES} are read", bytes.len()),
            });
        }
        machine::run(bytes)
    }

    pub(crate) fn root(&self) -> Value<'_> {
        Value {
            pickle: self,
            id: self.root,
        }
    }

    /// A string, if it is valid UTF-8. Python can also write lone surrogates, but no relevant name contains them.
    fn utf8(&self, range: &Range<u32>) -> Option<&str> {
        std::str::from_utf8(slice(&self.bytes, range)).ok()
    }
}

/// A value in a pickle, as data: inspecting it executes nothing. Values can contain themselves, so code that descends
/// into them must bound the depth.
///
/// Supported are None, booleans, integers of up to 64 bits, floats, strings and bytes, tuples, lists, dictionaries
/// (also `OrderedDict` and `defaultdict`), classes and functions by name, and [`Object`]s. Sets, longer integers, and
/// the contents of subclasses of lists and dictionaries are not kept. [`Display`](fmt::Display) describes a value in a
/// few words.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: Ref,
}

/// How an object would have been created: `class(*args)`, either an instantiation or a function call.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// The class or function; see [`Value::global`].
    pub class: Value<'a>,
    /// A tuple.
    pub args: Value<'a>,
    /// The argument of `__setstate__`: for most objects, the dictionary of their fields.
    pub state: Option<Value<'a>>,
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node {
        &self.pickle.nodes[self.id.0 as usize]
    }

    /// What tells it from the other values of its pickle. Different parts of a pickle can refer to one and the same value.
    pub fn id(self) -> u32 {
        self.id.0
    }

    fn sibling(self, id: Ref) -> Self {
        Self { id, ..self }
    }

    /// A string, or bytes that are valid UTF-8.
    pub fn text(self) -> Option<&'a str> {
        match self.node() {
            Node::Text(range) => self.pickle.utf8(range),
            _ => None,
        }
    }

    /// A string, or arbitrary bytes.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self.node() {
            Node::Text(range) => Some(slice(&self.pickle.bytes, range)),
            _ => None,
        }
    }

    /// Whether it is Python's `None`.
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// An integer.
    pub fn int(self) -> Option<i64> {
        match *self.node() {
            Node::Int(value) => Some(value),
            _ => None,
        }
    }

    /// `True` or `False`.
    pub fn boolean(self) -> Option<bool> {
        match *self.node() {
            Node::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A float or an integer.
    pub fn number(self) -> Option<f64> {
        match *self.node() {
            Node::Float(value) => Some(value),
            Node::Int(value) => Some(value as f64),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub fn tuple(self) -> Option<impl ExactSizeIterator<Item = Value<'a>>> {
        Some(self.tuple_refs()?.iter().map(move |&id| self.sibling(id)))
    }

    fn tuple_refs(self) -> Option<&'a [Ref]> {
        match self.node() {
            Node::Tuple(range) => Some(&self.pickle.pool[range.start as usize..range.end as usize]),
            _ => None,
        }
    }

    /// The first `N` elements of a tuple that has at least as many.
    pub(crate) fn first<const N: usize>(self) -> Option<[Value<'a>; N]> {
        let ids: &[Ref; N] = self.tuple_refs()?.first_chunk()?;
        Some(ids.map(|id| self.sibling(id)))
    }

    /// The elements of a list.
    pub fn list(self) -> Option<impl ExactSizeIterator<Item = Value<'a>>> {
        match self.node() {
            Node::List(items) => Some(items.iter().map(move |&id| self.sibling(id))),
            _ => None,
        }
    }

    /// Keys and values of a dictionary, in order; a key may occur more than once, in which case the last one counts.
    pub fn dict(self) -> Option<impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)>> {
        let pair = move |&(key, value): &(Ref, Ref)| (self.sibling(key), self.sibling(value));
        match self.node() {
            Node::Dict(pairs) => Some(pairs.iter().map(pair)),
            _ => None,
        }
    }

    /// The value for a string key of a dictionary, found by linear search.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let Node::Dict(pairs) = self.node() else {
            return None;
        };
        let mut found = pairs.iter().rev().map(|&(k, v)| (self.sibling(k), v));
        // As bytes, since checking long keys for valid UTF-8 takes time.
        let (_, value) = found.find(|(k, _)| k.bytes() == Some(key.as_bytes()))?;
        Some(self.sibling(value))
    }

    /// Module and name of a class or function.
    pub fn global(self) -> Option<(&'a str, &'a str)> {
        match self.node() {
            Node::Global { module, name } if module.len().max(name.len()) <= MAX_NAME => {
                Some((self.pickle.utf8(module)?, self.pickle.utf8(name)?))
            }
            _ => None,
        }
    }

    /// Class, arguments and state of an object.
    pub fn object(self) -> Option<Object<'a>> {
        match *self.node() {
            Node::Object { class, args, state } => Some(Object {
                class: self.sibling(class),
                args: self.sibling(args),
                state: state.map(|id| self.sibling(id)),
            }),
            _ => None,
        }
    }

    /// The id of a value stored outside the pickle; with `torch.save`, that of a tensor's storage.
    pub fn persistent(self) -> Option<Value<'a>> {
        match *self.node() {
            Node::Persistent(id) => Some(self.sibling(id)),
            _ => None,
        }
    }

    fn full_name(self) -> String {
        match self.global() {
            Some((module, name)) => shorten(&format!("{module}.{name}")),
            None => "an unnamed class".into(),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node() {
            Node::None => f.write_str("None"),
            Node::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Node::Int(value) => write!(f, "{value}"),
            Node::Float(value) => write!(f, "{value}"),
            Node::Text(_) => match self.text() {
                Some(text) => write!(f, "\"{}\"", shorten(text)),
                None => f.write_str("bytes"),
            },
            Node::Opaque => f.write_str("an opaque value"),
            Node::Tuple(_) => f.write_str("a tuple"),
            Node::List(_) => f.write_str("a list"),
            Node::Dict(_) => f.write_str("a dictionary"),
            Node::Global { .. } => f.write_str(&self.full_name()),
            Node::Object { class, .. } => {
                write!(f, "an object of {}", self.sibling(*class).full_name())
            }
            Node::Persistent(_) => f.write_str("a stored value"),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}
