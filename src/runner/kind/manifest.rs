//! Stage kinds and their manifests: the inputs, outputs and parameters of a kind.
//!
//! A manifest is the commented TOML in `stages/KIND.toml`, embedded in the binary; defaults exist
//! nowhere else. This module parses the text; it does not know which kinds exist (the registry is
//! an argument of the runner) nor what a kind computes.

use super::expression::{Expression, Term};
use super::field::{Cost, Exact, Field, FieldType, InputSlot, Output, exact, tolerance};
use super::property::Rule;
use super::ranks::Sharing;
use super::value;
use crate::text::spanned::{self, Entry, Node, Toml, flatten};
use crate::text::suggest;
use erw_base::error::{Error, ErrorKind, Result};
use std::path::Path;

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub kind: String,
    pub summary: String,
    /// Incremented by hand when the code computes something else; invalidates this kind's cached
    /// results.
    pub revision: u32,
    pub exact: Exact,
    /// The largest relative difference between results of different machine classes.
    pub tolerance: f64,
    /// Possible names of its results; those of a program are unknown before it has run.
    pub results: Vec<String>,
    /// What several ranks share; `None`: its work is not shared.
    pub ranks: Option<Sharing>,
    pub inputs: Vec<InputSlot>,
    pub outputs: Vec<Output>,
    /// Part of the key.
    pub params: Vec<Field>,
    /// Not part of the key: these change cost, never results.
    pub operation: Vec<Field>,
    /// `[properties]`: the known properties of an output before it exists.
    pub properties: Vec<(String, String, Expression)>,
    /// `[agree]`: conditions for the stage to work.
    pub agree: Vec<Rule>,
    /// `[doubt]`: conditions whose violation is probably a mistake.
    pub doubt: Vec<Rule>,
}

impl Manifest {
    /// Parses the text of `stages/KIND.toml`. The text is part of the program, so every error is an
    /// internal one; it still has its place.
    pub fn parse(kind: &str, text: &str) -> Result<Self> {
        let read = || -> Result<Self> {
            let root = spanned::parse(Path::new(&format!("stages/{kind}.toml")), text)?;
            Self::read(kind, &root)
        };
        read().map_err(|mut e| {
            e.kind = ErrorKind::Internal;
            e.context(format!("the manifest of kind `{kind}` is invalid"))
        })
    }

    /// The parameter or operation value with this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.params.iter().chain(&self.operation).find(|f| f.name == name)
    }

    fn read(kind: &str, root: &Node) -> Result<Self> {
        const KEYS: [&str; 13] = [
            "summary",
            "revision",
            "exact",
            "tolerance",
            "results",
            "ranks",
            "inputs",
            "outputs",
            "params",
            "operation",
            "properties",
            "agree",
            "doubt",
        ];
        for entry in root.table("a manifest")? {
            if !KEYS.contains(&entry.key.as_str()) {
                let error = Error::usage(format!("unknown key `{}`", entry.key)).at(entry.key_place.clone());
                return Err(error.maybe_hint(suggest::hint(&entry.key, KEYS, "a manifest has")));
            }
        }
        let required =
            |key: &str| root.get(key).ok_or_else(|| Error::usage(format!("`{key}` is missing")).at(root.place.clone()));
        let revision = required("revision")?;
        let manifest = Self {
            kind: kind.to_string(),
            summary: required("summary")?.string("`summary`")?.to_string(),
            revision: match revision.value {
                Toml::Int(n) if n >= 1 => u32::try_from(n).unwrap_or(u32::MAX),
                _ => return Err(revision.mismatch("`revision`", "an integer of at least 1")),
            },
            exact: exact(root)?,
            tolerance: tolerance(root)?,
            results: results(root)?,
            ranks: ranks(root)?,
            inputs: section(root, "inputs", slot)?,
            outputs: section(root, "outputs", output)?,
            params: section(root, "params", field)?,
            operation: section(root, "operation", field)?,
            properties: properties(root)?,
            agree: rules(root, "agree")?,
            doubt: rules(root, "doubt")?,
        };
        manifest.check(root)?;
        Ok(manifest)
    }

    /// Checks across lines: unique names, existing parameters for output types.
    fn check(&self, root: &Node) -> Result<()> {
        if let Some(twice) = self.operation.iter().find(|o| self.params.iter().any(|p| p.name == o.name)) {
            let text = format!("`{}` is in both [params] and [operation]", twice.name);
            return Err(Error::usage(text).at(root.place.clone()));
        }
        for field in &self.params {
            let unknown = |name: &String| !name.is_empty() && self.field(name).is_none();
            if let Some(name) = field.missing.iter().flat_map(|line| holes(line)).find(unknown) {
                let text = format!("`missing` of `{}` refers to `{name}`, which is not a parameter", field.name);
                return Err(Error::usage(text).at(root.place.clone()));
            }
        }
        for output in &self.outputs {
            let Some(name) = output.param() else { continue };
            if !self.params.iter().any(|p| p.name == name && p.ty == FieldType::String) {
                let text =
                    format!("output `{}` takes its type from `{name}`, which is not a string parameter", output.name);
                return Err(Error::usage(text).at(root.place.clone()));
            }
        }
        self.check_properties().map_err(|text| Error::usage(text).at(root.place.clone()))
    }

    /// Checks that properties and rules refer to existing slots, parameters and outputs.
    fn check_properties(&self) -> Result<(), String> {
        if let Some((output, ..)) = self.properties.iter().find(|(o, ..)| !self.outputs.iter().any(|x| x.name == *o)) {
            return Err(format!("[properties] names `{output}`, which is not an output"));
        }
        let rules = self.agree.iter().chain(&self.doubt).flat_map(|rule| [&rule.left, &rule.right]);
        let all = self.properties.iter().map(|(_, _, expression)| expression).chain(rules);
        let unknown = |term: &&Term| match term {
            Term::Param(name) => !self.params.iter().any(|p| p.name == *name),
            Term::Fact(_) => false,
            Term::Input { slot, .. } => !self.inputs.iter().any(|s| s.name == *slot),
            Term::Inputs { slot, .. } => !self.inputs.iter().any(|s| s.name == *slot && s.many),
        };
        match all.flat_map(Expression::terms).find(unknown) {
            Some(term) => {
                Err(format!("a property refers to `{term}`, which is neither a parameter nor a property of an input"))
            }
            None => Ok(()),
        }
    }
}

/// The names in `{...}`.
fn holes(line: &str) -> impl Iterator<Item = String> {
    line.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_string())
}

/// Whether a result of this name fits an entry of [`Manifest::results`].
pub fn result_fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => name.starts_with(head),
        None => name == pattern,
    }
}

/// Possible names of results; `validation_*` stands for all with that prefix.
fn results(root: &Node) -> Result<Vec<String>> {
    let Some(node) = root.get("results") else { return Ok(vec![]) };
    node.list("`results`")?.iter().map(|n| Ok(n.string("a result")?.to_string())).collect()
}

fn ranks(root: &Node) -> Result<Option<Sharing>> {
    let Some(node) = root.get("ranks") else { return Ok(None) };
    let sharing = Sharing::parse(node.string("`ranks`")?);
    sharing.map(Some).ok_or_else(|| node.mismatch("`ranks`", &suggest::ticked(Sharing::WORDS)))
}

fn section<T>(root: &Node, name: &str, read: fn(&Entry) -> Result<T>) -> Result<Vec<T>> {
    match root.get(name) {
        Some(node) => node.table(format_args!("`{name}`"))?.iter().map(read).collect(),
        None => Ok(vec![]),
    }
}

/// `[properties]`: `OUTPUT.NAME = "EXPRESSION"`.
fn properties(root: &Node) -> Result<Vec<(String, String, Expression)>> {
    let read = |entry: &Entry| {
        let named = entry.key.split_once('.').filter(|(_, name)| !name.contains('.'));
        let text = entry.node.string(format_args!("property `{}`", entry.key))?;
        let made = named.and_then(|(output, name)| Some((output.into(), name.into(), Expression::parse(text)?)));
        made.ok_or_else(|| {
            let wanted =
                "`OUTPUT.NAME = \"EXPRESSION\"`, such as `latents.side = \"images.resolution / vae.downsampling\"`";
            Error::usage(format!("a property has the form {wanted}")).at(entry.node.place.clone())
        })
    };
    flat(root, "properties")?.iter().map(read).collect()
}

/// `[agree]` and `[doubt]`: `"EXPRESSION" = "EXPRESSION"`, `"EXPRESSION" = "multiple of
/// EXPRESSION"`.
fn rules(root: &Node, part: &str) -> Result<Vec<Rule>> {
    let read = |entry: &Entry| {
        let text = entry.node.string(format_args!("the rule on `{}`", entry.key))?;
        let made = Expression::parse(&entry.key).zip(Expression::parse_relation(text));
        let (left, (relation, right)) = made.ok_or_else(|| {
            let wanted = "`EXPRESSION = \"EXPRESSION\"`, such as `sit.channels = \"vae.channels\"`";
            Error::usage(format!("a rule has the form {wanted}")).at(entry.node.place.clone())
        })?;
        Ok(Rule { left, relation, right, doc: entry.doc.clone() })
    };
    flat(root, part)?.iter().map(read).collect()
}

fn flat(root: &Node, part: &str) -> Result<Vec<Entry>> {
    Ok(match root.get(part) {
        Some(node) => flatten(node.table(format_args!("`{part}`"))?),
        None => vec![],
    })
}

fn slot(entry: &Entry) -> Result<InputSlot> {
    let text = entry.node.string(format_args!("the type of input `{}`", entry.key))?;
    let (types, optional, many) = match (text.strip_suffix('?'), text.strip_suffix('*')) {
        (Some(types), _) => (types, true, false),
        (None, Some(types)) => (types, true, true),
        (None, None) => (text, false, false),
    };
    let types = types.split('|').map(|t| t.trim().to_string()).collect();
    Ok(InputSlot { name: entry.key.clone(), types, optional, many, doc: entry.doc.clone() })
}

fn output(entry: &Entry) -> Result<Output> {
    let ty = entry.node.string(format_args!("the type of output `{}`", entry.key))?.to_string();
    Ok(Output { name: entry.key.clone(), ty, doc: entry.doc.clone() })
}

fn field(entry: &Entry) -> Result<Field> {
    let mut field = Field {
        name: entry.key.clone(),
        ty: FieldType::Bool,
        default: None,
        optional: false,
        one_of: vec![],
        min: None,
        max: None,
        cost: Cost::Unknown,
        later: false,
        braces: false,
        missing: vec![],
        doc: entry.doc.clone(),
    };
    let what = format!("`{}`", entry.key);
    let untyped =
        |node: &Node| Error::usage(format!("the type of {what} is unknown; write `type = ...`")).at(node.place.clone());
    let Toml::Table(options) = &entry.node.value else {
        field.ty = FieldType::of(&entry.node).ok_or_else(|| untyped(&entry.node))?;
        field.default = Some(value::check(&field, &value::from_node(&entry.node)).map_err(|e| e.at(&entry.node))?);
        return Ok(field);
    };
    let get = |key: &str| options.iter().find(|o| o.key == key).map(|o| &o.node);
    field.ty = match (get("type"), get("default")) {
        (Some(ty), _) => FieldType::parse(ty.string("`type`")?).ok_or_else(|| {
            ty.mismatch(
                "`type`",
                "one of `bool`, `int`, `float`, `string`, `path`, `published` or a list such as `[int]`",
            )
        })?,
        (None, Some(default)) => FieldType::of(default).ok_or_else(|| untyped(default))?,
        (None, None) => return Err(untyped(&entry.node)),
    };
    for option in options {
        field_option(&mut field, option)?;
    }
    if field.later && (!field.optional || get("default").is_some()) {
        let text = format!("{what} is `later`, so it must be `optional` and have no default");
        return Err(Error::usage(text).at(entry.node.place.clone()));
    }
    // The default comes last, because it must be within the limits.
    if let Some(default) = get("default") {
        field.default = Some(value::check(&field, &value::from_node(default)).map_err(|e| e.at(default))?);
    }
    Ok(field)
}

fn field_option(field: &mut Field, option: &Entry) -> Result<()> {
    const OPTIONS: [&str; 10] =
        ["type", "default", "one_of", "optional", "later", "braces", "min", "max", "cost", "missing"];
    let node = &option.node;
    let number = |what: &str| match node.value {
        Toml::Int(n) => Ok(Some(n as f64)),
        Toml::Float(x) => Ok(Some(x)),
        _ => Err(node.mismatch(what, "a number")),
    };
    match option.key.as_str() {
        "type" | "default" => {}
        "one_of" => {
            let plain = Field { one_of: vec![], ..field.clone() };
            let values = node.list("`one_of`")?.iter();
            field.one_of = values
                .map(|v| value::check(&plain, &value::from_node(v)).map_err(|e| e.at(v)))
                .collect::<Result<_>>()?;
        }
        "optional" => match node.value {
            Toml::Bool(b) => field.optional = b,
            _ => return Err(node.mismatch("`optional`", "a boolean")),
        },
        "later" => match node.value {
            Toml::Bool(b) => field.later = b,
            _ => return Err(node.mismatch("`later`", "a boolean")),
        },
        "braces" => match node.value {
            Toml::Bool(b) => field.braces = b,
            _ => return Err(node.mismatch("`braces`", "a boolean")),
        },
        "cost" => {
            field.cost = match node.string("`cost`")? {
                "proportional" => Cost::Proportional,
                "none" => Cost::None,
                _ => return Err(node.mismatch("`cost`", "`proportional` or `none`")),
            }
        }
        "min" => field.min = number("`min`")?,
        "max" => field.max = number("`max`")?,
        "missing" => {
            let lines = match node.value {
                Toml::List(_) => node.list("`missing`")?.iter().collect(),
                _ => vec![node],
            };
            let text = |line: &Node| line.string("`missing`").map(str::to_string);
            field.missing = lines.into_iter().map(text).collect::<Result<_>>()?;
        }
        key => {
            let error = Error::usage(format!("unknown key `{key}`")).at(option.key_place.clone());
            return Err(error.maybe_hint(suggest::hint(key, OPTIONS, "a parameter has")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"
summary = "train a network"
revision = 3
[inputs]
latents = "latents"       # posterior moments
init = "warmed | sit?"
features = "features*"
[outputs]
out = "{path}"
[params]
steps = 300_000           # optimizer steps
                          # (micro-batches do not count)
# Peak learning rate.
lr = 1e-4
path = { default = "linear", one_of = ["linear", "cosine"] }
source = { type = "path", missing = ["run get.sh", "or from {label}"] }
scale = { type = "float", default = 1, min = 0 }
blocks = { type = "[int]", default = [] }
decay = { type = "float | [float]", default = 1 }
label = { type = "string", optional = true }
[operation]
log_every = 10
"#;

    #[test]
    fn reads_types_defaults_limits_and_docs() {
        let m = Manifest::parse("train", TEXT).unwrap();
        assert_eq!((m.summary.as_str(), m.revision), ("train a network", 3));
        assert_eq!(m.inputs[0].doc, "posterior moments");
        assert!(m.inputs[1].optional && m.inputs[1].accepts("sit") && !m.inputs[1].accepts("latents"));
        assert!(!m.inputs[1].many && m.inputs[2].many && m.inputs[2].optional);
        assert_eq!(m.inputs.iter().map(InputSlot::text).collect::<Vec<_>>(), ["latents", "warmed|sit?", "features*"]);
        assert_eq!(m.outputs[0].param(), Some("path"));
        let steps = m.field("steps").unwrap();
        assert_eq!(steps.doc, "optimizer steps (micro-batches do not count)");
        assert_eq!((&steps.ty, &steps.default), (&FieldType::Int, &Some(json!(300_000))));
        assert_eq!(m.field("lr").unwrap().doc, "Peak learning rate.");
        assert_eq!(m.field("scale").unwrap().default, Some(json!(1.0)), "an int default of a float is a float");
        assert_eq!(m.field("blocks").unwrap().ty, FieldType::List(Box::new(FieldType::Int)));
        let decay = m.field("decay").unwrap();
        assert_eq!((&decay.ty, &decay.default), (&FieldType::OneOrMany(Box::new(FieldType::Float)), &Some(json!(1.0))));
        for odd in ["path | [path]", "int | [float]", "int | int", "[int] | [[int]]"] {
            assert_eq!(FieldType::parse(odd), None, "{odd}");
        }
        let source = m.field("source").unwrap();
        assert!(source.default.is_none());
        assert_eq!(source.missing, ["run get.sh", "or from {label}"]);
        assert_eq!(m.operation[0].name, "log_every");
    }

    #[test]
    fn broken_manifests_are_internal_errors_with_a_place() {
        let head = "summary = \"s\"\nrevision = 1\n";
        let broken = [
            ("revision = 1".to_string(), "`summary` is missing"),
            ("summary = \"s\"\nrevision = 0".to_string(), "`revision` must be"),
            (format!("{head}[param]\n"), "unknown key `param`"),
            (format!("{head}exact = \"mostly\"\n"), "`exact` must be `everywhere` or `machine`"),
            (format!("{head}tolerance = -0.5\n"), "`tolerance` must be"),
            (format!("{head}ranks = \"halves\"\n"), "`ranks` must be"),
            (format!("{head}[params]\na = []\n"), "is unknown; write `type"),
            (format!("{head}[params]\na = {{ default = 3, min = 4 }}\n"), "at least 4"),
            (format!("{head}[params]\na = {{ default = 3, later = true }}\n"), "it must be `optional`"),
            (format!("{head}[params]\na = 1\n[operation]\na = 2\n"), "in both [params]"),
            (format!("{head}[params]\na = {{ type = \"path\", missing = \"{{b}}\" }}\n"), "refers to `b`"),
            (format!("{head}[outputs]\na = \"{{b}}\"\n"), "not a string parameter"),
            (format!("{head}[properties]\na.b = \"params.c\"\n"), "which is not an output"),
            (format!("{head}[outputs]\na = \"x\"\n[properties]\na.b = \"c\"\n"), "a property has the form"),
            (format!("{head}[outputs]\na = \"x\"\n[properties]\na.b = \"c.d\"\n"), "refers to `c.d`"),
            (format!("{head}[params]\np = 1\n[agree]\nparams.p = \"params.q\"\n"), "refers to `q`"),
            (format!("{head}[params]\np = 1\n[doubt]\nparams.p = \"twice params.p\"\n"), "a rule has the form"),
        ];
        for (text, expected) in broken {
            let e = Manifest::parse("k", &text).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Internal);
            assert!(e.to_string().contains(expected), "{e}");
            assert!(e.place.is_some(), "{e}");
        }
    }
}
