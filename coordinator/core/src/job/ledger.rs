//! The restart ledger: what must outlive the pods that it is about.
//!
//! It is an annotation of the job, written before the pods that it counts are deleted. So a planner that was interrupted
//! anywhere counts every restart once: a counted pod that is still there is known by its uid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Meeting;
use super::avoid::Blame;
use super::clock::Clock;
use crate::rendezvous::{Cause, RendezvousView, Spent};
use crate::{backoff, label};

/// How often replicas were started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Incarnation of the gang. Pods of an older one are on their way out.
    pub generation: u64,
    /// Restarts of pods that are gone or counted below, and the restarts inside them.
    pub restarts: u32,
    /// Restarts that the rendezvous made.
    #[serde(skip_serializing_if = "is_zero")]
    pub in_place: u32,
    /// Their causes, as far as they are known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<Cause, u32>,
    /// Whether this incarnation has yet to run whole. Until then a status that says that the job runs is about the one
    /// before it: the ledger is written first.
    #[serde(skip_serializing_if = "is_false")]
    pub starting: bool,
    /// Uids of failed pods that are counted already and may still be seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counted: Vec<String>,
    /// Failures in a row and when the next pod may be made: by replica, or under an empty name for the gang as a whole.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub waits: BTreeMap<String, Wait>,
    /// Nodes on which replicas failed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, Blame>,
    /// When the newest failure became known that launchers told and that is counted in `nodes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blamed_ms: Option<i64>,
    /// What launchers said, of a job whose status has no place for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meeting: Option<Meeting>,
    /// How long it was active, of a job that may be so for a limited time.
    #[serde(skip_serializing_if = "Clock::is_new")]
    pub clock: Clock,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A row of failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wait {
    /// Failures in a row.
    pub failures: u32,
    /// No pod is made before this time.
    pub until_ms: i64,
}

impl Ledger {
    /// The ledger of a job. One that does not read is an empty one.
    #[must_use]
    pub fn read(job: &Value) -> Self {
        let text = job.pointer("/metadata/annotations").and_then(|annotations| annotations.get(label::LEDGER));
        text.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// All restarts.
    #[must_use]
    pub const fn all_restarts(&self) -> u32 {
        self.restarts.saturating_add(self.in_place)
    }

    /// What a rendezvous that begins must know of them.
    #[must_use]
    pub fn spent(&self) -> Spent {
        let known: u32 = self.spent.values().sum();
        Spent { by_cause: self.spent.clone(), unknown: self.in_place.saturating_sub(known), elsewhere: self.restarts }
    }

    /// Takes over what the rendezvous counts. Answers whether that is news.
    pub(super) fn mirror(&mut self, meeting: &RendezvousView) -> bool {
        let before = (self.in_place, self.spent.clone());
        self.in_place = self.in_place.max(meeting.restarts);
        for (cause, count) in &meeting.spent {
            let known = self.spent.entry(*cause).or_default();
            *known = (*known).max(*count);
        }
        before != (self.in_place, self.spent.clone())
    }

    /// Begins a new incarnation of the gang.
    pub(super) fn begin(&mut self) {
        self.generation += 1;
        self.starting = true;
    }

    /// Puts a failure on record. Answers when the next try is due.
    pub(super) fn wait(&mut self, name: &str, now_ms: i64) -> i64 {
        let wait = self.waits.entry(name.to_owned()).or_default();
        let is_forgotten = now_ms.saturating_sub(wait.until_ms) >= backoff::FORGET_MS;
        wait.failures = if is_forgotten { 1 } else { wait.failures.saturating_add(1) };
        wait.until_ms = now_ms.saturating_add(backoff::delay_ms(wait.failures));
        wait.until_ms
    }

    /// When a replica's pod may be made, if that is not now.
    pub(super) fn due(&self, replica: &str, now_ms: i64) -> Option<i64> {
        let waits = [replica, ""].into_iter().filter_map(|name| self.waits.get(name));
        waits.map(|wait| wait.until_ms).filter(|until| !backoff::is_over(*until, now_ms)).max()
    }

    /// The merge patch that stores it.
    #[must_use]
    pub fn patch(&self) -> Value {
        let text = serde_json::to_string(self).expect("numbers and strings serialise");
        json!({ "metadata": { "annotations": { label::LEDGER: text } } })
    }
}
