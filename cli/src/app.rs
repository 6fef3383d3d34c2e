//! From arguments to an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arg::{Cli, Color, Command, Global};
use crate::command;
use crate::error::CliError;
use crate::{exit_code, told};

pub(crate) fn main() -> ExitCode {
    if let Some(error) = told::take_apart() {
        return done(Err(error));
    }
    // One for each container: it does not wait until all that the command line can say is put together.
    if let Some(rest) = command::shim::arguments(std::env::args_os()) {
        return command::shim::main(&rest);
    }
    let cli = Cli::parse();
    choose_colour(cli.global.color);
    done(dispatch(&cli.global, cli.command))
}

fn done(outcome: Result<ExitCode, CliError>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::from(exit_code::SUCCESS),
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn choose_colour(color: Color) {
    match color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
}

fn dispatch(global: &Global, command: Command) -> Result<ExitCode, CliError> {
    let code = match command {
        // These three run inside pods: nothing may be set up before them, no thread, no runtime, no logging.
        Command::Shim(args) => return command::shim::run(args),
        Command::Launch(args) => return command::launch::run(args),
        Command::Torchrun(args) => return command::torchrun::run(args),
        // It may become another program.
        Command::Preflight(args) => return command::preflight::run(&args),
        // It copies a file, and its memory is little.
        Command::Init(args) => command::init::run(&args),
        Command::Install(args) => command::install::run(global, args),
        Command::Operator(args) => command::operator::run(global, &args),
        Command::Run(args) => command::run::run(global, args),
        Command::Apply(args) => command::apply::run(global, args),
        Command::Validate(args) => command::validate::run(global, args),
        Command::Up(args) => command::up::run(global, args),
        Command::Kubeconfig(args) => command::kubeconfig::run(global, args),
        Command::Get(args) => command::get::run(global, args),
        Command::Describe(args) => command::describe::run(global, args),
        Command::Logs(args) => command::logs::run(global, args),
        Command::Events(args) => command::events::run(global, args),
        Command::Explain(args) => command::explain::run(global, args),
        Command::Queue(args) => command::queue::run(global, args),
        Command::Suspend(args) => command::suspend::run(global, args, true),
        Command::Resume(args) => command::suspend::run(global, args, false),
        Command::Delete(args) => command::delete::run(global, args),
        Command::Top(args) => command::top::run(global, args),
        Command::Simulate(args) => command::simulate::run(global, args),
        Command::Tune(args) => command::tune::run(global, &args),
        Command::Example(args) => command::example::run(args),
        Command::Completions(args) => command::completions::run(args),
        Command::Version(args) => command::version::run(global, args),
        Command::Reference(args) => command::reference::run(args),
    };
    code.map(ExitCode::from)
}

/// Prints an error with its causes, then a blank line and the hint.
fn report(error: &CliError) {
    let mut stderr = anstream::stderr().lock();
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(stderr, "{red}error:{red:#} {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = writeln!(stderr, "  caused by: {inner}");
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "\n{cyan}hint:{cyan:#} {hint}");
    }
}
