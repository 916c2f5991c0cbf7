//! Checks that a loss over pairs of images sees whole batches. The losses themselves are in `ml`.

use erw_base::error::{Error, Result};
use erw_ml::diffusion::alignment::Alignment;

/// Checks the alignment loss against batch size and number of micro-batches.
pub fn check(alignment: &Alignment, batch: usize, accumulate: usize) -> Result<()> {
    alignment.over_pairs().map_or(Ok(()), |what| check_pairs_of_batch(what, batch, accumulate))
}

/// Checks that a loss over pairs of images, named `what` in messages, sees all pairs of a batch.
/// Micro-batches have fewer pairs, so `accumulate`, which must only save memory, would change what
/// is trained.
pub fn check_pairs_of_batch(what: &str, batch: usize, accumulate: usize) -> Result<()> {
    if accumulate > 1 {
        let text = format!("`{what}` compares all images of a batch, which `accumulate` {accumulate} would split");
        return Err(Error::usage(text).hint("set `accumulate = 1`"));
    }
    if batch < 2 {
        return Err(Error::usage(format!("`{what}` compares the images of a batch, but `batch` is {batch}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_over_pairs_needs_the_batch_in_one_piece() {
        let said_of = |loss: &str, relation: [&str; 2], batch, accumulate| {
            let [weight, over] = relation;
            let values = serde_json::json!({"alignment_loss": loss, "temperature": 0.1, "spatial_norm": "none",
                "spatial_norm_alpha": 0.6, "relation": weight.parse::<f64>().unwrap(), "relation_over": over});
            let alignment: Alignment = serde_json::from_value(values).unwrap();
            check(&alignment, batch, accumulate).err().map(|e| e.message)
        };
        let said = |loss: &str, batch, accumulate| said_of(loss, ["0", "images"], batch, accumulate);
        assert_eq!(said("cosine", 1, 1), None);
        assert_eq!(said("cosine", 8, 4), None);
        assert_eq!(said("nt-xent", 8, 1), None);
        assert_eq!(
            said("nt-xent", 8, 2).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares all images of a batch, which `accumulate` 2 would split"
        );
        assert_eq!(
            said("nt-xent", 1, 1).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares the images of a batch, but `batch` is 1"
        );
        assert_eq!(said_of("cosine", ["0.5", "tokens"], 8, 4), None);
        assert_eq!(
            said_of("cosine", ["0.5", "images"], 8, 4).unwrap(),
            "`relation` compares all images of a batch, which `accumulate` 4 would split"
        );
    }
}
