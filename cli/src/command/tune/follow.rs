//! Shows an experiment while it runs.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use trainyard_runtime::embedded;

use super::run::Wanted;
use crate::api::{Api, query};
use crate::command::run::process;
use crate::error::CliError;
use crate::exit_code;
use crate::follow::phase;
use crate::follow::screen::Screen;
use crate::follow::signals::Signals;
use crate::output::{duration, style};
use crate::session::{Place, Session};

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(200);
/// How long the pods of trials that are stopped may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// How long nobody may answer: a server that is started again is back before.
const LOST_PATIENCE: Duration = Duration::from_secs(60);
/// Signals this close together are one request.
const SAME_PRESS: Duration = Duration::from_millis(400);
/// How long the list of what is to be killed is waited for.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// What was shown.
struct Shown {
    /// Trials that have not been told of, and may be there.
    open: BTreeSet<u64>,
    next: u64,
}

/// Follows an experiment to its end. The exit code is 0 if it found something.
pub(super) async fn follow(
    session: &Session,
    wanted: &Wanted,
    object: &Value,
    screen: &mut Screen,
) -> Result<u8, CliError> {
    let mut signals = Signals::new()?;
    let began = std::time::Instant::now();
    let mut shown = Shown::of(&object["status"], session, wanted).await?;
    let mut lost: Option<Instant> = None;
    let (first, mut anew) = (session, None);
    loop {
        let session: &Session = anew.as_ref().unwrap_or(first);
        let looked = tokio::select! {
            looked = look(session, wanted, &mut shown, screen, began.elapsed()) => looked,
            signal = signals.next() => return interrupted(session, wanted, screen, &mut signals, signal).await,
        };
        match looked {
            Ok(Some(code)) => return Ok(code),
            Ok(None) => lost = None,
            Err(error) if is_passing(&error) && lost.get_or_insert_with(Instant::now).elapsed() < LOST_PATIENCE => {
                screen.wait(&format!("{error}; trying again"));
                if let Some(other) = successor(session) {
                    anew = Some(other);
                }
            }
            Err(error) => return Err(error),
        }
        let session = anew.as_ref().unwrap_or(first);
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            signal = signals.next() => return interrupted(session, wanted, screen, &mut signals, signal).await,
        }
    }
}

/// Whether the same request may have another answer soon: nobody answered, somebody else did, or too much was asked for.
fn is_passing(error: &CliError) -> bool {
    matches!(error, CliError::Unreachable { .. } | CliError::Refused { status: 401 | 408 | 429 | 500..=599, .. })
}

/// A session with the server that has taken the place of this one's: it has another token, and may listen elsewhere.
fn successor(session: &Session) -> Option<Session> {
    let Place::Server { home } = &session.place else { return None };
    let client = embedded::connect(&embedded::running(home)?).ok()?;
    let place = Place::Server { home: home.clone() };
    Some(Session { api: Api::new(client), namespace: session.namespace.clone(), place, embedded: None })
}

/// Shows what is new. The exit code, once the experiment is over.
async fn look(
    session: &Session,
    wanted: &Wanted,
    shown: &mut Shown,
    screen: &mut Screen,
    since: Duration,
) -> Result<Option<u8>, CliError> {
    let found = session.api.find(&wanted.path(session)).await?;
    let Some(now) = found else {
        screen.clear();
        let message = format!("experiment {} was deleted while it was followed", wanted.name);
        screen.say("Deleted", style::BAD, &message)?;
        return Ok(Some(exit_code::FAILURE));
    };
    news(session, wanted, &now, shown, screen).await?;
    let status = &now["status"];
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) && shown.open.is_empty() {
        screen.clear();
        stopped(session, wanted).await?;
        return summary(wanted, &now, since, screen).map(Some);
    }
    screen.wait(&line(wanted, status, since));
    Ok(None)
}

/// Ends the trials that run, so that they can be gone on with. A second signal kills them.
async fn interrupted(
    session: &Session,
    wanted: &Wanted,
    screen: &mut Screen,
    signals: &mut Signals,
    signal: i32,
) -> Result<u8, CliError> {
    screen.wait("stopping the trials that run; Ctrl-C again kills them");
    let pressed = Instant::now();
    let again = async {
        loop {
            signals.next().await;
            // A press may come as several signals.
            if pressed.elapsed() >= SAME_PRESS {
                return;
            }
        }
    };
    let stopping = async {
        session.api.merge(&wanted.path(session), &json!({"spec": {"suspend": true}})).await?;
        stopped(session, wanted).await
    };
    let is_hurried = tokio::select! {
        biased;
        done = stopping => done.map(|()| false)?,
        () = again => true,
    };
    screen.clear();
    if is_hurried {
        kill(session, wanted).await;
        screen.say(
            "Left",
            style::CARE,
            &format!("experiment {} as it was; go on with it with --resume", wanted.name),
        )?;
    } else {
        screen.say("Stopped", style::CARE, &format!("experiment {}; go on with it with --resume", wanted.name))?;
    }
    Ok(exit_code::SIGNAL_BASE.wrapping_add(u8::try_from(signal).unwrap_or(0)))
}

/// Kills what our own control plane runs of the experiment. Another one ends it by itself.
async fn kill(session: &Session, wanted: &Wanted) {
    let Place::InProcess { home } = &session.place else { return };
    let path = labelled(session, wanted, "/api/v1", "pods");
    if let Ok(Ok(pods)) = tokio::time::timeout(KILL_PATIENCE, session.api.get(&path)).await {
        process::killed(home, &uids(&pods)).await;
    }
}

fn uids(list: &Value) -> Vec<String> {
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    list["items"].as_array().into_iter().flatten().map(uid).collect()
}

impl Shown {
    /// What had ended before is not told again.
    async fn of(status: &Value, session: &Session, wanted: &Wanted) -> Result<Self, CliError> {
        let next = next(status);
        if next == 0 {
            return Ok(Self { open: BTreeSet::new(), next });
        }
        let trials = session.api.get(&labelled(session, wanted, "/apis/trainyard.dev/v1alpha1", "trials")).await?;
        let trials = trials["items"].as_array().into_iter().flatten();
        let open = trials.filter(|trial| !is_over(trial)).filter_map(|trial| trial["spec"]["number"].as_u64());
        Ok(Self { open: open.filter(|number| *number < next).collect(), next })
    }
}

/// The number of the next trial. There may be fewer trials: some may have been deleted.
fn next(status: &Value) -> u64 {
    status["trials"]["next"].as_u64().unwrap_or(0)
}

async fn trial(session: &Session, wanted: &Wanted, number: u64) -> Result<Option<Value>, CliError> {
    let path = format!("/apis/trainyard.dev/v1alpha1/namespaces/{}/trials/{}-{number}", session.namespace, wanted.name);
    Ok(session.api.find(&path).await?)
}

fn is_over(trial: &Value) -> bool {
    matches!(trial["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Stopped"))
}

/// Tells of the trials that have ended since.
async fn news(
    session: &Session,
    wanted: &Wanted,
    now: &Value,
    shown: &mut Shown,
    screen: &Screen,
) -> Result<(), CliError> {
    let next = next(&now["status"]);
    shown.open.extend(shown.next..next);
    shown.next = shown.next.max(next);
    for number in shown.open.clone() {
        let found = trial(session, wanted, number).await?;
        if found.as_ref().is_none_or(is_over) {
            shown.open.remove(&number);
        }
        let Some(trial) = found.filter(is_over) else { continue };
        let status = &trial["status"];
        let parameters = parameters(wanted, &trial["spec"]["parameters"]);
        let parameters =
            parameters.map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ");
        let (style, told) = match status["phase"].as_str() {
            Some("Succeeded") => (style::GOOD, status["summary"].as_str().unwrap_or_default().to_owned()),
            Some(other) => {
                let message = status["message"].as_str().unwrap_or_default();
                let style = if other == "Failed" { style::BAD } else { style::CARE };
                (style, format!("{}: {message}", other.to_lowercase()))
            }
            None => continue,
        };
        screen.say(
            &format!("Trial {number}"),
            style,
            &format!("{told}  {}{parameters}{:#}", style::DIM, style::DIM),
        )?;
    }
    Ok(())
}

/// The values that are there, in the order of the file.
fn parameters<'table>(wanted: &Wanted, table: &'table Value) -> impl Iterator<Item = (String, &'table Value)> {
    let definition = &wanted.definition;
    let resource = definition.fidelity.as_ref().and_then(|fidelity| fidelity.ladder.parameter());
    let names = definition.space.parameters().iter().map(|parameter| parameter.name.clone());
    let names = names.chain(resource.map(str::to_owned));
    names.collect::<Vec<_>>().into_iter().filter_map(|name| table.get(&name).map(|value| (name, value)))
}

fn plain(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) if number != 0.0 && !(1e-3..1e6).contains(&number.abs()) => format!("{number:.4e}"),
        Some(number) => short(number),
        None => value.to_string(),
    }
}

fn short(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `12 of 50 trials ended, 4 running; best accuracy=0.93 (trial 7)`.
fn line(wanted: &Wanted, status: &Value, since: Duration) -> String {
    let count = |name: &str| status["trials"][name].as_u64().unwrap_or(0);
    let ended = count("succeeded") + count("failed") + count("stopped");
    let all = wanted.definition.budget.trials.map(|trials| format!(" of {trials}")).unwrap_or_default();
    let best = status["best"]["summary"].as_str().map(|best| format!("; best {best}")).unwrap_or_default();
    let failed = if count("failed") > 0 { format!(", {} failed", count("failed")) } else { String::new() };
    let left = wanted.definition.budget.trials.filter(|trials| ended > 0 && *trials > ended).map(|trials| {
        let seconds = since.as_secs_f64() / ended as f64 * (trials - ended) as f64;
        format!("; {} left", duration::span(seconds))
    });
    let left = left.unwrap_or_default();
    format!("{ended}{all} trials ended{failed}, {} running{best}{left}", count("running"))
}

/// Waits until nothing of the experiment runs, and nothing will: the controllers have seen that it is over or suspended, and so have its
/// jobs.
async fn stopped(session: &Session, wanted: &Wanted) -> Result<(), CliError> {
    let deadline = Instant::now() + STOP_PATIENCE;
    loop {
        let is_still = is_still(session, wanted).await?;
        let pods = session.api.get(&labelled(session, wanted, "/api/v1", "pods")).await?;
        let are_over = pods["items"].as_array().into_iter().flatten().all(phase::is_over);
        if is_still && are_over || Instant::now() >= deadline {
            if let Place::InProcess { home } = &session.place {
                process::gone(home, &uids(&pods)).await;
            }
            return Ok(());
        }
        tokio::time::sleep(PERIOD / 4).await;
    }
}

async fn is_still(session: &Session, wanted: &Wanted) -> Result<bool, CliError> {
    let rests = |object: &Value| {
        matches!(object["status"]["phase"].as_str(), Some("Suspended" | "Succeeded" | "Failed" | "Stopped"))
    };
    let experiment = session.api.find(&wanted.path(session)).await?;
    if experiment.is_some_and(|experiment| !rests(&experiment)) {
        return Ok(false);
    }
    // Only now: before, the controller may have had trials on their way.
    let trials = session.api.get(&labelled(session, wanted, "/apis/trainyard.dev/v1alpha1", "trials")).await?;
    if !trials["items"].as_array().into_iter().flatten().all(rests) {
        return Ok(false);
    }
    let Some(trial) = &wanted.definition.trial else { return Ok(true) };
    let text = |name: &str| trial.job[name].as_str().unwrap_or_default();
    let plural = format!("{}s", text("kind").to_lowercase());
    let jobs = session.api.get(&labelled(session, wanted, &format!("/apis/{}", text("apiVersion")), &plural)).await?;
    let rests = |job: &Value| {
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        let mut holding = conditions.filter(|condition| condition["status"] == "True");
        let last = ["Suspended", "Complete", "Succeeded", "Failed"];
        holding.any(|condition| condition["type"].as_str().is_some_and(|kind| last.contains(&kind)))
    };
    Ok(jobs["items"].as_array().into_iter().flatten().all(rests))
}

/// The collection of what belongs to the experiment.
fn labelled(session: &Session, wanted: &Wanted, root: &str, plural: &str) -> String {
    let selector = query(&format!("trainyard.dev/experiment={}", wanted.name));
    format!("{root}/namespaces/{}/{plural}?labelSelector={selector}", session.namespace)
}

/// The best configuration on stdout, the rest on stderr.
fn summary(wanted: &Wanted, now: &Value, took: Duration, screen: &Screen) -> Result<u8, CliError> {
    let status = &now["status"];
    let message = status["message"].as_str().unwrap_or_default();
    let took = duration::span(took.as_secs_f64());
    let (word, style, code) = if status["phase"] == "Succeeded" {
        ("Succeeded", style::GOOD, exit_code::SUCCESS)
    } else {
        ("Failed", style::BAD, exit_code::FAILURE)
    };
    screen.say(word, style, &format!("experiment {} in {took}: {message}", wanted.name))?;
    let best = &status["best"];
    if best["trial"].is_string() {
        let (summary, trial) =
            (best["summary"].as_str().unwrap_or_default(), best["trial"].as_str().unwrap_or_default());
        screen.say("Best", style::GOOD, &format!("{summary} ({trial})"))?;
        let mut out = anstream::stdout().lock();
        for (name, value) in parameters(wanted, &best["parameters"]) {
            writeln!(out, "{name} = {value}")?;
        }
    } else if status["trials"]["started"].as_u64().unwrap_or(0) > 0 {
        screen.say("hint:", style::HINT, &format!("see what a trial wrote with `trainyard logs {}-0`", wanted.name))?;
    }
    Ok(code)
}
