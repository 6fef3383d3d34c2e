//! What finished jobs tell of those that are not: an order of jobs without knowledge of how long they run.
//!
//! Jobs that look alike (a group: their owner, their size) are taken to have run times of one distribution, which both
//! those that finished and those that go on tell of: who has run for a day and goes on ended in none of the hours
//! before. What is estimated is, for each time run so far, the part that ends soon after (as Kaplan and Meier do);
//! where few of a group came so far, what is known of all counts more. A job that has run for *a* is given the least it
//! can be expected to cost per completion: over all times *t* to go on for, the expected time it runs until *t* by the
//! probability that it ends by then. That is the inverse of Gittins' index; serving the least first is best for the
//! mean where one job runs at a time. Where run times have a heavy tail it is near to least attained service, and where
//! they have modes it is not.

use std::collections::BTreeMap;

/// Steps in which a run time doubles.
const STEPS: f64 = 4.0;
/// Buckets: from one second to 2^24 of them (194 days).
const BUCKETS: usize = 97;
/// So many jobs of a group that came so far count as much as what is known of all.
const TRUST: f64 = 5.0;

/// Run times of jobs that finished, and of those that go on.
#[derive(Clone, Debug)]
pub struct Learned {
    all: Times,
    groups: BTreeMap<u64, Group>,
    seen: u64,
}

/// How many jobs, by bucket of the time they ran.
#[derive(Clone, Debug)]
struct Times {
    ended: Vec<f64>,
    going: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Group {
    times: Times,
    /// Cost by completion, by bucket of the time run so far, and how many jobs had been seen when it was found.
    costs: Vec<f64>,
    seen: u64,
}

impl Default for Learned {
    fn default() -> Self {
        // Before anything is known, every order of magnitude is as likely as any other.
        Self { all: Times::new(0.25), groups: BTreeMap::new(), seen: 0 }
    }
}

impl Learned {
    /// A job of a group finished.
    pub fn finished(&mut self, group: u64, ran_ms: i64) {
        let at = bucket(ran_ms);
        self.seen += 1;
        self.all.ended[at] += 1.0;
        self.group(group).times.ended[at] += 1.0;
    }

    /// The jobs that are not finished: the group of each, and how long it has run. Those that were told before are
    /// forgotten.
    pub fn going(&mut self, jobs: impl IntoIterator<Item = (u64, i64)>) {
        self.all.going.fill(0.0);
        self.groups.values_mut().for_each(|group| group.times.going.fill(0.0));
        for (group, ran_ms) in jobs {
            let at = bucket(ran_ms);
            self.all.going[at] += 1.0;
            self.group(group).times.going[at] += 1.0;
        }
    }

    /// The time in milliseconds that a job which has run for `ran_ms` is expected to cost for a completion.
    pub fn cost_ms(&mut self, group: u64, ran_ms: i64) -> f64 {
        let seen = self.seen;
        let known = self.group(group);
        // What was learned since then changes little.
        if known.costs.is_empty() || seen > known.seen + known.seen / 16 {
            let all = self.all.hazard(None);
            let known = self.group(group);
            known.costs = costs(&known.times.hazard(Some(&all)));
            known.seen = seen;
        }
        self.group(group).costs[bucket(ran_ms)] * 1_000.0
    }

    fn group(&mut self, group: u64) -> &mut Group {
        self.groups.entry(group).or_insert_with(|| Group { times: Times::new(0.0), costs: Vec::new(), seen: 0 })
    }
}

impl Times {
    fn new(each: f64) -> Self {
        Self { ended: vec![each; BUCKETS], going: vec![0.0; BUCKETS] }
    }

    /// For each bucket, of the jobs that come to it the part that ends in it.
    fn hazard(&self, prior: Option<&[f64]>) -> Vec<f64> {
        let mut hazard = vec![0.0; BUCKETS];
        let mut came = 0.0;
        for at in (0..BUCKETS).rev() {
            came += self.ended[at] + self.going[at];
            hazard[at] =
                prior.map_or(self.ended[at] / came, |prior| (self.ended[at] + TRUST * prior[at]) / (came + TRUST));
        }
        hazard
    }
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
fn costs(hazard: &[f64]) -> Vec<f64> {
    let mut costs = vec![0.0; BUCKETS];
    for (from, cost) in costs.iter_mut().enumerate() {
        let start = if from == 0 { 0.0 } else { begins(from) };
        let (mut alive, mut spent, mut best) = (1.0, 0.0, f64::INFINITY);
        for (at, hazard) in hazard.iter().enumerate().skip(from) {
            let (low, high) = (if at == from { start } else { begins(at) }, begins(at + 1));
            let ends = alive * hazard;
            // Who ends in this bucket does so in its middle; who does not runs through it.
            spent += (high - low) * (alive - ends / 2.0);
            alive -= ends;
            if alive < 1.0 {
                best = best.min(spent / (1.0 - alive));
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

    #[test]
    fn who_goes_on_tells_that_it_takes_longer() {
        let mut learned = Learned::default();
        (0..100).for_each(|_| learned.finished(3, 60_000));
        let before = learned.clone().cost_ms(3, 1_000_000);
        learned.going((0..100).map(|_| (3, 100_000_000)));
        let after = learned.clone().cost_ms(3, 1_000_000);
        assert!(after > before * 2.0, "{before} {after}");
        // Who was told of before is forgotten.
        learned.going([]);
        assert!((learned.cost_ms(3, 1_000_000) - before).abs() < 1e-6);
    }
}
