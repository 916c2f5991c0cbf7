//! Finds the tensors in a pickle: walks it for dictionaries, lists and modules that hold some.
//! Values may be shared or cyclic, so the walk is bounded in depth and in number.

use super::describe::{foreign_name, is_tensor};
use crate::formats::parsed::Parsed;
use crate::formats::pickle::Pickle;
use crate::formats::pickle::node::{Id, Node, Object};
use crate::formats::values;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Maximum depth of nested dictionaries and modules.
const DEPTH: usize = 64;
/// Maximum number of visited values: shared dictionaries can make exponentially many paths.
const VISITS: usize = 2_000_000;
/// Name for a tensor that is the whole file.
const BARE: &str = "tensor";

/// The contents of a pickle.
#[derive(Debug, Default)]
pub struct Contents {
    pub sets: Vec<TensorDict>,
    /// Classes and functions that would create other objects.
    pub foreign: BTreeSet<String>,
}

/// Tensors found under one path.
#[derive(Debug)]
pub struct TensorDict {
    pub path: String,
    /// Candidates by name.
    pub values: Vec<(String, Id)>,
    /// How many of them are tensors.
    pub count: usize,
}

/// Finds the sets in the order of the file.
pub fn search(pickle: &Pickle) -> Parsed<Contents> {
    let mut search = Search { pickle, spent: 0, above: vec![], found: Contents::default() };
    search.look(pickle.root, "")?;
    Ok(search.found)
}

/// Follows paths, not values, so that a dictionary with two names is found under both.
struct Search<'a> {
    pickle: &'a Pickle,
    spent: usize,
    /// The containers on the current path.
    above: Vec<Id>,
    found: Contents,
}

impl<'a> Search<'a> {
    fn look(&mut self, id: Id, path: &str) -> Parsed<()> {
        if self.above.len() > DEPTH || self.above.contains(&id) {
            return Ok(());
        }
        if is_tensor(self.pickle, id) {
            // A tensor as the whole file: `torch.save(tensor, ...)`. Others are found through their
            // containers.
            self.keep(path, vec![(BARE.to_string(), id)]);
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
        self.keep(path, values);
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
            self.found.foreign.extend(foreign_name(self.pickle, object));
        }
        self.keep(path, values);
        Ok(())
    }

    /// The entries of a container at `path`, charged by their number and by the length of the names
    /// they will get.
    fn entries(&mut self, id: Id, path: &str) -> Parsed<Vec<(Cow<'a, str>, Id)>> {
        self.pay(1 + values::len(self.pickle, id))?;
        let entries = values::entries(self.pickle, id);
        self.pay(entries.iter().map(|(key, _)| (path.len() + key.len()) / 64).sum())?;
        Ok(entries)
    }

    fn pay(&mut self, n: usize) -> Parsed<()> {
        self.spent = self.spent.saturating_add(n);
        if self.spent > VISITS {
            return Err("its dictionaries are nested in too many ways to search".into());
        }
        Ok(())
    }

    fn keep(&mut self, path: &str, values: Vec<(String, Id)>) {
        let count = values.iter().filter(|(_, id)| is_tensor(self.pickle, *id)).count();
        if count > 0 {
            self.found.sets.push(TensorDict { path: path.to_string(), values, count });
        }
    }

    /// The tensors of a module and its submodules, by their dotted names in the state dict. A
    /// TorchScript module keeps all as attributes; a Python module has dictionaries for parameters,
    /// buffers and submodules.
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
