//! A pod's life on a node: what to start, restart and stop, and what its status is.

pub mod env;
mod machine;
mod status;
mod view;
pub mod volume;

pub use machine::{plan, termination_grace_ms};
pub use view::{
    Attempt, AttemptState, BackOff, Blocked, ContainerView, Ending, PodAction, PodPlan, PodView, Probes, Setup,
    StopReason,
};

#[cfg(test)]
mod tests;
