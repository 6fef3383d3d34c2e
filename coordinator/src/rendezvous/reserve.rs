//! The durable record of generations: an annotation of the job that says up to which number they are taken.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::rendezvous::Generation;

/// How often a write that another one came before is tried again at once. The job's status is written now and then, not all
/// the time.
const TRIES: usize = 8;

/// Why a block was not reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the job is gone")]
    Gone,
    #[error("another coordinator has taken the generations up to {}", .0.0)]
    Taken(Generation),
    #[error("the job changes too often")]
    Busy,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What the record of a job says.
pub(crate) fn recorded(job: &DynamicObject) -> Generation {
    let text = job.metadata.annotations.as_ref().and_then(|all| all.get(label::GENERATIONS));
    Generation(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Writes down that all generations up to `to` are taken, if the record still says `known`.
pub(crate) async fn reserve(
    api: &Api<DynamicObject>,
    name: &str,
    uid: &str,
    known: Generation,
    to: Generation,
) -> Result<(), Refused> {
    for _ in 0..TRIES {
        let job = api.get_opt(name).await?.filter(|job| job.metadata.uid.as_deref() == Some(uid));
        let job = job.ok_or(Refused::Gone)?;
        let there = recorded(&job);
        if there > known {
            return Err(Refused::Taken(there));
        }
        let patch = json!({"metadata": {
            "resourceVersion": job.metadata.resource_version,
            "uid": uid,
            "annotations": { label::GENERATIONS: to.0.to_string() },
        }});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(Refused::Gone),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refused::Busy)
}
