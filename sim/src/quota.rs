//! what the pods that have places ask for fits the quota, as the stored objects say both.
//!
//! Written from the words of Kueue's documentation alone; nothing of the engine is used. A queue has what it is given
//! (`nominalQuota`), and lends of it as much as `lendingLimit` allows to its cohort; a cohort has what it is given and what is lent to it,
//! and lends that on to the cohort above. Whoever uses more than it keeps takes from the cohort, and no more of it than `borrowingLimit`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trainyard_coordinator_core::gang::QUEUE_API_VERSION;
use trainyard_coordinator_core::label;
use trainyard_runtime_core::store::Object;

use crate::agent::has_ended;
use crate::api::{Api, at};
use crate::invariant::{amount, bound_to, controller_uid};

/// The resources that quota can be about in these worlds.
const RESOURCES: [&str; 2] = ["cpu", "nvidia.com/gpu"];

/// A queue or a cohort, for one resource.
#[derive(Clone, Debug, Default)]
struct Holder<'api> {
    parent: Option<&'api str>,
    /// Whether anything is said of the resource.
    is_limited: bool,
    nominal: i64,
    borrowing: Option<i64>,
    lending: Option<i64>,
    used: i64,
}

/// All of them, queues and cohorts apart, since they may have the same names.
type Holders<'api> = BTreeMap<(&'static str, &'api str), Holder<'api>>;

fn name(object: &Object) -> &str {
    &object.key().name
}

fn holder<'api>(object: &'api Object, resource: &str) -> Holder<'api> {
    let spec = &object.value()["spec"];
    let groups = spec["resourceGroups"].as_array().into_iter().flatten();
    let flavors = groups.flat_map(|group| group["flavors"].as_array().into_iter().flatten());
    let mut limits = flavors.flat_map(|flavor| flavor["resources"].as_array().into_iter().flatten());
    let parent = spec["cohort"].as_str().or(spec["parentName"].as_str());
    let Some(limits) = limits.find(|one| one["name"] == resource) else {
        return Holder { parent, ..Holder::default() };
    };
    let limit = |field: &str| limits.get(field).map(amount);
    Holder {
        parent,
        is_limited: true,
        nominal: amount(&limits["nominalQuota"]),
        borrowing: limit("borrowingLimit"),
        lending: limit("lendingLimit"),
        used: 0,
    }
}

fn read<'api>(api: &'api Api, resource: &str) -> Holders<'api> {
    let mut all = Holders::new();
    for kind in ["ClusterQueue", "Cohort"] {
        all.extend(api.of_kind(QUEUE_API_VERSION, kind).map(|one| ((kind, name(one)), holder(one, resource))));
    }
    let named: BTreeSet<&str> = all.values().filter_map(|one| one.parent).collect();
    for cohort in named {
        all.entry(("Cohort", cohort)).or_default();
    }
    all
}

/// What a holder has in all, and what it uses of its own and of others'.
fn sums(all: &Holders<'_>, which: (&'static str, &str)) -> (i64, i64) {
    let holder = &all[&which];
    let (mut has, mut uses) = (holder.nominal, holder.used);
    if which.0 == "Cohort" {
        for (child, below) in all.iter().filter(|(_, below)| below.parent == Some(which.1)) {
            let (theirs, used) = sums(all, *child);
            let lent = below.lending.map_or(theirs, |limit| limit.min(theirs));
            has += lent;
            uses += (used - (theirs - lent)).max(0);
        }
    }
    (has, uses)
}

/// What distinguishes one start of a gang from others: owner, name of the gang or the pod's own uid, generation.
pub(crate) fn start_of(pod: &Object) -> (String, String, String) {
    let gang = pod.annotation(label::GANG).map_or_else(|| pod.uid().to_string(), str::to_owned);
    let generation = pod.annotation(label::GENERATION).unwrap_or_default();
    (controller_uid(pod).unwrap_or_default().to_owned(), gang, generation.to_owned())
}

/// The ClusterQueue that a pod is in.
fn queue_of<'api>(ways: &BTreeMap<&str, &'api str>, pod: &Object) -> Option<&'api str> {
    let local = pod.annotation(label::QUEUE).or_else(|| pod.label(label::QUEUE_NAME))?;
    ways.get(local).copied()
}

fn asks(pod: &Object, resource: &str) -> i64 {
    let containers = at(pod.value(), &["spec", "containers"]).and_then(Value::as_array).into_iter().flatten();
    containers.map(|container| amount(&container["resources"]["requests"][resource])).sum()
}

/// Whether it has a node, or waited at our gate, which was lifted: then the scheduler of the cluster gives it one.
fn is_let_go(pod: &Object) -> bool {
    let mut gates = at(pod.value(), &["spec", "schedulingGates"]).and_then(Value::as_array).into_iter().flatten();
    let waited = pod.annotation(label::GANG).is_some() || pod.annotation(label::LET_GO).is_some();
    bound_to(pod).is_some() || (waited && gates.all(|gate| gate["name"] != label::GANG_GATE))
}

/// Whether all that is admitted is within quota. A gang that was told to make room, by a mark on one of its pods, is not admitted any more, and
/// neither is a pod that its gang gives up, or that is being deleted.
pub(crate) fn check(api: &Api) -> Result<(), String> {
    let locals = api.of_kind(QUEUE_API_VERSION, "LocalQueue");
    let ways: BTreeMap<&str, &str> = locals
        .filter_map(|local| Some((name(local), at(local.value(), &["spec", "clusterQueue"])?.as_str()?)))
        .collect();
    if ways.is_empty() {
        return Ok(());
    }
    let pods = api.of_kind("v1", "Pod").map(AsRef::as_ref);
    let placed: Vec<&Object> = pods.filter(|pod| !has_ended(pod) && is_let_go(pod)).collect();
    let told: BTreeSet<(String, String, String)> =
        placed.iter().filter(|pod| pod.annotation(label::PREEMPTED).is_some()).map(|pod| start_of(pod)).collect();
    for resource in RESOURCES {
        let mut all = read(api, resource);
        let stays = |pod: &&&Object| {
            !pod.is_deleting() && pod.annotation(label::SHRUNK).is_none() && !told.contains(&start_of(pod))
        };
        for pod in placed.iter().filter(stays) {
            let holder = queue_of(&ways, pod).and_then(|queue| all.get_mut(&("ClusterQueue", queue)));
            if let Some(holder) = holder {
                holder.used += asks(pod, resource);
            }
        }
        if all.values().all(|holder| !holder.is_limited) {
            continue;
        }
        for (which, holder) in &all {
            let (has, uses) = sums(&all, *which);
            let may = match (holder.parent, holder.borrowing) {
                (None, _) => has,
                (Some(_), Some(limit)) => has + limit,
                (Some(_), None) => continue,
            };
            if uses > may {
                let pods = placed.iter().filter(|pod| stays(pod) && queue_of(&ways, pod).is_some());
                let pods: Vec<String> = pods
                    .map(|pod| {
                        format!(
                            "{} {} in {}",
                            pod.key().name,
                            asks(pod, resource),
                            queue_of(&ways, pod).unwrap_or_default()
                        )
                    })
                    .collect();
                return Err(format!(
                    "Q-1: {} {} uses {uses} of {resource}, and may use {may}: {}",
                    which.0,
                    which.1,
                    pods.join(", ")
                ));
            }
        }
    }
    Ok(())
}
