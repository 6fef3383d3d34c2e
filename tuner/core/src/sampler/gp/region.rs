//! Where it is looked in many dimensions: a box around the best trial that grows with luck and shrinks without it (Eriksson et al.,
//! arXiv 1910.01739), since anywhere else nothing is known.

use crate::space::Point;

/// From how many dimensions on there is a box.
const DIMENSIONS: usize = 21;
/// The side of the box: at first, at most and at least. One that got smaller begins again.
const FIRST: f64 = 0.8;
const MOST: f64 = 1.6;
const LEAST: f64 = 1.0 / 128.0;
/// After how many trials in a row that were better the box doubles.
const LUCK: usize = 3;
/// What is better by less than this part counts as no better.
const GAIN: f64 = 1e-3;

/// The box's size, as the trials that ended have made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    dimensions: usize,
    side: f64,
    best: f64,
    better: usize,
    worse: usize,
}

/// A box: its middle and its sides, for each parameter.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) middle: Point,
    pub(super) lower: Vec<f64>,
    pub(super) upper: Vec<f64>,
}

impl Region {
    pub(super) fn new(dimensions: usize) -> Self {
        Self { dimensions, side: FIRST, best: f64::INFINITY, better: 0, worse: 0 }
    }

    /// Takes in the loss of a trial that ended; an infinite one if it failed.
    pub(super) fn observe(&mut self, loss: f64) {
        let is_better = loss < self.best - GAIN * self.best.abs() || (self.best.is_infinite() && loss.is_finite());
        self.best = self.best.min(loss);
        (self.better, self.worse) = if is_better { (self.better + 1, 0) } else { (0, self.worse + 1) };
        if self.better == LUCK {
            (self.better, self.side) = (0, (2.0 * self.side).min(MOST));
        }
        if self.worse == self.dimensions {
            (self.worse, self.side) = (0, self.side / 2.0);
        }
        if self.side < LEAST {
            self.side = FIRST;
        }
    }

    /// The box around a point. It is longer where lengths are, which there are for some parameters.
    pub(super) fn around(&self, middle: &[f64], lengths: &[Option<f64>]) -> Option<Bounds> {
        if self.dimensions < DIMENSIONS {
            return None;
        }
        let logs: Vec<f64> = lengths.iter().flatten().map(|length| length.ln()).collect();
        let common = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
        let side = |at: usize| {
            let Some(length) = lengths[at] else { return (0.0, 1.0) };
            let half = 0.5 * self.side * (length.ln() - common).exp();
            let middle = if middle[at].is_nan() { 0.5 } else { middle[at] };
            ((middle - half).clamp(0.0, 1.0), (middle + half).clamp(0.0, 1.0))
        };
        let (lower, upper) = (0..middle.len()).map(side).unzip();
        Some(Bounds { middle: middle.to_vec(), lower, upper })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_follows_luck() {
        let mut region = Region::new(30);
        let middle = [0.5; 30];
        let mut lengths = [Some(1.0); 30];
        (lengths[0], lengths[1]) = (Some(4.0), None);
        let width = |region: &Region| {
            let bounds = region.around(&middle, &[Some(1.0); 30]).expect("many dimensions");
            bounds.upper[5] - bounds.lower[5]
        };
        assert!((width(&region) - 0.8).abs() < 1e-12);
        (0..3).for_each(|at| region.observe(10.0 - f64::from(at)));
        assert!((width(&region) - 1.0).abs() < 1e-12, "cut off at the space's sides");
        (0..60).for_each(|_| region.observe(f64::INFINITY));
        assert!((width(&region) - 0.4).abs() < 1e-12);
        let bounds = region.around(&middle, &lengths).expect("many dimensions");
        assert!(bounds.upper[0] - bounds.lower[0] > 2.0 * (bounds.upper[5] - bounds.lower[5]));
        assert_eq!((bounds.lower[1], bounds.upper[1]), (0.0, 1.0));
        (0..30 * 6).for_each(|_| region.observe(8.5));
        assert!((width(&region) - 0.8).abs() < 1e-12, "it began again");
        assert!(Region::new(20).around(&[0.5; 20], &[Some(1.0); 20]).is_none());
    }
}
