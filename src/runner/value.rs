//! Values against the manifest: a value from a file, a variable or the command line becomes the canonical
//! JSON of its field's type, or an error that says what it should have been. Does not know where it is asked from.

use super::located::{Node, Toml};
use super::manifest::{Field, FieldType};
use super::suggest;
use crate::error::{Error, Place};
use crate::fetch::registry;
use figment::value::{Empty, Num, Tag, Value};
use serde_json::Value as Json;

/// Why a value does not fit its field.
#[derive(Debug, PartialEq)]
pub struct Mismatch {
    pub message: String,
    pub hint: Option<String>,
    /// Position in a list, if the fault lies there.
    pub index: Option<usize>,
}

impl Mismatch {
    /// The error at a node (at its element, if one is at fault).
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

/// The canonical value of `field`: integers stay integers, numbers of a float field are floats.
pub fn check(field: &Field, value: &Value) -> Result<Json, Mismatch> {
    let json = typed(&field.ty, value).map_err(|(index, found)| {
        let what = match index {
            Some(i) => format!("element {} of `{}`", i + 1, field.name),
            None => format!("`{}`", field.name),
        };
        let wanted = match (&field.ty, index) {
            (FieldType::List(of), Some(_)) => of.describe(),
            (ty, _) => ty.describe(),
        };
        let hint = match (&field.ty, value) {
            // `1e5` is a float to TOML.
            (FieldType::Int, Value::Num(_, Num::F64(x))) if x.fract() == 0.0 && x.abs() < 1e15 => {
                Some(format!("write `{}`, without point and exponent", *x as i64))
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

/// A name that the registry knows.
fn published(field: &Field, name: &str) -> Result<(), Mismatch> {
    let fail = |message, hint| Err(Mismatch { message, hint, index: None });
    match registry::entries() {
        Ok(all) if all.iter().any(|e| e.name == name) => Ok(()),
        Ok(all) => {
            let hint = suggest::hint(name, all.iter().map(|e| e.name.as_str()), "there are");
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
    // Limits of a list hold for its elements.
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

/// The value as the type wants it, or the position in a list and what was found there.
fn typed(ty: &FieldType, value: &Value) -> Result<Json, (Option<usize>, String)> {
    let wrong = || Err((None, describe(value)));
    match (ty, value) {
        (FieldType::Bool, Value::Bool(_, b)) => Ok(Json::Bool(*b)),
        (FieldType::String | FieldType::Path | FieldType::Published, Value::String(_, s)) => {
            Ok(Json::String(s.clone()))
        }
        (FieldType::Int, Value::Num(_, Num::I64(n))) => Ok(Json::from(*n)),
        (FieldType::Float, Value::Num(_, Num::I64(n))) => float(*n as f64).ok_or((None, describe(value))),
        (FieldType::Float, Value::Num(_, Num::F64(x))) => float(*x).ok_or((None, format!("{x}"))),
        (FieldType::List(of), Value::Array(_, values)) => {
            let elements = values.iter().enumerate().map(|(i, v)| typed(of, v).map_err(|(_, found)| (Some(i), found)));
            Ok(Json::Array(elements.collect::<Result<_, _>>()?))
        }
        _ => wrong(),
    }
}

/// Only finite numbers: JSON and equality know no others. `-0.0` and `0.0` are one value.
fn float(x: f64) -> Option<Json> {
    serde_json::Number::from_f64(x + 0.0).map(Json::Number)
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(_, s) => format!("the string \"{s}\""),
        Value::Bool(_, b) => format!("the boolean {b}"),
        Value::Num(_, Num::I64(n)) => format!("the integer {n}"),
        Value::Num(_, Num::F64(x)) => format!("the float {x:?}"),
        Value::Num(..) => "a number".into(),
        Value::Char(..) => "a string".into(),
        Value::Array(..) => "a list".into(),
        Value::Dict(..) => "a table".into(),
        Value::Empty(..) => "a date".into(),
    }
}

/// A TOML value for figment. Dates become [`Value::Empty`], which nothing else is, so that every check refuses them.
pub fn from_node(node: &Node) -> Value {
    match &node.value {
        Toml::Bool(b) => Value::from(*b),
        Toml::Int(n) => Value::from(*n),
        Toml::Float(x) => Value::from(*x),
        Toml::String(s) => Value::from(s.as_str()),
        Toml::List(nodes) => Value::from(nodes.iter().map(from_node).collect::<Vec<_>>()),
        Toml::Table(entries) => {
            Value::from(entries.iter().map(|e| (e.key.clone(), from_node(&e.node))).collect::<figment::value::Dict>())
        }
        Toml::Date => Value::Empty(Tag::Default, Empty::None),
    }
}

/// A manifest's default for figment. Nothing for `null`, which no layer can state.
pub fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => Value::from(n),
            None => Value::from(n.as_f64()?),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(values) => Value::from(values.iter().filter_map(from_json).collect::<Vec<_>>()),
        Json::Object(map) => Value::from(
            map.iter().filter_map(|(k, v)| Some((k.clone(), from_json(v)?))).collect::<figment::value::Dict>(),
        ),
    })
}

/// A value written on the command line or in the environment. For strings and paths the text itself,
/// quotes optional; else read as TOML, and what is no TOML is a string, for [`check`] to refuse.
pub fn from_text(ty: &FieldType, text: &str) -> Value {
    let parsed = super::located::parse(std::path::Path::new("--set"), &format!("value = {text}")).ok();
    let node = parsed.as_ref().and_then(|root| root.get("value"));
    match (ty, node) {
        (FieldType::String | FieldType::Path | FieldType::Published, Some(Node { value: Toml::String(s), .. })) => {
            Value::from(s.as_str())
        }
        (FieldType::String | FieldType::Path | FieldType::Published, _) => Value::from(text),
        (_, Some(node)) => from_node(node),
        (_, None) => Value::from(text),
    }
}

/// A value as it is shown to people: strings bare, large and small floats short.
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
        Field { name, ty, default: None, optional: false, one_of: vec![], min: None, max: None, missing: vec![], doc }
    }

    #[test]
    fn values_become_canonical() {
        let list = FieldType::List(Box::new(FieldType::Float));
        assert_eq!(check(&field(FieldType::Float), &Value::from(1i64)), Ok(json!(1.0)));
        assert_eq!(
            check(&field(list), &Value::from(vec![Value::from(1i64), Value::from(-0.0)])),
            Ok(json!([1.0, 0.0]))
        );
        assert!(check(&field(FieldType::Int), &Value::from(1.0)).is_err(), "an integer is never made of a float");
        assert!(check(&field(FieldType::Float), &Value::from(f64::NAN)).is_err());
    }

    #[test]
    fn texts_are_read_by_type() {
        let read = |ty: FieldType, text: &str| check(&field(ty.clone()), &from_text(&ty, text));
        assert_eq!(read(FieldType::String, "10"), Ok(json!("10")));
        assert_eq!(read(FieldType::String, "\"a b\""), Ok(json!("a b")));
        assert_eq!(read(FieldType::Int, "1_000"), Ok(json!(1000)));
        assert_eq!(read(FieldType::Float, "1e-4"), Ok(json!(1e-4)));
        assert_eq!(read(FieldType::List(Box::new(FieldType::Int)), "[1, 2]"), Ok(json!([1, 2])));
        let e = read(FieldType::Int, "many").unwrap_err();
        assert_eq!(e.message, "`x` must be an integer, not the string \"many\"");
    }

    #[test]
    fn floats_are_shown_short() {
        let shown = [1e-4, 0.5, 1.0, 3e9, 0.0].map(|x| show(&json!(x)));
        assert_eq!(shown, ["1e-4", "0.5", "1.0", "3e9", "0.0"]);
    }
}
