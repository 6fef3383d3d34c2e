//! Losses in several objectives: which trials no other one beats, which come next, and which of those lie apart.

use crate::history::TrialId;
use crate::objective::dominates;

/// The trials that count, of all that told their losses: those that fewer than `most` others dominate.
///
/// Whoever is dominated by `most` trials is not among the `most` best, however many more there will be, since each of them comes
/// before it.
#[derive(Clone, Debug)]
pub struct Archive {
    most: usize,
    entries: Vec<Entry>,
}

/// A trial of an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which one.
    pub id: TrialId,
    /// What it told, in the order of the objectives.
    pub losses: Vec<f64>,
    /// How many dominate it.
    beaten: usize,
}

impl Archive {
    /// An archive that is enough to find the `most` best.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), entries: Vec::new() }
    }

    /// Its trials, in the order in which they were told.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes in a trial.
    pub fn insert(&mut self, id: TrialId, losses: Vec<f64>) {
        let mut new = Entry { id, losses, beaten: 0 };
        for entry in &mut self.entries {
            new.beaten += usize::from(dominates(&entry.losses, &new.losses));
            entry.beaten += usize::from(dominates(&new.losses, &entry.losses));
        }
        self.entries.push(new);
        self.entries.retain(|entry| entry.beaten < self.most);
    }

    /// The trials in fronts: those that none dominates, those that only the first front dominates, and so on (Deb et al., "A Fast and
    /// Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002), as positions among the entries. Ends with the front with which there are
    /// `count` of them.
    #[must_use]
    pub fn fronts(&self, count: usize) -> Vec<Vec<usize>> {
        let mut beaten: Vec<usize> = self.entries.iter().map(|entry| entry.beaten).collect();
        let mut left: Vec<usize> = (0..self.entries.len()).collect();
        let (mut fronts, mut found) = (Vec::new(), 0);
        while !left.is_empty() && found < count {
            let (front, rest): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|at| beaten[*at] == 0);
            for at in &rest {
                let by = |winner: &&usize| dominates(&self.entries[**winner].losses, &self.entries[*at].losses);
                beaten[*at] -= front.iter().filter(by).count();
            }
            found += front.len();
            fronts.push(front);
            left = rest;
        }
        fronts
    }

    /// The `count` best, of at most as many as the archive is for, with the number of their front, from 0: whole fronts, and of the last one those that `choose` takes, which is given
    /// the losses of those that are in, the losses of those of that front, and how many there is room for.
    pub fn best(
        &self,
        count: usize,
        choose: impl Fn(&[&[f64]], &[&[f64]], usize) -> Vec<usize>,
    ) -> Vec<(usize, usize)> {
        let mut best: Vec<(usize, usize)> = Vec::new();
        let losses = |at: &usize| self.entries[*at].losses.as_slice();
        for (rank, front) in self.fronts(count).into_iter().enumerate() {
            let room = count - best.len();
            let taken = if front.len() <= room {
                front
            } else {
                let inside: Vec<&[f64]> = best.iter().map(|(at, _)| losses(at)).collect();
                let outside: Vec<&[f64]> = front.iter().map(losses).collect();
                choose(&inside, &outside, room).into_iter().map(|at| front[at]).collect()
            };
            best.extend(taken.into_iter().map(|at| (at, rank)));
        }
        best
    }
}

/// How far each one's neighbours are apart, along the front, summed over the objectives; infinite at the ends (Deb et al., 2002).
#[must_use]
pub fn crowding(losses: &[&[f64]]) -> Vec<f64> {
    let mut distances = vec![0.0; losses.len()];
    for objective in 0..losses.first().map_or(0, |first| first.len()) {
        let mut order: Vec<usize> = (0..losses.len()).collect();
        order.sort_by(|one, other| losses[*one][objective].total_cmp(&losses[*other][objective]).then(one.cmp(other)));
        let (first, last) = (order[0], order[order.len() - 1]);
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        let range = losses[last][objective] - losses[first][objective];
        // Where all are alike nothing tells them apart.
        if range <= 0.0 {
            continue;
        }
        for three in order.windows(3) {
            distances[three[1]] += (losses[three[2]][objective] - losses[three[0]][objective]) / range;
        }
    }
    distances
}

/// The `count` that lie furthest apart.
#[must_use]
pub fn least_crowded(losses: &[&[f64]], count: usize) -> Vec<usize> {
    let distances = crowding(losses);
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|one, other| distances[*other].total_cmp(&distances[*one]).then(one.cmp(other)));
    order.truncate(count);
    order
}

/// The `count` that together dominate the most: one after the other, whichever adds most to the hypervolume, with losses from 0 to 1 and
/// 1.1 as the point of reference.
#[must_use]
pub fn most_volume(losses: &[&[f64]], count: usize) -> Vec<usize> {
    let scaled = scaled(losses);
    let mut chosen: Vec<usize> = Vec::new();
    let mut volume = 0.0;
    while chosen.len() < count.min(losses.len()) {
        let mut points: Vec<Vec<f64>> = chosen.iter().map(|at| scaled[*at].clone()).collect();
        let mut best: Option<(f64, usize)> = None;
        for at in (0..scaled.len()).filter(|at| !chosen.contains(at)) {
            points.push(scaled[at].clone());
            let with = hypervolume(&mut points.clone(), REFERENCE);
            points.pop();
            if best.is_none_or(|(known, _)| with > known) {
                best = Some((with, at));
            }
        }
        let Some((with, at)) = best else { break };
        // None adds anything: those are taken that lie apart.
        if with <= volume {
            let rest: Vec<usize> = (0..losses.len()).filter(|at| !chosen.contains(at)).collect();
            let apart: Vec<&[f64]> = rest.iter().map(|at| losses[*at]).collect();
            chosen.extend(least_crowded(&apart, count - chosen.len()).into_iter().map(|at| rest[at]));
            break;
        }
        volume = with;
        chosen.push(at);
    }
    chosen
}

/// What lies beyond it counts for nothing, where losses go from 0 to 1.
const REFERENCE: f64 = 1.1;

/// Losses from 0, the least, to 1, the most, in each objective.
#[must_use]
pub fn scaled(losses: &[&[f64]]) -> Vec<Vec<f64>> {
    let objectives = losses.first().map_or(0, |first| first.len());
    let bound = |at: usize, start: f64, take: fn(f64, f64) -> f64| losses.iter().map(|one| one[at]).fold(start, take);
    let lows: Vec<f64> = (0..objectives).map(|at| bound(at, f64::INFINITY, f64::min)).collect();
    let highs: Vec<f64> = (0..objectives).map(|at| bound(at, f64::NEG_INFINITY, f64::max)).collect();
    let scale =
        |at: usize, loss: f64| if highs[at] > lows[at] { (loss - lows[at]) / (highs[at] - lows[at]) } else { 0.0 };
    losses.iter().map(|one| one.iter().enumerate().map(|(at, loss)| scale(at, *loss)).collect()).collect()
}

/// The volume that points dominate, up to the same loss `reference` in each objective: slices along the last objective, each of one
/// dimension less (Knowles, 2002). The order of the points is changed.
#[must_use]
pub fn hypervolume(points: &mut [Vec<f64>], reference: f64) -> f64 {
    let dimensions = points.first().map_or(0, Vec::len);
    sliced(points, dimensions, reference)
}

fn sliced(points: &mut [Vec<f64>], dimensions: usize, reference: f64) -> f64 {
    if dimensions == 0 || points.is_empty() {
        return 0.0;
    }
    let last = dimensions - 1;
    if dimensions == 1 {
        let least = points.iter().map(|point| point[0]).fold(reference, f64::min);
        return reference - least;
    }
    points.sort_by(|one, other| one[last].total_cmp(&other[last]));
    if dimensions == 2 {
        // From the best in the second objective on, each adds the strip that it is the first to reach.
        let (mut volume, mut edge) = (0.0, reference);
        for point in points.iter().filter(|point| point[1] < reference) {
            if point[0] < edge {
                volume += (edge - point[0]) * (reference - point[1]);
                edge = point[0];
            }
        }
        return volume;
    }
    let mut volume = 0.0;
    for upto in 1..=points.len() {
        let low = points[upto - 1][last];
        let high = points.get(upto).map_or(reference, |next| next[last]).min(reference);
        if high > low {
            let mut below: Vec<Vec<f64>> = points[..upto].to_vec();
            volume += (high - low) * sliced(&mut below, last, reference);
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, Stream};

    fn archive(most: usize, losses: &[[f64; 2]]) -> Archive {
        let mut archive = Archive::new(most);
        losses.iter().zip(0..).for_each(|(losses, id)| archive.insert(TrialId(id), losses.to_vec()));
        archive
    }

    #[test]
    fn fronts_come_one_after_the_other() {
        let all = archive(10, &[[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [2.0, 4.0], [5.0, 5.0], [2.0, 2.0]]);
        assert_eq!(all.fronts(10), [vec![0, 1, 2, 6], vec![3, 4], vec![5]]);
        let three = archive(3, &[[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [5.0, 5.0]]);
        let best = three.best(3, |_, front, room| least_crowded(front, room));
        assert_eq!(best, [(0, 0), (1, 0), (2, 0)], "what three others dominate is not kept");
        assert_eq!(three.entries().len(), 4);
    }

    /// Against what is told by comparing all with all.
    #[test]
    fn the_best_of_the_archive_are_those_of_all() {
        let mut stream = Stream::new(3, 0, Purpose::Prior, 0);
        let all: Vec<[f64; 2]> = (0..300).map(|_| [stream.below(40) as f64, stream.below(40) as f64]).collect();
        let whole = archive(all.len(), &all);
        let small = archive(20, &all);
        assert!(small.entries().len() < 150, "{}", small.entries().len());
        let rank = |archive: &Archive| -> Vec<Vec<u64>> {
            let ids = |front: Vec<usize>| front.iter().map(|at| archive.entries()[*at].id.0).collect();
            archive.fronts(20).into_iter().map(ids).collect()
        };
        assert_eq!(rank(&small), rank(&whole));
    }

    #[test]
    fn volumes_are_those_of_boxes() {
        assert_eq!(hypervolume(&mut [vec![0.5, 0.5]], 1.0), 0.25);
        assert_eq!(hypervolume(&mut [vec![0.0, 0.5], vec![0.5, 0.0], vec![0.5, 0.5]], 1.0), 0.75);
        assert_eq!(hypervolume(&mut [vec![0.5, 0.5, 0.5]], 1.0), 0.125);
        let mut three = [vec![0.0, 0.5, 0.5], vec![0.5, 0.0, 0.5], vec![0.5, 0.5, 0.0]];
        assert_eq!(hypervolume(&mut three, 1.0), 0.5);
        assert_eq!(hypervolume(&mut [vec![2.0, 0.0], vec![0.0, 2.0]], 1.0), 0.0, "beyond the reference there is none");
    }

    #[test]
    fn those_that_lie_apart_are_chosen() {
        let losses: [&[f64]; 5] = [&[0.0, 4.0], &[0.1, 3.9], &[2.0, 2.0], &[3.9, 0.1], &[4.0, 0.0]];
        assert_eq!(crowding(&losses)[0], f64::INFINITY);
        let mut chosen = least_crowded(&losses, 3);
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 2, 4]);
        assert_eq!(most_volume(&losses, 1), [2]);
        assert_eq!(most_volume(&[&[1.0, 1.0], &[1.0, 1.0]], 2).len(), 2, "all alike");
        assert_eq!(crowding(&[&[1.0, 1.0]]), [f64::INFINITY]);
    }
}
