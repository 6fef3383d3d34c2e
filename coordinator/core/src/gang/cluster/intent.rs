//! What was decided for a gang, as its job's annotation says it.
//!
//! All annotations of an object together may have 256 KiB, and a gang ten thousand pods. So nodes are written as runs, each name without
//! what it shares with the one before it, and of large gangs the uids as hashes. Ten thousand pods on as many nodes fit.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use trainyard_proto::plan::ObjectRef;

use crate::{fnv, label};

/// Above this number of pods, their uids are written as hashes.
const READABLE: usize = 500;

/// Letters of a hash: six bits each.
const LETTERS: usize = 8;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What was decided for a gang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// How often the gang was taken back before.
    #[serde(default)]
    pub attempt: u32,
    /// When.
    pub at_ms: i64,
    /// Nodes by the pods' uids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, String>,
    /// The flavors that were given, as they are written on pods, by the pods' uids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flavors: BTreeMap<String, String>,
    /// The flavors of all pods of a large gang that were given the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// The nodes of a large gang, by the hashes of the pods' uids.
    #[serde(default, skip_serializing_if = "Hashed::is_empty")]
    pub hashed: Hashed,
    /// What was decided before there were pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafted: Option<Drafted>,
    /// Taken back: the next attempt is not made before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<i64>,
}

/// What was decided for a gang whose pods are not made yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drafted {
    /// Which draft of its pods was looked at.
    pub id: String,
    /// The nodes of its pods, in the order of their ranks. None: its pods are to be made without a node, and wait.
    #[serde(default, skip_serializing_if = "Runs::is_empty")]
    pub places: Runs,
}

/// Nodes, each with how many pods in a row have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Run>", into = "Vec<Run>")]
pub struct Runs(Vec<(String, u32)>);

/// Bytes at its start that a name shares with the one before it, what is its own, bytes that it shares at its end, and how many pods.
type Run = (u32, String, u32, u32);

/// Nodes by the hashes of uids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub struct Hashed(BTreeMap<String, String>);

#[derive(Serialize, Deserialize)]
struct Packed {
    nodes: Runs,
    /// The hashes of all pods, in the order of `nodes`, without anything in between.
    pods: String,
}

impl Runs {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many pods have a node.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.0.iter().map(|(_, count)| *count as usize).sum()
    }

    /// The node of each pod.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(node, count)| std::iter::repeat_n(node.as_str(), *count as usize))
    }
}

impl<'node> FromIterator<&'node str> for Runs {
    fn from_iter<I: IntoIterator<Item = &'node str>>(nodes: I) -> Self {
        let mut runs: Vec<(String, u32)> = Vec::new();
        for node in nodes {
            match runs.last_mut() {
                Some((last, count)) if last == node => *count += 1,
                Some(_) | None => runs.push((node.to_owned(), 1)),
            }
        }
        Self(runs)
    }
}

fn bytes(shared: impl Iterator<Item = (char, char)>) -> usize {
    shared.take_while(|(one, other)| one == other).map(|(letter, _)| letter.len_utf8()).sum()
}

impl From<Runs> for Vec<Run> {
    fn from(runs: Runs) -> Self {
        let number = |bytes: usize| u32::try_from(bytes).unwrap_or(0);
        let mut before = String::new();
        let mut written = Self::new();
        for (node, count) in runs.0 {
            let start = bytes(before.chars().zip(node.chars()));
            let (old, new) = (&before[start..], &node[start..]);
            let end = bytes(old.chars().rev().zip(new.chars().rev()));
            written.push((number(start), new[..new.len() - end].to_owned(), number(end), count));
            before = node;
        }
        written
    }
}

impl From<Vec<Run>> for Runs {
    fn from(written: Vec<Run>) -> Self {
        let mut runs: Vec<(String, u32)> = Vec::new();
        for (start, own, end, count) in written {
            let before = runs.last().map_or("", |(before, _)| before.as_str());
            let start = before.get(..start as usize).unwrap_or_default();
            let end = before.len().checked_sub(end as usize).and_then(|at| before.get(at..)).unwrap_or_default();
            runs.push((format!("{start}{own}{end}"), count));
        }
        Self(runs)
    }
}

impl Hashed {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Hashed> for Packed {
    fn from(hashed: Hashed) -> Self {
        let mut all: Vec<(&str, &str)> = hashed.0.iter().map(|(hash, node)| (node.as_str(), hash.as_str())).collect();
        all.sort_unstable();
        Self { nodes: all.iter().map(|(node, _)| *node).collect(), pods: all.iter().map(|(_, hash)| *hash).collect() }
    }
}

impl From<Packed> for Hashed {
    fn from(packed: Packed) -> Self {
        // Text that somebody else wrote may end anywhere: what does not read is nobody's hash.
        let hashes = packed.pods.as_bytes().chunks(LETTERS).map(|hash| String::from_utf8_lossy(hash).into_owned());
        Self(hashes.zip(packed.nodes.nodes().map(str::to_owned)).collect())
    }
}

/// Of 48 bits: two of ten thousand pods of a job have the same once in five million jobs.
fn hash(uid: &str) -> String {
    let hash = fnv::text(uid);
    (0..LETTERS).map(|at| char::from(ALPHABET[(hash >> (6 * at)) as usize % ALPHABET.len()])).collect()
}

impl Intent {
    /// The node of a pod that was there when it was decided.
    #[must_use]
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        let known = self.pods.get(uid);
        let hashed = || if self.hashed.is_empty() { None } else { self.hashed.0.get(&hash(uid)) };
        known.or_else(hashed).map(String::as_str)
    }

    /// The flavors that a pod was given.
    #[must_use]
    pub fn flavors_of(&self, uid: &str) -> Option<&str> {
        self.flavors.get(uid).or(self.flavor.as_ref()).map(String::as_str)
    }

    /// Whether a pod is of this attempt.
    #[must_use]
    pub fn means(&self, pod: &Pod) -> bool {
        let of_draft = || self.drafted.is_some() && placed(pod) == Some(self.at_ms);
        pod.metadata.uid.as_deref().is_some_and(|uid| self.node_of(uid).is_some()) || of_draft()
    }

    /// The places of this draft, unless they were taken back.
    #[must_use]
    pub fn places(&self, draft: &str) -> Option<&Runs> {
        let drafted = self.drafted.as_ref().filter(|drafted| drafted.id == draft && !drafted.places.is_empty());
        drafted.filter(|_| self.not_before_ms.is_none()).map(|drafted| &drafted.places)
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        if self.pods.len() <= READABLE {
            return serde_json::to_string(self).expect("numbers and texts serialise");
        }
        let mut short = self.clone();
        let hashed = std::mem::take(&mut short.pods).into_iter().map(|(uid, node)| (hash(&uid), node));
        short.hashed.0.extend(hashed);
        let mut given: Vec<&String> = self.flavors.values().collect();
        given.dedup();
        if let ([one], true) = (given.as_slice(), self.flavors.len() == self.pods.len()) {
            short.flavor = Some((*one).clone());
            short.flavors.clear();
        }
        serde_json::to_string(&short).expect("numbers and texts serialise")
    }
}

/// The decision that gave a pod its node before it was made.
#[must_use]
pub fn placed(pod: &Pod) -> Option<i64> {
    pod.metadata.annotations.as_ref()?.get(label::PLACED)?.parse().ok()
}

/// A job whose pods wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The job.
    pub object: ObjectRef,
    /// In which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it says was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
}

impl Owner {
    /// When places were decided for its pods before they were made, unless they were taken back.
    #[must_use]
    pub fn placed_ms(&self) -> Option<i64> {
        let intent = self.intent.as_ref().filter(|intent| intent.not_before_ms.is_none())?;
        intent.drafted.as_ref().filter(|drafted| !drafted.places.is_empty()).map(|_| intent.at_ms)
    }

    /// Reads what a job's annotation says. One that makes no sense says nothing.
    #[must_use]
    pub fn read(object: ObjectRef, version: Option<String>, annotations: Option<&BTreeMap<String, String>>) -> Self {
        let text = annotations.and_then(|all| all.get(label::PLACEMENT));
        Self { object, version, intent: text.and_then(|text| serde_json::from_str(text).ok()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(nodes: impl Iterator<Item = String>) -> Intent {
        let pods = nodes.enumerate().map(|(at, node)| (format!("0a1b2c3d-{at:04x}-4444-8888-{at:012x}"), node));
        Intent { at_ms: 7, pods: pods.collect(), ..Intent::default() }
    }

    fn again(intent: &Intent) -> Intent {
        serde_json::from_str(&intent.text()).unwrap()
    }

    #[test]
    fn a_small_gang_is_written_by_its_uids() {
        let small = intent((0..3).map(|at| format!("node-{at}")));
        assert_eq!(again(&small), small);
        assert!(small.text().contains("0a1b2c3d-0001-4444-8888-000000000001"), "{}", small.text());
    }

    #[test]
    fn ten_thousand_pods_fit_into_an_annotation_wherever_they_are() {
        for (spread, limit) in [(10, 100_000), (1, 230_000)] {
            let name =
                |at: usize| format!("ip-10-{}-{}.eu-central-1.compute.internal", at / spread / 250, at / spread % 250);
            let mut large = intent((0..10_000).map(name));
            large.flavors = large.pods.keys().map(|uid| (uid.clone(), "cpu=spot".to_owned())).collect();
            let text = large.text();
            assert!(text.len() < limit, "{} bytes with {spread} pods on a node", text.len());
            let read = again(&large);
            for (uid, node) in &large.pods {
                assert_eq!((read.node_of(uid), read.flavors_of(uid)), (Some(node.as_str()), Some("cpu=spot")), "{uid}");
            }
            assert_eq!(read.node_of("another"), None);
        }
    }

    #[test]
    fn runs_read_as_they_were_written() {
        let nodes = ["node-1", "node-1", "node-12", "other", "node-1", "nöde", "nödé"];
        let runs: Runs = nodes.into_iter().collect();
        let text = serde_json::to_string(&runs).unwrap();
        assert_eq!(serde_json::from_str::<Runs>(&text).unwrap(), runs, "{text}");
        assert_eq!(runs.nodes().collect::<Vec<_>>(), nodes);
        assert!(text.starts_with(r#"[[0,"node-1",0,2],[6,"2",0,1]"#), "{text}");
    }

    #[test]
    fn text_that_is_not_ours_is_no_trouble() {
        for text in [r#"[[9,"a",9,1]]"#, r#"[[0,"é",0,1],[1,"x",1,2]]"#] {
            assert!(serde_json::from_str::<Runs>(text).is_ok(), "{text}");
        }
        let torn = r#"{"atMs":1,"hashed":{"nodes":[[0,"n",0,2]],"pods":"abcé"}}"#;
        assert_eq!(serde_json::from_str::<Intent>(torn).unwrap().node_of("uid"), None);
    }
}
