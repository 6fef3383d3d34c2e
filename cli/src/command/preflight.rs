//! `trainyard preflight`.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use trainyard_worker::comm::{CommError, Options};
use trainyard_worker::preflight::{self, PREFIX, Plan, Report, summary};

use crate::error::CliError;
use crate::exit_code;
use crate::output::object::{self, Markup};

/// Find the bad link or GPU before a job does
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard preflight                          this machine, with two ranks
  trainyard launch --nproc 4 -- trainyard preflight
  trainyard preflight -- python train.py       as a rank: check, then become the program

Run by every rank of a job (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as `trainyard launch` and torchrun set them)
it connects each two ranks, measures their links, does all-reduces whose sums are known, and reads the health of the
GPUs. The exit code is 1 if there is a finding. A TrainingJob with `preflight: true` does it before its command, and
fails with what was found. TRAINYARD_PREFLIGHT_DEAD_LINK=0-1 makes the link between these ranks a bad one, to try it.")]
pub(crate) struct Args {
    /// Ranks to start on this machine, where the environment names none
    #[arg(long, default_value_t = 2, value_name = "N")]
    ranks: usize,
    /// Sizes of the all-reduces, in bytes
    #[arg(long, value_delimiter = ',', value_name = "BYTES", default_values_t = Plan::default().all_reduce_bytes)]
    bytes: Vec<usize>,
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
    /// What this process becomes when nothing was found
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Two ranks, `0-1`, whose link is to be found dead: for trying out what a job does then.
const DEAD_LINK: &str = "TRAINYARD_PREFLIGHT_DEAD_LINK";

fn pair(text: &str) -> Option<(usize, usize)> {
    let (one, other) = text.split_once('-')?;
    Some((one.trim().parse().ok()?, other.trim().parse().ok()?))
}

/// As `env` and `timeout` use them: the command was not found, or cannot be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

pub(crate) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let dead_link = std::env::var(DEAD_LINK).ok().and_then(|text| pair(&text));
    let gpu = std::env::var("LOCAL_RANK").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let plan = Plan { all_reduce_bytes: args.bytes.clone(), gpu, dead_link, ..Plan::default() };
    let among_ranks = std::env::var_os("RANK").is_some();
    let (rank, report) = if among_ranks {
        let options = Options::from_env().map_err(failed)?;
        match preflight::run(&options, &plan) {
            Ok(report) => (options.rank, report),
            // Rank 0 could not be reached, or a stranger is there: a finding, too, that only this rank has.
            Err(error) => {
                eprintln!("{PREFIX}{error}");
                return Ok(ExitCode::from(exit_code::FAILURE));
            }
        }
    } else {
        (0, on_this_machine(args.ranks, &plan)?)
    };
    if rank == 0 {
        print(&report, args)?;
    }
    if !report.findings.is_empty() {
        if !args.command.is_empty() {
            // The launcher of each rank takes the failure's cause from it.
            eprintln!("{PREFIX}{}", summary(&report.findings));
        }
        return Ok(ExitCode::from(exit_code::FAILURE));
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(ExitCode::from(exit_code::SUCCESS)) };
    // Does not return unless it fails.
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("error: cannot start `{program}`: {error}");
    let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
    Ok(ExitCode::from(code))
}

/// Ranks as threads: the same sockets and the same memory as processes would have.
fn on_this_machine(ranks: usize, plan: &Plan) -> Result<Report, CliError> {
    if ranks == 0 {
        let message = "--ranks 0 checks nothing".to_owned();
        return Err(CliError::Usage { message, hint: "give 1 or more".to_owned() });
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|door| door.local_addr())?.port();
    let one = |rank| {
        let plan = Plan { gpu: rank, ..plan.clone() };
        preflight::run(&Options::new(rank, ranks, "127.0.0.1", port), &plan)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..ranks)
            .map(|rank| {
                let one = &one;
                scope.spawn(move || one(rank))
            })
            .collect();
        let first = one(0);
        for other in others {
            // The first rank's report has what went wrong elsewhere.
            let _ = other.join();
        }
        first.map_err(failed)
    })
}

/// The program's own output stays its own: in front of one, the report goes to standard error.
fn print(report: &Report, args: &Args) -> Result<(), CliError> {
    match args.output {
        Some(markup) => {
            let value = serde_json::to_value(report).map_err(std::io::Error::from)?;
            object::print(&mut std::io::stdout().lock(), &value, markup)?;
        }
        None if args.command.is_empty() => write!(std::io::stdout().lock(), "{report}")?,
        None => write!(anstream::stderr(), "{report}")?,
    }
    Ok(())
}

fn failed(error: CommError) -> CliError {
    CliError::Internal { doing: "cannot take part in the check".to_owned(), source: Box::new(error) }
}
