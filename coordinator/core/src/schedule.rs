//! The scheduling engine: which gangs start, and where; who makes room for whom; who waits, why, and until when.
//!
//! [`decide`] is a pure function of a [`View`] and a time. A gang starts with all its pods or not at all. What is promised here, and why no
//! sequence of preemptions goes on for ever, is argued in `docs/scheduling.md`; the tests beside this module check it.
//!
//! | module | what |
//! |---|---|
//! | `view`, `decision` | what goes in and what comes out |
//! | `cluster`, `shape` | the view compiled: nodes in the order of the topology, classes of equal gangs and pods |
//! | `quota` | borrowing and lending over a tree of cohorts |
//! | `rule` | why a node is out of the question for a pod |
//! | `timeline` | what is free now, and when reservations are due |
//! | `order` | whose turn it is |
//! | `turn`, `place`, `near`, `exact` | finding places |
//! | `option` | gangs that may start in one of several shapes |
//! | `preempt`, `reserve`, `moment`, `grow` | what is done when there is none, and when there is more |
//! | `fragment`, `network` | what makes a place a good one |
//! | [`pack`] | the same for nodes whose accelerators are shared in parts, beside `decide` |
//! | `ends` | when what runs ends, for estimates |
//! | `history`, `learn` | what the past tells: shares of queues, run times of jobs |
//! | `answer`, `estimate`, `standing` | reasons, estimates, and how queues stand |

mod answer;
mod bits;
mod chain;
mod cluster;
mod decision;
mod engine;
mod estimate;
mod exact;
mod fragment;
mod grow;
mod history;
mod learn;
mod moment;
mod near;
mod network;
mod option;
mod order;
pub mod pack;
mod place;
mod preempt;
mod quota;
mod reserve;
mod rule;
mod shape;
mod standing;
mod table;
mod timeline;
mod turn;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use cluster::{holds, tolerates};
pub use decision::{Admission, Decision, Estimate, Preemption, Reason, Waiting};
pub use history::decay;
pub use learn::Learned;
pub use network::all_reduce_times;
pub use rule::Misfit;
pub use standing::{Stake, Standing, standings};
pub use view::{
    Amounts, Closeness, ClusterQueue, Cohort, Effect, Fungibility, Gang, Level, Node, NodeRules, Operator, Phase,
    Place, PodTerm, Policy, PreemptionPolicy, QueueingStrategy, Quota, Requirement, Reservation, Role, Shape, Slice,
    Taint, Toleration, View,
};

/// Which gangs start and where, who makes room, and why the others wait.
///
/// Gangs have turns, one after the other; whoever got places in this decision keeps them in it. Passes over all that
/// wait follow each other until one changes nothing. A pass depends on nothing but who runs where, who waits and what is set aside, so
/// deciding again after the decision was applied changes nothing.
#[must_use]
pub fn decide(view: &View, now_ms: i64) -> Decision {
    let mut engine = engine::Engine::new(view, now_ms);
    while engine.pass() {}
    engine.finish()
}
