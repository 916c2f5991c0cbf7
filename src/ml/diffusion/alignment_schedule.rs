//! The coefficient of the alignment loss as a function of the step: this is the difference between
//! SiT, REPA, HASTE and ERW.

use candle_core::{Result, bail};

/// A schedule of the alignment coefficient; k is the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// No alignment (SiT).
    None,
    /// Constant c0 (REPA).
    Constant { c0: f64 },
    /// c0 2^(-k / half_life) (ERW, the formula of its authors' code).
    HalfLife { c0: f64, half_life: f64 },
    /// c0 e^(-k / tau) (ERW, the formula of the paper).
    Exponential { c0: f64, tau: f64 },
    /// c0 before step `stop`, then 0 (HASTE).
    StopAt { c0: f64, stop: u64 },
}

impl Schedule {
    /// The names that [`Schedule::new`] accepts.
    pub const NAMES: [&'static str; 5] = ["none", "constant", "half-life", "exponential", "stop-at"];

    /// `length` is the half-life, the decay constant or the stopping step, in steps, for the
    /// schedules that have one.
    ///
    /// # Errors
    /// An unknown name, or a decay without a length.
    pub fn new(name: &str, c0: f64, length: u64) -> Result<Self> {
        if matches!(name, "half-life" | "exponential") && length == 0 {
            bail!("`alignment_steps` must be above 0 for the alignment `{name}`");
        }
        let steps = length as f64;
        Ok(match name {
            "none" => Self::None,
            // A coefficient that is always 0: with `None`, the network has no projectors that never
            // get a gradient.
            name if Self::NAMES.contains(&name) && (c0 == 0.0 || (name == "stop-at" && length == 0)) => Self::None,
            "constant" => Self::Constant { c0 },
            "half-life" => Self::HalfLife { c0, half_life: steps },
            "exponential" => Self::Exponential { c0, tau: steps },
            "stop-at" => Self::StopAt { c0, stop: length },
            _ => bail!("unknown alignment schedule `{name}`; known: {}", Self::NAMES.join(", ")),
        })
    }

    /// The coefficient at a step, counted from 0.
    pub fn at(self, step: u64) -> f64 {
        let k = step as f64;
        match self {
            Self::None => 0.0,
            Self::Constant { c0 } => c0,
            Self::HalfLife { c0, half_life } => c0 * (-k / half_life).exp2(),
            Self::Exponential { c0, tau } => c0 * (-k / tau).exp(),
            Self::StopAt { c0, stop } => {
                if step < stop {
                    c0
                } else {
                    0.0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_follow_their_formulas() {
        let at = |name, step| Schedule::new(name, 6.0, 100).unwrap().at(step);
        assert_eq!([at("none", 0), at("constant", 9999)], [0.0, 6.0]);
        assert_eq!([at("half-life", 0), at("half-life", 100), at("half-life", 200)], [6.0, 3.0, 1.5]);
        assert!((at("exponential", 100) - 6.0 / std::f64::consts::E).abs() < 1e-12);
        assert_eq!([at("stop-at", 99), at("stop-at", 100)], [6.0, 0.0]);
        for (name, c0, length) in [("constant", 0.0, 0), ("half-life", 0.0, 100), ("stop-at", 6.0, 0)] {
            assert_eq!(Schedule::new(name, c0, length).unwrap(), Schedule::None, "{name} {c0} {length}");
        }
        assert!(Schedule::new("linear", 0.0, 0).is_err());
        assert!(Schedule::new("half-life", 6.0, 0).is_err());
        assert!(Schedule::new("linear", 6.0, 1).unwrap_err().to_string().contains("half-life"));
    }
}
