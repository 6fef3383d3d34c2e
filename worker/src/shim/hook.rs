//! Commands in a running container: exec probes and life-cycle hooks.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, Pid};

use super::child::{StartFailure, become_user, execute, tie_to};
use super::engine::EngineContainer;
use super::spec::{Beside, Hook};

/// When a hook is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The program was just started; the container behind it may not be there yet.
    Start,
    Stop,
}

/// Between two looks at whether an engine's container runs.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Runs a hook in a child process beside the container's program; gives the child's id.
pub(super) fn spawn(hook: &Hook, moment: Moment, beside: &Beside, engine: Option<&EngineContainer>) -> Option<Pid> {
    let shim = nix::unistd::getpid();
    // SAFETY: the shim has one thread, so the child may do everything that the parent may.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Some(child),
        Ok(ForkResult::Child) => {
            let _ = nix::unistd::setsid();
            if tie_to(shim).is_err() {
                // SAFETY: as below.
                unsafe { libc::_exit(1) }
            }
            if moment == Moment::Start {
                // The shim ends us with the container, whatever became of it.
                while engine.is_some_and(|engine| !engine.look().is_some_and(|seen| seen.started)) {
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
            let code = run(hook, beside, engine, shim);
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        Err(_) => None,
    }
}

fn run(hook: &Hook, beside: &Beside, engine: Option<&EngineContainer>, shim: Pid) -> i32 {
    match (hook, engine) {
        (Hook::Exec(argv), Some(engine)) => engine.exec(argv).status().ok().and_then(|s| s.code()).unwrap_or(126),
        (Hook::Exec(argv), None) => exec_beside(argv, beside, Some(shim)),
        (Hook::Http { host, port, path }, _) => i32::from(!http_get(host, *port, path)),
        (Hook::Sleep { seconds }, _) => {
            std::thread::sleep(Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)));
            0
        }
    }
}

/// Becomes a command in the namespaces, the folder and the cgroup, with the environment and as the user of the program
/// `beside`; tied to the shim that runs it, if it is one. Comes back only when that fails.
pub(super) fn exec_beside(argv: &[String], beside: &Beside, shim: Option<Pid>) -> i32 {
    let failure = match enter(beside, shim) {
        Ok(env) => execute(argv, &env),
        Err(failure) => failure,
    };
    let _ = writeln!(std::io::stderr(), "{}", failure.message);
    failure.exit_code
}

/// Gives the program's environment.
fn enter(beside: &Beside, shim: Option<Pid>) -> Result<Vec<(String, String)>, StartFailure> {
    let fail =
        |what: &str| StartFailure { exit_code: 126, message: format!("cannot run beside the container: {what}") };
    let pid = beside.process.pid;
    let environ = std::fs::read(format!("/proc/{pid}/environ")).map_err(|_| fail("its program has ended"))?;
    let dir = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    // The user namespace first: it gives the right to enter the others. Being in it already is refused and harmless.
    let namespaces =
        [("user", CloneFlags::CLONE_NEWUSER), ("uts", CloneFlags::CLONE_NEWUTS), ("mnt", CloneFlags::CLONE_NEWNS)]
            .map(|(name, kind)| (name, kind, File::open(format!("/proc/{pid}/ns/{name}"))));
    let same = same_namespace(pid);
    // All of this was of the program that is meant, and not of a later one with its number, if it still runs.
    if !beside.process.is_alive() {
        return Err(fail("its program has ended"));
    }
    if let Some(cgroup) = &beside.cgroup {
        match cgroup.join() {
            // Groups made by root, or in another session: its limits do not hold for the command, which runs.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            joined => joined.map_err(|error| fail(&format!("its cgroup cannot be joined: {error}")))?,
        }
    }
    for (name, kind, file) in namespaces {
        let entered = file.is_ok_and(|file| setns(file.as_fd(), kind).is_ok());
        if !entered && name == "mnt" && !same {
            return Err(fail("its mounts cannot be entered"));
        }
    }
    if let Some(dir) = dir {
        let _ = std::env::set_current_dir(dir);
    }
    if let Some(user) = &beside.user {
        become_user(user)?;
        // The kernel forgets the tie when a process changes its user.
        shim.map_or(Ok(()), tie_to)?;
    }
    let env = environ.split(|byte| *byte == 0).filter_map(|entry| {
        let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    Ok(env.collect())
}

fn same_namespace(pid: i32) -> bool {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of("self").is_some() && of("self") == of(&pid.to_string())
}

/// A plain GET; whether the answer is a success or a redirection.
fn http_get(host: &str, port: u16, path: &str) -> bool {
    let limit = Duration::from_secs(30);
    let Some(address) = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next()) else { return false };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else { return false };
    let _ = stream.set_read_timeout(Some(limit));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    let mut answer = [0_u8; 16];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut answer[..12]).is_ok()
        && matches!(answer[9], b'2' | b'3')
}
