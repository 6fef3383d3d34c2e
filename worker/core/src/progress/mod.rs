//! What a program's output lines tell about its progress and its metrics.
//!
//! Understood are `key=value` words (`step=120/400 loss=0.53`, `epoch=3/10`) anywhere in a line, and lines that are one
//! JSON object (`{"step":120,"total_steps":400,"loss":0.53}`). [`parse`] reads a line into a [`Sample`]; a [`Tracker`]
//! folds samples into the [`Progress`] that is shown, with a smoothed step rate and the time left.

mod parse;
mod track;

pub use parse::{Sample, parse};
pub use track::Tracker;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the annotation `trainyard.dev/progress` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Steps in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_steps: Option<u64>,
    /// Epochs done or under way, as the program counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Epochs in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_epochs: Option<u64>,
    /// Smoothed rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_second: Option<f64>,
    /// Time left at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
    /// The last value of each metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// When this was seen, in milliseconds since the epoch.
    pub at_ms: i64,
}
