//! The stack machine that turns a pickle into the arena.

use std::collections::HashMap;
use std::ops::Range;

use super::{MAX_NODES, Node, Pickle, PickleError, Ref, slice};

/// Runs the pickle to its end.
pub(super) fn run(bytes: &[u8]) -> Result<Pickle, PickleError> {
    Machine {
        bytes,
        at: 0,
        opcode: 0,
        start: 0,
        nodes: Vec::new(),
        pool: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    }
    .run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The current instruction and its offset, for messages.
    opcode: u8,
    start: usize,
    nodes: Vec<Node>,
    pool: Vec<Ref>,
    stack: Vec<Ref>,
    /// Stack heights at the marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Ref>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle, PickleError> {
        loop {
            self.start = self.at;
            self.opcode = self.take(1)?[0];
            if self.opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle {
                    bytes: self.bytes.into(),
                    nodes: self.nodes,
                    pool: self.pool,
                    root,
                });
            }
            self.step()?;
            let sizes = [
                self.nodes.len(),
                self.stack.len(),
                self.memo.len(),
                self.marks.len(),
            ];
            if sizes.into_iter().any(|size| size > MAX_NODES) {
                return Err(PickleError::TooLarge {
                    what: format!("more than {MAX_NODES} objects"),
                });
            }
        }
    }

    fn step(&mut self) -> Result<(), PickleError> {
        if let Some(node) = self.value()? {
            self.push(node);
            return Ok(());
        }
        match self.opcode {
            0x80 => {
                // PROTO
                if self.take(1)?[0] > 5 {
                    return Err(self.malformed("names a protocol above 5"));
                }
            }
            0x95 => drop(self.take(8)?), // FRAME: a hint for buffered reading
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP: a mark, when nothing lies above it
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            0x90 => {
                // ADDITEMS
                self.pop_mark()?;
                self.top()?;
            }
            b'b' => {
                // BUILD: the state of a dictionary (state_dict has _metadata) is of no use
                let new = self.pop()?;
                let top = self.top()?;
                if let Node::Object { state, .. } = &mut self.nodes[top.0 as usize] {
                    *state = Some(new);
                }
            }
            b'q' | b'r' => {
                let key = self.length(if self.opcode == b'q' { 1 } else { 4 })?;
                self.memo.insert(key, self.top()?);
            }
            0x94 => drop(self.memo.insert(self.memo.len(), self.top()?)),
            b'h' | b'j' => {
                let key = self.length(if self.opcode == b'h' { 1 } else { 4 })?;
                let value = self.memo.get(&key).copied();
                let value =
                    value.ok_or_else(|| self.malformed("asks for a value that was not stored"));
                self.stack.push(value?);
            }
            opcode => {
                return Err(PickleError::Opcode {
                    opcode,
                    at: self.start,
                });
            }
        }
        Ok(())
    }

    /// The value that the instruction creates, if any.
    fn value(&mut self) -> Result<Option<Node>, PickleError> {
        Ok(Some(match self.opcode {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'K' => Node::Int(self.take(1)?[0].into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
            // Strings and bytes.
            0x8c | b'U' | b'C' => self.string(1)?,
            b'X' | b'T' | b'B' => self.string(4)?,
            0x8d | 0x8e | 0x96 => self.string(8)?,
            b']' => Node::List(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            0x8f => Node::Opaque, // EMPTY_SET
            b')' => Node::Tuple(0..0),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(self.opcode - 0x84))?;
                self.tuple(&items)
            }
            b't' => {
                let items = self.pop_mark()?;
                self.tuple(&items)
            }
            b'l' => Node::List(self.pop_mark()?),
            b'd' => {
                let items = self.pop_mark()?;
                Node::Dict(self.pairs(&items)?)
            }
            0x91 => {
                // FROZENSET
                self.pop_mark()?;
                Node::Opaque
            }
            b'c' => Node::Global {
                module: self.line()?,
                name: self.line()?,
            },
            0x93 => {
                // STACK_GLOBAL
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
                    (Node::Text(module), Node::Text(name)) => Node::Global {
                        module: module.clone(),
                        name: name.clone(),
                    },
                    _ => return Err(self.malformed("needs two texts on the stack")),
                }
            }
            // REDUCE, NEWOBJ, and NEWOBJ_EX, whose keyword arguments matter to none of the known classes
            b'R' | 0x81 | 0x92 => {
                if self.opcode == 0x92 {
                    self.pop()?;
                }
                let (args, class) = (self.pop()?, self.pop()?);
                self.instantiate(class, args)
            }
            b'Q' => Node::Persistent(self.pop()?),
            _ => return Ok(None),
        }))
    }

    fn malformed(&self, problem: &'static str) -> PickleError {
        PickleError::Malformed {
            opcode: self.opcode,
            at: self.start,
            problem,
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let bytes = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..length));
        let bytes = bytes.ok_or(PickleError::Truncated(self.bytes.len()))?;
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take gives as many bytes as were asked for"))
    }

    /// A number of `bytes` bytes, which must fit into memory.
    fn length(&mut self, bytes: usize) -> Result<usize, PickleError> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| PickleError::Truncated(self.bytes.len()))
    }

    /// A string or bytes, preceded by a length of `bytes` bytes. The input is at most [`MAX_BYTES`](super::MAX_BYTES)
    /// long, so 32 bits are enough for the range.
    fn string(&mut self, bytes: usize) -> Result<Node, PickleError> {
        let length = self.length(bytes)?;
        let start = self.at as u32;
        self.take(length)?;
        Ok(Node::Text(start..self.at as u32))
    }

    fn line(&mut self) -> Result<Range<u32>, PickleError> {
        let start = self.at;
        let length = self.bytes[start..]
            .iter()
            .position(|&b| b == b'\n')
            .ok_or(PickleError::Truncated(self.bytes.len()))?;
        self.at = start + length + 1;
        Ok(start as u32..(start + length) as u32)
    }

    /// A little-endian two's complement integer, preceded by a length of `bytes` bytes. Values longer than 64 bits are
    /// never needed.
    fn long(&mut self, bytes: usize) -> Result<Node, PickleError> {
        let length = self.length(bytes)?;
        let bytes = self.take(length)?;
        Ok(match bytes {
            [] => Node::Int(0),
            [.., last] if length <= 8 => {
                let mut wide = [if last & 0x80 != 0 { 0xff } else { 0 }; 8];
                wide[..length].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(wide))
            }
            _ => Node::Opaque,
        })
    }

    fn push(&mut self, node: Node) {
        // The check after each step keeps the count far below 2^32.
        self.stack.push(Ref(self.nodes.len() as u32));
        self.nodes.push(node);
    }

    fn tuple(&mut self, items: &[Ref]) -> Node {
        let start = self.pool.len() as u32;
        self.pool.extend_from_slice(items);
        Node::Tuple(start..self.pool.len() as u32)
    }

    /// Pops `count` values from the stack above the last mark, lowest first.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Ref>, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(self.malformed("finds too little on the stack")),
        }
    }

    fn pop(&mut self) -> Result<Ref, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The value on top of the stack, above the last mark.
    fn top(&self) -> Result<Ref, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack
            .get(floor..)
            .and_then(|above| above.last())
            .copied()
            .ok_or_else(|| self.malformed("finds the stack empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Ref>, PickleError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.malformed("finds no mark on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[Ref]) -> Result<Vec<(Ref, Ref)>, PickleError> {
        if !items.len().is_multiple_of(2) {
            return Err(self.malformed("finds a key without a value"));
        }
        Ok(items
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    fn append(&mut self, items: &[Ref]) -> Result<(), PickleError> {
        let top = self.top()?;
        match &mut self.nodes[top.0 as usize] {
            Node::List(list) => list.extend_from_slice(items),
            Node::Object { .. } | Node::Opaque => {} // a subclass of list or a deque: nothing here asks for its items
            _ => return Err(self.malformed("appends to something that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), PickleError> {
        let pairs = self.pairs(items)?;
        let top = self.top()?;
        match &mut self.nodes[top.0 as usize] {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Object { .. } => {} // a subclass of dict: nothing here asks for its items
            _ => return Err(self.malformed("sets items of something that is not a dictionary")),
        }
        Ok(())
    }

    /// Records what would have been created. Only the two dictionaries of the standard library are known to start out
    /// empty.
    fn instantiate(&self, class: Ref, args: Ref) -> Node {
        let name = match &self.nodes[class.0 as usize] {
            Node::Global { module, name } => {
                Some((slice(self.bytes, module), slice(self.bytes, name)))
            }
            _ => None,
        };
        let no_args =
            matches!(&self.nodes[args.0 as usize], Node::Tuple(range) if range.is_empty());
        match name {
            Some((b"collections", b"OrderedDict")) if no_args => Node::Dict(Vec::new()),
            Some((b"collections", b"defaultdict")) => Node::Dict(Vec::new()),
            _ => Node::Object {
                class,
                args,
                state: None,
            },
        }
    }
}
