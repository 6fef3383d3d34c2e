//! How full nodes become: pods are drawn from a trace until they ask for more than there is, and nothing ends.
//!
//! The experiment of Weng et al., "Beware of Fragmentation" (ATC'23). Pods come one by one; who fits anywhere is let in
//! at once and stays, who does not is turned away.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use trainyard_coordinator_core::schedule::pack::{Ask, Fragments, Packer, Room, Rule, largest, slack};

use super::openb::{Host, Pod};

/// How a node is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Where the least is left, the sum over all resources.
    BestFit,
    /// Where the fragments grow least, after the paper; told beforehand what kinds of pods there are.
    Fgd,
    /// The engine's; told nothing beforehand.
    #[default]
    Ours,
}

impl Packing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BestFit, Self::Fgd, Self::Ours];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BestFit => "best-fit",
            Self::Fgd => "fgd",
            Self::Ours => "ours",
        }
    }

    /// The one with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|packing| packing.name() == name)
    }
}

/// How full nodes became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filled {
    /// How nodes were chosen.
    pub packing: Packing,
    /// GPUs there were.
    pub gpus: f64,
    /// Part of them that pods use, by sample.
    pub allocated: Vec<f64>,
    /// The mean of that.
    pub mean: f64,
    /// The standard deviation of that.
    pub deviation: f64,
    /// Part of the GPUs that no pod uses, on devices of which a part is used: mean.
    pub in_pieces: f64,
}

/// Fills nodes with samples of a trace's pods until they have asked for so many hundredths of the GPUs, once for each
/// seed.
#[must_use]
pub fn fill(pods: &[Pod], hosts: &[Host], packing: Packing, percent: u32, seeds: std::ops::Range<u64>) -> Filled {
    let rooms: Vec<Room> = hosts.iter().map(|host| host.room.clone()).collect();
    let milli: i64 = rooms.iter().map(Room::milli).sum();
    let mut filled = Filled {
        packing,
        gpus: milli as f64 / 1_000.0,
        allocated: Vec::new(),
        mean: 0.0,
        deviation: 0.0,
        in_pieces: 0.0,
    };
    for seed in seeds {
        let sample = sample(pods, milli * i64::from(percent) / 100, seed);
        let left = match packing {
            Packing::BestFit => run(&sample, hosts, BestFit(largest(&rooms))),
            Packing::Fgd => run(&sample, hosts, Fgd::new(pods)),
            Packing::Ours => run(&sample, hosts, Fragments::new(&rooms)),
        };
        let pieces = left.iter().flat_map(|room| &room.devices).filter(|free| **free < 1_000);
        filled.in_pieces += pieces.map(|free| f64::from(*free)).sum::<f64>() / milli.max(1) as f64;
        let free: i64 = left.iter().map(Room::milli).sum();
        filled.allocated.push((milli - free) as f64 / milli.max(1) as f64);
    }
    let count = filled.allocated.len().max(1) as f64;
    filled.in_pieces /= count;
    filled.mean = filled.allocated.iter().sum::<f64>() / count;
    let squares: f64 = filled.allocated.iter().map(|one| (one - filled.mean).powi(2)).sum();
    filled.deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    filled
}

/// Pods drawn one by one, until they have asked for so much.
fn sample(pods: &[Pod], milli: i64, seed: u64) -> Vec<&Pod> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut sample = Vec::new();
    // Without pods that ask for GPUs it would never be enough.
    let mut left = if pods.iter().any(|pod| pod.ask.milli() > 0) { milli } else { 0 };
    while left > 0 {
        let pod = &pods[random.random_range(0..pods.len())];
        left -= pod.ask.milli();
        sample.push(pod);
    }
    sample
}

/// What is free in the end.
fn run(sample: &[&Pod], hosts: &[Host], rule: impl Rule) -> Vec<Room> {
    let mut packer = Packer::new(hosts.iter().map(|host| host.room.clone()).collect(), rule);
    for pod in sample {
        packer.came(&pod.ask);
        packer.place(&pod.ask, |node| pod.may(&hosts[node]));
    }
    packer.rooms().to_vec()
}

struct BestFit(Room);

impl Rule for BestFit {
    fn slack(&self, room: &Room) -> i64 {
        slack(room, &self.0)
    }
}

/// Every kind of pod of the trace, and how many there are of it.
struct Fgd(Vec<(Ask, i64)>);

impl Fgd {
    fn new(pods: &[Pod]) -> Self {
        let mut kinds: BTreeMap<&Ask, i64> = BTreeMap::new();
        pods.iter().for_each(|pod| *kinds.entry(&pod.ask).or_default() += 1);
        Self(kinds.into_iter().map(|(ask, times)| (ask.clone(), times)).collect())
    }
}

impl Rule for Fgd {
    /// Seen by one kind, everything that is free where it does not fit, and what is free on devices that are too full
    /// for it where it does.
    fn waste(&self, room: &Room) -> i64 {
        let fragment = |ask: &Ask| {
            if ask.devices == 0 || !room.fits(ask) {
                return room.milli();
            }
            room.devices.iter().filter(|free| **free < ask.share_milli).map(|free| i64::from(*free)).sum()
        };
        self.0.iter().map(|(ask, times)| times * fragment(ask)).sum()
    }
}
