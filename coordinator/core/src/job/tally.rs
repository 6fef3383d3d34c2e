//! What the pods of a job add up to.

use std::collections::BTreeMap;

use super::Tally;
use super::replica::{Observed, Standing};
use crate::model::{JobModel, ReplicaKey, Role, SuccessRule};

fn standing_of(model: &JobModel, key: ReplicaKey, current: &BTreeMap<String, Observed<'_>>) -> Option<Standing> {
    let replica = model.roles.get(key.role)?.replicas.get(key.index)?;
    current.get(&replica.name).map(|pod| pod.standing)
}

/// Whether the success rule holds.
pub(super) fn succeeded(model: &JobModel, current: &BTreeMap<String, Observed<'_>>) -> bool {
    let done = |name: &str| current.get(name).is_some_and(|pod| pod.standing == Standing::Succeeded);
    let role = |role: usize| model.roles.get(role).map(|role| role.replicas.as_slice()).unwrap_or_default();
    match model.success {
        SuccessRule::One(key) => standing_of(model, key, current) == Some(Standing::Succeeded),
        SuccessRule::AllOf { role: at } => !role(at).is_empty() && role(at).iter().all(|replica| done(&replica.name)),
        SuccessRule::AnyOf { role: at } => role(at).iter().any(|replica| done(&replica.name)),
        SuccessRule::All => model.size() > 0 && model.replicas().all(|(_, replica)| done(&replica.name)),
        SuccessRule::Elastic => {
            let standing = |of| current.values().any(|pod| pod.standing == of);
            standing(Standing::Succeeded) && !standing(Standing::Active)
        }
    }
}

/// Whether a replica that decides the success runs.
pub(super) fn leads(model: &JobModel, current: &BTreeMap<String, Observed<'_>>) -> bool {
    let active = |role: &Role| {
        role.replicas
            .iter()
            .any(|replica| current.get(&replica.name).is_some_and(|pod| pod.standing == Standing::Active))
    };
    match model.success {
        SuccessRule::One(key) => standing_of(model, key, current) == Some(Standing::Active),
        SuccessRule::AllOf { role } | SuccessRule::AnyOf { role } => model.roles.get(role).is_some_and(active),
        SuccessRule::All | SuccessRule::Elastic => model.roles.iter().any(active),
    }
}

/// The pods of each role by what they do.
pub(super) fn tallies(model: &JobModel, current: &BTreeMap<String, Observed<'_>>) -> Vec<(String, Tally)> {
    model
        .roles
        .iter()
        .map(|role| {
            let mut tally = Tally::default();
            for pod in role.replicas.iter().filter_map(|replica| current.get(&replica.name)) {
                match pod.standing {
                    Standing::Active => tally.active += 1,
                    Standing::Succeeded => tally.succeeded += 1,
                    Standing::Failed => tally.failed += 1,
                    Standing::Unbound | Standing::Starting => {}
                }
            }
            (role.name.clone(), tally)
        })
        .collect()
}
