//! The part of a program's last words that says why it ended: a traceback, a panic, a crash report, an error message.

use super::phrases;
use super::{Kind, Verdict};
use crate::supervisor::Tail;
use crate::{preflight, progress};

/// Lines that may follow the line that says it: a message of several lines, what Python says while it leaves.
const AFTERWORDS: usize = 12;
/// Lines between an exception and a crash on the way out that follows from it.
const ON_THE_WAY_OUT: usize = 3;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// The line, with the place in the user's program where that is known.
    pub(super) line: String,
    pub(super) secondary: bool,
    pub(super) blames: Option<u32>,
    /// Whether the program ends by this, as by an exception that nobody caught; an error message may be followed by anything.
    pub(super) is_fatal: bool,
    /// Whether nothing was said since that shows that the program went on.
    pub(super) is_last: bool,
    /// Index of the line.
    at: usize,
}

impl Finding {
    /// NCCL's own words, where the program said nothing.
    pub(super) fn of_nccl(line: String, warning: &str) -> Self {
        let meaning = phrases::meaning(warning, Kind::ExitCode);
        let (kind, secondary, blames) = (meaning.kind, meaning.secondary, meaning.blames);
        Self { kind, line, secondary, blames, is_fatal: false, is_last: true, at: 0 }
    }

    pub(super) fn verdict(self) -> Verdict {
        Verdict { kind: self.kind, message: self.line, secondary: self.secondary, blames: self.blames }
    }
}

/// The reason in a rank's last lines.
pub(super) fn find(tail: &Tail) -> Option<Finding> {
    find_in(&tail.lines().collect::<Vec<_>>())
}

/// The reason in some lines.
pub(super) fn find_in(lines: &[&str]) -> Option<Finding> {
    let lines: Vec<&str> = lines.iter().copied().map(plain).filter(|line| !is_noise(line)).collect();
    let raised = exceptions(&lines);
    let told = launcher(&lines, &raised);
    let crash = (0..lines.len()).rev().find_map(|at| crash(&lines, at));
    let exception = checked(&lines).or(told).or_else(|| chosen(&raised));
    let found = match (exception, crash) {
        // An exception that nobody caught, and a crash while the program leaves because of it.
        (Some(exception), Some(crash)) if crash.at > exception.at + ON_THE_WAY_OUT => Some(crash),
        (Some(exception), _) => Some(exception),
        (None, crash) => crash.or_else(|| complaint(&lines)),
    };
    found.map(|mut finding| {
        let after = lines.get(finding.at + 1..).unwrap_or_default();
        finding.is_last = after.len() <= AFTERWORDS && !after.iter().any(|line| progress::parse(line).is_some());
        finding
    })
}

/// A line without what torch puts before it (`[rank0]: `) and the bar of exception groups.
fn plain(line: &str) -> &str {
    let line = line.trim_end();
    let rest = line.strip_prefix("[rank").and_then(|rest| rest.split_once("]:")).map(|(rank, rest)| {
        let is_rank = !rank.is_empty() && rank.bytes().all(|byte| byte.is_ascii_digit());
        if is_rank { rest.strip_prefix(' ').unwrap_or(rest) } else { line }
    });
    let rest = rest.unwrap_or(line);
    match rest.strip_prefix("  | ").or_else(|| rest.strip_prefix("    | ")) {
        Some(inner) => inner,
        None => rest,
    }
}

fn is_noise(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("frame #")
        || line.contains("omitting python frames")
        || line.contains("NCCL INFO")
        || line.contains("terminate called without an active exception")
}

/// An exception of Python's, with what stands before it.
struct Raised {
    finding: Finding,
    /// The line of its header: where its traceback begins.
    header: usize,
    link: Link,
}

/// How a traceback is connected to the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    None,
    /// Raised while the one before was handled: for instance a farewell to peers that did not work out.
    Handling,
    /// Raised from the one before.
    From,
    /// Nobody waited for it: in a thread, or in a destructor.
    Aside,
    /// Of a launcher in between, which only reports that its ranks failed.
    Wrapper,
}

/// All tracebacks, in their order.
fn exceptions(lines: &[&str]) -> Vec<Raised> {
    let headers = (0..lines.len()).filter(|&at| lines[at].contains("Traceback (most recent call last)"));
    let mut raised: Vec<Raised> = headers.filter_map(|at| traceback(lines, at)).collect();
    if let Some(syntax) = syntax_error(lines, raised.last().map_or(0, |last| last.finding.at + 1)) {
        raised.push(syntax);
    }
    raised
}

/// The traceback whose header is at `header`.
fn traceback(lines: &[&str], header: usize) -> Option<Raised> {
    let body = lines.get(header + 1..)?;
    let length = body.iter().position(|line| !line.starts_with(' ') && is_exception(line))?;
    let (at, frames) = (header + 1 + length, &body[..length]);
    let mut finding = exception(lines[at], place(frames), false);
    finding.at = at;
    if lines[at].ends_with(':')
        && let Some(next) = lines.get(at + 1)
    {
        finding = Finding { at, ..exception(&format!("{} {}", lines[at], next.trim()), place(frames), false) };
    }
    // A data loader's worker has died: its pipe is no connection to another rank.
    if finding.secondary && frames.iter().any(|frame| frame.contains("torch/utils/data/")) {
        finding.secondary = false;
    }
    let before = header.checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or_default();
    let link = if before.starts_with("During handling of the above exception") {
        Link::Handling
    } else if before.starts_with("The above exception was the direct cause") {
        Link::From
    } else if before.starts_with("Exception in thread") || before.starts_with("Exception ignored in") {
        Link::Aside
    } else if finding.line.contains("ChildFailedError") || finding.line.contains("subprocess.CalledProcessError") {
        Link::Wrapper
    } else {
        Link::None
    };
    Some(Raised { finding, header, link })
}

/// Python's parser gives no traceback for the program that it was given, only the place.
fn syntax_error(lines: &[&str], from: usize) -> Option<Raised> {
    let is_one =
        |line: &str| ["SyntaxError: ", "IndentationError: ", "TabError: "].iter().any(|name| line.starts_with(name));
    let at = (from..lines.len()).rev().find(|&at| is_one(lines[at]))?;
    let frames = lines.get(from..at)?;
    let finding = Finding { at, ..exception(lines[at], place(frames), false) };
    Some(Raised { finding, header: from, link: Link::None })
}

/// The exception that ended the program: the last one, unless it only speaks of another.
fn chosen(raised: &[Raised]) -> Option<Finding> {
    let main = raised.iter().rposition(|one| matches!(one.link, Link::None | Link::Handling | Link::From));
    // A program may end by an exception in a thread, or by what its own launcher says: better than nothing.
    let Some(mut at) = main else { return raised.last().map(|one| one.finding.clone()) };
    let last = &raised[at].finding;
    while raised[at].finding.secondary && raised[at].link == Link::Handling && at > 0 {
        at -= 1;
        if !raised[at].finding.secondary {
            let at_last = last.at;
            return Some(Finding { at: at_last, ..raised[at].finding.clone() });
        }
    }
    // The exception of an original traceback within (a data loader's) is the last one already.
    debug_assert!(raised[at].header <= raised[at].finding.at, "a header stands before its exception");
    Some(last.clone())
}

/// What the check before the job found.
fn checked(lines: &[&str]) -> Option<Finding> {
    let at = lines.iter().rposition(|line| line.starts_with(preflight::PREFIX))?;
    let line = lines[at].strip_prefix(preflight::PREFIX)?.to_owned();
    Some(Finding { kind: Kind::Preflight, line, secondary: false, blames: None, is_fatal: true, is_last: false, at })
}

/// What torchrun says of the rank that failed first, where the ranks themselves said nothing that tells more.
fn launcher(lines: &[&str], raised: &[Raised]) -> Option<Finding> {
    let wrapper = raised.last().filter(|last| last.link == Link::Wrapper)?;
    if raised.iter().any(|one| one.link != Link::Wrapper && !one.finding.secondary) {
        return None;
    }
    let report = lines.get(wrapper.finding.at..)?;
    let root = report.iter().position(|line| line.starts_with("Root Cause (first observed failure)"))?;
    let field = |name: &str| {
        let mut values = report[root..].iter().filter_map(|line| line.trim().strip_prefix(name));
        values.find_map(|rest| rest.trim_start().strip_prefix(':')).map(str::trim)
    };
    let rank = field("rank")?.split(' ').next()?;
    let exit = field("exitcode")?.split(" (pid").next()?;
    let line = format!("torchrun: rank {rank} failed first, with exit code {exit}");
    Some(Finding { line, kind: Kind::ExitCode, secondary: false, blames: None, ..wrapper.finding.clone() })
}

/// A finding from an exception's line.
pub(super) fn exception(line: &str, place: Option<String>, is_last: bool) -> Finding {
    let meaning = phrases::meaning(line, Kind::Exception);
    let line = match place {
        Some(place) => format!("{line} ({place})"),
        None => line.to_owned(),
    };
    let (kind, secondary, blames) = (meaning.kind, meaning.secondary, meaning.blames);
    Finding { kind, line, secondary, blames, is_fatal: true, is_last, at: 0 }
}

/// `module.Type: message`, or `module.Type` alone.
fn is_exception(line: &str) -> bool {
    let name = line.split(": ").next().unwrap_or(line).trim_end_matches(':');
    let last = name.rsplit('.').next().unwrap_or(name);
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '<' | '>' | '(' | ')');
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(allowed)
        && last.chars().any(char::is_uppercase)
}

/// `train.py:10`: the innermost frame that is the user's own, not a library's.
fn place(frames: &[&str]) -> Option<String> {
    let file_line = |line: &str| {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
        let library = file.starts_with('<')
            || ["/site-packages/", "/dist-packages/", "/lib/python"].iter().any(|part| file.contains(part));
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let name = file.rsplit('/').next().unwrap_or(file);
        (!library && !number.is_empty()).then(|| format!("{name}:{number}"))
    };
    frames.iter().rev().find_map(|line| file_line(line))
}

/// A crash report that begins at line `at`: of Rust, of Python's faulthandler, of C++ or of the C library.
fn crash(lines: &[&str], at: usize) -> Option<Finding> {
    let line = lines[at];
    let next = lines.get(at + 1).map(|line| line.trim()).unwrap_or_default();
    let said = |kind, text: String| {
        let meaning = phrases::meaning(&text, kind);
        let (kind, secondary, blames) = (meaning.kind, meaning.secondary, meaning.blames);
        Some(Finding { kind, line: text, secondary, blames, is_fatal: true, is_last: false, at })
    };
    if let Some((_, place)) = line.split_once(" panicked at ").filter(|_| line.starts_with("thread '")) {
        return said(Kind::Exception, format!("panic: {next} ({})", place.trim_end_matches(':')));
    }
    if let Some(what) = line.strip_prefix("Fatal Python error: ") {
        let stack = lines.get(at + 1..).unwrap_or_default();
        let stack: Vec<&str> =
            stack.iter().copied().take_while(|line| !line.starts_with("Extension modules")).collect();
        // The most recent call comes first here.
        let reversed: Vec<&str> = stack.into_iter().rev().collect();
        let place = place(&reversed).map(|place| format!(" ({place})")).unwrap_or_default();
        return said(Kind::Signal, format!("{what}{place}"));
    }
    if let Some(kind) = line.strip_prefix("terminate called after throwing an instance of ") {
        let what = next.strip_prefix("what():").map(str::trim).unwrap_or_default();
        return said(Kind::Exception, format!("{}: {what}", kind.trim_matches('\'')));
    }
    if line.starts_with("memory allocation of ") && line.ends_with(" bytes failed") {
        return said(Kind::OutOfMemory, line.to_owned());
    }
    let c_library =
        ["free(): ", "malloc(): ", "double free or corruption", "corrupted ", "*** stack smashing detected ***"];
    if c_library.iter().any(|start| line.starts_with(start)) || line.contains(": Assertion `") {
        return said(Kind::Signal, line.to_owned());
    }
    None
}

/// The last error message that is neither.
fn complaint(lines: &[&str]) -> Option<Finding> {
    let is_one = |line: &str| {
        let start = line.trim_start();
        ["error:", "Error:", "ERROR:", "fatal:", "FATAL:"].iter().any(|word| start.starts_with(word))
            || line.contains(": error: ")
            || line.contains(": can't open file ")
            || line.contains(": No module named ")
            || line.contains(": error while loading shared libraries: ")
            || line.contains("Error while finding module specification for ")
    };
    let at = lines.iter().rposition(|line| is_one(line))?;
    let meaning = phrases::meaning(lines[at], Kind::ExitCode);
    let kind = if lines[at].contains("(ModuleNotFoundError: ") { Kind::ImportError } else { meaning.kind };
    let (line, secondary, blames) = (lines[at].trim().to_owned(), meaning.secondary, meaning.blames);
    Some(Finding { kind, line, secondary, blames, is_fatal: false, is_last: false, at })
}
