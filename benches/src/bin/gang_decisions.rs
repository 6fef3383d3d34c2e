//! How long the scheduling engine takes for one decision: a cluster that is full with many gangs waiting, from view to answer,
//! compilation of the view included; and one gang of ten thousand ranks on an empty cluster.

use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_coordinator_core::schedule::{
    Closeness, ClusterQueue, Cohort, Gang, Level, Node, Phase, Policy, PreemptionPolicy, Quota, Role, Shape, Slice,
    View, decide,
};

const MINUTE: i64 = 60_000;
const START_MS: i64 = 1_700_000_000_000;
const GPUS: u32 = 8;

#[derive(Parser)]
struct Arguments {
    /// Nodes, of 8 GPUs each
    #[arg(long, default_value_t = 5_000)]
    nodes: u32,
    /// Gangs that run
    #[arg(long, default_value_t = 1_000)]
    running: usize,
    /// Gangs that wait
    #[arg(long, default_value_t = 10_000)]
    waiting: usize,
    /// Decisions
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// Gangs that end before each decision, and as many that are submitted
    #[arg(long, default_value_t = 10)]
    changes: u32,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((word ^ (word >> 31)) % u64::from(sides)).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(u32::try_from(of.len()).unwrap_or(1)) as usize]
    }
}

/// Nodes in racks of 10, blocks of 10 racks, zones of 10 blocks.
fn cluster(nodes: u32) -> View {
    let level = |label: &str, rate| Level { label: label.to_owned(), bytes_per_s: rate, latency_ns: 5_000 };
    let node = |at: u32| Node {
        name: format!("node-{at:05}"),
        labels: [("zone", at / 1_000), ("block", at / 100), ("rack", at / 10), ("kubernetes.io/hostname", at)]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), format!("{key}-{value:05}")))
            .collect(),
        capacity: vec![96_000, 1 << 40, 110, i64::from(GPUS)],
        ..Node::default()
    };
    View {
        resources: ["cpu", "memory", "pods", "nvidia.com/gpu"].map(str::to_owned).to_vec(),
        nodes: (0..nodes).map(node).collect(),
        policy: Policy {
            levels: vec![level("zone", 12_500_000_000), level("block", 25_000_000_000), level("rack", 50_000_000_000)],
            scarce: Some(3),
            ..Policy::default()
        },
        ..View::default()
    }
}

fn workers(pods: u32, gpus: u32, elastic: bool) -> Role {
    Role {
        name: "worker".to_owned(),
        count: pods,
        min: if elastic { pods.div_ceil(2) } else { pods },
        requests: vec![i64::from(gpus) * 10_000, i64::from(gpus) << 36, 1, i64::from(gpus)],
        labels: [("role".to_owned(), "worker".to_owned())].into(),
        ..Role::default()
    }
}

/// A hundred queues in ten cohorts share the cluster.
fn queues(view: &mut View, nodes: u32) {
    let quota =
        |nominal: u32| Quota { resource: 3, nominal: i64::from(nominal), borrowing_limit: None, lending_limit: None };
    let cohort =
        |at: usize, parent| Cohort { name: format!("cohort-{at:02}"), parent, quotas: Vec::new(), weight_milli: 1_000 };
    view.cohorts.push(cohort(0, None));
    view.cohorts.extend((1..=10).map(|at| cohort(at, Some(0))));
    let queue = |at: u32| ClusterQueue {
        name: format!("queue-{at:03}"),
        cohort: Some(1 + at / 10),
        quotas: vec![quota(nodes * GPUS / 100)],
        weight_milli: 1_000 + at % 3 * 500,
        history: vec![0, 0, 0, i64::from(at % 7) * 50],
        within_cluster_queue: PreemptionPolicy::LowerPriority,
        reclaim_within_cohort: PreemptionPolicy::Any,
        ..ClusterQueue::default()
    };
    view.queues = (0..100).map(queue).collect();
}

/// Jobs as in the traces: most are small, a few are large and want to be close.
fn submit(dice: &mut Dice, number: u32, now_ms: i64, size: &[u32]) -> Gang {
    let gpus = dice.pick(size);
    let (pods, each) = if gpus >= GPUS { (gpus / GPUS, GPUS) } else { (1, gpus) };
    let closeness = match (pods, dice.roll(3)) {
        (2..=10, 0) => Closeness { required: Some("rack".to_owned()), preferred: None },
        (11..=100, 0) => Closeness { required: Some("block".to_owned()), preferred: None },
        (2.., _) => Closeness { required: None, preferred: Some("rack".to_owned()) },
        _ => Closeness::default(),
    };
    let mut roles = vec![workers(pods, each, pods > 3 && dice.roll(4) == 0)];
    if dice.roll(10) == 0 {
        roles.push(Role { name: "launcher".to_owned(), ..workers(1, 0, false) });
    }
    let shape = Shape { namespace: "team".to_owned(), roles, closeness, all_reduce_bytes: 1 << 30 };
    let minutes = i64::from(1 + dice.roll(600));
    Gang {
        name: format!("team/job-{number:07}"),
        queue: dice.roll(100),
        priority: dice.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 100]),
        submitted_ms: now_ms,
        shape: Arc::new(shape),
        run_limit_ms: (dice.roll(2) == 0).then_some(minutes * MINUTE * 2),
        expected_ms: Some(minutes * MINUTE),
        preemptible: true,
        phase: Phase::Waiting { reservation: None },
        leaving: Vec::new(),
    }
}

fn is_running(gang: &Gang) -> bool {
    matches!(gang.phase, Phase::Running { .. })
}

/// Decides while gangs end and others come.
fn steady(arguments: &Arguments, out: &mut impl std::io::Write) -> Result<(), Error> {
    let mut dice = Dice(1);
    let mut view = cluster(arguments.nodes);
    queues(&mut view, arguments.nodes);
    let mean = arguments.nodes * GPUS / u32::try_from(arguments.running).unwrap_or(1);
    let sizes = [1, 2, 4, 8, 8, 16, 16, 32, mean, mean * 2, mean * 4]
        .map(|gpus| if gpus > GPUS { gpus / GPUS * GPUS } else { gpus });
    let (mut number, mut now_ms) = (0, START_MS);
    let mut next = |dice: &mut Dice, now_ms| {
        number += 1;
        submit(dice, number, now_ms, &sizes)
    };
    for _ in 0..arguments.running + arguments.waiting {
        now_ms += 10;
        view.gangs.push(next(&mut dice, now_ms));
    }
    let began = Instant::now();
    let decision = decide(&view, now_ms);
    let first = began.elapsed();
    let placed = decision.admissions.len();
    view = decision.applied(&view, now_ms);
    let mut samples = Samples::default();
    let (mut admitted, mut preempted, mut running) = (0, 0, 0);
    for _ in 0..arguments.rounds {
        now_ms += MINUTE;
        for gang in &mut view.gangs {
            gang.leaving.clear();
        }
        for _ in 0..arguments.changes {
            let runs: Vec<usize> = (0..view.gangs.len()).filter(|at| is_running(&view.gangs[*at])).collect();
            view.gangs.remove(dice.pick(&runs));
        }
        while view.gangs.len() < arguments.running + arguments.waiting {
            view.gangs.push(next(&mut dice, now_ms));
        }
        let began = Instant::now();
        let decision = decide(&view, now_ms);
        samples.push(began.elapsed());
        admitted += decision.admissions.len();
        preempted += decision.preemptions.len();
        view = decision.applied(&view, now_ms);
        running += view.gangs.iter().filter(|gang| is_running(gang)).count();
    }
    let rounds = arguments.rounds as usize;
    writeln!(
        out,
        "| {} nodes, {} gangs, about {} of them running, ms | p50 / p99 / max | limit (p99) |",
        arguments.nodes,
        view.gangs.len(),
        running / rounds
    )?;
    writeln!(out, "|---|---|---|")?;
    writeln!(
        out,
        "| a decision after {} gangs ended; {} start and {} are preempted, on average | {} | 20 |",
        arguments.changes,
        admitted / rounds,
        preempted / rounds,
        samples.line()
    )?;
    writeln!(
        out,
        "| the first decision, which places {placed} gangs on the empty cluster | {:.2} | |",
        first.as_secs_f64() * 1e3
    )?;
    Ok(())
}

/// Ten thousand ranks on as many GPUs.
fn large(out: &mut impl std::io::Write) -> Result<(), Error> {
    let nodes = 1_250;
    let mut view = cluster(nodes);
    queues(&mut view, nodes);
    let mut role = workers(nodes * GPUS, 1, false);
    role.slice = Some(Slice { size: 80, level: "rack".to_owned() });
    let closeness = Closeness { required: None, preferred: Some("block".to_owned()) };
    let shape = Shape { namespace: "team".to_owned(), roles: vec![role], closeness, all_reduce_bytes: 1 << 30 };
    let mut gang = submit(&mut Dice(1), 0, START_MS, &[8]);
    gang.shape = Arc::new(shape);
    view.gangs.push(gang);
    let mut samples = Samples::default();
    for _ in 0..200 {
        let began = Instant::now();
        let decision = decide(&view, START_MS);
        samples.push(began.elapsed());
        let pods: u32 = decision.admissions.iter().flat_map(|one| &one.places).map(|place| place.count).sum();
        if pods != nodes * GPUS {
            return Err(Error::Request(format!("{pods} pods were placed: {:?}", decision.waiting)));
        }
    }
    writeln!(
        out,
        "| a gang of {} ranks, each 80 within a rack, on {nodes} hosts | {} | 50 |",
        nodes * GPUS,
        samples.line()
    )?;
    Ok(())
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    steady(&arguments, &mut out)?;
    large(&mut out)
}
