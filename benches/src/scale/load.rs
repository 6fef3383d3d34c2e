//! What is asked of each contender: the same pods, as its users would have them.

use http::Method;
use serde_json::{Value, json};

use super::contender::Setting;
use super::nodes::GANG;
use super::peer::QUEUE;
use super::plane::Plane;
use super::{Shape, spread};
use crate::Error;
use crate::http::Connection;

/// Where pods are created.
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Where jobs are: ours, and the cluster's own.
const TRAINING_JOBS: &str = "/apis/trainyard.dev/v1alpha1/namespaces/default/trainingjobs";
const BATCH_JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
/// Where pods of a group wait for each other: in the cluster's own scheduler, and in Volcano's.
const GROUPS: &str = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups";
const VOLCANO_GROUPS: &str = "/apis/scheduling.volcano.sh/v1beta1/namespaces/default/podgroups";
/// Gangs that are created at the same time.
const SUBMITTERS: usize = 16;

/// What becomes of the pods that the loop creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pods {
    /// The loop binds them.
    Bound,
    /// A scheduler binds them.
    Alone,
    /// The cluster's own scheduler binds those of a group together.
    Grouped,
    /// Volcano's does.
    Volcano,
}

/// Makes something for each gang.
async fn for_each_gang(plane: &Plane, shape: Shape, path: &str, what: impl Fn(&str) -> Value) -> Result<(), Error> {
    spread(plane.endpoint(), SUBMITTERS, 0..shape.gangs, async |connection, at| {
        let body = what(&format!("gang-{at}"));
        connection.call(Method::POST, path, body.to_string().into()).await.map(drop)
    })
    .await
}

/// A PodGroup for each gang.
pub(super) async fn groups(plane: &Plane, shape: Shape) -> Result<(), Error> {
    let group = |name: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": name},
            "spec": {"schedulingPolicy": {"gang": {"minCount": shape.pods}}},
        })
    };
    for_each_gang(plane, shape, GROUPS, group).await
}

/// A PodGroup of Volcano's for each gang.
pub(super) async fn volcano_groups(plane: &Plane, shape: Shape) -> Result<(), Error> {
    let group = |name: &str| {
        json!({
            "apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": {"name": name},
            "spec": {"minMember": shape.pods, "queue": "default", "minResources": {"cpu": shape.pods.to_string()}},
        })
    };
    for_each_gang(plane, shape, VOLCANO_GROUPS, group).await
}

/// All pods, one after the other.
pub(super) async fn pods(plane: &Plane, setting: Setting<'_>, shape: Shape, pods: Pods) -> Result<(), Error> {
    spread(plane.endpoint(), setting.wide, 0..shape.total(), async |connection, at| {
        let gang = format!("gang-{}", at / shape.pods);
        create_and_bind(connection, &gang, at, setting.nodes, pods).await
    })
    .await
}

pub(super) async fn create_and_bind(
    connection: &mut Connection,
    gang: &str,
    at: usize,
    nodes: usize,
    pods: Pods,
) -> Result<(), Error> {
    let name = format!("{gang}-{at}");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {GANG: gang}},
        "spec": template(),
    });
    match pods {
        Pods::Bound | Pods::Alone => {}
        Pods::Grouped => pod["spec"]["schedulingGroup"] = json!({"podGroupName": gang}),
        Pods::Volcano => {
            pod["spec"]["schedulerName"] = json!("volcano");
            pod["metadata"]["annotations"] = json!({"scheduling.k8s.io/group-name": gang});
        }
    }
    connection.call(Method::POST, PODS, pod.to_string().into()).await?;
    if pods != Pods::Bound {
        return Ok(());
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": format!("node-{:04}", at % nodes)},
    });
    connection.call(Method::POST, &format!("{PODS}/{name}/binding"), binding.to_string().into()).await.map(drop)
}

/// What every pod is, whoever makes it.
fn template() -> Value {
    json!({"containers": [{
        "name": "trainer", "image": "any", "command": ["sleep", "1000"],
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
    }]})
}

/// A job of ours for each gang.
pub(super) async fn training_jobs(plane: &Plane, shape: Shape) -> Result<(), Error> {
    let job = |name: &str| {
        json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
            "spec": {
                "replicas": shape.pods, "image": "any", "command": ["sleep", "1000"],
                "template": {"metadata": {"labels": {GANG: name}}, "spec": template()},
            },
        })
    };
    for_each_gang(plane, shape, TRAINING_JOBS, job).await
}

/// A Job of the cluster's for each gang, which waits in the queue until Kueue lets it go.
pub(super) async fn batch_jobs(plane: &Plane, shape: Shape) -> Result<(), Error> {
    let job = |name: &str| {
        let mut pod = template();
        pod["restartPolicy"] = json!("Never");
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": QUEUE}},
            "spec": {
                "suspend": true, "parallelism": shape.pods, "completions": shape.pods, "completionMode": "Indexed",
                "template": {"metadata": {"labels": {GANG: name}}, "spec": pod},
            },
        })
    };
    for_each_gang(plane, shape, BATCH_JOBS, job).await
}
