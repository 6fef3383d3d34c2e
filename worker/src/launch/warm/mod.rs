//! Warm start: a spare interpreter, with the program's heavy imports done, becomes a rank when one has to start again.
//!
//! One *zygote* per launcher, started when the ranks show progress, imports what they have imported (`worker/python/warm`)
//! and forks *spares*, which wait as children of the launcher. [`Warm::try_start`] makes a spare a rank. The zygote and
//! its spares are never counted as ranks; they end with the launcher, rank behind the ranks where CPU and memory are
//! short, and whatever goes wrong with them costs nothing but the warm start: then the rank is started as always.

mod command;
mod files;
mod line;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};
use serde::Deserialize;
use serde_json::json;

use self::command::{Program, Target};
use self::line::{Heard, Line};
use super::LaunchError;
use super::choice::{choose, own};
use crate::checkpoint::FILE;

/// `off`, or `auto` as without it.
const VARIABLE: &str = "TRAINYARD_SPARES";
const OFF: &str = "off";
/// What the flag and the variable may say.
pub(super) const WORDS: [&str; 2] = ["auto", OFF];

/// Whether spares may be made. The flag has the last word, before the variable.
pub(super) fn wanted(flag: Option<&str>) -> Result<bool, LaunchError> {
    Ok(choose(flag, VARIABLE, &WORDS, own)? != Some(OFF))
}

/// A file for what a zygote writes to standard error, which nobody reads otherwise.
const LOG: &str = "TRAINYARD_SPARES_LOG";
/// How long a spare may take to become a rank; else the rank is started cold. A warm start is worth seconds, and takes
/// milliseconds even where the CPUs are busy.
const PROMOTION: Duration = Duration::from_millis(400);
/// How long the imports may take: far more than any that is worth waiting for.
const IMPORTS: Duration = Duration::from_secs(600);
/// Zygotes that may fail before it is given up.
const FAILURES: u32 = 3;
/// How old a measurement of the memory may be: reading it costs milliseconds.
const MEASURED: Duration = Duration::from_secs(60);
/// What differs from rank to rank, or from generation to generation. What imports read beside these is the same for all.
const OF_RANKS: [&str; 16] = [
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TRAINYARD_GENERATION",
    "TRAINYARD_RESTARTS",
    "TRACEPARENT",
];

/// The Python files' folder in `PYTHONPATH`, for a command that is a Python program.
pub(super) fn python_path(command: &[String]) -> Option<OsString> {
    Program::of(command)?;
    let folder = files::folder().ok()?;
    Some(files::python_path(&folder, std::env::var_os("PYTHONPATH").as_deref()))
}

/// The folder of the Python files that the binary carries; written if it is not there.
pub(super) fn folder() -> io::Result<PathBuf> {
    files::folder()
}

/// A spare that has become a rank.
#[derive(Debug)]
pub(super) struct Started {
    /// Its process, a child of ours, leader of a session and a group of its own, ended with us by the system.
    pub(super) pid: u32,
    /// Readable when it has ended.
    pub(super) pidfd: OwnedFd,
    /// What it writes to standard output and to standard error.
    pub(super) pipes: [OwnedFd; 2],
}

/// The zygote and its spares.
pub(super) struct Warm {
    program: Program,
    command: Vec<String>,
    /// The environment of the zygote, beside ours.
    variables: Vec<(String, String)>,
    /// As many spares as there are ranks.
    wanted: usize,
    zygote: Option<Zygote>,
    spares: VecDeque<Spare>,
    /// Spares were used since the zygote was last asked.
    used: bool,
    failures: u32,
    /// Whether to import what ranks have loaded beyond what their files import at their top.
    learns: bool,
    memory: Option<(Instant, u64)>,
    trouble: Option<String>,
}

struct Zygote {
    process: Spawned,
    line: Line,
    began: Instant,
    prepared: bool,
}

struct Spare {
    process: Spawned,
    line: Line,
}

/// A process that is killed when it is not needed any more.
struct Spawned {
    pid: u32,
    pidfd: Option<OwnedFd>,
}

impl Warm {
    /// Nothing when the command is not a Python program or spares are not wanted. Starts nothing yet.
    ///
    /// `variables` are those of any rank; what belongs to one rank or one generation is left out of them here.
    pub(super) fn new(command: &[String], ranks: usize, variables: &[(String, String)]) -> Option<Self> {
        let program = Program::of(command)?;
        let common = variables.iter().filter(|(name, _)| !OF_RANKS.contains(&name.as_str()));
        Some(Self {
            program,
            command: command.to_vec(),
            variables: common.cloned().collect(),
            wanted: ranks,
            zygote: None,
            spares: VecDeque::new(),
            used: false,
            failures: 0,
            learns: true,
            memory: None,
            trouble: None,
        })
    }

    /// To be polled for reading; then call [`Self::hear`].
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.zygote.as_ref().map(|zygote| zygote.line.socket())
    }

    /// A rank shows progress: its imports are done, and there is time to prepare for its end. May be called often.
    pub(super) fn progress(&mut self, pid: u32) {
        if self.zygote.as_ref().is_some_and(|zygote| !zygote.prepared && zygote.began.elapsed() > IMPORTS) {
            self.lose("its imports take too long");
        }
        if self.zygote.is_none() && self.failures < FAILURES && self.spares.len() < self.wanted {
            if let Err(error) = self.begin(pid) {
                self.failures += 1;
                self.trouble = Some(error.to_string());
            }
        } else if std::mem::take(&mut self.used) {
            self.ask(json!({"more": {"spares": self.missing(), "of": pid}}), pid);
        }
    }

    /// Takes what the zygote says.
    pub(super) fn hear(&mut self) {
        while let Some(zygote) = &mut self.zygote {
            match zygote.line.hear() {
                Ok(Heard::Packet(packet, descriptors)) => match serde_json::from_slice(&packet) {
                    Ok(Said::Prepared { why, .. }) => {
                        zygote.prepared = true;
                        self.trouble = Some(why).filter(|why| !why.is_empty());
                    }
                    Ok(Said::Spare { pid }) => self.welcome(pid, descriptors),
                    Ok(Said::Unfit { why }) => {
                        self.learns = false;
                        self.lose(&why);
                        return;
                    }
                    Err(_) => return self.lose("it says what nobody understands"),
                },
                Ok(Heard::Nothing) => return,
                Ok(Heard::End) | Err(_) => return self.lose("it has ended"),
            }
        }
    }

    /// Makes a spare a rank, with `variables` beside our own environment. Nothing when there is none that can; then the
    /// rank is to be started as always.
    pub(super) fn try_start(&mut self, variables: &[(String, String)]) -> Option<Started> {
        self.hear();
        let deadline = Instant::now() + PROMOTION;
        while let Some(spare) = self.spares.pop_back() {
            self.used = true;
            self.memory = None;
            match spare.promote(&self.command, variables, deadline) {
                Ok(started) => {
                    if self.zygote.as_ref().is_some_and(|zygote| zygote.process.pid == started.pid)
                        && let Some(zygote) = self.zygote.take()
                    {
                        zygote.process.keep();
                    }
                    return Some(started);
                }
                Err(error) => self.trouble = Some(error.to_string()),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        None
    }

    /// Spares that wait.
    pub(super) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// What the zygote and the spares hold in memory, each shared page counted once among those who share it.
    pub(super) fn memory(&mut self) -> u64 {
        if let Some((at, bytes)) = self.memory
            && at.elapsed() < MEASURED
        {
            return bytes;
        }
        let zygote = self.zygote.as_ref().map(|zygote| zygote.process.pid);
        let spares = self.spares.iter().map(|spare| spare.process.pid).filter(|pid| Some(*pid) != zygote);
        let bytes = zygote.into_iter().chain(spares).filter_map(proportional_bytes).sum();
        self.memory = Some((Instant::now(), bytes));
        bytes
    }

    /// Why there are no spares, or no cheap ones, in words.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.spares.len())
    }

    fn begin(&mut self, pid: u32) -> io::Result<()> {
        let folder = files::folder()?;
        let (line, theirs) = Line::pair()?;
        let launcher = getpid();
        let mut command = Command::new(&self.program.interpreter);
        command.args(&self.program.flags).arg(files::zygote(&folder));
        // Not read; they make the command line long enough to be overwritten with the rank's, for people who look.
        let (Target::Script(target) | Target::Module(target)) = &self.program.target;
        command.arg(target).args(&self.program.arguments);
        command
            .env_remove(super::span::SPANS)
            .env_remove(FILE)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        for name in OF_RANKS {
            command.env_remove(name);
        }
        command.env("TRAINYARD_ZYGOTE", theirs.as_raw_fd().to_string());
        // Not read either: a rank that comes of it writes its own over it, for us to know its children by.
        command.env("TRAINYARD_GENERATION", "0".repeat(20));
        let log = std::env::var_os(LOG).and_then(|path| File::options().create(true).append(true).open(path).ok());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.map_or_else(Stdio::null, Stdio::from));
        let inherited = theirs.as_raw_fd();
        // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != launcher {
                    return Err(io::Error::from_raw_os_error(Errno::ESRCH as i32));
                }
                // SAFETY: the descriptor is open: the parent holds it until this process runs the interpreter.
                fcntl(BorrowedFd::borrow_raw(inherited), FcntlArg::F_SETFD(FdFlag::empty()))?;
                crate::signal::reset()
            });
        }
        // Its end is seen by the pidfd, and its status is taken with that of other orphans.
        let child = command.spawn()?;
        drop(theirs);
        let process = Spawned::watch(child.id())?;
        self.zygote = Some(Zygote { process, line, began: Instant::now(), prepared: false });
        self.used = false;
        let (kind, target) = match &self.program.target {
            Target::Script(path) => ("path", path),
            Target::Module(name) => ("module", name),
        };
        let order = json!({"prepare": {
            "kind": kind, "target": target, "arguments": self.program.arguments, "learn": self.learns,
            "spares": self.missing(), "of": pid,
        }});
        self.ask(order, pid);
        Ok(())
    }

    /// Sends an order together with the memory of a running rank, where the system lets us read that.
    fn ask(&mut self, order: serde_json::Value, pid: u32) {
        let Some(zygote) = &self.zygote else { return };
        let memory = File::open(format!("/proc/{pid}/mem")).ok();
        let descriptors: Vec<BorrowedFd<'_>> = memory.iter().map(File::as_fd).collect();
        if let Err(error) = zygote.line.send(order.to_string().as_bytes(), &descriptors) {
            self.lose(&error.to_string());
        }
    }

    fn welcome(&mut self, pid: u32, descriptors: Vec<OwnedFd>) {
        let Some(socket) = descriptors.into_iter().next() else { return };
        let Ok(process) = Spawned::watch(pid) else { return };
        self.spares.push_back(Spare { process, line: Line::new(socket) });
        // Newer ones know more.
        while self.spares.len() > self.wanted {
            self.spares.pop_front();
        }
        self.memory = None;
    }

    /// The zygote is of no use any more; its spares may be.
    fn lose(&mut self, why: &str) {
        self.zygote = None;
        self.failures += 1;
        self.trouble = Some(why.to_owned());
    }
}

/// What a zygote says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    Prepared { why: String },
    Spare { pid: u32 },
    Unfit { why: String },
}

/// What a spare says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Started {},
    Refused { why: String },
}

impl Spare {
    fn promote(self, command: &[String], variables: &[(String, String)], deadline: Instant) -> io::Result<Started> {
        let null = File::open("/dev/null")?;
        let (out, out_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (error, error_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let folder = std::env::current_dir()?;
        let mut packet = json!({"folder": folder.to_string_lossy(), "command": command}).to_string().into_bytes();
        packet.push(b'\n');
        packet.extend(environment(variables));
        self.line.send(&packet, &[null.as_fd(), out_end.as_fd(), error_end.as_fd()])?;
        match self.line.await_packet(deadline)? {
            Heard::Packet(answer, _) => match serde_json::from_slice(&answer)? {
                Answer::Started {} => {
                    let pid = self.process.pid;
                    let pidfd = self.process.keep().ok_or_else(|| io::Error::other("the spare is not watched"))?;
                    Ok(Started { pid, pidfd, pipes: [out, error] })
                }
                Answer::Refused { why } => Err(io::Error::other(why)),
            },
            Heard::Nothing => Err(io::Error::other("the spare did not answer")),
            Heard::End => Err(io::Error::other("the spare has ended")),
        }
    }
}

/// Our own environment with `variables`, as `NAME=value` with a zero byte behind each.
fn environment(variables: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut put = |name: &OsStr, value: &OsStr| {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            block.extend_from_slice(part);
        }
    };
    for (name, value) in std::env::vars_os() {
        if name != super::span::SPANS && name != FILE && !variables.iter().any(|(known, _)| name == known.as_str()) {
            put(&name, &value);
        }
    }
    for (name, value) in variables {
        put(OsStr::new(name), OsStr::new(value));
    }
    block
}

impl Spawned {
    fn watch(pid: u32) -> io::Result<Self> {
        // SAFETY: the system call takes two integers and returns a new descriptor that nobody else owns, or -1.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?)
        };
        Ok(Self { pid, pidfd: Some(pidfd) })
    }

    /// Gives up the watch: the process is somebody else's now.
    fn keep(mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // SAFETY: the system call takes integers and a null pointer. A process that is gone needs no signal.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    pidfd.as_raw_fd(),
                    libc::SIGKILL,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                );
            }
        }
    }
}

/// PSS of a process.
fn proportional_bytes(pid: u32) -> Option<u64> {
    let path: PathBuf = ["/proc", &pid.to_string(), "smaps_rollup"].iter().collect();
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests;
