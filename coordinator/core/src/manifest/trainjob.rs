//! TrainJob.

use serde_json::Value;
use trainyard_proto::kind::{CustomKind, KindInfo};
use trainyard_proto::trainer::TrainJob;

use super::Dialect;
use crate::diagnostic::Diagnostic;
use crate::job::{Lifecycle, StatusChange};
use crate::model::JobModel;
use crate::view::Config;

/// The dialect of TrainJob.
#[derive(Debug)]
pub struct TrainJobs;

impl Dialect for TrainJobs {
    fn info(&self) -> &'static KindInfo {
        const { &<TrainJob as CustomKind>::INFO }
    }

    fn operator_name(&self) -> &'static str {
        "trainjob-controller"
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
