//! `erw schema`: a JSON Schema (draft 2020-12) of pipeline files, made from the manifests, with
//! which editors complete and check. It is as strict as a single file allows: what a parent may
//! state is not required.

use super::common::print;
use super::settings_schema;
use erw_base::error::{Error, Result};
use erw_fetch::registry;
use erw_runner::kind::Registry;
use erw_runner::kind::expression::Term;
use erw_runner::kind::field::{Field, FieldType};
use erw_runner::kind::manifest::Manifest;
use erw_runner::kind::property::Rule;
use erw_runner::pipeline::command;
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The schema of files of settings (`erw.toml`) instead
    #[arg(long)]
    pub settings: bool,
}

pub fn run(args: &Args, registry: Registry) -> Result<()> {
    let kinds = || registry.iter().map(|kind| kind.name).chain([command::NAME]);
    let schema = if args.settings { settings_schema::schema(kinds()) } else { schema(registry)? };
    let text =
        serde_json::to_string_pretty(&schema).map_err(|e| Error::internal("cannot write the schema").because(e))?;
    print(&format!("{text}\n"))
}

/// The schema.
pub fn schema(registry: Registry) -> Result<Value> {
    let manifests: Vec<Manifest> =
        registry.iter().map(|k| Manifest::parse(k.name, k.manifest)).collect::<Result<_>>()?;
    let mut definitions = Map::new();
    for manifest in &manifests {
        definitions.insert(format!("kind-{}", manifest.kind), stage(manifest));
    }
    definitions.insert("kind-command".into(), command_stage());
    definitions.insert("resources".into(), resources());
    definitions.insert("time".into(), json!({ "type": "string", "pattern": "^[0-9.]+ *(ms|s|m|min|h|d|w)$" }));
    let mut choices: Vec<Value> = definitions
        .keys()
        .filter(|k| k.starts_with("kind-"))
        .map(|k| json!({ "$ref": format!("#/$defs/{k}") }))
        .collect();
    choices.push(inherited());
    let mut shared = Map::new();
    for field in manifests.iter().flat_map(|m| m.params.iter().chain(&m.operation)) {
        // Kinds may differ in defaults and limits, so only the name and the meaning are taken.
        shared.entry(&field.name).or_insert_with(|| json!({ "description": field.doc }));
    }
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
                "additionalProperties": true,
                "properties": shared,
            },
            "stages": {
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
                "additionalProperties": { "oneOf": choices },
            },
            "sweep": sweep(),
        },
        "$defs": definitions,
    }))
}

fn stage(manifest: &Manifest) -> Value {
    let inputs: Map<String, Value> = manifest
        .inputs
        .iter()
        .map(|slot| {
            let about = format!("takes {}. {}", slot.wanted(), slot.doc);
            let about = format!("{}{}", about.trim_end(), held_to(manifest, &slot.name));
            (slot.name.clone(), connection(&about, slot.optional, slot.many))
        })
        .collect();
    let needed: Vec<&str> = manifest.inputs.iter().filter(|s| !s.optional).map(|s| s.name.as_str()).collect();
    let mut required = vec!["kind"];
    if !needed.is_empty() {
        required.push("inputs");
    }
    json!({
        "title": manifest.kind,
        "description": manifest.summary,
        "type": "object",
        "required": required,
        "additionalProperties": false,
        "properties": {
            "kind": { "const": manifest.kind, "description": manifest.summary },
            "inputs": { "type": "object", "additionalProperties": false, "required": needed, "properties": inputs },
            "params": fields(&manifest.params),
            "operation": fields(&manifest.operation),
            "resources": { "$ref": "#/$defs/resources" },
            "timeout": { "$ref": "#/$defs/time", "description": TIMEOUT },
            "retries": { "type": "integer", "minimum": 0, "description": RETRIES },
            "backoff": { "$ref": "#/$defs/time", "description": BACKOFF },
        },
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

fn connection(about: &str, optional: bool, many: bool) -> Value {
    let text = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)?$" });
    let list = json!({ "type": "array", "items": text, "uniqueItems": true });
    match (many, optional) {
        (true, _) => json!({ "description": about, "anyOf": [text, list, { "const": false }] }),
        (false, true) => json!({ "description": about, "anyOf": [text, { "const": false }] }),
        (false, false) => json!({ "description": about, "type": "string", "pattern": text["pattern"] }),
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
    // Limits and choices of a list apply to its elements.
    let mut value = Map::new();
    let ty = match &field.ty {
        FieldType::List(of) | FieldType::OneOrMany(of) => of,
        ty => ty,
    };
    value.insert("type".into(), type_name(ty).into());
    if !field.one_of.is_empty() {
        value.insert("enum".into(), field.one_of.clone().into());
    }
    if let (FieldType::Published, Ok(all)) = (ty, registry::entries()) {
        value.insert("enum".into(), all.iter().map(|e| Value::from(e.name.as_str())).collect());
    }
    value.extend(field.min.map(|min| ("minimum".to_string(), json!(min))));
    value.extend(field.max.map(|max| ("maximum".to_string(), json!(max))));
    match (&field.ty, ty) {
        (FieldType::List(_), FieldType::List(_)) => schema.extend([("type".to_string(), json!("array"))]),
        (FieldType::List(_), _) => {
            schema.extend([("type".to_string(), json!("array")), ("items".to_string(), value.into())])
        }
        (FieldType::OneOrMany(_), _) => {
            let list = json!({ "type": "array", "items": value });
            schema.insert("anyOf".into(), json!([value, list]));
        }
        _ => schema.extend(value),
    }
    if let Some(default) = &field.default {
        schema.insert("default".into(), default.clone());
    }
    schema.into()
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

fn command_stage() -> Value {
    let words = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    json!({
        "title": command::NAME,
        "description": "run a program with declared inputs, outputs and watched files",
        "type": "object",
        "required": ["kind", "run", "outputs"],
        "additionalProperties": false,
        "properties": {
            "kind": { "const": command::NAME },
            "run": {
                "description": "a program and its arguments, or a line for sh -c; placeholders: {inputs.SLOT}, \
                    {outputs.NAME}, {params.NAME}, {threads}, {checkpoints}",
                "anyOf": [words, { "type": "string" }],
            },
            "inputs": {
                "type": "object",
                "additionalProperties": connection("a stage, or stage.output", false, false),
            },
            "outputs": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": { "type": "string", "description": "the artifact's type" },
            },
            "params": { "type": "object", "description": "free values, in the key" },
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
            "resources": { "$ref": "#/$defs/resources" },
            "timeout": { "$ref": "#/$defs/time", "description": TIMEOUT },
            "retries": { "type": "integer", "minimum": 0, "description": RETRIES },
            "backoff": { "$ref": "#/$defs/time", "description": BACKOFF },
        },
    })
}

const TIMEOUT: &str = "an attempt that takes longer is stopped and fails";
const RETRIES: &str = "number of further attempts after a failure";
const BACKOFF: &str = "wait before the first retry; doubles with each further one";

/// A stage whose kind a parent states.
fn inherited() -> Value {
    json!({
        "title": "inherited",
        "description": "a stage of a parent pipeline, with the differences",
        "type": "object",
        "not": { "required": ["kind"] },
        "additionalProperties": false,
        "properties": {
            "remove": { "const": true, "description": "remove this stage of the parent" },
            "inputs": { "type": "object" },
            "params": { "type": "object" },
            "operation": { "type": "object" },
            "resources": { "$ref": "#/$defs/resources" },
            "timeout": { "$ref": "#/$defs/time", "description": TIMEOUT },
            "retries": { "type": "integer", "minimum": 0, "description": RETRIES },
            "backoff": { "$ref": "#/$defs/time", "description": BACKOFF },
            "run": {},
            "outputs": { "type": "object" },
            "watch": { "type": "array" },
            "ignore": { "type": "array" },
            "exact": {},
            "tolerance": {},
        },
    })
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
                "anyOf": [
                    { "type": "string", "pattern": "^[0-9.]+ *([kKMGT]B|[KMGT]iB|B)$" },
                    { "type": "integer", "minimum": 0 },
                ],
            },
            "gpus": { "type": "integer", "minimum": 0 },
            "ranks": { "type": "integer", "minimum": 1 },
        },
    })
}

fn sweep() -> Value {
    let pair = |of: &str| json!({ "type": "array", "items": { "type": of }, "minItems": 2, "maxItems": 2 });
    let choice = json!({ "type": "array", "minItems": 1 });
    let kinds =
        [("uniform", pair("number")), ("log_uniform", pair("number")), ("int", pair("integer")), ("choice", choice)];
    let one = |(name, of): (&str, Value)| json!({ "type": "object", "required": [name], "properties": { name: of }, "additionalProperties": false });
    let distributions: Vec<Value> = kinds.into_iter().map(one).collect();
    json!({
        "type": "object",
        "description": "axes as \"STAGE.NAME\" = [values]; read by erw sweep",
        "properties": {
            "trials": {
                "type": "array",
                "items": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
            },
            "random": {
                "type": "object",
                "description": "points drawn at random, by \"STAGE.NAME\" = { a distribution }",
                "properties": {
                    "budget": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 10000,
                        "default": 20,
                        "description": "number of points",
                    },
                    "seed": { "type": "integer", "minimum": 0, "default": 0 },
                },
                // A dotted name makes tables of tables.
                "additionalProperties": { "anyOf": [{ "oneOf": distributions }, { "type": "object" }] },
            },
            "stop": {
                "type": "array",
                "description": "rules that stop a trial early",
                "items": { "type": "string", "examples": ["train.loss > 2 @500", "fd > 1.5*best"] },
            },
        },
        "additionalProperties": { "anyOf": [{ "type": "array", "minItems": 1 }, { "type": "object" }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many_is_either_with_the_same_limits() {
        let text =
            "summary = \"s\"\nrevision = 1\n[params]\nx = { type = \"int | [int]\", optional = true, min = 1 }  # x\n";
        let manifest = Manifest::parse("k", text).unwrap();
        let number = json!({ "type": "integer", "minimum": 1.0 });
        assert_eq!(field(&manifest.params[0])["anyOf"], json!([number, { "type": "array", "items": number }]));
    }
}
