//! `trainyard simulate`.

use std::io::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use trainyard_sim::trace;

use crate::arg::Global;
use crate::error::CliError;

/// Replay the controllers against simulated nodes and faults, from a seed; or a cluster's trace.
///
/// Runs the same decision code as production against a simulated API server, nodes, users and faults, in virtual time. A failing seed is
/// printed with its last steps and replays exactly. With --trace, jobs of a trace in Philly's columns (timestamp, duration, num_gpus,
/// cluster) go through the scheduling engine on a pool of GPUs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard simulate --seeds 10000        run seeds 0 to 9999
  trainyard simulate --seed 4711 -o json  replay one seed; on failure print the whole world
  trainyard simulate --trace philly.csv --gpus 320 --policy ours
                                          replay a trace; completion times, utilisation, preemptions")]
pub(crate) struct Args {
    /// Run this many seeds
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first of the seeds
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u64,
    /// Replay this one seed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Use this many threads (default: one for each CPU)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Replay the jobs of this trace instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "first", "seed", "threads"], requires = "gpus")]
    trace: Option<PathBuf>,
    /// GPUs of the pool that the trace is replayed on
    #[arg(long, value_name = "N", requires = "trace")]
    gpus: Option<u32>,
    /// Who goes first: known run times are for `sjf` and `srtf` only
    #[arg(long, value_name = "POLICY", default_value = "ours", requires = "trace")]
    policy: Policy,
    /// Print the report, or the failure with every object of the world, as JSON
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    Fifo,
    Skip,
    Sjf,
    Las,
    Srtf,
    Ours,
}

impl From<Policy> for trace::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Fifo => Self::Fifo,
            Policy::Skip => Self::Skip,
            Policy::Sjf => Self::Sjf,
            Policy::Las => Self::Las,
            Policy::Srtf => Self::Srtf,
            Policy::Ours => Self::Ours,
        }
    }
}

pub(crate) fn run(_global: &Global, args: Args) -> Result<u8, CliError> {
    if let Some(path) = args.trace {
        return replay(&path, args.gpus.unwrap_or_default(), args.policy.into(), args.output);
    }
    let options = trainyard_sim::Options::default();
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    let range =
        args.seed.map_or(args.first..args.first.saturating_add(args.seeds), |seed| seed..seed.saturating_add(1));
    let count = range.end - range.start;
    let started = std::time::Instant::now();
    let tell = |done: u64| {
        if count >= 1000 && done.is_multiple_of(1000) {
            // Progress is a courtesy; a closed stderr is no reason to stop.
            let _ = writeln!(anstream::stderr(), "{done} of {count} seeds");
        }
    };
    let outcome = trainyard_sim::run_many(range, threads, &options, &tell);
    let mut out = std::io::stdout().lock();
    match outcome {
        Ok(report) if args.output == Some(Format::Json) => {
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
            Ok(0)
        }
        Ok(report) => {
            let took = started.elapsed().as_secs_f64();
            writeln!(
                out,
                "{count} seeds passed in {}: {} jobs, {} pods, {} faults, {} actions in {} steps",
                crate::output::duration::span(took),
                report.jobs,
                report.pods,
                report.faults,
                report.actions,
                report.steps
            )?;
            Ok(0)
        }
        Err(failure) => {
            if args.output == Some(Format::Json) {
                serde_json::to_writer(&mut out, &failure).map_err(std::io::Error::from)?;
                writeln!(out)?;
            } else {
                failure.trace.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
            }
            let seed = failure.seed;
            Err(CliError::Simulation { failure: failure.to_string(), seed })
        }
    }
}

/// Replays a trace.
fn replay(path: &Path, gpus: u32, policy: trace::Policy, output: Option<Format>) -> Result<u8, CliError> {
    let read = |source| CliError::File { verb: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let jobs = trace::parse(&text).map_err(|error| CliError::Usage {
        message: format!("{}: {error}", path.display()),
        hint: "a trace has a header with the columns timestamp, duration, num_gpus and, if it is known, cluster"
            .to_owned(),
    })?;
    let report = trace::replay(&jobs, trace::Options::new(gpus, policy));
    let mut out = std::io::stdout().lock();
    if output == Some(Format::Json) {
        serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(0);
    }
    writeln!(out, "jobs            {} ended, {} ask for more than there is", report.jobs, report.refused)?;
    let (mean, p50, p99) = (report.mean_hours, report.p50_hours, report.p99_hours);
    writeln!(out, "completion      mean {mean:.2} h, p50 {p50:.2} h, p99 {p99:.2} h")?;
    writeln!(out, "utilisation     {:.1} %", report.utilisation * 100.0)?;
    writeln!(out, "free and waited {:.1} %", report.fragmentation * 100.0)?;
    writeln!(out, "preemptions     {}", report.preemptions)?;
    Ok(0)
}
