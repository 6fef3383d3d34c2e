//! The binary, as a user runs it.

mod command;
mod run;
mod support;
