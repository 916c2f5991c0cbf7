//! `probe`: measures how well the blocks of a SiT, at several timesteps, separate the classes of
//! images: by weighted nearest neighbours as in DINO's evaluation, and by a linear classifier on
//! frozen features. An encoder's features of the same images can be probed for comparison.

use super::block_features::{Look, Observer, Shown, check_timesteps, each_timestep, mean_features};
use super::block_scores::{Scores, by_block, report};
use crate::support::facts;
use crate::support::params::{Walk, check_list};
use crate::support::same_classes::{Named, check_common, classes_of};
use crate::support::same_images::check_pairs;
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::batches::spread;
use erw_ml::data::packed::Packed;
use erw_ml::data::pairing::stated_labels;
use erw_ml::metrics::bounds::Requirements;
use erw_ml::metrics::knn;
use erw_ml::metrics::linear_probe::{Fitting, LinearProbe};
use erw_ml::metrics::mae_probe;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub const KIND: StageKind = StageKind {
    name: "probe",
    manifest: include_str!("../../../stages/probe.toml"),
    check,
    facts: facts::look,
    foresee: None,
    run,
};

/// Fewer images than a tenth of ImageNet are worth a warning; chosen.
const FEW_FOR_MAE: usize = 128_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(flatten)]
    look: Look,
    timesteps: Vec<f64>,
    probes: Vec<Kind>,
    k: usize,
    l2: f64,
    tolerance: f64,
    max_steps: usize,
    mae_batch: Option<usize>,
    images: u64,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Linear,
    /// By MAE's recipe.
    LinearMae,
    Knn,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::LinearMae => "linear-mae",
            Self::Knn => "knn",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Linear => "accuracy of a linear probe",
            Self::LinearMae => "accuracy of MAE's linear probe",
            Self::Knn => "accuracy of nearest neighbours",
        }
    }
}

impl Params {
    /// Images of a step of `linear-mae`, if there are as many.
    fn mae_batch(&self) -> usize {
        self.mae_batch.unwrap_or(mae_probe::BATCH)
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    let p: Params = parse(params)?;
    check_timesteps(&p.timesteps)?;
    let names: Vec<&str> = p.probes.iter().map(|probe| probe.name()).collect();
    check_list("probes", &names, "`linear`, `linear-mae` and `knn`")?;
    if p.mae_batch.is_some() && !p.probes.contains(&Kind::LinearMae) {
        let text = "`mae_batch` is of the probe `linear-mae`, which is not among `probes`";
        return Err(Error::usage(text).hint("add it to `probes`, or leave `mae_batch` out"));
    }
    let has = |slot| inputs.contains(&slot);
    match (has("features"), has("heldout_features")) {
        (true, false) => Err(Error::usage("`features` is connected, but `heldout_features` is not")),
        (false, true) => Err(Error::usage("`heldout_features` is connected, but `features` is not")),
        _ => Ok(()),
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let batch = attempt.operation::<Walk>()?.batch.max(1);
    let observer = Observer::open(attempt, p.look, batch)?;
    let bank = LabelledImages::open(attempt, ("latents", "features"), &p)?;
    let heldout = LabelledImages::open(attempt, ("heldout", "heldout_features"), &p)?;
    observer.check(&bank.latents, "latents")?;
    observer.check(&heldout.latents, "heldout")?;
    let (ours, theirs) = (classes_of(&heldout.latents), classes_of(&bank.latents));
    check_common(
        &Named { what: "input `heldout` has", classes: &ours },
        &Named { what: "input `latents` has", classes: &theirs },
        "classes are numbered in the order of their names: make both from sets with the same classes",
    )?;
    let prober = Prober { p: &p, bank: &bank.labels, heldout: &heldout.labels };
    let encoder = match (bank.mean_features(batch)?, heldout.mean_features(batch)?) {
        (Some(features), Some(theirs)) => {
            let [ours, theirs_dim] = [&features, &theirs].map(|f| f.dims()[1]);
            if ours != theirs_dim {
                let text = format!("`features` have dimension {ours}, `heldout_features` have {theirs_dim}");
                return Err(Error::stage(text).hint("make both with the same encoder"));
            }
            Some(prober.answers(&features, &theirs)?)
        }
        _ => None,
    };
    let images = bank.ids.len() + heldout.ids.len();
    let columns = each_timestep(attempt, p.timesteps.len(), images, |i, seen| {
        let learn = observer.means(&bank.shown(0), p.timesteps[i], seen)?;
        let test = observer.means(&heldout.shown(1), p.timesteps[i], seen)?;
        learn.iter().zip(&test).map(|(learn, test)| prober.answers(learn, test)).collect::<Result<Vec<Answers>>>()
    })?;
    let Some(columns) = columns else { return Ok(()) };
    let mut warnings = vec![];
    for probe in &p.probes {
        warnings.extend(Requirements::PLAIN.poor(probe.name(), heldout.ids.len() as u64));
        if *probe == Kind::Knn && p.k >= bank.ids.len() {
            let text = format!("knn: {} neighbours of {} images, so that all of them vote", p.k, bank.ids.len());
            warnings.push(text);
        }
    }
    if p.probes.contains(&Kind::LinearMae) && bank.ids.len() < FEW_FOR_MAE {
        warnings.push(format!(
            "linear-mae: {} images, but MAE's recipe is for the 1,281,167 of ImageNet and trains little on few",
            bank.ids.len()
        ));
    }
    warnings.iter().for_each(|text| attempt.log(text));
    warn(attempt, &p, &columns);
    let of_probe = |(i, kind): (usize, &Kind)| {
        let columns: Vec<Vec<f64>> = columns.iter().map(|c| c.iter().map(|a| a.accuracies[i]).collect()).collect();
        Scores { measure: kind.name(), title: kind.title(), values: by_block(&columns) }
    };
    let scores: Vec<Scores> = p.probes.iter().enumerate().map(of_probe).collect();
    let mut about = json!({
        "warnings": warnings,
        "k": p.k,
        "temperature": knn::TEMPERATURE,
        "l2": p.l2,
        "tolerance": p.tolerance,
        "converged": columns.iter().flatten().chain(&encoder).all(|a| a.converged),
        "label": p.look.label,
        "images": bank.ids.len(),
        "heldout": heldout.ids.len(),
        "classes": prober.classes(),
        "encoder": encoder.map(|a| by_name(&p, &a)),
    });
    if p.probes.contains(&Kind::LinearMae) {
        about["mae_batch"] = json!(p.mae_batch().min(bank.ids.len()));
    }
    report(attempt, &p.timesteps, &scores, about)
}

fn by_name(p: &Params, answers: &Answers) -> Value {
    let named = p.probes.iter().zip(&answers.accuracies).map(|(kind, a)| (kind.name().to_string(), json!(a)));
    Value::Object(named.collect())
}

fn warn(attempt: &Attempt, p: &Params, columns: &[Vec<Answers>]) {
    let loose = columns.iter().flatten().filter(|a| !a.converged).count();
    if loose > 0 {
        let text = format!(
            "{loose} of {} linear probes did not reach a gradient below {} in {} steps",
            columns.iter().flatten().count(),
            p.tolerance,
            p.max_steps
        );
        attempt.log(&text);
    }
}

/// Labelled images.
struct LabelledImages {
    latents: Packed,
    /// Features of an encoder, with the name of their input.
    features: Option<(Packed, &'static str)>,
    ids: Vec<u64>,
    labels: Vec<i64>,
}

impl LabelledImages {
    fn open(attempt: &Attempt, (input, features): (&str, &'static str), p: &Params) -> Result<Self> {
        let latents = Packed::open(attempt.input(input)?)?;
        let ids = spread(latents.len(), p.images);
        let labels = latents.rows("labels", &ids, &Device::Cpu)?.to_vec1::<i64>()?;
        if labels.is_empty() {
            return Err(Error::stage(format!("input `{input}` has no images")));
        }
        if let Some(at) = labels.iter().position(|l| *l < 0) {
            let (label, id) = (labels[at], ids[at]);
            return Err(Error::stage(format!("image {id} of input `{input}` has the invalid label {label}")));
        }
        let features = attempt.optional_input(features).map(|dir| Ok::<_, Error>((Packed::open(dir)?, features)));
        let features = features.transpose()?;
        if let Some((features, input)) = &features {
            check_pairs(&latents, input, features.len(), stated_labels(features))?;
        }
        Ok(Self { latents, features, ids, labels })
    }

    fn shown(&self, set: u64) -> Shown<'_> {
        let features = self.features.as_ref().map(|(features, _)| features);
        Shown { latents: &self.latents, ids: &self.ids, set, features }
    }

    /// Mean tokens of the encoder's features.
    fn mean_features(&self, batch: usize) -> Result<Option<Tensor>> {
        let of = |(features, input): &(Packed, &str)| mean_features(features, input, &self.ids, batch);
        self.features.as_ref().map(of).transpose()
    }
}

/// Accuracies of all probes on one representation.
#[derive(Serialize, Deserialize)]
struct Answers {
    accuracies: Vec<f64>,
    converged: bool,
}

struct Prober<'a> {
    p: &'a Params,
    bank: &'a [i64],
    heldout: &'a [i64],
}

impl Prober<'_> {
    /// Number of classes.
    fn classes(&self) -> usize {
        self.bank.iter().max().map_or(0, |l| *l as usize + 1)
    }

    fn answers(&self, learn: &Tensor, test: &Tensor) -> Result<Answers> {
        let mut answers = Answers { accuracies: vec![], converged: true };
        for kind in &self.p.probes {
            answers.accuracies.push(match kind {
                Kind::Knn => knn::accuracy(learn, self.bank, test, self.heldout, self.p.k)?,
                Kind::Linear => {
                    let how = Fitting { l2: self.p.l2, tolerance: self.p.tolerance, max_steps: self.p.max_steps };
                    let probe = LinearProbe::fit(learn, self.bank, self.classes(), &how)?;
                    answers.converged &= probe.converged;
                    probe.accuracy(test, self.heldout)?
                }
                Kind::LinearMae => {
                    let (batch, seed) = (self.p.mae_batch(), self.p.look.seed);
                    mae_probe::fit(learn, self.bank, self.classes(), batch, seed)?.accuracy(test, self.heldout)?
                }
            });
        }
        Ok(answers)
    }
}
