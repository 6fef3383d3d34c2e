//! What the system says of a rank's processes.

use std::collections::BTreeSet;
use std::fs;

use nix::unistd::Pid;
use trainyard_worker_core::stall::{Look, State};

/// Processes of one rank that are looked at: more than data loaders start, few enough to be read in a moment.
const FAMILY: usize = 256;
/// What the kernel counts CPU time in, in milliseconds. (`getconf CLK_TCK` is 100 everywhere.)
const TICK_MS: u64 = 10;

/// A rank's process and all that it started. `None` when it is gone.
pub(super) fn look(pid: Pid) -> Option<Look> {
    let own = stat(pid.as_raw())?;
    let mut look = Look { state: own.state?, cpu_ms: own.ticks * TICK_MS, io_bytes: bytes(pid.as_raw()) };
    for child in family(pid.as_raw()) {
        if let Some(stat) = stat(child) {
            look.cpu_ms += stat.ticks * TICK_MS;
            look.io_bytes += bytes(child);
        }
    }
    Some(look)
}

struct Stat {
    /// `None` for the dead.
    state: Option<State>,
    /// Its own CPU time, and that of the children whose end it has seen.
    ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = match *fields.first()? {
        "R" => Some(State::Runs),
        "S" | "I" => Some(State::Sleeps),
        "D" => Some(State::Blocked),
        "T" | "t" => Some(State::Stopped),
        _ => None,
    };
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Stat { state, ticks })
}

/// Everything read and written, cached or not. Zero where it may not be known.
fn bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    number("rchar:") + number("wchar:")
}

/// The processes below one.
fn family(pid: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        // A process is listed with the thread that started it.
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in text.split_whitespace().filter_map(|number| number.parse().ok()) {
                if found.len() < FAMILY && found.insert(child) {
                    open.push(child);
                }
            }
        }
    }
    found
}

/// The system call that a process waits in, or the kernel's function, by name.
pub(super) fn waits_in(pid: Pid) -> Option<String> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok();
    let number = call.as_deref().and_then(|text| text.split(' ').next()).and_then(|text| text.parse().ok());
    if let Some(name) = number.and_then(name_of_call) {
        return Some(name.to_owned());
    }
    let place = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    Some(place).filter(|place| !place.is_empty() && place != "0")
}

/// The calls that programs wait in.
fn name_of_call(number: libc::c_long) -> Option<&'static str> {
    let calls = [
        (libc::SYS_futex, "futex (a lock)"),
        (libc::SYS_read, "read"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_pread64, "pread"),
        (libc::SYS_write, "write"),
        (libc::SYS_writev, "writev"),
        (libc::SYS_pwrite64, "pwrite"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_openat, "openat"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_accept4, "accept"),
        (libc::SYS_recvfrom, "recv"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_sendto, "send"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_ppoll, "poll"),
        (libc::SYS_pselect6, "select"),
        (libc::SYS_epoll_pwait, "epoll_wait"),
        (libc::SYS_clock_nanosleep, "sleep"),
        (libc::SYS_nanosleep, "sleep"),
        (libc::SYS_wait4, "wait (for a process)"),
        (libc::SYS_waitid, "wait (for a process)"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_ioctl, "ioctl (a device)"),
    ];
    let known = calls.into_iter().find(|(known, _)| *known == number).map(|(_, name)| name);
    #[cfg(target_arch = "x86_64")]
    let known = known.or(match number {
        libc::SYS_poll => Some("poll"),
        libc::SYS_select => Some("select"),
        libc::SYS_epoll_wait => Some("epoll_wait"),
        libc::SYS_accept => Some("accept"),
        _ => None,
    });
    known
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn eventually(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_is_seen_with_all_that_it_started() {
        let busy = "i=0; while [ $i -lt 100000000 ]; do i=$((i+1)); done";
        let script = format!("(sh -c '{busy}' & wait) & wait");
        let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        eventually("the grandchild's CPU time counts", || look(pid).is_some_and(|look| look.cpu_ms >= 50));
        assert_eq!(look(pid).unwrap().state, State::Sleeps);
        for child in family(pid.as_raw()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
        child.wait().unwrap();
        assert_eq!(look(pid), None);
    }

    #[test]
    fn what_it_waits_in_has_a_name() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        eventually("it sleeps", || waits_in(pid).is_some_and(|place| place == "sleep" || place.contains("nanosleep")));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        eventually("it is stopped", || look(pid).is_some_and(|look| look.state == State::Stopped));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
