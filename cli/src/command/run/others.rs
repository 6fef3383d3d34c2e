//! Jobs that go on when the control plane of a run goes: their ranks run under their shims, and nobody looks after them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::{Api, ApiError};
use crate::follow::phase;
use crate::follow::screen::Screen;
use crate::output::style;

/// A job with pods that have not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    kind: String,
    name: String,
    namespace: String,
    running: usize,
    waiting: usize,
}

/// All jobs of the server that have pods which have not ended.
pub(crate) async fn living(api: &Api) -> Result<Vec<Other>, ApiError> {
    let pods = api.get("/api/v1/pods").await?;
    Ok(of_pods(pods["items"].as_array().map(Vec::as_slice).unwrap_or_default()))
}

fn of_pods(pods: &[Value]) -> Vec<Other> {
    let mut jobs: BTreeMap<(String, String, String), Other> = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for pod in pods.iter().filter(|pod| !phase::is_over(pod)) {
        let metadata = &pod["metadata"];
        let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.find(|owner| owner["controller"] == true);
        let (kind, name) = owner.map_or_else(
            || ("Pod".to_owned(), text(&metadata["name"])),
            |owner| (text(&owner["kind"]), text(&owner["name"])),
        );
        let namespace = text(&metadata["namespace"]);
        let job = jobs.entry((namespace.clone(), kind.clone(), name.clone())).or_insert(Other {
            kind,
            name,
            namespace,
            running: 0,
            waiting: 0,
        });
        if pod["spec"]["nodeName"].is_string() {
            job.running += 1;
        } else {
            job.waiting += 1;
        }
    }
    jobs.into_values().collect()
}

impl Other {
    /// Whether pods of it run now.
    pub(crate) fn runs(&self) -> bool {
        self.running > 0
    }

    /// `TrainingJob digits (2 pods)`.
    pub(crate) fn title(&self) -> String {
        let pods = self.running + self.waiting;
        let place = if self.namespace == "default" { String::new() } else { format!(" in {}", self.namespace) };
        format!("{} {}{place} ({pods} pod{})", self.kind, self.name, if pods == 1 { "" } else { "s" })
    }

    fn delete(&self) -> String {
        let place = if self.namespace == "default" { String::new() } else { format!(" -n {}", self.namespace) };
        format!("`trainyard delete {} {}{place}`", self.kind.to_lowercase(), self.name)
    }
}

/// Says what was taken over.
pub(crate) fn say_adopted(screen: &Screen, adopted: &[Other]) -> std::io::Result<()> {
    for job in adopted {
        screen.say("Adopted", style::GOOD, &format!("{}, which went on without a control plane", job.title()))?;
    }
    Ok(())
}

/// Says what is left behind, and what to do about it.
pub(super) fn say_left(screen: &Screen, left: &[Other]) -> std::io::Result<()> {
    for job in left {
        let what = if job.runs() {
            "goes on, but nothing restarts its ranks or tells its end while no control plane runs"
        } else {
            "waits for its place, and gets none while no control plane runs"
        };
        screen.say("note:", style::CARE, &format!("{} {what}", job.title()))?;
        screen.more(&format!("look after it with `trainyard up`, or end it with {}", job.delete()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs_with_pods_that_have_not_ended_are_left() {
        let pod = |job: &str, phase: &str, spec: Value| {
            json!({"metadata": {"name": format!("{job}-0"), "namespace": "default",
                "ownerReferences": [{"kind": "TrainingJob", "name": job, "controller": true}]},
                "spec": spec, "status": {"phase": phase}})
        };
        let left = of_pods(&[
            pod("done", "Succeeded", json!({"nodeName": "n"})),
            pod("goes-on", "Running", json!({"nodeName": "n"})),
            pod("goes-on", "Running", json!({"nodeName": "n"})),
            pod("waits", "Pending", json!({})),
        ]);
        let titles: Vec<_> = left.iter().map(|job| (job.title(), job.runs())).collect();
        assert_eq!(
            titles,
            [("TrainingJob goes-on (2 pods)".to_owned(), true), ("TrainingJob waits (1 pod)".to_owned(), false)]
        );
        assert_eq!(left[0].delete(), "`trainyard delete trainingjob goes-on`");
    }
}
