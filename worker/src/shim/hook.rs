//! Commands in a running container: exec probes and life-cycle hooks.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, Pid};

use super::child::{execute, tie_to};
use super::engine::EngineContainer;
use super::spec::Hook;

/// Runs a hook in a child process beside the program `beside`; gives the child's id.
pub(super) fn spawn(hook: &Hook, beside: Pid, engine: Option<&EngineContainer>) -> Option<Pid> {
    let shim = nix::unistd::getpid();
    // SAFETY: the shim has one thread, so the child may do everything that the parent may.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Some(child),
        Ok(ForkResult::Child) => {
            let _ = nix::unistd::setsid();
            let code = if tie_to(shim).is_ok() { run(hook, beside, engine) } else { 1 };
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        Err(_) => None,
    }
}

fn run(hook: &Hook, beside: Pid, engine: Option<&EngineContainer>) -> i32 {
    match (hook, engine) {
        (Hook::Exec(argv), Some(engine)) => engine.exec(argv).status().ok().and_then(|s| s.code()).unwrap_or(126),
        (Hook::Exec(argv), None) => exec_beside(argv, beside),
        (Hook::Http { host, port, path }, _) => i32::from(!http_get(host, *port, path)),
        (Hook::Sleep { seconds }, _) => {
            std::thread::sleep(Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)));
            0
        }
    }
}

/// Becomes a command in the namespaces, the folder and with the environment of the process `beside`.
/// Comes back only when that fails.
pub(super) fn exec_beside(argv: &[String], beside: Pid) -> i32 {
    let Ok(environ) = std::fs::read(format!("/proc/{beside}/environ")) else { return 126 };
    let env: Vec<(String, String)> = environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    let dir = std::fs::read_link(format!("/proc/{beside}/cwd")).ok();
    let namespace = |name: &str| File::open(format!("/proc/{beside}/ns/{name}"));
    // The user namespace first: it gives the right to enter the others. Being in it already is refused and harmless.
    for (name, kind) in
        [("user", CloneFlags::CLONE_NEWUSER), ("uts", CloneFlags::CLONE_NEWUTS), ("mnt", CloneFlags::CLONE_NEWNS)]
    {
        if let Ok(file) = namespace(name) {
            let entered = setns(file.as_fd(), kind);
            if entered.is_err() && name == "mnt" && !same_namespace(beside) {
                return 126;
            }
        }
    }
    if let Some(dir) = dir {
        let _ = std::env::set_current_dir(dir);
    }
    let failure = execute(argv, &env);
    let _ = writeln!(std::io::stderr(), "{}", failure.message);
    failure.exit_code
}

fn same_namespace(beside: Pid) -> bool {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of("self").is_some() && of("self") == of(&beside.to_string())
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
