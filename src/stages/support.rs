//! What several stages share: reading parameters and devices, writing and moving files, counting answers.

use crate::error::{Error, Result};
use crate::ml::data::packed::Packed;
use crate::ml::models::classifier::Classifier;
use crate::ml::rng::{self, Purpose};
use crate::runner::manifest::Params;
use candle_core::{Device, Tensor};
use serde::{Deserialize, de::DeserializeOwned};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Values as a kind's own struct.
pub fn parse<T: DeserializeOwned>(values: &Params) -> Result<T> {
    let map = values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    serde_json::from_value(serde_json::Value::Object(map)).map_err(|e| Error::usage(e.to_string()))
}

/// The operation values of a stage that walks over a set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// Rows at a time.
    pub batch: usize,
}

/// The check of such a stage whose parameters `P` need none but their types.
pub fn check_walk<P: DeserializeOwned>(params: &Params, operation: &Params, _: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    parse::<P>(params).map(drop)
}

/// Checks a parameter that lists what is wanted: not nothing, and nothing twice. `known` is all that there is, in words.
pub fn check_list(parameter: &str, names: &[&str], known: &str) -> Result<()> {
    if names.is_empty() {
        return Err(Error::usage(format!("`{parameter}` is empty")).hint(format!("there are {known}")));
    }
    match (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
        Some(i) => Err(Error::usage(format!("`{parameter}` names `{}` twice", names[i]))),
        None => Ok(()),
    }
}

/// A set of images that cannot be taken as it is. What its error is about and what helps come apart.
pub fn of_set(e: candle_core::Error) -> Error {
    let mut error = Error::from(e);
    let help = std::mem::take(&mut error.causes);
    error.hints.extend(help.iter().flat_map(|text| text.lines()).map(String::from));
    error
}

/// A failed check of parameters, told as a mistake of the pipeline.
pub fn usage(e: candle_core::Error) -> Error {
    Error::usage(e.to_string())
}

/// `cpu` or `cuda:N`.
pub fn device(name: &str) -> Result<Device> {
    match name.strip_prefix("cuda:").map(str::parse) {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(Ok(_)) if cfg!(not(feature = "cuda")) => Err(Error::usage("this erw was built without CUDA").hint(
            "`cargo build --release --features cuda` builds one that has it; `--gpus 0` runs such stages on the CPU",
        )),
        Some(Ok(ordinal)) => Ok(Device::new_cuda(ordinal)?),
        _ => Err(Error::usage(format!("unknown device `{name}`")).hint("devices are `cpu` and `cuda:N`")),
    }
}

/// Pretty JSON with a final newline.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::stage(format!("cannot write `{}`", path.display())).because(e))?;
    std::fs::write(path, text + "\n").map_err(|e| Error::io("write", path, e))
}

/// JSON lines, one a value.
pub fn write_lines<T: serde::Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        for value in values {
            serde_json::to_writer(&mut out, value)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    write().map_err(|e| Error::io("write", path, e))
}

pub fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))
}

/// Moves every file of `from` into `to`, which is made if need be, on the same file system.
pub fn move_files(from: &Path, to: &Path) -> Result<()> {
    create_dir(to)?;
    for entry in std::fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let path = entry.map_err(|e| Error::io("list", from, e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        std::fs::rename(&path, &target).map_err(|e| Error::io("move", &path, e))?;
    }
    Ok(())
}

/// 0..n in ranges of `batch`.
pub fn batches(n: u64, batch: usize) -> impl Iterator<Item = Range<u64>> {
    let batch = batch.max(1) as u64;
    (0..n.div_ceil(batch)).map(move |i| i * batch..(i * batch + batch).min(n))
}

/// `count` indices spread evenly over 0..n, all of them when there are no more: one out of each of `count` equal parts, drawn
/// by its number. Every fifth of images whose class is their number modulo 10 would be of two classes.
pub fn spread(n: u64, count: u64) -> Vec<u64> {
    let count = count.min(n);
    let begin = |i: u64| (u128::from(i) * u128::from(n) / u128::from(count)) as u64;
    let drawn = |i: u64| begin(i) + rng::stream(0, Purpose::Subset, 0, i).below(begin(i + 1) - begin(i));
    (0..count).map(drawn).collect()
}

/// What stands for the labels of an image set in the `meta.json` of features, so that pairing them with latents of other
/// images, or of the same in another order, is noticed.
pub fn labels_digest(labels: &[i64]) -> String {
    let bytes: Vec<u8> = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Are the latents and another input of the same images, as far as their number and labels tell? Row i of one goes with
/// row i of the other. `labels` is the other's [`labels_digest`], `None` where it does not say.
pub fn check_pairs(latents: &Packed, input: &str, count: u64, labels: Option<&str>) -> Result<()> {
    let hint = "make both from the same `images` stage";
    if latents.len() != count {
        let text = format!("{} latents and {count} rows of input `{input}` are not of the same images", latents.len());
        return Err(Error::stage(text).hint(hint));
    }
    let Some(theirs) = labels else { return Ok(()) };
    let ours = labels_digest(&latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?);
    if ours == theirs {
        return Ok(());
    }
    let text = format!("latents and input `{input}` are of images with other labels, or in another order");
    Err(Error::stage(text).hint(hint))
}

/// The [`labels_digest`] that features keep. Those that were not made here may not say.
pub fn stated_labels(features: &Packed) -> Option<&str> {
    features.meta().get("labels")?.as_str()
}

/// How often each label was taken for each: the answers of a classifier.
pub struct Confusion {
    /// `[label][answer]`
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes] }
    }

    /// Classifies u8 images `[n, 3, H, W]` and books the answers.
    pub fn add(&mut self, net: &Classifier, images: &Tensor, labels: &[i64]) -> Result<()> {
        let classes = self.counts.len();
        for (answer, label) in net.classify(images)?.into_iter().zip(labels) {
            let row = usize::try_from(*label).ok().and_then(|l| self.counts.get_mut(l)).ok_or_else(|| {
                Error::stage(format!("an image has label {label}, but the classifier knows {classes} classes"))
            })?;
            row[answer] += 1;
        }
        Ok(())
    }

    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share of right answers; NaN of nothing.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = self.counts.iter().enumerate().map(|(i, row)| row[i]).sum();
        right as f64 / self.total() as f64
    }

    /// Share of right answers by label; `None` where there was no image.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let share = |(i, row): (usize, &Vec<u64>)| match row.iter().sum::<u64>() {
            0 => None,
            n => Some(row[i] as f64 / n as f64),
        };
        self.counts.iter().enumerate().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{device, spread};

    #[test]
    fn a_part_of_a_set_is_of_all_its_classes() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(0, 5), [0; 0]);
        for (n, count) in [(500, 300), (50_000, 10_000), (1000, 10)] {
            let chosen = spread(n, count);
            assert_eq!(chosen.len() as u64, count);
            for (i, at) in chosen.iter().enumerate() {
                let i = i as u64;
                assert!((i * n / count..(i + 1) * n / count).contains(at), "{at} of {n}");
            }
        }
        // Labels of samples are 0 to 9 over and over.
        let mut counts = [0; 10];
        spread(50_000, 10_000).iter().for_each(|i| counts[(i % 10) as usize] += 1);
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_device_that_this_program_cannot_use_is_refused() {
        let said = |name: &str| device(name).err().map(|e| e.message);
        assert_eq!(said("cpu"), None);
        assert_eq!(said("tpu").unwrap(), "unknown device `tpu`");
        assert_eq!(said("cuda:x").unwrap(), "unknown device `cuda:x`");
        #[cfg(not(feature = "cuda"))]
        assert_eq!(said("cuda:0").unwrap(), "this erw was built without CUDA");
    }
}
