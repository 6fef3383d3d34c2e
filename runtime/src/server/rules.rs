//! From the kind registry to the store's rules: how each resource is kept.

use trainyard_runtime_core::store::{NameRule, Resource, ResourceRules};

use crate::kinds::{Kind, Registry};

/// One rule per stored resource. Versions and views of a resource share it.
pub(crate) fn rules(registry: &Registry) -> Vec<ResourceRules> {
    let mut rules: Vec<ResourceRules> = Vec::new();
    for kind in registry.iter().filter(|kind| kind.stored_as.is_none()) {
        let rule = rule(kind);
        if rules.iter().all(|known| known.resource != rule.resource) {
            rules.push(rule);
        }
    }
    rules
}

/// The resource under which a kind's objects are kept.
pub(super) fn stored(kind: &Kind) -> Resource {
    let group = kind.stored_as.map_or(kind.group, |(group, _)| group);
    Resource::new(group, kind.plural)
}

pub(super) fn rule(kind: &Kind) -> ResourceRules {
    let resource = stored(kind);
    match (kind.group, kind.plural) {
        ("", "pods") => return ResourceRules::pods(),
        ("", "namespaces") => return ResourceRules::namespaces(),
        ("apps", "deployments") => return ResourceRules::deployments(),
        _ => {}
    }
    let mut rule = if !kind.builtin {
        ResourceRules::custom(resource, kind.namespaced)
    } else if kind.status {
        ResourceRules::builtin(resource, kind.namespaced)
    } else {
        ResourceRules::plain(resource, kind.namespaced)
    };
    rule.status_subresource = kind.status;
    if kind.group.is_empty() {
        // The core group's kinds other than pods have no generation, as in Kubernetes.
        rule.generation = false;
    }
    if kind.plural == "leases" {
        // They are for elections: who writes one without looking has lost.
        rule.unconditional_update = false;
    }
    if kind.plural == "events" && kind.group.is_empty() {
        // Names of the older ones are made by their reporters, of whatever they are about.
        rule.name = NameRule::PathSegment;
    }
    if kind.plural == "services" {
        rule.name = NameRule::ServiceLabel;
    }
    rule
}
