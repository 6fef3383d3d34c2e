//! Something is supposed of what the scheduler looks at: more nodes or fewer, a job more, another quota. What it makes of that is
//! asked by [`super::outlook`]; nothing is written anywhere.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use thiserror::Error;
use trainyard_proto::quantity::{self, QuantityError};

use super::gather::{self, annotation};
use super::reason::show;
use super::{GangView, demand};
use crate::{instant, label};

/// The label by which nodes are told apart.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Pods that a kubelet takes where nobody says.
const PODS_OF_A_NODE: &str = "110";
/// Annotations by which the scheduler remembers something of a pod that is not there any more.
const REMEMBERED: [&str; 6] =
    [label::RESERVATION, label::PREEMPTED, label::SHRUNK, label::CHECKPOINT, label::FLAVORS, label::LET_GO];

/// Something that is supposed.
#[derive(Clone, Debug, PartialEq)]
pub enum Supposition {
    /// Nodes join.
    Joined(NewNodes),
    /// The node of this name is gone, and what runs there is made anew.
    Gone(String),
    /// The node of this name takes no new pods, and what runs there is evicted and made anew.
    Drained(String),
    /// A job is submitted.
    Submitted {
        /// What to call it: `TrainingJob wine-ddp`.
        title: String,
        /// Its pods, as they are stored.
        pods: Vec<Pod>,
    },
    /// A queue has another quota.
    Quota {
        /// Name of the ClusterQueue.
        queue: String,
        /// The resource.
        resource: String,
        /// Its nominal quota, over all flavors.
        amount: String,
    },
}

/// Nodes that join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNodes {
    /// How many.
    pub count: u32,
    /// The node that they are copies of; without one, the node that has the most.
    pub like: Option<String>,
    /// What they have of these resources, instead.
    pub resources: BTreeMap<String, String>,
    /// What these labels say of them, instead.
    pub labels: BTreeMap<String, String>,
}

/// Why something cannot be supposed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SupposeError {
    /// No node has that name.
    #[error("there is no node {name:?}{}", known(.nodes))]
    NoNode {
        /// The name.
        name: String,
        /// Those that there are.
        nodes: Vec<String>,
    },
    /// No ClusterQueue has that name.
    #[error("there is no ClusterQueue {name:?}{}", known(.queues))]
    NoQueue {
        /// The name.
        name: String,
        /// Those that there are.
        queues: Vec<String>,
    },
    /// There is no node that new ones could be copies of.
    #[error(
        "there is no node that takes pods and could be copied: say what the new ones have, cpu and memory at least"
    )]
    NothingToCopy,
    /// An amount does not read.
    #[error("{resource}: {source}")]
    Amount {
        /// Of what.
        resource: String,
        /// What is wrong.
        source: QuantityError,
    },
    /// An amount is below nothing.
    #[error("{resource}: {amount} is negative")]
    Negative {
        /// Of what.
        resource: String,
        /// The amount.
        amount: String,
    },
}

fn known(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => " (there is none at all)".to_owned(),
        few if few.len() <= SHOWN => format!(" (there are: {})", few.join(", ")),
        many => format!(" (there are {}, such as {})", many.len(), many[..SHOWN].join(", ")),
    }
}

/// The view with all of that changed, and each change in words.
///
/// # Errors
/// At the first that makes no sense.
pub fn suppose(
    view: &GangView,
    suppositions: &[Supposition],
    now_ms: i64,
) -> Result<(GangView, Vec<String>), SupposeError> {
    let mut view = view.clone();
    let words = suppositions.iter().map(|one| match one {
        Supposition::Joined(new) => view.join(new),
        Supposition::Gone(node) => {
            let at = view.node(node)?;
            view.nodes.remove(at);
            Ok(format!("node {node} is gone, {}", view.evict(node, true, now_ms)))
        }
        Supposition::Drained(node) => {
            let at = view.node(node)?;
            view.nodes[at].spec.get_or_insert_default().unschedulable = Some(true);
            Ok(format!("node {node} is drained, {}", view.evict(node, false, now_ms)))
        }
        Supposition::Submitted { title, pods } => {
            view.pods.extend_from_slice(pods);
            Ok(format!("{title} is submitted, with {}", count(pods.len(), "pod")))
        }
        Supposition::Quota { queue, resource, amount } => view.set_quota(queue, resource, amount),
    });
    let words: Vec<String> = words.collect::<Result<_, _>>()?;
    Ok((view, words))
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

impl GangView {
    fn node(&self, wanted: &str) -> Result<usize, SupposeError> {
        let found = self.nodes.iter().position(|node| name(&node.metadata) == wanted);
        found.ok_or_else(|| SupposeError::NoNode {
            name: wanted.to_owned(),
            nodes: self.nodes.iter().map(|node| name(&node.metadata).to_owned()).collect(),
        })
    }

    fn join(&mut self, new: &NewNodes) -> Result<String, SupposeError> {
        for (resource, amount) in &new.resources {
            check(resource, amount)?;
        }
        let like = match &new.like {
            Some(like) => Some(self.node(like)?),
            None => self.roomiest(),
        };
        let enough = ["cpu", "memory"].iter().all(|resource| new.resources.contains_key(*resource));
        let model = match like {
            Some(at) => self.nodes[at].clone(),
            None if enough => bare(),
            None => return Err(SupposeError::NothingToCopy),
        };
        let mut names = Vec::new();
        for _ in 0..new.count {
            let mut number = self.nodes.len() + 1;
            while self.nodes.iter().any(|node| name(&node.metadata) == format!("new-{number}")) {
                number += 1;
            }
            names.push(format!("new-{number}"));
            self.nodes.push(copy(&model, &format!("new-{number}"), new));
        }
        let span = match names.as_slice() {
            [first, .., last] => format!("{first} to {last}"),
            _ => names.concat(),
        };
        let join = if new.count == 1 { "joins" } else { "join" };
        let like = like.map(|at| format!(" like {}", name(&self.nodes[at].metadata))).unwrap_or_default();
        let with: Vec<String> =
            new.resources.iter().chain(&new.labels).map(|(key, is)| format!("{key}={is}")).collect();
        let with = if with.is_empty() { String::new() } else { format!(", with {}", with.join(", ")) };
        Ok(format!("{}{like} {join}{with} ({span})", count(names.len(), "node")))
    }

    /// The node that has the most accelerators, then CPUs, of those that take pods.
    fn roomiest(&self) -> Option<usize> {
        let takes = |node: &Node| {
            demand::is_ready(node) && node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true))
        };
        let size = |node: &Node| {
            let amounts = demand::of_node(node);
            let of = |wanted: &dyn Fn(&str) -> bool| -> i64 {
                amounts.iter().filter(|(name, _)| wanted(name)).map(|(_, amount)| *amount).max().unwrap_or(0)
            };
            (of(&|name| name.ends_with("/gpu")), of(&|name| name == "cpu"))
        };
        let all = self.nodes.iter().enumerate().filter(|(_, node)| takes(node));
        all.max_by_key(|(at, node)| (size(node), std::cmp::Reverse(*at))).map(|(at, _)| at)
    }

    /// Takes the pods of a node away; what has a controller waits again. Says what became of them.
    fn evict(&mut self, node: &str, gone: bool, now_ms: i64) -> String {
        let (mut moved, mut lost) = (0, 0);
        let here = |pod: &Pod| gather::node_name(pod) == Some(node) && !gather::has_ended(pod);
        self.pods.retain_mut(|pod| {
            if !here(pod) || (is_of_the_node(pod) && !gone) {
                return true;
            }
            if is_of_the_node(pod) || pod.metadata.deletion_timestamp.is_some() {
                return false;
            }
            if controller(pod).is_none() {
                lost += 1;
                return false;
            }
            moved += 1;
            unplace(pod, now_ms);
            true
        });
        let moved = format!("{} {} again", count(moved, "pod"), if moved == 1 { "waits" } else { "wait" });
        let has = if lost == 1 { "has" } else { "have" };
        if lost == 0 { moved } else { format!("{moved}, {} that {has} no controller ends", count(lost, "pod")) }
    }

    fn set_quota(&mut self, queue: &str, resource: &str, amount: &str) -> Result<String, SupposeError> {
        let new = check(resource, amount)?;
        let of = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut queues = self.queues.iter_mut().filter(|object| object["kind"] == "ClusterQueue");
        let Some(object) = queues.find(|object| of(object) == queue) else {
            let all = self.queues.iter().filter(|object| object["kind"] == "ClusterQueue");
            return Err(SupposeError::NoQueue { name: queue.to_owned(), queues: all.map(of).collect() });
        };
        let before = limit(&mut object["spec"]["resourceGroups"], resource, amount);
        let before = before.map_or_else(|| "no limit of its own".to_owned(), |before| show(resource, before));
        Ok(format!("ClusterQueue {queue} has a nominalQuota of {} instead of {before}", show(resource, new)))
    }
}

fn check(resource: &str, amount: &str) -> Result<i64, SupposeError> {
    match quantity::amount(resource, amount) {
        Ok(number) if number < 0 => {
            Err(SupposeError::Negative { resource: resource.to_owned(), amount: amount.to_owned() })
        }
        Ok(number) => Ok(number),
        Err(source) => Err(SupposeError::Amount { resource: resource.to_owned(), source }),
    }
}

/// A node of which only the caller says what it has.
fn bare() -> Node {
    let mut node = Node::default();
    let pods = BTreeMap::from([(demand::PODS.to_owned(), Quantity(PODS_OF_A_NODE.to_owned()))]);
    node.status.get_or_insert_default().allocatable = Some(pods);
    node
}

fn copy(model: &Node, name: &str, new: &NewNodes) -> Node {
    let mut labels = model.metadata.labels.clone().unwrap_or_default();
    labels.insert(HOSTNAME.to_owned(), name.to_owned());
    labels.extend(new.labels.clone());
    let mut spec = model.spec.clone().unwrap_or_default();
    spec.unschedulable = None;
    // What a node says of its own troubles is not copied.
    spec.taints.iter_mut().for_each(|taints| taints.retain(|taint| !taint.key.starts_with("node.kubernetes.io/")));
    let mut status = model.status.clone().unwrap_or_default();
    status.conditions = None;
    let given = status.allocatable.take().or_else(|| status.capacity.clone());
    let mut given = given.unwrap_or_default();
    given.extend(new.resources.iter().map(|(resource, amount)| (resource.clone(), Quantity(amount.clone()))));
    status.allocatable = Some(given);
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    Node { metadata, spec: Some(spec), status: Some(status) }
}

fn controller(pod: &Pod) -> Option<&str> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.kind.as_str())
}

/// Whether a pod goes with its node: one of a DaemonSet, or one that the kubelet itself starts.
fn is_of_the_node(pod: &Pod) -> bool {
    matches!(controller(pod), Some("DaemonSet" | "Node"))
}

/// The pod that its controller makes in its place.
fn unplace(pod: &mut Pod, now_ms: i64) {
    pod.metadata.creation_timestamp = Some(instant::time(now_ms));
    let was_sent = [label::GANG, label::LET_GO].into_iter().any(|name| annotation(pod, name).is_some());
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| !REMEMBERED.contains(&key.as_str()));
    }
    if let Some(spec) = &mut pod.spec {
        spec.node_name = None;
        // By this pods are sent to their nodes on a cluster.
        if let Some(selector) = spec.node_selector.as_mut().filter(|_| was_sent) {
            selector.remove(HOSTNAME);
        }
    }
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
}

/// Sets the nominal quota of a resource, and answers what it was. Of several flavors the first gets all of it.
fn limit(groups: &mut Value, resource: &str, amount: &str) -> Option<i64> {
    let mut before = None;
    let all = groups.as_array_mut().into_iter().flatten();
    let flavors = all.flat_map(|group| group["flavors"].as_array_mut().into_iter().flatten());
    let resources = flavors.flat_map(|flavor| flavor["resources"].as_array_mut().into_iter().flatten());
    for one in resources.filter(|one| one["name"] == resource) {
        let text = one["nominalQuota"].as_str().map_or_else(|| one["nominalQuota"].to_string(), str::to_owned);
        one["nominalQuota"] = json!(if before.is_none() { amount } else { "0" });
        before = Some(before.unwrap_or(0) + quantity::amount(resource, &text).unwrap_or(0));
    }
    if before.is_none() {
        let flavor = json!({"name": "default", "resources": [{"name": resource, "nominalQuota": amount}]});
        let group = json!({"coveredResources": [resource], "flavors": [flavor]});
        match groups.as_array_mut() {
            Some(groups) => groups.push(group),
            None => *groups = json!([group]),
        }
    }
    before
}
