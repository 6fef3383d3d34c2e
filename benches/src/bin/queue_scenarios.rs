//! Two scenarios of Kueue's own performance tests (`test/performance/scheduler/configs` of its repository), by our engine: workloads come
//! by the clock, run for a fixed time, and are through when the last of them has ended. The clock is the real one, so that time spent
//! on decisions is time in which quota stands idle: whoever ended gives room only when the next decision sees it.
//!
//! It is the engine alone, in this process: there is no API server, no object and no write. A workload that is stopped begins anew, as
//! under Kueue's runner. With `--objects` each workload is a pod of a server with its controllers instead.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use trainyard_benches::Error;
use trainyard_benches::queues::{BORROWING, Class, QUOTA, Scenario, Which, objects};
use trainyard_benches::samples::Samples;
use trainyard_coordinator_core::schedule::{
    ClusterQueue, Cohort, Gang, Node, Phase, Policy, PreemptionPolicy, Quota, Role, Shape, View, decide,
};

const START_MS: i64 = 1_700_000_000_000;

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
    /// With workloads as objects of a server
    #[arg(long)]
    objects: bool,
    /// The server's binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// Where the server keeps its data; must be on the disk that is meant
    #[arg(long)]
    folder: Option<PathBuf>,
    /// One of so many queues of each cohort only
    #[arg(long, default_value_t = 1)]
    share: usize,
    /// Seconds after which workloads as objects are given up
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

/// One node that has room for everything: only quotas decide, as there.
fn view(scenario: &Scenario, policy: Policy) -> View {
    let quota = Quota { resource: 0, nominal: QUOTA, borrowing_limit: Some(BORROWING), lending_limit: None };
    let cohort = |at| Cohort { name: format!("cohort-{at}"), parent: None, quotas: Vec::new(), weight_milli: 1_000 };
    let queue = |at: usize| ClusterQueue {
        name: format!("queue-{at}"),
        cohort: u32::try_from(at / scenario.queues).ok(),
        quotas: vec![quota],
        weight_milli: 1_000,
        within_cluster_queue: PreemptionPolicy::LowerPriority,
        reclaim_within_cohort: PreemptionPolicy::Any,
        ..ClusterQueue::default()
    };
    View {
        resources: vec!["cpu".to_owned()],
        nodes: vec![Node { name: "all".to_owned(), capacity: vec![i64::from(i32::MAX)], ..Node::default() }],
        cohorts: (0..scenario.cohorts).map(cohort).collect(),
        queues: (0..scenario.cohorts * scenario.queues).map(queue).collect(),
        gangs: Vec::new(),
        policy,
    }
}

fn shapes(scenario: &Scenario) -> Vec<Arc<Shape>> {
    let shape = |class: &Class| {
        let role = Role { count: 1, min: 1, requests: vec![class.request], ..Role::default() };
        Arc::new(Shape { roles: vec![role], ..Shape::default() })
    };
    scenario.classes.iter().map(shape).collect()
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
            view: view(scenario, policy),
            shapes: shapes(scenario),
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

/// The engine alone.
fn engine(arguments: &Arguments) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| scenario | workloads | floor s | limit s | all ended after s | decisions | a decision takes: p50 / p99 / max ms | median wait s | preempted |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    let defaults = Policy::default();
    let policy = Policy { min_run_ms: arguments.min_run_ms.unwrap_or(defaults.min_run_ms), ..defaults };
    for which in &arguments.scenarios {
        let scenario = which.scenario().part(arguments.share);
        for _ in 0..arguments.rounds {
            let (took, run) = Run::new(&scenario, policy.clone()).all()?;
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
                waits(&scenario, &run.waits),
                run.preempted
            )?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Workloads as objects.
#[tokio::main]
async fn as_objects(arguments: &Arguments) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| scenario | workloads | floor s | limit s | ended | after s | created after s | writes of the server, by workload | its processor time s | its memory MiB | median wait s |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    for which in &arguments.scenarios {
        let scenario = which.scenario().part(arguments.share);
        for _ in 0..arguments.rounds {
            let folder = match &arguments.folder {
                Some(folder) => tempfile::tempdir_in(folder)?,
                None => tempfile::tempdir()?,
            };
            let limit = Duration::from_secs(arguments.limit);
            let run = objects::run(&arguments.trainyard, &folder.path().join("home"), &scenario, limit).await?;
            #[expect(clippy::cast_precision_loss)]
            let (writes, total) = (run.writes as f64, scenario.total() as f64);
            writeln!(
                out,
                "| {} | {} | {:.2} | {:.0} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {} |",
                scenario.name,
                scenario.total(),
                scenario.floor_s(),
                scenario.limit_s,
                run.ended,
                run.took.as_secs_f64(),
                run.created.as_secs_f64(),
                writes / total,
                run.processor.as_secs_f64(),
                run.resident_bytes >> 20,
                waits(&scenario, &run.waits),
            )?;
            out.flush()?;
        }
    }
    Ok(())
}

/// The median of each class.
fn waits(scenario: &Scenario, waits: &[Samples]) -> String {
    let one = |(class, waits): (&Class, &Samples)| format!("{} {:.2}", class.name, waits.quantile(0.5).as_secs_f64());
    scenario.classes.iter().zip(waits).map(one).collect::<Vec<String>>().join(", ")
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.objects { as_objects(&arguments) } else { engine(&arguments) }
}
