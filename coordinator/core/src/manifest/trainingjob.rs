//! TrainingJob.

use serde_json::Value;
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::trainyard::TrainingJob;

use super::Dialect;
use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::model::JobModel;
use crate::view::Config;

/// The dialect of TrainingJob.
#[derive(Debug)]
pub struct TrainingJobs;

impl Dialect for TrainingJobs {
    fn info(&self) -> &'static KindInfo {
        const { &<TrainingJob as CustomKind>::INFO }
    }

    fn operator_name(&self) -> &'static str {
        "trainingjob-controller"
    }

    fn lower(&self, _job: &Value, _related: &[Value], _config: &Config) -> Result<JobModel, Vec<Diagnostic>> {
        Err(vec![Diagnostic::new("kind", "this kind is not lowered yet")])
    }

    fn read_status(&self, _job: &Value) -> Lifecycle {
        Lifecycle::default()
    }

    fn render_status(&self, _job: &Value, _change: &StatusChange) -> Value {
        Value::Null
    }
}
