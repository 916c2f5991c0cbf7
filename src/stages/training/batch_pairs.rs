//! Whether the losses of a phase go with its batches. The losses themselves are `ml`'s.

use erw_base::error::{Error, Result};
use erw_ml::diffusion::alignment::Alignment;

pub fn check(alignment: &Alignment, batch: usize, accumulate: usize) -> Result<()> {
    match alignment.is_over_pairs() {
        true => check_pairs_of_batch("alignment_loss = \"nt-xent\"", batch, accumulate),
        false => Ok(()),
    }
}

/// A loss over pairs of images must see all pairs of a batch: micro-batches have fewer, so that
/// `accumulate`, which is to save memory and nothing else, would change what is trained.
pub fn check_pairs_of_batch(what: &str, batch: usize, accumulate: usize) -> Result<()> {
    if accumulate > 1 {
        let text = format!("`{what}` compares all images of a batch, which `accumulate` {accumulate} would part");
        return Err(Error::usage(text).hint("set `accumulate = 1`"));
    }
    if batch < 2 {
        return Err(Error::usage(format!("`{what}` compares the images of a batch, and `batch` is {batch}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_over_pairs_needs_the_batch_in_one_piece() {
        let said = |loss: &str, batch, accumulate| {
            let values = serde_json::json!({"alignment_loss": loss, "temperature": 0.1, "spatial_norm": "none",
                "spatial_norm_alpha": 0.6});
            let alignment: Alignment = serde_json::from_value(values).unwrap();
            check(&alignment, batch, accumulate).err().map(|e| e.message)
        };
        assert_eq!(said("cosine", 1, 1), None);
        assert_eq!(said("cosine", 8, 4), None);
        assert_eq!(said("nt-xent", 8, 1), None);
        assert_eq!(
            said("nt-xent", 8, 2).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares all images of a batch, which `accumulate` 2 would part"
        );
        assert_eq!(
            said("nt-xent", 1, 1).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares the images of a batch, and `batch` is 1"
        );
    }
}
