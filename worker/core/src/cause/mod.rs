//! Why a rank ended: one cause out of its exit, the last words of its output, and what the system knows.
//!
//! Three questions, each a pure function:
//!
//! - [`cause`]: a rank has ended; why?
//! - [`suspect`]: a rank still runs, but do its last words tell that it is about to end by its own fault?
//! - [`root`]: several ranks failed within a moment; which one is to blame?
//!
//! The last two are needed because the first rank to *die* is often not the one that *failed*: Python takes its time to
//! leave after an exception, and the peers, whose connections broke, may be faster. What survivors say about the failure of
//! others ("connection closed by peer", a watchdog's timeout) makes their cause [`Cause::secondary`].
//!
//! Evidence is believed in this order (C-1): a hang that we saw ourselves; a GPU error or an out-of-memory kill in the
//! kernel's log that names the process; counters of out-of-memory kills, for a process that SIGKILL ended and that we did not
//! kill; the program's own words, and NCCL's where those speak of NCCL; the bare exit.

mod kernel;
mod nccl;
mod phrases;
mod report;
mod root;
mod signal;
mod words;

pub use kernel::{KernelEvent, kernel_event};
pub use nccl::nccl_warning;
pub use report::ErrorReport;
pub use root::{Candidate, root};

use serde::{Deserialize, Serialize};

use crate::supervisor::{Exit, Tail};
use words::Finding;

/// Characters kept of a message: it goes into conditions and events, where a line of this length still reads well.
const MESSAGE_CHARS: usize = 400;
const SIGKILL: i32 = 9;

/// What kind of end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// It returned a code other than 0, and said nothing that tells more.
    ExitCode,
    /// A signal ended it.
    Signal,
    /// Memory ran out: the kernel killed it, or an allocation failed, on the machine or on a GPU.
    OutOfMemory,
    /// A Python module or a library was not found or could not be loaded.
    ImportError,
    /// The program raised an exception or panicked.
    Exception,
    /// The ranks did not all meet in time.
    RendezvousTimeout,
    /// It stood still, or waited too long for one that did.
    Hang,
    /// A GPU reported an Xid error.
    GpuXid,
    /// The check before the job found a bad link, machine or GPU.
    Preflight,
}

/// Why a rank ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// What kind of end.
    pub kind: Kind,
    /// The exit code that it stands for (128 + n for signal n).
    pub code: i32,
    /// One line for people: the first meaningful one of the rank's own where there is one.
    pub message: String,
    /// Whether this only follows from the failure of another rank.
    pub secondary: bool,
    /// The other rank, where the words name it.
    pub blames: Option<u32>,
}

/// What the system knows about a rank's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The rank's process, as the kernel numbers it.
    pub pid: Option<u32>,
    /// Processes that the kernel killed for memory in the rank's cgroup since the rank was started.
    pub cgroup_oom_kills: u64,
    /// The cgroup's memory limit.
    pub memory_limit_bytes: Option<u64>,
    /// The same for the whole machine (`oom_kill` in /proc/vmstat). 0 where the kernel's log can be read: it names whom it killed.
    pub machine_oom_kills: u64,
    /// What the kernel logged since the rank was started.
    pub kernel: Vec<KernelEvent>,
    /// What the program wrote to `TORCHELASTIC_ERROR_FILE`.
    pub report: Option<ErrorReport>,
    /// What NCCL wrote into the rank's debug file: its warnings, in order, without what stands before them.
    pub nccl: Vec<String>,
    /// What the rank was seen to wait in, if it was ended because it stood still.
    pub stalled: Option<String>,
    /// Whether we had signalled it to end before it did.
    pub stopped: bool,
}

/// Why a rank ended that did not end well.
#[must_use]
pub fn cause(exit: Exit, tail: &Tail, evidence: &Evidence) -> Cause {
    let finding = words::find(tail).or_else(|| evidence.report.as_ref().map(ErrorReport::finding));
    let finding = nccl::explained(finding, &evidence.nccl);
    let seen = evidence.stalled.as_ref().map(|words| hang(words));
    let judged = seen
        .or_else(|| kernel::xid(evidence, exit, finding.as_ref()))
        .or_else(|| oom_kill(exit, finding.as_ref(), evidence))
        .unwrap_or_else(|| judge(exit, finding, evidence));
    judged.code(exit.code())
}

/// What a rank that still runs is about to end of, if its last words are those of a failure.
#[must_use]
pub fn suspect(tail: &Tail) -> Option<Cause> {
    words::find(tail).filter(|finding| finding.is_last && finding.is_fatal).map(|finding| finding.verdict().code(1))
}

/// A cause whose code is not filled in.
struct Verdict {
    kind: Kind,
    message: String,
    secondary: bool,
    blames: Option<u32>,
}

impl Verdict {
    fn primary(kind: Kind, message: String) -> Self {
        Self { kind, message, secondary: false, blames: None }
    }

    fn code(self, code: i32) -> Cause {
        let Self { kind, message, secondary, blames } = self;
        Cause { kind, code, message: one_line(&message), secondary, blames }
    }
}

fn hang(words: &str) -> Verdict {
    Verdict::primary(Kind::Hang, if words.is_empty() { "stood still".to_owned() } else { words.to_owned() })
}

/// The kernel's killer, which leaves no words in the program's output.
fn oom_kill(exit: Exit, finding: Option<&Finding>, evidence: &Evidence) -> Option<Verdict> {
    // A shell that waited for the killed program returns 128 + 9; and the program may have had children, which it names.
    let child = finding.is_some_and(|finding| finding.line.contains("is killed by signal: Killed"));
    let killed = exit == Exit::Signal(SIGKILL) || exit == Exit::Code(128 + SIGKILL) || child;
    let named = kernel::killed_for_memory(evidence);
    if !killed || (evidence.stopped && named.is_none()) {
        return None;
    }
    let (bytes, limited) = named.unwrap_or_default();
    let size = bytes.map(|bytes| format!(" while it used {}", amount(bytes))).unwrap_or_default();
    let message = match evidence.memory_limit_bytes {
        Some(limit) if evidence.cgroup_oom_kills > 0 => {
            format!("killed by the kernel{size}: the memory limit of {} was reached", amount(limit))
        }
        _ if evidence.cgroup_oom_kills > 0 || limited => {
            format!("killed by the kernel{size}: its memory limit was reached")
        }
        _ if named.is_some() || evidence.machine_oom_kills > 0 => {
            format!("killed by the kernel{size}: the machine ran out of memory")
        }
        _ => return None,
    };
    Some(Verdict::primary(Kind::OutOfMemory, message))
}

/// From the program's words and the bare exit.
fn judge(exit: Exit, finding: Option<Finding>, evidence: &Evidence) -> Verdict {
    match exit {
        // Ended by us, unless it was about to end by itself.
        Exit::Signal(number) if evidence.stopped => {
            finding.filter(|finding| finding.is_last && finding.is_fatal && !finding.secondary).map_or_else(
                || Verdict {
                    kind: Kind::Signal,
                    message: format!("stopped by {}", signal::name(number)),
                    secondary: true,
                    blames: None,
                },
                Finding::verdict,
            )
        }
        // From outside, whatever the program was saying.
        Exit::Signal(number) if !signal::is_crash(number) => {
            Verdict::primary(Kind::Signal, format!("killed by {}", signal::name(number)))
        }
        Exit::Signal(number) => match finding.filter(|finding| finding.is_fatal) {
            Some(finding) if finding.kind == Kind::ExitCode => Verdict::primary(Kind::Signal, finding.line),
            Some(finding) => finding.verdict(),
            None => Verdict::primary(Kind::Signal, format!("killed by {}", signal::name(number))),
        },
        Exit::Code(code) => match finding {
            Some(finding) if evidence.stopped && !finding.is_last => Verdict {
                kind: Kind::ExitCode,
                message: format!("exit code {code} after it was told to stop"),
                secondary: true,
                blames: None,
            },
            Some(finding) => finding.verdict(),
            None => Verdict {
                kind: Kind::ExitCode,
                message: signal::exit_code(code),
                secondary: evidence.stopped,
                blames: None,
            },
        },
    }
}

/// One line of bounded length.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    const MI: u64 = 1 << 20;
    const GI: u64 = 1 << 30;
    if bytes >= GI { format!("{}.{} GiB", bytes / GI, bytes % GI * 10 / GI) } else { format!("{} MiB", bytes / MI) }
}
