//! Kinds of `kubeflow.org/v1beta1`, as Katib 0.19 defines them: experiments, their trials, and what was suggested for these.

mod experiment;
#[cfg(feature = "grpc")]
pub mod manager;
mod suggestion;
mod trial;

use schemars::{Schema, SchemaGenerator, json_schema};

pub use experiment::{
    AlgorithmSpec, CollectorSpec, ConfigMapSource, EarlyStoppingSpec, Experiment, ExperimentSpec, ExperimentStatus,
    FeasibleSpace, FileSystemPath, FilterSpec, GraphConfig, MetricStrategy, MetricsCollectorSpec, NamedValue,
    NasConfig, ObjectiveSpec, Operation, OptimalTrial, ParameterSpec, SourceSpec, TrialParameter, TrialTemplate,
};
pub use suggestion::{Suggestion, SuggestionSpec, SuggestionStatus, TrialAssignment};
pub use trial::{Condition, EarlyStoppingRule, Metric, Observation, Trial, TrialSpec, TrialStatus};

use crate::kind::Column;

/// Their API version.
pub const API_VERSION: &str = "kubeflow.org/v1beta1";
/// Label on trials, their jobs and the pods of these: the experiment.
pub const EXPERIMENT: &str = "katib.kubeflow.org/experiment";
/// Label on the jobs of trials and on their pods: the trial.
pub const TRIAL: &str = "katib.kubeflow.org/trial";

const TYPE: Column = Column { name: "Type", kind: "string", path: ".status.conditions[-1:].type", priority: 0 };
const STATUS: Column = Column { name: "Status", kind: "string", path: ".status.conditions[-1:].status", priority: 0 };

fn table(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}
