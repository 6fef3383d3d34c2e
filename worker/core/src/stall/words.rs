//! Findings in words.

use std::fmt::Write as _;

use super::{Finding, Role, State};

/// Lines of a stack that are shown.
const STACK: usize = 12;

/// What the launcher says of findings that were made together: who stands still where, since when, and who waits for it.
#[must_use]
pub fn report(findings: &[Finding], host: &str) -> String {
    let mut text = String::new();
    let culprits: Vec<&Finding> = findings.iter().filter(|finding| finding.role == Role::Culprit).collect();
    let victims: Vec<&Finding> = findings.iter().filter(|finding| finding.role == Role::Victim).collect();
    for finding in &culprits {
        let _ =
            writeln!(text, "trainyard: rank {} on {host} hangs: {}, {}", finding.rank, silence(finding), what(finding));
        stack(&mut text, finding);
    }
    let Some(first) = victims.first() else { return text };
    let ranks = victims.iter().map(|finding| finding.rank.to_string()).collect::<Vec<_>>().join(", ");
    let (noun, verb) = if victims.len() == 1 { ("rank", "waits") } else { ("ranks", "wait") };
    if culprits.is_empty() {
        let _ = writeln!(
            text,
            "trainyard: {noun} {ranks} on {host} {verb} for each other: {}, {}",
            silence(first),
            what(first)
        );
        for finding in victims {
            stack(&mut text, finding);
        }
    } else {
        let place = if first.waits.place.is_empty() { String::new() } else { format!(" in {}", first.waits.place) };
        let _ = writeln!(text, "trainyard: {noun} {ranks} {verb} for it{place}");
    }
    text
}

fn silence(finding: &Finding) -> String {
    let silent = seconds(finding.silent_ms);
    match finding.usual_ms {
        Some(usual) => format!("no progress for {silent} (usually every {})", seconds(usual)),
        None => format!("no progress for {silent}"),
    }
}

fn what(finding: &Finding) -> String {
    let place = &finding.waits.place;
    match finding.state {
        State::Stopped if place.is_empty() => "stopped by a signal (SIGSTOP or a debugger)".to_owned(),
        State::Stopped => format!("stopped by a signal (SIGSTOP or a debugger) in {place}"),
        State::Blocked if place.is_empty() => "blocked by a disk or a device".to_owned(),
        State::Blocked => format!("blocked by a disk or a device in {place}"),
        State::Runs | State::Sleeps if place.is_empty() => "uses no CPU and does no input or output".to_owned(),
        State::Runs | State::Sleeps => format!("waits in {place}"),
    }
}

fn stack(text: &mut String, finding: &Finding) {
    for line in finding.waits.stack.iter().take(STACK) {
        let _ = writeln!(text, "  | {line}");
    }
}

/// `0.31 s`, `2.1 s`, `75 s`.
fn seconds(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000.. => format!("{} s", ms / 1_000),
    }
}
