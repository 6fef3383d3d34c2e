//! Experiments and their trials, of `trainyard.dev/v1alpha1`.

mod experiment;
mod trial;

use schemars::{Schema, SchemaGenerator, json_schema};

pub use experiment::{Best, ConfidenceInterval, Experiment, ExperimentSpec, ExperimentStatus, TrialCounts};
pub use trial::{JobReference, Trial, TrialBatch, TrialReport, TrialSpec, TrialStatus};

/// Label on trials, their jobs and the pods of these: the experiment.
pub const EXPERIMENT: &str = "trainyard.dev/experiment";
/// Label on the jobs of trials and on their pods: the trial.
pub const TRIAL: &str = "trainyard.dev/trial";

fn table(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn tables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}
