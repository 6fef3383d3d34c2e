//! What a trial costs that does nothing: `trainyard tune` with `/bin/echo`, in quarters of the experiment, so that what grows with the number
//! of trials is seen. Processor time is that of the program and of all that it started, as the kernel counts it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use trainyard_benches::Error;
use trainyard_benches::server::resident_bytes;

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// Trials of the experiment
    #[arg(long, default_value_t = 2_000)]
    trials: u32,
    /// Trials at the same time
    #[arg(long, default_value_t = 8)]
    parallel: u32,
}

/// How it stands after so many trials.
struct Mark {
    trials: u32,
    at: Instant,
    cpu_ms: f64,
    resident: u64,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let mut program = start(&arguments, folder.path())?;
    let (began, pid) = (Instant::now(), program.id());
    let told = program.stderr.take().ok_or_else(|| failed("it has no standard error".to_owned()))?;
    let (mut marks, mut seen, mut last) =
        (vec![Mark { trials: 0, at: began, cpu_ms: 0.0, resident: 0 }], 0, String::new());
    for line in BufReader::new(told).lines() {
        last = line?;
        if !last.trim_start().starts_with("Trial ") {
            continue;
        }
        seen += 1;
        if seen % (arguments.trials / 4).max(1) == 0 {
            marks.push(Mark { trials: seen, at: Instant::now(), cpu_ms: cpu_ms(pid)?, resident: resident_bytes(pid)? });
        }
    }
    let ended = program.wait()?;
    if !ended.success() || seen < arguments.trials {
        return Err(failed(format!("{ended} after {seen} trials: {last}")));
    }
    let mut out = format!("{} trials, {} in parallel; load before: {load}\n", arguments.trials, arguments.parallel);
    out.push_str("| trials | trials/s | processor ms per trial | resident MiB |\n|---|---|---|---|\n");
    for pair in marks.windows(2) {
        out.push_str(&row(&pair[0], &pair[1]));
    }
    if let [first, .., last] = marks.as_slice() {
        let _ = writeln!(out, "\nIn all:\n\n{}", row(first, last));
    }
    Ok(std::io::stdout().write_all(out.as_bytes())?)
}

fn failed(why: String) -> Error {
    Error::Program { program: "trainyard tune".into(), why }
}

fn start(arguments: &Arguments, folder: &Path) -> Result<Child, Error> {
    let experiment = format!(
        "name = \"echo\"\nalgorithm = \"random\"\n[objective]\nmetric = \"loss\"\ngoal = \"minimize\"\n\
         [parameters.x]\ntype = \"float\"\nmin = 0\nmax = 1\n[budget]\ntrials = {}\nparallel = {}\n\
         [trial]\ncommand = [\"/bin/echo\", \"loss={{x}}\"]\n",
        arguments.trials, arguments.parallel
    );
    let file = folder.join("echo.toml");
    std::fs::write(&file, experiment)?;
    let mut command = Command::new(&arguments.trainyard);
    command.arg("tune").arg(&file).env("TRAINYARD_HOME", folder.join("home"));
    Ok(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

/// Of a process and of those of its descendants that have ended and were waited for.
fn cpu_ms(pid: u32) -> Result<f64, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime, stime, cutime and cstime are the 14th to 17th fields.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split_ascii_whitespace().skip(11).take(4));
    let ticks: u32 = fields.into_iter().flatten().filter_map(|field| field.parse::<u32>().ok()).sum();
    // The kernel shows times in hundredths of a second, whatever it counts in.
    Ok(f64::from(ticks) * 10.0)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
fn row(from: &Mark, to: &Mark) -> String {
    let trials = f64::from(to.trials - from.trials);
    format!(
        "| {}–{} | {:.1} | {:.1} | {:.0} |\n",
        from.trials,
        to.trials,
        trials / to.at.duration_since(from.at).as_secs_f64(),
        (to.cpu_ms - from.cpu_ms) / trials,
        to.resident as f64 / 1_048_576.0
    )
}
