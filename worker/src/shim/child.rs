//! From a fork to the user's program: everything between them, and what to tell the user when it fails.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

use super::spec::{ShimSpec, User};

/// A started program and the ends of its pipes.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) stdout: File,
    pub(super) stderr: File,
}

/// Why a program did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StartFailure {
    /// As shells do: 127 not found, 126 found but not runnable; 128 for what surrounds it.
    pub(super) exit_code: i32,
    pub(super) message: String,
}

impl StartFailure {
    pub(super) fn around(message: impl Into<String>) -> Self {
        Self { exit_code: 128, message: message.into() }
    }
}

/// Starts the container's program. This process must be single-threaded.
pub(super) fn start(spec: &ShimSpec) -> Result<Started, StartFailure> {
    let pipe =
        || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| StartFailure::around(format!("no pipe: {errno}")));
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    let (failure, child_failure) = pipe()?;
    let shim = nix::unistd::getpid();
    // SAFETY: the shim has one thread, so the child may do everything that the parent may.
    let forked = unsafe { nix::unistd::fork() };
    match forked {
        Err(errno) => Err(StartFailure::around(format!("cannot fork: {errno}"))),
        Ok(ForkResult::Child) => {
            let failure = become_program(spec, shim, &child_stdout, &child_stderr);
            let mut report = File::from(child_failure);
            let _ = report.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(failure.exit_code) }
        }
        Ok(ForkResult::Parent { child }) => {
            drop((child_stdout, child_stderr, child_failure));
            let mut report = Vec::new();
            // The child's end closes when the program is in place, or with the child.
            let _ = File::from(failure).read_to_end(&mut report);
            if report.is_empty() {
                return Ok(Started { pid: child, stdout: File::from(stdout), stderr: File::from(stderr) });
            }
            let _ = nix::sys::wait::waitpid(child, None);
            Err(serde_json::from_slice(&report)
                .unwrap_or_else(|_| StartFailure::around("the start failed without a word")))
        }
    }
}

/// Runs in the child; comes back only with a failure.
fn become_program(spec: &ShimSpec, shim: Pid, stdout: &OwnedFd, stderr: &OwnedFd) -> StartFailure {
    let _ = nix::unistd::setsid();
    if let Err(failure) = tie_to(shim) {
        return failure;
    }
    if let Some(cgroup) = &spec.cgroup
        && let Err(error) = cgroup.join()
    {
        return StartFailure::around(format!("cannot join the cgroup that limits it: {error}"));
    }
    if let Err(failure) = redirect(stdout, stderr) {
        return failure;
    }
    if let Some(sandbox) = &spec.sandbox
        && let Err(error) = crate::sandbox::enter(sandbox)
    {
        return StartFailure::around(error.to_string());
    }
    if let Some(user) = &spec.user
        // The kernel forgets the tie when a process changes its user.
        && let Err(failure) = become_user(user).and_then(|()| tie_to(shim))
    {
        return failure;
    }
    if let Err(error) = std::env::set_current_dir(&spec.dir) {
        let dir = &spec.dir;
        return StartFailure::around(format!(
            "workingDir {dir:?} cannot be entered: {error}; create it, or set workingDir to a folder that exists on this machine"
        ));
    }
    execute(&spec.argv, &spec.env)
}

/// Groups first: whoever is no longer root may not change them.
pub(super) fn become_user(user: &User) -> Result<(), StartFailure> {
    let fail =
        |what: &str, id: u32, errno| StartFailure::around(format!("{what} {id} of its securityContext: {errno}"));
    let groups: Vec<Gid> = user.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    nix::unistd::setgroups(&groups).map_err(|errno| fail("supplementalGroups", user.groups.len() as u32, errno))?;
    if let Some(id) = user.gid {
        nix::unistd::setgid(Gid::from_raw(id)).map_err(|errno| fail("runAsGroup", id, errno))?;
    }
    if let Some(id) = user.uid {
        nix::unistd::setuid(Uid::from_raw(id)).map_err(|errno| fail("runAsUser", id, errno))?;
    }
    Ok(())
}

/// The program must not outlive its shim: nobody would keep its logs and its exit code.
pub(super) fn tie_to(shim: Pid) -> Result<(), StartFailure> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| StartFailure::around(format!("cannot tie the program to its shim: {errno}")))?;
    if nix::unistd::getppid() == shim { Ok(()) } else { Err(StartFailure::around("the shim has ended")) }
}

fn redirect(stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), StartFailure> {
    let fail = |error: io::Error| StartFailure::around(format!("cannot redirect its output: {error}"));
    let null = File::open("/dev/null").map_err(fail)?;
    for (from, to) in [(null.as_fd(), 0), (stdout.as_fd(), 1), (stderr.as_fd(), 2)] {
        // SAFETY: both are open descriptors of this process.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(fail(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Becomes the program; comes back only with a failure that says what to do.
pub(super) fn execute(argv: &[String], env: &[(String, String)]) -> StartFailure {
    let Some(program) = argv.first() else { return StartFailure::around("the command is empty") };
    // Fails for no signal that exists; the program is started in any case.
    let _ = crate::signal::reset();
    let c_string = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    let args: Vec<CString> = argv.iter().map(|arg| c_string(arg)).collect();
    let vars: Vec<CString> = env.iter().map(|(key, value)| c_string(&format!("{key}={value}"))).collect();
    let path =
        env.iter().rev().find(|(key, _)| key == "PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, v)| v.as_str());
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.clone()]
    } else {
        path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{program}")).collect()
    };
    let mut denied = None;
    for candidate in &candidates {
        match nix::unistd::execve(&c_string(candidate), &args, &vars) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) if !Path::new(candidate).exists() => {}
            Err(errno) => {
                denied.get_or_insert((candidate.clone(), errno));
            }
            Ok(_) => {}
        }
    }
    not_executed(program, path, denied)
}

fn not_executed(program: &str, path: &str, denied: Option<(String, nix::Error)>) -> StartFailure {
    let failure = |exit_code, message| StartFailure { exit_code, message };
    match denied {
        None if program.contains('/') => failure(
            127,
            format!(
                "command not found: {program:?} does not exist on this machine; check the path, or run with a container engine that has the image"
            ),
        ),
        None => failure(
            127,
            format!(
                "command not found: {program:?} is in no folder of PATH ({path}); install it, give its full path, or set PATH in the container's env"
            ),
        ),
        Some((file, nix::Error::EACCES)) => {
            failure(126, format!("permission denied: {file} is not executable; run chmod +x {file}"))
        }
        Some((file, nix::Error::ENOEXEC)) => failure(
            126,
            format!(
                "{file} is no program: a script needs a first line such as #!/bin/sh, a binary must be for this machine's architecture"
            ),
        ),
        Some((file, nix::Error::ENOENT)) => failure(
            127,
            format!(
                "{file} exists, but the interpreter in its first line does not; correct the line that begins with #!"
            ),
        ),
        Some((file, nix::Error::E2BIG)) => {
            failure(126, format!("{file}: arguments and environment together are too long for this system"))
        }
        Some((file, errno)) => failure(126, format!("cannot run {file}: {errno}")),
    }
}
