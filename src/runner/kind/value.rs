//! Checks values against the manifest: a value from a file, a variable or the command line becomes
//! the canonical JSON of its field's type, or an error that says what is allowed. Does not know
//! where a value comes from.

use super::field::{Field, FieldType};
use crate::text::spanned::{self, Node, Toml};
use crate::text::suggest;
use erw_base::error::{Error, Place};
use erw_fetch::registry;
use serde_json::Value as Json;

/// A value as written, before its type is checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Value>),
    /// Contents are dropped, since no field accepts a table. Likewise for dates.
    Table,
    Date,
}

impl Value {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// Why a value does not fit its field.
#[derive(Debug, PartialEq)]
pub struct Mismatch {
    pub message: String,
    pub hint: Option<String>,
    /// Index in a list, if one element is wrong.
    pub index: Option<usize>,
}

impl Mismatch {
    /// The error, placed at a node or at its wrong element.
    pub fn at(self, node: &Node) -> Error {
        let place = match (&node.value, self.index) {
            (Toml::List(nodes), Some(index)) => nodes.get(index).map(|n| n.place.clone()),
            _ => None,
        };
        self.error(Some(place.unwrap_or_else(|| node.place.clone())))
    }

    pub fn error(self, place: Option<Place>) -> Error {
        Error::usage(self.message).maybe_hint(self.hint).maybe_at(place)
    }
}

/// Whether `value` is the `false` that unsets what a parent pipeline sets, as if nobody had.
pub fn unsets(field: &Field, value: &Value) -> bool {
    field.can_be_unset() && *value == Value::Bool(false)
}

/// The canonical value of `field`: integers stay integers, numbers of a float field become floats.
pub fn check(field: &Field, value: &Value) -> Result<Json, Mismatch> {
    let json = typed(&field.ty, value).map_err(|(index, found)| {
        let what = match index {
            Some(i) => format!("element {} of `{}`", i + 1, field.name),
            None => format!("`{}`", field.name),
        };
        let wanted = match (&field.ty, index) {
            (FieldType::List(of) | FieldType::OneOrMany(of), Some(_)) => of.describe(),
            (ty, _) => ty.describe(),
        };
        let hint = match (&field.ty, value) {
            // `1e5` is a float to TOML.
            (FieldType::Int, Value::Float(x)) if x.fract() == 0.0 && x.abs() < 1e15 => {
                Some(format!("write `{}`, without decimal point or exponent", *x as i64))
            }
            // A free value of a command; its type is only known from how the stage declares it.
            (FieldType::String, Value::Int(_) | Value::Float(_) | Value::Bool(_)) if about(field).is_empty() => {
                Some(format!("the stage declares a string: write `\"{}\"`", show(&to_json(value))))
            }
            (FieldType::Number | FieldType::Float, Value::String(_)) if about(field).is_empty() => {
                Some("the stage declares a number; to allow both, declare a string there".into())
            }
            _ => Some(about(field)).filter(|h| !h.is_empty()),
        };
        Mismatch { message: format!("{what} must be {wanted}, not {found}"), hint, index }
    })?;
    limits(field, &json)?;
    if let (FieldType::Published, Some(name)) = (&field.ty, json.as_str()) {
        published(field, name)?;
    }
    Ok(json)
}

/// Checks that the registry has this name.
fn published(field: &Field, name: &str) -> Result<(), Mismatch> {
    let fail = |message, hint| Err(Mismatch { message, hint, index: None });
    match registry::entries() {
        Ok(all) if all.iter().any(|e| e.name == name) => Ok(()),
        Ok(all) => {
            let hint = suggest::hint(name, all.iter().map(|e| e.name.as_str()), "the published files are");
            fail(format!("`{}`: no published file is called `{name}`", field.name), hint)
        }
        Err(e) => fail(e.to_string(), e.hints.first().cloned()),
    }
}

/// `steps`: optimizer steps (default 300000)
fn about(field: &Field) -> String {
    let default = field.default.as_ref().map(|d| format!("default {}", show(d)));
    match (field.doc.is_empty(), default) {
        (true, None) => String::new(),
        (true, Some(default)) => format!("`{}` has the {default}", field.name),
        (false, None) => format!("`{}`: {}", field.name, field.doc),
        (false, Some(default)) => format!("`{}`: {} ({default})", field.name, field.doc),
    }
}

fn limits(field: &Field, json: &Json) -> Result<(), Mismatch> {
    let fail = |index, message, hint| Err(Mismatch { message, hint, index });
    // The limits of a list apply to its elements.
    let (values, is_list): (&[Json], bool) = match json {
        Json::Array(list) => (list, true),
        one => (std::slice::from_ref(one), false),
    };
    for (i, v) in values.iter().enumerate() {
        let index = is_list.then_some(i);
        let of = if is_list { format!("element {} of ", i + 1) } else { String::new() };
        let hint = || Some(about(field)).filter(|h| !h.is_empty());
        if !field.one_of.is_empty() && !field.one_of.contains(v) {
            let names: Vec<String> = field.one_of.iter().map(show).collect();
            let hint = v.as_str().and_then(|s| suggest::nearest(s, names.iter().map(String::as_str)));
            let message = format!("{of}`{}` must be one of {}, not `{}`", field.name, list(&names), show(v));
            return fail(index, message, hint.map(|h| format!("did you mean `{h}`?")));
        }
        let Some(x) = v.as_f64() else { continue };
        let (min, max) = (field.min.unwrap_or(f64::NEG_INFINITY), field.max.unwrap_or(f64::INFINITY));
        if x < min || x > max {
            let range = match (field.min, field.max) {
                (Some(min), Some(max)) => format!("from {min} to {max}"),
                (Some(min), None) => format!("at least {min}"),
                _ => format!("at most {max}"),
            };
            return fail(index, format!("{of}`{}` must be {range}, not {}", field.name, show(v)), hint());
        }
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    suggest::ticked(names.iter().map(String::as_str))
}

/// The value converted to the type, or the index and a description of the wrong value.
fn typed(ty: &FieldType, value: &Value) -> Result<Json, (Option<usize>, String)> {
    let wrong = || Err((None, describe(value)));
    match (ty, value) {
        (FieldType::Bool, Value::Bool(b)) => Ok(Json::Bool(*b)),
        (FieldType::String | FieldType::Path | FieldType::Published, Value::String(s)) => Ok(Json::String(s.clone())),
        (FieldType::Int | FieldType::Number, Value::Int(n)) => Ok(Json::from(*n)),
        (FieldType::Float, Value::Int(n)) => float(*n as f64).ok_or((None, describe(value))),
        (FieldType::Float | FieldType::Number, Value::Float(x)) => float(*x).ok_or((None, format!("{x}"))),
        (FieldType::List(of) | FieldType::OneOrMany(of), Value::List(values)) => {
            let elements = values.iter().enumerate().map(|(i, v)| typed(of, v).map_err(|(_, found)| (Some(i), found)));
            Ok(Json::Array(elements.collect::<Result<_, _>>()?))
        }
        (FieldType::OneOrMany(of), one) => typed(of, one),
        _ => wrong(),
    }
}

/// Finite numbers only, since JSON has no others. `-0.0` and `0.0` are one value.
fn float(x: f64) -> Option<Json> {
    serde_json::Number::from_f64(x + 0.0).map(Json::Number)
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(s) => format!("the string \"{s}\""),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Int(n) => format!("the integer {n}"),
        Value::Float(x) => format!("the float {x:?}"),
        Value::List(..) => "a list".into(),
        Value::Table => "a table".into(),
        Value::Date => "a date".into(),
    }
}

/// A value from a file.
pub fn from_node(node: &Node) -> Value {
    match &node.value {
        Toml::Bool(b) => Value::Bool(*b),
        Toml::Int(n) => Value::Int(*n),
        Toml::Float(x) => Value::Float(*x),
        Toml::String(s) => Value::String(s.clone()),
        Toml::List(nodes) => Value::List(nodes.iter().map(from_node).collect()),
        Toml::Table(_) => Value::Table,
        Toml::Date => Value::Date,
    }
}

/// A manifest's default. `None` for `null`, which a file cannot contain.
pub fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => Value::Float(n.as_f64()?),
        },
        Json::String(s) => Value::String(s.clone()),
        Json::Array(values) => Value::List(values.iter().filter_map(from_json).collect()),
        Json::Object(_) => Value::Table,
    })
}

/// A value for display before its type is known.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Bool(b) => Json::from(*b),
        Value::Int(n) => Json::from(*n),
        Value::Float(x) => Json::from(*x),
        Value::String(s) => Json::from(s.as_str()),
        Value::List(values) => values.iter().map(to_json).collect(),
        Value::Table | Value::Date => Json::Null,
    }
}

/// A value from the command line or the environment. For strings and paths it is the text itself,
/// with optional quotes, and `false` without quotes if that [unsets] it; otherwise it is parsed as
/// TOML. What is not TOML becomes a string, which [`check`] refuses.
pub fn from_text(field: &Field, text: &str) -> Value {
    let parsed = spanned::parse(std::path::Path::new("--set"), format!("value = {text}")).ok();
    let node = parsed.as_ref().and_then(|root| root.get("value"));
    match (&field.ty, node) {
        (_, Some(Node { value: Toml::Bool(false), .. })) if field.can_be_unset() => Value::Bool(false),
        (FieldType::String | FieldType::Path | FieldType::Published, Some(Node { value: Toml::String(s), .. })) => {
            s.as_str().into()
        }
        (FieldType::String | FieldType::Path | FieldType::Published, _) | (_, None) => text.into(),
        (_, Some(node)) => from_node(node),
    }
}

/// A value for display: strings without quotes, large and small floats in short form.
pub fn show(json: &Json) -> String {
    match json {
        Json::String(s) => s.clone(),
        Json::Null => "none".into(),
        Json::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() => show_float(x),
            _ => n.to_string(),
        },
        Json::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn show_float(x: f64) -> String {
    let plain = format!("{x:?}");
    let short = format!("{x:e}");
    if x != 0.0 && (x.abs() < 1e-3 || x.abs() >= 1e7) { short } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(ty: FieldType) -> Field {
        let (name, doc) = ("x".to_string(), String::new());
        Field {
            name,
            ty,
            default: None,
            optional: false,
            one_of: vec![],
            min: None,
            max: None,
            cost: Default::default(),
            later: false,
            braces: false,
            missing: vec![],
            doc,
        }
    }

    #[test]
    fn values_become_canonical() {
        let list = FieldType::List(Box::new(FieldType::Float));
        assert_eq!(check(&field(FieldType::Float), &Value::Int(1)), Ok(json!(1.0)));
        assert_eq!(check(&field(list), &Value::List(vec![Value::Int(1), Value::Float(-0.0)])), Ok(json!([1.0, 0.0])));
        assert!(check(&field(FieldType::Int), &Value::Float(1.0)).is_err(), "an integer is never made of a float");
        assert!(check(&field(FieldType::Float), &Value::Float(f64::NAN)).is_err());
    }

    #[test]
    fn a_free_number_stays_what_it_is() {
        let number = FieldType::Int.with_any_number();
        let read = |ty: &FieldType, text: &str| check(&field(ty.clone()), &from_text(&field(ty.clone()), text));
        let written = ["1", "0.5", "-3", "1e-3", "1.0", "9223372036854775807"];
        assert_eq!(
            written.map(|text| read(&number, text).unwrap().to_string()),
            ["1", "0.5", "-3", "0.001", "1.0", "9223372036854775807"]
        );
        assert!(["nan", "inf", "auto", "true", "[1]"].iter().all(|text| read(&number, text).is_err()));
        let list = FieldType::List(Box::new(FieldType::Int)).with_any_number();
        assert_eq!(read(&list, "[1, 0.5]"), Ok(json!([1, 0.5])));
        assert_eq!(FieldType::String.with_any_number(), FieldType::String);
    }

    #[test]
    fn texts_are_read_by_type() {
        let read = |ty: FieldType, text: &str| check(&field(ty.clone()), &from_text(&field(ty), text));
        assert_eq!(read(FieldType::String, "10"), Ok(json!("10")));
        assert_eq!(read(FieldType::String, "\"a b\""), Ok(json!("a b")));
        assert_eq!(read(FieldType::Int, "1_000"), Ok(json!(1000)));
        assert_eq!(read(FieldType::Float, "1e-4"), Ok(json!(1e-4)));
        assert_eq!(read(FieldType::List(Box::new(FieldType::Int)), "[1, 2]"), Ok(json!([1, 2])));
        let either = FieldType::OneOrMany(Box::new(FieldType::Int));
        assert_eq!(read(either.clone(), "2"), Ok(json!(2)), "one stays one");
        assert_eq!(read(either.clone(), "[1, 2]"), Ok(json!([1, 2])));
        let e = read(either.clone(), "many").unwrap_err();
        assert_eq!(e.message, "`x` must be an integer or a list of integers, not the string \"many\"");
        let e = read(either, "[1, 0.5]").unwrap_err();
        assert_eq!(e.message, "element 2 of `x` must be an integer, not the float 0.5");
        let e = read(FieldType::Int, "many").unwrap_err();
        assert_eq!(e.message, "`x` must be an integer, not the string \"many\"");
    }

    #[test]
    fn floats_are_shown_short() {
        let shown = [1e-4, 0.5, 1.0, 3e9, 0.0].map(|x| show(&json!(x)));
        assert_eq!(shown, ["1e-4", "0.5", "1.0", "3e9", "0.0"]);
    }
}
