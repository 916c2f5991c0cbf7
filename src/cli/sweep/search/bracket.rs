//! Golden-section search of a minimum over whole numbers: an interval that shrinks around the best
//! one so far. Assumes that there is one minimum. Does not know what the numbers stand for.

/// The part of the longer side at which the next number is tried, 2 - phi: an interval then shrinks
/// by the same factor whichever number is better.
const PART: f64 = 0.381_966_011_250_105_1;

/// An interval whose ends are outside of it.
#[derive(Debug, Clone)]
pub struct Bracket {
    low: i64,
    high: i64,
    /// The ends at first.
    first: (i64, i64),
    best: Option<(i64, f64)>,
}

/// An end of the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Low,
    High,
}

impl Bracket {
    /// Around a number whose value is known, if there is one.
    pub fn new(low: i64, high: i64, known: Option<(i64, f64)>) -> Self {
        Self { low, high, first: (low, high), best: known.filter(|(at, _)| low < *at && *at < high) }
    }

    /// What to try next: two numbers at first, then one; none once the interval is no wider than
    /// `width` or nothing in it is left.
    pub fn next(&self, width: i64) -> Vec<i64> {
        let wide = self.high - self.low;
        let Some((best, _)) = self.best else {
            let (left, right) = (self.low + part(wide), self.high - part(wide));
            return if left < right { vec![left, right] } else { vec![left.min(self.high - 1)] };
        };
        let (left, right) = (best - self.low, self.high - best);
        match left.max(right) {
            ..=1 => vec![],
            _ if wide <= width => vec![],
            longer if right >= left => vec![best + part(longer)],
            longer => vec![best - part(longer)],
        }
    }

    /// The value at a number inside.
    pub fn tell(&mut self, at: i64, value: f64) {
        let Some((best, least)) = self.best.filter(|(best, _)| *best != at) else {
            self.best = Some((at, value));
            return;
        };
        let (worse, better) = if value < least { (best, at) } else { (at, best) };
        if worse < better {
            self.low = self.low.max(worse);
        } else {
            self.high = self.high.min(worse);
        }
        self.best = Some((better, value.min(least)));
    }

    pub fn best(&self) -> Option<(i64, f64)> {
        self.best
    }

    /// The end at which the best lies, if it does: nothing between them was worse.
    pub fn end(&self) -> Option<End> {
        match (self.low == self.first.0, self.high == self.first.1) {
            (true, false) => Some(End::Low),
            (false, true) => Some(End::High),
            _ => None,
        }
    }
}

/// At least 1, and less than the whole.
fn part(wide: i64) -> i64 {
    ((wide as f64 * PART).round() as i64).clamp(1, (wide - 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best number, the end at which it is, and how many were tried.
    fn least(low: i64, high: i64, width: i64, f: impl Fn(i64) -> f64) -> (i64, Option<End>, usize) {
        let (mut bracket, mut tried) = (Bracket::new(low, high, None), vec![]);
        loop {
            let next = bracket.next(width);
            if next.is_empty() {
                return (bracket.best().unwrap().0, bracket.end(), tried.len());
            }
            for at in next {
                assert!(low < at && at < high && !tried.contains(&at), "{at} of {low}..{high} after {tried:?}");
                tried.push(at);
                bracket.tell(at, f(at));
            }
        }
    }

    #[test]
    fn the_minimum_is_found_wherever_it_is() {
        for low in [-7, 0, 3] {
            for high in low + 2..low + 40 {
                for goal in low + 1..high {
                    let (found, end, tried) = least(low, high, 0, |at| (at - goal).abs() as f64);
                    assert_eq!(found, goal, "{low}..{high}");
                    assert!(tried <= 10, "{tried} of {low}..{high}");
                    let wide = high - low > 2;
                    assert!(end != Some(End::Low) || goal == low + 1, "{low}..{high}: {goal}");
                    assert!(!(wide && goal == low + 1) || end == Some(End::Low), "{low}..{high}: {goal} {end:?}");
                    assert!(!(wide && goal == high - 1) || end == Some(End::High), "{low}..{high}: {goal} {end:?}");
                }
            }
        }
    }

    #[test]
    fn the_interval_shrinks_by_the_golden_ratio() {
        for goal in [1, 137, 2146, 3999] {
            let (found, _, tried) = least(0, 4000, 40, |at| ((at - goal) as f64).powi(2));
            assert!((found - goal).abs() <= 40, "{found} is not {goal}");
            // 0.618 to the tenth is the first below a hundredth; two numbers shrink it once.
            assert_eq!(tried, 11, "{goal}");
        }
    }

    #[test]
    fn a_known_number_is_not_tried_again() {
        let mut bracket = Bracket::new(0, 100, Some((30, 5.0)));
        assert_eq!(bracket.next(1), [57]);
        bracket.tell(57, 6.0);
        assert_eq!((bracket.best(), bracket.next(1)), (Some((30, 5.0)), vec![19]));
        assert_eq!(Bracket::new(0, 100, Some((100, 5.0))).best(), None, "it is outside");
    }
}
