//! What a trial runs, and how much may be tried.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use toml::de::DeTable;
use trainyard_tuner_core::budget::{Budget, Confirm};
use trainyard_tuner_core::control::Keep;
use trainyard_tuner_core::space::nearest;
use trainyard_tuner_core::template::{OWN, places};

use super::json;
use super::table::{Found, Table};

/// The kinds of jobs that a trial may be.
pub(crate) const KINDS: [(&str, &str); 4] = [
    ("trainyard.dev/v1alpha1", "TrainingJob"),
    ("batch/v1", "Job"),
    ("kubeflow.org/v1", "PyTorchJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
];

/// How many of the best trials are tried again, if nothing is said.
const CANDIDATES: u64 = 3;

/// What a trial runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The manifest of its job, with places for the values of parameters.
    pub job: Json,
    /// Which jobs stay when their trial has ended.
    pub keep: Keep,
}

/// The table `budget`.
pub(super) fn budget(top: &mut Table<'_, '_>) -> Option<Budget> {
    let Some(given) = top.get("budget") else { return Some(Budget::default()) };
    let Some(file) = given.value.as_table() else {
        return top.wrong("budget", &given, "a table with trials, parallel, failures or time");
    };
    let mut table = Table::new(file, given.span.clone(), "budget", top.errors());
    let mut is_good = true;
    let mut count = |table: &mut Table<'_, '_>, key: &'static str, least: u64| {
        let found = table.whole(key);
        let count = found.and_then(|count| u64::try_from(count).ok()).filter(|count| *count >= least);
        if let (Some(found), None) = (found, count) {
            table.error(key, table.span_of(key), format!("expected {least} or more, found {found}"), None);
        }
        is_good &= count.is_some() || file.get(key).is_none();
        count
    };
    let trials = count(&mut table, "trials", 1);
    let parallel = count(&mut table, "parallel", 1).unwrap_or(1);
    let failures = count(&mut table, "failures", 0);
    let seconds = match table.text("time") {
        Some((text, span)) => {
            let seconds = seconds(text);
            if seconds.is_none() {
                let message = format!("expected a time such as \"90s\", \"30m\", \"12h\" or \"2d\", found \"{text}\"");
                table.error("time", span, message, None);
                is_good = false;
            }
            seconds
        }
        None => None,
    };
    is_good &= seconds.is_some() || file.get("time").is_none();
    let confirm = confirm(&mut table, file);
    table.end();
    is_good.then_some(Budget { trials, parallel, failures, seconds, confirm: confirm? })
}

/// How the best trials are tried again, if they are; the outer `None` stands for what is wrong.
fn confirm(table: &mut Table<'_, '_>, file: &DeTable<'_>) -> Option<Option<Confirm>> {
    let count = |table: &mut Table<'_, '_>, key: &'static str, least: i64, most: i64| {
        let found = table.whole(key)?;
        let count = u64::try_from(found).ok().filter(|_| (least..=most).contains(&found));
        if count.is_none() {
            table.error(key, table.span_of(key), format!("expected {least} to {most}, found {found}"), None);
        }
        count
    };
    // Of one measurement nothing is known of the noise.
    let (repeats, candidates) = (count(table, "repeats", 2, 1_000), count(table, "candidates", 1, 100));
    match (repeats, file.get("repeats").is_some(), file.get("candidates").is_some()) {
        (Some(repeats), _, false) => Some(Some(Confirm { candidates: CANDIDATES, repeats })),
        (Some(repeats), _, true) => Some(Some(Confirm { candidates: candidates?, repeats })),
        (None, true, _) => None,
        (None, false, false) => Some(None),
        (None, false, true) => {
            let message =
                "`candidates` are the best trials that are tried again: say with `repeats` how often".to_owned();
            table.error("candidates", table.span_of("candidates"), message, None);
            None
        }
    }
}

/// `1h30m` in seconds.
fn seconds(text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|sign: char| !sign.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = rest[end..].chars().next()?;
        let length = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(length)?)?;
        rest = rest[end + unit.len_utf8()..].trim_start();
    }
    Some(sum).filter(|sum| *sum > 0)
}

/// The table `trial`, if there is one; the outer `None` stands for one that is wrong.
pub(super) fn trial(top: &mut Table<'_, '_>, parameters: Option<&[&str]>) -> Option<Option<Trial>> {
    let Some(given) = top.get("trial") else { return Some(None) };
    let Some(file) = given.value.as_table() else {
        return top.wrong("trial", &given, "a table with command, or with job");
    };
    let mut table = Table::new(file, given.span.clone(), "trial", top.errors());
    let keep = match table.text("keep") {
        Some(("recent", _)) => Some(Keep::Recent),
        Some(("all", _)) => Some(Keep::All),
        Some(("failed", _)) => Some(Keep::Failed),
        Some(("none", _)) => Some(Keep::Nothing),
        Some((other, span)) => {
            let message = format!("expected \"recent\", \"all\", \"failed\" or \"none\", found \"{other}\"");
            table.error("keep", span, message, None);
            None
        }
        None => file.get("keep").is_none().then(Keep::default),
    };
    let (command, job) = (table.get("command"), table.get("job"));
    let job = match (command, job) {
        (Some(_), Some(job)) => {
            table.error("job", job.span, "a trial has either command or job".to_owned(), None);
            None
        }
        (None, None) => {
            table.missing(
                "command",
                "what a trial runs, such as [\"python\", \"train.py\", \"--lr={lr}\"], or [trial.job]",
            );
            None
        }
        (Some(command), None) => of_command(&mut table, file, &command).map(|job| (job, "command", command.span)),
        (None, Some(job)) => of_job(&mut table, &job).map(|manifest| (manifest, "job", job.span)),
    };
    let job = job.filter(|(job, key, span)| match parameters.and_then(|parameters| unplaced(job, parameters)) {
        Some((message, hint)) => {
            table.error(key, span.clone(), message, hint);
            false
        }
        None => true,
    });
    table.end();
    Some(Some(Trial { job: job?.0, keep: keep? }))
}

/// The job of a command.
fn of_command(table: &mut Table<'_, '_>, file: &DeTable<'_>, command: &Found<'_>) -> Option<Json> {
    let words = command.value.as_array().filter(|words| !words.is_empty());
    let words: Option<Vec<&str>> = words.and_then(|words| words.iter().map(|word| word.get_ref().as_str()).collect());
    let Some(words) = words else {
        return table.wrong("command", command, "a list of texts: the program and its arguments, without a shell");
    };
    let mut spec = json!({ "command": words });
    let mut is_good = true;
    for (key, field) in
        [("image", "image"), ("working_dir", "workingDir"), ("queue", "queue"), ("priority", "priority")]
    {
        match table.text(key) {
            Some((text, _)) => spec[field] = json!(text),
            None => is_good &= file.get(key).is_none(),
        }
    }
    for (key, field) in [("env", "env"), ("resources", "resources")] {
        let Some(given) = table.get(key) else { continue };
        match given.value.as_table() {
            // Variables are texts, also those that were written as numbers.
            Some(entries) if key == "env" => spec[field] = json::of_table(entries).into_iter().map(as_text).collect(),
            Some(entries) => spec[field] = Json::Object(json::of_table(entries)),
            None => {
                table.wrong::<()>(key, &given, "a table");
                is_good = false;
            }
        }
    }
    if let Some(retries) = table.whole("retries") {
        if retries < 0 {
            table.error("retries", table.span_of("retries"), format!("expected 0 or more, found {retries}"), None);
            is_good = false;
        }
        spec["restartPolicy"] = json!("OnFailure");
        spec["backoffLimit"] = json!(retries);
    }
    is_good &= file.get("retries").is_none() || spec.get("backoffLimit").is_some();
    let (api_version, kind) = KINDS[0];
    is_good.then(|| json!({"apiVersion": api_version, "kind": kind, "spec": spec}))
}

fn as_text((name, value): (String, Json)) -> (String, Json) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (name, Json::String(text))
}

/// A manifest that is given.
fn of_job(table: &mut Table<'_, '_>, job: &Found<'_>) -> Option<Json> {
    let Some(manifest) = job.value.as_table().map(json::of_table) else {
        return table.wrong("job", job, "the manifest of a job: apiVersion, kind and spec");
    };
    let text = |name: &str| manifest.get(name).and_then(Json::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !KINDS.contains(&(api_version, kind)) {
        let known: Vec<String> = KINDS.iter().map(|(version, kind)| format!("{kind} of {version}")).collect();
        let hint = nearest(kind, KINDS.map(|(_, kind)| kind)).map(|kind| format!("did you mean {kind}?"));
        let found =
            if kind.is_empty() { "a manifest without a kind".to_owned() } else { format!("{kind} of {api_version}") };
        let message = format!("a trial is one of {}; found {found}", known.join(", "));
        table.error("job", job.span.clone(), message, hint);
        return None;
    }
    if !manifest.get("spec").is_some_and(Json::is_object) {
        table.error("job", job.span.clone(), "the manifest has no spec".to_owned(), None);
        return None;
    }
    Some(Json::Object(manifest))
}

/// Which parameter has no place in a job, and what to do.
fn unplaced(job: &Json, parameters: &[&str]) -> Option<(String, Option<String>)> {
    let places = places(job);
    if places.contains(OWN[2]) {
        return None;
    }
    let name = *parameters.iter().find(|parameter| !places.contains(**parameter))?;
    let known: BTreeSet<&str> = parameters.iter().copied().chain(OWN).collect();
    let others = places.iter().map(String::as_str).filter(|place| !known.contains(place));
    let hint = nearest(name, others).map(|near| format!("{{{near}}} is no parameter; did you mean {{{name}}}?"));
    let message = format!(
        "the parameter `{name}` has no place in it; write {{{name}}} where its value goes, or {{trial.parameters}} for all of them as JSON"
    );
    Some((message, hint))
}
