//! Maps numbers to pixels along an axis of a chart, and chooses round numbers as its labels.

/// An axis from its least to its greatest number.
pub struct Scale {
    low: f64,
    high: f64,
    /// Pixels of `low` and `high`.
    from: f64,
    to: f64,
    log: bool,
}

/// The scale is logarithmic if the greatest number is more than this times the least, and the least
/// is positive: on a linear scale all but the first points of such a curve would look alike.
const LOG_FROM: f64 = 10.0;
/// The approximate number of labels.
const LABELS: f64 = 5.0;

impl Scale {
    pub fn linear(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        // One number, or none, must still give a range to divide by.
        let (low, high) = match high - low {
            span if span > 0.0 => (low, high),
            _ if low.is_finite() => {
                let half = if low == 0.0 { 0.5 } else { 0.5f64.min(low.abs() / 2.0) };
                (low - half, low + half)
            }
            _ => (0.0, 1.0),
        };
        Self { low, high, from, to, log: false }
    }

    /// Linear, or logarithmic if the numbers are far apart.
    pub fn fitting(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let scale = Self::linear(values, from, to);
        let log = scale.low > 0.0 && scale.high > LOG_FROM * scale.low;
        Self { log, ..scale }
    }

    /// Logarithmic wherever that is possible.
    pub fn logarithmic(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let scale = Self::linear(values, from, to);
        Self { log: scale.low > 0.0, ..scale }
    }

    pub fn is_log(&self) -> bool {
        self.log
    }

    /// The pixel of a number.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Round numbers on the axis in ascending order: multiples of a step of 1, 2 or 5 times a power
    /// of ten; on a logarithmic scale these steps themselves.
    pub fn ticks(&self) -> Vec<f64> {
        let power = |x: f64| 10f64.powi(x.log10().floor() as i32);
        if self.log {
            let decades = (self.high.log10() - self.low.log10()).ceil() as i32 + 1;
            let first = power(self.low);
            let all = (0..=decades).flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * first * 10f64.powi(d)));
            let within: Vec<f64> = all.filter(|t| (self.low..=self.high).contains(t)).collect();
            // Within a decade there may be one of them or none.
            if within.len() > 1 {
                return within;
            }
        }
        let about = (self.high - self.low) / LABELS;
        let unit = power(about);
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|s| *s >= about).unwrap_or(about);
        // Tolerance for rounding errors in multiples of tenths.
        let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_and_within() {
        let ticks = |values: &[f64]| Scale::fitting(values.iter().copied(), 0.0, 100.0).ticks();
        let close = |a: Vec<f64>, b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-9);
        assert!(close(ticks(&[300.0, 1500.0]), &[500.0, 1000.0, 1500.0]));
        assert!(close(ticks(&[0.31, 0.87]), &[0.4, 0.6, 0.8]));
        assert!(close(ticks(&[-1.0, 1.0]), &[-1.0, -0.5, 0.0, 0.5, 1.0]));
        assert!(close(ticks(&[0.03, 1.1]), &[0.05, 0.1, 0.2, 0.5, 1.0]));
        assert!(close(ticks(&[7.0]), &[6.6, 6.8, 7.0, 7.2, 7.4]));
        assert!(close(ticks(&[1e-3]), &[6e-4, 8e-4, 1e-3, 1.2e-3, 1.4e-3]));
        assert!(!ticks(&[]).is_empty(), "an empty panel has a frame");
    }

    #[test]
    fn what_falls_far_is_shown_by_its_logarithm() {
        let scale = Scale::fitting([0.1, 10.0].into_iter(), 200.0, 0.0);
        assert!(scale.is_log());
        assert_eq!([0.1, 1.0, 10.0].map(|v| scale.at(v).round()), [200.0, 100.0, 0.0]);
        assert!(!Scale::fitting([0.0, 10.0].into_iter(), 0.0, 1.0).is_log());
        assert!(!Scale::fitting([1.0, 10.0].into_iter(), 0.0, 1.0).is_log());
    }
}
