//! Which of the dictionaries of a file are taken, and for what. A file of a training holds a model, mostly its average, and
//! what the trainer needs; all of them are found by what they are and not by one name, and what is not clear is refused
//! with the list. An average is found
//!
//! - as a dictionary under names of the network, whatever stands around them (`model_ema`, `ema.module`, `emas.0`,
//!   `state_dict` with `ema.` before the names);
//! - as a list without names (`shadow_params` of diffusers and of torch_ema, `ema_weights`), if the model is in the same
//!   file and has the same shapes in the same order;
//! - under names without dots (LitEma of latent diffusion), if each is one of the model's in the same file.
//!
//! Knows names and shapes, no values.

use super::Artifact;
use erw_base::error::{Error, Result};
use erw_ml::formats::{Listing, Readable, WeightsFile};
use erw_ml::models::sit::release::TABLES;
use erw_ml::models::state_dict::{self, Role};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// More copies than any trainer leaves are neither told nor compared.
const FEW: usize = 16;

/// One copy of the network.
#[derive(Debug, Clone)]
pub struct Copy {
    /// By this name the copy is told and chosen: its dictionary, and the prefix of its names in it.
    pub name: String,
    set: String,
    count: usize,
    role: Role,
    how: TensorNaming,
}

#[derive(Debug, Clone)]
enum TensorNaming {
    /// Under the names behind a prefix, where the others are those of the same dictionary.
    Named { prefix: String, others: Vec<String> },
    /// Under other names than the model's at `model`: theirs by those of the model's dictionary. Fixed tables, which are not
    /// averaged, come from there.
    Renamed { model: Box<Copy>, theirs: BTreeMap<String, String>, told: &'static str },
}

/// What is taken for which files.
#[derive(Debug)]
pub struct Taken {
    pub copy: Copy,
    pub files: Vec<&'static str>,
}

/// What was found, and what is to be told about it.
#[derive(Debug, Default)]
pub struct Choice {
    pub taken: Vec<Taken>,
    pub told: Vec<String>,
}

/// All copies of a network in a file.
struct Survey<'a> {
    file: &'a WeightsFile,
    listing: Vec<Listing>,
    copies: Vec<Copy>,
    /// Averages by their names, which are of this network and cannot be read as one.
    unclear: Vec<String>,
}

/// Chooses among what `file` holds. `set` is what the user names.
pub fn choose(file: &WeightsFile, path: &Path, artifact: Artifact, set: Option<&str>) -> Result<Choice> {
    let survey = Survey::of(file, artifact.landmarks());
    let files = artifact.files();
    let mut choice = Choice::default();
    if survey.copies.len() + survey.unclear.len() > 1 {
        choice.told.push(format!("{} holds {}", name_of(path), survey.list()));
    }
    if let Some(set) = set {
        let copy = survey.named(set)?;
        if files.len() > 1 && survey.copies.len() + survey.unclear.len() > 1 {
            choice.told.push(format!("`{set}` is taken for both {}, as `set` says", files.join(" and ")));
        }
        choice.taken.push(Taken { copy, files: files.to_vec() });
        return Ok(choice);
    }
    let refuse = |what: &str| {
        let error = Error::usage(format!("{} {what}", name_of(path))).because(format!("it holds {}", survey.list()));
        let hint = match files {
            [_, _] => format!("name the one to take for both {}", files.join(" and ")),
            _ => "name the one to take".to_string(),
        };
        let likely = survey.copies.iter().filter(|c| c.role == Role::Average).chain(&survey.copies);
        let first = likely.map(|c| c.name.as_str()).find(|name| !name.is_empty()).unwrap_or_default();
        Err(error.hint(format!("{hint}: `set = \"{first}\"`, or `--set {first}` of `erw weights import`")))
    };
    if !survey.unclear.is_empty() {
        return refuse("holds an average that cannot be read as this network");
    }
    let copies = &survey.copies;
    let (ema, model) = match artifact {
        _ if copies.is_empty() => {
            // What is missing in it will be told.
            let set = file.only_set(&["ema", "model", "state_dict"])?;
            let how = TensorNaming::Named { prefix: String::new(), others: vec![] };
            let copy = Copy { name: set.clone(), set, count: 0, role: Role::Unknown, how };
            choice.taken.push(Taken { copy, files: files.to_vec() });
            return Ok(choice);
        }
        Artifact::Sit => match survey.average_and_model() {
            Some(found) => found,
            None => return refuse(survey.why_unclear()),
        },
        _ => {
            let names: Vec<String> = copies.iter().map(|c| c.name.clone()).collect();
            match state_dict::preferred(&names) {
                Some(one) => (Some(&copies[one]), None),
                None => return refuse("holds several copies of the network, and nothing says which to take"),
            }
        }
    };
    if artifact == Artifact::Sit {
        choice.told.push(of_averages(ema, model, path));
    }
    choice.taken = match (ema, model) {
        (Some(ema), Some(model)) => {
            let mut both = vec![
                Taken { copy: ema.clone(), files: vec![files[0]] },
                Taken { copy: model.clone(), files: vec![files[1]] },
            ];
            // An average of what is trained lacks the table that shows the size.
            let named = matches!(ema.how, TensorNaming::Named { .. });
            if named && !survey.tensors_of(ema).iter().any(|(name, _)| state_dict::plain(name).ends_with(TABLES[0])) {
                both.reverse();
            }
            both
        }
        (Some(one), None) | (None, Some(one)) => vec![Taken { copy: one.clone(), files: files.to_vec() }],
        (None, None) => vec![],
    };
    Ok(choice)
}

fn name_of(path: &Path) -> String {
    format!("`{}`", path.file_name().unwrap_or(path.as_os_str()).display())
}

/// What of the two files of a SiT is averaged.
fn of_averages(ema: Option<&Copy>, model: Option<&Copy>, path: &Path) -> String {
    let by_file = path.file_stem().is_some_and(|stem| state_dict::role(&stem.to_string_lossy()) == Role::Average);
    match (ema, model) {
        (Some(ema), Some(model)) => {
            format!("average: {} is taken for ema.safetensors, {} for model.safetensors", ema.told(), model.told())
        }
        (Some(ema), None) => {
            format!("average: {} is the only copy; what trains on starts from the average too", ema.told())
        }
        (None, Some(copy)) if by_file => {
            format!("average: {}, by the name of the file; what trains on starts from the average too", copy.told())
        }
        (None, Some(copy)) if ["", "state_dict"].contains(&copy.set.as_str()) && copy.name == copy.set => {
            format!("average: nothing says whether {} is averaged; ema.safetensors holds it as it is", copy.told())
        }
        (None, Some(copy)) => {
            format!(
                "NO AVERAGE in the file: ema.safetensors holds {} as it is, which is not averaged by its name",
                copy.told()
            )
        }
        (None, None) => String::new(),
    }
}

impl Copy {
    fn told(&self) -> String {
        let name = if self.name.is_empty() { "the top level".into() } else { format!("`{}`", self.name) };
        match &self.how {
            TensorNaming::Named { .. } => name,
            TensorNaming::Renamed { told, model, .. } => format!("{name} ({told} {})", model.told()),
        }
    }

    /// Its tensors, under names from which [`state_dict::network`] finds it, and what is in it and is not read.
    pub fn read(&self, file: &WeightsFile) -> Result<Readable> {
        match &self.how {
            TensorNaming::Named { prefix, others } => {
                let around = state_dict::around(prefix);
                let wanted = |name: &str| {
                    state_dict::belongs(name, prefix, others)
                        || (!prefix.is_empty() && state_dict::is_projection(name, around))
                };
                Ok(file.readable(&self.set, &wanted)?)
            }
            TensorNaming::Renamed { model, theirs, .. } => {
                let mut fixed = model.read_where(file, &|name| !theirs.contains_key(name))?;
                let wanted: BTreeSet<&String> = theirs.values().collect();
                let mut read = file.readable(&self.set, &|name| wanted.contains(&name.to_string()))?;
                for (ours, theirs) in theirs {
                    if let Some(tensor) = read.tensors.remove(theirs) {
                        fixed.tensors.insert(ours.clone(), tensor);
                    }
                    if let Some(why) = read.unread.remove(theirs) {
                        fixed.unread.insert(ours.clone(), why);
                    }
                }
                Ok(fixed)
            }
        }
    }

    fn read_where(&self, file: &WeightsFile, wanted: &dyn Fn(&str) -> bool) -> Result<Readable> {
        match &self.how {
            TensorNaming::Named { prefix, others } => {
                Ok(file.readable(&self.set, &|name| state_dict::belongs(name, prefix, others) && wanted(name))?)
            }
            TensorNaming::Renamed { .. } => Err(Error::internal("an average of an average")),
        }
    }

    /// What lies in the same dictionary and is of no copy.
    pub fn beside(&self, file: &WeightsFile) -> Vec<String> {
        let TensorNaming::Named { prefix, others } = &self.how else { return vec![] };
        let around = state_dict::around(prefix);
        let of_none = |name: &String| {
            let copy = others.iter().chain([prefix]).any(|p| state_dict::belongs(name, p, others));
            !copy && (prefix.is_empty() || !state_dict::is_projection(name, around))
        };
        let set = file.listing().into_iter().find(|l| l.set == self.set);
        set.into_iter().flat_map(|l| l.tensors).map(|(name, _)| name).filter(of_none).collect()
    }
}

impl<'a> Survey<'a> {
    fn of(file: &'a WeightsFile, landmarks: &[&str]) -> Self {
        let mut this = Self { file, listing: file.listing(), copies: vec![], unclear: vec![] };
        this.find_named(landmarks);
        this.find_lists();
        this.find_undotted(landmarks);
        this
    }

    fn find_named(&mut self, landmarks: &[&str]) {
        // Lightning's own averaging swaps: what is usually the model is then the average.
        let swapped = self.listing.iter().any(|l| l.set.rsplit('.').next() == Some("averaging_state"));
        for Listing { set, tensors } in &self.listing {
            let names = || tensors.iter().map(|(name, _)| name.as_str());
            let others = state_dict::prefixes(names(), landmarks);
            for prefix in &others {
                let name = joined(set, prefix.trim_end_matches('.'));
                // PyTorch's AveragedModel counts beside what it averages.
                let counts = names().any(|n| state_dict::plain(n).strip_prefix(prefix.as_str()) == Some("n_averaged"));
                let role = match counts || (swapped && set == "state_dict") {
                    true => Role::Average,
                    false => state_dict::role(&name),
                };
                let count = names().filter(|n| state_dict::belongs(n, prefix, &others)).count();
                let how = TensorNaming::Named { prefix: prefix.clone(), others: others.clone() };
                self.copies.push(Copy { name, set: set.clone(), count, role, how });
            }
        }
    }

    /// The tensors of a copy in the order of the file.
    fn tensors_of(&self, copy: &Copy) -> Vec<&(String, Option<Vec<usize>>)> {
        let TensorNaming::Named { prefix, others } = &copy.how else { return vec![] };
        let set = self.listing.iter().find(|l| l.set == copy.set);
        set.into_iter().flat_map(|l| &l.tensors).filter(|(name, _)| state_dict::belongs(name, prefix, others)).collect()
    }

    /// The models that a nameless average may be of. A file that has many is refused anyway.
    fn models(&self) -> Vec<Copy> {
        self.copies.iter().filter(|c| c.role == Role::Model).take(FEW).cloned().collect()
    }

    /// Averages that are lists in the order of the model's parameters.
    fn find_lists(&mut self) {
        let models = self.models();
        let mut found = vec![];
        for list in self.listing.iter().filter(|l| is_list(l) && state_dict::role(&l.set) == Role::Average) {
            let shapes: Vec<_> = list.tensors.iter().map(|(_, shape)| shape.as_deref()).collect();
            let matching = models.iter().find_map(|model| Some((model, self.in_order(model, &shapes)?)));
            if let Some((model, names)) = matching {
                let theirs = names.into_iter().zip(&list.tensors).map(|(ours, (theirs, _))| (ours, theirs.clone()));
                let how = TensorNaming::Renamed {
                    model: Box::new(model.clone()),
                    theirs: theirs.collect(),
                    told: "named by the order and the shapes of",
                };
                let count = list.tensors.len();
                found.push(Copy { name: list.set.clone(), set: list.set.clone(), count, role: Role::Average, how });
            } else if models.is_empty() || models.iter().any(|model| self.may_be_of(model, &shapes)) {
                self.unclear.push(format!("`{}` ({} tensors without names)", list.set, list.tensors.len()));
            }
        }
        self.copies.extend(found);
    }

    /// Has a list the shapes of a model, and about as many?
    fn may_be_of(&self, model: &Copy, shapes: &[Option<&[usize]>]) -> bool {
        let known: BTreeSet<_> = self.tensors_of(model).into_iter().map(|(_, shape)| shape.as_deref()).collect();
        2 * shapes.len() >= model.count && shapes.iter().all(|shape| known.contains(shape))
    }

    /// The names of a model's parameters, if these shapes are theirs one by one: all of them, or without tables that are not
    /// trained, or that are no parameters.
    fn in_order(&self, model: &Copy, shapes: &[Option<&[usize]>]) -> Option<Vec<String>> {
        let all = self.tensors_of(model);
        if !ascends(all.iter().map(|(name, _)| name.as_str())) {
            return None;
        }
        let left_out: [&[&str]; 4] = [&[], &TABLES[1..], &TABLES[..1], TABLES];
        left_out.into_iter().find_map(|tables| {
            let is_table = |name: &str| tables.iter().any(|t| state_dict::plain(name).ends_with(t));
            let kept: Vec<_> = all.iter().filter(|(name, _)| !is_table(name)).collect();
            let equal = kept.len() == shapes.len()
                && kept.iter().zip(shapes).all(|((_, of), shape)| of.is_some() && of.as_deref() == *shape);
            equal.then(|| kept.into_iter().map(|(name, _)| name.clone()).collect())
        })
    }

    /// Averages whose names are those of the model without dots, and what only looks like one.
    fn find_undotted(&mut self, landmarks: &[&str]) {
        let models = self.models();
        let mut found: Vec<Copy> = vec![];
        for Listing { set, tensors } in &self.listing {
            for (name, _) in tensors {
                let plain = state_dict::plain(name);
                let Some((landmark, before)) = landmarks.iter().find_map(|l| Some((l, squeezed_before(&plain, l)?)))
                else {
                    continue;
                };
                let label = joined(set, before.trim_end_matches(['.', '_']));
                if state_dict::role(&label) != Role::Average || found.len() + self.unclear.len() >= FEW {
                    continue;
                }
                let matching =
                    models.iter().find_map(|model| Some((model, self.undotted(model, set, &plain, landmark)?)));
                match matching {
                    Some((model, theirs)) => found.push(Copy {
                        name: label,
                        set: set.clone(),
                        count: theirs.len(),
                        role: Role::Average,
                        how: TensorNaming::Renamed {
                            model: Box::new(model.clone()),
                            theirs,
                            told: "named without dots as",
                        },
                    }),
                    None => self.unclear.push(format!("`{}` and tensors named like it", joined(set, name))),
                }
            }
        }
        self.copies.extend(found);
    }

    /// For each trained tensor of a model the one whose name is the same without dots, behind what is before the landmark's.
    fn undotted(&self, model: &Copy, set: &str, plain: &str, landmark: &str) -> Option<BTreeMap<String, String>> {
        let TensorNaming::Named { prefix, .. } = &model.how else { return None };
        // Averaged may be a part of what the model's names begin with.
        let inner = std::iter::successors(Some(prefix.as_str()), |p| p.split_once('.').map(|(_, rest)| rest));
        let mut starts = inner.map(|inner| (inner, undot(&format!("{inner}{landmark}"))));
        let (inner, before) = starts.find_map(|(inner, end)| Some((inner, plain.strip_suffix(end.as_str())?)))?;
        let listing = self.listing.iter().find(|l| l.set == set)?;
        let theirs: HashMap<String, &String> =
            listing.tensors.iter().map(|(name, _)| (state_dict::plain(name), name)).collect();
        let (mut pairs, mut used) = (BTreeMap::new(), BTreeSet::new());
        for (ours, _) in self.tensors_of(model) {
            let behind = state_dict::plain(ours)[prefix.len()..].to_string();
            match theirs.get(&format!("{before}{}", undot(&format!("{inner}{behind}")))) {
                Some(name) if used.insert(name.to_string()) => {
                    pairs.insert(ours.clone(), name.to_string());
                }
                None if TABLES.contains(&behind.as_str()) => {}
                _ => return None,
            }
        }
        Some(pairs)
    }

    /// The average and the model, or one of them where there is no other; None if that is not clear.
    fn average_and_model(&self) -> Option<(Option<&Copy>, Option<&Copy>)> {
        let of = |role| self.copies.iter().filter(|c| c.role == role).collect::<Vec<_>>();
        let (averages, mut models, unknown) = (of(Role::Average), of(Role::Model), of(Role::Unknown));
        // What an average was taken of lies beside it, a second time.
        if models.len() > 1 {
            models.retain(|c| !c.name.split('.').any(|part| part.starts_with("online")));
        }
        match (averages.as_slice(), models.as_slice(), unknown.as_slice()) {
            ([ema], [model], []) => Some((Some(ema), Some(model))),
            ([ema], [], []) => Some((Some(ema), None)),
            ([], [one], []) | ([], [], [one]) => Some((None, Some(one))),
            _ => None,
        }
    }

    fn why_unclear(&self) -> &'static str {
        let count = |role| self.copies.iter().filter(|c| c.role == role).count();
        match (count(Role::Average), count(Role::Unknown)) {
            (2.., _) => "holds several averages of the network",
            (_, 0) => "holds the network several times, as a model by each of the names",
            _ => "holds the network several times, and their names do not say which is the average",
        }
    }

    /// What the user means by the name of a copy or of a dictionary.
    fn named(&self, set: &str) -> Result<Copy> {
        if let Some(copy) = self.copies.iter().find(|c| c.name == set) {
            return Ok(copy.clone());
        }
        let inside: Vec<&Copy> = self.copies.iter().filter(|c| c.set == set).collect();
        let there = self.listing.iter().find(|l| l.set == set);
        match (inside.as_slice(), there) {
            ([one], _) => Ok((*one).clone()),
            ([], Some(listing)) => Ok(Copy {
                name: set.into(),
                set: set.into(),
                count: listing.tensors.len(),
                role: Role::Unknown,
                how: TensorNaming::Named { prefix: String::new(), others: vec![] },
            }),
            ([], None) => {
                let mut known: Vec<String> = self.copies.iter().map(|c| c.name.clone()).collect();
                let mut sets = self.file.sets();
                sets.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
                known.extend(sets.into_iter().map(|(name, _)| name));
                let mut seen = BTreeSet::new();
                known.retain(|name| !name.is_empty() && seen.insert(name.clone()));
                let known: Vec<String> = known.iter().take(12).map(|n| format!("`{n}`")).collect();
                Err(Error::usage(format!("the file has no `set` called `{set}`"))
                    .hint(format!("it has {}", known.join(", "))))
            }
            _ => {
                let names: Vec<String> = inside.iter().map(|c| format!("`{}`", c.name)).collect();
                Err(Error::usage(format!("`set`: `{set}` holds the network several times"))
                    .hint(format!("name one of {}", names.join(", "))))
            }
        }
    }

    /// All copies with what they are, and that there is more.
    fn list(&self) -> String {
        let one = |copy: &Copy| {
            let what = if copy.role == Role::Average { "averaged, " } else { "" };
            format!("{} ({what}{} tensors)", copy.told(), copy.count)
        };
        let mut all: Vec<String> = self.copies.iter().map(one).chain(self.unclear.iter().cloned()).collect();
        let of_copies: BTreeSet<&String> = self.copies.iter().map(|c| &c.set).collect();
        match self.listing.iter().filter(|l| !of_copies.contains(&l.set)).count() {
            0 => {}
            n => all.push(format!("{n} other {}", if n == 1 { "dictionary" } else { "dictionaries" })),
        }
        let more = all.len().saturating_sub(FEW);
        all.truncate(FEW);
        all.extend((more > 0).then(|| format!("and {more} more")));
        all.join(", ")
    }
}

fn joined(set: &str, name: &str) -> String {
    [set, name].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
}

/// Is a set one without names: a list, of more than one?
fn is_list(listing: &Listing) -> bool {
    listing.tensors.len() > 1 && listing.tensors.iter().enumerate().all(|(i, (name, _))| *name == i.to_string())
}

/// Does every number in names that are alike otherwise count up? A file that was sorted by name, or by size, is in another
/// order than its network.
fn ascends<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut last: HashMap<String, Vec<u64>> = HashMap::new();
    for name in names {
        let (mut template, mut numbers) = (vec![], vec![]);
        for part in name.split('.') {
            match part.parse::<u64>() {
                Ok(n) => {
                    numbers.push(n);
                    template.push("#");
                }
                Err(_) => template.push(part),
            }
        }
        if let Some(before) = last.insert(template.join("."), numbers.clone())
            && before >= numbers
        {
            return false;
        }
    }
    true
}

fn undot(name: &str) -> String {
    name.replace('.', "")
}

/// What stands before a landmark that is written without its dots, or with others in their place.
fn squeezed_before<'a>(plain: &'a str, landmark: &str) -> Option<&'a str> {
    let mut wanted = landmark.bytes().rev().filter(|b| !b"._".contains(b)).peekable();
    let bytes = plain.as_bytes();
    let mut at = bytes.len();
    while let Some(byte) = wanted.peek().copied() {
        at = at.checked_sub(1)?;
        match bytes[at] {
            b'.' | b'_' | b'/' => {}
            found if found == byte => drop(wanted.next()),
            _ => return None,
        }
    }
    // As it is written in a network, it is a copy.
    let dotted = plain.strip_suffix(landmark).is_some_and(|p| p.is_empty() || p.ends_with('.'));
    (!dotted).then(|| plain.get(..at)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks_are_known_without_their_dots() {
        let before = |name| squeezed_before(name, "x_embedder.proj.weight");
        assert_eq!(before("model_ema.x_embedderprojweight"), Some("model_ema."));
        assert_eq!(before("ema_x_embedder_proj_weight"), Some("ema_"));
        assert_eq!(before("ema/x_embedder/proj/weight"), Some("ema/"));
        assert_eq!(before("ema.x_embedder.proj.weight"), None);
        assert_eq!(before("proj.weight"), None);
    }

    #[test]
    fn a_sorted_dictionary_is_not_in_the_order_of_its_network() {
        assert!(ascends(["a.0.w", "a.0.b", "a.1.w", "a.1.b", "a.10.w"].into_iter()));
        assert!(!ascends(["a.1.w", "a.10.w", "a.2.w"].into_iter()));
        assert!(ascends([].into_iter()));
    }
}
