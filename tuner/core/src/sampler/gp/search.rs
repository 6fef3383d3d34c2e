//! The configuration from which most is expected: many are looked at, and the best of them made better.

use std::collections::BTreeSet;

use super::improvement::{log_below, log_improvement};
use super::kernel::Encoding;
use super::minimise::{Problem, minimise};
use super::model::Model;
use super::region::Bounds;
use crate::sampler::{Context, quasi};
use crate::space::{Dimension, Point, drawn};
use crate::stream::{Purpose, Stream};

/// Configurations of a finite space up to this size are all looked at.
const ALL: u64 = 512;
/// How much work the first look at configurations may be, in products; it ends the count of them, which lies between these.
const WORK: usize = 12_000_000;
const LOOKS: (usize, usize) = (96, 512);
/// Around how many of the best trials it is looked.
pub(super) const PARENTS: usize = 5;
/// How many are made better, and how far.
const STARTS: usize = 4;
const ROUNDS: usize = 3;
const STEPS: usize = 25;
/// Starts are no nearer to each other, as a squared distance by the model's lengths.
const APART: f64 = 0.02;
/// Numbers with more values than this are moved as if they had all, then set to the nearest.
const FINE: u64 = 16;
/// How many neighbours that differ in one parameter are looked at in each round.
const NEIGHBOURS: usize = 160;

/// A trial is hoped to succeed where it looks more like success than this, between -1 and 1. At 0, every second one along the edge of
/// where trials fail would fail.
const HOPE: f64 = 0.5;
/// How much the logarithm of the chance of success weighs beside that of the improvement. At 1, a great improvement that has one chance
/// in a thousand would be tried before a small one that is sure, a thousand times.
const CAUTION: f64 = 4.0;

/// What is expected of configurations.
#[derive(Debug)]
pub(super) struct Promise {
    pub(super) loss: Model,
    /// How likely it is that a trial does not fail, where some have: 1 stands for success, -1 for failure.
    pub(super) success: Option<Model>,
    /// The loss that is to be undercut.
    pub(super) best: f64,
}

impl Promise {
    fn score(&self, loss: (f64, f64), success: Option<(f64, f64)>) -> f64 {
        let improvement = log_improvement(loss.0, loss.1, self.best).0;
        improvement + success.map_or(0.0, |(mean, deviation)| CAUTION * log_below((mean - HOPE) / deviation).0)
    }

    fn scores(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        let mut scores = Vec::with_capacity(rows.len());
        for four in rows.chunks(4) {
            let rows: [&[f64]; 4] = std::array::from_fn(|at| four[at.min(four.len() - 1)].as_slice());
            let losses = self.loss.predict(rows);
            let success = self.success.as_ref().map(|success| success.predict(rows));
            scores.extend((0..four.len()).map(|at| self.score(losses[at], success.map(|success| success[at]))));
        }
        scores
    }

    /// The score of a row and its slopes by column.
    fn slopes(&self, row: &[f64]) -> (f64, Vec<f64>) {
        let loss = self.loss.expect(row);
        let (mut score, by_mean, by_deviation) = log_improvement(loss.mean, loss.deviation, self.best);
        let pairs = loss.mean_slopes.iter().zip(&loss.deviation_slopes);
        let mut slopes: Vec<f64> = pairs.map(|(mean, deviation)| by_mean * mean + by_deviation * deviation).collect();
        if let Some(success) = &self.success {
            let success = success.expect(row);
            let distance = (success.mean - HOPE) / success.deviation;
            let (log, slope) = log_below(distance);
            score += CAUTION * log;
            let pairs = success.mean_slopes.iter().zip(&success.deviation_slopes);
            for (sum, (mean, deviation)) in slopes.iter_mut().zip(pairs) {
                *sum += CAUTION * slope * (mean - deviation * distance) / success.deviation;
            }
        }
        (score, slopes)
    }
}

/// What identifies a point among those of configurations.
pub(super) fn key(point: &[f64]) -> Vec<u64> {
    point.iter().map(|coordinate| (coordinate + 0.0).to_bits()).collect()
}

/// A search for the next trial.
pub(super) struct Search<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) encoding: &'a Encoding,
    pub(super) promise: &'a Promise,
    pub(super) tried: &'a BTreeSet<Vec<u64>>,
    /// The best trials so far.
    pub(super) parents: Vec<Point>,
    pub(super) bounds: Option<Bounds>,
}

struct Candidate {
    point: Point,
    row: Vec<f64>,
    score: f64,
}

impl Search<'_> {
    /// The most promising point that has not been tried; `None` where all that were looked at have been.
    pub(super) fn best(&self) -> Option<Point> {
        if self.context.space.size().is_some_and(|size| size <= ALL) {
            return self.best_of_all();
        }
        let mut stream = self.context.stream(Purpose::Candidate);
        let mut candidates = self.first(&mut stream);
        candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
        let mut better: Vec<Candidate> =
            self.starts(&candidates).into_iter().map(|start| self.improved(start, &mut stream)).collect();
        better.append(&mut candidates);
        better.sort_by(|one, other| other.score.total_cmp(&one.score));
        better.into_iter().filter_map(|candidate| self.snapped(&candidate.point)).find(|point| self.is_new(point))
    }

    fn best_of_all(&self) -> Option<Point> {
        let space = self.context.space;
        let all = (0..space.size().unwrap_or(0)).map(|number| space.numbered(number));
        let mut points: Vec<Point> = all
            .filter(|one| space.is_allowed(one))
            .map(|one| space.point(&one))
            .filter(|point| self.is_new(point))
            .collect();
        let scores = self.scores(&points);
        let best = scores.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1).then(other.0.cmp(&one.0)));
        best.map(|(at, _)| points.swap_remove(at))
    }

    fn is_new(&self, point: &[f64]) -> bool {
        !self.tried.contains(&key(point))
    }

    fn scores(&self, points: &[Point]) -> Vec<f64> {
        self.promise.scores(&points.iter().map(|point| self.encoding.row(point)).collect::<Vec<_>>())
    }

    fn dimensions(&self) -> Vec<Dimension> {
        self.context.space.dimensions().collect()
    }

    /// The point of the configuration nearest to a point, if it is allowed.
    fn snapped(&self, point: &[f64]) -> Option<Point> {
        let space = self.context.space;
        let configuration = space.configuration(point);
        space.is_allowed(&configuration).then(|| space.point(&configuration))
    }

    /// Whether each point in the cube is that of a configuration.
    fn is_plain(&self) -> bool {
        let space = self.context.space;
        space.is_free() && space.dimensions().all(|dimension| dimension == Dimension::Continuous)
    }

    /// Those that are looked at first: some from everywhere, and some near the best trials.
    fn first(&self, stream: &mut Stream) -> Vec<Candidate> {
        let rows = self.promise.loss.rows();
        let looks = (WORK / (rows * rows / 2 + 20 * rows + 1)).clamp(LOOKS.0, LOOKS.1);
        let dimensions = self.dimensions();
        // A scrambling of this suggestion's own.
        let scramble = stream.bits() as u32;
        let mut points: Vec<Point> = (0..looks).map(|at| self.anywhere(at as u32, scramble, stream)).collect();
        for at in 0..looks {
            let Some(parent) = self.parents.get(at % self.parents.len().max(1)) else { break };
            points.push(self.near(parent, &dimensions, stream));
        }
        if !self.is_plain() {
            points = points.iter().filter_map(|point| self.snapped(point)).collect();
        }
        let scores = self.scores(&points);
        let candidate = |(point, score): (Point, f64)| Candidate { row: self.encoding.row(&point), point, score };
        points.into_iter().zip(scores).map(candidate).collect()
    }

    /// A point of a low-discrepancy sequence that is this trial's own; of a box, one that moves some of the parameters.
    fn anywhere(&self, index: u32, scramble: u32, stream: &mut Stream) -> Point {
        let scramble = |part: usize| scramble.wrapping_add(part as u32);
        let mut point = quasi::scrambled(self.context.space.dimensions(), index, &scramble);
        if let Some(bounds) = &self.bounds {
            let moved = (20.0 / point.len() as f64).min(1.0);
            for (at, (coordinate, dimension)) in point.iter_mut().zip(self.context.space.dimensions()).enumerate() {
                if stream.uniform() >= moved {
                    *coordinate = bounds.middle[at];
                } else if !matches!(dimension, Dimension::Categories(_)) {
                    *coordinate = bounds.lower[at] + *coordinate * (bounds.upper[at] - bounds.lower[at]);
                }
            }
        }
        point
    }

    /// A point that differs in some parameters, by a little or more.
    fn near(&self, parent: &[f64], dimensions: &[Dimension], stream: &mut Stream) -> Point {
        let mut point = parent.to_vec();
        let moved = (3.0 / parent.len().max(1) as f64).min(1.0);
        let sure = stream.below(parent.len() as u64) as usize;
        let scale = 10.0_f64.powf(-3.0 + 2.5 * stream.uniform());
        for (at, dimension) in dimensions.iter().enumerate() {
            if at != sure && stream.uniform() >= moved {
                continue;
            }
            point[at] = match dimension {
                dimension if point[at].is_nan() => drawn(*dimension, stream),
                Dimension::Categories(_) => drawn(*dimension, stream),
                Dimension::Continuous => self.inside(at, point[at] + scale * stream.normal()),
                Dimension::Cells(count) => {
                    let step = scale * stream.normal();
                    let cell = 1.0 / *count as f64;
                    self.inside(at, point[at] + if step < 0.0 { step.min(-cell) } else { step.max(cell) })
                }
            };
        }
        point
    }

    fn inside(&self, at: usize, coordinate: f64) -> f64 {
        let (lower, upper) = self.bounds.as_ref().map_or((0.0, 1.0), |bounds| (bounds.lower[at], bounds.upper[at]));
        coordinate.clamp(lower, upper)
    }

    /// The best ones that are not all in one place.
    fn starts(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let weights = self.promise.loss.parameters.weights();
        let mut starts: Vec<Candidate> = Vec::with_capacity(STARTS);
        for Candidate { point, row, score } in candidates {
            let is_apart = |other: &Candidate| {
                let pairs = row.iter().zip(&other.row).zip(&weights);
                pairs.map(|((one, other), weight)| weight * (one - other) * (one - other)).sum::<f64>() > APART
            };
            if starts.len() < STARTS && starts.iter().all(is_apart) {
                starts.push(Candidate { point: point.clone(), row: row.clone(), score: *score });
            }
        }
        starts
    }

    /// A candidate made better: its numbers by the slopes of the score, the rest by looking at neighbours.
    fn improved(&self, start: Candidate, stream: &mut Stream) -> Candidate {
        let dimensions = self.dimensions();
        let mut best = start;
        for _ in 0..ROUNDS {
            let before = best.score;
            if let Some(moved) = self.moved(&best, &dimensions) {
                best = moved;
            }
            if let Some(exchanged) = self.exchanged(&best, &dimensions, stream) {
                best = exchanged;
            } else {
                break;
            }
            if best.score - before < 1e-3 {
                break;
            }
        }
        best
    }

    /// The best nearby, where the numbers may be anything.
    fn moved(&self, start: &Candidate, dimensions: &[Dimension]) -> Option<Candidate> {
        let is_moved = |at: &usize| match dimensions[*at] {
            Dimension::Continuous => !start.point[*at].is_nan(),
            Dimension::Cells(count) => count > FINE && !start.point[*at].is_nan(),
            Dimension::Categories(_) => false,
        };
        let numbers: Vec<(usize, usize, f64)> = (0..dimensions.len())
            .filter(is_moved)
            .filter_map(|at| self.encoding.number(at).map(|column| (at, column)))
            // Where lengths are long, steps are too.
            .map(|(at, column)| (at, column, self.promise.loss.parameters.length(column).clamp(0.05, 2.0)))
            .collect();
        if numbers.is_empty() {
            return None;
        }
        let scaled = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
            numbers.iter().map(|(at, _, scale)| value(*at) / scale).collect()
        };
        let (lower, upper) = (scaled(&|at| self.inside(at, 0.0)), scaled(&|at| self.inside(at, 1.0)));
        let first = scaled(&|at| start.point[at]);
        let has_rules = !self.context.space.is_free();
        let mut function = |place: &[f64], gradient: &mut [f64]| {
            let mut point = start.point.clone();
            numbers.iter().zip(place).for_each(|((at, _, scale), place)| point[*at] = place * scale);
            if has_rules && !self.snapped(&point).is_some_and(|snapped| uses_the_same(&snapped, &point)) {
                return f64::NAN;
            }
            let (score, slopes) = self.promise.slopes(&self.encoding.row(&point));
            numbers.iter().zip(gradient).for_each(|((_, column, scale), slope)| *slope = -slopes[*column] * scale);
            -score
        };
        let problem = Problem { start: &first, lower: &lower, upper: &upper, looks: STEPS, tolerance: 1e-4 };
        let (place, _) = minimise(problem, &mut function)?;
        let mut point = start.point.clone();
        numbers.iter().zip(&place).for_each(|((at, _, scale), place)| point[*at] = (place * scale).clamp(0.0, 1.0));
        self.candidates(vec![point]).into_iter().next().filter(|moved| moved.score > start.score)
    }

    /// The best of those that differ in one parameter that cannot be moved a little.
    fn exchanged(&self, start: &Candidate, dimensions: &[Dimension], stream: &mut Stream) -> Option<Candidate> {
        let mut neighbours: Vec<(usize, f64)> = Vec::new();
        for (at, dimension) in dimensions.iter().enumerate() {
            let own = start.point[at];
            if own.is_nan() {
                continue;
            }
            match dimension {
                Dimension::Continuous => {}
                Dimension::Categories(count) => {
                    neighbours.extend(
                        (0..*count).map(|other| other as f64).filter(|other| *other != own).map(|other| (at, other)),
                    );
                }
                Dimension::Cells(count) if *count <= FINE => {
                    let places = (0..*count).map(|cell| (cell as f64 + 0.5) / *count as f64);
                    neighbours.extend(places.map(|place| (at, place)));
                }
                Dimension::Cells(count) => {
                    let steps =
                        (0..63).map(|power| (1_u64 << power) as f64 / *count as f64).take_while(|step| *step < 1.0);
                    let places = steps.flat_map(|step| [own - step, own + step]);
                    neighbours.extend(places.filter(|place| (0.0..=1.0).contains(place)).map(|place| (at, place)));
                }
            }
        }
        while neighbours.len() > NEIGHBOURS {
            let at = stream.below(neighbours.len() as u64) as usize;
            neighbours.swap_remove(at);
        }
        let points = neighbours.into_iter().map(|(at, place)| {
            let mut point = start.point.clone();
            point[at] = place;
            point
        });
        let candidates = self.candidates(points.collect());
        let best = candidates.into_iter().reduce(|best, other| if other.score > best.score { other } else { best });
        best.filter(|best| best.score > start.score)
    }

    /// Those of these points that are allowed, as configurations have them.
    fn candidates(&self, points: Vec<Point>) -> Vec<Candidate> {
        let points: Vec<Point> = points.iter().filter_map(|point| self.snapped(point)).collect();
        let scores = self.scores(&points);
        let candidate = |(point, score): (Point, f64)| Candidate { row: self.encoding.row(&point), point, score };
        points.into_iter().zip(scores).map(candidate).collect()
    }
}

fn uses_the_same(one: &[f64], other: &[f64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one.is_nan() == other.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::gp::fit::Parameters;
    use crate::sampler::gp::kernel::Rows;
    use crate::sampler::gp::model::Base;
    use crate::space::{Domain, Parameter, Scale, Space};

    #[test]
    fn the_slopes_are_those_of_the_score() {
        let domain = Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None };
        let parameter = |name: &str| Parameter { name: name.to_owned(), domain: domain.clone(), when: None };
        let space = Space::new(vec![parameter("x"), parameter("y")], vec![]).expect("a space");
        let encoding = Encoding::new(&space);
        let mut stream = Stream::new(2, 0, Purpose::Prior, 0);
        let rows: Vec<Vec<f64>> = (0..12).map(|_| vec![stream.uniform(), stream.uniform()]).collect();
        let model = |value: &dyn Fn(&[f64]) -> f64| {
            let mut base = Base::new(Rows::new(&encoding), Parameters::short(2));
            assert!(base.extend(rows.iter().map(Vec::as_slice)));
            base.model(&rows.iter().map(|row| value(row)).collect::<Vec<_>>(), &[])
        };
        let loss = model(&|row| row[0] - row[1]);
        let success = model(&|row| if row[0] > 0.5 { 1.0 } else { -1.0 });
        for success in [None, Some(success)] {
            let promise = Promise { loss: loss.clone(), success, best: -0.5 };
            for row in [[0.3, 0.6], [0.8, 0.1], [0.55, 0.95]] {
                let (score, slopes) = promise.slopes(&row);
                let at = |row: [f64; 2]| promise.scores(&[row.to_vec()])[0];
                assert!((at(row) - score).abs() < 1e-12);
                for column in 0..2 {
                    let near = |step: f64| {
                        let mut near = row;
                        near[column] += step;
                        at(near)
                    };
                    let around = (near(1e-6) - near(-1e-6)) / 2e-6;
                    assert!((around - slopes[column]).abs() < 1e-4 * around.abs().max(1.0), "{around} {slopes:?}");
                }
            }
        }
    }
}
