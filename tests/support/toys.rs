//! Toy kinds that look like the real ones and compute nothing, for tests of what is read and said
//! before a run.

use super::space::Space;
use erw::error::{Error, Result};
use erw::report::diagnostic;
use erw::runner::kind::attempt::Attempt;
use erw::runner::kind::field::Params;
use erw::runner::kind::{Registry, StageKind, no_facts};
use erw::runner::pipeline::graph::{Pipeline, Stage};
use erw::runner::pipeline::layers::Overrides;

const IMAGES: &str = r#"
summary = "read images"
revision = 1
[outputs]
images = "images"
[params]
source = { type = "path", missing = "run tools/get-images.sh" }  # folder of images
resolution = { default = 8, min = 1, max = 512 }                 # pixels
"#;

const CODEC: &str = r#"
summary = "train a codec"
revision = 1
[inputs]
images = "images"
[outputs]
vae = "vae"       # weights
latents = "latents"
[params]
seed = 0          # of initial weights and noise
scale = 1.5       # of the latents
"#;

const TRAIN: &str = r#"
summary = "train a network"
revision = 2
[inputs]
latents = "latents"
init = "warmed|sit?"            # weights to start from
[outputs]
out = "{makes}"
[params]
seed = 0                        # of weights, noise and order
steps = { type = "int", min = 1 }  # optimizer steps
lr = 1e-4                       # AdamW, constant
path = { default = "linear", one_of = ["linear", "cosine"] }  # interpolant
makes = { default = "sit", one_of = ["sit", "warmed"] }       # type of the output
blocks = { type = "[int]", default = [] }                     # blocks to align
label = { type = "string", optional = true }                  # shown in plots
[operation]
log_every = 10                  # steps
"#;

const PAIR: &str = r#"
summary = "make two of a type"
revision = 1
[outputs]
left = "latents"
right = "latents"
"#;

const JOIN: &str = r#"
summary = "join latents"
revision = 1
[inputs]
parts = "latents*"  # in this order
base = "vae?"
[outputs]
joined = "latents"
"#;

fn fine(_: &Params, _: &Params, _: &[&str]) -> Result<()> {
    Ok(())
}
fn check_train(params: &Params, _: &Params, _: &[&str]) -> Result<()> {
    match params.get("steps").and_then(serde_json::Value::as_i64) {
        Some(n) if n % 7 == 0 => Err(Error::usage("`steps` must not be a multiple of 7")),
        _ => Ok(()),
    }
}
fn run(_: &Attempt) -> Result<()> {
    Ok(())
}

pub const TOYS: Registry = &[
    StageKind { name: "images", manifest: IMAGES, check: fine, facts: no_facts, foresee: None, run },
    StageKind { name: "codec", manifest: CODEC, check: fine, facts: no_facts, foresee: None, run },
    StageKind { name: "train", manifest: TRAIN, check: check_train, facts: no_facts, foresee: None, run },
    StageKind { name: "pair", manifest: PAIR, check: fine, facts: no_facts, foresee: None, run },
    StageKind { name: "join", manifest: JOIN, check: fine, facts: no_facts, foresee: None, run },
];

/// A pipeline of three stages, for others to extend. Line numbers matter to tests.
pub const BASE: &str = r#"name = "base"
[params]
seed = 1
[stages.images]
kind = "images"
params = { source = "data/train" }
[stages.codec]
kind = "codec"
inputs = { images = "images" }
[stages.train]
kind = "train"
inputs = { latents = "codec" }
params = { steps = 100 }
"#;

impl Space {
    /// A pipeline `p.toml`, beside `base.toml`.
    pub fn one(text: &str) -> Self {
        Self::of(&[("base.toml", BASE), ("p.toml", text)])
    }
    /// `p.toml` as a pipeline of toys.
    pub fn load(&self) -> Result<Pipeline> {
        self.load_with(&[], &[])
    }
    pub fn load_with(&self, set: &[&str], env: &[(&str, &str)]) -> Result<Pipeline> {
        Pipeline::load(&self.path("p.toml"), TOYS, &overrides(set, env))
    }
    /// The error as a person reads it, names of this folder left out.
    pub fn message(&self, error: &Error) -> String {
        self.plain(&diagnostic::render(error, false))
    }
}

pub fn overrides(set: &[&str], env: &[(&str, &str)]) -> Overrides {
    let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Overrides { set: set.iter().map(|s| s.to_string()).collect(), env }
}

pub fn stage<'a>(pipeline: &'a Pipeline, name: &str) -> &'a Stage {
    let found = pipeline.stages.iter().find(|s| s.name == name);
    found.unwrap_or_else(|| panic!("no `{name}` among {:?}", names(pipeline)))
}

pub fn names(pipeline: &Pipeline) -> Vec<&str> {
    pipeline.stages.iter().map(|s| s.name.as_str()).collect()
}
