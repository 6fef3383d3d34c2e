//! Two scenarios of Kueue's own performance tests (`test/performance/scheduler/configs` of its repository), by our engine: workloads come
//! by the clock, run for a fixed time, and are through when the last of them has ended. The clock is the real one, so that time spent
//! on decisions is time in which quota stands idle: whoever ended gives room only when the next decision sees it.
//!
//! It is the engine alone, in this process: there is no API server, no object and no write. A workload that is stopped begins anew, as
//! under Kueue's runner.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_coordinator_core::schedule::{
    ClusterQueue, Cohort, Gang, Node, Phase, Policy, PreemptionPolicy, Quota, Role, Shape, View, decide,
};

const START_MS: i64 = 1_700_000_000_000;
/// Quota of a queue, and what it may borrow at most.
const QUOTA: i64 = 20;
const BORROWING: i64 = 100;

#[derive(Parser)]
struct Arguments {
    /// Which
    #[arg(long, value_delimiter = ',', default_value = "large-scale")]
    scenarios: Vec<Which>,
    /// How often
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how long a workload that began is not stopped for others; without it the policy's own time, which is longer than any workload here runs
    #[arg(long)]
    min_run_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// 50,000 workloads in 1,000 queues
    LargeScale,
    /// 15,000 workloads in 30 queues
    Baseline,
}

/// Workloads of one kind in each queue.
struct Class {
    name: &'static str,
    count: usize,
    every_ms: i64,
    run_ms: i64,
    priority: i32,
    request: i64,
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

struct Scenario {
    name: &'static str,
    cohorts: usize,
    queues: usize,
    classes: [Class; 3],
    limit_s: f64,
}

impl Which {
    fn scenario(self) -> Scenario {
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
    fn total(&self) -> usize {
        self.cohorts * self.queues * self.classes.iter().map(|class| class.count).sum::<usize>()
    }

    /// Seconds that the work takes if the quota is never idle.
    #[expect(clippy::cast_precision_loss)]
    fn floor_s(&self) -> f64 {
        let of = |class: &Class| class.count as f64 * class.run_ms as f64 * class.request as f64;
        self.classes.iter().map(of).sum::<f64>() / (QUOTA as f64 * 1_000.0)
    }

    /// One node that has room for everything: only quotas decide, as there.
    fn view(&self, policy: Policy) -> View {
        let quota = Quota { resource: 0, nominal: QUOTA, borrowing_limit: Some(BORROWING), lending_limit: None };
        let cohort =
            |at| Cohort { name: format!("cohort-{at}"), parent: None, quotas: Vec::new(), weight_milli: 1_000 };
        let queue = |at: usize| ClusterQueue {
            name: format!("queue-{at}"),
            cohort: u32::try_from(at / self.queues).ok(),
            quotas: vec![quota],
            weight_milli: 1_000,
            within_cluster_queue: PreemptionPolicy::LowerPriority,
            reclaim_within_cohort: PreemptionPolicy::Any,
            ..ClusterQueue::default()
        };
        View {
            resources: vec!["cpu".to_owned()],
            nodes: vec![Node { name: "all".to_owned(), capacity: vec![i64::from(i32::MAX)], ..Node::default() }],
            cohorts: (0..self.cohorts).map(cohort).collect(),
            queues: (0..self.cohorts * self.queues).map(queue).collect(),
            gangs: Vec::new(),
            policy,
        }
    }

    /// All workloads, by when they come: (moment, queue, class).
    fn arrivals(&self) -> Vec<(i64, usize, usize)> {
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

    fn shapes(&self) -> Vec<Arc<Shape>> {
        let shape = |class: &Class| {
            let role = Role { count: 1, min: 1, requests: vec![class.request], ..Role::default() };
            Arc::new(Shape { roles: vec![role], ..Shape::default() })
        };
        self.classes.iter().map(shape).collect()
    }
}

/// One run of a scenario.
struct Run<'a> {
    scenario: &'a Scenario,
    began: Instant,
    view: View,
    shapes: Vec<Arc<Shape>>,
    waits: Vec<Samples>,
    decisions: Samples,
    preempted: usize,
    ended: usize,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, policy: Policy) -> Self {
        Self {
            scenario,
            began: Instant::now(),
            view: scenario.view(policy),
            shapes: scenario.shapes(),
            waits: scenario.classes.iter().map(|_| Samples::default()).collect(),
            decisions: Samples::default(),
            preempted: 0,
            ended: 0,
        }
    }

    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX / 2)
    }

    /// When a workload has run for its time, if it runs.
    fn end_ms(&self, gang: &Gang) -> Option<i64> {
        let Phase::Running { since_ms, .. } = &gang.phase else { return None };
        Some(since_ms + self.scenario.classes[self.kind(gang)].run_ms)
    }

    /// Each class has a priority of its own.
    fn kind(&self, gang: &Gang) -> usize {
        self.scenario.classes.iter().position(|class| class.priority == gang.priority).unwrap_or(0)
    }

    fn all(mut self) -> Result<(Duration, Self), Error> {
        let arrivals = self.scenario.arrivals();
        let mut next = 0;
        while self.ended < arrivals.len() {
            let now_ms = self.now_ms();
            let gangs = std::mem::take(&mut self.view.gangs);
            let (over, rest): (Vec<Gang>, Vec<Gang>) =
                gangs.into_iter().partition(|gang| self.end_ms(gang).is_some_and(|end| end <= now_ms));
            (self.view.gangs, self.ended) = (rest, self.ended + over.len());
            let mut changed = !over.is_empty();
            while let Some((at_ms, queue, kind)) = arrivals.get(next).filter(|(at, ..)| START_MS + at <= now_ms) {
                self.submit(next, START_MS + at_ms, *queue, *kind);
                (next, changed) = (next + 1, true);
            }
            if changed {
                self.decide();
                continue;
            }
            let ends = self.view.gangs.iter().filter_map(|gang| self.end_ms(gang)).min();
            let soonest = arrivals.get(next).map(|(at, ..)| START_MS + at).into_iter().chain(ends).min();
            let Some(soonest) = soonest else {
                return Err(Error::Request(format!("{} of {} never start", self.view.gangs.len(), arrivals.len())));
            };
            std::thread::sleep(Duration::from_millis(u64::try_from(soonest - now_ms).unwrap_or(0)));
        }
        Ok((self.began.elapsed(), self))
    }

    fn submit(&mut self, number: usize, at_ms: i64, queue: usize, kind: usize) {
        self.view.gangs.push(Gang {
            name: format!("team/{number}"),
            queue: u32::try_from(queue).unwrap_or(0),
            priority: self.scenario.classes[kind].priority,
            submitted_ms: at_ms,
            shape: Arc::clone(&self.shapes[kind]),
            options: Vec::new(),
            run_limit_ms: None,
            expected_ms: None,
            preemptible: true,
            phase: Phase::Waiting { reservation: None },
            leaving: Vec::new(),
        });
    }

    fn decide(&mut self) {
        let began = Instant::now();
        let decision = decide(&self.view, self.now_ms());
        self.decisions.push(began.elapsed());
        let now_ms = self.now_ms();
        self.preempted += decision.preemptions.len();
        decision.apply(&mut self.view, now_ms);
        for admission in &decision.admissions {
            let gang = &self.view.gangs[admission.gang as usize];
            let kind = self.kind(gang);
            let waited = Duration::from_millis(u64::try_from(now_ms - gang.submitted_ms).unwrap_or(0));
            self.waits[kind].push(waited);
        }
        // They stop at once, as Kueue's simulated workloads do.
        self.view.gangs.iter_mut().for_each(|gang| gang.leaving.clear());
    }
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| scenario | workloads | floor s | limit s | all ended after s | decisions | a decision takes: p50 / p99 / max ms | median wait s | preempted |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    let defaults = Policy::default();
    let policy = Policy { min_run_ms: arguments.min_run_ms.unwrap_or(defaults.min_run_ms), ..defaults };
    for which in &arguments.scenarios {
        let scenario = which.scenario();
        for _ in 0..arguments.rounds {
            let (took, run) = Run::new(&scenario, policy.clone()).all()?;
            let wait =
                |(class, waits): (&Class, &Samples)| format!("{} {:.2}", class.name, waits.quantile(0.5).as_secs_f64());
            let waits: Vec<String> = scenario.classes.iter().zip(&run.waits).map(wait).collect();
            writeln!(
                out,
                "| {} | {} | {:.2} | {:.0} | {:.2} | {} | {} | {} | {} |",
                scenario.name,
                scenario.total(),
                scenario.floor_s(),
                scenario.limit_s,
                took.as_secs_f64(),
                run.decisions.len(),
                run.decisions.line(),
                waits.join(", "),
                run.preempted
            )?;
            out.flush()?;
        }
    }
    Ok(())
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
    }
}
