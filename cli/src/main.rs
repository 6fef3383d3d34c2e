//! The `trainyard` binary: arguments and wiring. Every decision lives in another crate.

mod app;
mod arg;
mod command;
mod error;
mod exit_code;
mod home;

fn main() -> std::process::ExitCode {
    app::main()
}
