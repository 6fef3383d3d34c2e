//! Dialects: the kinds of manifests that are jobs, and how each is lowered and answered.
//!
//! Names of foreign kinds appear only below this module. A new dialect is one more implementation of [`Dialect`] in
//! [`dialects`]; the engine does not change.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trainyard_proto::kind::KindInfo;
use trainyard_proto::plan::ObjectRef;

use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::model::JobModel;
use crate::view::Config;

mod kubeflow;
mod meeting;
mod pod;
pub mod pytorchjob;
mod read;
mod recovery;
mod scheduler;
mod status;
mod torchrun;
pub mod trainingjob;
pub mod trainjob;

/// A kind of object that the controller may own beside pods and services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraKind {
    /// `v1`, `autoscaling/v2`, ….
    pub api_version: &'static str,
    /// `ConfigMap`, ….
    pub kind: &'static str,
}

/// One kind of manifest that is a job.
pub trait Dialect: Sync + fmt::Debug {
    /// Its registration.
    fn info(&self) -> &'static KindInfo;

    /// The value of the operator-name label on its pods.
    fn operator_name(&self) -> &'static str;

    /// Label that holds the job's name on its pods and services.
    fn job_label(&self) -> &'static str {
        crate::label::JOB_NAME
    }

    /// The foreign controller that runs the job, if it names one. Read without lowering: a job that is not ours may well be
    /// one that we cannot run.
    fn managed_by(&self, job: &Value) -> Option<String>;

    /// Objects that the lowering looks at, as far as they exist.
    fn related(&self, _job: &Value) -> Vec<ObjectRef> {
        Vec::new()
    }

    /// The kinds of what [`Self::related`] may answer, beside the [`Self::extra_kinds`].
    fn related_kinds(&self) -> &'static [KindInfo] {
        &[]
    }

    /// An object that the lowering cannot do without and that is not among the `related` ones.
    fn waits_for(&self, job: &Value, related: &[Value]) -> Option<ObjectRef> {
        self.related(job).into_iter().find(|wanted| read::find(related, wanted).is_none())
    }

    /// Kinds of objects, beside pods and services, that its model may hold.
    fn extra_kinds(&self) -> &'static [ExtraKind] {
        &[]
    }

    /// The model of a job.
    ///
    /// # Errors
    /// With everything that is wrong with it.
    fn lower(&self, job: &Value, related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>>;

    /// What the job's own status says.
    fn read_status(&self, job: &Value) -> Lifecycle;

    /// Whether Kueue itself stops and lets go jobs of this kind.
    fn is_known_to_kueue(&self) -> bool {
        true
    }

    /// Whether the status tells of launchers.
    fn shows_launchers(&self) -> bool {
        false
    }

    /// The whole status that the job gets after a change.
    fn render_status(&self, job: &Value, change: &StatusChange) -> Value;
}

/// All dialects.
#[must_use]
pub fn dialects() -> &'static [&'static dyn Dialect] {
    &[&trainingjob::TrainingJobs, &pytorchjob::PyTorchJobs, &trainjob::TrainJobs]
}

/// The dialect of a kind, if it is a job's.
#[must_use]
pub fn dialect(api_version: &str, kind: &str) -> Option<&'static dyn Dialect> {
    dialects().iter().copied().find(|dialect| dialect.info().api_version == api_version && dialect.info().kind == kind)
}

/// The dialect of an object, if it is a job's.
#[must_use]
pub fn dialect_of(job: &Value) -> Option<&'static dyn Dialect> {
    dialect(job.get("apiVersion")?.as_str()?, job.get("kind")?.as_str()?)
}

/// The model of a job of any dialect.
///
/// # Errors
/// With everything that is wrong with the object, or that it is no job.
pub fn lower(job: &Value, related: &[Value], config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
    let Some(dialect) = dialect_of(job) else {
        let kinds: Vec<&str> = dialects().iter().map(|dialect| dialect.info().kind).collect();
        let found = job.get("kind").and_then(Value::as_str).unwrap_or("nothing");
        return Err(vec![
            Diagnostic::new(
                "kind",
                format!(
                    "{found} of {} is not a job that runs here",
                    job.get("apiVersion").and_then(Value::as_str).unwrap_or("no apiVersion")
                ),
            )
            .hint(format!("write one of {}", kinds.join(", "))),
        ]);
    };
    dialect.lower(job, related, config)
}
