//! What becomes of every gang in one view and in another: the same decision, asked twice.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::scene::{Kind, Scene};
use super::{GangView, WaitCode, answer, flavor};
use crate::schedule::{self, Decision, Estimate, Phase, Place};

/// What becomes of a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum Fate {
    /// It is not there.
    Absent,
    /// It goes on where it is.
    Runs,
    /// It starts now.
    Starts {
        /// Pods by node.
        nodes: BTreeMap<String, u32>,
        /// Gangs whose pods have to leave these nodes before.
        after: Vec<String>,
    },
    /// It waits.
    Waits {
        /// Its place among those of its queue that wait, as in [`super::WaitingGang`].
        position: u32,
        /// Why.
        code: WaitCode,
        /// The same in one sentence.
        message: String,
        /// When it is expected to start.
        estimate: Option<Estimate>,
        /// Whether places are set aside for it.
        reserved: bool,
    },
    /// It is stopped to make room, and waits again.
    Stopped {
        /// For whom.
        preemptor: String,
        /// Work that is lost: pods times time since the last checkpoint.
        lost_pod_ms: i64,
        /// When it is expected to start again.
        estimate: Option<Estimate>,
    },
    /// It was told before to make room, and its pods are on their way out.
    Leaves,
}

/// How a gang fares in the second view, by the side of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Shift {
    /// It starts at the same time, or it never stopped.
    Same,
    /// It starts earlier.
    Sooner,
    /// It starts later, or is stopped.
    Later,
    /// An estimate stands against a promise: the one is expected earlier, the other sure earlier.
    Unclear,
    /// It is in the second view only.
    New,
    /// It is in the first view only.
    Gone,
}

/// A gang that does not just go on, in one view and in the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prospect {
    /// Namespace.
    pub namespace: String,
    /// Name of the gang.
    pub name: String,
    /// These are pods that a gang that has started may have more.
    pub spare: bool,
    /// Its ClusterQueue; empty if it names none.
    pub queue: String,
    /// Its pods.
    pub pods: usize,
    /// In the first view.
    pub before: Fate,
    /// In the second.
    pub after: Fate,
    /// How it fares.
    pub shift: Shift,
}

/// How much of a resource is used on the nodes that take pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Its name.
    pub resource: String,
    /// Used: thousandths of `cpu`, units of all others.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

/// How a view stands as soon as what was decided is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Nodes that take pods.
    pub nodes: usize,
    /// Gangs that have places.
    pub running: usize,
    /// Gangs that wait, those that are stopped among them.
    pub waiting: usize,
    /// Their pods.
    pub waiting_pods: usize,
    /// Mean time until those start of which it can be told.
    pub mean_wait_ms: Option<i64>,
    /// Gangs of which it cannot be told.
    pub untold: usize,
    /// What is used.
    pub resources: Vec<Share>,
}

/// Two views side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Gangs that do not just go on in both, in the order of the second view: those that are stopped, those that start, then those
    /// that wait in the order of their turns.
    pub gangs: Vec<Prospect>,
    /// How the first stands.
    pub before: Totals,
    /// How the second stands.
    pub after: Totals,
}

/// What becomes of the gangs of two views at one time.
#[must_use]
pub fn outlook(before: &GangView, after: &GangView, now_ms: i64) -> Outlook {
    let (before, after) = (Side::new(before, now_ms), Side::new(after, now_ms));
    let rest = before.order.iter().filter(|(key, _)| !after.order.contains_key(*key));
    let mut keys: Vec<(&Key, usize)> = after.order.iter().map(|(key, at)| (key, *at)).collect();
    keys.extend(rest.map(|(key, at)| (key, after.order.len() + at)));
    let gone = before.lots.keys().filter(|key| !after.lots.contains_key(*key) && !before.order.contains_key(*key));
    keys.extend(gone.map(|key| (key, usize::MAX)));
    keys.sort_by_key(|(key, at)| (*at, *key));
    let prospect = |(key, _): (&Key, usize)| {
        let (was, is) = (before.lots.get(key), after.lots.get(key));
        let fate = |lot: Option<&Lot>| lot.map_or(Fate::Absent, |lot| lot.fate.clone());
        let (first, second) = (fate(was), fate(is));
        let (queue, pods) = is.or(was).map(|lot| (lot.queue.clone(), lot.pods)).unwrap_or_default();
        let (namespace, name, spare) = (key.namespace.clone(), key.name.clone(), key.spare);
        let shift = first.shift(&second, now_ms);
        Prospect { namespace, name, spare, queue, pods, before: first, after: second, shift }
    };
    Outlook { gangs: keys.into_iter().map(prospect).collect(), before: before.totals, after: after.totals }
}

impl Fate {
    /// When it has places: as expected, and at the latest. The end of all times where nobody can tell.
    fn start_ms(&self, now_ms: i64) -> (i64, i64) {
        match self {
            Self::Runs => (i64::MIN, i64::MIN),
            Self::Starts { .. } => (now_ms, now_ms),
            Self::Waits { estimate: Some(estimate), .. } | Self::Stopped { estimate: Some(estimate), .. } => {
                (estimate.expected_ms, estimate.latest_ms.unwrap_or(i64::MAX))
            }
            Self::Waits { .. } | Self::Stopped { .. } | Self::Absent | Self::Leaves => (i64::MAX, i64::MAX),
        }
    }

    fn shift(&self, then: &Self, now_ms: i64) -> Shift {
        match (self, then) {
            (Self::Absent, Self::Absent) => return Shift::Same,
            (Self::Absent, _) => return Shift::New,
            (_, Self::Absent) => return Shift::Gone,
            _ => {}
        }
        let ((first, last), (then_first, then_last)) = (self.start_ms(now_ms), then.start_ms(now_ms));
        match (then_first.cmp(&first), then_last.cmp(&last)) {
            (Ordering::Equal, Ordering::Equal) => Shift::Same,
            (Ordering::Less | Ordering::Equal, Ordering::Less | Ordering::Equal) => Shift::Sooner,
            (Ordering::Greater | Ordering::Equal, Ordering::Greater | Ordering::Equal) => Shift::Later,
            (Ordering::Less, Ordering::Greater) | (Ordering::Greater, Ordering::Less) => Shift::Unclear,
        }
    }
}

/// Which gang, over both views.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    name: String,
    owner: String,
    spare: bool,
}

/// What becomes of a gang, and what it is.
struct Lot {
    fate: Fate,
    queue: String,
    pods: usize,
}

/// One view, decided.
#[derive(Default)]
struct Side {
    lots: BTreeMap<Key, Lot>,
    /// Gangs that do not just go on.
    order: BTreeMap<Key, usize>,
    totals: Totals,
}

impl Side {
    fn new(view: &GangView, now_ms: i64) -> Self {
        let scene = Scene::new(view, now_ms);
        let decision = schedule::decide(&scene.view, now_ms);
        let mut side = Self::default();
        side.standing(&scene);
        side.stopped(&scene, &decision, now_ms);
        side.started(&scene, &decision);
        side.waiting(&scene, &decision, now_ms);
        side.totals = side.sum(&scene, &decision, now_ms);
        side
    }

    fn put(&mut self, scene: &Scene<'_>, gang: usize, kind: Kind, pods: usize, queue: String, fate: Fate) {
        let key = key(scene, gang, kind);
        if fate != Fate::Runs {
            let next = self.order.len();
            self.order.entry(key.clone()).or_insert(next);
        }
        self.lots.insert(key, Lot { fate, queue, pods });
    }

    /// What runs, or is on its way out already.
    fn standing(&mut self, scene: &Scene<'_>) {
        for (at, part) in scene.parts.iter().enumerate() {
            let fate = match part.kind {
                Kind::Runs => Fate::Runs,
                Kind::Leaves => Fate::Leaves,
                Kind::Whole | Kind::Missing | Kind::Spare => continue,
            };
            // What shrinks runs on: it comes first.
            if !self.lots.contains_key(&key(scene, part.gang, part.kind)) {
                self.put(scene, part.gang, part.kind, pods(&part.pods), queue(scene, at), fate);
            }
        }
    }

    fn stopped(&mut self, scene: &Scene<'_>, decision: &Decision, now_ms: i64) {
        for lost in decision.preemptions.iter().filter(|lost| lost.stops) {
            let at = lost.gang as usize;
            let part = &scene.parts[at];
            let again = decision.waiting.iter().find(|waiting| waiting.gang == lost.gang);
            let estimate = again.and_then(|waiting| waiting.estimate).filter(|one| one.expected_ms > now_ms);
            let preemptor = answer::title(scene.gang_of(lost.preemptor));
            let fate = Fate::Stopped { preemptor, lost_pod_ms: lost.lost_pod_ms, estimate };
            self.put(scene, part.gang, part.kind, pods(&part.pods), queue(scene, at), fate);
        }
    }

    fn started(&mut self, scene: &Scene<'_>, decision: &Decision) {
        for admission in &decision.admissions {
            let at = admission.gang as usize;
            let part = &scene.parts[at];
            if self.is_stopped(scene, part.gang) {
                continue;
            }
            let mut nodes: BTreeMap<String, u32> = BTreeMap::new();
            for place in &admission.places {
                *nodes.entry(scene.view.nodes[place.node as usize].name.clone()).or_default() += place.count;
            }
            let started = admission.places.iter().map(|place| place.count as usize).sum();
            let mut after: Vec<String> =
                admission.after.iter().map(|gang| answer::title(scene.gang_of(*gang))).collect();
            after.sort_unstable();
            after.dedup();
            self.put(scene, part.gang, part.kind, started, queue(scene, at), Fate::Starts { nodes, after });
        }
    }

    fn is_stopped(&self, scene: &Scene<'_>, gang: usize) -> bool {
        let lot = self.lots.get(&key(scene, gang, Kind::Runs));
        lot.is_some_and(|lot| matches!(lot.fate, Fate::Stopped { .. }))
    }

    /// The gangs that the scheduler tells of as waiting, in its words.
    fn waiting(&mut self, scene: &Scene<'_>, decision: &Decision, now_ms: i64) {
        let name = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let mut of: BTreeMap<_, (usize, Kind)> = BTreeMap::new();
        for part in scene.parts.iter().filter(|part| !matches!(part.kind, Kind::Runs | Kind::Leaves)) {
            of.extend(part.pods.iter().flatten().map(|pod| (name(pod), (part.gang, part.kind))));
        }
        for (gang, _) in &scene.early {
            let waiting = &scene.gangs[*gang].waiting;
            of.extend(waiting.iter().map(|pod| (name(pod), (*gang, Kind::Whole))));
        }
        for one in answer::placement(scene, decision, now_ms).waiting {
            let first = one.pods.first().map(|pod| (Some(one.namespace.clone()), Some(pod.clone())));
            let Some((gang, kind)) = first.and_then(|first| of.get(&first).copied()) else { continue };
            let known = self.lots.get(&key(scene, gang, kind)).map(|lot| &lot.fate);
            // Of an elastic gang the rest may wait when it starts; and its places may have to be left first.
            if self.is_stopped(scene, gang) || matches!(known, Some(Fate::Starts { .. })) {
                continue;
            }
            let fate = Fate::Waits {
                position: one.position,
                code: one.code,
                message: one.message,
                estimate: one.estimate,
                reserved: one.reserved,
            };
            self.put(scene, gang, kind, one.pods.len(), one.queue, fate);
        }
    }

    fn sum(&self, scene: &Scene<'_>, decision: &Decision, now_ms: i64) -> Totals {
        let gangs = || self.lots.iter().filter(|(key, _)| !key.spare).map(|(_, lot)| lot);
        let waits = || gangs().filter(|lot| matches!(lot.fate, Fate::Waits { .. } | Fate::Stopped { .. }));
        let starts: Vec<i64> =
            waits().map(|lot| lot.fate.start_ms(now_ms).0).filter(|start| *start != i64::MAX).collect();
        let told = i64::try_from(starts.len()).unwrap_or(i64::MAX);
        Totals {
            nodes: scene.view.nodes.iter().filter(|node| !node.unschedulable).count(),
            running: gangs().filter(|lot| matches!(lot.fate, Fate::Runs | Fate::Starts { .. })).count(),
            waiting: waits().count(),
            waiting_pods: waits().map(|lot| lot.pods).sum(),
            mean_wait_ms: (told > 0).then(|| starts.iter().map(|start| start - now_ms).sum::<i64>() / told),
            untold: waits().count() - starts.len(),
            resources: shares(&decision.applied(&scene.view, now_ms)),
        }
    }
}

fn key(scene: &Scene<'_>, gang: usize, kind: Kind) -> Key {
    let gang = &scene.gangs[gang];
    Key {
        namespace: gang.namespace.to_owned(),
        name: gang.name.to_owned(),
        owner: gang.owner.to_owned(),
        spare: kind == Kind::Spare,
    }
}

fn queue(scene: &Scene<'_>, part: usize) -> String {
    let queue = scene.view.queues.get(scene.view.gangs[part].queue as usize);
    queue.map(|queue| queue.name.clone()).unwrap_or_default()
}

fn pods(roles: &[Vec<&Pod>]) -> usize {
    roles.iter().map(Vec::len).sum()
}

/// What those that run use, of what the nodes have.
fn shares(view: &schedule::View) -> Vec<Share> {
    let takes = |node: u32| view.nodes.get(node as usize).is_some_and(|node| !node.unschedulable);
    let share = |(at, resource): (usize, &String)| {
        let nodes = view.nodes.iter().filter(|node| !node.unschedulable);
        let of = |gang: &schedule::Gang, place: &Place| {
            gang.shape.roles.get(place.role as usize).map_or(0, |role| role.request(at)) * i64::from(place.count)
        };
        let running = view.gangs.iter().filter_map(|gang| match &gang.phase {
            Phase::Running { places, .. } => Some((gang, places)),
            Phase::Waiting { .. } => None,
        });
        Share {
            resource: resource.clone(),
            used: running
                .flat_map(|(gang, places)| {
                    places.iter().filter(|place| takes(place.node)).map(move |place| of(gang, place))
                })
                .sum(),
            capacity: nodes.map(|node| node.capacity.get(at).copied().unwrap_or(0).max(0)).sum(),
        }
    };
    let whole = |(_, name): &(usize, &String)| flavor::split(name).1.is_none();
    view.resources.iter().enumerate().filter(whole).map(share).collect()
}
