//! Replay of a cluster's trace: the engine of production decides at every arrival, end and change of class.
//!
//! All GPUs are one pool, as in the papers that use these traces; a job is all its GPUs or none of them. A job that is preempted goes on later
//! where it was, and pays [`Options::preemption_cost_ms`] each time.

mod philly;
mod policy;
mod report;

use std::sync::Arc;

use trainyard_coordinator_core::schedule::{
    ClusterQueue, Gang, Learned, Node, Phase, PreemptionPolicy, QueueingStrategy, Role, Shape, View, decide,
};

pub use philly::{TraceError, parse};
pub use policy::Policy;
pub use report::Report;

/// One job of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it was submitted.
    pub submit_ms: i64,
    /// How long it runs; nobody but perfect policies is told.
    pub run_ms: i64,
    /// GPUs.
    pub gpus: u32,
    /// Whose it is.
    pub owner: u64,
}

/// What is replayed on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// GPUs of the pool.
    pub gpus: u32,
    /// Who goes first.
    pub policy: Policy,
    /// What a job that was preempted has to do again.
    pub preemption_cost_ms: i64,
    /// A running job's class is looked at this often.
    pub quantum_ms: i64,
}

impl Options {
    /// With a minute for each preemption, and a look every ten minutes.
    #[must_use]
    pub const fn new(gpus: u32, policy: Policy) -> Self {
        Self { gpus, policy, preemption_cost_ms: 60_000, quantum_ms: 600_000 }
    }
}

/// A job in the middle of it.
struct Live {
    job: usize,
    /// What it still has to do, as of `since_ms` if it runs.
    left_ms: i64,
    /// What it did, of which nobody needs to be told.
    done_ms: i64,
    since_ms: Option<i64>,
}

struct Replay<'a> {
    jobs: &'a [Job],
    options: Options,
    view: View,
    /// Beside `view.gangs`.
    live: Vec<Live>,
    shapes: Vec<Option<Arc<Shape>>>,
    learned: Learned,
    report: Report,
    next: usize,
    now_ms: i64,
    busy: u32,
}

/// Replays a trace.
#[must_use]
pub fn replay(jobs: &[Job], options: Options) -> Report {
    let mut replay = Replay::new(jobs, options);
    while replay.step() {}
    replay.report.finish(options.gpus)
}

impl<'a> Replay<'a> {
    fn new(jobs: &'a [Job], options: Options) -> Self {
        let preempts = options.policy.preempts();
        let queue = ClusterQueue {
            name: "trace".to_owned(),
            weight_milli: 1_000,
            queueing_strategy: options.policy.strategy(),
            within_cluster_queue: if preempts { PreemptionPolicy::LowerPriority } else { PreemptionPolicy::Never },
            ..ClusterQueue::default()
        };
        let node = Node { name: "pool".to_owned(), capacity: vec![i64::from(options.gpus)], ..Node::default() };
        let mut view = View {
            resources: vec!["nvidia.com/gpu".to_owned()],
            nodes: vec![node],
            queues: vec![queue],
            ..View::default()
        };
        view.policy.min_run_ms = 0;
        view.policy.age_after_ms = i64::MAX / 4;
        view.policy.reservations = 0;
        Self {
            jobs,
            options,
            view,
            live: Vec::new(),
            shapes: Vec::new(),
            learned: Learned::default(),
            report: Report::default(),
            next: 0,
            now_ms: jobs.first().map_or(0, |job| job.submit_ms),
            busy: 0,
        }
    }

    /// The next moment at which something happens; whether there is one.
    fn step(&mut self) -> bool {
        let arrival = self.jobs.get(self.next).map(|job| job.submit_ms);
        let end = self.live.iter().filter_map(|live| Some(live.since_ms? + live.left_ms)).min();
        let waits = self.live.iter().any(|live| live.since_ms.is_none());
        let look = (waits && self.options.policy.drifts()).then_some(self.now_ms + self.options.quantum_ms);
        let Some(next) = arrival.into_iter().chain(end).min() else { return false };
        let next = look.map_or(next, |look| look.min(next));
        let free = self.options.gpus - self.busy;
        self.report.pass(next - self.now_ms, self.busy, free, waits);
        self.now_ms = next;
        self.end();
        self.arrive();
        if self.live.iter().any(|live| live.since_ms.is_none()) {
            self.rank();
            self.decide();
        }
        true
    }

    fn end(&mut self) {
        let now = self.now_ms;
        let mut at = 0;
        while at < self.live.len() {
            let live = &self.live[at];
            if live.since_ms.is_none_or(|since| since + live.left_ms > now) {
                at += 1;
                continue;
            }
            let job = &self.jobs[live.job];
            self.learned.finished(policy::group(job), job.run_ms);
            self.report.end(now - job.submit_ms);
            self.busy -= job.gpus;
            self.live.remove(at);
            self.view.gangs.remove(at);
        }
    }

    fn arrive(&mut self) {
        while let Some(job) = self.jobs.get(self.next).filter(|job| job.submit_ms <= self.now_ms) {
            self.next += 1;
            if job.gpus > self.options.gpus || job.gpus == 0 {
                self.report.refused += 1;
                continue;
            }
            let shape = self.shape(job.gpus);
            self.view.gangs.push(Gang {
                name: format!("{:09}", self.next),
                queue: 0,
                priority: 0,
                submitted_ms: job.submit_ms,
                shape,
                run_limit_ms: None,
                expected_ms: None,
                preemptible: true,
                phase: Phase::Waiting { reservation: None },
                leaving: Vec::new(),
            });
            self.live.push(Live { job: self.next - 1, left_ms: job.run_ms, done_ms: 0, since_ms: None });
        }
    }

    fn shape(&mut self, gpus: u32) -> Arc<Shape> {
        let at = gpus as usize;
        if self.shapes.len() <= at {
            self.shapes.resize(at + 1, None);
        }
        let make = || {
            let role = Role { count: 1, min: 1, requests: vec![i64::from(gpus)], ..Role::default() };
            Arc::new(Shape { roles: vec![role], ..Shape::default() })
        };
        Arc::clone(self.shapes[at].get_or_insert_with(make))
    }

    /// Gives each job its priority.
    fn rank(&mut self) {
        for (gang, live) in self.view.gangs.iter_mut().zip(&self.live) {
            let ran = live.since_ms.map_or(0, |since| self.now_ms - since);
            let known = policy::Known {
                job: &self.jobs[live.job],
                done_ms: live.done_ms + ran,
                left_ms: live.left_ms - ran,
                waited_ms: self.now_ms - self.jobs[live.job].submit_ms,
                running: live.since_ms.is_some(),
            };
            gang.priority = self.options.policy.priority(&known, &mut self.learned);
            if let Phase::Running { saved_ms, changed_ms, .. } = &mut gang.phase {
                // Nothing is lost but the cost of a preemption.
                *saved_ms = self.now_ms;
                *changed_ms = (*changed_ms).min(self.now_ms - 1);
            }
        }
    }

    fn decide(&mut self) {
        let decision = decide(&self.view, self.now_ms);
        for preemption in &decision.preemptions {
            let live = &mut self.live[preemption.gang as usize];
            if let Some(since) = live.since_ms.take() {
                let ran = self.now_ms - since;
                live.done_ms += ran;
                live.left_ms += self.options.preemption_cost_ms - ran;
                self.busy -= self.jobs[live.job].gpus;
                self.report.preemptions += 1;
            }
            self.view.gangs[preemption.gang as usize].phase = Phase::Waiting { reservation: None };
        }
        for admission in &decision.admissions {
            let live = &mut self.live[admission.gang as usize];
            live.since_ms = Some(self.now_ms);
            self.busy += self.jobs[live.job].gpus;
            let now = self.now_ms;
            let places = admission.places.clone();
            self.view.gangs[admission.gang as usize].phase =
                Phase::Running { since_ms: now, changed_ms: now, saved_ms: now, places };
        }
        self.report.decisions += 1;
    }
}

impl Policy {
    const fn strategy(self) -> QueueingStrategy {
        match self {
            Self::Fifo => QueueingStrategy::StrictFifo,
            Self::Skip | Self::Sjf | Self::Las | Self::Srtf | Self::Ours => QueueingStrategy::BestEffortFifo,
        }
    }

    const fn preempts(self) -> bool {
        match self {
            Self::Fifo | Self::Skip | Self::Sjf => false,
            Self::Las | Self::Srtf | Self::Ours => true,
        }
    }

    /// Whether a running job's priority changes while nothing happens.
    const fn drifts(self) -> bool {
        match self {
            Self::Fifo | Self::Skip | Self::Sjf | Self::Srtf => false,
            Self::Las | Self::Ours => true,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::{Job, Options, Policy, Report, parse, replay};

    const SMALL: &str = include_str!("trace/small.csv");

    fn with(policy: Policy) -> Report {
        replay(&parse(SMALL).unwrap(), Options::new(8, policy))
    }

    #[test]
    fn every_job_ends_under_every_policy() {
        let jobs = parse(SMALL).unwrap();
        let work: f64 =
            jobs.iter().filter(|job| job.gpus <= 8).map(|job| f64::from(job.gpus) * job.run_ms as f64).sum();
        for policy in [Policy::Fifo, Policy::Skip, Policy::Sjf, Policy::Las, Policy::Srtf, Policy::Ours] {
            let report = with(policy);
            assert_eq!(report.jobs + report.refused, jobs.len() as u64, "{policy:?}");
            assert!(report.p50_hours <= report.p99_hours && report.utilisation <= 1.0, "{policy:?}: {report:?}");
            assert_eq!(report.preemptions > 0, policy.preempts(), "{policy:?}: {report:?}");
            // Without preemption what was used is what was asked for.
            let used = report.used - work;
            assert!(used.abs() < 1.0 || (policy.preempts() && used > 0.0), "{policy:?}: {used}");
            assert_eq!(report, with(policy), "{policy:?}: a replay is the same each time");
        }
    }

    #[test]
    fn to_know_is_better_than_to_learn_and_to_learn_than_neither() {
        let [fifo, skip, sjf, ours, srtf] =
            [Policy::Fifo, Policy::Skip, Policy::Sjf, Policy::Ours, Policy::Srtf].map(|policy| with(policy).mean_hours);
        assert!(srtf < ours && ours < skip && skip < fifo && sjf < skip, "{srtf} {ours} {sjf} {skip} {fifo}");
    }

    #[test]
    fn one_job_takes_as_long_as_it_runs() {
        let job = |submit_ms, gpus| Job { submit_ms, run_ms: 3_600_000, gpus, owner: 0 };
        let report = replay(&[job(0, 4), job(0, 4), job(0, 9)], Options::new(8, Policy::Fifo));
        assert_eq!((report.jobs, report.refused), (2, 1));
        assert!((report.mean_hours - 1.0).abs() < 1e-9 && (report.utilisation - 1.0).abs() < 1e-9);
        // One after the other.
        let report = replay(&[job(0, 8), job(0, 8)], Options::new(8, Policy::Skip));
        assert!((report.mean_hours - 1.5).abs() < 1e-9 && (report.p99_hours - 2.0).abs() < 1e-9);
    }
}
