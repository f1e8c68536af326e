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
    /// The running instruction and its place, for messages.
    opcode: u8,
    start: usize,
    nodes: Vec<Node>,
    pool: Vec<Ref>,
    stack: Vec<Ref>,
    /// Heights of the stack at which marks lie.
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
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
            if self
                .nodes
                .len()
                .max(self.stack.len())
                .max(self.memo.len())
                .max(self.marks.len())
                > MAX_NODES
            {
                return Err(PickleError::TooLarge {
                    what: format!("more than {MAX_NODES} objects"),
                });
            }
        }
    }

    fn step(&mut self) -> Result<(), PickleError> {
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
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'K' => {
                let value = i64::from(self.take(1)?[0]);
                self.push(Node::Int(value));
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.array()?));
                self.push(Node::Int(value));
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push(Node::Int(value));
            }
            0x8a => {
                let length = usize::from(self.take(1)?[0]);
                self.long(length)?;
            }
            0x8b => {
                let length = self.length4()?;
                self.long(length)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value));
            }
            // Texts and bytes with a length of one, four or eight bytes.
            0x8c | b'U' | b'C' => {
                let length = usize::from(self.take(1)?[0]);
                self.string(length)?;
            }
            b'X' | b'T' | b'B' => {
                let length = self.length4()?;
                self.string(length)?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                let length = usize::try_from(length)
                    .map_err(|_| PickleError::Truncated(self.bytes.len()))?;
                self.string(length)?;
            }
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::Opaque), // EMPTY_SET
            b')' => self.push(Node::Tuple(0..0)),
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push_tuple(&items);
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            b'd' => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.push(Node::Dict(pairs));
            }
            0x91 => {
                // FROZENSET
                self.pop_mark()?;
                self.push(Node::Opaque);
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.set_items(pairs)?;
            }
            0x90 => {
                // ADDITEMS
                self.pop_mark()?;
                self.top()?;
            }
            b'q' => {
                let key = u32::from(self.take(1)?[0]);
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = u32::from(self.take(1)?[0]);
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push(Node::Global { module, name });
            }
            0x93 => {
                // STACK_GLOBAL
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
                    (Node::Text(module), Node::Text(name)) => {
                        let node = Node::Global {
                            module: module.clone(),
                            name: name.clone(),
                        };
                        self.push(node);
                    }
                    _ => return Err(self.malformed("needs two texts on the stack")),
                }
            }
            b'R' | 0x81 => {
                // REDUCE, NEWOBJ
                let (args, class) = (self.pop()?, self.pop()?);
                self.instantiate(class, args);
            }
            0x92 => {
                // NEWOBJ_EX: keyword arguments matter to none of the known classes
                let (_, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.instantiate(class, args);
            }
            b'b' => {
                // BUILD: the state of a dictionary (state_dict has _metadata) is of no use
                let new = self.pop()?;
                let top = self.top()?;
                if let Node::Object { state, .. } = &mut self.nodes[top.0 as usize] {
                    *state = Some(new);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
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

    fn length4(&mut self) -> Result<usize, PickleError> {
        let length = u32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| PickleError::Truncated(self.bytes.len()))
    }

    /// A range of the input; it is at most [`MAX_BYTES`] long, so 32 bits are enough.
    fn string(&mut self, length: usize) -> Result<(), PickleError> {
        let start = self.at as u32;
        self.take(length)?;
        self.push(Node::Text(start..self.at as u32));
        Ok(())
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

    /// A little-endian two's complement integer; what is longer than 64 bits is nothing that is asked for.
    fn long(&mut self, length: usize) -> Result<(), PickleError> {
        let bytes = self.take(length)?;
        self.push(match bytes {
            [] => Node::Int(0),
            [.., last] if length <= 8 => {
                let mut wide = [if last & 0x80 != 0 { 0xff } else { 0 }; 8];
                wide[..length].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(wide))
            }
            _ => Node::Opaque,
        });
        Ok(())
    }

    fn new_node(&mut self, node: Node) -> Ref {
        // The check after each step keeps the count far below 2^32.
        let id = Ref(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    fn push(&mut self, node: Node) {
        let id = self.new_node(node);
        self.stack.push(id);
    }

    fn push_tuple(&mut self, items: &[Ref]) {
        let start = self.pool.len() as u32;
        self.pool.extend_from_slice(items);
        self.push(Node::Tuple(start..self.pool.len() as u32));
    }

    fn tuple_of(&mut self, count: usize) -> Result<(), PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self
            .stack
            .len()
            .checked_sub(count)
            .filter(|&start| start >= floor);
        let items = self
            .stack
            .split_off(start.ok_or_else(|| self.malformed("finds too little on the stack"))?);
        self.push_tuple(&items);
        Ok(())
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

    fn set_items(&mut self, pairs: Vec<(Ref, Ref)>) -> Result<(), PickleError> {
        let top = self.top()?;
        match &mut self.nodes[top.0 as usize] {
            Node::Dict(dict) if dict.is_empty() => *dict = pairs,
            Node::Dict(dict) => dict.extend(pairs),
            Node::Object { .. } => {} // a subclass of dict: nothing here asks for its items
            _ => return Err(self.malformed("sets items of something that is not a dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        let value = self
            .memo
            .get(&key)
            .copied()
            .ok_or_else(|| self.malformed("asks for a value that was not stored"))?;
        self.stack.push(value);
        Ok(())
    }

    /// Records what would have been made; only the two dictionaries of the standard library are known to begin empty.
    fn instantiate(&mut self, class: Ref, args: Ref) {
        let name = match &self.nodes[class.0 as usize] {
            Node::Global { module, name } => {
                Some((slice(self.bytes, module), slice(self.bytes, name)))
            }
            _ => None,
        };
        let no_args =
            matches!(&self.nodes[args.0 as usize], Node::Tuple(range) if range.is_empty());
        let node = match name {
            Some((b"collections", b"OrderedDict")) if no_args => Node::Dict(Vec::new()),
            Some((b"collections", b"defaultdict")) => Node::Dict(Vec::new()),
            _ => Node::Object {
                class,
                args,
                state: None,
            },
        };
        self.push(node);
    }
}
