//! What the system says of a rank's processes.

use std::fs;

use nix::sys::time::TimeValLike as _;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use trainyard_proto::pace::Doing;
use trainyard_worker_core::stall::{Look, State};

use crate::descendants;

/// Processes of one rank that are looked at: more than data loaders start, few enough to be read in a moment.
const FAMILY: usize = 256;
/// What the kernel counts CPU time in, in milliseconds. (`getconf CLK_TCK` is 100 everywhere.)
const TICK_MS: u64 = 10;

/// A rank's process and all that it started. `None` when it is gone.
pub(super) fn look(pid: Pid) -> Option<Look> {
    let own = stat(pid.as_raw())?;
    let cpu_ms = own.cpu_ms(pid.as_raw());
    let mut look = Look { state: own.state?, cpu_ms, io_bytes: bytes(pid.as_raw()), wakes: 0 };
    for child in descendants::below(pid, FAMILY).into_iter().map(Pid::as_raw) {
        if let Some(stat) = stat(child) {
            look.cpu_ms += stat.cpu_ms(child);
            look.io_bytes += bytes(child);
            look.wakes += wakes(child);
        }
    }
    Some(look)
}

/// What the first thread of a process does at this moment. Costs two small files.
pub(super) fn glance(pid: Pid) -> Option<(State, Doing)> {
    let state = stat(pid.as_raw())?.state?;
    let doing = match state {
        State::Runs | State::Blocked | State::Stopped => Doing::Works,
        State::Sleeps => match call(pid) {
            Some(number) if is_wait(number) => match descendants::children(pid).as_slice() {
                // A shell, or a program like it, in front of the rank.
                [child] => return Some((state, glance_at_child(*child))),
                _ => Doing::Works,
            },
            Some(number) => waits_for(number),
            None => Doing::Lock,
        },
    };
    Some((state, doing))
}

fn glance_at_child(pid: Pid) -> Doing {
    match stat(pid.as_raw()).and_then(|stat| stat.state) {
        Some(State::Sleeps) => call(pid).map_or(Doing::Lock, waits_for),
        Some(State::Runs | State::Blocked | State::Stopped) | None => Doing::Works,
    }
}

/// Whether a call waits for another thread, or for a descriptor; what waits for the time or a file does its own work.
fn waits_for(number: libc::c_long) -> Doing {
    let net = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_connect,
        libc::SYS_accept4,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_epoll_pwait,
    ];
    #[cfg(target_arch = "x86_64")]
    let is_old = [libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait, libc::SYS_accept].contains(&number);
    #[cfg(not(target_arch = "x86_64"))]
    let is_old = false;
    match number {
        libc::SYS_futex => Doing::Lock,
        _ if is_old || net.contains(&number) => Doing::Net,
        _ => Doing::Works,
    }
}

/// Whether it waits for the end of a process that it started.
pub(super) fn waits_for_child(pid: Pid) -> bool {
    call(pid).is_some_and(is_wait)
}

fn is_wait(number: libc::c_long) -> bool {
    matches!(number, libc::SYS_wait4 | libc::SYS_waitid)
}

/// The number of the system call that it is in.
fn call(pid: Pid) -> Option<libc::c_long> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split(' ').next()?.trim().parse().ok()
}

struct Stat {
    /// `None` for the dead.
    state: Option<State>,
    /// CPU time of the children whose end it has seen.
    ticks: u64,
}

impl Stat {
    /// CPU time, and what its first thread waited for a CPU.
    fn cpu_ms(&self, pid: i32) -> u64 {
        self.ticks * TICK_MS + ran_ms(pid) + waited_ms(pid)
    }
}

/// CPU time of all threads that a process ever had, by its own clock: that of /proc counts hundredths of a second.
fn ran_ms(pid: i32) -> u64 {
    let time = clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
    time.map_or(0, |time| u64::try_from(time.num_milliseconds()).unwrap_or(0))
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
    let ticks = fields.get(13..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Stat { state, ticks })
}

/// How long its first thread waited for a CPU that others had: on a busy machine, most of what it would have computed. Of other
/// threads that is not counted: helpers that wake up ten times a second and do nothing wait, too. Zero where the kernel does
/// not tell.
fn waited_ms(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let waited = text.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    waited.unwrap_or(0) / 1_000_000
}

/// How often its first thread has gone to sleep and come back.
fn wakes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
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

/// The system call that a process waits in, or the kernel's function, by name.
pub(super) fn waits_in(pid: Pid) -> Option<String> {
    if let Some(name) = call(pid).and_then(name_of_call) {
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
    use std::os::unix::process::CommandExt as _;
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
        for child in descendants::below(pid, FAMILY) {
            let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        }
        child.wait().unwrap();
        assert_eq!(look(pid), None);
    }

    #[test]
    fn a_glance_tells_work_from_waiting_and_looks_behind_a_shell() {
        for (program, expected) in [
            ("python3 -c 'import threading; threading.Event().wait()'", Doing::Lock),
            ("python3 -c 'import select; select.poll().poll()'", Doing::Net),
            ("python3 -c 'while True: pass'", Doing::Works),
            ("python3 -c 'import threading; threading.Event().wait()'; true", Doing::Lock),
        ] {
            let mut child =
                Command::new("sh").args(["-c", program]).stdin(Stdio::null()).process_group(0).spawn().unwrap();
            let pid = Pid::from_raw(child.id().cast_signed());
            eventually(program, || glance(pid).is_some_and(|(_, doing)| doing == expected));
            let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_it_waits_in_has_a_name() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        eventually("that is its own affair", || glance(pid) == Some((State::Sleeps, Doing::Works)));
        eventually("it sleeps", || waits_in(pid).is_some_and(|place| place == "sleep" || place.contains("nanosleep")));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        eventually("it is stopped", || look(pid).is_some_and(|look| look.state == State::Stopped));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
