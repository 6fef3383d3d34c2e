//! Replay of a cluster's trace.
//!
//! Jobs of Philly's trace are replayed on one pool of GPUs, as in the papers that use it, and the engine of production
//! decides at every arrival, end and change of class. A job is all its GPUs or none of them; one that is preempted goes
//! on later where it was, and pays [`Options::preemption_cost_ms`] each time. Pods of OpenB's trace are replayed [on
//! nodes](fleet()), with the processors and the memory that they ask for, and parts of GPUs; and sampled until they ask
//! for more than there is, to see [how full](fill()) nodes become.

mod fill;
mod fleet;
mod openb;
mod philly;
mod policy;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use trainyard_coordinator_core::schedule::{
    ClusterQueue, Gang, Learned, Node, Phase, PreemptionPolicy, Role, Shape, View, decide,
};

pub use fill::{Filled, Load, Packing, fill};
pub use fleet::fleet;
pub use openb::{Host, Pod, hosts};
pub use policy::Policy;
pub use report::Report;
pub use table::TraceError;

/// What is in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Jobs that ask for GPUs, of which nothing else is known: Philly's columns.
    Jobs(Vec<Job>),
    /// Pods that ask for processors, memory and GPUs or parts of one: OpenB's columns.
    Pods(Vec<Pod>),
}

/// Reads a trace; what is in it in the order of submission.
///
/// # Errors
/// A column is missing, or a value is not of its kind.
pub fn parse(text: &str) -> Result<Trace, TraceError> {
    let table = table::Table::new(text);
    if openb::are_pods(&table) { openb::pods(&table).map(Trace::Pods) } else { philly::jobs(&table).map(Trace::Jobs) }
}

/// One job of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it was submitted.
    pub submit_ms: i64,
    /// How long it runs; nobody but perfect policies is told.
    pub run_ms: i64,
    /// GPUs that it uses, wholly or in part.
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
    /// Under [`Policy::Easy`], the limit of each job's run time, in hundredths of how long it runs.
    pub limit_percent: u32,
}

impl Options {
    /// With a minute for each preemption, a look every ten minutes, and limits of twice the run time.
    #[must_use]
    pub const fn new(gpus: u32, policy: Policy) -> Self {
        Self { gpus, policy, preemption_cost_ms: 60_000, quantum_ms: 600_000, limit_percent: 200 }
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
    /// The earliest start it was ever promised.
    promised_ms: Option<i64>,
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
    replay.report.finish()
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
        if options.policy != Policy::Easy {
            view.policy.reservations = 0;
        }
        Self {
            jobs,
            options,
            view,
            live: Vec::new(),
            shapes: Vec::new(),
            learned: Learned::default(),
            report: Report::new(options.policy, f64::from(options.gpus)),
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
        self.report.pass(next - self.now_ms, f64::from(self.busy), waits);
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
            let limit = job.run_ms.saturating_mul(i64::from(self.options.limit_percent)) / 100;
            self.view.gangs.push(Gang {
                name: format!("{:09}", self.next),
                queue: 0,
                priority: 0,
                submitted_ms: job.submit_ms,
                shape,
                options: Vec::new(),
                run_limit_ms: (self.options.policy == Policy::Easy).then_some(limit.max(job.run_ms)),
                expected_ms: None,
                preemptible: true,
                phase: Phase::Waiting { reservation: None },
                leaving: Vec::new(),
            });
            self.live.push(Live {
                job: self.next - 1,
                left_ms: job.run_ms,
                done_ms: 0,
                since_ms: None,
                promised_ms: None,
            });
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
        if self.options.policy == Policy::Ours {
            let ran = |live: &Live| live.done_ms + live.since_ms.map_or(0, |since| self.now_ms - since);
            let jobs = self.live.iter().map(|live| (policy::group(&self.jobs[live.job]), ran(live)));
            self.learned.going(jobs.collect::<Vec<_>>());
        }
        for (gang, live) in self.view.gangs.iter_mut().zip(&self.live) {
            let ran = live.since_ms.map_or(0, |since| self.now_ms - since);
            let known = policy::Known {
                job: &self.jobs[live.job],
                done_ms: live.done_ms + ran,
                left_ms: live.left_ms - ran,
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
        for waiting in &decision.waiting {
            let start = waiting.reservation.as_ref().filter(|one| one.promised).map(|one| one.start_ms);
            let promised = &mut self.live[waiting.gang as usize].promised_ms;
            *promised = promised.iter().copied().chain(start).min();
            self.view.gangs[waiting.gang as usize].phase = Phase::Waiting { reservation: waiting.reservation.clone() };
        }
        for admission in &decision.admissions {
            let live = &mut self.live[admission.gang as usize];
            if let Some(promised_ms) = live.promised_ms {
                self.report.kept(promised_ms, self.now_ms);
            }
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
