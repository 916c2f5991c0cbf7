//! Mean and covariance of features, computed here or published.
//!
//! The ADM suite and its followers publish statistics of whole training sets as npz files: `mu` and
//! `sigma` of pooled features, `mu_s` and `sigma_s` of spatial ones. Such a file does not state its
//! network, how images were prepared, or how many there were. Only the dimension can be compared
//! with the network in use.

use crate::formats::Npz;
use candle_core::{DType, Result, Tensor, bail};
use faer::Mat;
use std::path::Path;

/// The only file in an artifact of type `stats`.
pub const STATS_FILE: &str = "stats.npz";

/// Names of mean and covariance in a published file.
pub const POOLED: [&str; 2] = ["mu", "sigma"];
/// The same for the spatial features that sFID compares.
pub const SPATIAL: [&str; 2] = ["mu_s", "sigma_s"];

/// The array of pooled statistics that a file lacks, if others in it are of statistics.
pub fn lacking(arrays: &[String]) -> Option<&'static str> {
    let has = |name: &&str| arrays.iter().any(|array| array == name);
    let is_of_statistics = POOLED.iter().chain(&SPATIAL).any(has);
    POOLED.into_iter().find(|name| is_of_statistics && !has(name))
}

/// Tolerated difference of mirrored entries of a covariance, relative to its largest entry: files
/// may hold f32 sums.
const ASYMMETRY: f64 = 1e-5;

/// A normal distribution over features.
#[derive(Debug, Clone)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Mat<f64>,
}

impl Gaussian {
    /// Checks that they are a mean and a covariance of one dimension.
    pub fn new(mean: Vec<f64>, covariance: Mat<f64>) -> Result<Self> {
        let dim = mean.len();
        if (covariance.nrows(), covariance.ncols()) != (dim, dim) || dim == 0 {
            let (rows, columns) = (covariance.nrows(), covariance.ncols());
            bail!("a mean of dimension {dim} does not match a covariance of {rows} x {columns}");
        }
        if let Some(i) = mean.iter().position(|x| !x.is_finite()) {
            bail!("entry {i} of the mean is not finite");
        }
        let mut largest = 0f64;
        for (i, j) in (0..dim).flat_map(|j| (0..dim).map(move |i| (i, j))) {
            let x = covariance[(i, j)];
            if !x.is_finite() {
                bail!("entry ({i}, {j}) of the covariance is not finite");
            }
            largest = largest.max(x.abs());
        }
        for j in 0..dim {
            if covariance[(j, j)] < 0.0 {
                bail!("the covariance gives feature {j} a negative variance");
            }
            for i in 0..j {
                if (covariance[(i, j)] - covariance[(j, i)]).abs() > ASYMMETRY * largest {
                    bail!("the covariance is not symmetric: entries ({i}, {j}) and ({j}, {i}) differ");
                }
            }
        }
        Ok(Self { mean, covariance })
    }

    /// From the arrays `[mean, covariance]` of an npz file; see [`POOLED`].
    pub fn read(path: &Path, [mean, covariance]: [&str; 2]) -> Result<Self> {
        let mut file = Npz::open(path)?;
        let names = file.names();
        let mut array = |name: &str| -> Result<Tensor> {
            if !names.iter().any(|n| n == name) {
                bail!("{}: it has no array `{name}`, but {}", path.display(), names.join(", "));
            }
            file.read(name)?.to_dtype(DType::F64)
        };
        let of_file = |e: candle_core::Error| candle_core::Error::Msg(format!("{}: {e}", path.display()));
        let (mu, sigma) = (array(mean)?, array(covariance)?);
        let (&[dim], &[rows, columns]) = (mu.dims(), sigma.dims()) else {
            let (a, b) = (mu.dims(), sigma.dims());
            bail!(
                "{}: `{mean}` and `{covariance}` must have shapes [d] and [d, d], not {a:?} and {b:?}",
                path.display()
            )
        };
        if (rows, columns) != (dim, dim) {
            bail!("{}: `{mean}` has dimension {dim}, but `{covariance}` is {rows} x {columns}", path.display());
        }
        let sigma = sigma.flatten_all()?.to_vec1::<f64>()?;
        Self::new(mu.to_vec1()?, Mat::from_fn(dim, dim, |i, j| sigma[i * dim + j])).map_err(of_file)
    }

    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    pub fn covariance(&self) -> &Mat<f64> {
        &self.covariance
    }
}
