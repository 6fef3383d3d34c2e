//! Which processes come from this one or from another.

use std::collections::BTreeMap;
use std::fs;

use nix::unistd::{Pid, getpgid};

/// The children of a process. Empty where /proc is missing.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    // A process is listed with the thread that started it.
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let texts = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let numbers = |text: String| text.split_whitespace().filter_map(|number| number.parse().ok()).collect::<Vec<_>>();
    texts.flat_map(numbers).map(Pid::from_raw).collect()
}

/// The processes below one, not many more than `most`: a look, which may miss one that is being started or loses its parent
/// meanwhile.
pub(crate) fn below(pid: Pid, most: usize) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        if found.len() < most {
            let children = children(parent);
            open.extend(&children);
            found.extend(children);
        }
    }
    found
}

/// The processes below one, also where the kernel keeps no lists of children: for whoever must not give up before all of them
/// have ended. It reads the state of every process of the machine.
pub(crate) fn all_below(pid: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for pid in everybody() {
        if let Some((_, parent)) = state_and_parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let children = children.remove(&parent).unwrap_or_default();
        open.extend(&children);
        found.extend(children);
    }
    found
}

/// The processes of a group that have not ended. Empty where /proc is missing.
pub(crate) fn group(group: Pid) -> Vec<Pid> {
    // One that has ended is still there until somebody takes its status.
    let runs = |pid: Pid| state_and_parent(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'));
    everybody().filter(|pid| getpgid(Some(*pid)) == Ok(group) && runs(*pid)).collect()
}

fn everybody() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

fn state_and_parent(pid: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, Pid::from_raw(fields.next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell, in a group of its own, with a child that is in another session; ended with the test.
    struct Shell(std::process::Child);

    impl Shell {
        fn start() -> Self {
            let script = "setsid sleep 1000 & sleep 1000 & echo; wait";
            let mut command = Command::new("sh");
            command.args(["-c", script]).process_group(0).stdout(Stdio::piped());
            Self(command.spawn().expect("a shell"))
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(self.0.id().cast_signed())
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            for pid in all_below(self.pid()) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sorted(mut pids: Vec<Pid>) -> Vec<Pid> {
        pids.sort_unstable();
        pids
    }

    #[test]
    fn children_are_found_whatever_session_they_are_in() {
        let shell = Shell::start();
        // Both are there, and one of them has left the group.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while children(shell.pid()).len() < 2 || group(shell.pid()).len() != 2 {
            assert!(std::time::Instant::now() < deadline, "{:?}", children(shell.pid()));
            std::thread::yield_now();
        }
        let children = sorted(children(shell.pid()));
        assert_eq!(sorted(below(shell.pid(), usize::MAX)), children);
        assert_eq!(sorted(all_below(shell.pid())), children);
        let group = group(shell.pid());
        assert!(group.contains(&shell.pid()) && group.iter().filter(|pid| children.contains(pid)).count() == 1);
    }
}
