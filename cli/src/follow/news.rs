//! What is told of a job, and when: each change once, in few lines. Pure: the screen prints it.

use std::collections::BTreeSet;

use anstyle::Style;
use serde_json::Value;

use super::crash::{self, Crash};
use super::failure;
use super::phase::{self, Phase};
use super::scene::Scene;
use super::words::Words;
use crate::job;
use crate::output::style;

/// Something to tell: a word, what it is about, and lines below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) word: &'static str,
    pub(super) style: Style,
    pub(super) text: String,
    pub(super) more: Vec<String>,
}

/// What was told so far.
pub(super) struct News {
    /// CPUs that the ranks share; `None` where they run elsewhere.
    cpus: Option<usize>,
    /// Ctrl-C stops the job; else it only leaves it.
    owner: bool,
    phase: Phase,
    restarts: i64,
    crashes: BTreeSet<String>,
    told: BTreeSet<String>,
}

impl News {
    pub(super) fn new(cpus: Option<usize>, owner: bool) -> Self {
        let (crashes, told) = (BTreeSet::new(), BTreeSet::new());
        Self { cpus, owner, phase: Phase::Created, restarts: 0, crashes, told }
    }

    /// Where the job was when it was last looked at.
    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What is new. `stopping`: its suspension is our own doing.
    pub(super) fn of_scene(&mut self, scene: &Scene, words: &Words, stopping: bool) -> Vec<Note> {
        let phase = phase::of(&scene.found.object, &scene.live_pods());
        let mut notes = self.of_crashes(scene, words, stopping);
        notes.extend(self.of_restart(scene, words, &phase));
        notes.extend(self.of_phase(scene, &phase, stopping));
        self.phase = phase;
        notes
    }

    /// Containers that are started again in their pods.
    fn of_crashes(&mut self, scene: &Scene, words: &Words, stopping: bool) -> Vec<Note> {
        let (job, alone) = (scene.found.name(), scene.is_alone());
        let crashes = scene.live_pods().into_iter().flat_map(|pod| crash::of_pod(pod, job, alone));
        let new: Vec<Crash> = crashes.filter(|crash| self.crashes.insert(crash.key.clone())).collect();
        if stopping {
            return Vec::new();
        }
        let limit = job::backoff_limit(&scene.found.object);
        let mut notes = Vec::new();
        for crash in new {
            let mut more = crash.words(&words.of(&crash.label));
            more.extend(self.bound(scene));
            notes.push(Note { word: "Restarting", style: style::CARE, text: crash.line(limit), more });
        }
        notes
    }

    /// How to bound restarts that have no bound, once.
    fn bound(&mut self, scene: &Scene) -> Option<String> {
        let field = job::unbounded_restarts(&scene.found)?;
        self.told
            .insert(format!("bound {field}"))
            .then(|| format!("hint: nothing bounds the restarts; with `{field}: 3` the job fails after three of them"))
    }

    /// The restart of all ranks.
    fn of_restart(&mut self, scene: &Scene, words: &Words, phase: &Phase) -> Option<Note> {
        let job = &scene.found.object;
        let restarts = job["status"]["restarts"].as_i64().unwrap_or(0);
        let counted = restarts > self.restarts;
        self.restarts = self.restarts.max(restarts);
        let text = match phase {
            Phase::Restarting { message } if *phase != self.phase => {
                let message = message.strip_prefix(&format!("{} is restarting ", scene.found.title()));
                message.map_or_else(|| phase.detail(), |rest| format!("all ranks {rest}"))
            }
            // Starting again took less time than looking.
            Phase::Created
            | Phase::Queued { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::BackingOff { .. }
            | Phase::Ending
                if counted =>
            {
                let of = job::backoff_limit(job).map(|limit| format!(" of {limit}")).unwrap_or_default();
                let failure = job::recovered_from(job).map(|failure| format!(": {failure}")).unwrap_or_default();
                format!("all ranks (restart {restarts}{of}){failure}")
            }
            Phase::Created
            | Phase::Queued { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::BackingOff { .. }
            | Phase::Ending
            | Phase::Restarting { .. }
            | Phase::Suspended { .. }
            | Phase::Ended(_) => return None,
        };
        let mut more = self.last_words(scene, words);
        more.extend(self.bound(scene));
        Some(Note { word: "Restarting", style: style::CARE, text, more })
    }

    /// The last words of the first that failed since the last restart.
    fn last_words(&mut self, scene: &Scene, words: &Words) -> Vec<String> {
        let alone = scene.had_one_pod();
        let failures = failure::all(scene.pods(), scene.found.name(), alone);
        let new: Vec<_> = failures.into_iter().filter(|failure| self.crashes.insert(failure.key.clone())).collect();
        let Some(first) = failure::earliest(new) else { return Vec::new() };
        if let Some(words) = failure::reported_words(&first.message) {
            return words.into_iter().map(ToOwned::to_owned).collect();
        }
        let heard = words.of(&first.label);
        let said: Vec<&str> = match first.message.as_str() {
            "" => heard.iter().map(String::as_str).collect(),
            message => message.lines().collect(),
        };
        crash::last_words(&said)
    }

    fn of_phase(&mut self, scene: &Scene, phase: &Phase, stopping: bool) -> Option<Note> {
        let style = match phase {
            // The end gets a summary of its own, and each restart its own words.
            Phase::Created | Phase::Ending | Phase::Ended(_) | Phase::Restarting { .. } | Phase::BackingOff { .. } => {
                return None;
            }
            Phase::Queued { .. } | Phase::Suspended { .. } => style::CARE,
            Phase::Starting { .. } | Phase::Running { .. } => style::GOOD,
        };
        // While we stop the job, its suspension is our doing. Many pods start, or end, one after the other: one line.
        if self.phase == *phase || stopping || is_counting(&self.phase, phase) {
            return None;
        }
        let more = match phase {
            Phase::Queued { .. } => vec![self.hope(scene, phase)],
            Phase::Running { of, .. } => self.oversubscribed(*of).into_iter().collect(),
            Phase::Created
            | Phase::Starting { .. }
            | Phase::BackingOff { .. }
            | Phase::Ending
            | Phase::Restarting { .. }
            | Phase::Suspended { .. }
            | Phase::Ended(_) => Vec::new(),
        };
        Some(Note { word: phase.word(), style, text: phase.detail(), more })
    }

    fn hope(&self, scene: &Scene, phase: &Phase) -> String {
        let name = scene.found.name();
        let way = if self.owner { "Ctrl-C stops it" } else { "Ctrl-C leaves it" };
        let never = phase.detail().contains("never");
        let hope = if never { "it waits for that; " } else { "it starts by itself when there is room; " };
        format!("{hope}`trainyard explain {name}` tells more; {way}")
    }

    /// More ranks than CPUs work, but a newcomer should know why it is slow.
    fn oversubscribed(&mut self, ranks: usize) -> Option<String> {
        let cpus = self.cpus.filter(|cpus| ranks > *cpus)?;
        self.told
            .insert("oversubscribed".to_owned())
            .then(|| format!("{ranks} ranks share the {cpus} CPUs of this machine: it works, but more slowly"))
    }

    /// Tells about warnings, and about what the node could not honour.
    pub(super) fn of_event(&mut self, event: &Value, scene: &Scene) -> Option<Note> {
        let ours = scene.holds(event["involvedObject"]["uid"].as_str().unwrap_or_default());
        let reason = event["reason"].as_str().unwrap_or_default();
        let message = event["message"].as_str().unwrap_or_default().trim();
        let noteworthy = event["type"] == "Warning" || reason.contains("Ignored") || reason.contains("Oversubscribed");
        if !ours
            || !noteworthy
            || is_shown_elsewhere(reason, message)
            || !self.told.insert(format!("{reason}{message}"))
        {
            return None;
        }
        let text = format!("{message} ({reason})");
        Some(Note { word: "note:", style: style::CARE, text, more: Vec::new() })
    }
}

/// Waiting for a place is shown as a phase; restarts and failures in words of their own, with more to say.
fn is_shown_elsewhere(reason: &str, message: &str) -> bool {
    let restart = message.contains("restarting failed container") || message.contains("ended with exit code");
    matches!(reason, "FailedScheduling" | "Unschedulable" | "ExitedWithCode")
        || reason == "BackOff" && restart
        || reason.ends_with("Failed")
        || reason.ends_with("JobRestarting")
}

fn is_counting(old: &Phase, new: &Phase) -> bool {
    match (old, new) {
        (Phase::Starting { .. }, Phase::Starting { .. }) => true,
        (Phase::Running { over: before, .. }, Phase::Running { over: now, .. }) => *before > 0 && *now > 0,
        (
            Phase::Created
            | Phase::Queued { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::BackingOff { .. }
            | Phase::Ending
            | Phase::Restarting { .. }
            | Phase::Suspended { .. }
            | Phase::Ended(_),
            _,
        ) => false,
    }
}

#[cfg(test)]
mod tests;
