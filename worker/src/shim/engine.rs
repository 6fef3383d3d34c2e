//! What a shim and an agent must know of a container that podman or docker runs: how to look at it, run beside it, end it.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// A container of a container engine. The program under the shim is the engine's client, not the container itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineContainer {
    /// `podman` or `docker`.
    pub program: String,
    /// The container's name: one for each run.
    pub name: String,
    /// The environment of the client.
    pub env: Vec<(String, String)>,
    /// Whether it has a memory limit: then a kill that nobody ordered is the limit's.
    pub memory_limited: bool,
    /// What to add when the program could not be executed.
    pub start_hint: Option<String>,
}

/// How a container ended, as its engine tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The container's own program ran; an exit code of the client is not that of a program otherwise.
    pub(super) started: bool,
    pub(super) oom_killed: bool,
}

impl EngineContainer {
    /// A call of the engine's client.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().envs(self.env.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        command
    }

    /// The call that runs a command inside of the container.
    #[must_use]
    pub fn exec(&self, argv: &[String]) -> Command {
        let mut command = self.command(&["exec", &self.name]);
        command.args(argv);
        command
    }

    /// Kills the container, if it still runs, and takes it away.
    pub fn remove(&self) {
        self.quietly(&["kill", "--signal", "KILL", &self.name]);
        self.quietly(&["rm", "--force", "--volumes", &self.name]);
    }

    /// How it ended, or where it stands; nothing where the engine never made it.
    pub(super) fn look(&self) -> Option<Seen> {
        let format = "{{.State.OOMKilled}} {{.State.StartedAt}}";
        let output = self.command(&["container", "inspect", "--format", format, &self.name]).output().ok()?;
        output.status.success().then(|| seen(&String::from_utf8_lossy(&output.stdout)))
    }

    fn quietly(&self, args: &[&str]) {
        let _ = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A container that never started has the year 1 for its start.
fn seen(text: &str) -> Seen {
    let mut words = text.split_ascii_whitespace();
    let oom_killed = words.next() == Some("true");
    Seen { oom_killed, started: words.next().is_some_and(|at| !at.starts_with("0001-")) }
}

#[cfg(test)]
mod tests {
    use super::{Seen, seen};

    #[test]
    fn what_never_started_is_told_from_what_ended() {
        assert_eq!(seen("false 0001-01-01 00:00:00 +0000 UTC"), Seen { started: false, oom_killed: false });
        assert_eq!(seen("true 2026-11-21T09:28:05.65Z"), Seen { started: true, oom_killed: true });
    }
}
