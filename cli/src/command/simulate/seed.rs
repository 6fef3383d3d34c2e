//! `trainyard simulate --seeds`: the controllers in simulated worlds.

use std::io::Write as _;
use std::num::NonZero;

use crate::error::CliError;

/// Seeds that are run where nobody says how many.
const SEEDS: u64 = 100;

#[derive(Debug, clap::Args)]
#[group(id = "worlds", conflicts_with_all = ["replay", "live"])]
pub(super) struct SeedArgs {
    /// Run this many simulated worlds (default: 100)
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first of the seeds (default: 0)
    #[arg(long, value_name = "SEED")]
    first: Option<u64>,
    /// Replay this one seed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Use this many threads (default: one for each CPU)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl SeedArgs {
    /// Whether simulated worlds were asked for.
    pub(super) const fn is_given(&self) -> bool {
        self.seeds.is_some() || self.first.is_some() || self.seed.is_some() || self.threads.is_some()
    }
}

/// Runs the seeds, to the first in which an invariant does not hold.
pub(super) fn run(args: &SeedArgs, json: bool) -> Result<u8, CliError> {
    let options = trainyard_sim::Options::default();
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    let first = args.first.unwrap_or(0);
    let range =
        args.seed.map_or(first..first.saturating_add(args.seeds.unwrap_or(SEEDS)), |seed| seed..seed.saturating_add(1));
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
        Ok(report) if json => {
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
            if json {
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
