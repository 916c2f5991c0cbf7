//! REPA's `vae-sd` folder: one npy file per image, `00000/img-mean-std-00000000.npy`, f32
//! `[2C, h, w]` with the mean's channels before those of the standard deviation, and a
//! `dataset.json` with the labels.
//!
//! REPA's loader pairs files and images by their positions in two sorted lists, so one missing file
//! shifts all that follow. Here they are paired by the number in the name.

use super::index::{Index, flaw, numbered};
use crate::data::source::classes::{self, files_of, first};
use crate::data::source::label_list::{LIST, LabelList};
use crate::data::source::{ImageListing, tree};
use crate::formats::read_npy;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open folder of npy files.
#[derive(Debug)]
pub struct Moments {
    root: PathBuf,
    /// In order.
    names: Vec<PathBuf>,
    pub(super) index: Index,
}

impl Moments {
    pub fn open(root: &Path, images: Option<&ImageListing>) -> Result<Self> {
        let shown = root.display();
        let list = LabelList::beside(root)?;
        let names = npy_files(root, list.as_ref())?;
        if !root.join(LIST).is_file() && root.join("vae-sd").is_dir() {
            bail!("{shown} holds latents in its folder `vae-sd`; name that folder");
        }
        if names.is_empty() {
            bail!("{shown} holds no latents: it has neither npy files nor latents_*.safetensors shards");
        }
        let file = root.join(LIST);
        let paths: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        let list = list.map(|list| classes::by_list(&file.display().to_string(), &paths, &list)).transpose()?;
        let (order, labels, classes) = match (list, images) {
            (list, Some(images)) => {
                let given = list.filter(|l| l.classes.iter().any(|c| !c.is_empty())).map(|l| l.files);
                paired(&shown.to_string(), &paths, given, images)?
            }
            (Some(list), None) => {
                let (order, labels): (Vec<usize>, Vec<i64>) = list.files.into_iter().unzip();
                (order, labels, list.classes)
            }
            (None, None) => {
                bail!("{} is missing, so there are no labels; connect `images` to use their labels", file.display())
            }
        };
        let classes = if classes.is_empty() { numbered(&labels) } else { classes };
        let names: Vec<PathBuf> = order.into_iter().map(|i| names[i].clone()).collect();
        let (shape, _) = read(&root.join(&names[0]))?;
        Ok(Self { root: root.to_path_buf(), names, index: Index { labels, classes, shape } })
    }

    /// Mean and standard deviation, read on all cores.
    pub fn rows(&self, rows: Range<u64>) -> Result<[Tensor; 2]> {
        let names = &self.names[rows.start as usize..rows.end as usize];
        let moments: Vec<Vec<f32>> = names.par_iter().map(|name| self.one(name)).collect::<Result<_>>()?;
        let [c, h, w] = self.index.shape;
        let half = |half: usize| {
            let data: Vec<f32> = moments.iter().flat_map(|m| &m[half * c * h * w..][..c * h * w]).copied().collect();
            Tensor::from_vec(data, (names.len(), c, h, w), &Device::Cpu)
        };
        Ok([half(0)?, half(1)?])
    }

    fn one(&self, name: &Path) -> Result<Vec<f32>> {
        let path = self.root.join(name);
        let (shape, data) = read(&path)?;
        if shape != self.index.shape {
            let all = self.root.join(&self.names[0]);
            bail!(
                "{}: the latent has shape {shape:?}, but {} has {:?}",
                path.display(),
                all.display(),
                self.index.shape
            );
        }
        let (mean, std) = data.split_at(data.len() / 2);
        match flaw(mean, std) {
            Some(flaw) => bail!("{}: {flaw}", path.display()),
            None => Ok(data),
        }
    }
}

/// Names of the npy files that belong to the set, in text order.
fn npy_files(root: &Path, list: Option<&LabelList>) -> Result<Vec<PathBuf>> {
    let is_npy = |name: &Path| name.extension().is_some_and(|x| x == "npy");
    let mut names = tree::list(root, &is_npy, &|name| list.is_some_and(|list| list.names(name)))?.files.paths();
    names.sort_by(|a, b| a.to_string_lossy().cmp(&b.to_string_lossy()));
    Ok(names)
}

/// Orders latents by their images and gives them the images' labels. Labels in the list must agree
/// with these.
fn paired(
    shown: &str,
    names: &[&Path],
    listed: Option<Vec<(usize, i64)>>,
    images: &ImageListing,
) -> Result<(Vec<usize>, Vec<i64>, Vec<String>)> {
    let mut by_number = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        if let Some(before) = by_number.insert(number(name)?, i) {
            bail!("{shown}: the names {} and {} have the same number", names[before].display(), name.display());
        }
    }
    let listed: Option<BTreeMap<usize, i64>> = listed.map(|l| l.into_iter().collect());
    let (mut order, mut missing) = (vec![], vec![]);
    for i in 0..images.len() {
        let Some(image) = images.name(i) else { bail!("{}: images without names cannot be paired", images.place(i)) };
        let Some(at) = by_number.remove(number(image)?) else {
            missing.push(images.place(i));
            continue;
        };
        if let Some(label) = listed.as_ref().and_then(|l| l.get(&at))
            && *label != images.label(i)
        {
            let latent = names[at].display();
            bail!("{shown}/{latent} has label {label}, but its image {} has {}", images.place(i), images.label(i));
        }
        order.push(at);
    }
    if !missing.is_empty() {
        bail!("{shown}: latents are missing for {}: {}", files_of(missing.len()), first(missing));
    }
    if !by_number.is_empty() {
        let extra = by_number.values().map(|i| names[*i].display());
        bail!("{shown}: {} without an image: {}", files_of(by_number.len()), first(extra));
    }
    let labels = (0..images.len()).map(|i| images.label(i)).collect();
    Ok((order, labels, images.classes().to_vec()))
}

/// The number at the end of a name: `00000012` of `00000/img-mean-std-00000012.npy` and
/// `00000/img00000012.png`.
fn number(name: &Path) -> Result<&str> {
    let stem = name.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let digits = stem.len() - stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    match &stem[digits..] {
        "" => bail!("{}: the name does not end with a number", name.display()),
        number => Ok(number),
    }
}

/// Shape of the mean, and all values.
fn read(path: &Path) -> Result<([usize; 3], Vec<f32>)> {
    let array = read_npy(path)?;
    if !array.dtype().is_float() {
        bail!("{}: an array of type {}, not f32", path.display(), array.dtype().as_str());
    }
    match array.dims() {
        &[channels, h, w] if channels % 2 == 0 && array.elem_count() > 0 => {
            Ok(([channels / 2, h, w], array.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
        }
        shape => bail!(
            "{}: an array of shape {shape:?}, not [2C, h, w] with a mean and a standard deviation",
            path.display()
        ),
    }
}
