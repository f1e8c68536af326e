//! A pickle reader that executes nothing.
//!
//! Pickle is a stack program that builds Python objects by naming and calling functions. Here a name stays a name and a call stays
//! a record of what would have been called: [`Node::Global`] and [`Node::Object`]. The readers above look for the few names whose
//! meaning they know; everything else lies unused. Protocols 0 to 5 as far as `torch.save` writes them (Python's
//! `Lib/pickletools.py` documents the opcodes).
//!
//! Values live in one flat arena and refer to each other by index. So cycles are harmless, and neither dropping nor reading needs
//! recursion, however deep a hostile file nests. Strings are ranges of the input. Every opcode takes at least one byte and
//! allocates a bounded amount, and the caps below hold for inputs of any size.

mod machine;

use std::ops::Range;

use thiserror::Error;

use crate::message::shorten;

/// Largest pickle that is read. Those of the published code are below 1 MB: weights are not in it.
pub(super) const MAX_BYTES: usize = 64 << 20;
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
    #[error(
        "it is too large ({what}); a checkpoint of the published code is far smaller, check the file"
    )]
    TooLarge {
        /// Which bound was passed.
        what: String,
    },
}

/// Index of a value in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ref(u32);

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
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    /// Elements of tuples.
    pool: Vec<Ref>,
    root: Ref,
}

impl<'a> Pickle<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PickleError> {
        if bytes.len() > MAX_BYTES {
            return Err(PickleError::TooLarge {
                what: format!("{} bytes, at most {MAX_BYTES} are read", bytes.len()),
            });
        }
        machine::run(bytes)
    }

    pub(super) fn root(&self) -> Ref {
        self.root
    }

    fn node(&self, id: Ref) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Text, when it is UTF-8. Python can also write lone surrogates, which no name of interest has.
    pub(super) fn text(&self, id: Ref) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(range) => std::str::from_utf8(slice(self.bytes, range)).ok(),
            _ => None,
        }
    }

    pub(super) fn is_none(&self, id: Ref) -> bool {
        matches!(self.node(id), Node::None)
    }

    pub(super) fn int(&self, id: Ref) -> Option<i64> {
        match *self.node(id) {
            Node::Int(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn boolean(&self, id: Ref) -> Option<bool> {
        match *self.node(id) {
            Node::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A float or an integer.
    pub(super) fn number(&self, id: Ref) -> Option<f64> {
        match *self.node(id) {
            Node::Float(value) => Some(value),
            Node::Int(value) => Some(value as f64),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Ref) -> Option<&[Ref]> {
        match self.node(id) {
            Node::Tuple(range) => Some(&self.pool[range.start as usize..range.end as usize]),
            _ => None,
        }
    }

    pub(super) fn list(&self, id: Ref) -> Option<&[Ref]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, id: Ref) -> Option<&[(Ref, Ref)]> {
        match self.node(id) {
            Node::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value under a text key; the last one, as in Python.
    pub(super) fn get(&self, dict: Ref, key: &str) -> Option<Ref> {
        self.dict(dict)?
            .iter()
            .rev()
            .find(|(k, _)| self.text(*k) == Some(key))
            .map(|&(_, value)| value)
    }

    /// Module and name of a global.
    pub(super) fn global(&self, id: Ref) -> Option<(&'a str, &'a str)> {
        match self.node(id) {
            Node::Global { module, name } => Some((
                std::str::from_utf8(slice(self.bytes, module)).ok()?,
                std::str::from_utf8(slice(self.bytes, name)).ok()?,
            )),
            _ => None,
        }
    }

    /// Class, arguments and state of an object.
    pub(super) fn object(&self, id: Ref) -> Option<(Ref, Ref, Option<Ref>)> {
        match *self.node(id) {
            Node::Object { class, args, state } => Some((class, args, state)),
            _ => None,
        }
    }

    pub(super) fn persistent(&self, id: Ref) -> Option<Ref> {
        match *self.node(id) {
            Node::Persistent(id) => Some(id),
            _ => None,
        }
    }

    fn full_name(&self, id: Ref) -> String {
        match self.global(id) {
            Some((module, name)) => shorten(&format!("{module}.{name}")),
            None => "an unnamed class".into(),
        }
    }

    /// What a value is, for messages.
    pub(super) fn kind(&self, id: Ref) -> String {
        match self.node(id) {
            Node::None => "None".into(),
            Node::Bool(value) => if *value { "True" } else { "False" }.into(),
            Node::Int(value) => value.to_string(),
            Node::Float(value) => value.to_string(),
            Node::Text(_) => match self.text(id) {
                Some(text) => format!("\"{}\"", shorten(text)),
                None => "bytes".into(),
            },
            Node::Opaque => "an opaque value".into(),
            Node::Tuple(_) => "a tuple".into(),
            Node::List(_) => "a list".into(),
            Node::Dict(_) => "a dictionary".into(),
            Node::Global { .. } => self.full_name(id),
            Node::Object { class, .. } => format!("an object of {}", self.full_name(*class)),
            Node::Persistent(_) => "a stored value".into(),
        }
    }
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}
