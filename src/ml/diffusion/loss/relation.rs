//! The relation loss of U-REPA (arXiv 2503.18414, "manifold loss"): what is alike to the encoder
//! should be alike to the network. It compares similarities with similarities, so it asks nothing
//! of the direction of a single projection.

use super::{NORMALIZE, check_pairs, unit};
use candle_core::{Result, Tensor, bail};
use serde::Deserialize;

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// The images of a batch (U-REPA). An image is the vector of all its tokens.
    Images,
    /// The tokens of an image, as in the distance matrices of VA-VAE (arXiv 2501.01423).
    Tokens,
}

/// Mean over encoders and all pairs i, j of (cos(p_i, p_j) - cos(f_i, f_j))^2, for features f and
/// projections p, each `[B, N, Z]`. Pairs i = j, which are 0, count. Computed in f32.
///
/// # Errors
/// One image or one token, which has no pairs: the loss and its gradient would be 0.
pub fn relation(features: &[Tensor], projections: &[Tensor], over: Relation) -> Result<Tensor> {
    check_pairs(features, projections)?;
    let mut total: Option<Tensor> = None;
    for (f, p) in features.iter().zip(projections) {
        let loss = (similarities(p, over)? - similarities(f, over)?)?.sqr()?.mean_all()?;
        total = Some(match total {
            None => loss,
            Some(so_far) => (so_far + loss)?,
        });
    }
    let Some(total) = total else { bail!("a relation loss without features") };
    total / features.len() as f64
}

/// Cosines of all pairs: `[1, B, B]` of images, `[B, N, N]` of tokens.
fn similarities(x: &Tensor, over: Relation) -> Result<Tensor> {
    let (b, n, z) = x.dims3()?;
    let x = match over {
        Relation::Images if b < 2 => bail!("a relation between images needs at least two"),
        Relation::Tokens if n < 2 => bail!("a relation between tokens needs at least two"),
        Relation::Images => x.reshape((1, b, n * z))?,
        Relation::Tokens => x.clone(),
    };
    let x = unit(&x, NORMALIZE)?;
    x.matmul(&x.transpose(1, 2)?.contiguous()?)
}
