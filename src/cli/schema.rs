//! `erw schema`: a JSON Schema (draft 2020-12) of pipeline files, made from the manifests, with
//! which editors complete and check. It is as strict as a single file allows, and refuses nothing
//! that erw takes. An error names the value or the key at fault: hence `if` the kind, and `type`
//! with several types, where `anyOf` would say that nothing fits. Does not know who reads it.

use super::common::{json as text_of, print};
use super::{settings_schema, sweep_schema};
use erw_base::error::Result;
use erw_fetch::registry;
use erw_runner::kind::Registry;
use erw_runner::kind::expression::Term;
use erw_runner::kind::field::{Field, FieldType};
use erw_runner::kind::manifest::Manifest;
use erw_runner::kind::property::Rule;
use erw_runner::pipeline::command;
use serde_json::{Map, Value, json};

/// The name of a file that holds the schema, in the folder of the pipelines that it is for.
pub const FILE: &str = "erw.schema.json";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The schema of files of settings (`erw.toml`) instead
    #[arg(long)]
    pub settings: bool,
}

pub fn run(args: &Args, registry: Registry) -> Result<()> {
    let text =
        if args.settings { text_of(&settings_schema::schema(command::kinds(registry)))? } else { text(registry)? };
    print(&text)
}

/// The schema as the text of a file, which pipelines name as [`FILE`].
pub fn text(registry: Registry) -> Result<String> {
    text_of(&schema(registry)?)
}

/// The schema.
pub fn schema(registry: Registry) -> Result<Value> {
    let manifests: Vec<Manifest> =
        registry.iter().map(|k| Manifest::parse(k.name, k.manifest)).collect::<Result<_>>()?;
    let mut definitions = Map::new();
    definitions.insert("stage".into(), stage(&manifests));
    definitions.insert("root-stage".into(), root_stage(&manifests));
    for manifest in &manifests {
        definitions.insert(kind_name(&manifest.kind), stage_of(manifest));
    }
    definitions.insert(kind_name(command::NAME), command_stage());
    definitions.insert("inherited".into(), inherited());
    definitions.insert("shared".into(), shared(&manifests));
    definitions.insert("resources".into(), resources());
    definitions.insert("time".into(), time());
    definitions.insert("axis".into(), sweep_schema::axis());
    definitions.insert("distribution".into(), sweep_schema::distribution());
    let of_stages =
        |of: Value| json!({ "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": of });
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "erw pipeline",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "description": "display name; default: the name of the file" },
            "extends": { "type": "string", "description": "a pipeline to inherit from, relative to this file" },
            "params": {
                "type": "object",
                "description": "values for every stage whose kind declares them",
                "properties": described(&manifests),
            },
            "stages": of_stages(reference("stage")),
            "sweep": sweep_schema::sweep(),
        },
        // A parent may state anything. Without one, a stage is whole.
        "if": { "required": ["extends"] },
        "else": {
            "properties": { "stages": of_stages(reference("root-stage")) },
            // Parameters of a program are its own.
            "if": { "properties": { "stages": of_stages(json!({ "not": is(command::NAME) })) } },
            "then": { "properties": { "params": reference("shared") } },
        },
        "$defs": definitions,
    }))
}

/// Names of stages.
const NAME: &str = "^[A-Za-z0-9_-]+$";

fn kind_name(kind: &str) -> String {
    format!("kind-{kind}")
}

fn reference(definition: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{definition}") })
}

/// Whether a stage is of this kind.
fn is(kind: &str) -> Value {
    json!({ "required": ["kind"], "properties": { "kind": { "const": kind } } })
}

/// A stage: of its kind, or of a parent's. The kind is asked for, rather than any of the kinds
/// taken: so an error names what is wrong in the stage, and not that it is of no kind.
fn stage(manifests: &[Manifest]) -> Value {
    let kinds: Vec<&str> = manifests.iter().map(|m| m.kind.as_str()).chain([command::NAME]).collect();
    let of_kind = |kind: &&str| json!({ "if": is(kind), "then": reference(&kind_name(kind)) });
    let mut conditions: Vec<Value> = kinds.iter().map(of_kind).collect();
    conditions.push(json!({ "if": { "required": ["kind"] }, "else": reference("inherited") }));
    let mut choices: Vec<Value> = kinds.iter().map(|kind| reference(&kind_name(kind))).collect();
    // Refuses nothing.
    choices.extend([reference("inherited"), json!({})]);
    json!({
        "type": "object",
        "properties": { "kind": { "enum": kinds, "description": "what the stage does" } },
        "allOf": conditions,
        // Taplo does not complete what is behind `if`.
        "anyOf": choices,
    })
}

/// What a stage without a parent states.
fn root_stage(manifests: &[Manifest]) -> Value {
    let of_kind = |manifest: &Manifest| {
        let needed: Vec<&str> = manifest.inputs.iter().filter(|s| !s.optional).map(|s| s.name.as_str()).collect();
        let inputs = json!({ "required": ["inputs"], "properties": { "inputs": { "required": needed } } });
        (!needed.is_empty()).then(|| json!({ "if": is(&manifest.kind), "then": inputs }))
    };
    let of_command = json!({ "if": is(command::NAME), "then": { "required": ["run", "outputs"] } });
    let conditions: Vec<Value> = manifests.iter().filter_map(of_kind).chain([of_command]).collect();
    json!({ "required": ["kind"], "allOf": conditions })
}

/// The names of all parameters, for `[params]`. Kinds may differ in defaults and limits, so only
/// the meaning is taken, of the first.
fn described(manifests: &[Manifest]) -> Map<String, Value> {
    let mut names = Map::new();
    for field in all_fields(manifests) {
        names.entry(&field.name).or_insert_with(|| json!({ "description": field.doc }));
    }
    names
}

/// `[params]` of a pipeline in which no program has parameters.
fn shared(manifests: &[Manifest]) -> Value {
    let types = |name: &str| {
        let mut all: Vec<Value> = vec![];
        for ty in all_fields(manifests).filter(|f| f.name == name).map(|f| field(f)["type"].clone()) {
            if !all.contains(&ty) {
                all.push(ty);
            }
        }
        all
    };
    let property = |name: String| match types(&name).as_slice() {
        [one] => (name, json!({ "type": one })),
        _ => (name, json!({})),
    };
    let properties: Map<String, Value> = described(manifests).into_iter().map(|(name, _)| property(name)).collect();
    json!({ "additionalProperties": false, "properties": properties })
}

fn all_fields(manifests: &[Manifest]) -> impl Iterator<Item = &Field> {
    manifests.iter().flat_map(|m| m.params.iter().chain(&m.operation))
}

fn stage_of(manifest: &Manifest) -> Value {
    let inputs: Map<String, Value> = manifest
        .inputs
        .iter()
        .map(|slot| {
            let about = format!("takes {}. {}", slot.wanted(), slot.doc);
            let about = format!("{}{}", about.trim_end(), held_to(manifest, &slot.name));
            (slot.name.clone(), connection(&about, slot.optional, slot.many))
        })
        .collect();
    let own = json!({
        "kind": { "const": manifest.kind, "description": manifest.summary },
        "inputs": { "type": "object", "additionalProperties": false, "properties": inputs },
        "params": fields(&manifest.params),
        "operation": fields(&manifest.operation),
    });
    object(&manifest.kind, &manifest.summary, own)
}

/// A stage with these properties, what every stage may state, and no others.
fn object(title: &str, description: &str, mut properties: Value) -> Value {
    add(&mut properties, common());
    json!({
        "title": title,
        "description": description,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// What every stage may state.
fn common() -> Value {
    let time = |about: &str| json!({ "$ref": "#/$defs/time", "description": about });
    json!({
        "resources": reference("resources"),
        "timeout": time("an attempt that takes longer is stopped and fails"),
        "retries": { "type": "integer", "minimum": 0, "description": "number of further attempts after a failure" },
        "backoff": time("wait before the first retry; doubles with each further one"),
    })
}

/// The rules for a slot: `; must satisfy channels = vae.channels, side multiple of patch_size`.
fn held_to(manifest: &Manifest, slot: &str) -> String {
    let of = |rule: &&Rule| {
        let mut terms = rule.left.terms();
        terms.any(|term| matches!(term, Term::Input { slot: of, .. } if of == slot))
    };
    let rules: Vec<String> = manifest.agree.iter().filter(of).map(Rule::to_string).collect();
    if rules.is_empty() { String::new() } else { format!("; must satisfy {}", rules.join(", ")) }
}

/// A stage, `stage.output`, a stage of another pipeline or a file; or a list of these.
fn connection(about: &str, optional: bool, many: bool) -> Value {
    let text = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)?$|:" });
    let mut types = vec!["string"];
    let mut schema = json!({ "description": about, "pattern": text["pattern"] });
    if many {
        types.push("array");
        schema["items"] = text;
    }
    if optional || many {
        types.push("boolean");
        schema["not"] = json!({ "const": true });
    }
    schema["type"] = one_or_several(&types);
    schema
}

/// Types as a schema names them.
fn one_or_several(types: &[&str]) -> Value {
    match types {
        [one] => (*one).into(),
        several => several.into(),
    }
}

fn fields(fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields.iter().map(|f| (f.name.clone(), field(f))).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn field(field: &Field) -> Value {
    let mut schema = Map::new();
    let required = field.default.is_none() && !field.optional;
    let about = if required { format!("{} (required)", field.doc) } else { field.doc.clone() };
    schema.insert("description".into(), about.trim_start().into());
    match &field.ty {
        FieldType::List(of) => {
            schema.insert("type".into(), type_name(&field.ty).into());
            if !matches!(**of, FieldType::List(_)) {
                schema.insert("items".into(), value(field, of).into());
            }
        }
        FieldType::OneOrMany(of) => {
            schema.insert("type".into(), one_or_several(&[type_name(of), "array"]));
            let mut one = value(field, of);
            schema.insert("items".into(), one.clone().into());
            one.remove("type");
            if !one.is_empty() {
                schema.insert("if".into(), json!({ "type": type_name(of) }));
                schema.insert("then".into(), one.into());
            }
        }
        ty => schema.extend(value(field, ty)),
    }
    if let Some(default) = &field.default {
        schema.insert("default".into(), default.clone());
    }
    if field.can_be_unset() {
        or_false(&mut schema);
    }
    schema.into()
}

/// Allows `false`, which unsets what a parent pipeline sets.
fn or_false(schema: &mut Map<String, Value>) {
    let mut types = match schema.remove("type") {
        Some(Value::Array(types)) => types,
        one => one.into_iter().collect(),
    };
    types.push("boolean".into());
    schema.insert("type".into(), types.into());
    match schema.get_mut("enum").and_then(Value::as_array_mut) {
        Some(choices) => choices.push(false.into()),
        None => drop(schema.insert("not".into(), json!({ "const": true }))),
    }
}

/// The type, choices and limits of a value of a field, or of an element of its list.
fn value(field: &Field, ty: &FieldType) -> Map<String, Value> {
    let mut value = Map::from_iter([("type".to_string(), type_name(ty).into())]);
    if !field.one_of.is_empty() {
        value.insert("enum".into(), field.one_of.clone().into());
    }
    if let (FieldType::Published, Ok(all)) = (ty, registry::entries()) {
        value.insert("enum".into(), all.iter().map(|e| Value::from(e.name.as_str())).collect());
    }
    // Messages show a limit as it is written.
    let limit = |x: f64| if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) };
    value.extend(field.min.map(|min| ("minimum".to_string(), limit(min))));
    value.extend(field.max.map(|max| ("maximum".to_string(), limit(max))));
    value
}

fn type_name(ty: &FieldType) -> &'static str {
    match ty {
        FieldType::Bool => "boolean",
        FieldType::Int => "integer",
        FieldType::Float | FieldType::Number => "number",
        FieldType::String | FieldType::Path | FieldType::Published => "string",
        FieldType::List(_) | FieldType::OneOrMany(_) => "array",
    }
}

/// What only a program has.
fn of_command() -> Value {
    json!({
        "run": {
            "description": "a program and its arguments, or a line for sh -c; placeholders: {inputs.SLOT}, \
                {outputs.NAME}, {params.NAME}, {threads}, {checkpoints}",
            "type": ["array", "string"],
            "items": { "type": "string" },
            "minItems": 1,
        },
        "outputs": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "type": "string", "description": "the artifact's type" },
        },
        "watch": {
            "type": "array",
            "items": { "type": "string" },
            "description": "files, folders and patterns (src/**/*.py) whose contents are in the key",
        },
        "ignore": {
            "type": "array",
            "items": { "type": "string" },
            "description": "patterns, as in a .gitignore, of files that are not watched",
        },
        "exact": {
            "enum": ["everywhere", "machine"],
            "description": "where outputs have the same bytes: on every machine, or on one class of machine",
        },
        "tolerance": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "relative difference of results that is accepted between classes of machine",
        },
    })
}

fn command_stage() -> Value {
    let mut own = json!({
        "kind": { "const": command::NAME },
        "inputs": {
            "type": "object",
            "additionalProperties": connection("a stage, or stage.output", true, false),
        },
        "params": { "type": "object", "description": "free values, in the key" },
    });
    add(&mut own, of_command());
    object(command::NAME, "run a program with declared inputs, outputs and watched files", own)
}

/// A stage whose kind a parent states.
fn inherited() -> Value {
    let mut own = json!({
        "remove": { "type": "boolean", "description": "remove this stage of the parent" },
        "inputs": { "type": "object" },
        "params": { "type": "object" },
        "operation": { "type": "object" },
    });
    add(&mut own, of_command());
    object("inherited", "a stage of a parent pipeline, with the differences", own)
}

fn add(schema: &mut Value, more: Value) {
    if let (Value::Object(schema), Value::Object(more)) = (schema, more) {
        schema.extend(more);
    }
}

fn resources() -> Value {
    json!({
        "type": "object",
        "description": "what a stage requests; not in the key. Besides threads, mem, gpus and ranks any name; --resource \
            NAME=N states how many units a run has",
        "additionalProperties": { "type": "integer", "minimum": 0 },
        "properties": {
            "threads": { "type": "integer", "minimum": 1 },
            "mem": {
                "description": "8GiB, 500 MB, or a number of bytes",
                "type": ["string", "integer"],
                "pattern": settings_schema::SIZE,
                "minimum": 0,
            },
            "gpus": { "type": "integer", "minimum": 0 },
            "ranks": { "type": "integer", "minimum": 1 },
        },
    })
}

fn time() -> Value {
    json!({ "type": "string", "pattern": settings_schema::TIME })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many_is_either_with_the_same_limits() {
        let text =
            "summary = \"s\"\nrevision = 1\n[params]\nx = { type = \"int | [int]\", optional = true, min = 1 }  # x\n";
        let manifest = Manifest::parse("k", text).unwrap();
        let schema = field(&manifest.params[0]);
        assert_eq!(schema["type"], json!(["integer", "array", "boolean"]));
        assert_eq!(schema["not"], json!({ "const": true }));
        assert_eq!(schema["items"], json!({ "type": "integer", "minimum": 1 }));
        assert_eq!(schema["if"], json!({ "type": "integer" }));
        assert_eq!(schema["then"], json!({ "minimum": 1 }));
    }
}
