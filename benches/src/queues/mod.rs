//! Scenarios of Kueue's own performance tests (`test/performance/scheduler/configs` of its repository): queues with quota, and workloads that come by
//! the clock and run for a fixed time.

pub mod objects;

use clap::ValueEnum;

/// Quota of a queue.
pub const QUOTA: i64 = 20;
/// What a queue may borrow at most.
pub const BORROWING: i64 = 100;

/// Which of the scenarios.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Which {
    /// 50,000 workloads in 1,000 queues
    LargeScale,
    /// 15,000 workloads in 30 queues
    Baseline,
}

/// Workloads of one kind in each queue.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// What to call it.
    pub name: &'static str,
    /// How many come to each queue.
    pub count: usize,
    /// One comes after so long, and again.
    pub every_ms: i64,
    /// For how long it runs.
    pub run_ms: i64,
    /// Its priority.
    pub priority: i32,
    /// What it takes of a queue's quota.
    pub request: i64,
}

impl Class {
    const fn new(
        name: &'static str,
        count: usize,
        (every_ms, run_ms): (i64, i64),
        priority: i32,
        request: i64,
    ) -> Self {
        Self { name, count, every_ms, run_ms, priority, request }
    }
}

/// Queues, and what comes to them.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What to call it.
    pub name: &'static str,
    /// Cohorts.
    pub cohorts: usize,
    /// Queues of each.
    pub queues: usize,
    /// Kinds of workloads.
    pub classes: [Class; 3],
    /// How long it may take.
    pub limit_s: f64,
}

impl Which {
    /// With its numbers.
    #[must_use]
    pub fn scenario(self) -> Scenario {
        match self {
            Self::LargeScale => Scenario {
                name: "large-scale",
                cohorts: 10,
                queues: 100,
                classes: [
                    Class::new("small", 35, (60, 150), 50, 1),
                    Class::new("medium", 11, (300, 350), 100, 5),
                    Class::new("large", 4, (700, 700), 200, 20),
                ],
                limit_s: 10.0,
            },
            Self::Baseline => Scenario {
                name: "baseline",
                cohorts: 5,
                queues: 6,
                classes: [
                    Class::new("small", 350, (100, 200), 50, 1),
                    Class::new("medium", 100, (500, 500), 100, 5),
                    Class::new("large", 50, (1_200, 1_000), 200, 20),
                ],
                limit_s: 72.0,
            },
        }
    }
}

impl Scenario {
    /// Workloads.
    #[must_use]
    pub fn total(&self) -> usize {
        self.cohorts * self.queues * self.classes.iter().map(|class| class.count).sum::<usize>()
    }

    /// The same with one of `share` queues of each cohort: less workloads, in as much time.
    #[must_use]
    pub fn part(mut self, share: usize) -> Self {
        self.queues = (self.queues / share.max(1)).max(1);
        self
    }

    /// Seconds that the work takes if the quota is never idle.
    #[expect(clippy::cast_precision_loss)]
    #[must_use]
    pub fn floor_s(&self) -> f64 {
        let of = |class: &Class| class.count as f64 * class.run_ms as f64 * class.request as f64;
        self.classes.iter().map(of).sum::<f64>() / (QUOTA as f64 * 1_000.0)
    }

    /// All workloads, by when they come: (moment, queue, class).
    #[must_use]
    pub fn arrivals(&self) -> Vec<(i64, usize, usize)> {
        let mut all = Vec::with_capacity(self.total());
        for (kind, class) in self.classes.iter().enumerate() {
            for queue in 0..self.cohorts * self.queues {
                all.extend(
                    (1..=class.count).map(|nth| (class.every_ms * i64::try_from(nth).unwrap_or(0), queue, kind)),
                );
            }
        }
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenarios_are_those_of_which_the_floors_are_known() {
        let (large, base) = (Which::LargeScale.scenario(), Which::Baseline.scenario());
        assert_eq!((large.total(), base.total()), (50_000, 15_000));
        assert!((large.floor_s() - 4.025).abs() < 1e-9 && (base.floor_s() - 66.0).abs() < 1e-9);
        assert_eq!(large.arrivals().len(), 50_000);
        let names: Vec<&str> = large.classes.iter().map(|class| class.name).collect();
        assert_eq!(names, ["small", "medium", "large"]);
        let part = large.part(10);
        assert!(part.total() == 5_000 && (part.floor_s() - 4.025).abs() < 1e-9);
    }
}
