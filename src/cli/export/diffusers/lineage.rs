//! What belongs to a trained SiT in its pipeline: the autoencoder that decodes its latents, the stage
//! that samples from it, the network that guides there, the images that it was trained on, and the
//! stages that measured it. Reads the graph only, not the cache.

use erw_base::error::{Error, Result};
use erw_runner::pipeline::graph::{Edge, Pipeline, Stage, StageId};
use erw_runner::text::suggest;
use std::collections::BTreeMap;

/// The artifact type of a SiT that has a velocity.
const SIT: &str = "sit";
const SAMPLE: &str = "sample";

/// A stage and one of its outputs.
pub type Made = (StageId, String);

pub struct Lineage {
    pub sit: Made,
    pub vae: Made,
    /// The first stage of the pipeline that samples from it.
    pub sampling: Option<StageId>,
    /// The SiT that guidance leads away from in that stage, if it is another network.
    pub guide: Option<Made>,
    pub images: Option<StageId>,
}

/// A stage that measured the SiT, and the stage whose samples it measured, if it was not the SiT
/// itself.
pub struct Measured {
    pub stage: StageId,
    pub samples: Option<StageId>,
}

impl Lineage {
    /// # Errors
    /// When the stage makes no SiT, or no autoencoder is known for it.
    pub fn of(pipeline: &Pipeline, id: StageId, output: Option<&str>) -> Result<Self> {
        let sit = (id, sit_of(pipeline, pipeline.stage(id), output)?);
        let takes = |edge: Option<&Edge>| edge.is_some_and(|e| e.from == sit.0 && e.output == sit.1);
        let samples = |stage: &Stage| stage.kind.name == SAMPLE && takes(stage.inputs.get("sit"));
        let sampling = ids(pipeline).find(|id| samples(pipeline.stage(*id)));
        let before = ancestors(pipeline, id);
        let encodes = || before.iter().rev().find_map(|id| pipeline.stage(*id).inputs.get("vae"));
        let of_sampling = |input: &str| pipeline.stage(sampling?).inputs.get(input);
        let made = |edge: &Edge| (edge.from, edge.output.clone());
        let guide = of_sampling("guide").map(made);
        let Some(vae) = of_sampling("vae").or_else(encodes).map(made) else {
            let name = &pipeline.stage(id).name;
            return Err(Error::usage(format!("no autoencoder is known for stage `{name}`"))
                .because("its latents were not encoded in this pipeline, and no stage samples from it")
                .hint(format!("add a stage of kind `sample` with `inputs = {{ sit = \"{name}\", vae = … }}`")));
        };
        let images = before.into_iter().find(|id| pipeline.stage(*id).kind.name == "images");
        Ok(Self { sit, vae, sampling, guide, images })
    }

    /// The stages that measured the SiT with these weights, by way of samples or directly.
    pub fn measured(&self, pipeline: &Pipeline, weights: &str) -> Vec<Measured> {
        let mut about: BTreeMap<StageId, Option<StageId>> = BTreeMap::new();
        for id in ids(pipeline) {
            let stage = pipeline.stage(id);
            // What another network was made from says nothing about that network's results.
            if stage.outputs.values().any(|ty| [SIT, "warmed"].contains(&ty.as_str())) {
                continue;
            }
            let direct = stage.inputs.values().any(|e| e.from == self.sit.0 && e.output == self.sit.1);
            let mut through = stage.inputs.values().filter_map(|e| about.get(&e.from));
            // Kinds without the choice measure the average.
            let used = stage.params.get("weights").and_then(|w| w.as_str()).unwrap_or("ema");
            if direct && used == weights {
                about.insert(id, None);
            } else if let Some(samples) = through.next().filter(|_| !direct) {
                about.insert(id, *samples);
            } else {
                continue;
            }
            if stage.kind.name == SAMPLE {
                about.insert(id, Some(id));
            }
        }
        let is_result = |id: &StageId| pipeline.stage(*id).kind.name != SAMPLE;
        about.into_iter().filter(|(id, _)| is_result(id)).map(|(stage, samples)| Measured { stage, samples }).collect()
    }

    /// The stages that the exported folder comes from, in order.
    pub fn sources(&self, pipeline: &Pipeline) -> Vec<StageId> {
        let made = [&self.sit, &self.vae].into_iter().chain(&self.guide).map(|(id, _)| *id);
        let mut all: Vec<StageId> = made.flat_map(|id| ancestors(pipeline, id).into_iter().chain([id])).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn ids(pipeline: &Pipeline) -> impl Iterator<Item = StageId> {
    (0..pipeline.stages.len()).map(StageId)
}

/// The stages that a stage needs, in topological order.
fn ancestors(pipeline: &Pipeline, id: StageId) -> Vec<StageId> {
    let mut needed = vec![false; pipeline.stages.len()];
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        for edge in pipeline.stage(id).inputs.values() {
            if !std::mem::replace(&mut needed[edge.from.0], true) {
                open.push(edge.from);
            }
        }
    }
    ids(pipeline).filter(|id| needed[id.0]).collect()
}

/// The output that is a SiT.
fn sit_of(pipeline: &Pipeline, stage: &Stage, output: Option<&str>) -> Result<String> {
    let mut sits = stage.outputs.iter().filter(|(_, ty)| *ty == SIT).map(|(name, _)| name);
    if let Some(name) = sits.find(|name| output.is_none_or(|o| o == *name)) {
        return Ok(name.clone());
    }
    let what = output.map_or_else(|| format!("stage `{}`", stage.name), |o| format!("`{}.{o}`", stage.name));
    let others = pipeline.stages.iter().filter(|s| s.outputs.values().any(|ty| ty == SIT));
    let others: Vec<&str> = others.map(|s| s.name.as_str()).collect();
    let hint = (!others.is_empty()).then(|| format!("a SiT is made by {}", suggest::ticked(others)));
    Err(Error::usage(format!("{what} is no trained SiT")).maybe_hint(hint))
}
