//! A JSON Schema (draft 2020-12) of files of settings, made from the table of settings, with which
//! editors complete and check.

use erw_runner::settings::file::DEFAULT;
use erw_runner::settings::keys::{KEYS, KINDS, Key, RUNNER, STAGES, Wants};
use serde_json::{Map, Value, json};

/// Sizes and times, as `text::units` reads them.
pub const SIZE: &str = r"^\s*[0-9.]+\s*([kKMGT]?B|[KMGT]iB)\s*$";
pub const TIME: &str = r"^\s*[0-9.]+\s*(ms|s|m|min|h|d|w)\s*$";

/// The schema. `kinds` are the stage kinds that a file may name.
pub fn schema<'k>(kinds: impl Iterator<Item = &'k str>) -> Value {
    let all = KEYS.iter().map(|key| (key.name.to_string(), property(key)));
    let of_stages = KEYS.iter().filter(|key| key.of_stages).map(|key| (key.name.to_string(), property(key)));
    let of_stages = object(of_stages.collect());
    let of_kinds: Map<String, Value> = kinds.map(|kind| (kind.to_string(), of_stages.clone())).collect();
    let mut profile: Map<String, Value> = all.collect();
    profile.insert(KINDS.into(), object(of_kinds));
    profile.insert(
        STAGES.into(),
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
            "additionalProperties": of_stages,
        }),
    );
    let of_runner = KEYS.iter().filter(|key| key.is_of_jobs()).map(|key| (key.name.to_string(), property(key)));
    profile.insert(RUNNER.into(), object(of_runner.collect()));
    let profile = object(profile);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "erw settings",
        "type": "object",
        "properties": {
            "profile": { "type": "string", "description": "the profile to use where nothing stronger names one" },
            (DEFAULT): { "$ref": "#/$defs/profile", "description": "settings that hold in every profile" },
        },
        "propertyNames": { "pattern": "^[a-z0-9_-]+$" },
        "additionalProperties": { "$ref": "#/$defs/profile" },
        "$defs": { "profile": profile },
    })
}

fn object(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn property(key: &Key) -> Value {
    let ty = match key.wants {
        Wants::Path => json!({ "type": "string", "minLength": 1 }),
        Wants::Paths => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
        Wants::Address => json!({ "type": "string", "pattern": "^$|://" }),
        Wants::OneOf(words) => json!({ "enum": words }),
        Wants::Count(least) => json!({ "type": "integer", "minimum": least, "maximum": u32::MAX }),
        Wants::Load => json!({ "type": "number", "minimum": 0 }),
        Wants::Size => json!({ "type": "string", "pattern": SIZE }),
        Wants::Time => json!({ "type": "string", "pattern": TIME }),
        Wants::Flag => json!({ "type": "boolean" }),
        Wants::Text => json!({ "type": "string", "minLength": 1 }),
        Wants::Texts => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
        Wants::Units => json!({ "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } }),
    };
    let mut property = ty;
    property["description"] = key.doc.into();
    property
}
