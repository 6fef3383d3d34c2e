//! Elastic gangs on a cluster: they make room pod by pod, and come back through their gates.

use super::*;

// What has just begun is left alone for a minute.
const LATER: i64 = NOW + 120_000;

/// An elastic gang of three that runs on a node of three CPUs, and one of two that comes before it.
fn contest() -> ClusterView {
    let mut low = queued("low", 3, 0);
    for pod in &mut low {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(label::GANG_SIZE.to_owned(), "1".to_owned());
        annotations.insert(label::GANG_LEAST.to_owned(), "1".to_owned());
        let spec = pod.spec.as_mut().unwrap();
        (spec.scheduling_gates, spec.node_name) = (None, Some("a".to_owned()));
    }
    low.extend(queued("high", 2, 5));
    let mut world = view(vec![node("a", 3)], low);
    world.gangs.queues = queue(3);
    world
}

fn marked(placement: &Placement, name: &str) -> Vec<String> {
    let of = |action: &Action| {
        let Action::Patch { object, patch, .. } = action else { return None };
        (!patch["metadata"]["annotations"][name].is_null()).then(|| object.name.clone())
    };
    placement.plan.actions.iter().filter_map(of).collect()
}

fn of_gangs(placement: &Placement) -> Vec<Action> {
    let mut all = writes(placement);
    all.retain(|action| !matches!(action, Action::Patch { object, .. } if object.kind == "ClusterQueue"));
    all
}

#[test]
fn pods_that_made_room_come_back_through_their_gates_by_an_intent_of_their_own() {
    let mut world = contest();
    let first = place_on_cluster(&world, LATER);
    assert_eq!(marked(&first, label::SHRUNK), ["low-2", "low-1"]);
    assert_eq!(marked(&first, label::PREEMPTED), [""; 0]);
    for pod in world.gangs.pods.iter_mut().filter(|pod| ["low-1", "low-2"].contains(&reference(pod).name.as_str())) {
        pod.metadata.annotations.as_mut().unwrap().insert(label::SHRUNK.to_owned(), "team/high".to_owned());
    }
    let second = place_on_cluster(&world, LATER + 1);
    let deletes: Vec<Action> =
        writes(&second).into_iter().filter(|action| matches!(action, Action::Delete { .. })).collect();
    assert_eq!(deletes.len(), 2);
    assert_eq!(lifted(&world), 3, "until they have left, nobody goes");
    deletes.iter().for_each(|action| carry_out(&mut world, action));
    let again = queued("low", 3, 0).into_iter().skip(1).map(|mut pod| {
        pod.metadata.uid = Some(format!("{}-again", uid(&pod)));
        pod.metadata.annotations.as_mut().unwrap().insert(label::GANG_SIZE.to_owned(), "1".to_owned());
        pod
    });
    world.gangs.pods.extend(again);
    of_gangs(&place_on_cluster(&world, LATER + 2)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 3, "the two of the other gang, and none of those that are back");
    assert!(world.owners["low"].intent.is_none());
    world.gangs.pods.retain(|pod| !reference(pod).name.starts_with("high"));
    let grows = of_gangs(&place_on_cluster(&world, LATER + 3));
    assert!(matches!(&grows[0], Action::Patch { object, .. } if object.kind == "Job"), "{grows:?}");
    // Cut off after the intent: whoever looks next lets them go.
    carry_out(&mut world, &grows[0]);
    of_gangs(&place_on_cluster(&world, LATER + 4)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 3);
    // Those that run are none of the attempt: they stay if it is not bound in time.
    let late = place_on_cluster(&world, LATER + 4 + PATIENCE);
    let deleted: Vec<String> = writes(&late)
        .iter()
        .filter_map(|action| if let Action::Delete { object, .. } = action { Some(object.name.clone()) } else { None })
        .collect();
    assert_eq!(deleted, ["low-1", "low-2"]);
}

/// A pod of it that went would be made on its node again.
#[test]
fn a_gang_that_is_made_on_its_nodes_does_not_shrink_before_it_has_run() {
    let mut world = contest();
    let pods = world.gangs.pods[..3].to_vec();
    world.drafts.insert("low".to_owned(), Arc::new(Draft { id: "draft".to_owned(), pods }));
    let intent = Intent {
        at_ms: NOW,
        drafted: Some(Drafted { id: "draft".to_owned(), places: ["a", "a", "a"].into_iter().collect() }),
        ..Intent::default()
    };
    world.owners.get_mut("low").unwrap().intent = Some(intent);
    let first = place_on_cluster(&world, LATER);
    assert_eq!(marked(&first, label::SHRUNK), [""; 0]);
    assert_eq!(marked(&first, label::PREEMPTED), ["low-0", "low-1", "low-2"]);
}
