//! How full nodes become: pods are drawn from a trace until they ask for more than there is, and nothing ends.
//!
//! The experiment of Weng et al., "Beware of Fragmentation" (ATC'23), as their program does it. Pods come one by one;
//! who fits anywhere is let in at once and stays, who does not is turned away. To hold back pods that fit is ours.

use std::collections::BTreeMap;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use trainyard_coordinator_core::schedule::pack::{Ask, Fragments, Packer, Room, Rule, WHOLE_MILLI, largest, slack};

use super::openb::{Host, Pod};

/// Kinds of pods that `fgd` is told of are so many hundredths of all.
const COMMON_PERCENT: i64 = 95;

/// How a node is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Where the least is left, the sum of processors and GPUs, after the paper.
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

/// How much comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What pods ask for until no more come, in hundredths of the GPUs.
    pub percent: u32,
    /// How often it is done, each time with pods in another order.
    pub samples: u64,
    /// From so many hundredths of the GPUs in use on, [`Packing::Ours`] turns those away that would make the waste
    /// grow.
    pub hold_back: Option<u32>,
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
    /// Part of the pods that were turned away although they fit: mean.
    pub held_back: f64,
}

/// Fills nodes with a trace's pods, once for each sample.
#[must_use]
pub fn fill(pods: &[Pod], hosts: &[Host], packing: Packing, load: Load) -> Filled {
    let rooms: Vec<Room> = hosts.iter().map(|host| host.room.clone()).collect();
    let milli: i64 = rooms.iter().map(Room::milli).sum();
    let mut filled = Filled {
        packing,
        gpus: milli as f64 / 1_000.0,
        allocated: Vec::new(),
        mean: 0.0,
        deviation: 0.0,
        in_pieces: 0.0,
        held_back: 0.0,
    };
    for seed in 0..load.samples {
        let sample = sample(pods, milli * i64::from(load.percent) / 100, seed);
        let (left, held) = match packing {
            Packing::BestFit => run(&sample, hosts, BestFit::new(&rooms), i64::MAX),
            Packing::Fgd => run(&sample, hosts, Fgd::new(pods), i64::MAX),
            Packing::Ours => {
                let from = load.hold_back.map_or(i64::MAX, |percent| milli * i64::from(percent) / 100);
                run(&sample, hosts, Fragments::new(&rooms), from)
            }
        };
        let pieces = left.iter().flat_map(|room| &room.devices).filter(|free| **free < WHOLE_MILLI);
        filled.in_pieces += pieces.map(|free| f64::from(*free)).sum::<f64>() / milli.max(1) as f64;
        filled.held_back += held as f64 / sample.len().max(1) as f64;
        let free: i64 = left.iter().map(Room::milli).sum();
        filled.allocated.push((milli - free) as f64 / milli.max(1) as f64);
    }
    let count = filled.allocated.len().max(1) as f64;
    filled.in_pieces /= count;
    filled.held_back /= count;
    filled.mean = filled.allocated.iter().sum::<f64>() / count;
    let squares: f64 = filled.allocated.iter().map(|one| (one - filled.mean).powi(2)).sum();
    filled.deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    filled
}

/// Every pod once, in random order, and then pods drawn one by one; as many as it takes until they have asked for so
/// much.
fn sample(pods: &[Pod], milli: i64, seed: u64) -> Vec<&Pod> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut once: Vec<&Pod> = pods.iter().collect();
    once.shuffle(&mut random);
    let mut once = once.into_iter();
    let mut sample = Vec::new();
    // Without pods that ask for GPUs it would never be enough.
    let mut left = if pods.iter().any(|pod| pod.ask.milli() > 0) { milli } else { 0 };
    while left > 0 {
        let pod = once.next().unwrap_or_else(|| &pods[random.random_range(0..pods.len())]);
        left -= pod.ask.milli();
        sample.push(pod);
    }
    sample
}

/// What is free in the end, and how many were turned away although they fit: none before so much is in use.
fn run(sample: &[&Pod], hosts: &[Host], rule: impl Rule, hold_back_from: i64) -> (Vec<Room>, usize) {
    let mut packer = Packer::new(hosts.iter().map(|host| host.room.clone()).collect(), rule);
    let (mut used, mut held) = (0, 0);
    for pod in sample {
        packer.came(&pod.ask);
        let Some((cost, spot)) = packer.best(&pod.ask, |node| pod.may(&hosts[node])) else { continue };
        if cost > 0 && pod.ask.milli() > 0 && used >= hold_back_from {
            held += 1;
            continue;
        }
        packer.shift(&pod.ask, &spot, 1);
        used += pod.ask.milli();
    }
    (packer.rooms().to_vec(), held)
}

/// Of processors and GPUs only, as in the paper.
struct BestFit(Room);

impl BestFit {
    fn new(rooms: &[Room]) -> Self {
        let mut most = largest(rooms);
        most.amounts.truncate(1);
        Self(most)
    }
}

impl Rule for BestFit {
    fn slack(&self, room: &Room) -> i64 {
        slack(room, &self.0)
    }
}

/// The commonest kinds of pods of the trace, and how many there are of each; of processors and GPUs only.
struct Fgd {
    kinds: Vec<(Ask, i64)>,
    total: i64,
}

impl Fgd {
    fn new(pods: &[Pod]) -> Self {
        let mut all: BTreeMap<Ask, i64> = BTreeMap::new();
        for pod in pods {
            let mut ask = pod.ask.clone();
            ask.amounts.truncate(1);
            *all.entry(ask).or_default() += 1;
        }
        let mut all: Vec<(Ask, i64)> = all.into_iter().collect();
        all.sort_by_key(|(_, times)| -times);
        let enough = pods.len() as i64 * COMMON_PERCENT;
        let (mut kinds, mut total) = (Vec::new(), 0);
        for (ask, times) in all {
            if total * 100 >= enough {
                break;
            }
            total += times;
            kinds.push((ask, times));
        }
        Self { kinds, total }
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
        self.kinds.iter().map(|(ask, times)| times * fragment(ask)).sum()
    }

    /// A scheduler of Kubernetes has whole numbers up to 100 to tell nodes apart.
    fn cost(&self, growth: i64) -> i64 {
        let devices = growth as f64 / self.total.max(1) as f64 / f64::from(WHOLE_MILLI);
        -((100.0 / (1.0 + devices.exp())) as i64)
    }
}
