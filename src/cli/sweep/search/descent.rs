//! The search over several parameters: one after another, each with the others at their best so far,
//! until none moves or the rounds are over. Does not know what the numbers stand for.

use super::bracket::{Bracket, End};

/// One parameter, in whole steps.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The ends, which are outside.
    pub low: i64,
    pub high: i64,
    /// An interval that is no wider is narrow enough.
    pub width: i64,
    /// Its value while an earlier parameter is searched.
    pub start: i64,
}

/// A search that is told values and says where it wants the next ones.
pub struct Descent {
    spans: Vec<Span>,
    at: Vec<i64>,
    value: Option<f64>,
    /// The parameter that is searched.
    turn: usize,
    bracket: Bracket,
    /// The last interval of each parameter.
    searched: Vec<Option<Bracket>>,
    /// How many parameters after one another have not moved.
    quiet: usize,
    /// How many intervals are left.
    left: usize,
}

impl Descent {
    /// Over at least one parameter, each at most `rounds` times; one alone needs no second round.
    pub fn new(spans: Vec<Span>, rounds: usize) -> Self {
        let bracket = spans.first().map_or(Bracket::new(0, 1, None), |first| Bracket::new(first.low, first.high, None));
        let left = spans.len() * if spans.len() == 1 { 1 } else { rounds };
        let (at, searched) = (spans.iter().map(|span| span.start).collect(), vec![None; spans.len()]);
        Self { spans, at, value: None, turn: 0, bracket, searched, quiet: 0, left }
    }

    /// The points whose values are wanted next; none at the end.
    pub fn next(&mut self) -> Vec<Vec<i64>> {
        while self.left > 0 {
            let next = self.bracket.next(self.spans[self.turn].width);
            if !next.is_empty() {
                return next.into_iter().map(|at| self.point(at)).collect();
            }
            self.settle();
        }
        vec![]
    }

    /// The value at a point that was wanted.
    pub fn tell(&mut self, point: &[i64], value: f64) {
        if let Some(at) = point.get(self.turn) {
            self.bracket.tell(*at, value);
        }
    }

    /// The best point so far.
    pub fn best(&self) -> Vec<i64> {
        self.bracket.best().map_or_else(|| self.at.clone(), |(at, _)| self.point(at))
    }

    /// The value there.
    pub fn least(&self) -> Option<f64> {
        self.bracket.best().map(|(_, value)| value).or(self.value)
    }

    /// The parameters whose best value lies at an end of their interval.
    pub fn ends(&self) -> impl Iterator<Item = (usize, End)> {
        self.searched.iter().enumerate().filter_map(|(i, bracket)| Some((i, bracket.as_ref()?.end()?)))
    }

    fn point(&self, at: i64) -> Vec<i64> {
        let mut point = self.at.clone();
        point[self.turn] = at;
        point
    }

    /// Keeps the best value of the parameter that was searched, and goes to the next one.
    fn settle(&mut self) {
        let (turn, count) = (self.turn, self.spans.len());
        if let Some((best, value)) = self.bracket.best() {
            let is_quiet = (best - self.at[turn]).abs() <= self.spans[turn].width;
            self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
            self.at[turn] = best;
            self.value = Some(value);
        }
        self.searched[turn] = Some(self.bracket.clone());
        self.left -= 1;
        // The others are where they were when this one was searched before.
        let is_first_round = self.searched.iter().any(Option::is_none);
        if self.quiet + 1 >= count && !is_first_round {
            self.left = 0;
        }
        if self.left > 0 {
            self.turn = (turn + 1) % count;
            let next = self.spans[self.turn];
            self.bracket = Bracket::new(next.low, next.high, self.value.map(|value| (self.at[self.turn], value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(low: i64, high: i64) -> Span {
        Span { low, high, width: 10, start: (low + high) / 2 }
    }

    fn least(spans: Vec<Span>, rounds: usize, f: impl Fn(&[i64]) -> f64) -> (Descent, usize) {
        let (mut descent, mut tried) = (Descent::new(spans, rounds), 0);
        loop {
            let next = descent.next();
            if next.is_empty() {
                return (descent, tried);
            }
            for point in next {
                tried += 1;
                descent.tell(&point, f(&point));
            }
        }
    }

    #[test]
    fn parameters_are_searched_in_turn_until_none_moves() {
        // A valley that is no axis: one round is not enough.
        let valley = |p: &[i64]| {
            let (x, y) = (p[0] as f64 - 300.0, p[1] as f64 - 600.0);
            x * x + y * y + x * y
        };
        let (descent, once) = least(vec![span(0, 1000), span(0, 1000)], 1, valley);
        assert!((descent.best()[0] - 300).abs() > 20, "{:?}", descent.best());
        let (descent, tried) = least(vec![span(0, 1000), span(0, 1000)], 9, valley);
        let best = descent.best();
        assert!((best[0] - 300).abs() <= 20 && (best[1] - 600).abs() <= 20, "{best:?}");
        assert_eq!(descent.least(), Some(valley(&best)));
        assert!(tried > once && tried < 80, "{tried}");
        assert_eq!(descent.ends().count(), 0);
    }

    #[test]
    fn what_does_not_move_ends_the_search() {
        let apart = |p: &[i64]| ((p[0] - 500) as f64).abs() + ((p[1] - 500) as f64).abs();
        let (descent, tried) = least(vec![span(0, 1000), span(0, 1000)], 9, apart);
        assert!(descent.best().iter().all(|at| (at - 500).abs() <= 10) && tried < 24, "{tried}");
    }

    #[test]
    fn the_end_of_an_interval_is_told() {
        let (descent, _) = least(vec![span(0, 1000), span(0, 1000)], 3, |p| (p[1] - 2 * p[0]) as f64);
        assert_eq!(descent.ends().collect::<Vec<_>>(), [(0, End::High), (1, End::Low)]);
        assert!(descent.best()[0] >= 990 && descent.best()[1] <= 10, "{:?}", descent.best());
    }
}
