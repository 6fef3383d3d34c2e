//! How long a user waits before anything of theirs runs, and what the waiting costs: `trainyard up` to ready, idle
//! memory, the size of the binary, and `trainyard run` to the first line of the user's program, each beside its limit.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_benches::server::{Server, resident_bytes};

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// Folder with `etcd` and `kube-apiserver`, to start beside `trainyard up`
    #[arg(long)]
    kubernetes: Option<PathBuf>,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// What the measured job runs: print the time and end
    #[arg(long)]
    stamp: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.stamp {
        return print(&format!("stamp={}\n", now().as_nanos()));
    }
    let folder = tempfile::tempdir()?;
    let mut out = String::from("| what | p50 / p99 / max | limit |\n|---|---|---|\n");

    let (mut ready, mut idle) = (Samples::default(), 0);
    for round in 0..arguments.rounds {
        let server = Server::trainyard(&arguments.trainyard, &folder.path().join(format!("home{round}"))).await?;
        ready.push(server.ready_after);
        tokio::time::sleep(Duration::from_millis(300)).await; // idle means: after the first reconciles
        idle = idle.max(resident_bytes(server.pids()[0])?);
    }
    let _ = writeln!(out, "| `trainyard up` to ready, ms | {} | 150 |", ready.line());
    let _ = writeln!(out, "| idle memory (resident, largest of {}), MiB | {:.1} | 40 |", arguments.rounds, mib(idle));
    let size = std::fs::metadata(&arguments.trainyard)?.len();
    let _ = writeln!(out, "| stripped binary, MiB | {:.1} | 40 |", mib(size));

    let server = Server::trainyard(&arguments.trainyard, &folder.path().join("run")).await?;
    let (mut run, mut direct) = (Samples::default(), Samples::default());
    let program = std::env::current_exe()?;
    for round in 0..=arguments.rounds {
        let (through_us, alone) =
            (first_line_of_job(&arguments.trainyard, folder.path(), &program, round)?, first_line_alone(&program)?);
        if round > 0 {
            run.push(through_us); // the first one warms the file cache
            direct.push(alone);
        }
    }
    drop(server);
    let _ = writeln!(out, "| `trainyard run` to the first line of user code, warm, ms | {} | 50 |", run.line());
    let _ = writeln!(out, "| the same program started directly, ms | {} | – |", direct.line());

    if let Some(bin) = &arguments.kubernetes {
        let mut peer = Samples::default();
        for round in 0..3 {
            peer.push(
                Server::kubernetes(bin, &folder.path().join(format!("kubernetes{round}")), &[]).await?.ready_after,
            );
        }
        let _ = writeln!(out, "| etcd + kube-apiserver to ready, ms | {} | peer |", peer.line());
    }
    print(&out)
}

/// From the start of `trainyard run` to the moment at which the job's only program looked at the clock.
fn first_line_of_job(trainyard: &Path, folder: &Path, program: &Path, round: usize) -> Result<Duration, Error> {
    let manifest = folder.join(format!("job{round}.yaml"));
    let yaml = format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: stamp-{round}}}\n\
         spec: {{command: [\"{}\", --stamp]}}\n",
        program.display()
    );
    std::fs::write(&manifest, yaml)?;
    let before = now();
    let done = Command::new(trainyard).arg("run").arg(&manifest).env("TRAINYARD_HOME", folder.join("run")).output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    stamp(&text)
        .map(|at| at.saturating_sub(before))
        .ok_or(Error::Program { program: "trainyard run".into(), why: text })
}

fn first_line_alone(program: &Path) -> Result<Duration, Error> {
    let before = now();
    let done = Command::new(program).arg("--stamp").output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    stamp(&text).map(|at| at.saturating_sub(before)).ok_or(Error::Program { program: "stamp".into(), why: text })
}

fn stamp(text: &str) -> Option<Duration> {
    let digits: String = text.split_once("stamp=")?.1.chars().take_while(char::is_ascii_digit).collect();
    Some(Duration::from_nanos(digits.parse().ok()?))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1048576.0
}

fn print(text: &str) -> Result<(), Error> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
