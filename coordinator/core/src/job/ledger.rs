//! The restart ledger: what must outlive the pods that it is about.
//!
//! It is an annotation of the job, written before the pods that it counts are deleted. So a planner that was interrupted
//! anywhere counts every restart once: a counted pod that is still there is known by its uid.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::label;

/// How often replicas were started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Incarnation of the gang. Pods of an older one are on their way out.
    pub generation: u64,
    /// Restarts of pods that are gone or counted below, and the restarts inside them.
    pub restarts: u32,
    /// Uids of failed pods that are counted already and may still be seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counted: Vec<String>,
}

impl Ledger {
    /// The ledger of a job. One that does not read is an empty one.
    #[must_use]
    pub fn read(job: &Value) -> Self {
        let text = job.pointer("/metadata/annotations").and_then(|annotations| annotations.get(label::LEDGER));
        text.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The merge patch that stores it.
    #[must_use]
    pub fn patch(&self) -> Value {
        let text = serde_json::to_string(self).expect("numbers and strings serialise");
        json!({ "metadata": { "annotations": { label::LEDGER: text } } })
    }
}
