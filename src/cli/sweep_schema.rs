//! The part of the schema of pipelines that is about `[sweep]`. Does not know stages.

use serde_json::{Value, json};

/// `[sweep]`.
pub fn sweep() -> Value {
    json!({
        "type": "object",
        "description": "axes as \"STAGE.NAME\" = [values]; read by erw sweep",
        "properties": {
            "trials": {
                "type": "array",
                "minItems": 1,
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
                "additionalProperties": { "$ref": "#/$defs/distribution" },
            },
            "stop": {
                "type": "array",
                "description": "rules that stop a trial early",
                "items": { "type": "string", "examples": ["train.loss > 2 @500", "fd > 1.5*best"] },
            },
        },
        "additionalProperties": { "$ref": "#/$defs/axis" },
    })
}

/// The values of an axis. A dotted name that is not in quotes makes tables of tables.
pub fn axis() -> Value {
    json!({ "type": ["array", "object"], "minItems": 1, "additionalProperties": { "$ref": "#/$defs/axis" } })
}

/// A distribution, or by a dotted name a table of them.
pub fn distribution() -> Value {
    let pair = |of: &str| json!({ "type": "array", "items": { "type": of }, "minItems": 2, "maxItems": 2 });
    json!({
        "type": "object",
        "additionalProperties": { "$ref": "#/$defs/distribution" },
        "properties": {
            "uniform": pair("number"),
            "log_uniform": pair("number"),
            "int": pair("integer"),
            "choice": { "type": "array", "minItems": 1 },
        },
    })
}
