//! `trainyard torchrun`: torchrun's command line for our launcher.

mod launch;
mod meet;
mod option;
mod plan;

use std::io::Write as _;
use std::process::ExitCode;

use crate::error::CliError;
use crate::session::internal;
use option::Parsed;
use plan::Plan;

/// Start ranks with torchrun's options and PET_* variables.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Example:
  trainyard torchrun --nproc-per-node 4 train.py --epochs 3

Options, variables and defaults are those of PyTorch's torchrun; `trainyard torchrun --help` lists them. What has no effect
here is said once on stderr. Ranks that fail are started again up to --max-restarts times, as a new generation."
)]
pub(crate) struct Args {
    /// torchrun's options, the script, and the script's arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS SCRIPT")]
    words: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes its arguments by value")]
pub(crate) fn run(args: Args) -> Result<ExitCode, CliError> {
    let variable = |name: &str| std::env::var(name).ok();
    let given = match option::parse(&args.words, variable).map_err(wrong)? {
        Parsed::Run(given) => given,
        Parsed::Help => {
            write!(std::io::stdout(), "{}", option::help())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let plan = Plan::of(&given, variable).map_err(wrong)?;
    if given.plan {
        let text = serde_json::to_string(&plan).map_err(internal("the plan cannot be written"))?;
        writeln!(std::io::stdout(), "{text}")?;
        return Ok(ExitCode::SUCCESS);
    }
    launch::launch(&plan)
}

fn wrong(message: String) -> CliError {
    CliError::Usage { message: format!("torchrun: {message}"), hint: "see `trainyard torchrun --help`".to_owned() }
}
