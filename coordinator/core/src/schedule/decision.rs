//! What the engine answers, and what becomes of a view when the answer is carried out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::view::{Gang, Phase, Place, Reservation, View};

/// The engine's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Gangs that start.
    pub admissions: Vec<Admission>,
    /// Elastic gangs that run and get more pods.
    pub growths: Vec<Admission>,
    /// Gangs that lose pods, in the order in which it was decided.
    pub preemptions: Vec<Preemption>,
    /// Gangs that wait, in the order of their turns.
    pub waiting: Vec<Waiting>,
    /// When to decide again, if nothing happens before.
    pub wake_at_ms: Option<i64>,
}

/// Places for a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// Position of the gang in the view.
    pub gang: u32,
    /// Its places; of a growth the new ones only. In the order of ranks: neighbours are near each other.
    pub places: Vec<Place>,
    /// Gangs whose leaving pods have to be gone from these nodes before.
    pub after: Vec<u32>,
    /// Predicted time of one all-reduce over all its pods.
    pub all_reduce_ns: u64,
    /// Position of the shape that it has then among its options.
    #[serde(default)]
    pub option: u32,
}

/// A gang that makes room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preemption {
    /// Position of the gang in the view.
    pub gang: u32,
    /// For whom.
    pub preemptor: u32,
    /// What it loses; all of it if it is stopped.
    pub places: Vec<Place>,
    /// It is stopped, and waits again. Otherwise it shrinks, and goes on.
    pub stops: bool,
    /// Work that is lost: pods times time since the last checkpoint.
    pub lost_pod_ms: i64,
}

/// A gang that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Position of the gang in the view.
    pub gang: u32,
    /// How many of its queue have their turn before it.
    pub position: u32,
    /// Why it waits.
    pub reason: Reason,
    /// When it is expected to start, if that can be told.
    pub estimate: Option<Estimate>,
    /// What is set aside for it.
    pub reservation: Option<Reservation>,
    /// Position of the shape that the reason is about among its options.
    #[serde(default)]
    pub option: u32,
}

/// When a gang is expected to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// If gangs run for as long as is expected.
    pub expected_ms: i64,
    /// If every gang runs until its limit; none if one has none.
    pub latest_ms: Option<i64>,
}

/// Why a gang waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Its shape cannot be: a role without pods, `min` above `count`, a level that is not in the policy, a queue that is not there.
    Invalid,
    /// Its queue is stopped.
    QueueStopped,
    /// One before it in its queue waits, and the queue keeps strictly to the order.
    BehindHead {
        /// Position of that gang in the view.
        head: u32,
    },
    /// Its queue could never have that much, with everything it may borrow.
    AboveQuota {
        /// Position of the resource.
        resource: u32,
        /// What the gang asks for at least.
        asked: i64,
        /// What the queue may use at most.
        limit: i64,
    },
    /// The queue, or those it borrows of, use it.
    QuotaUsed {
        /// Position of the resource.
        resource: u32,
        /// What the gang asks for at least.
        asked: i64,
        /// What the queue may use more now.
        available: i64,
    },
    /// There is no node that it may run on.
    NoMatchingNode {
        /// Position of the role.
        role: u32,
        /// Nodes there are.
        nodes: u32,
    },
    /// It could not start if nothing else ran: so many pods of the role would find a place.
    TooLarge {
        /// Position of the role.
        role: u32,
        /// Pods it asks for at least.
        asked: u32,
        /// Pods that would find a place in the largest domain.
        largest: u32,
    },
    /// Others use what it needs: so many pods of the role would find a place now.
    NoRoom {
        /// Position of the role.
        role: u32,
        /// Pods it asks for at least.
        asked: u32,
        /// Pods that would find a place now, over the whole cluster.
        free: u32,
        /// Pods that would find a place now, in the best domain of the required level.
        best_domain: u32,
    },
    /// There is room, but it is set aside for gangs whose turn is before.
    Reserved {
        /// Position of one of them in the view.
        holder: u32,
    },
}

impl Reason {
    /// The code as text.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::QueueStopped => "QueueStopped",
            Self::BehindHead { .. } => "BehindHead",
            Self::AboveQuota { .. } => "AboveQuota",
            Self::QuotaUsed { .. } => "QuotaUsed",
            Self::NoMatchingNode { .. } => "NoMatchingNode",
            Self::TooLarge { .. } => "TooLarge",
            Self::NoRoom { .. } => "NoRoom",
            Self::Reserved { .. } => "Reserved",
        }
    }
}

impl Decision {
    /// Whether it changes anything: who runs where, or what is set aside.
    #[must_use]
    pub fn is_empty(&self, view: &View) -> bool {
        let kept = |waiting: &Waiting| match view.gangs.get(waiting.gang as usize).map(|gang| &gang.phase) {
            Some(Phase::Waiting { reservation }) => *reservation == waiting.reservation,
            Some(Phase::Running { .. }) | None => false,
        };
        let none = self.admissions.is_empty() && self.growths.is_empty() && self.preemptions.is_empty();
        none && self.waiting.iter().all(kept)
    }

    /// The view after everything was carried out, but that pods which leave are still there.
    #[must_use]
    pub fn applied(&self, view: &View, now_ms: i64) -> View {
        let mut next = view.clone();
        self.apply(&mut next, now_ms);
        next
    }

    /// Carries everything out in the view itself, as [`applied`](Self::applied).
    pub fn apply(&self, next: &mut View, now_ms: i64) {
        for gang in &mut next.gangs {
            if let Phase::Waiting { reservation } = &mut gang.phase {
                *reservation = None;
            }
        }
        for preemption in &self.preemptions {
            if let Some(gang) = next.gangs.get_mut(preemption.gang as usize) {
                preempt(gang, preemption, now_ms);
            }
        }
        for waiting in &self.waiting {
            if let Some(gang) = next.gangs.get_mut(waiting.gang as usize) {
                gang.phase = Phase::Waiting { reservation: waiting.reservation.clone() };
            }
        }
        for admission in &self.admissions {
            if let Some(gang) = next.gangs.get_mut(admission.gang as usize) {
                let places = admission.places.clone();
                gang.phase = Phase::Running { since_ms: now_ms, changed_ms: now_ms, saved_ms: now_ms, places };
                if let Some(shape) = gang.options.get(admission.option as usize) {
                    gang.shape = Arc::clone(shape);
                }
            }
        }
        for growth in &self.growths {
            let Some(gang) = next.gangs.get_mut(growth.gang as usize) else { continue };
            if let Phase::Running { places, changed_ms, .. } = &mut gang.phase {
                places.extend_from_slice(&growth.places);
                *changed_ms = now_ms;
            }
        }
    }
}

fn preempt(gang: &mut Gang, preemption: &Preemption, now_ms: i64) {
    gang.leaving.extend_from_slice(&preemption.places);
    if preemption.stops {
        gang.phase = Phase::Waiting { reservation: None };
        return;
    }
    if let Phase::Running { places, changed_ms, .. } = &mut gang.phase {
        for lost in &preemption.places {
            subtract(places, *lost);
        }
        *changed_ms = now_ms;
    }
}

/// Takes pods away from the last places of the role on the node.
pub(super) fn subtract(places: &mut Vec<Place>, lost: Place) {
    let mut left = lost.count;
    for place in places.iter_mut().rev().filter(|place| place.role == lost.role && place.node == lost.node) {
        let taken = left.min(place.count);
        place.count -= taken;
        left -= taken;
    }
    places.retain(|place| place.count > 0);
}
