//! An ODE solver with adaptive steps: the embedded pair of Dormand and Prince (1980), of order 5, as
//! torchdiffeq's `dopri5` has it, with which SiT's published ODE samples were drawn.
//!
//! torchdiffeq chooses one step size for a whole batch, from the mean error over it. Here every row
//! has steps of its own, so that it is what it would be alone, whatever the batch: each equals
//! torchdiffeq on a batch of one. The slopes of all rows are still asked for together. A last step
//! beyond the end is not cut short: as in torchdiffeq the end is read from its interpolant, so the
//! slope is also asked for a little beyond it.
//!
//! It does not know networks or the direction of the program's time: it runs from 0 to 1.

use candle_core::{Result, bail};

/// What the error of a step may be: `absolute + relative |y|` for each number, in the root mean
/// square over a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// Slopes at times and points, of the rows with these numbers.
pub type Slopes<'a> = dyn FnMut(&[usize], &[f64], &[Vec<f64>]) -> Result<Vec<Vec<f64>>> + 'a;

/// Times of the stages, as fractions of the step.
const NODES: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];

/// What each stage takes of the slopes before it. The last is the solution of order 5.
const STAGES: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];

/// The error: the difference from the solution of order 4 by Shampine (1986), as in torchdiffeq.
const ERROR: [f64; 7] = [
    35.0 / 384.0 - 1951.0 / 21600.0,
    0.0,
    500.0 / 1113.0 - 22642.0 / 50085.0,
    125.0 / 192.0 - 451.0 / 720.0,
    -2187.0 / 6784.0 + 12231.0 / 42400.0,
    11.0 / 84.0 - 649.0 / 6300.0,
    -1.0 / 60.0,
];

/// The middle of the step, to order 4 (Shampine 1986).
const MIDDLE: [f64; 7] = [
    6025192743.0 / 30085553152.0 / 2.0,
    0.0,
    51252292925.0 / 65400821598.0 / 2.0,
    -2691868925.0 / 45128329728.0 / 2.0,
    187940372067.0 / 1594534317056.0 / 2.0,
    -1776094331.0 / 19743644256.0 / 2.0,
    11237099.0 / 235043384.0 / 2.0,
];

const ORDER: f64 = 5.0;

/// Integrates every row of `starts` from time 0 to 1. A row whose slope is not a number becomes NaN.
///
/// # Errors
/// Those of `slopes`; tolerances for which steps become too small to advance the time.
pub fn integrate(starts: Vec<Vec<f64>>, tolerance: Tolerance, slopes: &mut Slopes) -> Result<Vec<Vec<f64>>> {
    let mut ends = vec![vec![]; starts.len()];
    let mut rows = first_steps(starts, tolerance, slopes)?;
    while !rows.is_empty() {
        let (rows_now, numbers) = (rows.len(), numbers(&rows));
        let mut asked: Vec<Vec<Vec<f64>>> = rows.iter().map(|row| vec![row.slope.clone()]).collect();
        let mut points = vec![];
        for (node, weights) in NODES.iter().zip(STAGES) {
            points = (0..rows_now).map(|i| along(&rows[i].y, &asked[i], weights, rows[i].step)).collect();
            let times: Vec<f64> = rows.iter().map(|row| row.t + node * row.step).collect();
            let found = slopes(&numbers, &times, &points)?;
            asked.iter_mut().zip(found).for_each(|(of_row, slope)| of_row.push(slope));
        }
        let mut open = vec![];
        for ((mut row, asked), y) in rows.into_iter().zip(asked).zip(points) {
            match row.finish_step(&asked, y, tolerance)? {
                Some(end) => ends[row.number] = end,
                None => open.push(row),
            }
        }
        rows = open;
    }
    Ok(ends)
}

/// A row on its way.
struct Row {
    number: usize,
    t: f64,
    y: Vec<f64>,
    slope: Vec<f64>,
    /// Size of the next step.
    step: f64,
}

impl Row {
    /// Accepts or refuses a step that ends at `y`, whose seven slopes are `asked`, and chooses the
    /// next. Returns the state at time 1 once it is passed.
    fn finish_step(&mut self, asked: &[Vec<f64>], y: Vec<f64>, tolerance: Tolerance) -> Result<Option<Vec<f64>>> {
        if self.t + self.step <= self.t {
            bail!("the steps of dopri5 become too small near t = {:.6}: raise its tolerances", 1.0 - self.t);
        }
        let error = along(&vec![0.0; y.len()], asked, &ERROR, self.step);
        let scaled = error.iter().zip(self.y.iter().zip(&y)).map(|(e, (a, b))| e / tolerance.at(a.abs().max(b.abs())));
        let ratio = root_mean_square(scaled);
        if ratio.is_nan() {
            return Ok(Some(vec![f64::NAN; y.len()]));
        }
        let step = self.step;
        self.step = step * growth(ratio);
        if ratio > 1.0 {
            return Ok(None);
        }
        if self.t + step >= 1.0 {
            return Ok(Some(self.interpolate(asked, &y, step, (1.0 - self.t) / step)));
        }
        (self.t, self.y) = (self.t + step, y);
        // The slope at the end of a step is that at the start of the next.
        self.slope.clone_from(&asked[NODES.len()]);
        Ok(None)
    }

    /// The state at a fraction `x` of a step that ends at `end`, by the polynomial of degree 4 through
    /// start, middle and end with the slopes at both ends.
    fn interpolate(&self, asked: &[Vec<f64>], end: &[f64], step: f64, x: f64) -> Vec<f64> {
        let middle = along(&self.y, asked, &MIDDLE, step);
        let (first, last) = (&asked[0], &asked[NODES.len()]);
        let value = |i: usize| {
            let (y0, y1, half) = (self.y[i], end[i], middle[i]);
            let (f0, f1) = (step * first[i], step * last[i]);
            let a = 2.0 * (f1 - f0) - 8.0 * (y1 + y0) + 16.0 * half;
            let b = 5.0 * f0 - 3.0 * f1 + 18.0 * y0 + 14.0 * y1 - 32.0 * half;
            let c = f1 - 4.0 * f0 - 11.0 * y0 - 5.0 * y1 + 16.0 * half;
            y0 + x * (f0 + x * (c + x * (b + x * a)))
        };
        (0..end.len()).map(value).collect()
    }
}

/// The rows at time 0 with the sizes of their first steps, by the rule of Hairer, Nørsett and Wanner
/// ("Solving Ordinary Differential Equations I", section II.4).
fn first_steps(starts: Vec<Vec<f64>>, tolerance: Tolerance, slopes: &mut Slopes) -> Result<Vec<Row>> {
    let all: Vec<usize> = (0..starts.len()).collect();
    if all.is_empty() {
        return Ok(vec![]);
    }
    let first = slopes(&all, &vec![0.0; all.len()], &starts)?;
    let rows = starts.into_iter().zip(first).enumerate();
    let mut rows: Vec<Row> = rows.map(|(number, (y, slope))| Row { number, t: 0.0, y, slope, step: 0.0 }).collect();
    let scaled =
        |row: &Row, values: &[f64]| root_mean_square(values.iter().zip(&row.y).map(|(v, y)| v / tolerance.at(y.abs())));
    for row in &mut rows {
        let (size, slope) = (scaled(row, &row.y), scaled(row, &row.slope));
        row.step = if size < 1e-5 || slope < 1e-5 { 1e-6 } else { 0.01 * size / slope };
    }
    let points: Vec<Vec<f64>> =
        rows.iter().map(|row| along(&row.y, std::slice::from_ref(&row.slope), &[1.0], row.step)).collect();
    let times: Vec<f64> = rows.iter().map(|row| row.step).collect();
    let second = slopes(&all, &times, &points)?;
    for (row, second) in rows.iter_mut().zip(second) {
        let change: Vec<f64> = second.iter().zip(&row.slope).map(|(b, a)| b - a).collect();
        let (slope, bend) = (scaled(row, &row.slope), scaled(row, &change) / row.step);
        let step = match slope <= 1e-15 && bend <= 1e-15 {
            true => (row.step * 1e-3).max(1e-6),
            false => (0.01 / slope.max(bend)).powf(1.0 / ORDER),
        };
        row.step = step.min(100.0 * row.step);
    }
    Ok(rows)
}

impl Tolerance {
    /// Of a number of this size.
    fn at(self, size: f64) -> f64 {
        self.absolute + self.relative * size
    }
}

/// By what a step changes after an error of `ratio` times the tolerance.
fn growth(ratio: f64) -> f64 {
    // Those of torchdiffeq.
    const SAFETY: f64 = 0.9;
    const MOST: f64 = 10.0;
    const LEAST: f64 = 0.2;
    if ratio == 0.0 {
        return MOST;
    }
    let least = if ratio < 1.0 { 1.0 } else { LEAST };
    (SAFETY / ratio.powf(1.0 / ORDER)).max(least).min(MOST)
}

/// y + step (weights . slopes)
fn along(y: &[f64], slopes: &[Vec<f64>], weights: &[f64], step: f64) -> Vec<f64> {
    let mut point = y.to_vec();
    for (slope, weight) in slopes.iter().zip(weights) {
        point.iter_mut().zip(slope).for_each(|(p, s)| *p += step * weight * s);
    }
    point
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    (values.map(|v| v * v).sum::<f64>() / count).sqrt()
}

fn numbers(rows: &[Row]) -> Vec<usize> {
    rows.iter().map(|row| row.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Tolerance = Tolerance { absolute: 1e-10, relative: 1e-10 };

    #[test]
    fn known_solutions_are_found() {
        // y' = -3 y, and y' = 5 t^4, which a method of order 5 integrates exactly.
        let mut slopes = |rows: &[usize], times: &[f64], points: &[Vec<f64>]| {
            let slope = |i: usize| if rows[i] == 0 { vec![-3.0 * points[i][0]] } else { vec![5.0 * times[i].powi(4)] };
            Ok((0..rows.len()).map(slope).collect())
        };
        let ends = integrate(vec![vec![2.0], vec![1.0]], FINE, &mut slopes).unwrap();
        assert!((ends[0][0] - 2.0 * (-3f64).exp()).abs() < 1e-8, "{ends:?}");
        assert!((ends[1][0] - 2.0).abs() < 1e-8, "{ends:?}");
    }

    #[test]
    fn what_is_not_a_number_ends_and_a_jump_does_not_hang() {
        let mut lost = |rows: &[usize], _: &[f64], _: &[Vec<f64>]| Ok(vec![vec![f64::NAN]; rows.len()]);
        assert!(integrate(vec![vec![1.0]], FINE, &mut lost).unwrap()[0][0].is_nan());
        let mut jump = |rows: &[usize], times: &[f64], _: &[Vec<f64>]| {
            Ok((0..rows.len()).map(|i| vec![if times[i] < 0.3 { 1.0 } else { -1.0 }]).collect())
        };
        let ends = integrate(vec![vec![0.0]], Tolerance { absolute: 1e-6, relative: 1e-3 }, &mut jump).unwrap();
        // The estimate of a step across a jump is of no order: 0.0037 off.
        assert!((ends[0][0] + 0.4).abs() < 1e-2, "{ends:?}");
    }
}
