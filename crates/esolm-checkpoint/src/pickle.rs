//! A pickle reader that executes nothing.
//!
//! Pickle is a stack program that builds Python objects by naming and calling functions. Here a name stays a name and a call stays
//! a record of what would have been called: [`Node::Global`] and [`Node::Object`]. Readers look for the few names whose meaning
//! they know; everything else lies unused. Protocols 0 to 5 as far as `torch.save` writes them (Python's
//! `Lib/pickletools.py` documents the opcodes).
//!
//! Values live in one flat arena and refer to each other by index. So cycles are harmless, and neither dropping nor reading needs
//! recursion, however deep a hostile file nests. Strings are ranges of the input. Every opcode takes at least one byte and
//! allocates a bounded amount, and the caps below hold for inputs of any size.

mod machine;

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::message::shorten;

/// Largest pickle that is read. Real ones are far below: weights are not in it.
pub(crate) const MAX_BYTES: usize = 64 << 20;
/// Most values, stack places and memo entries.
const MAX_NODES: usize = 4 << 20;

/// Why a pickle was refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PickleError {
    /// The input ends inside an instruction or before the last one.
    #[error(
        "it ends after {0} bytes in the middle of an instruction; the file is truncated, copy it again"
    )]
    Truncated(usize),
    /// An instruction that `torch.save` does not write.
    #[error(
        "it has the unsupported instruction {opcode:#04x} at byte {at}; write the checkpoint with torch.save of PyTorch 1.6 or newer"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Its place.
        at: usize,
    },
    /// An instruction that does not fit what is on the stack.
    #[error(
        "its instruction {opcode:#04x} at byte {at} {problem}; the file is damaged, copy it again"
    )]
    Malformed {
        /// The instruction.
        opcode: u8,
        /// Its place.
        at: usize,
        /// What does not fit.
        problem: &'static str,
    },
    /// More than any checkpoint needs.
    #[error("it is too large ({what}); real checkpoints are far smaller, check the file")]
    TooLarge {
        /// Which bound was passed.
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
    /// Text or bytes: a range of the input.
    Text(Range<u32>),
    /// A value that nothing here asks for: long integers, sets.
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
    /// What a call or an instantiation would have made.
    Object {
        class: Ref,
        args: Ref,
        state: Option<Ref>,
    },
    /// A value stored outside the pickle, by its identification.
    Persistent(Ref),
}

/// A parsed pickle.
pub(crate) struct Pickle {
    /// Its text, in which strings and names lie.
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

    /// Text, when it is UTF-8. Python can also write lone surrogates, which no name of interest has.
    fn utf8(&self, range: &Range<u32>) -> Option<&str> {
        std::str::from_utf8(slice(&self.bytes, range)).ok()
    }
}

/// A value of a pickle, as data: looking at it runs nothing. Values can contain themselves, so whoever walks down a tree of them
/// must bound how far.
///
/// Kept are None, booleans, integers of up to 64 bits, floats, texts and bytes, tuples, lists, dictionaries (`OrderedDict` and
/// `defaultdict` too), classes and functions by name, and [`Object`]s. Sets, longer integers, and what subclasses of lists and
/// dictionaries contain are not. [`Display`](fmt::Display) says what a value is in a few words.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: Ref,
}

/// What an object would have been made of: `class(*args)`, or what calling a function would have given.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// The class or function; see [`Value::global`].
    pub class: Value<'a>,
    /// A tuple.
    pub args: Value<'a>,
    /// What `__setstate__` would have got: for most objects the dictionary of their fields.
    pub state: Option<Value<'a>>,
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node {
        &self.pickle.nodes[self.id.0 as usize]
    }

    fn sibling(self, id: Ref) -> Self {
        Self { id, ..self }
    }

    /// A text, or bytes that are UTF-8.
    pub fn text(self) -> Option<&'a str> {
        match self.node() {
            Node::Text(range) => self.pickle.utf8(range),
            _ => None,
        }
    }

    /// A text, or bytes whatever they are.
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

    /// The first elements of a tuple that has as many or more.
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

    /// Keys and values of a dictionary, in its order; a key can occur again, and then the last one counts.
    pub fn dict(self) -> Option<impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)>> {
        let pair = move |&(key, value): &(Ref, Ref)| (self.sibling(key), self.sibling(value));
        match self.node() {
            Node::Dict(pairs) => Some(pairs.iter().map(pair)),
            _ => None,
        }
    }

    /// The value under a text key of a dictionary. Looks through all of them.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let Node::Dict(pairs) = self.node() else {
            return None;
        };
        let mut found = pairs.iter().rev().map(|&(k, v)| (self.sibling(k), v));
        let (_, value) = found.find(|(k, _)| k.text() == Some(key))?;
        Some(self.sibling(value))
    }

    /// Module and name of a class or function.
    pub fn global(self) -> Option<(&'a str, &'a str)> {
        match self.node() {
            Node::Global { module, name } => {
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

    /// The identification of a value that lies outside of the pickle; with `torch.save`, of a tensor's storage.
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
