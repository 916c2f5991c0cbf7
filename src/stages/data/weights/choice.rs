//! Chooses which dictionaries of a weights file to use, and for what. A training checkpoint holds a
//! model, usually its moving average, and the trainer's state. All are found by their structure,
//! not by a fixed name. An ambiguous file is refused with a list of its contents. An average is
//! found
//!
//! - as a dictionary with the names of the network, under any prefix (`model_ema`, `ema.module`,
//!   `emas.0`, `state_dict` with `ema.` before the names);
//! - as a list without names (`shadow_params` of diffusers and of torch_ema, `ema_weights`), if the
//!   model is in the same file and has the same shapes in the same order;
//! - under names without dots (LitEma of latent diffusion), if each is one of the model's in the
//!   same file.
//!
//! An average of only some of the model's tensors is none that a network can be made of, but it is
//! told of, and not passed by.
//!
//! It knows names and shapes, not values.

use super::artifact::Artifact;
use erw_base::error::{Error, Result};
use erw_ml::formats::{Listing, Readable, WeightsFile};
use erw_ml::models::sit::release::TABLES;
use erw_ml::models::state_dict::{self, Role};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The number of copies that are listed and compared; no trainer saves more.
const FEW: usize = 16;

/// One copy of the network.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The name by which users choose the copy: its dictionary, and the prefix of its names there.
    pub name: String,
    set: String,
    count: usize,
    role: Role,
    how: TensorNaming,
}

#[derive(Debug, Clone)]
enum TensorNaming {
    /// Names behind a prefix; `others` are the prefixes of other copies in the same dictionary.
    Named { prefix: String, others: Vec<String> },
    /// The names differ from those of `model`: `theirs` maps the model's names to the names here.
    /// Fixed tables are not averaged, so they come from the model.
    Renamed { model: Box<Copy>, theirs: BTreeMap<String, String>, relation: &'static str },
}

/// A copy and the files of the artifact that it fills.
#[derive(Debug)]
pub struct Taken {
    pub copy: Copy,
    pub files: Vec<&'static str>,
}

/// The chosen copies, and lines that describe the choice.
#[derive(Debug, Default)]
pub struct Choice {
    pub taken: Vec<Taken>,
    pub remarks: Vec<String>,
}

/// All copies of a network in a file.
struct Survey<'a> {
    file: &'a WeightsFile,
    listing: Vec<Listing>,
    copies: Vec<Copy>,
    /// Averages of this network that cannot be read, by name.
    unclear: Vec<String>,
}

/// Chooses among the copies in `file`. `set` is the user's choice.
pub fn choose(file: &WeightsFile, path: &Path, artifact: Artifact, set: Option<&str>) -> Result<Choice> {
    let survey = Survey::of(file, artifact.landmarks());
    let files = artifact.files();
    let mut choice = Choice::default();
    if survey.copies.len() + survey.unclear.len() > 1 {
        choice.remarks.push(format!("{} holds {}", name_of(path), survey.list()));
    }
    if let Some(set) = set {
        let copy = survey.named(set)?;
        if files.len() > 1 && survey.copies.len() + survey.unclear.len() > 1 {
            choice.remarks.push(format!("`set`: `{set}` is used for both {}", files.join(" and ")));
        }
        choice.taken.push(Taken { copy, files: files.to_vec() });
        return Ok(choice);
    }
    let refuse = |what: &str| {
        let error = Error::usage(format!("{} {what}", name_of(path))).because(format!("it holds {}", survey.list()));
        let hint = match files {
            [_, _] => format!("name the one to use for both {}", files.join(" and ")),
            _ => "name the one to use".to_string(),
        };
        let likely = survey.copies.iter().filter(|c| c.role == Role::Average).chain(&survey.copies);
        let first = likely.map(|c| c.name.as_str()).find(|name| !name.is_empty()).unwrap_or_default();
        Err(error.hint(format!("{hint}: `set = \"{first}\"`, or `--set {first}` of `erw weights import`")))
    };
    if !survey.unclear.is_empty() {
        return refuse("holds an average that cannot be read as a copy of this network");
    }
    let copies = &survey.copies;
    let (ema, model) = match artifact {
        _ if copies.is_empty() => {
            // Missing tensors are reported later.
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
                None => return refuse("holds several copies of the network, and none is clearly the right one"),
            }
        }
    };
    if artifact == Artifact::Sit {
        choice.remarks.push(of_averages(ema, model, path));
    }
    choice.taken = match (ema, model) {
        (Some(ema), Some(model)) => {
            let mut both = vec![
                Taken { copy: ema.clone(), files: vec![files[0]] },
                Taken { copy: model.clone(), files: vec![files[1]] },
            ];
            // An average of the trained parameters alone lacks the table that shows the size.
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

/// Describes which of the two files of a SiT hold averaged weights.
fn of_averages(ema: Option<&Copy>, model: Option<&Copy>, path: &Path) -> String {
    let by_file = path.file_stem().is_some_and(|stem| state_dict::role(&stem.to_string_lossy()) == Role::Average);
    match (ema, model) {
        (Some(ema), Some(model)) => {
            format!("average: ema.safetensors from {}, model.safetensors from {}", ema.describe(), model.describe())
        }
        (Some(ema), None) => {
            format!(
                "average: {} is the only copy; model.safetensors holds it too, \
                 so further training starts from the average",
                ema.describe()
            )
        }
        (None, Some(copy)) if by_file => {
            format!(
                "average: {}, by the name of the file; model.safetensors holds it too, \
                 so further training starts from the average",
                copy.describe()
            )
        }
        (None, Some(copy)) if ["", "state_dict"].contains(&copy.set.as_str()) && copy.name == copy.set => {
            format!(
                "average: the file does not say whether {} is averaged; ema.safetensors holds it unchanged",
                copy.describe()
            )
        }
        (None, Some(copy)) => {
            format!(
                "NO AVERAGE in the file: ema.safetensors holds {}, which by its name is not averaged",
                copy.describe()
            )
        }
        (None, None) => String::new(),
    }
}

impl Copy {
    fn describe(&self) -> String {
        let name = if self.name.is_empty() { "the top level".into() } else { format!("`{}`", self.name) };
        match &self.how {
            TensorNaming::Named { .. } => name,
            TensorNaming::Renamed { relation, model, .. } => format!("{name} ({relation} {})", model.describe()),
        }
    }

    /// Reads its tensors, under names from which [`state_dict::network`] finds the network, and
    /// lists the values that cannot be read.
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

    /// The names and shapes of its tensors, as [`Self::read`] would find them; `None` where the
    /// headers do not give them.
    pub fn shapes(&self, file: &WeightsFile) -> Option<Vec<(String, Vec<usize>)>> {
        let TensorNaming::Named { prefix, others } = &self.how else { return None };
        let around = state_dict::around(prefix);
        let is_read = |name: &str| {
            state_dict::belongs(name, prefix, others) || (!prefix.is_empty() && state_dict::is_projection(name, around))
        };
        let set = file.listing().into_iter().find(|l| l.set == self.set)?;
        let tensors = set.tensors.into_iter().filter(|(name, _)| is_read(name));
        tensors.map(|(name, shape)| Some((name, shape?))).collect()
    }

    fn read_where(&self, file: &WeightsFile, wanted: &dyn Fn(&str) -> bool) -> Result<Readable> {
        match &self.how {
            TensorNaming::Named { prefix, others } => {
                Ok(file.readable(&self.set, &|name| state_dict::belongs(name, prefix, others) && wanted(name))?)
            }
            TensorNaming::Renamed { .. } => Err(Error::internal("the model of an average is itself an average")),
        }
    }

    /// Names in the same dictionary that belong to no copy.
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
        this.find_incomplete();
        this
    }

    fn find_named(&mut self, landmarks: &[&str]) {
        // Lightning's averaging callback swaps the weights: the usual place of the model holds the
        // average.
        let swapped = self.listing.iter().any(|l| l.set.rsplit('.').next() == Some("averaging_state"));
        for Listing { set, tensors } in &self.listing {
            let names = || tensors.iter().map(|(name, _)| name.as_str());
            let others = state_dict::prefixes(names(), landmarks);
            for prefix in &others {
                let name = joined(set, prefix.trim_end_matches('.'));
                // PyTorch's AveragedModel stores a counter beside the averaged module.
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

    /// The tensors of a copy, in the order of the file.
    fn tensors_of(&self, copy: &Copy) -> Vec<&(String, Option<Vec<usize>>)> {
        let TensorNaming::Named { prefix, others } = &copy.how else { return vec![] };
        let set = self.listing.iter().find(|l| l.set == copy.set);
        set.into_iter().flat_map(|l| &l.tensors).filter(|(name, _)| state_dict::belongs(name, prefix, others)).collect()
    }

    /// The models that a nameless average may belong to. A file with many is refused anyway.
    fn models(&self) -> Vec<Copy> {
        self.copies.iter().filter(|c| c.role == Role::Model).take(FEW).cloned().collect()
    }

    /// Finds averages that are lists in the order of the model's parameters.
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
                    relation: "matched by order and shapes with",
                };
                let count = list.tensors.len();
                found.push(Copy { name: list.set.clone(), set: list.set.clone(), count, role: Role::Average, how });
            } else if models.is_empty() || models.iter().any(|model| self.may_be_of(model, &shapes)) {
                self.unclear.push(format!("`{}` ({} tensors without names)", list.set, list.tensors.len()));
            }
        }
        self.copies.extend(found);
    }

    /// Whether a list has shapes of the model, and about as many.
    fn may_be_of(&self, model: &Copy, shapes: &[Option<&[usize]>]) -> bool {
        let known: BTreeSet<_> = self.tensors_of(model).into_iter().map(|(_, shape)| shape.as_deref()).collect();
        2 * shapes.len() >= model.count && shapes.iter().all(|shape| known.contains(shape))
    }

    /// The names of the model's parameters in order, if these shapes match them one by one: all of
    /// them, or all but tables that are not trained or are not parameters.
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

    /// Finds averages whose names are those of the model without dots, and names that only look
    /// like that.
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
                            relation: "matched by names without dots with",
                        },
                    }),
                    None => self.unclear.push(format!("`{}` and tensors named like it", joined(set, name))),
                }
            }
        }
        self.copies.extend(found);
    }

    /// Finds averages that lack the landmark and so are no copies: names and shapes of some of a
    /// model's tensors under another prefix.
    fn find_incomplete(&mut self) {
        let named: Vec<Copy> =
            self.copies.iter().filter(|c| matches!(c.how, TensorNaming::Named { .. })).cloned().collect();
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for model in named.iter().filter(|copy| copy.role != Role::Average).take(FEW) {
            let TensorNaming::Named { prefix, .. } = &model.how else { continue };
            let of_model = self.tensors_of(model).into_iter();
            let own = of_model.map(|(name, shape)| (state_dict::plain(name)[prefix.len()..].to_string(), shape));
            let own: Vec<_> = own.filter(|(name, _)| !TABLES.contains(&name.as_str())).collect();
            let shapes: HashMap<&str, _> = own.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
            for Listing { set, tensors } in &self.listing {
                let is_of_copy = |name: &str| {
                    named.iter().filter(|copy| copy.set == *set).any(|copy| match &copy.how {
                        TensorNaming::Named { prefix, others } => state_dict::belongs(name, prefix, others),
                        TensorNaming::Renamed { .. } => false,
                    })
                };
                // By the prefix before the model's names.
                let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
                for (name, shape) in tensors.iter().filter(|(name, _)| !is_of_copy(name)) {
                    let plain = state_dict::plain(name);
                    let starts = std::iter::once(0).chain(plain.match_indices('.').map(|(dot, _)| dot + 1));
                    let is_own = |start: &usize| shapes.get(&plain[*start..]).is_some_and(|own| *own == shape);
                    if let Some(start) = starts.into_iter().find(is_own) {
                        parts.entry(plain[..start].into()).or_default().insert(plain[start..].into());
                    }
                }
                for (prefix, has) in parts {
                    let label = joined(set, prefix.trim_end_matches('.'));
                    if state_dict::role(&label) == Role::Average {
                        let lacks: Vec<&str> =
                            own.iter().map(|(name, _)| name.as_str()).filter(|name| !has.contains(*name)).collect();
                        let text = incomplete(&label, has.len(), own.len(), &lacks, model);
                        found.entry(label).or_insert(text);
                    }
                }
            }
        }
        self.unclear.extend(found.into_values().take(FEW));
    }

    /// Maps each trained tensor of a model to the tensor whose name is the same without dots,
    /// behind the landmark's prefix.
    fn undotted(&self, model: &Copy, set: &str, plain: &str, landmark: &str) -> Option<BTreeMap<String, String>> {
        let TensorNaming::Named { prefix, .. } = &model.how else { return None };
        // The average may start at an inner module, so try the prefix without its leading parts.
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

    /// The average and the model, or one of them if there is only one. `None` if the names do not
    /// decide.
    fn average_and_model(&self) -> Option<(Option<&Copy>, Option<&Copy>)> {
        let of = |role| self.copies.iter().filter(|c| c.role == role).collect::<Vec<_>>();
        let (averages, mut models, unknown) = (of(Role::Average), of(Role::Model), of(Role::Unknown));
        // A trainer may store the averaged model a second time beside the average (`online_model`).
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
            (_, 0) => "holds several models of the network by their names",
            _ => "holds the network several times, and their names do not say which is the average",
        }
    }

    /// The copy that the user's name of a copy or dictionary denotes.
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
                Err(Error::usage(format!("the file has no `set` called `{set}`")).hint(match known.as_slice() {
                    [] => "it holds one dictionary without a name: leave `set` out".into(),
                    known => format!("it has {}", known.join(", ")),
                }))
            }
            _ => {
                let names: Vec<String> = inside.iter().map(|c| format!("`{}`", c.name)).collect();
                Err(Error::usage(format!("`set`: `{set}` holds the network several times"))
                    .hint(format!("name one of {}", names.join(", "))))
            }
        }
    }

    /// Lists all copies with their roles, and how many more dictionaries there are.
    fn list(&self) -> String {
        let one = |copy: &Copy| {
            let what = if copy.role == Role::Average { "averaged, " } else { "" };
            format!("{} ({what}{} tensors)", copy.describe(), copy.count)
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

/// What an average has and lacks of its model's tensors.
fn incomplete(label: &str, has: usize, all: usize, lacks: &[&str], model: &Copy) -> String {
    const SHOWN: usize = 3;
    let first: Vec<String> = lacks.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = match lacks.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "`{label}` (averaged, only {has} of the {all} trained tensors of {}: it lacks {}{more})",
        model.describe(),
        first.join(", ")
    )
}

fn joined(set: &str, name: &str) -> String {
    [set, name].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
}

/// Whether a set is a list without names, of more than one tensor.
fn is_list(listing: &Listing) -> bool {
    listing.tensors.len() > 1 && listing.tensors.iter().enumerate().all(|(i, (name, _))| *name == i.to_string())
}

/// Whether the numbers in names of one pattern ascend. A file sorted by name, or by size, is not in
/// the order of its network.
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

/// The prefix before a landmark that is written without its dots, or with other separators in their
/// place.
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
    // Written with its dots, it is an ordinary copy.
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
