//! Python pickles as inert data.
//!
//! A pickle is a program for a small stack machine. This machine builds nodes and executes nothing:
//! where Python would import and call something, a node describes the call and its arguments
//! ([`Node::Object`]). Protocols 0 to 5 are supported.
//!
//! Nodes are stored in one vector and refer to each other by index, so cyclic lists, shared values
//! and deep nesting use no recursion and no copies. It does not know PyTorch.

mod machine;
pub mod node;

use super::parsed::Parsed;
use machine::Machine;
use node::{Id, Node, Object};

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    pub root: Id,
    /// Bytes that it occupies.
    pub length: usize,
}

impl Pickle {
    /// Reads the pickle at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut machine = Machine::new(bytes);
        match machine.run() {
            Ok(root) => Ok(Self { nodes: machine.nodes, root, length: machine.at }),
            Err(e) => Err(format!("its pickle cannot be read: {e} (byte {})", machine.at)),
        }
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// All references to external values, in the order of the file.
    pub fn persistent(&self) -> impl Iterator<Item = Id> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| matches!(node, Node::Persistent(_))).map(|(i, _)| Id(i as u32))
    }

    pub fn str(&self, id: Id) -> Option<&str> {
        if let Node::Str(s) = self.node(id) { Some(s) } else { None }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        if let Node::Int(n) = self.node(id) { Some(*n) } else { None }
    }

    pub fn global(&self, id: Id) -> Option<&str> {
        if let Node::Global(name) = self.node(id) { Some(name) } else { None }
    }

    /// The items of a tuple or list.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        if let Node::Tuple(items) | Node::List(items) = self.node(id) { Some(items) } else { None }
    }

    pub fn object(&self, id: Id) -> Option<&Object> {
        if let Node::Object(object) = self.node(id) { Some(object) } else { None }
    }

    /// The value for a key of a dictionary.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        let Node::Dict(pairs) = self.node(dict) else { return None };
        pairs.iter().rev().find(|(k, _)| self.str(*k) == Some(key)).map(|(_, v)| *v)
    }
}
