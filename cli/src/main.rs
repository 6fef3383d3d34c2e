//! The `trainyard` binary: arguments and wiring. Every decision lives in another crate.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that unwraps the wrong thing fails, which is what it is for")
)]

mod alone;
mod api;
mod app;
mod arg;
mod cluster;
mod command;
mod error;
mod exit_code;
mod follow;
mod home;
mod job;
mod manifest;
mod meeting;
mod output;
mod plane;
mod resource;
mod session;
mod target;
mod telemetry;
mod told;
mod view;

fn main() -> std::process::ExitCode {
    app::main()
}
