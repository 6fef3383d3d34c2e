//! `trainyard simulate`.

mod trace;

use std::io::Write as _;
use std::num::NonZero;

use crate::arg::Global;
use crate::error::CliError;

/// Replay the controllers against simulated nodes and faults, from a seed; or a cluster's trace.
///
/// Runs the same decision code as production against a simulated API server, nodes, users and faults, in virtual time.
/// A failing seed is printed with its last steps and replays exactly.
///
/// With --trace, jobs of a trace in Philly's columns (timestamp, duration, num_gpus, cluster) go through the scheduling
/// engine on a pool of GPUs. Pods of a trace in OpenB's columns (cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec,
/// creation_time, deletion_time, scheduled_time) run on the nodes of a file (cpu_milli, memory_mib, gpu, model), where
/// a GPU can be shared in parts; with --load they are drawn at random until they ask for that much, and what counts is
/// how full the nodes become.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard simulate --seeds 10000        run seeds 0 to 9999
  trainyard simulate --seed 4711 -o json  replay one seed; on failure print the whole world
  trainyard simulate --trace philly.csv --gpus 320 --policy ours
                                          replay a trace; completion times, utilisation, preemptions
  trainyard simulate --trace philly.csv --gpus 448,320 --policy easy,srtf,ours
                                          compare policies, and sizes of the pool
  trainyard simulate --trace pods.csv --nodes nodes.csv --load 130 --packing best-fit,fgd,ours
                                          how full nodes become when more is asked for than there is")]
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
    #[command(flatten)]
    trace: trace::ReplayArgs,
    /// Print the report, or the failure with every object of the world, as JSON
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
}

pub(crate) fn run(_global: &Global, args: Args) -> Result<u8, CliError> {
    if let Some(path) = &args.trace.trace {
        return trace::run(path, &args.trace, args.output == Some(Format::Json));
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
