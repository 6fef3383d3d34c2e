//! What must hold, written from the rules and not from the engine.

use std::collections::BTreeMap;

use crate::schedule::{Decision, Effect, Gang, Operator, Phase, Place, Requirement, Role, View};

/// The places of a gang that runs.
pub(super) fn places(gang: &Gang) -> &[Place] {
    match &gang.phase {
        Phase::Running { places, .. } => places,
        Phase::Waiting { .. } => &[],
    }
}

fn pods(places: &[Place], role: usize) -> u32 {
    places.iter().filter(|place| place.role as usize == role).map(|place| place.count).sum()
}

/// No node holds more than it has.
pub(super) fn capacity(view: &View) {
    for (at, node) in view.nodes.iter().enumerate() {
        let mut ports: BTreeMap<u16, u32> = BTreeMap::new();
        let mut sums = vec![0; view.resources.len()];
        for gang in &view.gangs {
            for place in places(gang).iter().filter(|place| place.node as usize == at) {
                let role = &gang.shape.roles[place.role as usize];
                sums.iter_mut().zip(&role.requests).for_each(|(sum, one)| *sum += one * i64::from(place.count));
                role.host_ports.iter().for_each(|port| *ports.entry(*port).or_default() += place.count);
            }
        }
        for (sum, capacity) in sums.iter().zip(&node.capacity) {
            assert!(sum <= capacity, "{}: {sum} of {capacity}", node.name);
        }
        assert!(ports.values().all(|count| *count <= 1), "{}: ports {ports:?}", node.name);
    }
}

/// What a queue uses of a resource.
pub(super) fn used(view: &View, queue: usize, resource: usize, priority: i32) -> i64 {
    let gangs = view.gangs.iter().filter(|gang| gang.queue as usize == queue && gang.priority >= priority);
    let of = |gang: &Gang| -> i64 {
        places(gang)
            .iter()
            .map(|place| gang.shape.roles[place.role as usize].request(resource) * i64::from(place.count))
            .sum()
    };
    gangs.map(of).sum()
}

/// (subtree quota, local quota, usage) of a cohort, from its children up.
fn cohort(view: &View, at: usize, resource: usize) -> (i64, i64, i64) {
    let own = view.cohorts[at].quotas.iter().find(|quota| quota.resource as usize == resource);
    let queues = (0..view.queues.len()).filter(|queue| view.queues[*queue].cohort == Some(u32::try_from(at).unwrap()));
    let cohorts =
        (0..view.cohorts.len()).filter(|child| view.cohorts[*child].parent == Some(u32::try_from(at).unwrap()));
    let children: Vec<(i64, i64, i64)> = queues
        .map(|queue| of_queue(view, queue, resource))
        .chain(cohorts.map(|child| cohort(view, child, resource)))
        .collect();
    let subtree =
        own.map_or(0, |quota| quota.nominal) + children.iter().map(|(subtree, local, _)| subtree - local).sum::<i64>();
    let lent = own.and_then(|quota| quota.lending_limit).map_or(subtree, |limit| limit.min(subtree));
    let usage: i64 = children.iter().map(|(_, local, usage)| (usage - local).max(0)).sum();
    if let Some(limit) = own.and_then(|quota| quota.borrowing_limit).filter(|_| view.cohorts[at].parent.is_some()) {
        assert!(usage <= subtree + limit, "cohort {at}: {usage} of {subtree} + {limit}");
    }
    (subtree, subtree - lent, usage)
}

fn of_queue(view: &View, queue: usize, resource: usize) -> (i64, i64, i64) {
    let own = view.queues[queue].quotas.iter().find(|quota| quota.resource as usize == resource);
    let subtree = own.map_or(0, |quota| quota.nominal);
    let lent = own.and_then(|quota| quota.lending_limit).map_or(subtree, |limit| limit.min(subtree));
    if own.is_none() && !limited(view, view.queues[queue].cohort, resource) {
        return (0, 0, 0);
    }
    let usage = used(view, queue, resource, i32::MIN);
    if let Some(limit) = own.and_then(|quota| quota.borrowing_limit).filter(|_| view.queues[queue].cohort.is_some()) {
        assert!(usage <= subtree + limit, "queue {queue}: {usage} of {subtree} + {limit}");
    }
    (subtree, subtree - lent, usage)
}

fn limited(view: &View, cohort: Option<u32>, resource: usize) -> bool {
    cohort.is_some_and(|at| {
        let cohort = &view.cohorts[at as usize];
        cohort.quotas.iter().any(|quota| quota.resource as usize == resource) || limited(view, cohort.parent, resource)
    })
}

/// Nobody uses more than quota, borrowing and lending allow. Queues that a resource is not limited for do not count.
pub(super) fn quota(view: &View) {
    for resource in 0..view.resources.len() {
        for (at, queue) in view.queues.iter().enumerate().filter(|(_, queue)| queue.cohort.is_none()) {
            if queue.quotas.iter().any(|quota| quota.resource as usize == resource) {
                let (subtree, _, usage) = of_queue(view, at, resource);
                assert!(usage <= subtree, "queue {at}: {usage} of {subtree}");
            }
        }
        for (at, _) in view.cohorts.iter().enumerate().filter(|(_, root)| root.parent.is_none()) {
            let (subtree, _, usage) = cohort(view, at, resource);
            assert!(usage <= subtree, "cohort {at}: {usage} of {subtree}");
        }
    }
}

fn met(requirement: &Requirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    match requirement.operator {
        Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
        Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt | Operator::Lt => unreachable!("not generated"),
    }
}

fn allowed(role: &Role, view: &View, place: &Place) -> bool {
    let node = &view.nodes[place.node as usize];
    let rules = &role.rules;
    let tolerated = |taint: &crate::schedule::Taint| {
        taint.effect == Effect::PreferNoSchedule
            || rules.tolerations.iter().any(|one| one.key.as_ref() == Some(&taint.key))
    };
    let any = rules.any_of.is_empty() || rules.any_of.iter().any(|term| term.iter().all(|one| met(one, &node.labels)));
    !node.unschedulable && node.taints.iter().all(tolerated) && any
}

/// The labels from the outermost level to one, or nothing if the node lacks the last.
fn domain(view: &View, node: u32, level: &str) -> Option<Vec<Option<String>>> {
    let labels = &view.nodes[node as usize].labels;
    labels.get(level)?;
    let until = view.policy.levels.iter().position(|one| one.label == level)?;
    Some(view.policy.levels[..=until].iter().map(|one| labels.get(&one.label).cloned()).collect())
}

/// Each admission is whole, and where it may be.
pub(super) fn admissions(view: &View, decision: &Decision) {
    for admission in &decision.admissions {
        let gang = &view.gangs[admission.gang as usize];
        for (at, role) in gang.shape.roles.iter().enumerate() {
            let count = pods(&admission.places, at);
            assert!(role.min <= count && count <= role.count, "{}: {count} pods of {}", gang.name, role.name);
        }
        for place in &admission.places {
            assert!(allowed(&gang.shape.roles[place.role as usize], view, place), "{}: {place:?}", gang.name);
        }
        if let Some(level) = &gang.shape.closeness.required {
            let domains: Vec<_> = admission.places.iter().map(|place| domain(view, place.node, level)).collect();
            assert!(domains[0].is_some() && domains.iter().all(|one| *one == domains[0]), "{}: {domains:?}", gang.name);
        }
        for (at, role) in gang.shape.roles.iter().enumerate() {
            let Some(slice) = &role.slice else { continue };
            let mut by_domain: BTreeMap<Option<Vec<Option<String>>>, u32> = BTreeMap::new();
            for place in admission.places.iter().filter(|place| place.role as usize == at) {
                *by_domain.entry(domain(view, place.node, &slice.level)).or_default() += place.count;
            }
            let odd = by_domain.values().filter(|count| **count % slice.size != 0).count();
            let part = !pods(&admission.places, at).is_multiple_of(slice.size);
            assert!(!by_domain.contains_key(&None) && odd <= usize::from(part), "{}: {by_domain:?}", gang.name);
        }
    }
}

/// No pod is in a domain with one that it must not be near. Only of admissions: what runs may have been there before.
pub(super) fn apart(view: &View, decision: &Decision) {
    let pods = || view.gangs.iter().flat_map(|gang| places(gang).iter().map(move |place| (gang, *place)));
    for admission in &decision.admissions {
        let gang = &view.gangs[admission.gang as usize];
        for (other, theirs) in pods() {
            for ours in places(gang) {
                let same = other.name == gang.name && ours.role == theirs.role && ours.node == theirs.node;
                if other.shape.namespace != gang.shape.namespace || (same && ours.count == 1) {
                    continue;
                }
                let (a, b) = (&gang.shape.roles[ours.role as usize], &other.shape.roles[theirs.role as usize]);
                let value = |node: u32, key: &str| view.nodes[node as usize].labels.get(key).cloned();
                for (term, labels) in a
                    .anti_affinity
                    .iter()
                    .map(|term| (term, &b.labels))
                    .chain(b.anti_affinity.iter().map(|term| (term, &a.labels)))
                {
                    let near = value(ours.node, &term.topology_key);
                    let hit = near.is_some() && near == value(theirs.node, &term.topology_key);
                    assert!(!hit || !term.pods.iter().all(|one| met(one, labels)), "{} near {}", gang.name, other.name);
                }
            }
        }
    }
}
