//! The gang scheduler's shell: one key for all, since every gang competes with every other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use trainyard_coordinator_core::gang::cluster::{ClusterView, Draft, Owner, is_as_decided, place_on_cluster};
use trainyard_coordinator_core::gang::{GangView, place};
use trainyard_coordinator_core::job;
use trainyard_coordinator_core::label;
use trainyard_coordinator_core::manifest::{dialect, dialects};
use trainyard_proto::plan::{Action, ObjectRef, Plan};
use trainyard_runtime::driver::{Controller, Key, Queue, as_value};

use crate::cluster::{Cluster, Gangs, traceparent};

fn whole() -> Key {
    Key::new("", "gangs")
}

/// None where pods do not wait for each other.
pub(crate) fn controller(cluster: &Cluster) -> Option<Controller> {
    let gangs = cluster.gangs.clone()?;
    let queue = Queue::default();
    queue.wake(whole());
    let known: Arc<Known> = Arc::default();
    let (wake, decided) = (queue.clone(), Arc::clone(&known));
    cluster.pods.subscribe(move |old, new| {
        let is_known = || is_as_decided(old.map(AsRef::as_ref), new.map(AsRef::as_ref), |uid| decided.placed_ms(uid));
        if old.map(|pod| placing(pod)) != new.map(|pod| placing(pod)) && !is_known() {
            wake.wake(whole());
        }
    });
    let wake = queue.clone();
    gangs.nodes.subscribe(move |old, new| {
        if old.map(|node| offering(node)) != new.map(|node| offering(node)) {
            wake.wake(whole());
        }
    });
    let wake = queue.clone();
    gangs.priority_classes.subscribe(move |_, _| wake.wake(whole()));
    for (_, queues) in gangs.queues.iter() {
        let wake = queue.clone();
        queues.subscribe(move |_, _| wake.wake(whole()));
    }
    if let Some(namespaces) = &gangs.namespaces {
        let wake = queue.clone();
        namespaces.subscribe(move |old, new| {
            if old.map(|one| labels(one)) != new.map(|one| labels(one)) {
                wake.wake(whole());
            }
        });
    }
    if cluster.view_config.binds {
        wake_by_drafts(cluster, &queue);
    }
    let (planning, tracing) = (cluster.clone(), cluster.clone());
    Some(Controller {
        name: "gangs",
        plan: Arc::new(move |_, now_ms| Some(plan(&planning, &gangs, &known, now_ms))),
        trace: Arc::new(move |_, action| {
            if let Action::Bind { pod, .. } = action? {
                traceparent(&tracing.pods.get(&Key::from(pod))?.metadata)
            } else {
                None
            }
        }),
        target: cluster.target("gangs"),
        queue,
    })
}

/// Where pods are made on their nodes, a job that has none yet may wait for a decision. Of others the decision itself matters: it is waited
/// for until it is seen.
fn wake_by_drafts(cluster: &Cluster, queue: &Queue) {
    for info in dialects().iter().map(|dialect| dialect.info()) {
        let Some(jobs) = cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned())) else { continue };
        let (pods, wake) = (cluster.pods.clone(), queue.clone());
        jobs.subscribe(move |old, new| {
            let uid = new.and_then(|job| job.metadata.uid.as_deref());
            if uid.is_none_or(|uid| !pods.owns_any(uid)) || old.map(placement) != new.map(placement) {
                wake.wake(whole());
            }
        });
    }
}

fn placement(job: &Arc<DynamicObject>) -> Option<&String> {
    job.metadata.annotations.as_ref()?.get(label::PLACEMENT)
}

/// What placing looks at in a pod. Progress and container states change often and do not matter here; what the
/// scheduler itself wrote (the condition) does, so that its own write is seen.
fn placing(pod: &Pod) -> impl PartialEq + use<> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let condition = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "PodScheduled"))
        .map(|condition| (condition.status.clone(), condition.message.clone()));
    let spec = pod.spec.as_ref();
    (
        pod.metadata.uid.clone(),
        pod.metadata.deletion_timestamp.clone(),
        spec.and_then(|spec| spec.node_name.clone()),
        spec.and_then(|spec| spec.scheduling_gates.clone()),
        phase,
        condition,
        [label::PREEMPTED, label::SHRUNK, label::RESERVATION, label::PRIORITY, label::PRIORITY_CLASS]
            .map(|name| pod.metadata.annotations.as_ref()?.get(name).cloned()),
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(label::QUEUE_NAME)).cloned(),
    )
}

/// What placing looks at in a node: not its heartbeat.
fn offering(node: &Node) -> impl PartialEq + use<> {
    let status = node.status.as_ref();
    let conditions: Vec<(String, String)> = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .map(|condition| (condition.type_.clone(), condition.status.clone()))
        .collect();
    (
        node.metadata.uid.clone(),
        node.metadata.labels.clone(),
        node.metadata.deletion_timestamp.clone(),
        node.spec.clone(),
        status.and_then(|status| status.allocatable.clone()),
        conditions,
    )
}

fn plan(cluster: &Cluster, gangs: &Gangs, known: &Known, now_ms: i64) -> Plan {
    let classes = gangs.priority_classes.list();
    let view = GangView {
        nodes: gangs.nodes.list().iter().map(|node| Node::clone(node)).collect(),
        pods: match gangs.patience {
            None => that_count(&cluster.pods.list()),
            Some(_) => cluster.pods.list().iter().map(|pod| Pod::clone(pod)).collect(),
        },
        priority_classes: classes
            .iter()
            .filter_map(|class| Some((class.metadata.name.clone()?, class.value)))
            .collect(),
        queues: gangs
            .queues
            .iter()
            .flat_map(|((version, kind), objects)| {
                objects.list().into_iter().map(move |object| as_value(&object, version, kind))
            })
            .collect(),
        namespaces: gangs.namespaces.iter().flat_map(|all| all.list()).filter_map(|one| labels(&one)).collect(),
    };
    match gangs.patience {
        None => place(&view, now_ms).plan,
        Some(patience) => {
            let mut view = on_cluster(cluster, view, patience);
            if cluster.view_config.binds {
                view.drafts = drafts(cluster, &view, known, now_ms);
                known.note(&view);
            }
            place_on_cluster(&view, now_ms).plan
        }
    }
}

/// All pods but those of jobs whose pods have all ended: of these nothing is asked any more, and where thousands of jobs are kept, copying
/// their pods would cost more than all else.
fn that_count(all: &[Arc<Pod>]) -> Vec<Pod> {
    let open: HashSet<&str> = all.iter().filter(|pod| !has_ended(pod)).filter_map(|pod| owner_uid(pod)).collect();
    let is_over = |pod: &Pod| has_ended(pod) && owner_uid(pod).is_none_or(|uid| !open.contains(uid));
    all.iter().filter(|pod| !is_over(pod)).map(|pod| Pod::clone(pod)).collect()
}

fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

pub(crate) fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|status| status.phase.as_deref())
}

/// The uid of what controls a pod.
fn owner_uid(pod: &Pod) -> Option<&str> {
    controller_uid(&pod.metadata)
}

/// The uid of what controls an object.
pub(crate) fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn labels(namespace: &Namespace) -> Option<(String, BTreeMap<String, String>)> {
    Some((namespace.metadata.name.clone()?, namespace.metadata.labels.clone().unwrap_or_default()))
}

/// With what jobs say was decided for them.
fn on_cluster(cluster: &Cluster, gangs: GangView, patience: Duration) -> ClusterView {
    let mut owners = BTreeMap::new();
    for info in dialects().iter().map(|dialect| dialect.info()) {
        let jobs = cluster.custom.get(&(info.api_version.to_owned(), info.kind.to_owned()));
        for job in jobs.map(|jobs| jobs.list()).unwrap_or_default() {
            let meta = &job.metadata;
            let object = ObjectRef {
                api_version: info.api_version.to_owned(),
                kind: info.kind.to_owned(),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            };
            let version = meta.resource_version.clone();
            owners
                .insert(meta.uid.clone().unwrap_or_default(), Owner::read(object, version, meta.annotations.as_ref()));
        }
    }
    let patience_ms = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    ClusterView { gangs, owners, drafts: BTreeMap::new(), patience_ms }
}

/// Drafts by the uid of their job, with the version of the job that they were made for.
type Drafts = HashMap<String, (Option<String>, Arc<Draft>)>;

/// What the last decision was made from, as far as it is asked for again.
#[derive(Default)]
struct Known {
    drafts: Mutex<Drafts>,
    /// When places were decided for pods yet to be made, by the uid of their job.
    placed_ms: Mutex<HashMap<String, i64>>,
}

impl Known {
    fn placed_ms(&self, uid: &str) -> Option<i64> {
        self.placed_ms.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied()
    }

    fn note(&self, view: &ClusterView) {
        let placed = view.owners.iter().filter_map(|(uid, owner)| Some((uid.clone(), owner.placed_ms()?))).collect();
        *self.placed_ms.lock().unwrap_or_else(PoisonError::into_inner) = placed;
    }
}

/// The pods that jobs are about to have: of jobs without pods, and of those of whose places some are free yet. While pods are made the
/// job stays as it is, and its draft with it.
fn drafts(cluster: &Cluster, view: &ClusterView, known: &Known, now_ms: i64) -> BTreeMap<String, Arc<Draft>> {
    let mut known = known.drafts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = BTreeMap::new();
    for (uid, owner) in &view.owners {
        let places = owner.intent.as_ref().and_then(|intent| intent.drafted.as_ref());
        let places = places.map_or(0, |drafted| drafted.places.pods());
        let made = if places == 0 { usize::from(cluster.pods.owns_any(uid)) } else { cluster.pods.owned_by(uid).len() };
        if made > 0 && made >= places {
            continue;
        }
        if let Some((version, draft)) = known.get(uid).filter(|(version, _)| *version == owner.version) {
            found.insert(uid.clone(), (version.clone(), Arc::clone(draft)));
            continue;
        }
        let object = &owner.object;
        let key = Key::new(object.namespace.clone(), object.name.clone());
        let drafted = dialect(&object.api_version, &object.kind)
            .and_then(|dialect| crate::job::view(cluster, None, dialect, &key))
            // The job may have changed since it was listed.
            .filter(|view| view.job["metadata"]["resourceVersion"].as_str() == owner.version.as_deref())
            .and_then(|view| job::draft(&view, now_ms));
        found.extend(drafted.map(|draft| (uid.clone(), (owner.version.clone(), Arc::new(draft)))));
    }
    let drafts = found.iter().map(|(uid, (_, draft))| (uid.clone(), Arc::clone(draft))).collect();
    *known = found.into_iter().collect();
    drafts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_jobs_that_have_ended_are_left_out() {
        let pod = |name: &str, job: Option<&str>, phase: &str| {
            let owners: Vec<_> = job
                .map(|uid| json!({"apiVersion": "v1", "kind": "Job", "name": uid, "uid": uid, "controller": true}))
                .into_iter()
                .collect();
            let pod = json!({"metadata": {"name": name, "ownerReferences": owners}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let all = [
            pod("done-0", Some("done"), "Succeeded"),
            pod("done-1", Some("done"), "Failed"),
            pod("half-0", Some("half"), "Succeeded"),
            pod("half-1", Some("half"), "Running"),
            pod("new-0", Some("new"), "Pending"),
            pod("alone", None, "Failed"),
            pod("other", None, "Running"),
        ];
        let names: Vec<String> = that_count(&all).into_iter().filter_map(|pod| pod.metadata.name).collect();
        assert_eq!(
            names,
            ["half-0", "half-1", "new-0", "other"],
            "of a gang that runs, those that have ended count too"
        );
    }
}
