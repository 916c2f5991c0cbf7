//! Plain values in a pickle: entries by path, sizes, and whole values as JSON, such as the
//! arguments of a run that a checkpoint stores. Bounded in depth and number, because values may be
//! cyclic.

use super::pickle::Pickle;
use super::pickle::node::{Id, Node, Object};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

const DEPTH: usize = 32;
/// Maximum number of values; a long string counts as several.
const MOST_VALUES: usize = 100_000;

/// Path of an entry of the value at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// Keys and values of a dictionary with string or integer keys, or positions and items of a list.
pub(super) fn entries(pickle: &Pickle, id: Id) -> Vec<(Cow<'_, str>, Id)> {
    match pickle.node(id) {
        Node::Dict(pairs) => {
            let key = |key| {
                let number = || pickle.int(key).map(|n| Cow::Owned(n.to_string()));
                pickle.str(key).map(Cow::Borrowed).or_else(number)
            };
            pairs.iter().filter_map(|(k, v)| Some((key(*k)?, *v))).collect()
        }
        Node::List(items) | Node::Tuple(items) => {
            items.iter().enumerate().map(|(i, id)| (Cow::Owned(i.to_string()), *id)).collect()
        }
        _ => vec![],
    }
}

/// Number of entries of a dictionary or list.
pub(super) fn len(pickle: &Pickle, id: Id) -> usize {
    match pickle.node(id) {
        Node::Dict(pairs) => pairs.len(),
        Node::List(items) | Node::Tuple(items) => items.len(),
        _ => 0,
    }
}

/// The value at a dotted path; keys may contain dots.
pub(super) fn find(pickle: &Pickle, path: &str) -> Option<Id> {
    let mut id = pickle.root;
    let mut rest = path;
    while !rest.is_empty() {
        let (key, value) = entries(pickle, id)
            .into_iter()
            .filter(|(key, _)| rest.strip_prefix(&**key).is_some_and(|r| r.is_empty() || r.starts_with('.')))
            .max_by_key(|(key, _)| key.len())?;
        rest = rest[key.len()..].trim_start_matches('.');
        id = value;
        // An empty key could be followed forever.
        if key.is_empty() {
            return None;
        }
    }
    Some(id)
}

/// Sizes, strides or positions: a tuple, a list or a `torch.Size`.
pub(super) fn sizes(pickle: &Pickle, id: Id) -> Option<Vec<usize>> {
    let mut id = id;
    if let Some(object) = pickle.object(id) {
        (pickle.global(object.callable) == Some("torch.Size")).then_some(())?;
        id = *pickle.items(object.args)?.first()?;
    }
    pickle.items(id)?.iter().map(|n| usize::try_from(pickle.int(*n)?).ok()).collect()
}

/// Whether this class or function is known not to create a tensor.
pub(super) fn is_plain(name: &str) -> bool {
    const MODULES: [&str; 6] = ["datetime.", "pathlib.", "decimal.", "fractions.", "uuid.", "collections."];
    const NAMES: [&str; 5] = ["torch.Size", "torch.device", "_codecs.encode", "numpy.dtype", "argparse.Namespace"];
    NAMES.contains(&name)
        || MODULES.iter().any(|m| name.starts_with(m))
        || is_numpy(name, "scalar")
        || is_numpy(name, "_reconstruct")
}

/// A NumPy function under its old or new module name.
fn is_numpy(name: &str, function: &str) -> bool {
    ["numpy.core.multiarray.", "numpy._core.multiarray."]
        .iter()
        .any(|module| name.strip_prefix(module) == Some(function))
}

/// A value as JSON: objects with attributes become objects of them, other objects
/// `{"NAME": [arguments]}`, tensors and bytes a placeholder string. `None` if it is too large or
/// cyclic.
pub(super) fn json(pickle: &Pickle, id: Id) -> Option<Value> {
    Json { pickle, left: MOST_VALUES }.value(id, 0)
}

struct Json<'a> {
    pickle: &'a Pickle,
    left: usize,
}

impl Json<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        if depth > DEPTH {
            return None;
        }
        Some(match self.pickle.node(id) {
            Node::None => Value::Null,
            Node::Bool(b) => json!(b),
            Node::Int(n) => json!(n),
            Node::Big(bytes) => json!(format!("an integer of {} bytes", bytes.len())),
            // JSON cannot represent non-finite numbers.
            Node::Float(x) => {
                if x.is_finite() {
                    json!(x)
                } else {
                    json!(x.to_string())
                }
            }
            Node::Str(s) => {
                self.left = self.left.checked_sub(s.len() / 64)?;
                json!(s)
            }
            Node::Bytes(bytes) => json!(format!("{} bytes", bytes.len())),
            Node::Global(name) => json!(name),
            Node::Persistent(_) => json!("a storage"),
            Node::List(items) | Node::Tuple(items) => self.values(items, depth)?,
            Node::Dict(_) => self.attributes(id, depth)?,
            Node::Object(object) => self.object(object, depth)?,
        })
    }

    fn values(&mut self, items: &[Id], depth: usize) -> Option<Value> {
        Some(Value::Array(items.iter().map(|id| self.value(*id, depth + 1)).collect::<Option<_>>()?))
    }

    fn attributes(&mut self, dict: Id, depth: usize) -> Option<Value> {
        let entries = entries(self.pickle, dict).into_iter();
        let mut entry = |(key, id): (Cow<str>, Id)| {
            self.left = self.left.checked_sub(key.len() / 64)?;
            Some((key.into_owned(), self.value(id, depth + 1)?))
        };
        Some(Value::Object(entries.map(&mut entry).collect::<Option<Map<_, _>>>()?))
    }

    fn object(&mut self, object: &Object, depth: usize) -> Option<Value> {
        if let Some(number) = self.numpy_scalar(object) {
            return Some(number);
        }
        match object.state {
            Some(state) if matches!(self.pickle.node(state), Node::Dict(_)) => self.attributes(state, depth),
            _ => {
                let name = self.pickle.global(object.callable).unwrap_or("object");
                Some(json!({ name: self.value(object.args, depth + 1)? }))
            }
        }
    }

    /// `scalar(dtype('f8', ...), bytes)`; the byte order is in the state of the dtype.
    fn numpy_scalar(&self, object: &Object) -> Option<Value> {
        let pickle = self.pickle;
        is_numpy(pickle.global(object.callable)?, "scalar").then_some(())?;
        let [dtype, bytes] = pickle.items(object.args)? else { return None };
        let dtype = pickle.object(*dtype)?;
        let kind = pickle.str(*pickle.items(dtype.args)?.first()?)?;
        let order = dtype.state.and_then(|state| pickle.str(*pickle.items(state)?.get(1)?));
        let mut bytes = self.bytes(*bytes)?;
        if order == Some(">") {
            bytes.reverse();
        }
        Some(match (kind, bytes.len()) {
            ("f8", 8) => json!(f64::from_le_bytes(bytes.try_into().ok()?)),
            ("f4", 4) => json!(f32::from_le_bytes(bytes.try_into().ok()?)),
            ("b1", 1) => json!(bytes[0] != 0),
            ("i1" | "i2" | "i4" | "i8", n) => {
                let fill = if bytes[n - 1] >= 0x80 { 0xff } else { 0 };
                bytes.resize(8, fill);
                json!(i64::from_le_bytes(bytes.try_into().ok()?))
            }
            ("u1" | "u2" | "u4" | "u8", _) => {
                bytes.resize(8, 0);
                json!(u64::from_le_bytes(bytes.try_into().ok()?))
            }
            _ => return None,
        })
    }

    /// Bytes, or protocol 2's replacement for them: `_codecs.encode(text, 'latin1')`.
    fn bytes(&self, id: Id) -> Option<Vec<u8>> {
        if let Node::Bytes(bytes) = self.pickle.node(id) {
            return (bytes.len() <= 8 && !bytes.is_empty()).then(|| bytes.to_vec());
        }
        let object = self.pickle.object(id)?;
        (self.pickle.global(object.callable)? == "_codecs.encode").then_some(())?;
        let text = self.pickle.str(*self.pickle.items(object.args)?.first()?)?;
        let bytes: Vec<u8> = text.chars().take(9).map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?;
        (bytes.len() <= 8 && !bytes.is_empty()).then_some(bytes)
    }
}
