//! One stage of a pipeline file as a `Draft`: every value checked against its field, every source
//! path resolved. Does not know other stages.

use super::command;
use super::draft::{Draft, External, InputRef, SEPARATOR, stated_by};
use super::file::{RESOURCES, StageSpec};
use super::graph::{Origin, Resources, RetryPolicy, SourcePath, Stage};
use super::layers::{Values, Winner};
use crate::files::watched::Watched;
use crate::kind::field::{Field, FieldType, InputSlot, Params, element};
use crate::kind::ranks::{HAS_MPI, Sharing};
use crate::kind::value::{self, Value};
use crate::small_map::{SmallMap, small_map};
use crate::text::units;
use erw_base::error::{Error, Result};
use erw_fetch::registry;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A stage with these values.
pub(crate) fn draft(spec: &StageSpec, values: Values<'_>) -> Result<Draft> {
    Resolver { spec, values, origins: BTreeMap::new() }.draft()
}

/// Resolves one stage's values.
pub(crate) struct Resolver<'a> {
    spec: &'a StageSpec,
    values: Values<'a>,
    origins: BTreeMap<String, Origin>,
}

impl<'a> Resolver<'a> {
    fn draft(mut self) -> Result<Draft> {
        let manifest = self.spec.manifest.clone();
        let mut sources = BTreeMap::new();
        let params = self.fields("params", &manifest.params, &mut sources)?;
        let operation = self.fields("operation", &manifest.operation, &mut BTreeMap::new())?;
        for source in sources.values_mut() {
            source.missing = source.missing.iter().filter_map(|line| filled(line, &[&params, &operation])).collect();
        }
        self.watch(&mut sources)?;
        let published = published(&manifest.params, &params)?;
        let resources = self.resources(&params)?;
        let retry = self.retry()?;
        let input_refs = self.input_refs()?;
        let outputs = manifest.outputs.iter().map(|o| {
            let ty = o.param().and_then(|p| params.get(p)).and_then(Json::as_str).unwrap_or(&o.ty);
            (o.name.clone(), ty.to_string())
        });
        let outputs = small_map(outputs.collect());
        let stage = Stage {
            name: self.spec.name.clone(),
            kind: self.spec.kind,
            manifest,
            inputs: SmallMap::new(),
            outputs,
            params,
            operation,
            sources: small_map(sources),
            published,
            resources,
            retry,
            turn: 0,
            origins: small_map(self.origins),
            is_command: self.spec.kind.name == command::NAME,
        };
        Ok(Draft { stage, input_refs, place: self.spec.place.clone() })
    }

    fn get<'s>(&'s self, part: &'static str, name: &'s str) -> Option<&'s Winner<'a>> {
        self.values.get(&(part, name))
    }

    /// Adds to an error the place of the value, or the layer that set it.
    fn at(&self, error: Error, origin: &Origin) -> Error {
        stated_by(error.within(&format!("stage `{}`", self.spec.name)), origin)
    }

    fn fields(
        &mut self,
        part: &'static str,
        fields: &[Field],
        sources: &mut BTreeMap<String, SourcePath>,
    ) -> Result<Params> {
        let mut params = Params::with_capacity(fields.len());
        for field in fields {
            let (json, origin) = match self.get(part, &field.name) {
                Some(stated) if value::unsets(field, &stated.value) => (Json::Null, stated.origin()),
                Some(stated) => {
                    let json = self.field(field, stated)?;
                    paths(field, &json, stated.base, sources);
                    (json, stated.origin())
                }
                None if field.optional => (Json::Null, Origin { layer: "manifest".into(), place: None }),
                None => return Err(self.required(part, field)),
            };
            self.origins.insert(format!("{part}.{}", field.name), origin);
            params.insert(field.name.clone(), json);
        }
        Ok(params)
    }

    fn field(&self, field: &Field, stated: &Winner<'_>) -> Result<Json> {
        value::check(field, &stated.value).map_err(|mismatch| {
            let origin = mismatch.index.map_or_else(|| stated.origin(), |index| stated.element_origin(index));
            self.at(mismatch.error(origin.place), &stated.origin())
        })
    }

    fn required(&self, part: &str, field: &Field) -> Error {
        let about = if field.doc.is_empty() { String::new() } else { format!(" ({})", field.doc) };
        let noun = if part == "params" { "parameter" } else { "operation value" };
        Error::usage(format!("stage `{}`: {noun} `{}` is not set", self.spec.name, field.name))
            .at(self.spec.place.clone())
            .hint(format!("it has no default; write `{part}.{} = ...`{about}", field.name))
    }

    fn watch(&self, sources: &mut BTreeMap<String, SourcePath>) -> Result<()> {
        let ignore = self.texts("ignore", "patterns")?;
        let patterns: Vec<String> = ignore.iter().map(|(text, ..)| text.to_string()).collect();
        // One at a time, so that the error is about the invalid one.
        for (text, base, origin) in &ignore {
            let one = [text.to_string()];
            Watched::of("", base, &one)
                .map_err(|e| self.at(Error::usage("`ignore` has an invalid pattern").because(e), origin))?;
        }
        for (i, (text, base, origin)) in self.texts("watch", "files and folders")?.into_iter().enumerate() {
            let watched = Watched::of(text, base, &patterns);
            let unfit = |e| self.at(Error::usage("`watch` has an invalid path or pattern").because(e), &origin);
            let (path, watched) = watched.map_err(unfit)?;
            let missing = literal(text).into_iter().collect();
            sources.insert(
                format!("watch.{i}"),
                SourcePath { path, missing, watched: Some(watched), place: origin.place },
            );
        }
        Ok(())
    }

    /// The strings of a list, with their base folder and origin.
    fn texts<'s>(&'s self, name: &'static str, what: &str) -> Result<Vec<(&'s str, &'s Path, Origin)>> {
        let Some(stated) = self.get("stage", name) else { return Ok(vec![]) };
        let Value::List(values) = &stated.value else { return Ok(vec![]) };
        let mut found = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let origin = stated.element_origin(i);
            match value.as_str() {
                Some(text) => found.push((text, stated.base, origin)),
                None => return Err(self.at(Error::usage(format!("`{name}` must be a list of {what}")), &origin)),
            }
        }
        Ok(found)
    }

    /// A value converted by `read`; the error is `what` if that returns `None`.
    fn read<T>(
        &self,
        (part, name): (&'static str, &str),
        read: impl Fn(&Value) -> Option<T>,
        what: impl Fn() -> Error,
    ) -> Result<Option<T>> {
        let Some(stated) = self.get(part, name) else { return Ok(None) };
        read(&stated.value).map(Some).ok_or_else(|| self.at(what(), &stated.origin()))
    }

    fn resources(&self, params: &Params) -> Result<Resources> {
        let count = |name: &str, min: i64| {
            let read = |value: &Value| value.as_int().filter(|n| *n >= min).and_then(|n| usize::try_from(n).ok());
            let what = || Error::usage(format!("`{name}` must be an integer of at least {min}"));
            self.read(("resources", name), read, what)
        };
        let bytes = |value: &Value| match value {
            Value::String(text) => units::bytes(text),
            other => other.as_int().and_then(|n| u64::try_from(n).ok()).map(|n| n.min(units::LARGEST)),
        };
        let no_amount = || Error::usage("`mem` must be an amount of memory").hint("write `mem = \"8GiB\"`, or bytes");
        let mem = self.read(("resources", "mem"), bytes, no_amount)?;
        let mut named = BTreeMap::new();
        let all = self.values.keys().filter(|(part, name)| *part == "resources" && !RESOURCES.contains(name));
        for (_, name) in all {
            named.insert(name.to_string(), count(name, 0)?.unwrap_or(0) as u64);
        }
        let gpus = count("gpus", 0)?.unwrap_or(0);
        let (gpus, ranks) = self.ranks(params, gpus, count("ranks", 1)?)?;
        Ok(Resources { threads: count("threads", 1)?, mem, gpus, ranks, named })
    }

    /// The GPUs and ranks of a stage that states these numbers of them. Of a kind that shares its
    /// work, a rank has one GPU, so several GPUs are as many ranks.
    fn ranks(&self, params: &Params, gpus: usize, ranks: Option<usize>) -> Result<(usize, Option<usize>)> {
        let Some(sharing) = self.spec.manifest.ranks else {
            return match ranks.filter(|ranks| *ranks > 1) {
                Some(_) => Err(self.no_ranks()),
                None => Ok((gpus, None)),
            };
        };
        let (name, ranks) = match (ranks, gpus) {
            (Some(ranks), _) => ("ranks", ranks),
            (None, 2..) => ("gpus", gpus),
            (None, _) => return Ok((gpus, None)),
        };
        let stated = |e| self.of_resource(name, e);
        if gpus > 1 && gpus != ranks {
            let error = Error::usage(format!("{ranks} ranks cannot have {gpus} GPUs: each has one"));
            return Err(stated(error.hint(format!("leave `ranks` out for {gpus} ranks, or `gpus = {ranks}`"))));
        }
        sharing.check(params, ranks).map_err(stated)?;
        if sharing == Sharing::MicroBatches && ranks > 1 && gpus == 0 && !HAS_MPI {
            let error = Error::usage(format!("this build has no MPI, over which {ranks} ranks would train on CPUs"));
            return Err(stated(error.hint("build one that has it by `cargo build --features mpi`, or use `threads`")));
        }
        Ok((if gpus > 0 { ranks } else { 0 }, Some(ranks)))
    }

    fn no_ranks(&self) -> Error {
        let kind = self.spec.kind.name;
        let error = Error::usage(format!("kind `{kind}` does not share its work among ranks"));
        self.of_resource(
            "ranks",
            match kind {
                command::NAME => error.hint("its program starts its own; `gpus = 8` gives it eight to see"),
                _ => error.hint("leave `ranks` out; `threads` are what it computes with"),
            },
        )
    }

    /// Adds where a resource is stated.
    fn of_resource(&self, name: &'static str, error: Error) -> Error {
        match self.get("resources", name) {
            Some(stated) => self.at(error, &stated.origin()),
            None => error.within(&format!("stage `{}`", self.spec.name)),
        }
    }

    fn retry(&self) -> Result<RetryPolicy> {
        let time = |name: &str| {
            let read = |value: &Value| value.as_str().and_then(units::duration).filter(|d: &Duration| !d.is_zero());
            let what = || {
                Error::usage(format!("`{name}` must be a duration"))
                    .hint(format!("write `{name} = \"2h\"`, `\"10min\"` or `\"30s\"`"))
            };
            self.read(("stage", name), read, what)
        };
        let retries = |value: &Value| value.as_int().and_then(|n| u32::try_from(n).ok());
        let what = || Error::usage("`retries` must be an integer of at least 0");
        let retries = self.read(("stage", "retries"), retries, what)?;
        Ok(RetryPolicy { timeout: time("timeout")?, retries, backoff: time("backoff")? })
    }

    fn input_refs(&mut self) -> Result<Vec<InputRef>> {
        let elsewhere = |text: &str, base: &Path| {
            text.contains(SEPARATOR).then(|| Box::new(External { base: base.to_path_buf(), from: None }))
        };
        let mut input_refs = Vec::with_capacity(self.spec.manifest.inputs.len());
        let mut origins = vec![];
        for (number, slot) in self.spec.manifest.inputs.iter().enumerate() {
            let Some(stated) = self.get("inputs", &slot.name) else { continue };
            let origin = stated.origin();
            // The first element of a list also has the name of the slot.
            origins.push((slot.name.clone(), origin.clone()));
            match &stated.value {
                Value::String(text) => {
                    let elsewhere = elsewhere(text, stated.base);
                    input_refs.push(InputRef { slot: number, index: 0, text: text.clone(), origin, elsewhere });
                }
                // Disconnects what a parent connected.
                Value::Bool(false) => {}
                Value::List(values) if slot.many => {
                    for (index, v) in values.iter().enumerate() {
                        let Some(text) = v.as_str() else {
                            return Err(no_stage(&self.spec.name, slot, Some(index), stated));
                        };
                        let origin = stated.element_origin(index);
                        origins.push((element(&slot.name, index), origin.clone()));
                        let elsewhere = elsewhere(text, stated.base);
                        input_refs.push(InputRef { slot: number, index, text: text.to_string(), origin, elsewhere });
                    }
                }
                _ => return Err(no_stage(&self.spec.name, slot, None, stated)),
            }
        }
        self.origins.extend(origins.into_iter().map(|(name, origin)| (format!("inputs.{name}"), origin)));
        Ok(input_refs)
    }
}

/// The error for an input, or element `index` of a list, that is not a stage name.
pub(crate) fn no_stage(stage: &str, slot: &InputSlot, index: Option<usize>, stated: &Winner<'_>) -> Error {
    let origin = index.map_or_else(|| stated.origin(), |index| stated.element_origin(index));
    let message = match (&stated.value, index) {
        (Value::List(..), None) => format!("input `{}` takes one stage, not a list", slot.name),
        (_, Some(index)) => format!("element {} of input `{}` must name a stage", index + 1, slot.name),
        (_, None) => format!("input `{}` must name a stage", slot.name),
    };
    let hint = match slot.many {
        true => "write `\"stage\"`, `\"stage.output\"`, or a list of these; `false` leaves the input unconnected",
        false => "write `\"stage\"` or `\"stage.output\"`; `false` leaves an optional input unconnected",
    };
    stated_by(Error::usage(message).hint(hint).within(&format!("stage `{stage}`")), &origin)
}

/// The sources for a parameter of type `path` or a list of paths.
pub(crate) fn paths(field: &Field, json: &Json, base: &Path, sources: &mut BTreeMap<String, SourcePath>) {
    let source = |text: &str| {
        let braces = field.braces.then(|| Watched::of_braces(text, base)).flatten();
        let (path, watched, fault) = match braces {
            Some(Ok((path, watched))) => (path, Some(watched), None),
            Some(Err(why)) => (base.join(text), None, Some(format!("the path {why}"))),
            None => (base.join(text), None, None),
        };
        let missing = fault.into_iter().chain(field.missing.iter().cloned()).chain(literal(text)).collect();
        SourcePath { path, missing, watched, place: None }
    };
    match (&field.ty, json) {
        (FieldType::Path, Json::String(text)) => {
            sources.insert(field.name.clone(), source(text));
        }
        (FieldType::List(of), Json::Array(list)) if **of == FieldType::Path => {
            for (i, text) in list.iter().filter_map(Json::as_str).enumerate() {
                sources.insert(format!("{}.{i}", field.name), source(text));
            }
        }
        _ => {}
    }
}

/// A hint about paths that a shell would expand.
pub(crate) fn literal(text: &str) -> Option<String> {
    let expands = text.starts_with('~') || text.contains('$');
    expands.then(|| "`~` and `$` are not expanded in paths; paths are relative to the file that contains them".into())
}

/// The registry's identities of the files that parameters name.
pub(crate) fn published(fields: &[Field], params: &Params) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for field in fields.iter().filter(|f| f.ty == FieldType::Published) {
        let name = params.get(&field.name).and_then(Json::as_str);
        if let Some(entry) = name.map(registry::find).transpose()?.flatten() {
            all.insert(field.name.clone(), entry.identity());
        }
    }
    Ok(all)
}

/// Replaces `{name}` in a line by the value of that parameter; `None` if one has no value.
pub(crate) fn filled(line: &str, values: &[&Params]) -> Option<String> {
    let (mut text, mut rest) = (String::new(), line);
    while let Some((before, (name, after))) = rest.split_once('{').and_then(|(b, r)| Some((b, r.split_once('}')?))) {
        let value = values.iter().find_map(|v| v.get(name)).filter(|v| !v.is_null())?;
        text.push_str(before);
        text.push_str(&value.as_str().map_or_else(|| value.to_string(), str::to_string));
        rest = after;
    }
    Some(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_or_dropped() {
        let values: Params = [("url", "https://x".into()), ("sum", Json::Null), ("n", 3.into())]
            .into_iter()
            .map(|(k, v): (&str, Json)| (k.to_string(), v))
            .collect();
        let filled = |line| filled(line, &[&Params::new(), &values]);
        assert_eq!(filled("from {url}, {n} files").as_deref(), Some("from https://x, 3 files"));
        assert_eq!(filled("no holes").as_deref(), Some("no holes"));
        assert_eq!(filled("sum {sum}"), None);
    }
}
