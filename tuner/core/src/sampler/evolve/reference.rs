//! Directions that are spread evenly over the objectives, and which trials of a front lie nearest to them (Deb and Jain, 2014).

/// Of a front, `room` that lie along directions that the fewest of those inside, and chosen before, lie along.
pub(super) fn spread(inside: &[&[f64]], front: &[&[f64]], room: usize, population: usize) -> Vec<usize> {
    let all: Vec<&[f64]> = inside.iter().chain(front).copied().collect();
    let scaled = crate::pareto::scaled(&all);
    let directions = directions(scaled.first().map_or(0, Vec::len), population);
    let (inside, front) = scaled.split_at(inside.len());
    let mut crowds = vec![0_usize; directions.len()];
    for point in inside {
        crowds[nearest(point, &directions).0] += 1;
    }
    let mut left: Vec<(usize, usize, f64)> = Vec::with_capacity(front.len());
    for (at, point) in front.iter().enumerate() {
        let (direction, distance) = nearest(point, &directions);
        left.push((at, direction, distance));
    }
    left.sort_by(|one, other| one.2.total_cmp(&other.2).then(one.0.cmp(&other.0)));
    let mut chosen = Vec::with_capacity(room);
    while chosen.len() < room {
        // Of equal crowds the nearest to its direction is first.
        let next = (0..left.len()).min_by_key(|at| crowds[left[*at].1]);
        let Some(next) = next else { break };
        let (at, direction, _) = left.remove(next);
        crowds[direction] += 1;
        chosen.push(at);
    }
    chosen
}

/// The direction that a point lies nearest to, and how far from it.
fn nearest(point: &[f64], directions: &[Vec<f64>]) -> (usize, f64) {
    let distance = |direction: &Vec<f64>| {
        let product: f64 = point.iter().zip(direction).map(|(x, d)| x * d).sum();
        let length: f64 = direction.iter().map(|d| d * d).sum();
        let along = product / length;
        point.iter().zip(direction).map(|(x, d)| (x - along * d).powi(2)).sum::<f64>().sqrt()
    };
    let all = directions.iter().enumerate().map(|(at, direction)| (at, distance(direction)));
    all.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap_or((0, 0.0))
}

/// Weights of the objectives that add up to 1, in equal steps (Das and Dennis, 1998): the fewest steps with which there are at least as
/// many as wanted.
fn directions(objectives: usize, wanted: usize) -> Vec<Vec<f64>> {
    if objectives < 2 {
        return vec![vec![1.0; objectives]];
    }
    let mut steps = 1;
    while count(objectives, steps) < wanted {
        steps += 1;
    }
    let mut all = Vec::new();
    fill(&mut vec![0; objectives], 0, steps, &mut |parts| {
        all.push(parts.iter().map(|part| *part as f64 / steps as f64).collect());
    });
    all
}

/// How many ways there are to give `steps` to the objectives.
fn count(objectives: usize, steps: usize) -> usize {
    (1..objectives).fold(1, |product, at| product * (steps + at) / at)
}

fn fill(parts: &mut Vec<usize>, at: usize, left: usize, each: &mut impl FnMut(&[usize])) {
    if at + 1 == parts.len() {
        parts[at] = left;
        each(parts);
        return;
    }
    for part in 0..=left {
        parts[at] = part;
        fill(parts, at + 1, left - part, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_spread_evenly() {
        assert_eq!(directions(2, 3), [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        let three = directions(3, 50);
        assert_eq!((three.len(), count(3, 9)), (55, 55));
        assert!(three.iter().all(|one| (one.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    }

    #[test]
    fn directions_without_anybody_come_first() {
        let inside: [&[f64]; 2] = [&[0.0, 1.0], &[0.05, 0.95]];
        let front: [&[f64]; 4] = [&[0.02, 0.98], &[0.5, 0.5], &[0.52, 0.49], &[1.0, 0.0]];
        assert_eq!(spread(&inside, &front, 2, 3), [1, 3]);
        assert_eq!(spread(&inside, &front, 9, 3).len(), 4);
    }
}
