//! The runtime as it was when a job was taken up.
//!
//! It is kept in a ConfigMap of the job, as upstream has it: a runtime that is changed or deleted later does not touch
//! jobs that it was meant for.

use serde_json::{Value, json};
use trainyard_proto::plan::ObjectRef;

use crate::manifest::ExtraKind;

pub(super) const KIND: ExtraKind = ExtraKind { api_version: "v1", kind: "ConfigMap" };
const KEY: &str = "runtime";

fn name(job: &str) -> String {
    format!("{job}-runtime-snapshot")
}

fn text<'job>(job: &'job Value, pointer: &str) -> Option<&'job str> {
    job.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Where a job's snapshot is.
pub(super) fn reference(job: &Value) -> Option<ObjectRef> {
    Some(ObjectRef {
        api_version: KIND.api_version.to_owned(),
        kind: KIND.kind.to_owned(),
        namespace: text(job, "/metadata/namespace").unwrap_or("default").to_owned(),
        name: name(text(job, "/metadata/name")?),
    })
}

/// The runtime in a job's snapshot. One that the job does not control is somebody else's.
pub(super) fn read(job: &Value, related: &[Value]) -> Option<Value> {
    let found = crate::manifest::read::find(related, &reference(job)?)?;
    let uid = text(job, "/metadata/uid")?;
    let owners = found.pointer("/metadata/ownerReferences")?.as_array()?;
    let ours = owners.iter().any(|owner| owner["uid"] == uid && owner["controller"] == true);
    let runtime: Value = serde_json::from_str(found.get("data")?.get(KEY)?.as_str()?).ok()?;
    (ours && runtime.get("spec").is_some_and(Value::is_object)).then_some(runtime)
}

/// The snapshot of a runtime for the job of this name.
pub(super) fn body(job: &str, runtime: &Value) -> Value {
    let kept = json!({
        "apiVersion": runtime["apiVersion"],
        "kind": runtime["kind"],
        "metadata": { "name": runtime["metadata"]["name"] },
        "spec": runtime["spec"],
    });
    json!({
        "apiVersion": KIND.api_version,
        "kind": KIND.kind,
        "metadata": { "name": name(job) },
        "data": { KEY: kept.to_string() },
    })
}
