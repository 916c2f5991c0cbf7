//! L-BFGS (Nocedal and Wright 2006, algorithms 7.4 and 7.5) for smooth convex functions, with a
//! backtracking line search. Deterministic, in f64. It does not know what is minimised.

use std::collections::VecDeque;

/// Remembered steps; SciPy's default.
const MEMORY: usize = 10;
/// Share of the decrease predicted by the slope that a step must reach (Armijo).
const ENOUGH: f64 = 1e-4;
/// Halvings of a step before the function counts as flat in floating point.
const HALVINGS: usize = 30;

/// The end of a minimisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    pub at: Vec<f64>,
    pub value: f64,
    /// Largest absolute entry of the gradient.
    pub gradient: f64,
    pub steps: usize,
    pub converged: bool,
}

/// Minimises from `start` until no entry of the gradient is above `tolerance`, `max_steps` are
/// taken, or no step decreases the function. `f` returns the value and writes the gradient.
pub fn minimise(
    start: Vec<f64>,
    tolerance: f64,
    max_steps: usize,
    mut f: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let (mut at, mut gradient) = (start, vec![]);
    gradient.resize(at.len(), 0.0);
    let mut value = f(&at, &mut gradient);
    let mut history = VecDeque::with_capacity(MEMORY);
    let mut steps = 0;
    while largest(&gradient) > tolerance && steps < max_steps {
        let direction = direction(&gradient, &history);
        let first = if history.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let Some(next) = search(&at, value, &gradient, &direction, first, &mut f) else { break };
        let change = |new: &[f64], old: &[f64]| new.iter().zip(old).map(|(n, o)| n - o).collect::<Vec<f64>>();
        let (s, y) = (change(&next.at, &at), change(&next.gradient, &gradient));
        if history.len() == MEMORY {
            history.pop_front();
        }
        let curvature = dot(&s, &y);
        // Positive for a strictly convex function, except for rounding.
        if curvature > f64::EPSILON * dot(&y, &y) {
            history.push_back(Step { s, y, curvature });
        }
        (at, value, gradient) = (next.at, next.value, next.gradient);
        steps += 1;
    }
    let gradient = largest(&gradient);
    Minimum { at, value, gradient, steps, converged: gradient <= tolerance }
}

/// A change of position and gradient, and their product.
struct Step {
    s: Vec<f64>,
    y: Vec<f64>,
    curvature: f64,
}

struct Point {
    at: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// Minus the approximate inverse Hessian from the history, times the gradient.
fn direction(gradient: &[f64], history: &VecDeque<Step>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = vec![];
    for step in history.iter().rev() {
        let alpha = dot(&step.s, &q) / step.curvature;
        add(&mut q, -alpha, &step.y);
        alphas.push(alpha);
    }
    if let Some(last) = history.back() {
        let scale = last.curvature / dot(&last.y, &last.y);
        q.iter_mut().for_each(|x| *x *= scale);
    }
    for (step, alpha) in history.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(&step.y, &q) / step.curvature;
        add(&mut q, alpha - beta, &step.s);
    }
    q
}

/// Tries `first`, a half of it, a quarter and so on along the direction, until the function
/// decreases enough.
fn search(
    at: &[f64],
    value: f64,
    gradient: &[f64],
    direction: &[f64],
    first: f64,
    f: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<Point> {
    let slope = dot(gradient, direction);
    let mut length = first;
    let mut next = Point { at: vec![], value, gradient: vec![0.0; at.len()] };
    for _ in 0..HALVINGS {
        next.at = at.to_vec();
        add(&mut next.at, length, direction);
        next.value = f(&next.at, &mut next.gradient);
        if next.value <= value + ENOUGH * length * slope {
            return Some(next);
        }
        length *= 0.5;
    }
    None
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], scale: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(t, x)| *t += scale * x);
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |a, b| a.max(b.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A narrow curved valley: log cosh along one axis, steep along a slanted one.
    fn valley(x: &[f64], g: &mut [f64]) -> f64 {
        let (u, v) = (x[0] - 3.0, 10.0 * (x[1] + x[0]));
        g[0] = u.tanh() + 10.0 * v;
        g[1] = 10.0 * v;
        u.cosh().ln() + v * v / 2.0
    }

    #[test]
    fn finds_the_bottom_of_a_valley() {
        let found = minimise(vec![0.0, 1.0], 1e-9, 200, valley);
        assert!(found.converged && found.steps < 60, "{found:?}");
        assert!((found.at[0] - 3.0).abs() < 1e-8 && (found.at[1] + 3.0).abs() < 1e-8, "{found:?}");
    }

    #[test]
    fn says_when_it_has_not_converged() {
        let found = minimise(vec![0.0, 1.0], 1e-9, 2, valley);
        assert!(!found.converged && found.steps == 2 && found.gradient > 1e-9);
        let found = minimise(vec![3.0, -3.0], 1e-9, 2, valley);
        assert!(found.converged && found.steps == 0);
    }
}
