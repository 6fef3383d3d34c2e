//! What came out, where the records are, and what to do next.

use std::io;
use std::io::Write as _;

use crate::error::CliError;
use crate::exit_code;
use crate::follow::failure::{cure, describe_code, reported_words};
use crate::follow::outcome::{Outcome, Report, signal_code};
use crate::follow::screen::Screen;
use crate::job::{self, End};
use crate::output::{duration, style};
use crate::session::{Place, Session};
use crate::target::Found;

/// Prints the summary and answers the exit code.
pub(crate) fn print(session: &Session, found: &Found, report: &Report) -> Result<u8, CliError> {
    let screen = Screen::new();
    let name = found.name();
    let took = duration::span(report.took.as_secs_f64());
    let title = found.title();
    let code = match &report.outcome {
        Outcome::Ended(End::Succeeded) => {
            screen.say("Succeeded", style::GOOD, &format!("{title} in {took}"))?;
            results(&screen, report)?;
            exit_code::SUCCESS
        }
        Outcome::Ended(End::Failed) => failed(&screen, &title, &took, report)?,
        Outcome::Available => {
            screen.say("Available", style::GOOD, &format!("{title} after {took}; it goes on"))?;
            exit_code::SUCCESS
        }
        Outcome::Stopped { signal, killed } => {
            let how = if *killed { "killed" } else { "stopped" };
            screen.say("Stopped", style::CARE, &format!("{title} was {how} after {took}; no rank is left running"))?;
            signal_code(*signal)
        }
        Outcome::Left { signal } => {
            screen.say("Left", style::CARE, &format!("{title}, which goes on"))?;
            signal_code(*signal)
        }
        // Followed again, or told about, by whoever gets this.
        Outcome::ServerLost => exit_code::UNREACHABLE,
        Outcome::Deleted => {
            screen.say("Deleted", style::BAD, &format!("{title} was deleted while it was followed"))?;
            exit_code::FAILURE
        }
    };
    let gone = job::takes_pods_away(&report.job) && matches!(report.outcome, Outcome::Ended(_));
    records(&screen, session, name, gone)?;
    hint(&next(&report.outcome, session, name, gone))?;
    Ok(code)
}

/// A job that was started and left to the control plane.
pub(crate) fn detached(screen: &mut Screen, found: &Found) -> Result<(), CliError> {
    screen.clear();
    hint(&format!(
        "follow it with `trainyard logs -f {0}`, see where it is with `trainyard explain {0}`",
        found.name()
    ))?;
    Ok(())
}

fn results(screen: &Screen, report: &Report) -> io::Result<()> {
    match report.progress.as_ref().filter(|progress| !progress.metrics.is_empty()) {
        Some(progress) => screen.say("Results", style::STRONG, &progress.metrics_line()),
        None => Ok(()),
    }
}

/// Who failed, with which code, and its last words.
fn failed(screen: &Screen, title: &str, took: &str, report: &Report) -> Result<u8, CliError> {
    screen.say("Failed", style::BAD, &format!("{title} after {took}"))?;
    let of_job = report.job["status"]["exitCode"].as_i64().filter(|code| *code != 0);
    let Some(failure) = &report.failure else {
        if let Some(message) = job::message(&report.job) {
            screen.more(message)?;
        }
        return Ok(of_job.map_or(exit_code::FAILURE, exit_status));
    };
    let code = of_job.unwrap_or(failure.code);
    // Ranks that were stopped for this are not to blame.
    if let Some(message) = job::message(&report.job).filter(|_| job::out_of_time(&report.job)) {
        screen.more(message)?;
        return Ok(exit_status(code));
    }
    screen.more(&format!("{} ({}) ended with {}", failure.label, failure.pod, describe_code(code)))?;
    let reported = reported_words(&failure.message);
    let has_words = !report.last_words.is_empty() || !failure.message.is_empty();
    // Without words of its own the job's message follows, which says it too.
    if let Some(limit) = job::limit_reached(&report.job).filter(|_| has_words) {
        screen.more(limit)?;
    }
    match &reported {
        Some(words) => words.iter().try_for_each(|line| screen.more(line))?,
        None if !report.last_words.is_empty() => {
            screen.more(&format!("last lines of {}:", failure.label))?;
            report.last_words.iter().try_for_each(|line| screen.more(&format!("  | {line}")))?;
        }
        None if !failure.message.is_empty() => failure.message.lines().try_for_each(|line| screen.more(line))?,
        None => job::message(&report.job).map_or(Ok(()), |message| screen.more(message))?,
    }
    let has_hint = reported.is_some_and(|words| words.iter().any(|line| line.starts_with("hint:")));
    if let (Some(cure), false) = (cure(code, &failure.reason), has_hint) {
        screen.more(&format!("hint: {cure}"))?;
    }
    Ok(exit_status(code))
}

/// Codes that do not fit into a byte are failures all the same.
fn exit_status(code: i64) -> u8 {
    u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(exit_code::FAILURE)
}

fn records(screen: &Screen, session: &Session, name: &str, gone: bool) -> io::Result<()> {
    match &session.place {
        Place::Cluster(facts) => screen.say("Records", style::STRONG, &format!("on the cluster at {}", facts.url)),
        Place::Server { home, .. } | Place::InProcess { home } => {
            let logs = home.join(if gone { "ended" } else { "pods" });
            let text = format!("{}; `trainyard get {name} -o yaml`, logs in {}", home.display(), logs.display());
            screen.say("Records", style::STRONG, &text)
        }
    }
}

fn next(outcome: &Outcome, session: &Session, name: &str, gone: bool) -> String {
    let up = if matches!(session.place, Place::InProcess { .. }) {
        ", then `trainyard up`, or run the manifest again"
    } else {
        ""
    };
    if gone && matches!(session.place, Place::Cluster(_)) {
        return format!(
            "see all about it with `trainyard describe {name}`; its logs went with its pods, as cleanPodPolicy All asks"
        );
    }
    match outcome {
        Outcome::Ended(End::Succeeded) => {
            format!("read its log again with `trainyard logs {name}`, or all about it with `trainyard describe {name}`")
        }
        Outcome::Ended(End::Failed) => {
            format!("see all logs with `trainyard logs {name}`, and what happened with `trainyard describe {name}`")
        }
        Outcome::Available => format!("follow it with `trainyard logs -f {name}`"),
        Outcome::Stopped { .. } => {
            format!("go on with `trainyard resume {name}`{up}; or remove it with `trainyard delete {name}`")
        }
        Outcome::Left { .. } | Outcome::ServerLost => {
            format!("follow it again with `trainyard logs -f {name}`, stop it with `trainyard suspend {name}`")
        }
        Outcome::Deleted => "`trainyard events` may tell who did it".to_owned(),
    }
}

fn hint(text: &str) -> io::Result<()> {
    let cyan = style::HINT;
    // As in `Screen::say`.
    let _ = writeln!(anstream::stderr(), "\n{cyan}hint:{cyan:#} {text}");
    Ok(())
}
