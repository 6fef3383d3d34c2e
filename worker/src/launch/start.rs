//! How a rank's process comes to be: anew, or out of one that waits with the program's imports done.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::Pid;
use trainyard_worker_core::supervisor::ProcessId;

use super::process::{Pipes, Process};

/// What a rank's environment has beside the launcher's own.
pub(super) type Variables = Vec<(&'static str, String)>;

/// Processes that have done a program's slow beginning already, and become ranks when asked.
///
/// Its processes are children of the launcher, directly or, after a double fork, because the launcher adopts orphans.
/// Nothing here may wait: the launcher's one loop polls [`Warm::readable`] and calls [`Warm::advance`].
pub(super) trait Warm {
    /// What the loop polls for it.
    fn readable(&self) -> Vec<BorrowedFd<'_>>;

    /// The ranks of the present generation made their first progress: from now on the machine has time to prepare.
    /// `modules` are those that the program had imported by then, as far as it told; may come again with more.
    #[expect(dead_code, reason = "the shape that warm starts fill in")]
    fn progressed(&mut self, modules: &[String]);

    /// Takes over the start of a rank, whose standard output and error are the writing ends of `output`. `Err` gives
    /// them back: nothing is ready, start it anew. What came of it is told by `advance`.
    fn start(&mut self, process: ProcessId, variables: &Variables, output: [OwnedFd; 2]) -> Result<(), [OwnedFd; 2]>;

    /// Reads what is there. Each start that was taken over is answered once; after an error it is started anew.
    fn advance(&mut self) -> Vec<(ProcessId, io::Result<Pid>)>;

    /// Processes of its own, which are no ranks (yet). While a start is not answered yet, also `None`: any child may be it.
    fn own(&self) -> Option<Vec<Pid>>;

    /// Those that wait, ready, and the memory that they hold (proportional set size).
    #[expect(dead_code, reason = "the shape that warm starts fill in")]
    fn spares(&self) -> (u32, u64);
}

/// What came of an attempt to start.
pub(super) enum Start {
    /// It runs.
    Now(Process, Pipes),
    /// It was handed over; its pipes are these.
    Later(Pipes),
}

/// Starts ranks.
pub(super) struct Starter<'args> {
    pub(super) command: &'args [String],
    pub(super) warm: Option<Box<dyn Warm>>,
}

impl Starter<'_> {
    pub(super) fn start(&mut self, process: ProcessId, variables: &Variables) -> io::Result<Start> {
        if let Some(warm) = &mut self.warm {
            let (out, out_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            let (error, error_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            if warm.start(process, variables, [out_end, error_end]).is_ok() {
                return Ok(Start::Later([out, error]));
            }
        }
        Process::start(self.command, variables).map(|(process, pipes)| Start::Now(process, pipes))
    }
}
