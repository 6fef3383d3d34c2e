//! What finished jobs tell of those that are not: an order of jobs without knowledge of how long they run.
//!
//! Jobs that look alike (a group: their owner, their size) are taken to have run times of one distribution, that of those that finished. A job that has run for *a* is
//! given the least it can be expected to cost per completion: over all times *t* to go on for, the expected time it runs until *t* by the
//! probability that it ends by then. That is the inverse of Gittins' index; serving the least first is best for the mean where one job
//! runs at a time. Where run times have a heavy tail it is near to least attained service, and where they have modes it is not.

use std::collections::BTreeMap;

/// Steps in which a run time doubles.
const STEPS: f64 = 4.0;
/// Buckets: from one second to 2^24 of them (194 days).
const BUCKETS: usize = 97;
/// Jobs of a group that count as much as what is known of all.
const TRUST: f64 = 20.0;

/// Run times of jobs that finished.
#[derive(Clone, Debug)]
pub struct Learned {
    all: Vec<f64>,
    groups: BTreeMap<u64, Group>,
    seen: u64,
}

#[derive(Clone, Debug)]
struct Group {
    counts: Vec<f64>,
    /// Cost by completion, by bucket of the time run so far, and how many jobs had been seen when it was found.
    costs: Vec<f64>,
    seen: u64,
}

impl Default for Learned {
    fn default() -> Self {
        // Before anything is known, every order of magnitude is as likely as any other.
        Self { all: vec![0.25; BUCKETS], groups: BTreeMap::new(), seen: 0 }
    }
}

impl Learned {
    /// A job of a group finished.
    pub fn finished(&mut self, group: u64, ran_ms: i64) {
        let at = bucket(ran_ms);
        self.seen += 1;
        self.all[at] += 1.0;
        self.group(group).counts[at] += 1.0;
    }

    /// The time in milliseconds that a job which has run for `ran_ms` is expected to cost for a completion.
    pub fn cost_ms(&mut self, group: u64, ran_ms: i64) -> f64 {
        let (seen, all) = (self.seen, self.all.clone());
        let group = self.group(group);
        // What was learned since then changes little.
        if group.costs.is_empty() || seen > group.seen + group.seen / 16 {
            group.costs = costs(&mix(&group.counts, &all));
            group.seen = seen;
        }
        group.costs[bucket(ran_ms)] * 1_000.0
    }

    fn group(&mut self, group: u64) -> &mut Group {
        self.groups.entry(group).or_insert_with(|| Group { counts: vec![0.0; BUCKETS], costs: Vec::new(), seen: 0 })
    }
}

/// What is known of a group, and as much of all as the group's own does not outweigh.
fn mix(own: &[f64], all: &[f64]) -> Vec<f64> {
    let whole: f64 = all.iter().sum();
    own.iter().zip(all).map(|(own, all)| own + all / whole * TRUST).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the number of buckets")]
fn bucket(ran_ms: i64) -> usize {
    let seconds = (ran_ms as f64 / 1_000.0).max(1.0);
    ((seconds.log2() * STEPS) as usize).min(BUCKETS - 1)
}

/// Seconds at which a bucket begins.
fn begins(bucket: usize) -> f64 {
    (bucket as f64 / STEPS).exp2()
}

/// For each time run so far, the least expected time for a completion.
fn costs(counts: &[f64]) -> Vec<f64> {
    let mut costs = vec![0.0; BUCKETS];
    for (from, cost) in costs.iter_mut().enumerate() {
        let alive: f64 = counts[from..].iter().sum();
        let start = if from == 0 { 0.0 } else { begins(from) };
        let (mut done, mut spent, mut best) = (0.0, 0.0, f64::INFINITY);
        for (at, count) in counts.iter().enumerate().skip(from) {
            let (low, high) = (if at == from { start } else { begins(at) }, begins(at + 1));
            // Who ends in this bucket does so in its middle; who does not runs through it.
            spent += (high - low) * (alive - done - count / 2.0);
            done += count;
            if done > 0.0 {
                best = best.min(spent / done);
            }
        }
        *cost = best;
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::Learned;

    #[test]
    fn with_a_heavy_tail_who_ran_longer_costs_more() {
        let mut learned = Learned::default();
        for (ran_ms, times) in [(60_000, 1_000), (600_000, 100), (6_000_000, 50), (600_000_000, 20)] {
            (0..times).for_each(|_| learned.finished(1, ran_ms));
        }
        let costs: Vec<f64> = [0, 100_000, 1_000_000, 10_000_000].map(|ran| learned.cost_ms(1, ran)).to_vec();
        assert!(costs.windows(2).all(|pair| pair[0] < pair[1]), "{costs:?}");
    }

    #[test]
    fn who_is_nearly_done_costs_less() {
        let mut learned = Learned::default();
        (0..1_000).for_each(|_| learned.finished(7, 3_600_000));
        assert!(learned.cost_ms(7, 3_000_000) < learned.cost_ms(7, 60_000));
        // A group of which nothing is known follows all.
        assert!(learned.cost_ms(8, 3_000_000) < learned.cost_ms(8, 60_000));
    }
}
