//! The binary, as a user runs it.

mod command;
mod launcher;
mod queue;
mod run;
mod simulate;
mod support;
mod torchrun;
mod tune;
