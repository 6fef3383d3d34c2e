//! Who the planned job is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use trainyard_proto::kind::KindInfo;
use trainyard_proto::plan::ObjectRef;

use crate::label;

/// The job object's identity.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) object: ObjectRef,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    pub(super) deleting: bool,
    /// Annotations that its pods carry as well.
    pub(super) passed_on: BTreeMap<String, String>,
}

impl Subject {
    pub(super) fn read(job: &Value, info: &KindInfo) -> Self {
        let text =
            |path: &str| job.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let name = text("/metadata/name").unwrap_or_default();
        let object = ObjectRef {
            api_version: info.api_version.to_owned(),
            kind: info.kind.to_owned(),
            namespace: text("/metadata/namespace").unwrap_or_else(|| "default".to_owned()),
            name: name.clone(),
        };
        let annotations = job.pointer("/metadata/annotations");
        let annotation = |name: &str| annotations?.get(name)?.as_str().map(|value| (name.to_owned(), value.to_owned()));
        let passed_on = label::PASSED_ON.iter().filter_map(|name| annotation(name)).collect();
        Self {
            object,
            name,
            uid: text("/metadata/uid").unwrap_or_default(),
            resource_version: text("/metadata/resourceVersion"),
            deleting: text("/metadata/deletionTimestamp").is_some(),
            passed_on,
        }
    }

    pub(super) fn uid(&self) -> Option<String> {
        (!self.uid.is_empty()).then(|| self.uid.clone())
    }

    /// Whether the job controls an object.
    pub(super) fn owns(&self, metadata: &ObjectMeta) -> bool {
        let owners = metadata.owner_references.iter().flatten();
        !self.uid.is_empty() && owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == self.uid)
    }
}
