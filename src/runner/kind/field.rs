//! The declarations of a manifest: parameters with types and limits, input slots, outputs. Does not
//! know the text of manifests.

use crate::small_map::SmallMap;
use crate::text::spanned::{Node, Toml};
use erw_base::error::{Error, Result};
use serde::de::DeserializeOwned;

/// Resolved parameter values by name, typed as declared (ints stay ints, floats are floats).
pub type Params = SmallMap<serde_json::Value>;

/// Values as a kind's own struct (`deny_unknown_fields`, no `Default`).
///
/// # Errors
/// Names the parameter: `` `seed` must be at least 0, not -1 ``.
pub fn parse<T: DeserializeOwned>(values: &Params) -> Result<T> {
    let map = values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    serde_path_to_error::deserialize(serde_json::Value::Object(map)).map_err(|e| {
        let name = e.path().iter().next().map(ToString::to_string).unwrap_or_default();
        Error::usage(match values.get(&name) {
            Some(value) if value.as_i64().is_some_and(|n| n < 0) => {
                format!("`{name}` must be at least 0, not {value}")
            }
            _ => format!("`{name}`: {}", e.inner()),
        })
    })
}

/// Where a kind produces the same bytes from the same inputs. Decides how results are compared; not
/// in any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    Everywhere,
    /// On one machine class, see [`crate::host`]. The default.
    Machine,
}

impl Exact {
    pub fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Machine => "machine",
        }
    }
}

/// A declared input slot: `latents = "latents"`, `init = "warmed|sit?"`, `features = "features*"`.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSlot {
    pub name: String,
    /// Accepted artifact types; [`ANY`] accepts all.
    pub types: Vec<String>,
    /// `?`: one or none.
    pub optional: bool,
    /// `*`: zero or more, in order; also `optional`.
    pub many: bool,
    pub doc: String,
}

/// `sit = "sit"`; a type written `{param}` is the value of that string parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub name: String,
    pub ty: String,
    pub doc: String,
}

/// One parameter: `lr = 1e-4  # comment`, or an inline table
/// `{ type = "path", default = .., one_of = [..], optional = true, later = true, min = .., max = ..,
/// missing = "how to get it" }`.
/// `cost = "proportional"` marks what the duration is proportional to, `cost = "none"` what does
/// not affect it. `missing` may be a list of lines, and a line may contain `{url}` for the value of
/// the parameter `url`. Types are `bool`, `int`, `float`, `string`, `path`, `published`, lists such
/// as `[int]`, and `int | [int]` for one integer or a list of them; without `type`, the default
/// implies it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub ty: FieldType,
    /// `None` and not `optional`: the pipeline must set it.
    pub default: Option<serde_json::Value>,
    /// An optional parameter without a default is `null` if not set.
    pub optional: bool,
    /// Added when the kind had results: it is in the key only if it is set, so that they stay. For
    /// optional parameters whose absence means what the kind computed before.
    pub later: bool,
    pub one_of: Vec<serde_json::Value>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub cost: Cost,
    /// For `path`: braces in it, as in `train-{000..146}.tar`, stand for several files.
    pub braces: bool,
    /// For `path`: the hint for a missing file, by line. `{name}` stands for the value of that
    /// parameter; a line with a value that is not set is omitted.
    pub missing: Vec<String>,
    pub doc: String,
}

/// How a parameter affects the duration of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cost {
    /// Not declared.
    #[default]
    Unknown,
    /// The duration is proportional to it.
    Proportional,
    /// It does not affect the duration.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldType {
    Bool,
    Int,
    Float,
    /// An integer or a float, kept as written: a free value of a command, which is an integer until
    /// somebody halves it.
    Number,
    String,
    /// A file or folder outside the cache; its contents enter the key, its name does not.
    Path,
    /// The name of a published file, see [`erw_fetch::registry`]; the file's identity enters the
    /// key.
    Published,
    List(Box<FieldType>),
    /// A single value or a list, kept as written.
    OneOrMany(Box<FieldType>),
}

/// The slot type that accepts artifacts of every type.
pub const ANY: &str = "any";

impl Field {
    /// Whether `false` stands for no value.
    pub fn can_be_unset(&self) -> bool {
        self.optional && self.ty != FieldType::Bool
    }
}

impl InputSlot {
    pub fn accepts(&self, ty: &str) -> bool {
        self.types.iter().any(|t| t == ty || t == ANY)
    }
    /// `a or b`, for messages.
    pub fn wanted(&self) -> String {
        self.types.join(" or ")
    }
    /// The type as in a manifest: `latents`, `warmed|sit?`.
    pub fn text(&self) -> String {
        let mark = match (self.many, self.optional) {
            (true, _) => "*",
            (false, true) => "?",
            (false, false) => "",
        };
        self.types.join("|") + mark
    }
}

/// The name of element `index` of a list slot in graphs, keys and jobs: `SLOT` for the first, so
/// that a list of one equals a single input; `SLOT.1` for the second.
pub fn element(slot: &str, index: usize) -> String {
    if index == 0 { slot.to_string() } else { format!("{slot}.{index}") }
}

impl FieldType {
    /// The type with its article, for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Bool => "a boolean".into(),
            Self::Int => "an integer".into(),
            Self::Float | Self::Number => "a number".into(),
            Self::String => "a string".into(),
            Self::Path => "a path".into(),
            Self::Published => "the name of a published file".into(),
            Self::List(of) => format!("a list of {}", of.plural()),
            Self::OneOrMany(of) => format!("{} or a list of {}", of.describe(), of.plural()),
        }
    }

    fn plural(&self) -> String {
        match self {
            Self::Bool => "booleans".into(),
            Self::Int => "integers".into(),
            Self::Float | Self::Number => "numbers".into(),
            Self::String => "strings".into(),
            Self::Path => "paths".into(),
            Self::Published => "names of published files".into(),
            Self::List(of) | Self::OneOrMany(of) => format!("lists of {}", of.plural()),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((one, many)) = text.split_once('|') {
            let (one, many) = (Self::parse(one.trim())?, Self::parse(many.trim())?);
            // Other code looks for paths in values and lists only.
            let plain = matches!(one, Self::Bool | Self::Int | Self::Float | Self::String);
            return (plain && many == Self::List(Box::new(one.clone()))).then(|| Self::OneOrMany(Box::new(one)));
        }
        Some(match text {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "float" => Self::Float,
            "string" => Self::String,
            "path" => Self::Path,
            "published" => Self::Published,
            _ => Self::List(Box::new(Self::parse(text.strip_prefix('[')?.strip_suffix(']')?.trim())?)),
        })
    }

    /// The type implied by a value. `None` for tables, dates and empty lists.
    pub fn of(node: &Node) -> Option<Self> {
        Some(match &node.value {
            Toml::Bool(_) => Self::Bool,
            Toml::Int(_) => Self::Int,
            Toml::Float(_) => Self::Float,
            Toml::String(_) => Self::String,
            Toml::List(nodes) => {
                let mut types = nodes.iter().map(Self::of);
                let first = types.next()??;
                // `[0, 0.5]` is a list of numbers.
                let of = types.try_fold(first, |acc, ty| match (acc, ty?) {
                    (a, b) if a == b => Some(a),
                    (Self::Int, Self::Float) | (Self::Float, Self::Int) => Some(Self::Float),
                    _ => None,
                })?;
                Self::List(Box::new(of))
            }
            Toml::Table(_) | Toml::Date => return None,
        })
    }

    /// The same type with any number in place of an integer.
    pub fn with_any_number(self) -> Self {
        match self {
            Self::Int => Self::Number,
            Self::List(of) => Self::List(Box::new(of.with_any_number())),
            other => other,
        }
    }
}

impl Output {
    /// The parameter whose value is the type, for `{param}`.
    pub fn param(&self) -> Option<&str> {
        self.ty.strip_prefix('{')?.strip_suffix('}')
    }
}

pub(crate) fn exact(root: &Node) -> Result<Exact> {
    let Some(node) = root.get("exact") else { return Ok(Exact::Machine) };
    let known = [Exact::Everywhere, Exact::Machine].into_iter().find(|e| node.string("`exact`").ok() == Some(e.name()));
    known.ok_or_else(|| node.mismatch("`exact`", "`everywhere` or `machine`"))
}

pub(crate) fn tolerance(root: &Node) -> Result<f64> {
    let Some(node) = root.get("tolerance") else { return Ok(0.0) };
    match node.value {
        Toml::Float(x) if (0.0..1.0).contains(&x) => Ok(x),
        _ => Err(node.mismatch("`tolerance`", "a float from 0.0 to 1.0")),
    }
}

/// The type of outputs that contain results.
pub const TYPE: &str = "metrics";
