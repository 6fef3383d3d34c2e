//! Katib's experiments, trials and suggestions.
//!
//! - [`lower`] reads an Experiment as one of ours; everything that is wrong with it is told at once.
//! - [`Collector`] finds metrics in what trials write.
//! - [`view`] shows the planner a Katib object as one of ours, and [`answer`] says what it plans in Katib's words.
//!
//! What our planner keeps of an experiment or a trial stands in the `trainyard` of its status, and what it keeps of a trial's
//! beginning in an annotation. All the rest of the status is a function of these.

mod algorithm;
pub mod answer;
mod collector;
mod condition;
mod lower;
mod nas;
mod population;
mod space;
mod state;
mod suggestion;
mod template;
#[cfg(test)]
mod tests;
pub mod view;

use std::fmt;

pub use collector::{Collector, Reader, Source};
pub use lower::{Lowered, lower};
pub use state::{Shown, State};
pub use trainyard_proto::katib::{API_VERSION, EXPERIMENT, TRIAL};

/// Annotation on a trial: what our planner keeps of its beginning, as JSON.
pub const BEGINNING: &str = "trainyard.dev/suggested";
/// Annotation on the pods of trials: the container that tells the metrics.
pub const CONTAINER: &str = "trainyard.dev/metrics-container";

/// The kinds of jobs that a trial may be: those that are run here.
pub const JOBS: [(&str, &str); 4] = [
    ("batch/v1", "Job"),
    ("kubeflow.org/v1", "PyTorchJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    ("trainyard.dev/v1alpha1", "TrainingJob"),
];
/// Kinds of jobs that manifests for Katib have, which are served but not run yet: nobody would ever begin them.
const NOT_RUN: [&str; 5] = ["TFJob", "MPIJob", "XGBoostJob", "PaddleJob", "JAXJob"];

/// What is wrong with an experiment, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The path of the field.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(formatter, " ({hint})"))
    }
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Diagnostic>);

impl Findings {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Diagnostic { path: path.into(), message: message.into(), hint: None });
    }

    fn hint(&mut self, path: impl Into<String>, message: impl Into<String>, hint: Option<String>) {
        self.0.push(Diagnostic { path: path.into(), message: message.into(), hint });
    }

    /// A word that is none of those that are known.
    fn unknown(&mut self, path: &str, found: &str, known: &[&str]) {
        let near = crate::space::nearest(found, known.iter().copied());
        let message = format!("expected one of {}, found \"{found}\"", known.join(", "));
        self.hint(path, message, near.map(|near| format!("did you mean {near}?")));
    }
}
