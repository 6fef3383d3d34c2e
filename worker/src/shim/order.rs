//! The agent's side: launching shims, ordering stops, running probes beside a container.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::spec::{Beside, RunState, ShimSpec};

/// A shim that was launched.
#[derive(Debug)]
pub struct Launched {
    /// The process, to be waited for by who launched it.
    pub child: Child,
}

/// Launches a shim and tells it what to run. It goes on when this process ends.
///
/// # Errors
/// When the program cannot be started or does not listen.
pub fn launch(program: &Path, spec: &ShimSpec) -> io::Result<Launched> {
    let told = serde_json::to_vec(spec).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.arg("shim").env_clear();
    if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
        // A binary linked against libraries outside the system's folders needs this to start at all.
        command.env("LD_LIBRARY_PATH", libraries);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("the shim has no standard input"))?;
    stdin.write_all(&told)?;
    Ok(Launched { child })
}

/// Orders the shim behind `state` to stop its program, and to kill it when `grace_ms` have passed.
///
/// # Errors
/// When the shim is gone.
pub fn order_stop(state: &RunState, grace_ms: i64) -> io::Result<()> {
    if !state.is_watched() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let grace = i32::try_from(grace_ms.max(0)).unwrap_or(i32::MAX);
    // The value travels in the pointer-sized union that sigqueue carries.
    let value = libc::sigval { sival_ptr: usize::try_from(grace).unwrap_or(0) as *mut libc::c_void };
    // SAFETY: a plain system call; the process was checked to be the one that was meant.
    let sent = unsafe { libc::sigqueue(state.shim.pid, libc::SIGUSR1, value) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The command that runs `argv` in the surroundings of a container's program, and as it.
///
/// # Errors
/// Never in practice: the order is plain data.
pub fn run_beside(program: &Path, beside: &Beside, argv: &[String]) -> io::Result<Command> {
    let order = serde_json::to_string(beside).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.args(["shim", "beside", &order]).args(argv).stdin(Stdio::null());
    Ok(command)
}
