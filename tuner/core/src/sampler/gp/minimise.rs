//! The least value of a smooth function in a box, by its gradient: L-BFGS whose steps are cut off at the box.

use std::collections::VecDeque;

/// How many steps the curvature is known from.
const MEMORY: usize = 8;
/// How often a step is shortened before the search ends.
const SHORTENED: usize = 12;

/// A function: its value at a point, and its gradient there, which it writes. What is not a finite number is no place to go to.
pub(super) type Function<'a> = dyn FnMut(&[f64], &mut [f64]) -> f64 + 'a;

/// Where the search begins and how far it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'a> {
    pub(super) start: &'a [f64],
    pub(super) lower: &'a [f64],
    pub(super) upper: &'a [f64],
    /// How often the function is looked at, at most.
    pub(super) looks: usize,
    /// A step that gains less than this ends the search.
    pub(super) tolerance: f64,
}

/// A step and the change of the gradient along it, with one over their product.
struct Step {
    way: Vec<f64>,
    change: Vec<f64>,
    scale: f64,
}

/// The best point that was found and its value; `None` where the function has no finite value at the start.
pub(super) fn minimise(problem: Problem<'_>, function: &mut Function<'_>) -> Option<(Vec<f64>, f64)> {
    let Problem { start, lower, upper, looks, tolerance } = problem;
    let clamp = |at: usize, value: f64| value.clamp(lower[at], upper[at]);
    let mut here: Vec<f64> = start.iter().enumerate().map(|(at, value)| clamp(at, *value)).collect();
    let mut gradient = vec![0.0; here.len()];
    let mut value = function(&here, &mut gradient);
    if !is_finite(value, &gradient) {
        return None;
    }
    let mut looked = 1;
    let mut steps: VecDeque<Step> = VecDeque::new();
    while looked < looks {
        // What lies on the box's side and would go out of it stays where it is.
        let is_held: Vec<bool> = (0..here.len())
            .map(|at| (here[at] <= lower[at] && gradient[at] > 0.0) || (here[at] >= upper[at] && gradient[at] < 0.0))
            .collect();
        let mut way = direction(&gradient, &is_held, &steps);
        if product(&way, &gradient) >= 0.0 {
            steps.clear();
            way = direction(&gradient, &is_held, &steps);
        }
        let first = if steps.is_empty() { 1.0 / product(&way, &way).sqrt().max(1.0) } else { 1.0 };
        let mut length = first;
        let mut found = None;
        for _ in 0..SHORTENED {
            let there: Vec<f64> = (0..here.len()).map(|at| clamp(at, here[at] + length * way[at])).collect();
            let gone: Vec<f64> = there.iter().zip(&here).map(|(there, here)| there - here).collect();
            let expected = product(&gone, &gradient);
            if expected >= 0.0 || looked >= looks {
                break;
            }
            let mut slope = vec![0.0; here.len()];
            let next = function(&there, &mut slope);
            looked += 1;
            if is_finite(next, &slope) && next <= value + 1e-4 * expected {
                found = Some((there, gone, next, slope));
                break;
            }
            // The parabola through what is known, within reason; a tenth where there is nothing to go by.
            let parabola = -0.5 * expected / (next - value - expected);
            length *= if next.is_finite() && parabola.is_finite() { parabola.clamp(0.1, 0.5) } else { 0.1 };
        }
        let Some((there, gone, next, slope)) = found else {
            // Curvature from elsewhere may have misled it: once more, straight down.
            if steps.is_empty() {
                break;
            }
            steps.clear();
            continue;
        };
        let change: Vec<f64> = slope.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let curved = product(&gone, &change);
        if curved > 1e-12 * product(&change, &change).max(f64::MIN_POSITIVE) {
            if steps.len() == MEMORY {
                steps.pop_front();
            }
            steps.push_back(Step { way: gone, change, scale: 1.0 / curved });
        }
        let gained = value - next;
        (here, value, gradient) = (there, next, slope);
        if gained <= tolerance {
            break;
        }
    }
    Some((here, value))
}

fn is_finite(value: f64, gradient: &[f64]) -> bool {
    value.is_finite() && gradient.iter().all(|slope| slope.is_finite())
}

/// Down, as the curvature along earlier steps has it, but only where it may go.
fn direction(gradient: &[f64], is_held: &[bool], steps: &VecDeque<Step>) -> Vec<f64> {
    let free = |way: &mut [f64]| way.iter_mut().zip(is_held).filter(|(_, held)| **held).for_each(|(way, _)| *way = 0.0);
    let mut way: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    free(&mut way);
    let mut weights = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let weight = step.scale * product(&step.way, &way);
        way.iter_mut().zip(&step.change).for_each(|(way, change)| *way -= weight * change);
        weights.push(weight);
    }
    if let Some(last) = steps.back() {
        let size = 1.0 / (last.scale * product(&last.change, &last.change));
        way.iter_mut().for_each(|way| *way *= size);
    }
    for (step, weight) in steps.iter().zip(weights.into_iter().rev()) {
        let correction = weight - step.scale * product(&step.change, &way);
        way.iter_mut().zip(&step.way).for_each(|(way, gone)| *way += correction * gone);
    }
    free(&mut way);
    way
}

fn product(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> f64 {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        gradient.copy_from_slice(&[-2.0 * a - 400.0 * x[0] * b, 200.0 * b]);
        a * a + 100.0 * b * b
    }

    #[test]
    fn it_finds_the_end_of_a_valley() {
        let problem =
            Problem { start: &[-1.2, 1.0], lower: &[-5.0; 2], upper: &[5.0; 2], looks: 100, tolerance: 1e-14 };
        let (found, value) = minimise(problem, &mut rosenbrock).expect("finite");
        assert!(value < 1e-10 && (found[0] - 1.0).abs() < 1e-4, "{found:?} {value}");
    }

    #[test]
    fn it_stays_in_the_box() {
        // Below x = 0.5 the least value is where the valley meets the side: at (0.5, 0.25).
        let problem =
            Problem { start: &[-1.2, 1.0], lower: &[-5.0; 2], upper: &[0.5, 5.0], looks: 100, tolerance: 1e-14 };
        let mut looks = 0;
        let mut watched = |x: &[f64], gradient: &mut [f64]| {
            looks += 1;
            assert!(x[0] <= 0.5 && x.iter().all(|x| x.abs() <= 5.0));
            rosenbrock(x, gradient)
        };
        let (found, value) = minimise(problem, &mut watched).expect("finite");
        assert!((found[0] - 0.5).abs() < 1e-9 && (found[1] - 0.25).abs() < 1e-4, "{found:?} {value}");
        assert!(looks <= 100);
    }

    #[test]
    fn what_is_not_finite_is_not_gone_to() {
        let mut steep = |x: &[f64], gradient: &mut [f64]| {
            gradient[0] = if x[0] > 1.0 { f64::NAN } else { -1.0 };
            if x[0] > 1.0 { f64::NEG_INFINITY } else { -x[0] }
        };
        let problem = |start| Problem { start, lower: &[-9.0], upper: &[9.0], looks: 60, tolerance: 0.0 };
        let (found, _) = minimise(problem(&[0.0]), &mut steep).expect("finite at the start");
        assert!(found[0] > 0.8 && found[0] <= 1.0, "{found:?}");
        assert_eq!(minimise(problem(&[2.0]), &mut steep), None);
        assert_eq!(minimise(problem(&[]), &mut |_, _| 3.0), None.or(Some((vec![], 3.0))), "nothing to choose");
    }
}
