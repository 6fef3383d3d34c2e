//! How long the scheduling engine takes for one decision: a cluster that is full with many gangs waiting, from view to answer,
//! compilation of the view included; and one gang of ten thousand ranks on an empty cluster. By the clock, and in processor time,
//! which says more on a machine that has other things to do.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_coordinator_core::schedule::{
    Closeness, ClusterQueue, Cohort, Decision, Gang, Level, Node, Phase, Policy, PreemptionPolicy, Quota, Role, Shape,
    Slice, View, decide,
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
        options: Vec::new(),
        run_limit_ms: (dice.roll(2) == 0).then_some(minutes * MINUTE * 2),
        expected_ms: Some(minutes * MINUTE),
        preemptible: true,
        phase: Phase::Waiting { reservation: None },
        leaving: Vec::new(),
    }
}

/// How long decisions took.
#[derive(Default)]
struct Timed {
    wall: Samples,
    processor: Samples,
}

impl Timed {
    fn decide(&mut self, view: &View, now_ms: i64) -> Result<Decision, Error> {
        let (began, before) = (Instant::now(), processor_time()?);
        let decision = decide(view, now_ms);
        self.wall.push(began.elapsed());
        self.processor.push(processor_time()?.saturating_sub(before));
        Ok(decision)
    }

    fn row(&self, what: &str, limit: &str, out: &mut impl Write) -> Result<(), Error> {
        writeln!(out, "| {what} | {} | {} | {limit} |", self.wall.line(), self.processor.line())?;
        Ok(())
    }
}

/// Processor time of this process so far.
fn processor_time() -> Result<Duration, Error> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_err(std::io::Error::from)?;
    Ok(time.into())
}

/// A cluster on which gangs end and others come.
struct Stream {
    view: View,
    dice: Dice,
    now_ms: i64,
    number: u32,
    sizes: [u32; 11],
    /// Gangs of equal shape share it, as those of a caller that keeps shapes from decision to decision.
    shapes: Option<BTreeMap<Shape, Arc<Shape>>>,
}

impl Stream {
    fn new(arguments: &Arguments, shared: bool) -> Self {
        let mut view = cluster(arguments.nodes);
        queues(&mut view, arguments.nodes);
        let mean = arguments.nodes * GPUS / u32::try_from(arguments.running).unwrap_or(1);
        let sizes = [1, 2, 4, 8, 8, 16, 16, 32, mean, mean * 2, mean * 4]
            .map(|gpus| if gpus > GPUS { gpus / GPUS * GPUS } else { gpus });
        let shapes = shared.then(BTreeMap::new);
        let mut stream = Self { view, dice: Dice(1), now_ms: START_MS, number: 0, sizes, shapes };
        for _ in 0..arguments.running + arguments.waiting {
            stream.now_ms += 10;
            stream.submit();
        }
        stream
    }

    fn submit(&mut self) {
        self.number += 1;
        let mut gang = submit(&mut self.dice, self.number, self.now_ms, &self.sizes);
        if let Some(shapes) = &mut self.shapes {
            let known = shapes.entry(Shape::clone(&gang.shape)).or_insert_with(|| Arc::clone(&gang.shape));
            gang.shape = Arc::clone(known);
        }
        self.view.gangs.push(gang);
    }

    fn running(&self) -> Vec<usize> {
        let runs = |at: &usize| matches!(self.view.gangs[*at].phase, Phase::Running { .. });
        (0..self.view.gangs.len()).filter(runs).collect()
    }

    /// A minute goes by, in which some gangs end and as many are submitted.
    fn go_on(&mut self, changes: u32) {
        self.now_ms += MINUTE;
        self.view.gangs.iter_mut().for_each(|gang| gang.leaving.clear());
        let gangs = self.view.gangs.len();
        for _ in 0..changes {
            let at = self.dice.pick(&self.running());
            self.view.gangs.remove(at);
        }
        while self.view.gangs.len() < gangs {
            self.submit();
        }
    }
}

/// Decides while gangs end and others come.
fn steady(arguments: &Arguments, shared: bool, out: &mut impl Write) -> Result<(), Error> {
    let mut stream = Stream::new(arguments, shared);
    let (mut first, mut rest) = (Timed::default(), Timed::default());
    let decision = first.decide(&stream.view, stream.now_ms)?;
    let placed = decision.admissions.len();
    decision.apply(&mut stream.view, stream.now_ms);
    let (mut admitted, mut preempted, mut running) = (0, 0, 0);
    for _ in 0..arguments.rounds {
        stream.go_on(arguments.changes);
        let decision = rest.decide(&stream.view, stream.now_ms)?;
        admitted += decision.admissions.len();
        preempted += decision.preemptions.len();
        decision.apply(&mut stream.view, stream.now_ms);
        running += stream.running().len();
    }
    let rounds = arguments.rounds.max(1) as usize;
    let what = format!(
        "a decision after {} gangs ended, with {} that run on average; {} start and {} are preempted; {}",
        arguments.changes,
        running / rounds,
        admitted / rounds,
        preempted / rounds,
        if shared { "gangs of equal shape share it" } else { "each gang has a shape of its own" },
    );
    rest.row(&what, "20", out)?;
    first.row(&format!("the first decision, which places {placed} gangs on the empty cluster"), "", out)
}

/// Ten thousand ranks on as many GPUs.
fn large(out: &mut impl Write) -> Result<(), Error> {
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
    let mut timed = Timed::default();
    for _ in 0..200 {
        let decision = timed.decide(&view, START_MS)?;
        let pods: u32 = decision.admissions.iter().flat_map(|one| &one.places).map(|place| place.count).sum();
        if pods != nodes * GPUS {
            return Err(Error::Request(format!("{pods} pods were placed: {:?}", decision.waiting)));
        }
    }
    timed.row(&format!("a gang of {} ranks, each 80 within a rack, on {nodes} hosts", nodes * GPUS), "50", out)
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let Arguments { nodes, running, waiting, .. } = arguments;
    writeln!(
        out,
        "| {nodes} nodes, {} gangs, ms | by the clock: p50 / p99 / max | processor time: p50 / p99 / max | limit (p99) |",
        running + waiting
    )?;
    writeln!(out, "|---|---|---|---|")?;
    steady(&arguments, false, &mut out)?;
    steady(&arguments, true, &mut out)?;
    large(&mut out)
}
