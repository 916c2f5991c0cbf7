//! Descriptions of tensors in a pickle: which calls create one, and their arguments as storage,
//! offset, shape and strides.

use crate::formats::elements::Element;
use crate::formats::parsed::Parsed;
use crate::formats::pickle::Pickle;
use crate::formats::pickle::node::{Id, Node, Object};
use crate::formats::values;

/// Maximum nesting of parameters in parameters.
const WRAPPED: usize = 4;
/// Maximum length of a storage name. They are short numbers; a long one used often would cost time.
const MOST_KEY: usize = 256;

/// A tensor as the pickle describes it.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub struct Description {
    pub storage: String,
    pub element: Element,
    /// Elements in the storage.
    pub length: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// A storage as the pickle describes it.
pub struct StorageId {
    pub key: String,
    /// `None` for untyped storage, whose tensors state their own type.
    pub element: Option<Element>,
    pub length: usize,
    /// Offset of a legacy view in it.
    pub offset: usize,
}

/// The function and arguments of a call; wrappers around a tensor are removed.
fn call(pickle: &Pickle, id: Id, depth: usize) -> Option<(&str, &[Id])> {
    let object = pickle.object(id)?;
    let mut function = pickle.global(object.callable)?;
    let mut args = pickle.items(object.args)?;
    if function == "torch._tensor._rebuild_from_type_v2" {
        (function, args) = (pickle.global(*args.first()?)?, pickle.items(*args.get(2)?)?);
    }
    match function {
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" if depth < WRAPPED => {
            call(pickle, *args.first()?, depth + 1)
        }
        _ => Some((function, args)),
    }
}

pub fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    let rebuilds =
        |name: &str| name.strip_prefix("torch._utils._rebuild_tensor").is_some_and(|v| ["", "_v2", "_v3"].contains(&v));
    call(pickle, id, 0).is_some_and(|(function, _)| rebuilds(function))
}

/// The name of an unknown call that may have created a tensor.
pub fn unknown_call(pickle: &Pickle, id: Id) -> Option<String> {
    let object = pickle.object(id)?;
    if object.instance {
        return None;
    }
    foreign_name(pickle, object)
}

/// The name of the callable that would create an object, unless it is known to be plain data.
pub fn foreign_name(pickle: &Pickle, object: &Object) -> Option<String> {
    match pickle.global(object.callable) {
        Some(name) if values::is_plain(name) => None,
        Some(name) => Some(name.to_string()),
        None => Some("the result of another call".into()),
    }
}

/// The description of a tensor; `None` if the node is not a tensor.
pub fn describe(pickle: &Pickle, id: Id) -> Option<Parsed<Description>> {
    if !is_tensor(pickle, id) {
        return None;
    }
    let (function, args) = call(pickle, id, 0)?;
    Some(describe_call(pickle, function, args))
}

fn describe_call(pickle: &Pickle, function: &str, args: &[Id]) -> Parsed<Description> {
    let unusual = || format!("its call of `{function}` has unexpected arguments");
    let [storage, offset, shape, strides, ..] = args else { return Err(unusual()) };
    let storage = storage_id(pickle, *storage)?;
    // After flags and callbacks follow a dtype, in the third version only, and metadata.
    let v3 = function.ends_with("_v3");
    let flags = args.get(if v3 { 7 } else { 6 });
    if flags.is_some_and(|id| values::len(pickle, *id) > 0) {
        return Err("is a negated or conjugated view, which is not supported".into());
    }
    let own = match args.get(6).and_then(|id| pickle.global(*id)).filter(|_| v3) {
        Some(name) => Some(dtype(name).ok_or_else(|| format!("has type {name}, which is not supported"))?),
        None => None,
    };
    let element = own.or(storage.element).ok_or_else(unusual)?;
    // Untyped storage counts bytes.
    let length = storage.length * storage.element.map_or(1, Element::size) / element.size();
    let offset = usize::try_from(pickle.int(*offset).ok_or_else(unusual)?).map_err(|_| unusual())?;
    let offset = offset.checked_add(storage.offset).ok_or_else(unusual)?;
    let numbers = |id| values::sizes(pickle, id).ok_or_else(unusual);
    Ok(Description {
        storage: storage.key,
        element,
        length,
        offset,
        shape: numbers(*shape)?,
        strides: numbers(*strides)?,
    })
}

/// Parses `('storage', type, key, device, elements)`, followed in legacy files by a view
/// `(key, offset, elements)` or None.
pub fn storage_id(pickle: &Pickle, id: Id) -> Parsed<StorageId> {
    let unusual = || "its storage is invalid".to_string();
    let Node::Persistent(inner) = pickle.node(id) else { return Err(unusual()) };
    let [kind, class, key, _device, length, rest @ ..] = pickle.items(*inner).ok_or_else(unusual)? else {
        return Err(unusual());
    };
    if pickle.str(*kind) != Some("storage") {
        return Err(unusual());
    }
    let class = pickle.global(*class).ok_or_else(unusual)?;
    let element = match class.rsplit_once('.') {
        Some(("torch" | "torch.cuda" | "torch.storage", "UntypedStorage" | "_UntypedStorage")) => None,
        Some(("torch" | "torch.cuda" | "torch.storage", name)) => {
            let element = storage_class(name).ok_or_else(|| format!("is of `{class}`, which is not supported"))?;
            Some(element)
        }
        _ => return Err(format!("lies in a `{class}`, which is not a storage")),
    };
    let length = pickle.int(*length).and_then(|n| usize::try_from(n).ok()).ok_or_else(unusual)?;
    if length > usize::MAX / 16 {
        return Err(unusual());
    }
    let offset = match rest.first().and_then(|view| pickle.items(*view)) {
        Some([_, offset, ..]) => pickle.int(*offset).and_then(|n| usize::try_from(n).ok()).ok_or_else(unusual)?,
        _ => 0,
    };
    Ok(StorageId { key: key_text(pickle, *key).ok_or_else(unusual)?, element, length, offset })
}

/// Key and element size of a storage of an unsupported type, which a reader of a legacy file must
/// skip.
pub fn unread_storage(pickle: &Pickle, id: Id) -> Option<(String, usize)> {
    let Node::Persistent(inner) = pickle.node(id) else { return None };
    let [_, class, key, ..] = pickle.items(*inner)? else { return None };
    let size = match pickle.global(*class)?.rsplit_once('.')?.1.strip_suffix("Storage")? {
        "ComplexDouble" => 16,
        "ComplexFloat" => 8,
        "QInt32" => 4,
        "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => 1,
        _ => return None,
    };
    Some((key_text(pickle, *key)?, size))
}

pub fn key_text(pickle: &Pickle, id: Id) -> Option<String> {
    match pickle.node(id) {
        Node::Str(key) if key.len() <= MOST_KEY => Some(key.clone()),
        Node::Int(key) => Some(key.to_string()),
        _ => None,
    }
}

fn storage_class(name: &str) -> Option<Element> {
    Some(match name.strip_suffix("Storage")? {
        "Bool" => Element::Bool,
        "Byte" => Element::U8,
        "Char" => Element::I8,
        "Short" => Element::I16,
        "Int" => Element::I32,
        "Long" => Element::I64,
        "Half" => Element::F16,
        "BFloat16" => Element::BF16,
        "Float" => Element::F32,
        "Double" => Element::F64,
        _ => return None,
    })
}

fn dtype(name: &str) -> Option<Element> {
    Some(match name.strip_prefix("torch.")? {
        "bool" => Element::Bool,
        "uint8" => Element::U8,
        "int8" => Element::I8,
        "uint16" => Element::U16,
        "int16" => Element::I16,
        "uint32" => Element::U32,
        "int32" => Element::I32,
        "uint64" => Element::U64,
        "int64" => Element::I64,
        "float16" => Element::F16,
        "bfloat16" => Element::BF16,
        "float32" => Element::F32,
        "float64" => Element::F64,
        "float8_e4m3fn" => Element::F8E4M3,
        _ => return None,
    })
}
