//! How long PyTorch ranks take from the launcher's start to the end of the first all-reduce (gloo, on one machine):
//! `trainyard launch` beside torchrun, in turns, so that both meet the same disturbances.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary (or trainyard-launch, which is its launcher alone)
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// A Python with torch
    #[arg(long, default_value = "python")]
    python: String,
    /// The program that the ranks run
    #[arg(long, default_value = "benches/first_all_reduce.py")]
    script: PathBuf,
    /// Ranks
    #[arg(long, default_value_t = 4)]
    ranks: usize,
    /// Repetitions of each
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let ranks = arguments.ranks.to_string();
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let mut pairs = Vec::new();
    for round in 0..=arguments.rounds {
        let mut launch = Command::new(&arguments.trainyard);
        // The launcher alone has no subcommands.
        if !arguments.trainyard.ends_with("trainyard-launch") {
            launch.arg("launch");
        }
        launch.args(["--nproc", &ranks, "--", &arguments.python]).arg(&arguments.script);
        let mut torchrun = Command::new(&arguments.python);
        torchrun.args(["-m", "torch.distributed.run", "--nproc-per-node", &ranks]).arg(&arguments.script);
        // Who goes first changes from round to round: neither always meets the other's warm caches.
        let (one, other) = if round % 2 == 0 {
            let one = measure(launch, arguments.ranks)?;
            (one, measure(torchrun, arguments.ranks)?)
        } else {
            let other = measure(torchrun, arguments.ranks)?;
            (measure(launch, arguments.ranks)?, other)
        };
        if round > 0 {
            pairs.push((one, other)); // the first one warms the file cache
            ours.push(one);
            theirs.push(other);
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "| {} PyTorch ranks, launch to first all-reduce, ms | p50 / p99 / max | limit |", arguments.ranks)?;
    writeln!(out, "|---|---|---|")?;
    writeln!(out, "| `trainyard launch` | {} | torchrun |", ours.line())?;
    writeln!(out, "| `torchrun` | {} | peer |", theirs.line())?;
    writeln!(out, "\n| round | `trainyard launch`, ms | `torchrun`, ms |\n|---|---|---|")?;
    for (round, (one, other)) in pairs.iter().enumerate() {
        writeln!(out, "| {} | {} | {} |", round + 1, one.as_millis(), other.as_millis())?;
    }
    Ok(())
}

/// From the launcher's start to the moment at which the last rank had its first all-reduce behind it.
fn measure(mut command: Command, ranks: usize) -> Result<Duration, Error> {
    let before = now();
    let done = command.output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let stamps: Vec<f64> =
        text.split("done=").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect();
    let last = stamps.iter().copied().fold(0.0, f64::max);
    if !done.status.success() || stamps.len() != ranks {
        return Err(Error::Program {
            program: format!("{command:?}"),
            why: format!("{} of {ranks} ranks finished\n{}", stamps.len(), String::from_utf8_lossy(&done.stderr)),
        });
    }
    Ok(Duration::from_secs_f64(last).saturating_sub(before))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
