//! Defaults of `train` whose published value depends on the size of the network and on the method.
//! A manifest has one default for all sizes, and the value for the largest would silently be wrong
//! for the others.
//!
//! The values are not part of keys, which contain the pipeline's values and the kind's revision. So
//! a change of a value here requires a raised revision of `train`. The values used are in the log
//! and in the artifact's `training.json`.

/// Coefficient of the alignment loss at step 0.
///
/// ERW authors' code: 6 for XL, 3 for L, 1 otherwise. REPA (arXiv 2410.06940) and HASTE (arXiv
/// 2505.16792): 0.5 for all.
pub fn alignment_weight(model: &str, alignment: &str) -> f64 {
    match (is_erw(alignment), size(model)) {
        (true, "XL") => 6.0,
        (true, "L") => 3.0,
        (true, _) => 1.0,
        (false, _) => 0.5,
    }
}

/// Block, counted from 1, whose output is projected; `None` for a network of unpublished size.
///
/// ERW authors' code: 14 for XL (its README), 8 otherwise (its default). REPA: 4 for B, 8 for L and
/// XL, as its authors corrected the paper. Nothing is published for S, which has as many blocks as
/// B.
pub fn encoder_depth(model: &str, alignment: &str) -> Option<usize> {
    Some(match (is_erw(alignment), size(model)) {
        (_, "") => return None,
        (true, "XL") => 14,
        (true, _) | (false, "L" | "XL") => 8,
        (false, _) => 4,
    })
}

/// Whether the schedule is ERW's: the decaying ones are.
fn is_erw(alignment: &str) -> bool {
    matches!(alignment, "half-life" | "exponential")
}

/// `XL` of `SiT-XL/2`; empty for other names.
fn size(model: &str) -> &str {
    model.strip_prefix("SiT-").and_then(|rest| rest.split_once('/')).map_or("", |(size, _)| size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use erw_ml::models::sit::{NAMES, SiTConfig};

    #[test]
    fn sizes_and_methods_have_their_published_values() {
        let of = |model, alignment| (alignment_weight(model, alignment), encoder_depth(model, alignment));
        assert_eq!(of("SiT-XL/2", "half-life"), (6.0, Some(14)));
        assert_eq!(of("SiT-L/2", "exponential"), (3.0, Some(8)));
        assert_eq!(of("SiT-B/4", "half-life"), (1.0, Some(8)));
        assert_eq!(of("SiT-XL/2", "constant"), (0.5, Some(8)));
        assert_eq!(of("SiT-L/2", "stop-at"), (0.5, Some(8)));
        assert_eq!(of("SiT-B/2", "constant"), (0.5, Some(4)));
        assert_eq!(of("custom", "half-life"), (1.0, None));
        for name in NAMES {
            let (_, blocks, ..) = SiTConfig::sizes(name).unwrap();
            for alignment in erw_ml::diffusion::alignment_schedule::Schedule::NAMES {
                assert!(encoder_depth(name, alignment).is_some_and(|d| d <= blocks), "{name}, {alignment}");
            }
        }
    }
}
