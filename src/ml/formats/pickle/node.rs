//! What a pickle is made of, as a graph of nodes: objects refer to each other, and to themselves.

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u32);

/// A value. Containers hold indices, see [`Pickle::node`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer that no i64 holds, two's complement, little endian.
    Big(Box<[u8]>),
    Float(f64),
    Str(String),
    Bytes(Box<[u8]>),
    /// Sets too: they are lists for our purposes.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, `module.name`. Never looked up.
    Global(String),
    Object(Box<Object>),
    /// What the writer keeps outside of the pickle, under this value.
    Persistent(Id),
}

/// What Python would make by calling something. Items that it is then given, as a kind of list or dictionary, are left
/// out: what it would do with them only its class knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// Usually a [`Node::Global`].
    pub callable: Id,
    /// A tuple.
    pub args: Id,
    /// An instance of a class made without calling its constructor, or the result of a call?
    pub instance: bool,
    /// What it is told to restore itself from, usually a dictionary of its attributes.
    pub state: Option<Id>,
}
