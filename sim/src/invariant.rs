//! What must hold.
//!
//! | id | when | what |
//! |----|------|------|
//! | G-1 | each gang plan | a plan that binds a pod of a gang, or lifts its gate, leaves at least its minimum so, in the view it was made from |
//! | G-2 | when everything has been carried out | no gang that has not run has some of its pods bound, or their gates lifted, and less than its minimum |
//! | N-1 | each step | what the pods bound to a node ask for fits what the node offers, in CPUs, GPUs and pods |
//! | Q-1 | each step | what is admitted is within the quota of its queue and its cohorts |
//! | P-1 | each step | between two things that happen from outside no job has to make room more than a few times |
//! | R-1 | each step | no two live processes hold the same rank of a job |
//! | R-2 | each step | no two generations of a job's gang hold ranks at once |
//! | F-1 | each step | a finished job stays finished, with the same verdict |
//! | O-1 | at rest | no pod and no service without the owner it was made for |
//! | F-2 | at rest | a finished job holds no live process |
//! | L-1 | quiet part | the world comes to rest |
//! | L-2 | at rest | every job has ended, in whatever queue, and every Deployment has its pods available |
//! | B-1 | quiet part | pods of a job that are refused are not made again; those of a ReplicaSet are, ever more seldom |
//! | I-1 | at rest | planning again changes nothing |

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use trainyard_coordinator_core::label;
use trainyard_proto::quantity::Quantity;
use trainyard_runtime_core::store::Object;

use crate::agent::{Machine, has_ended};
use crate::api::{Api, at};
use crate::eviction::Evictions;
use crate::quota;
use crate::workload::{NODE_CPU, NODE_GPU, NODE_PODS};
use crate::world::World;

/// Kinds that end.
pub(crate) const JOB_KINDS: [(&str, &str); 3] =
    [("trainyard.dev/v1alpha1", "TrainingJob"), ("kubeflow.org/v1", "PyTorchJob"), ("batch/v1", "Job")];

/// Most pods that one owner has at once.
const PLACES: i64 = 4;
/// How often a pod is made in the first minutes, until the waits between the tries are at their longest.
const FIRST_TRIES: i64 = 7;
/// The longest wait between two tries.
const LONGEST_WAIT_MS: i64 = 300_000;

/// What earlier steps showed.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Verdict by uid.
    verdicts: BTreeMap<String, &'static str>,
    /// What is already known to be broken, by a check in the middle of a step.
    pub(crate) broken: Option<String>,
    /// Since when nothing breaks.
    pub(crate) quiet_since_ms: Option<i64>,
    /// Pods refused since then, by the uid of their controller.
    refused: BTreeMap<String, i64>,
    /// Changes of pods that N-1, Q-1 and P-1 have been checked for.
    pods_seen: usize,
    /// Who had to make room.
    pub(crate) evictions: Evictions,
    /// Changes of processes that have been checked for.
    processes_seen: u64,
    /// Changes of each job kind that F-1 has been checked for.
    jobs_seen: [usize; JOB_KINDS.len()],
}

impl Memory {
    /// Something happens that is not the scheduler's own doing; see P-1.
    pub(crate) fn happened(&mut self) {
        self.evictions.happened();
    }

    /// How many jobs ended with success, and with failure.
    pub(crate) fn verdicts(&self) -> (u64, u64) {
        let of = |wanted: &str| self.verdicts.values().filter(|verdict| **verdict == wanted).count() as u64;
        (of("succeeded"), of("failed"))
    }

    /// B-1. In the rough part users make pods anew as well, by suspending, resizing and deleting.
    pub(crate) fn refuse(&mut self, pod: &Object, now_ms: i64) {
        let Some((since, owner)) = self.quiet_since_ms.zip(controller(pod)) else { return };
        let (uid, kind) = (&owner["uid"], &owner["kind"]);
        let count = self.refused.entry(uid.as_str().unwrap_or_default().to_owned()).or_default();
        *count += 1;
        let tries = if kind == "ReplicaSet" { FIRST_TRIES + (now_ms - since) / LONGEST_WAIT_MS } else { 1 };
        if *count > PLACES * tries {
            let broken = format!("B-1: {count} pods of {kind} {} were made to be refused", owner["name"]);
            self.broken.get_or_insert(broken);
        }
    }
}

/// How a job ended, if it did, from its conditions.
pub(crate) fn verdict(object: &Object) -> Option<&'static str> {
    let conditions = at(object.value(), &["status", "conditions"])?.as_array()?;
    conditions.iter().filter(|condition| condition["status"] == "True").find_map(|condition| {
        match condition["type"].as_str()? {
            "Succeeded" | "Complete" => Some("succeeded"),
            "Failed" => Some("failed"),
            _ => None,
        }
    })
}

pub(crate) fn after_step(memory: &mut Memory, api: &Api, machines: &[Machine]) -> Result<(), String> {
    if let Some(broken) = memory.broken.take() {
        return Err(broken);
    }
    let pods = api.changes_of("v1", "Pod");
    if pods != memory.pods_seen {
        capacity(api)?;
        quota::check(api)?;
        memory.evictions.check(api)?;
        memory.pods_seen = pods;
    }
    let processes = machines.iter().map(Machine::changes).sum();
    if processes != memory.processes_seen {
        ranks(machines)?;
        memory.processes_seen = processes;
    }
    verdicts(memory, api)
}

pub(crate) fn amount(value: &Value) -> i64 {
    Quantity::from_json(value).ok().flatten().and_then(|amount| amount.units().ok()).unwrap_or(0)
}

pub(crate) fn bound_to(pod: &Object) -> Option<&str> {
    at(pod.value(), &["spec", "nodeName"]).and_then(Value::as_str)
}

/// N-1.
fn capacity(api: &Api) -> Result<(), String> {
    let mut used: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for pod in api.of_kind("v1", "Pod").filter(|pod| !has_ended(pod)) {
        let Some(node) = bound_to(pod) else { continue };
        let entry = used.entry(node).or_default();
        entry.2 += 1;
        for container in at(pod.value(), &["spec", "containers"]).and_then(Value::as_array).into_iter().flatten() {
            let requests = &container["resources"]["requests"];
            entry.0 += amount(&requests["cpu"]);
            entry.1 += amount(&requests["nvidia.com/gpu"]);
        }
    }
    for (node, (cpu, gpu, pods)) in used {
        if cpu > NODE_CPU || gpu > NODE_GPU || pods > NODE_PODS {
            return Err(format!("N-1: {node} is double-booked: {cpu} CPUs, {gpu} GPUs, {pods} pods"));
        }
    }
    Ok(())
}

fn controller(object: &Object) -> Option<&Value> {
    let owners = at(object.value(), &["metadata", "ownerReferences"])?.as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}

pub(crate) fn controller_uid(object: &Object) -> Option<&str> {
    controller(object)?["uid"].as_str()
}

///
fn ranks(machines: &[Machine]) -> Result<(), String> {
    let mut holders: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    let mut generations: BTreeMap<&str, &str> = BTreeMap::new();
    for process in machines.iter().flat_map(Machine::live) {
        let pod = &process.pod;
        let (Some(job), Some(role), Some(index)) =
            (controller_uid(pod), pod.label(label::REPLICA_TYPE), pod.label(label::REPLICA_INDEX))
        else {
            continue;
        };
        if !holders.insert((job, role, index)) {
            return Err(format!("R-1: {role} {index} of {job} is held twice"));
        }
        let Some(generation) = pod.annotation(label::GENERATION) else { continue };
        let known = generations.entry(job).or_insert(generation);
        if *known != generation {
            return Err(format!("R-2: generations {known} and {generation} of {job} hold ranks at once"));
        }
    }
    Ok(())
}

/// F-1.
fn verdicts(memory: &mut Memory, api: &Api) -> Result<(), String> {
    for (index, (api_version, kind)) in JOB_KINDS.into_iter().enumerate() {
        let changes = api.changes_of(api_version, kind);
        if changes == memory.jobs_seen[index] {
            continue;
        }
        memory.jobs_seen[index] = changes;
        for job in api.of_kind(api_version, kind) {
            let now = verdict(job);
            match (memory.verdicts.get(&**job.uid()), now) {
                (None, Some(now)) => {
                    memory.verdicts.insert(job.uid().to_string(), now);
                    memory.evictions.happened();
                }
                (Some(known), now) if Some(*known) != now => {
                    return Err(format!("F-1: {kind} {} had {known} and now has {now:?}", job.key().name));
                }
                (Some(_) | None, _) => {}
            }
        }
    }
    Ok(())
}

/// (gang, owner) and minimum of a pod.
fn gang(pod: &Pod) -> Option<((&str, &str), usize)> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let size = annotations.get(label::GANG_SIZE)?.parse().ok()?;
    let owner = pod.metadata.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).next();
    Some(((annotations.get(label::GANG)?, owner.unwrap_or_default()), size))
}

/// Whether it has a node, or waits for nobody but the scheduler of the cluster to get one.
fn is_let_go(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let mut gates = spec.scheduling_gates.iter().flatten();
        spec.node_name.is_some() || gates.all(|gate| gate.name != label::GANG_GATE)
    })
}

/// G-1: with `binding` bound too, is every gang that is touched whole? The minimum is that of the pods that are bound now: replicas that
/// run keep the annotation of the size that their job had when they were made.
pub(crate) fn whole_gangs(pods: &[Pod], binding: &BTreeSet<&str>) -> Result<(), String> {
    let mut gangs: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for pod in pods {
        let Some((gang, size)) = gang(pod) else { continue };
        let touched = binding.contains(pod.metadata.name.as_deref().unwrap_or_default());
        let (bound, minimum) = gangs.entry(gang).or_default();
        *bound += usize::from(touched || is_let_go(pod));
        if touched {
            *minimum = size.max(*minimum);
        }
    }
    for ((gang, _), (bound, size)) in gangs {
        if bound < size {
            return Err(format!("G-1: a plan binds {bound} pods of gang {gang}, of which {size} must start together"));
        }
    }
    Ok(())
}

/// What G-2 looks at in a gang.
#[derive(Default)]
struct Standing {
    bound: usize,
    unbound: usize,
    /// The most that a pod without a node asks for; see [`whole_gangs`].
    size: usize,
    /// A process of it runs or has run, or was refused: it lost a pod, and the others are not ended while the replacement
    /// waits, or while they are kept to be looked at.
    ran: bool,
    /// A pod of it is on its way out, and its agent may be slow or gone.
    leaving: bool,
}

/// Whether pods that were told to make room are still there: whoever was given their places waits for them to leave.
pub(crate) fn makes_room<'pods>(pods: impl IntoIterator<Item = &'pods Pod>) -> bool {
    let annotations = |pod: &'pods Pod| pod.metadata.annotations.as_ref();
    pods.into_iter().filter_map(annotations).any(|all| all.contains_key(label::PREEMPTED))
}

/// G-2: called when nothing is in flight and the caches are current.
pub(crate) fn settled<'pods>(pods: impl IntoIterator<Item = &'pods Pod>) -> Result<(), String> {
    let mut gangs: BTreeMap<(&str, &str), Standing> = BTreeMap::new();
    for pod in pods {
        let Some((gang, size)) = gang(pod) else { continue };
        let gang = gangs.entry(gang).or_default();
        gang.ran |= pod
            .status
            .as_ref()
            .is_some_and(|status| status.container_statuses.is_some() || status.phase.as_deref() == Some("Failed"));
        if pod.metadata.deletion_timestamp.is_some() {
            gang.leaving = true;
            continue;
        }
        if is_let_go(pod) {
            gang.bound += 1;
        } else {
            gang.unbound += 1;
            gang.size = gang.size.max(size);
        }
    }
    for ((name, owner), gang) in gangs {
        let Standing { bound, unbound, size, ran, leaving } = gang;
        if bound > 0 && unbound > 0 && bound < size && !ran && !leaving {
            return Err(format!("G-2: {bound} of gang {name}/{owner} are bound, {size} must be"));
        }
    }
    Ok(())
}

/// O-1, F-2, L-2.
pub(crate) fn at_rest(world: &World) -> Result<(), String> {
    let uids: BTreeSet<&str> = world.api.store.objects().map(|object| &**object.uid()).collect();
    for kind in ["Pod", "Service"] {
        for object in world.api.of_kind("v1", kind) {
            match controller_uid(object) {
                Some(owner) if uids.contains(owner) => {}
                Some(owner) => return Err(format!("O-1: {kind} {} outlives its owner {owner}", object.key().name)),
                None => return Err(format!("O-1: {kind} {} has no owner", object.key().name)),
            }
        }
    }
    for (api_version, kind) in JOB_KINDS {
        for job in world.api.of_kind(api_version, kind) {
            if verdict(job).is_none() {
                return Err(format!("L-2: {kind} {} never ends", job.key().name));
            }
            let clean = at(job.value(), &["spec", "runPolicy", "cleanPodPolicy"])
                .or(at(job.value(), &["spec", "cleanPodPolicy"]));
            let keeps = clean.is_none_or(|policy| policy == "None") && kind != "Job";
            let mut live = world.machines.iter().flat_map(Machine::live);
            if !keeps && live.any(|process| controller_uid(&process.pod) == Some(&**job.uid())) {
                return Err(format!("F-2: {kind} {} has ended and still holds processes", job.key().name));
            }
        }
    }
    for deployment in world.api.of_kind("apps/v1", "Deployment") {
        let wanted = at(deployment.value(), &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1);
        let available = at(deployment.value(), &["status", "availableReplicas"]).and_then(Value::as_i64).unwrap_or(0);
        if wanted != available {
            return Err(format!("L-2: {} has {available} of {wanted} pods", deployment.key().name));
        }
    }
    Ok(())
}
