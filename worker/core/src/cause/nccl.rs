//! What NCCL warned of. Its errors reach the program as one of a handful of words (`ncclSystemError`), in an exception that
//! says "check NCCL warnings for reason": the reason is here.

use super::words::Finding;
use super::{Kind, phrases};

/// Before the words of a warning, after the host, process, thread and place.
const MARK: &str = "NCCL WARN ";
/// How a program's last words show that they are about NCCL.
const SIGNS: [&str; 3] = ["NCCL", "nccl", "DistBackendError"];

/// The words of a warning in a line of NCCL's debug output.
#[must_use]
pub fn nccl_warning(line: &str) -> Option<&str> {
    let (_, words) = line.split_once(MARK)?;
    let words = words.trim();
    (!words.is_empty()).then_some(words)
}

/// The program's words together with NCCL's, if they speak of the same.
pub(super) fn explained(finding: Option<Finding>, warnings: &[String]) -> Option<Finding> {
    // The last one that is of this rank's own making; what comes after the cause are its consequences elsewhere.
    let is_own = |warning: &&String| !phrases::meaning(warning, Kind::ExitCode).secondary;
    let Some(warning) = warnings.iter().rev().find(is_own).or(warnings.last()) else { return finding };
    let Some(mut finding) = finding else { return Some(Finding::of_nccl(format!("NCCL: {warning}"), warning)) };
    if !SIGNS.iter().any(|sign| finding.line.contains(sign)) {
        return Some(finding);
    }
    finding.line = format!("{}; NCCL: {warning}", finding.line);
    if finding.kind != Kind::Hang {
        let meaning = phrases::meaning(warning, finding.kind);
        (finding.kind, finding.secondary) = (meaning.kind, meaning.secondary);
    }
    Some(finding)
}
