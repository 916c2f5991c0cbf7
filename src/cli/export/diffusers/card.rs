//! The model card: what the model is, how to use it, how good it is measured to be, and how it was
//! made. Its head is metadata in YAML that Hugging Face's tools read, with the results as a
//! `model-index`. It names no host, user or folder of this machine, except in values of parameters
//! that are paths.

use super::handover::Handover;
use super::lineage::Measured;
use erw_ml::models::sit::{MlpKind, NormKind};
use erw_report::text::{duration, instant, number};
use erw_runner::cache::action_cache::Record;
use erw_runner::pipeline::graph::StageId;
use serde_json::Value;
use std::path::Path;

/// The version of diffusers that the tests load exports with.
pub const DIFFUSERS: &str = "0.42.1";

/// The task of Hugging Face's list that fits best; it has none with classes.
const TASK: &str = "unconditional-image-generation";

/// Results that say where or of what a number is, and how good nothing is.
const NOT_METRICS: [&str; 2] = ["block", "images"];

/// A measured number.
struct Result {
    metric: String,
    value: f64,
    /// The stage, and what it measured.
    of: String,
}

/// The card of a model with so many parameters; `file` is the pipeline's in the folder.
pub fn text(handover: &Handover<'_>, measured: &[(Measured, Record)], file: &str, parameters: usize) -> String {
    let results: Vec<Result> = measured.iter().flat_map(|(m, record)| results(handover, m, record)).collect();
    [
        head(handover, &results),
        what(handover, parameters),
        usage(handover),
        measured_table(&results),
        training(handover),
        origin(handover, file),
    ]
    .concat()
}

fn results(handover: &Handover<'_>, measured: &Measured, record: &Record) -> Vec<Result> {
    let stage = &handover.pipeline.stage(measured.stage).name;
    let of = match measured.samples {
        Some(id) => {
            let samples = handover.pipeline.stage(id);
            let count = samples.params.get("count").map_or_else(String::new, |n| format!("{n} images, "));
            format!("`{stage}`, samples of `{}`: {count}{}", samples.name, handover.sampler(id))
        }
        None => format!("`{stage}`"),
    };
    let finite = record.results.iter().filter_map(|r| Some((&r.name, r.value.filter(|v| v.is_finite())?)));
    let metrics = finite.filter(|(name, _)| !NOT_METRICS.contains(&name.as_str()));
    metrics.map(|(metric, value)| Result { metric: metric.clone(), value, of: of.clone() }).collect()
}

/// A text as YAML, which JSON is.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn head(handover: &Handover<'_>, results: &[Result]) -> String {
    let mut head = format!(
        "---\nlibrary_name: diffusers\npipeline_tag: {TASK}\ntags:\n- erw\n- sit\n- class-conditional\n- image-generation\n"
    );
    if !results.is_empty() {
        let data = quoted(&dataset(handover).unwrap_or_else(|| "unknown".into()));
        let name = quoted(&title(handover));
        head += &format!("model-index:\n- name: {name}\n  results:\n  - task:\n      type: {TASK}\n");
        head += "      name: Class-conditional image generation\n";
        head += &format!("    dataset:\n      type: {data}\n      name: {data}\n    metrics:\n");
    }
    for Result { metric, value, of } in results {
        let name = quoted(&format!("{metric}: {}", of.replace('`', "")));
        head += &format!("    - type: {}\n      name: {name}\n      value: {}\n", quoted(metric), Value::from(*value));
    }
    head + "---\n\n"
}

fn title(handover: &Handover<'_>) -> String {
    format!("{}: {}", handover.pipeline.name, handover.pipeline.stage(handover.lineage.sit.0).name)
}

/// The last part of the path of the images that it was trained on, if they are known.
fn dataset(handover: &Handover<'_>) -> Option<String> {
    let images = &handover.pipeline.stage(handover.lineage.images?).params;
    Some(Path::new(images.get("source")?.as_str()?).file_stem()?.to_str()?.to_string())
}

/// A text that Markdown shows as it is.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '<' => shown.push_str("&lt;"),
            '&' => shown.push_str("&amp;"),
            _ if c.is_control() => shown.push(' '),
            _ => {
                shown.extend(r"\`*_[]|#".contains(c).then_some('\\'));
                shown.push(c);
            }
        }
    }
    shown
}

fn what(handover: &Handover<'_>, parameters: usize) -> String {
    let c = &handover.sit.config;
    let options = [
        (c.rope, "rotary positions"),
        (c.qk_norm, "normalised queries and keys"),
        (c.mlp == MlpKind::SwiGlu, "gated MLPs (SwiGLU)"),
        (c.norm == NormKind::Rms, "RMSNorm"),
    ];
    let options: String = options.iter().filter(|(on, _)| *on).map(|(_, name)| format!(", {name}")).collect();
    let classes = match handover.classes() {
        [] => format!("{} classes", c.num_classes),
        names => {
            let first: Vec<String> = names.iter().take(10).map(|name| plain(name)).collect();
            let more = if names.len() > first.len() { ", …" } else { "" };
            format!("{} classes ({}{more})", names.len(), first.join(", "))
        }
    };
    let side = handover.side();
    format!(
        "# {}\n\nImages of {side}x{side} pixels of {classes}, by a [SiT](https://arxiv.org/abs/2401.08740) of {} \
         parameters over the latents of an autoencoder: {} blocks of width {}, {} heads, patches of {}{options}.\n\n",
        plain(&title(handover)),
        thousands(parameters),
        c.depth,
        c.hidden,
        c.heads,
        c.patch_size,
    )
}

/// `1,234,567`
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

fn usage(handover: &Handover<'_>) -> String {
    let guidance = match handover.sit.config.class_dropout > 0.0 || handover.guide.is_some() {
        true => ", guidance_scale=1.5, guidance_interval=(0.1, 0.9)",
        false => "",
    };
    let label = handover.classes().first().map_or_else(|| "0".to_string(), |name| quoted(name));
    let sampler = match handover.lineage.sampling {
        Some(id) => {
            let name = &handover.pipeline.stage(id).name;
            format!("Calls use the sampler of stage `{name}` unless they say otherwise: {}.", handover.sampler(id))
        }
        None => "Calls use the stochastic sampler with 250 steps and no guidance unless they say otherwise.".into(),
    };
    let null = match handover.sit.config.class_dropout > 0.0 {
        true => "; after `pipe.guide = None` it leads away from the null class",
        false => "",
    };
    let guide = handover.guide_name();
    let guide = guide.map(|guide| format!(" Guidance leads away from the network in `guide/`, weights {guide}{null}."));
    let guide = guide.unwrap_or_default();
    format!(
        "## Use\n\nWith torch, diffusers (tried with {DIFFUSERS}) and this folder, offline; the code that it carries \
         is plain torch.\n\n```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\npipe = \
         DiffusionPipeline.from_pretrained(\"THIS FOLDER\", trust_remote_code=True)\nimages = pipe([{label}], \
         generator=torch.manual_seed(0)).images\nimages = pipe([{label}], sampler=\"ode-heun\", \
         num_inference_steps=20{guidance}).images\nimages = pipe(seed=0, \
         images=range(4)).images    # images 0 to 3 of erw with seed 0: its noise, its classes\n```\n\n{sampler}{guide} \
         Time runs from t = 1 (noise) to t = 0 (data).\n\n"
    )
}

fn measured_table(results: &[Result]) -> String {
    if results.is_empty() {
        return "## Results\n\nNothing was measured with these weights.\n\n".into();
    }
    let row = |r: &Result| format!("| {} | {} | {} |\n", r.metric, number(Some(r.value)), r.of);
    let rows: String = results.iter().map(row).collect();
    format!("## Results\n\n| metric | value | measured by |\n|---|---|---|\n{rows}\n")
}

fn training(handover: &Handover<'_>) -> String {
    let stage = handover.pipeline.stage(handover.lineage.sit.0);
    let mut values = stage.params.clone();
    values.extend(handover.note.iter().flat_map(|note| note.resolved.clone()));
    let rows: String = values
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("| {name} | `{}` |\n", value.to_string().replace('|', "\\|").replace('`', "'")))
        .collect();
    let inputs: Vec<String> = stage
        .inputs
        .iter()
        .map(|(slot, edge)| format!("{slot}: `{}`", handover.pipeline.stage(edge.from).name))
        .collect();
    let inputs = if inputs.is_empty() { String::new() } else { format!(" from {}", inputs.join(", ")) };
    let name = |id: StageId| &handover.pipeline.stage(id).name;
    let (sit, vae) = (name(handover.lineage.sit.0), name(handover.lineage.vae.0));
    let images = dataset(handover).map_or_else(String::new, |images| format!("The images were {}. ", plain(&images)));
    format!(
        "## Training\n\nStage `{sit}` of kind `{}`{inputs}. {images}The autoencoder is that of `{vae}`. The weights \
         are `{}` of the training ({}).\n\n| parameter | value |\n|---|---|\n{rows}\n",
        stage.kind.name,
        handover.sit.weights,
        weights(&handover.sit.weights),
    )
}

/// What a name of weights means.
fn weights(name: &str) -> String {
    match name.split_once(['-', '@']) {
        None if name == "model" => "those after the last step".into(),
        None => "their exponential average".into(),
        Some((_, rest)) if name.contains('@') => format!("their exponential average after {rest} steps"),
        Some((_, rest)) => format!("their exponential average with decay {rest}"),
    }
}

fn origin(handover: &Handover<'_>, file: &str) -> String {
    let record = &handover.sit.artifact.record;
    let given = match handover.overrides.as_slice() {
        [] => String::new(),
        all => format!(", with `{}`", all.join(" ")),
    };
    let lock = Path::new(file).with_extension("lock").display().to_string();
    format!(
        "## Origin\n\n- pipeline [`{file}`]({file}){given}; [`{lock}`]({lock}) has the keys and digests of the stages\n- \
         key `{}`\n- artifact `{}`\n- made {} in {} on {} by erw {}\n- exported by erw {}\n",
        record.key(),
        handover.sit.artifact.digest,
        instant(&record.created),
        duration(record.seconds),
        record.device,
        record.program,
        env!("CARGO_PKG_VERSION"),
    )
}
