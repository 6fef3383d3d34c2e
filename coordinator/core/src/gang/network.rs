//! How fast nodes reach each other: by level of the topology, as its object says, or as is usual. And what that makes of a gang's places.
//!
//! What is usual, in each direction and for a node as a whole, so that a wider domain is never taken for the faster one:
//!
//! | level | bytes per second | latency | after |
//! |---|---|---|---|
//! | pods of a node | 300 GB | 0 | NVLink 3, 600 GB/s in both directions together (NVIDIA, A100 Tensor Core GPU Architecture, 2020) |
//! | NVLink domain | 900 GB | 1 µs | NVLink 5, 1.8 TB/s in both directions together and for one GPU (NVIDIA, GB200 NVL72 data sheet) |
//! | rack | 50 GB | 5 µs | one adapter of 400 Gb/s and one switch (NVIDIA, DGX H100 User Guide: ConnectX-7) |
//! | block | 25 GB | 10 µs | the same behind a spine with half of the uplinks |
//! | zone | 12.5 GB | 25 µs | 100 Gb/s, as where nothing is known |
//! | none in common | 12.5 GB | 10 µs | where no zones are known: 100 Gb/s |
//! | none in common | 1.25 GB | 1 ms | from zone to zone: a flow of 10 Gb/s, "single-digit millisecond" latency (AWS, Regions and Availability Zones) |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scene::{Kind, Scene};
use super::{GangView, scene};
use crate::label;
use crate::schedule::{self, Level, Phase, Place, Policy};

/// The label of a zone, and the label of those that share NVLink.
const ZONE: &str = "topology.kubernetes.io/zone";
const CLIQUE: &str = "nvidia.com/gpu.clique";
/// The label of a node: a level without any way from one node to another.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// What stands for the way between pods of one node, and between nodes that share no domain.
const NODE: &str = "node";
const CLUSTER: &str = "cluster";

/// Bytes per second, and nanoseconds.
type Usual = (u64, u64);

const NVLINK: Usual = (900_000_000_000, 1_000);
/// From the inside out.
const RACK_BLOCK_ZONE: [Usual; 3] = [(50_000_000_000, 5_000), (25_000_000_000, 10_000), (12_500_000_000, 25_000)];
const BETWEEN_ZONES: Usual = (1_250_000_000, 1_000_000);

/// What an object says of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Link {
    gigabits_per_second: Option<u64>,
    latency_microseconds: Option<u64>,
}

/// What the objects say, by label of the level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Links(BTreeMap<String, Link>);

/// Where a gang is, or would be, and what that means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    /// Namespace.
    pub namespace: String,
    /// Name of the gang.
    pub name: String,
    /// Its pods there.
    pub pods: u32,
    /// Nodes that they are on.
    pub nodes: usize,
    /// What is reduced.
    pub bytes: u64,
    /// How long that is predicted to take.
    pub all_reduce_ns: u64,
}

impl Links {
    /// Reads the annotation of a Topology with these levels. Answers what is wrong with it; that part counts as if it were not there.
    pub(super) fn read(&mut self, object: &Value, levels: &[String]) -> Vec<String> {
        let name = label::LINKS;
        let Some(text) = object["metadata"]["annotations"][name].as_str() else { return Vec::new() };
        let all: BTreeMap<String, Value> = match serde_json::from_str(text) {
            Ok(all) => all,
            Err(error) => return vec![format!("the annotation {name} is no JSON object: {error}")],
        };
        let mut problems = Vec::new();
        for (level, value) in all {
            if !levels.contains(&level) && level != NODE && level != CLUSTER {
                let known = levels.join(", ");
                problems
                    .push(format!("the annotation {name} names {level}, which is none of {known}, {NODE}, {CLUSTER}"));
                continue;
            }
            match serde_json::from_value::<Link>(value) {
                Ok(link) if link.gigabits_per_second == Some(0) => {
                    problems.push(format!(
                        "gigabitsPerSecond of {level} in the annotation {name} is 0, not a whole number above it"
                    ));
                }
                Ok(link) => {
                    self.0.entry(level).or_insert(link);
                }
                Err(error) => problems.push(format!("{level} in the annotation {name} does not read: {error}")),
            }
        }
        problems
    }

    fn with(&self, label: &str, (bytes_per_s, latency_ns): Usual) -> Usual {
        let link = self.0.get(label).copied().unwrap_or_default();
        let rate = link.gigabits_per_second.map(|gigabits| gigabits.saturating_mul(125_000_000));
        let latency = link.latency_microseconds.map(|micros| micros.saturating_mul(1_000));
        (rate.unwrap_or(bytes_per_s), latency.unwrap_or(latency_ns))
    }

    /// The levels of these labels, outermost first. Of one that nobody knows its place tells what is usual there.
    pub(super) fn levels(&self, labels: Vec<String>) -> Vec<Level> {
        let mut further_in = labels.iter().filter(|label| is_network(label)).count();
        let mut level = |label: String| {
            further_in -= usize::from(is_network(&label));
            self.level(label, further_in)
        };
        labels.into_iter().map(&mut level).collect()
    }

    /// A level with so many others inside of it.
    pub(super) fn level(&self, label: String, further_in: usize) -> Level {
        let usual = match label.as_str() {
            CLIQUE => NVLINK,
            ZONE => RACK_BLOCK_ZONE[2],
            other if other.ends_with("/topology-rack") => RACK_BLOCK_ZONE[0],
            other if other.ends_with("/topology-block") => RACK_BLOCK_ZONE[1],
            _ => RACK_BLOCK_ZONE[further_in.min(2)],
        };
        let (bytes_per_s, latency_ns) = self.with(&label, usual);
        Level { label, bytes_per_s, latency_ns }
    }

    /// The same within nodes, and where nothing is in common.
    pub(super) fn complete(&self, policy: &mut Policy) {
        let has_zones = policy.levels.iter().any(|level| level.label == ZONE);
        let usual = (policy.cluster_bytes_per_s, policy.cluster_latency_ns);
        let usual = if has_zones { BETWEEN_ZONES } else { usual };
        (policy.cluster_bytes_per_s, policy.cluster_latency_ns) = self.with(CLUSTER, usual);
        (policy.node_bytes_per_s, _) = self.with(NODE, (policy.node_bytes_per_s, 0));
    }
}

/// Whether pods on several nodes meet in domains of it, over a network.
fn is_network(label: &str) -> bool {
    label != CLIQUE && label != HOSTNAME
}

/// Where the gangs of several pods are that run or would start now.
#[must_use]
pub fn layouts(view: &GangView, now_ms: i64) -> Vec<Layout> {
    let scene = Scene::new(view, now_ms);
    let decision = schedule::decide(&scene.view, now_ms);
    let mut found = Vec::new();
    for (at, gang) in scene.view.gangs.iter().enumerate() {
        if let (Phase::Running { places, .. }, Kind::Runs) = (&gang.phase, scene.parts[at].kind) {
            found.push((at, places.as_slice()));
        }
    }
    let starts = decision.admissions.iter().map(|admission| (admission.gang as usize, admission.places.as_slice()));
    found.extend(starts.filter(|(at, _)| scene.parts[*at].kind == Kind::Whole));
    let times =
        schedule::all_reduce_times(&scene.view, found.iter().map(|(_, places)| *places), scene::ALL_REDUCE_BYTES);
    let layout = |((at, places), all_reduce_ns): ((usize, &[Place]), u64)| {
        let gang = scene.gang_of(u32::try_from(at).unwrap_or(u32::MAX));
        let mut nodes: Vec<u32> = places.iter().map(|place| place.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Layout {
            namespace: gang.namespace.to_owned(),
            name: gang.name.to_owned(),
            pods: places.iter().map(|place| place.count).sum(),
            nodes: nodes.len(),
            bytes: scene::ALL_REDUCE_BYTES,
            all_reduce_ns,
        }
    };
    found.into_iter().zip(times).map(layout).filter(|layout| layout.pods > 1).collect()
}

impl Layout {
    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        let micros = self.all_reduce_ns.div_ceil(1_000);
        let time = match micros {
            0..10_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
            10_000..10_000_000 => format!("{} ms", micros / 1_000),
            _ => format!("{} s", micros / 1_000_000),
        };
        let nodes = if self.nodes == 1 { "node" } else { "nodes" };
        format!(
            "predicted all-reduce of {} GiB: {time} ({} pods on {} {nodes})",
            self.bytes >> 30,
            self.pods,
            self.nodes
        )
    }
}
