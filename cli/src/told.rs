//! Variables that the launcher of a pod was told as one.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use trainyard_proto::told::{VARIABLE, unpack};

use crate::error::CliError;
use crate::session::internal;

/// Becomes the same program with each of them by itself, so that all that is started from here has them. Returns if there are none, or if
/// that fails.
pub(crate) fn take_apart() -> Option<CliError> {
    let told = std::env::var(VARIABLE).ok()?;
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return Some(internal("the program cannot be started anew")(error)),
    };
    let mut command = Command::new(own);
    command.arg0(name).args(words).env_remove(VARIABLE).envs(unpack(&told));
    Some(internal("the program cannot be started anew")(command.exec()))
}
