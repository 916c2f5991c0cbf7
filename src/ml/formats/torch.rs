//! PyTorch's checkpoints: what a pickle says about tensors, and where their numbers lie.
//!
//! Three layouts share the pickle. A zip checkpoint (since 1.6) keeps each storage in an entry `data/KEY`; a legacy file
//! is a row of pickles with the storages behind them; a TorchScript archive is a zip whose pickle holds an object for
//! each module instead of a state dict. A tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage, an offset,
//! a shape and strides, and is read as that; any other call is never made.

use super::Parsed;
use super::archive::Archive;
use super::elements::{Element, View};
use super::pickle::{Id, Node, Object, Pickle};
use super::values;
use crate::ml::weights::Tensors;
use candle_core::Tensor;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// Dictionaries within dictionaries within modules; deeper ones are not looked into.
const DEPTH: usize = 64;
/// Values looked at in search of tensors: shared dictionaries could make paths without number.
const VISITS: usize = 2_000_000;
/// Name of a tensor that is a whole file.
const BARE: &str = "tensor";
/// Parameters within parameters.
const WRAPPED: usize = 4;
/// Names of storages are short numbers; a long one used often would cost time.
const MOST_KEY: usize = 256;
/// The pickle of a checkpoint, without its numbers.
const MOST_PICKLE: u64 = 256 << 20;
/// What the tensors of a set may take, beyond four times the size of their storages.
const SLACK: usize = 64 << 20;
/// First value in a legacy file.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// An opened checkpoint: its pickle and the places of its storages.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pickle: Pickle,
    storages: Storages,
    sets: Vec<Set>,
    /// Classes and functions that only Python could run, beside the sets.
    foreign: BTreeSet<String>,
    script: bool,
}

/// Tensors found under one path.
#[derive(Debug)]
struct Set {
    path: String,
    values: Vec<(String, Id)>,
    count: usize,
}

#[derive(Debug)]
enum Storages {
    Zip { archive: Archive, folder: String, big_endian: bool },
    Legacy { map: Mmap, places: HashMap<String, Range<usize>> },
}

/// A tensor as the pickle describes it.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
struct Description {
    storage: String,
    element: Element,
    /// Elements in the storage.
    length: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// What the pickle says of a storage.
struct StorageId {
    key: String,
    /// None for a storage of bytes, whose tensors bring their own type.
    element: Option<Element>,
    length: usize,
    /// Where a legacy view begins in it.
    offset: usize,
}

impl Checkpoint {
    /// The folder of the pickle in an archive that is a checkpoint.
    pub fn folder(archive: &Archive) -> Option<String> {
        let folders = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
        // The outermost, should an archive hold others.
        folders.filter(|f| f.is_empty() || f.ends_with('/')).min_by_key(|f| f.len()).map(str::to_string)
    }

    pub fn open_zip(archive: Archive, folder: String) -> Parsed<Self> {
        let pickle = Pickle::parse(&archive.read(&format!("{folder}data.pkl"), MOST_PICKLE)?)?;
        let order = format!("{folder}byteorder");
        let big_endian = if archive.contains(&order) {
            match &archive.read(&order, 64)?[..] {
                b"little" => false,
                b"big" => true,
                other => return Err(format!("its byte order is `{}`", String::from_utf8_lossy(other))),
            }
        } else {
            false
        };
        let script = archive.contains(&format!("{folder}constants.pkl"));
        Self::new(pickle, Storages::Zip { archive, folder, big_endian }, script)
    }

    /// Does a file that begins with `head` look like a legacy checkpoint? The first pickle is a number.
    pub fn is_legacy(head: &[u8]) -> bool {
        let number = match Pickle::parse(head) {
            Ok(first) => first.node(first.root).clone(),
            Err(_) => return false,
        };
        matches!(number, Node::Big(bytes) if bytes[..] == MAGIC)
    }

    /// Magic number, protocol version, about the system, the checkpoint, keys of storages, storages.
    pub fn open_legacy(map: Mmap) -> Parsed<Self> {
        let mut at = 0usize;
        let mut next = || -> Parsed<Pickle> {
            let most = map.len().min(at.saturating_add(MOST_PICKLE as usize));
            let pickle = Pickle::parse(&map[at..most])?;
            at += pickle.length;
            Ok(pickle)
        };
        next()?;
        let version = next()?;
        if version.int(version.root) != Some(1001) {
            return Err("a legacy PyTorch file of another version than 1001".into());
        }
        let (_system, pickle, keys) = (next()?, next()?, next()?);
        // Storages follow in the order of their keys, each behind its number of elements; how long an element is only
        // the pickle knows.
        let mut known = HashMap::new();
        for id in pickle.persistent() {
            if let Ok(s) = storage_id(&pickle, id) {
                let size = s.element.map_or(1, Element::size);
                if *known.entry(s.key.clone()).or_insert(size) != size {
                    return Err(format!("storage `{}` has two types", s.key));
                }
            }
        }
        let mut places = HashMap::new();
        for key in keys.items(keys.root).ok_or("its list of storages is none")? {
            let key = key_text(&keys, *key).ok_or("its list of storages has a key that is no text")?;
            let size = known.get(&key).ok_or_else(|| format!("storage `{key}` is listed but nowhere used"))?;
            let truncated = || format!("truncated: storage `{key}` ends beyond the file");
            let count = map.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(truncated)?;
            let start = at + 8;
            let end = usize::try_from(u64::from_le_bytes(*count))
                .ok()
                .and_then(|n| n.checked_mul(*size)?.checked_add(start))
                .filter(|end| *end <= map.len())
                .ok_or_else(truncated)?;
            places.insert(key, start..end);
            at = end;
        }
        Self::new(pickle, Storages::Legacy { map, places }, false)
    }

    fn new(pickle: Pickle, storages: Storages, script: bool) -> Parsed<Self> {
        let mut search = Search { pickle: &pickle, spent: 0, above: vec![], sets: vec![], foreign: BTreeSet::new() };
        search.look(pickle.root, "")?;
        let (sets, foreign) = (search.sets, search.foreign);
        Ok(Self { pickle, storages, sets, foreign, script })
    }

    pub fn is_script(&self) -> bool {
        self.script
    }

    pub fn is_legacy_file(&self) -> bool {
        matches!(self.storages, Storages::Legacy { .. })
    }

    pub fn sets(&self) -> Vec<(String, usize)> {
        self.sets.iter().map(|set| (set.path.clone(), set.count)).collect()
    }

    /// What stands where no dictionary of tensors could be found.
    pub fn foreign(&self) -> Vec<String> {
        self.foreign.iter().map(|name| format!("`{name}`")).collect()
    }

    /// Plain values at a path, see [`values::json`].
    pub fn data(&self, path: &str) -> Option<serde_json::Value> {
        values::json(&self.pickle, values::find(&self.pickle, path)?)
    }

    pub fn tensors(&self, set: &str) -> Parsed<Tensors> {
        let mut found = self.sets.iter().filter(|s| s.path == set);
        let (Some(set), None) = (found.next(), found.next()) else {
            return Err(format!("two dictionaries are called `{set}`"));
        };
        let mut reader =
            Reader { storages: &self.storages, inflated: HashMap::new(), stored: 0, taken: 0, views: HashMap::new() };
        let mut tensors = BTreeMap::new();
        for (name, id) in &set.values {
            let in_tensor = |e| format!("tensor `{name}`: {e}");
            let Some(description) = describe(&self.pickle, *id) else {
                if let Some(call) = unknown_call(&self.pickle, *id) {
                    return Err(in_tensor(format!("is what `{call}` would make, which is never called")));
                }
                continue;
            };
            let tensor = description.and_then(|d| reader.read(d)).map_err(in_tensor)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(format!("two tensors are called `{name}`"));
            }
        }
        Ok(tensors)
    }
}

/// Walks the pickle for dictionaries that hold tensors. Paths are followed, not values, so that a dictionary which is
/// there under two names is found under both.
struct Search<'a> {
    pickle: &'a Pickle,
    spent: usize,
    /// The containers that the present one lies in.
    above: Vec<Id>,
    sets: Vec<Set>,
    foreign: BTreeSet<String>,
}

impl<'a> Search<'a> {
    fn look(&mut self, id: Id, path: &str) -> Parsed<()> {
        if self.above.len() > DEPTH || self.above.contains(&id) {
            return Ok(());
        }
        if is_tensor(self.pickle, id) {
            // The whole file is one: `torch.save(tensor, ...)`. Others are found by what they lie in.
            self.found(path, vec![(BARE.to_string(), id)]);
            return Ok(());
        }
        if let Some(object) = self.pickle.object(id) {
            return self.look_into_object(object, path);
        }
        let (mut values, mut below) = (Vec::new(), Vec::new());
        for (key, value) in self.entries(id, path)? {
            match self.pickle.node(value) {
                Node::Dict(_) | Node::List(_) | Node::Tuple(_) => below.push((key, value)),
                Node::Object(_) => {
                    if !is_tensor(self.pickle, value) {
                        below.push((key.clone(), value));
                    }
                    values.push((key.into_owned(), value));
                }
                _ => {}
            }
        }
        self.found(path, values);
        self.above.push(id);
        for (key, value) in below {
            self.look(value, &values::join(path, &key))?;
        }
        self.above.pop();
        Ok(())
    }

    fn look_into_object(&mut self, object: &'a Object, path: &str) -> Parsed<()> {
        let mut values = Vec::new();
        self.module(object, "", self.above.len(), &mut values)?;
        if values.is_empty() {
            self.foreign.extend(foreign_name(self.pickle, object));
        }
        self.found(path, values);
        Ok(())
    }

    /// What a container at `path` holds, paid for by number and by the names that will be made of it.
    fn entries(&mut self, id: Id, path: &str) -> Parsed<Vec<(Cow<'a, str>, Id)>> {
        self.pay(1 + values::len(self.pickle, id))?;
        let entries = values::entries(self.pickle, id);
        self.pay(entries.iter().map(|(key, _)| (path.len() + key.len()) / 64).sum())?;
        Ok(entries)
    }

    fn pay(&mut self, n: usize) -> Parsed<()> {
        self.spent = self.spent.saturating_add(n);
        if self.spent > VISITS {
            return Err("its dictionaries hold each other in more ways than can be looked at".into());
        }
        Ok(())
    }

    fn found(&mut self, path: &str, values: Vec<(String, Id)>) {
        let count = values.iter().filter(|(_, id)| is_tensor(self.pickle, *id)).count();
        if count > 0 {
            self.sets.push(Set { path: path.to_string(), values, count });
        }
    }

    /// The tensors of a module and the modules in it, by dotted names as in its state dict: a module of TorchScript
    /// keeps all as attributes, one of Python in dictionaries for parameters, buffers and modules.
    fn module(&mut self, object: &Object, prefix: &str, depth: usize, into: &mut Vec<(String, Id)>) -> Parsed<()> {
        let Some(state) = object.state.filter(|_| depth <= DEPTH) else { return Ok(()) };
        self.pay(1 + values::len(self.pickle, state))?;
        let get = |key| self.pickle.get(state, key);
        let parts = if let (Some(parameters), Some(modules)) = (get("_parameters"), get("_modules")) {
            let transient = get("_non_persistent_buffers_set").and_then(|id| self.pickle.items(id)).unwrap_or_default();
            self.pay(transient.len())?;
            let transient: BTreeSet<_> = transient.iter().filter_map(|id| self.pickle.str(*id)).collect();
            let buffers = match get("_buffers") {
                Some(id) => self.entries(id, prefix)?,
                None => vec![],
            };
            let mut parts = self.entries(parameters, prefix)?;
            parts.extend(buffers.into_iter().filter(|(name, _)| !transient.contains(&**name)));
            parts.extend(self.entries(modules, prefix)?);
            parts
        } else if self.pickle.global(object.callable).is_some_and(|name| name.starts_with("__torch__.")) {
            self.entries(state, prefix)?
        } else {
            return Ok(());
        };
        for (key, value) in parts {
            if is_tensor(self.pickle, value) {
                into.push((values::join(prefix, &key), value));
            } else if let Some(inner) = self.pickle.object(value) {
                self.module(inner, &values::join(prefix, &key), depth + 1, into)?;
            }
        }
        Ok(())
    }
}

/// The function that would be called and its arguments, if this is a call; what wraps a tensor is looked through.
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

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    let rebuilds =
        |name: &str| name.strip_prefix("torch._utils._rebuild_tensor").is_some_and(|v| ["", "_v2", "_v3"].contains(&v));
    call(pickle, id, 0).is_some_and(|(function, _)| rebuilds(function))
}

/// A call that may have made a tensor, for all that is known here.
fn unknown_call(pickle: &Pickle, id: Id) -> Option<String> {
    let object = pickle.object(id)?;
    if object.instance {
        return None;
    }
    foreign_name(pickle, object)
}

/// The name of what an object would be made by, unless that is known to be plain data.
fn foreign_name(pickle: &Pickle, object: &Object) -> Option<String> {
    match pickle.global(object.callable) {
        Some(name) if values::is_plain(name) => None,
        Some(name) => Some(name.to_string()),
        None => Some("the result of another call".into()),
    }
}

/// None if this is no tensor.
fn describe(pickle: &Pickle, id: Id) -> Option<Parsed<Description>> {
    if !is_tensor(pickle, id) {
        return None;
    }
    let (function, args) = call(pickle, id, 0)?;
    Some(describe_call(pickle, function, args))
}

fn describe_call(pickle: &Pickle, function: &str, args: &[Id]) -> Parsed<Description> {
    let unusual = || format!("its description, a call of `{function}`, is not understood");
    let [storage, offset, shape, strides, ..] = args else { return Err(unusual()) };
    let storage = storage_id(pickle, *storage)?;
    // After flags and hooks come a type, in the third version only, and what is to be done to the numbers.
    let v3 = function.ends_with("_v3");
    let flags = args.get(if v3 { 7 } else { 6 });
    if flags.is_some_and(|id| values::len(pickle, *id) > 0) {
        return Err("is a negated or conjugated view, which is not read here".into());
    }
    let own = match args.get(6).and_then(|id| pickle.global(*id)).filter(|_| v3) {
        Some(name) => Some(dtype(name).ok_or_else(|| format!("has type {name}, which is not read here"))?),
        None => None,
    };
    let element = own.or(storage.element).ok_or_else(unusual)?;
    // A storage of bytes counts bytes.
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

/// `('storage', type, key, device, elements)`, and in legacy files a view `(key, offset, elements)` or None.
fn storage_id(pickle: &Pickle, id: Id) -> Parsed<StorageId> {
    let unusual = || "its storage is not understood".to_string();
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
            let element = storage_class(name).ok_or_else(|| format!("is of `{class}`, which is not read here"))?;
            Some(element)
        }
        _ => return Err(format!("lies in a `{class}`, which is no storage")),
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

fn key_text(pickle: &Pickle, id: Id) -> Option<String> {
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

/// Reads the tensors of one set. What was made once is shared: tensors that are one in the file are one in memory.
struct Reader<'a> {
    storages: &'a Storages,
    inflated: HashMap<String, Cow<'a, [u8]>>,
    /// Bytes of the storages, and of the tensors made of them.
    stored: usize,
    taken: usize,
    views: HashMap<Description, Tensor>,
}

impl Reader<'_> {
    fn read(&mut self, d: Description) -> Parsed<Tensor> {
        if let Some(tensor) = self.views.get(&d) {
            return Ok(tensor.clone());
        }
        if !self.inflated.contains_key(&d.storage) {
            let bytes = self.storages.bytes(&d)?;
            self.stored += bytes.len();
            self.inflated.insert(d.storage.clone(), bytes);
        }
        let bytes = &self.inflated[&d.storage];
        let big_endian = matches!(self.storages, Storages::Zip { big_endian: true, .. });
        let view =
            View { bytes, element: d.element, big_endian, offset: d.offset, shape: &d.shape, strides: &d.strides };
        // Views that overlap or repeat could fill any memory from a small file.
        self.taken = self.taken.saturating_add(view.size()?);
        if self.taken > self.stored.saturating_mul(4).saturating_add(SLACK) {
            return Err(format!("shape {:?} repeats the {} bytes of its storage too often", d.shape, bytes.len()));
        }
        let tensor = view.tensor()?;
        self.views.insert(d, tensor.clone());
        Ok(tensor)
    }
}

impl Storages {
    /// The bytes of a whole storage.
    fn bytes(&self, d: &Description) -> Parsed<Cow<'_, [u8]>> {
        let expected = d.length * d.element.size();
        match self {
            Self::Zip { archive, folder, .. } => {
                let entry = format!("{folder}data/{}", d.storage);
                let size = archive.size(&entry)?;
                // A storage of bytes need not be a multiple of the element.
                if size < expected as u64 || size - expected as u64 >= d.element.size() as u64 {
                    return Err(format!("storage `{}` has {size} bytes, the pickle says {expected}", d.storage));
                }
                archive.read(&entry, size)
            }
            Self::Legacy { map, places } => {
                let place = places.get(&d.storage).ok_or_else(|| format!("storage `{}` is missing", d.storage))?;
                Ok(Cow::Borrowed(&map[place.clone()]))
            }
        }
    }
}
