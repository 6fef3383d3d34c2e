//! Whose words the objects of a controller are in.

use kube::api::DynamicObject;
use serde_json::Value as Json;
use trainyard_proto::tuning;
use trainyard_tuner_core::control;
use trainyard_tuner_core::manifest::katib::{self, view};

use crate::definition::KINDS;

/// Whose words objects are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Our own.
    Own,
    /// Katib's.
    Katib,
}

impl Dialect {
    pub(super) const ALL: [Self; 2] = [Self::Own, Self::Katib];

    /// The API version of experiments and trials.
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Own => control::API_VERSION,
            Self::Katib => katib::API_VERSION,
        }
    }

    /// The label of a trial's job and its pods that names the trial.
    pub(super) fn trial_label(self) -> &'static str {
        match self {
            Self::Own => tuning::TRIAL,
            Self::Katib => katib::TRIAL,
        }
    }

    /// What controllers are called in logs and figures.
    pub(super) fn controllers(self) -> [&'static str; 2] {
        match self {
            Self::Own => ["experiments", "trials"],
            Self::Katib => ["katib-experiments", "katib-trials"],
        }
    }

    /// The kinds of jobs that a trial may be.
    pub(super) fn jobs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Own => &KINDS,
            Self::Katib => &katib::JOBS,
        }
    }

    /// Makes of experiments what the planner of our own reads.
    pub(super) fn view_experiment(self) -> Option<fn(&mut DynamicObject)> {
        match self {
            Self::Own => None,
            Self::Katib => Some(|object| viewed(object, view::experiment)),
        }
    }

    /// Makes of trials what the planner of our own reads.
    pub(super) fn view_trial(self) -> Option<fn(&mut DynamicObject)> {
        match self {
            Self::Own => None,
            Self::Katib => Some(|object| viewed(object, view::trial)),
        }
    }
}

fn viewed(object: &mut DynamicObject, view: impl Fn(&Json, Json) -> Json) {
    let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    object.data = view(&metadata, std::mem::take(&mut object.data));
}
