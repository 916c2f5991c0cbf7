//! The stack machine that executes a pickle. Every instruction takes at least one byte of the file
//! and adds at most one node or moves existing ones. The few that copy are charged to a budget.

use super::node::{Id, Node, Object};
use crate::formats::parsed::Parsed;
use std::collections::HashMap;

/// The maximum number of instructions and copied elements. The largest checkpoints need some
/// hundred thousand; each may cost about 60 bytes.
const BUDGET: usize = 8_000_000;

/// The maximum length of a class name.
const MOST_NAME: usize = 1024;

/// The machine: the program, its stack and memo, and the nodes built so far.
pub struct Machine<'a> {
    bytes: &'a [u8],
    pub at: usize,
    pub nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Stack heights at the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: HashMap::new() }
    }

    /// The value that the pickle represents.
    pub fn run(&mut self) -> Parsed<Id> {
        let mut spent = 0;
        loop {
            spent += 1;
            if spent > BUDGET {
                return Err(format!("it has more than {BUDGET} instructions"));
            }
            let op = self.u8()?;
            match op {
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    // A mark on top counts as an item.
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
                0x80 => {
                    let protocol = self.u8()?;
                    if protocol > 5 {
                        return Err(format!("it has protocol {protocol}; supported are 0 to 5"));
                    }
                }
                // A frame only says how much can be read at once.
                0x95 => drop(self.take(8)?),
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b => self.integer(op)?,
                b'F' => {
                    let number = self.line()?.parse().map_err(|_| "an invalid float")?;
                    self.push(Node::Float(number));
                }
                b'G' => {
                    let number = f64::from_bits(self.number(8)?.swap_bytes());
                    self.push(Node::Float(number));
                }
                b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d => self.string(op)?,
                b'B' | b'C' | 0x8e | 0x96 => {
                    let width = match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    };
                    let bytes = self.counted(width)?.into();
                    self.push(Node::Bytes(bytes));
                }
                0x97 => return Err("it refers to out-of-band buffers".into()),
                0x98 => {}
                b']' | 0x8f => self.push(Node::List(vec![])),
                b')' => self.push(Node::Tuple(vec![])),
                b'}' => self.push(Node::Dict(vec![])),
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items));
                }
                b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let n = usize::from(op - 0x84);
                    let from = self.stack.len().checked_sub(n).ok_or("it pops from an empty stack")?;
                    let items = self.stack.split_off(from);
                    self.push(Node::Tuple(items));
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Dict(pairs(&items)?));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.store(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.store(&items)?;
                }
                b'g' | b'h' | b'j' => {
                    let slot = self.slot(op == b'g', if op == b'h' { 1 } else { 4 })?;
                    let id = *self.memo.get(&slot).ok_or("it reads a memo that was never stored")?;
                    self.stack.push(id);
                }
                b'p' | b'q' | b'r' | 0x94 => {
                    let slot = match op {
                        0x94 => self.memo.len() as u64,
                        _ => self.slot(op == b'p', if op == b'q' { 1 } else { 4 })?,
                    };
                    let top = self.top()?;
                    self.memo.insert(slot, top);
                }
                b'c' => {
                    let node = global(&self.line()?, &self.line()?)?;
                    self.push(node);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                        return Err("a class name that is not a string".into());
                    };
                    // The name is copied from strings that may be stored once and used often.
                    spent += (module.len() + name.len()) / 8;
                    let node = global(module, name)?;
                    self.push(node);
                }
                0x82..=0x84 => return Err("it uses Python's extension registry".into()),
                b'R' => spent += self.reduce()?,
                0x81 => {
                    let (args, class) = (self.pop()?, self.pop()?);
                    self.make(class, args, true);
                }
                0x92 => {
                    let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                    self.make(class, args, true);
                }
                b'i' => {
                    let class = global(&self.line()?, &self.line()?)?;
                    let items = self.pop_mark()?;
                    let (class, args) = (self.add(class), self.add(Node::Tuple(items)));
                    self.make(class, args, true);
                }
                b'o' => {
                    let mut items = self.pop_mark()?;
                    if items.is_empty() {
                        return Err("an object without a class".into());
                    }
                    let class = items.remove(0);
                    let args = self.add(Node::Tuple(items));
                    self.make(class, args, true);
                }
                b'b' => {
                    let (state, object) = (self.pop()?, self.top()?);
                    // Attributes of plain containers, such as the `_metadata` of a state dict, are
                    // ignored.
                    if let Node::Object(object) = &mut self.nodes[object.0 as usize] {
                        object.state = Some(state);
                    }
                }
                b'P' => {
                    let name = self.line()?.to_string();
                    let id = self.add(Node::Str(name));
                    self.push(Node::Persistent(id));
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                _ => return Err(format!("unknown instruction {op:#04x}")),
            }
        }
    }

    fn take(&mut self, n: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or("it is truncated")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Parsed<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of up to 8 bytes, little-endian.
    fn number(&mut self, bytes: usize) -> Parsed<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// Bytes preceded by their length.
    fn counted(&mut self, width: usize) -> Parsed<&'a [u8]> {
        let n = self.number(width)?;
        self.take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// The text up to the end of the line.
    fn line(&mut self) -> Parsed<String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or("it is truncated")?;
        let line = String::from_utf8_lossy(&rest[..n]).trim_end_matches('\r').to_string();
        self.at += n + 1;
        Ok(line)
    }

    fn slot(&mut self, text: bool, width: usize) -> Parsed<u64> {
        if text { Ok(self.line()?.parse().map_err(|_| "an invalid memo number")?) } else { self.number(width) }
    }

    fn add(&mut self, node: Node) -> Id {
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(id);
    }

    /// An instruction never pops below the last mark.
    fn pop(&mut self) -> Parsed<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top(&self) -> Parsed<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err("it pops from an empty stack".into()),
        }
    }

    fn pop_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark = self.marks.pop().ok_or("it pops a mark that was never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn integer(&mut self, op: u8) -> Parsed<()> {
        let node = match op {
            b'K' => Node::Int(self.number(1)?.cast_signed()),
            b'M' => Node::Int(self.number(2)?.cast_signed()),
            b'J' => Node::Int(i64::from(self.number(4)? as i32)),
            0x8a => long(self.counted(1)?),
            0x8b => long(self.counted(4)?),
            _ => match self.line()?.as_str() {
                // The booleans of protocol 0.
                "00" if op == b'I' => Node::Bool(false),
                "01" if op == b'I' => Node::Bool(true),
                digits => {
                    let number: i128 = digits.trim_end_matches('L').parse().map_err(|_| "an invalid integer")?;
                    long(&number.to_le_bytes())
                }
            },
        };
        self.push(node);
        Ok(())
    }

    fn string(&mut self, op: u8) -> Parsed<()> {
        let text = match op {
            b'S' => unescape(self.line()?.trim_matches(['\'', '"'])),
            b'V' => unescape(&self.line()?),
            // Python 2 wrote byte strings.
            b'U' => latin(self.counted(1)?),
            b'T' => latin(self.counted(4)?),
            0x8c => String::from_utf8_lossy(self.counted(1)?).into_owned(),
            b'X' => String::from_utf8_lossy(self.counted(4)?).into_owned(),
            _ => String::from_utf8_lossy(self.counted(8)?).into_owned(),
        };
        self.push(Node::Str(text));
        Ok(())
    }

    fn text(&self, id: Id) -> Option<&str> {
        if let Node::Str(s) = &self.nodes[id.0 as usize] { Some(s) } else { None }
    }

    fn append(&mut self, items: &[Id]) -> Parsed<()> {
        let list = self.top()?;
        match &mut self.nodes[list.0 as usize] {
            Node::List(l) => l.extend(items),
            Node::Object(_) => {}
            _ => return Err("it appends to something other than a list".into()),
        }
        Ok(())
    }

    fn store(&mut self, items: &[Id]) -> Parsed<()> {
        let dict = self.top()?;
        let pairs = pairs(items)?;
        match &mut self.nodes[dict.0 as usize] {
            Node::Dict(d) => d.extend(pairs),
            Node::Object(_) => {}
            _ => return Err("it stores items into something other than a dictionary".into()),
        }
        Ok(())
    }

    fn make(&mut self, callable: Id, args: Id, instance: bool) {
        let object = Object { callable, args, instance, state: None };
        self.push(Node::Object(Box::new(object)));
    }

    /// A call, kept as a description. Only Python's own containers are converted to values. Returns
    /// the number of elements copied.
    fn reduce(&mut self) -> Parsed<usize> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let given: Vec<Id> = match &self.nodes[args.0 as usize] {
            Node::Tuple(items) => items.iter().take(3).copied().collect(),
            _ => vec![],
        };
        let Node::Global(name) = &self.nodes[callable.0 as usize] else {
            self.make(callable, args, false);
            return Ok(0);
        };
        match (name.as_str(), given.as_slice()) {
            ("collections.OrderedDict" | "builtins.dict" | "__builtin__.dict", []) | ("collections.defaultdict", _) => {
                self.push(Node::Dict(vec![]));
            }
            ("collections.OrderedDict", [items]) => {
                let pairs = self.listed_pairs(*items).ok_or("an OrderedDict of items that are not pairs")?;
                let copied = pairs.len();
                self.push(Node::Dict(pairs));
                return Ok(copied);
            }
            ("builtins.set" | "__builtin__.set" | "builtins.frozenset" | "__builtin__.frozenset", [items]) => {
                self.stack.push(*items);
            }
            // How protocols 0 and 1 create an instance.
            ("copyreg._reconstructor" | "copy_reg._reconstructor", [class, ..]) => {
                let args = self.add(Node::Tuple(vec![]));
                self.make(*class, args, true);
            }
            _ => self.make(callable, args, false),
        }
        Ok(0)
    }

    fn listed_pairs(&self, items: Id) -> Option<Vec<(Id, Id)>> {
        let (Node::List(items) | Node::Tuple(items)) = &self.nodes[items.0 as usize] else { return None };
        let pair = |item: &Id| match &self.nodes[item.0 as usize] {
            Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
            _ => None,
        };
        items.iter().map(pair).collect()
    }
}

fn global(module: &str, name: &str) -> Parsed<Node> {
    match module.len() + name.len() {
        0..MOST_NAME => Ok(Node::Global(format!("{module}.{name}"))),
        n => Err(format!("a class name of {n} bytes")),
    }
}

fn pairs(items: &[Id]) -> Parsed<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// An integer of any number of bytes, two's complement, little-endian.
fn long(bytes: &[u8]) -> Node {
    let fill = if bytes.last().is_some_and(|b| *b >= 0x80) { 0xff } else { 0 };
    let mut low = [fill; 8];
    let n = bytes.len().min(8);
    low[..n].copy_from_slice(&bytes[..n]);
    let value = i64::from_le_bytes(low);
    let fits = bytes[n..].iter().all(|b| *b == fill) && (value < 0) == (fill == 0xff);
    if fits {
        return Node::Int(value);
    }
    // Drop redundant sign bytes, so that equal numbers have equal bytes.
    let mut end = bytes.len();
    while end > 1 && bytes[end - 1] == fill && (bytes[end - 2] >= 0x80) == (fill == 0xff) {
        end -= 1;
    }
    Node::Big(bytes[..end].into())
}

fn latin(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.iter().map(|b| char::from(*b)).collect())
}

/// Decodes the escapes of a Python literal that names need; others are kept.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let code = |n: usize| tail.get(1..1 + n).and_then(|h| char::from_u32(u32::from_str_radix(h, 16).ok()?));
        let (c, used) = match tail.as_bytes().first() {
            Some(b'n') => (Some('\n'), 1),
            Some(b't') => (Some('\t'), 1),
            Some(b'r') => (Some('\r'), 1),
            Some(b'\\') => (Some('\\'), 1),
            Some(b'\'') => (Some('\''), 1),
            Some(b'"') => (Some('"'), 1),
            Some(b'x') => (code(2), 3),
            Some(b'u') => (code(4), 5),
            Some(b'U') => (code(8), 9),
            _ => (None, 0),
        };
        out.push(c.unwrap_or('\\'));
        rest = if c.is_some() { &tail[used..] } else { tail };
    }
    out.push_str(rest);
    out
}
