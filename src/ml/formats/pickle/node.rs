//! The nodes of a pickle. They form a graph: objects refer to each other, and perhaps to
//! themselves.

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u32);

/// A value. Containers hold indices; see [`Pickle::node`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer that does not fit into i64, two's complement, little-endian.
    Big(Box<[u8]>),
    Float(f64),
    Str(String),
    Bytes(Box<[u8]>),
    /// A list; also a set.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, `module.name`. It is never looked up.
    Global(String),
    Object(Box<Object>),
    /// An external value, identified by this node.
    Persistent(Id),
}

/// What Python would create by a call. Items that are then added to it are omitted, because only
/// its class knows their effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// Usually a [`Node::Global`].
    pub callable: Id,
    /// A tuple.
    pub args: Id,
    /// Whether it is an instance made without calling the constructor, rather than the result of a
    /// call.
    pub instance: bool,
    /// The state it is restored from, usually a dictionary of its attributes.
    pub state: Option<Id>,
}
