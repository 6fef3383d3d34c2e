//! What launchers make of faults: each fault under each launcher, in turns, with the same training on the same machine.
//!
//! Three uses: the matrix (default), `--kills N` (kill after kill: are all recovered from, and how fast?), and
//! `--soak MINUTES` (a kill every 15 seconds: how much of the work of an undisturbed run is done, with the same losses?).

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use trainyard_benches::Error;
use trainyard_benches::kill::contender::{Contender, Setting};
use trainyard_benches::kill::fault::Fault;
use trainyard_benches::kill::run::{self, Pace, Patience, Reference, Series};
use trainyard_benches::kill::table::{self, Matrix};
use trainyard_benches::kill::{median, moment, plot};

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// A Python with torch
    #[arg(long, default_value = "python")]
    python: PathBuf,
    /// The training program
    #[arg(long, default_value = "benches/kill_matrix.py")]
    script: PathBuf,
    /// Ranks
    #[arg(long, default_value_t = 2)]
    ranks: u32,
    /// Runs of each fault under each launcher
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps of a run; the fault must come before the last
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 10)]
    checkpoint_every: u64,
    /// The least that a step takes, in milliseconds
    #[arg(long, default_value_t = 50.0)]
    step_ms: f64,
    /// Seconds from the first step to the fault
    #[arg(long, default_value_t = 10.0)]
    settle: f64,
    /// Seconds after which a launcher has not recovered
    #[arg(long, default_value_t = 30.0)]
    limit: f64,
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Only these launchers
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Kill so many times in one run, instead of the matrix
    #[arg(long, value_name = "N", conflicts_with = "soak")]
    kills: Option<usize>,
    /// Kill every 15 seconds for so many minutes, instead of the matrix
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Write the matrix and its picture to this page (.md) and beside it (.svg); with --kills or --soak, add a line to the page
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Keep the folders of all runs here
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

impl Arguments {
    fn setting(&self) -> Result<Setting, Error> {
        Ok(Setting {
            trainyard: absolute(&self.trainyard)?,
            python: if self.python.components().count() > 1 { absolute(&self.python)? } else { self.python.clone() },
            script: absolute(&self.script)?,
            ranks: self.ranks,
            steps: self.steps,
            checkpoint_every: self.checkpoint_every,
            step_ms: self.step_ms,
        })
    }

    fn patience(&self) -> Patience {
        Patience {
            settle: Duration::from_secs_f64(self.settle),
            recovery: Duration::from_secs_f64(self.limit),
            start: Duration::from_secs(120),
        }
    }

    fn contenders(&self, default: &[Contender]) -> Vec<Contender> {
        if self.contenders.is_empty() { default.to_vec() } else { self.contenders.clone() }
    }
}

/// Not `canonicalize`: a Python environment's interpreter is a link, and is itself only by its own name.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    Ok(std::path::absolute(path)?)
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let folder = match &arguments.keep {
        Some(folder) => absolute(folder)?,
        None => temporary.path().to_owned(),
    };
    if let Some(kills) = arguments.kills {
        return count(&arguments, &folder, kills);
    }
    if let Some(minutes) = arguments.soak {
        return soak(&arguments, &folder, minutes);
    }
    matrix(&arguments, &folder)
}

fn matrix(arguments: &Arguments, folder: &Path) -> Result<(), Error> {
    let (setting, patience) = (arguments.setting()?, arguments.patience());
    let contenders = arguments.contenders(Contender::value_variants());
    let faults = if arguments.faults.is_empty() { Fault::value_variants().to_vec() } else { arguments.faults.clone() };
    // The same training under everybody: whoever runs it without a fault sets the losses and the rate.
    let undisturbed = contenders.iter().copied().find(|one| !one.has_control_plane()).unwrap_or(Contender::Trainyard);
    let reference = run::reference(undisturbed, &setting, &folder.join("reference"), patience)?;
    say(&format!("without a fault: {:.1} steps a second ({})", reference.rate, undisturbed.words()))?;
    let mut matrix = Matrix::new();
    for round in 0..arguments.rounds {
        for (at, fault) in faults.iter().enumerate() {
            // The same for all launchers.
            let moment = moment(round * faults.len() + at, run::between(&setting));
            let patience = Patience { settle: patience.settle + moment, ..patience };
            for turn in 0..contenders.len() {
                // Who goes first changes from round to round.
                let contender = contenders[(turn + round) % contenders.len()];
                if fault.needs_control_plane() && !contender.has_control_plane() {
                    continue;
                }
                let place = folder.join(format!("{round}-{fault:?}-{contender:?}"));
                let outcome = run::one((contender, *fault), &setting, &place, patience, &reference)?;
                let result = outcome.recovery.map_or("–".to_owned(), |recovery| format!("{:.0} ms", recovery * 1e3));
                let trouble = outcome.trouble.clone().unwrap_or_default();
                say(&format!("round {} {}: {}: {result} {trouble}", round + 1, fault.words(), contender.words()))?;
                matrix.entry((*fault, contender)).or_default().push(outcome);
                if arguments.keep.is_none() {
                    fs::remove_dir_all(&place)?;
                }
            }
        }
    }
    let tables = table::markdown(&matrix) + &table::promises(&matrix);
    write!(std::io::stdout().lock(), "{tables}")?;
    if let Some(page) = &arguments.page {
        let picture = page.with_extension("svg");
        fs::write(&picture, plot::svg(&matrix))?;
        fs::write(page, text(arguments, &reference, &tables, &picture))?;
    }
    Ok(())
}

/// The page.
fn text(arguments: &Arguments, reference: &Reference, tables: &str, picture: &Path) -> String {
    let name = picture.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!(
        "# Kill matrix\n\nA DDP training of {} ranks over gloo on one machine ({} steps of at least {} ms, a checkpoint every {} \
         steps; {:.1} steps a second without a fault), {} s after its first step and a part of the time between two checkpoints, has \
         something go wrong. Launchers take turns, {} rounds; figures are medians. Detection: until the launcher says so. Recovery: until all ranks of the next generation \
         have their first all-reduce behind them; first step: until they have done a step, too. Lost steps: done again. Goodput: steps per second from the first step to the \
         last, as a share of those without a fault. A launcher that does not go on within {} s has not recovered.\n\n",
        arguments.ranks,
        arguments.steps,
        arguments.step_ms,
        arguments.checkpoint_every,
        reference.rate,
        arguments.settle,
        arguments.rounds,
        arguments.limit,
    );
    text.push_str(
        "```\ncargo run --release -p trainyard-benches --bin kill_matrix -- --python PYTHON_WITH_TORCH --page docs/figures/kill-matrix.md\n\
         ```\n\nIn one binary the coordinator and the node agent are one process: killing either kills both, and the page has \
         both rows because the promise has.\n",
    );
    let _ = write!(text, "\n![recovery times]({name})\n{tables}");
    text
}

/// A kill, its recovery, a pause, and the next.
fn count(arguments: &Arguments, folder: &Path, kills: usize) -> Result<(), Error> {
    const PAUSE: Duration = Duration::from_secs(5);
    let setting = Setting { steps: u64::MAX / 2, ..arguments.setting()? };
    for contender in arguments.contenders(&[Contender::Trainyard]) {
        let place = folder.join(format!("kills-{contender:?}"));
        let pace = (Pace::Count(kills, PAUSE), &Reference::default());
        let series = run::series(contender, &setting, &place, arguments.patience(), pace)?;
        let heading = format!("{kills} kills in one run");
        report(arguments, &heading, &words(contender, &series))?;
    }
    Ok(())
}

/// The same duration with and without kills.
fn soak(arguments: &Arguments, folder: &Path, minutes: f64) -> Result<(), Error> {
    const INTERVAL: Duration = Duration::from_secs(15);
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let setting = Setting { steps: u64::MAX / 2, ..arguments.setting()? };
    for contender in arguments.contenders(&[Contender::Trainyard]) {
        let place = |name: &str| folder.join(format!("soak-{contender:?}-{name}"));
        let quiet = quiet(contender, &setting, &place("quiet"), arguments.patience(), whole)?;
        let pace = (Pace::Every(INTERVAL, whole), &quiet);
        let series = run::series(contender, &setting, &place("killed"), arguments.patience(), pace)?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand steps")]
        let share = series.steps as f64 / (quiet.rate * series.seconds) * 100.0;
        let line = words(contender, &series);
        let heading = format!("A kill every {} s for {minutes:.0} minutes", INTERVAL.as_secs());
        report(arguments, &heading, &format!("{line}; {share:.1} % of the steps of a run without kills"))?;
    }
    Ok(())
}

/// The rate of a run without a fault, and the losses of all steps that a run of that duration can have: the latter as fast as they
/// can be had, since they depend on nothing but the step.
fn quiet(
    contender: Contender,
    setting: &Setting,
    folder: &Path,
    patience: Patience,
    whole: Duration,
) -> Result<Reference, Error> {
    const TIMED: Duration = Duration::from_secs(60);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of steps of milliseconds")]
    let steps = |time: Duration| (time.as_secs_f64() * 1e3 / setting.step_ms) as u64;
    let timed = Setting { steps: steps(whole.min(TIMED)), ..setting.clone() };
    let rate = run::reference(contender, &timed, &folder.join("timed"), patience)?.rate;
    let fast = Setting { steps: steps(whole), step_ms: 0.0, ..setting.clone() };
    let limit = Patience { start: patience.start + whole, ..patience };
    let losses = run::reference(contender, &fast, &folder.join("fast"), limit)?.losses;
    Ok(Reference { losses, rate })
}

fn words(contender: Contender, series: &Series) -> String {
    let mut sorted = series.recoveries.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let ms = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{:.0} ms", value * 1e3));
    let same = match series.same_loss {
        Some(true) => "; the loss curve is bit-equal",
        Some(false) => "; THE LOSS CURVE DIFFERS",
        None => "",
    };
    format!(
        "{}: {} of {} kills recovered; recovery p50 {}, p90 {}, max {}; {} steps in {:.0} s, {} done again{same}{}",
        contender.words(),
        series.recoveries.len(),
        series.kills,
        ms(median(&sorted)),
        ms(sorted.get(sorted.len() * 9 / 10).copied()),
        ms(sorted.last().copied()),
        series.steps,
        series.seconds,
        series.lost_steps,
        series.trouble.as_ref().map(|words| format!("; {words}")).unwrap_or_default(),
    )
}

/// Says it, and writes it to the page.
fn report(arguments: &Arguments, heading: &str, words: &str) -> Result<(), Error> {
    say(words)?;
    if let Some(page) = &arguments.page {
        let mut file = fs::File::options().create(true).append(true).open(page)?;
        write!(file, "\n### {heading}\n\n{words}.\n")?;
    }
    Ok(())
}

fn say(words: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{words}")?;
    Ok(())
}
