//! What can go wrong.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::contender::Running;
use super::events::Events;
use super::now;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL to a rank
    Sigkill,
    /// SIGSEGV to a rank
    Sigsegv,
    /// A rank exits with code 1
    Exit1,
    /// A rank exits with code 143
    Exit143,
    /// A rank has no more memory: it may have no more address space, and Python says so
    Memory,
    /// The kernel kills a rank for memory, in a control group of its own; needs root
    Oom,
    /// A rank is stopped (SIGSTOP)
    Sigstop,
    /// SIGKILL to the launcher
    Launcher,
    /// SIGKILL to the node agent
    Agent,
    /// SIGKILL to the coordinator
    Coordinator,
    /// A rank never joins
    NeverJoins,
    /// A rank becomes slow
    Slow,
}

impl Fault {
    /// For a table.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Sigkill => "SIGKILL",
            Self::Sigsegv => "SIGSEGV",
            Self::Exit1 => "exit 1",
            Self::Exit143 => "exit 143",
            Self::Memory => "out of memory (MemoryError)",
            Self::Oom => "killed for memory (the kernel's OOM killer)",
            Self::Sigstop => "SIGSTOP",
            Self::Launcher => "launcher killed",
            Self::Agent => "node agent killed",
            Self::Coordinator => "coordinator killed",
            Self::NeverJoins => "a rank never joins",
            Self::Slow => "a slow rank",
        }
    }

    /// Whether it happens to somebody who trains on without them: no recovery is needed.
    #[must_use]
    pub fn spares_the_ranks(self) -> bool {
        matches!(self, Self::Agent | Self::Coordinator | Self::Slow)
    }

    /// Whether only a job of a control plane has what is killed.
    #[must_use]
    pub fn needs_control_plane(self) -> bool {
        matches!(self, Self::Agent | Self::Coordinator)
    }

    /// Makes it happen; the moment at which it did. `None` if there is nobody whom it could happen to.
    #[must_use]
    pub fn strike(self, rank: u32, running: &mut Running, events: &Events) -> Option<f64> {
        let fault = running.folder().join("fault");
        let from_inside = |words: String| fs::write(&fault, words).ok().map(|()| now());
        match self {
            Self::Sigkill => signal(events.pid(rank)?, Signal::SIGKILL),
            Self::Sigsegv => signal(events.pid(rank)?, Signal::SIGSEGV),
            Self::Sigstop => signal(events.pid(rank)?, Signal::SIGSTOP),
            Self::Exit1 => from_inside(format!("exit {rank} 1")),
            Self::Exit143 => from_inside(format!("exit {rank} 143")),
            Self::Memory => from_inside(format!("memory {rank}")),
            Self::Oom => from_inside(format!("oom {rank}")),
            Self::Slow => from_inside(format!("slow {rank} 100")),
            // Must be there before the training begins.
            Self::NeverJoins => None,
            Self::Launcher => signal(running.launcher(events)?, Signal::SIGKILL),
            Self::Agent | Self::Coordinator => running.restart_control_plane(),
        }
    }
}

fn signal(pid: u32, signal: Signal) -> Option<f64> {
    kill(Pid::from_raw(pid.cast_signed()), signal).ok().map(|()| now())
}
