//! `trainyard preflight`.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use trainyard_worker::comm::{CommError, Options};
use trainyard_worker::preflight::{self, Plan, Report};

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
GPUs. The exit code is 1 if there is a finding. Pods with TRAINYARD_PREFLIGHT=1 do it before their command.")]
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
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// As `env` and `timeout` use them: the command was not found, or cannot be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

pub(crate) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let plan = Plan { all_reduce_bytes: args.bytes.clone(), ..Plan::default() };
    let among_ranks = std::env::var_os("RANK").is_some();
    let (rank, report) = if among_ranks {
        let options = Options::from_env().map_err(failed)?;
        (options.rank, preflight::run(&options, &plan).map_err(failed)?)
    } else {
        (0, on_this_machine(args.ranks, &plan)?)
    };
    if rank == 0 {
        print(&report, args)?;
    }
    if !report.findings.is_empty() {
        return Ok(ExitCode::from(exit_code::FAILURE));
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(ExitCode::from(exit_code::SUCCESS)) };
    // Does not return unless it fails.
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("trainyard preflight: cannot start `{program}`: {error}");
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
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..ranks)
            .map(|rank| scope.spawn(move || preflight::run(&Options::new(rank, ranks, "127.0.0.1", port), plan)))
            .collect();
        let first = preflight::run(&Options::new(0, ranks, "127.0.0.1", port), plan);
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
