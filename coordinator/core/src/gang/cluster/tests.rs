//! Gangs on a cluster: what is written, and in which order.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::*;

mod shrink;

const NOW: i64 = 1_000_000;
const PATIENCE: i64 = 60_000;

fn node(name: &str, cpus: u32) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {HOSTNAME: format!("host-of-{name}")}},
        "status": {"allocatable": {"cpu": cpus.to_string(), "pods": "10"}},
    }))
    .unwrap()
}

/// Pods of one job that ask for a CPU each and wait at their gate.
fn pods(job: &str, count: usize) -> Vec<Pod> {
    let pod = |index: usize| {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "team", "name": format!("{job}-{index}"), "uid": format!("{job}-{index}-uid"),
                "creationTimestamp": crate::instant::text(NOW),
                "annotations": {label::GANG: job, label::GANG_SIZE: count.to_string()},
                "labels": {label::REPLICA_INDEX: index.to_string()},
                "ownerReferences": [{"apiVersion": "x/v1", "kind": "Job", "name": job, "uid": job, "controller": true}],
            },
            "spec": {
                "schedulingGates": [{"name": label::GANG_GATE}],
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            },
            "status": {"phase": "Pending"},
        }))
        .unwrap()
    };
    (0..count).map(pod).collect()
}

fn view(nodes: Vec<Node>, pods: Vec<Pod>) -> ClusterView {
    let mut owners = BTreeMap::new();
    for pod in &pods {
        let job = owner_uid(pod).unwrap().to_owned();
        let object = ObjectRef {
            api_version: "x/v1".to_owned(),
            kind: "Job".to_owned(),
            namespace: "team".to_owned(),
            name: job.clone(),
        };
        owners.insert(job, Owner { object, version: None, intent: None });
    }
    let gangs = GangView { nodes, pods, ..GangView::default() };
    ClusterView { gangs, owners, drafts: BTreeMap::new(), patience_ms: PATIENCE }
}

/// What the API server makes of one action.
fn carry_out(view: &mut ClusterView, action: &Action) {
    match action {
        Action::Patch { object, patch, .. } if object.kind == "Pod" => {
            let pod = view.gangs.pods.iter_mut().find(|pod| reference(pod) == *object).unwrap();
            let spec = pod.spec.as_mut().unwrap();
            assert!(patch["spec"]["schedulingGates"].is_null());
            spec.scheduling_gates = None;
            let host = patch["spec"]["nodeSelector"][HOSTNAME].as_str().unwrap().to_owned();
            spec.node_selector = Some(BTreeMap::from([(HOSTNAME.to_owned(), host)]));
            if let Some(written) = patch["metadata"]["annotations"].get(label::LET_GO).and_then(Value::as_str) {
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert(label::LET_GO.to_owned(), written.to_owned());
            }
        }
        Action::Patch { object, patch, .. } => {
            let text = patch["metadata"]["annotations"][label::PLACEMENT].as_str().unwrap();
            let all = BTreeMap::from([(label::PLACEMENT.to_owned(), text.to_owned())]);
            view.owners.insert(object.name.clone(), Owner::read(object.clone(), None, Some(&all)));
        }
        Action::Delete { object, .. } => view.gangs.pods.retain(|pod| reference(pod) != *object),
        Action::PatchStatus { .. } | Action::Event { .. } => {}
        Action::Bind { pod: object, node, .. } => {
            let pod = view.gangs.pods.iter_mut().find(|pod| reference(pod) == *object).unwrap();
            let spec = pod.spec.as_mut().unwrap();
            assert_eq!((&spec.scheduling_gates, &spec.node_name), (&None, &None), "the server refuses it");
            spec.node_name = Some(node.clone());
        }
        Action::Create { .. } => panic!("{action:?}"),
    }
}

/// The same pods where the operator binds by itself.
fn bound_here(mut pods: Vec<Pod>) -> Vec<Pod> {
    for spec in pods.iter_mut().filter_map(|pod| pod.spec.as_mut()) {
        (spec.scheduling_gates, spec.scheduler_name) = (None, Some(label::SCHEDULER_NAME.to_owned()));
    }
    pods
}

fn bound(view: &ClusterView) -> usize {
    view.gangs.pods.iter().filter(|pod| node_of(pod).is_some()).count()
}

fn writes(placement: &Placement) -> Vec<Action> {
    let writes = placement.plan.actions.iter();
    let is_write = |action: &&Action| !matches!(action, Action::PatchStatus { .. } | Action::Event { .. });
    writes.filter(is_write).cloned().collect()
}

fn bind(view: &mut ClusterView, name: &str) {
    let pod = view.gangs.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
    let spec = pod.spec.as_mut().unwrap();
    assert_eq!(spec.scheduling_gates, None, "{name} is not lifted");
    let host = spec.node_selector.as_ref().unwrap()[HOSTNAME].clone();
    spec.node_name = Some(host.trim_start_matches("host-of-").to_owned());
}

fn lifted(view: &ClusterView) -> usize {
    view.gangs.pods.iter().filter(|pod| !is_gated(pod)).count()
}

#[test]
fn the_intent_is_written_before_the_first_gate_is_lifted() {
    let view = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
    let writes = writes(&place_on_cluster(&view, NOW));
    let kind = |action: &Action| {
        let Action::Patch { object, .. } = action else { panic!("{action:?}") };
        object.kind.clone()
    };
    let kinds: Vec<String> = writes.iter().map(kind).collect();
    assert_eq!(kinds, ["Job", "Pod", "Pod", "Pod"]);
}

#[test]
fn all_intents_of_a_decision_are_written_before_the_first_gate_of_any_is_lifted() {
    let mut all = pods("first", 2);
    all.extend(pods("second", 2));
    let writes = writes(&place_on_cluster(&view(vec![node("a", 4)], all), NOW));
    let is_intent = |action: &Action| matches!(action, Action::Patch { object, .. } if object.kind == "Job");
    assert_eq!(writes.iter().map(is_intent).collect::<Vec<_>>(), [true, true, false, false, false, false]);
    assert!(writes[1].joins(&writes[0]), "they need not wait for each other");
    assert!(!writes[2].joins(&writes[0]), "no gate is lifted before its intent is there");
}

#[test]
fn pods_that_name_our_scheduler_are_bound_here_and_nowhere_else() {
    let start = view(vec![node("a", 2), node("b", 2)], bound_here(pods("job", 3)));
    let first = writes(&place_on_cluster(&start, NOW));
    assert_eq!(first.len(), 4, "one write for each pod, after the intent");
    for cut in 1..=first.len() {
        let mut world = start.clone();
        first[..cut].iter().for_each(|action| carry_out(&mut world, action));
        let promised = world.owners["job"].intent.clone().unwrap();
        for action in writes(&place_on_cluster(&world, NOW + 1)) {
            carry_out(&mut world, &action);
        }
        assert_eq!(bound(&world), 3, "after {cut} writes");
        for pod in &world.gangs.pods {
            assert_eq!(node_of(pod), promised.pods.get(uid(pod)).map(String::as_str), "after {cut} writes");
        }
        assert_eq!(writes(&place_on_cluster(&world, NOW + 2)), [], "after {cut} writes");
    }
    let narrow = view(vec![node("a", 1), node("b", 1)], bound_here(pods("job", 3)));
    assert_eq!(writes(&place_on_cluster(&narrow, NOW)), []);
}

#[test]
fn a_gang_that_does_not_fit_waits_with_every_gate_shut() {
    let view = view(vec![node("a", 1), node("b", 1)], pods("job", 3));
    let placement = place_on_cluster(&view, NOW);
    assert_eq!(writes(&placement), []);
    assert_eq!(placement.waiting.len(), 1);
}

/// Wherever it is cut off, the next look completes exactly what was decided, and nobody else is given the room.
#[test]
fn a_crash_between_any_two_writes_leaves_no_part_of_a_gang() {
    let mut all = pods("first", 3);
    all.extend(pods("second", 2));
    let start = view(vec![node("a", 2), node("b", 2)], all);
    let first = writes(&place_on_cluster(&start, NOW));
    for cut in 0..=first.len() {
        let mut world = start.clone();
        first[..cut].iter().for_each(|action| carry_out(&mut world, action));
        let promised = world.owners["first"].intent.clone();
        for action in writes(&place_on_cluster(&world, NOW + 1)) {
            carry_out(&mut world, &action);
        }
        assert_eq!(lifted(&world), 3, "after {cut} writes");
        if let Some(promised) = promised {
            let intent = world.owners["first"].intent.as_ref().unwrap();
            assert_eq!(intent.pods, promised.pods, "after {cut} writes");
        }
        assert_eq!(writes(&place_on_cluster(&world, NOW + 2)), [], "nothing is left to do after {cut} writes");
    }
}

#[test]
fn a_gang_that_is_not_bound_in_time_is_taken_back_whole_and_tried_again_later() {
    let mut world = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
    for action in writes(&place_on_cluster(&world, NOW)) {
        carry_out(&mut world, &action);
    }
    bind(&mut world, "job-0");
    bind(&mut world, "job-1");
    let soon = place_on_cluster(&world, NOW + 1);
    assert_eq!((writes(&soon), soon.plan.wake_at_ms), (vec![], Some(NOW + PATIENCE)));
    // Cut off after each write: the mark comes first, and the rest follows from it.
    let late = writes(&place_on_cluster(&world, NOW + PATIENCE));
    assert_eq!(late.len(), 4);
    for cut in 1..=late.len() {
        let mut world = world.clone();
        late[..cut].iter().for_each(|action| carry_out(&mut world, action));
        for action in writes(&place_on_cluster(&world, NOW + PATIENCE + 1)) {
            carry_out(&mut world, &action);
        }
        assert!(world.gangs.pods.is_empty(), "after {cut} writes");
        // Their successors wait until the back-off is over.
        let mut fresh = pods("job", 3);
        fresh.iter_mut().for_each(|pod| pod.metadata.uid = pod.metadata.uid.as_ref().map(|uid| format!("{uid}-2")));
        world.gangs.pods = fresh;
        let waits = place_on_cluster(&world, NOW + PATIENCE + 2);
        let again = NOW + PATIENCE + backoff::FIRST_MS;
        assert_eq!((writes(&waits), waits.plan.wake_at_ms), (vec![], Some(again)));
        for action in writes(&place_on_cluster(&world, again)) {
            carry_out(&mut world, &action);
        }
        assert_eq!((lifted(&world), world.owners["job"].intent.as_ref().unwrap().attempt), (3, 1));
    }
}

#[test]
fn what_is_left_of_a_gang_that_was_begun_is_not_let_go_without_the_others() {
    let mut world = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
    let first = writes(&place_on_cluster(&world, NOW));
    // The intent was written, and then nothing.
    carry_out(&mut world, &first[0]);
    world.gangs.pods.remove(1);
    assert_eq!(writes(&place_on_cluster(&world, NOW + 1)), [], "two of three that must start together");
    let mut fresh = pods("job", 3).remove(1);
    fresh.metadata.uid = Some("new".to_owned());
    world.gangs.pods.push(fresh);
    for action in writes(&place_on_cluster(&world, NOW + 2)) {
        carry_out(&mut world, &action);
    }
    assert_eq!(lifted(&world), 3, "with the successor it is whole again");
    assert_eq!(writes(&place_on_cluster(&world, NOW + 3)), []);
}

#[test]
fn a_successor_of_one_pod_is_placed_without_the_others() {
    let mut world = view(vec![node("a", 2), node("b", 2)], pods("job", 3));
    for action in writes(&place_on_cluster(&world, NOW)) {
        carry_out(&mut world, &action);
    }
    ["job-0", "job-1", "job-2"].iter().for_each(|name| bind(&mut world, name));
    let lost = world.gangs.pods.iter().position(|pod| pod.metadata.name.as_deref() == Some("job-2")).unwrap();
    let mut fresh = pods("job", 3).remove(2);
    fresh.metadata.uid = Some("new".to_owned());
    world.gangs.pods[lost] = fresh;
    for action in writes(&place_on_cluster(&world, NOW + 500_000)) {
        carry_out(&mut world, &action);
    }
    let intent = world.owners["job"].intent.clone().unwrap();
    assert_eq!(intent.pods.keys().collect::<Vec<_>>(), ["new"], "the others are no part of this attempt");
    assert_eq!(lifted(&world), 3);
    // If it is not bound in time, it goes back alone.
    let late = writes(&place_on_cluster(&world, NOW + 500_000 + PATIENCE));
    assert_eq!(late.iter().filter(|action| matches!(action, Action::Delete { .. })).count(), 1);
}

#[test]
fn terms_that_only_the_clusters_scheduler_knows_leave_the_node_to_it() {
    let mut all = pods("job", 2);
    let spread = json!([{"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "DoNotSchedule"}]);
    all[0].spec.as_mut().unwrap().topology_spread_constraints = serde_json::from_value(spread).unwrap();
    let writes = writes(&place_on_cluster(&view(vec![node("a", 2)], all), NOW));
    let selector = |at: usize| {
        let Action::Patch { patch, .. } = &writes[at] else { panic!("{writes:?}") };
        assert!(patch["spec"]["schedulingGates"].is_null());
        patch["spec"].get("nodeSelector").cloned()
    };
    assert_eq!((selector(1), selector(2)), (None, Some(json!({HOSTNAME: "host-of-a"}))));
}

#[test]
fn pods_of_others_only_take_room() {
    let mut alien = pods("alien", 1).remove(0);
    alien.metadata.annotations = None;
    alien.spec.as_mut().unwrap().scheduling_gates = None;
    let mut bound = alien.clone();
    (bound.metadata.name, bound.metadata.uid) = (Some("bound".to_owned()), Some("bound".to_owned()));
    bound.spec.as_mut().unwrap().node_name = Some("a".to_owned());
    let mut all = pods("job", 2);
    all.extend([alien, bound]);
    let mut nodes = vec![node("a", 2)];
    let placement = place_on_cluster(&view(nodes.clone(), all.clone()), NOW);
    assert_eq!(writes(&placement), []);
    nodes.push(node("b", 1));
    assert_eq!(writes(&place_on_cluster(&view(nodes, all), NOW)).len(), 3, "the job and its two pods");
}

/// A queue with so many CPUs, which stops lesser gangs for others, and the way to it.
/// Pods of somebody else's Deployment, each with our gate in its template.
fn guests(count: usize) -> Vec<Pod> {
    let mut all = pods("web", count);
    for pod in &mut all {
        pod.metadata.owner_references.as_mut().unwrap()[0].kind = "ReplicaSet".to_owned();
        pod.metadata.annotations = None;
        pod.metadata.labels = Some(BTreeMap::from([(label::QUEUE_NAME.to_owned(), "q".to_owned())]));
    }
    all
}

/// A cluster with one queue, and nobody that we run.
fn hosting(cpus: u32, quota: u32, pods: Vec<Pod>) -> ClusterView {
    let gangs = GangView { nodes: vec![node("a", cpus)], pods, queues: queue(quota), ..GangView::default() };
    ClusterView { gangs, patience_ms: PATIENCE, ..ClusterView::default() }
}

/// What is written about pods.
fn of_pods(placement: &Placement) -> Vec<Action> {
    let mut all = writes(placement);
    all.retain(
        |action| matches!(action, Action::Patch { object, .. } | Action::Delete { object, .. } if object.kind == "Pod"),
    );
    all
}

#[test]
fn pods_of_others_at_our_gate_go_one_by_one_as_their_queue_has_room() {
    let mut world = hosting(9, 2, guests(3));
    let first = of_pods(&place_on_cluster(&world, NOW));
    assert_eq!(first.len(), 2, "{first:?}");
    // Cut off after one of them: what was let go holds quota before it has a node, and nobody else gets it.
    carry_out(&mut world, &first[0]);
    of_pods(&place_on_cluster(&world, NOW + 1)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 2);
    assert_eq!(of_pods(&place_on_cluster(&world, NOW + 2)), []);
    ["web-0", "web-1"].iter().for_each(|name| bind(&mut world, name));
    assert_eq!(of_pods(&place_on_cluster(&world, NOW + 3)), [], "on its node it holds quota, too");
    world.gangs.pods.remove(0);
    of_pods(&place_on_cluster(&world, NOW + 4)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 2, "the third one goes when one of the others is gone");
}

#[test]
fn a_pod_of_others_that_is_not_bound_in_time_is_given_back_to_its_owner() {
    let mut all = guests(3);
    all[1].metadata.owner_references = None;
    all[2].metadata.owner_references.as_mut().unwrap()[0].kind = "Job".to_owned();
    let mut world = hosting(9, 9, all);
    of_pods(&place_on_cluster(&world, NOW)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 3);
    let waits = place_on_cluster(&world, NOW + PATIENCE - 1);
    assert_eq!((of_pods(&waits), waits.plan.wake_at_ms), (vec![], Some(NOW + PATIENCE)));
    let late = of_pods(&place_on_cluster(&world, NOW + PATIENCE));
    let [Action::Delete { object, .. }] = late.as_slice() else { panic!("{late:?}") };
    assert_eq!(
        object.name, "web-0",
        "nobody would make the second one anew, and the third one's owner would call it a failure"
    );
}

#[test]
fn a_pod_of_others_with_claims_goes_where_the_clusters_scheduler_sends_it() {
    let mut all = guests(1);
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    all[0].spec.as_mut().unwrap().volumes = serde_json::from_value(volume).unwrap();
    let mut world = hosting(1, 9, all);
    let told = of_pods(&place_on_cluster(&world, NOW));
    let [Action::Patch { patch, .. }] = told.as_slice() else { panic!("{told:?}") };
    assert!(patch["spec"].get("nodeSelector").is_none(), "{patch}");
    let annotations = world.gangs.pods[0].metadata.annotations.get_or_insert_default();
    let written = patch["metadata"]["annotations"][label::LET_GO].as_str().unwrap();
    annotations.insert(label::LET_GO.to_owned(), written.to_owned());
    world.gangs.pods[0].spec.as_mut().unwrap().scheduling_gates = None;
    world.gangs.pods.extend(guests(2).into_iter().skip(1));
    assert_eq!(of_pods(&place_on_cluster(&world, NOW + 1)), [], "it holds the room for which it was let go");
    let later = of_pods(&place_on_cluster(&world, NOW + 10 * PATIENCE));
    assert!(later.iter().all(|action| action.subject().name != "web-0"), "it may wait for its volume: {later:?}");
}

/// Pods that are nobody's guests: one that names our scheduler, which may not be ours to bind; one with a mark that was copied; one whose
/// mark is rubbish.
#[test]
fn what_is_no_guest_is_left_alone() {
    let mut all = guests(3);
    let mut unlifted = all[0].spec.take().unwrap();
    unlifted.scheduler_name = Some(label::SCHEDULER_NAME.to_owned());
    all[0].spec = Some(unlifted);
    for (at, mark) in [(1, r#"{"uid":"another","atMs":1,"node":"a","isSent":true}"#), (2, "now")] {
        all[at].spec.as_mut().unwrap().scheduling_gates = None;
        all[at].metadata.annotations = Some(BTreeMap::from([(label::LET_GO.to_owned(), mark.to_owned())]));
    }
    let mut world = hosting(9, 9, all);
    assert_eq!(of_pods(&place_on_cluster(&world, NOW + 10 * PATIENCE)), []);
    world.gangs.pods[0].spec.as_mut().unwrap().scheduling_gates = None;
    assert_eq!(of_pods(&place_on_cluster(&world, NOW)), []);
}

/// A job of ours that is left to somebody else may have the gate in its template.
#[test]
fn a_guest_of_a_job_that_is_known_has_no_part_in_its_intent() {
    let mut world = view(vec![node("a", 2)], pods("job", 2));
    for pod in &mut world.gangs.pods {
        pod.metadata.annotations = None;
    }
    let told = writes(&place_on_cluster(&world, NOW));
    assert!(
        told.iter().all(|action| matches!(action, Action::Patch { object, .. } if object.kind == "Pod")),
        "{told:?}"
    );
    assert_eq!(told.len(), 2);
}

#[test]
fn a_pod_of_others_makes_room_for_who_is_more_important_in_its_queue() {
    let mut world = hosting(9, 2, guests(2));
    of_pods(&place_on_cluster(&world, NOW)).iter().for_each(|action| carry_out(&mut world, action));
    ["web-0", "web-1"].iter().for_each(|name| bind(&mut world, name));
    let urgent = view(vec![], queued("urgent", 1, 5));
    world.owners = urgent.owners;
    world.gangs.pods.extend(urgent.gangs.pods);
    let later = NOW + 10 * 60_000;
    let told = writes(&place_on_cluster(&world, later));
    let marks = |action: &Action| {
        matches!(action, Action::Patch { object, patch, .. } if object.name.starts_with("web-")
        && patch["metadata"]["annotations"][label::PREEMPTED].is_string())
    };
    assert_eq!(told.iter().filter(|action| marks(action)).count(), 1, "{told:?}");
}

fn queue(cpus: u32) -> Vec<Value> {
    let version = "kueue.x-k8s.io/v1beta2";
    let quota = json!([{"coveredResources": ["cpu"], "flavors": [{"name": "f", "resources": [{"name": "cpu", "nominalQuota": cpus}]}]}]);
    let spec = json!({"resourceGroups": quota, "preemption": {"withinClusterQueue": "LowerPriority"}});
    let metadata = |namespace: Option<&str>| json!({"name": "q", "uid": "q", "namespace": namespace});
    vec![
        json!({"apiVersion": version, "kind": "ClusterQueue", "metadata": metadata(None), "spec": spec}),
        json!({"apiVersion": version, "kind": "LocalQueue", "metadata": metadata(Some("team")), "spec": {"clusterQueue": "q"}}),
        json!({"apiVersion": version, "kind": "Cohort", "metadata": metadata(None), "spec": {"fairSharing": {"weight": "no"}}}),
    ]
}

fn queued(job: &str, count: usize, priority: i32) -> Vec<Pod> {
    let mut all = pods(job, count);
    for pod in &mut all {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(label::QUEUE.to_owned(), "q".to_owned());
        annotations.insert(label::PRIORITY.to_owned(), priority.to_string());
    }
    all
}

/// What is told to objects of Kueue's kinds: (verb, kind).
fn told(placement: &Placement) -> Vec<(&'static str, &str)> {
    let of = |action: &'_ Action| match action {
        Action::Patch { object, .. } => Some(("patch", object.kind.clone())),
        Action::PatchStatus { object, .. } => Some(("status", object.kind.clone())),
        Action::Event { regarding, .. } => Some(("event", regarding.kind.clone())),
        Action::Create { .. } | Action::Delete { .. } | Action::Bind { .. } => None,
    };
    let known = ["ClusterQueue", "LocalQueue", "Cohort"];
    let all = placement.plan.actions.iter().filter_map(of);
    all.filter_map(|(verb, kind)| Some((verb, *known.iter().find(|one| **one == kind)?))).collect()
}

#[test]
fn quota_keeps_a_gang_at_its_gate_although_there_is_room() {
    let mut all = queued("first", 2, 0);
    all.extend(queued("second", 2, 0));
    let mut world = view(vec![node("a", 9)], all);
    world.gangs.queues = queue(3);
    let first = place_on_cluster(&world, NOW);
    assert_eq!(told(&first), [("status", "ClusterQueue"), ("status", "LocalQueue")], "of a cohort nothing can be told");
    let waiting: Vec<_> = first.waiting.iter().map(|gang| (gang.name.as_str(), gang.message.as_str())).collect();
    assert_eq!(waiting, [("second", "it asks for 2 CPUs, of the quota of ClusterQueue q 1 CPU is left")]);
    let of_gangs = |placement: &Placement| {
        let mut all = writes(placement);
        all.retain(|action| !matches!(action, Action::Patch { object, .. } if object.kind == "ClusterQueue"));
        all
    };
    of_gangs(&first).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 2);
    assert_eq!(of_gangs(&place_on_cluster(&world, NOW + 1)), [], "what was lifted holds quota before it has a node");
    world.gangs.pods.retain(is_gated);
    of_gangs(&place_on_cluster(&world, NOW + 2)).iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(lifted(&world), 2, "the second one goes when the first has ended");
}

#[test]
fn a_gang_makes_room_in_its_queue_and_a_pod_of_others_never_does() {
    // What has just begun is left alone for a minute.
    const LATER: i64 = NOW + 120_000;
    let mut low = queued("low", 2, 0);
    // A pod that we did not let go, however it is labelled.
    let mut alien = queued("alien", 1, 0).remove(0);
    alien.metadata.annotations.as_mut().unwrap().remove(label::GANG);
    alien.metadata.labels.get_or_insert_default().insert(label::QUEUE_NAME.to_owned(), "q".to_owned());
    for pod in low.iter_mut().chain([&mut alien]) {
        pod.spec.as_mut().unwrap().scheduling_gates = None;
        pod.spec.as_mut().unwrap().node_name = Some("a".to_owned());
    }
    let mut all = low;
    all.push(alien);
    all.extend(queued("high", 2, 5));
    let mut world = view(vec![node("a", 9)], all);
    world.gangs.queues = queue(2);
    let marked = |placement: &Placement| -> Vec<String> {
        let of = |action: &Action| {
            let Action::Patch { object, patch, .. } = action else { return None };
            let is_marked = !patch["metadata"]["annotations"][label::PREEMPTED].is_null();
            is_marked.then(|| object.name.clone())
        };
        placement.plan.actions.iter().filter_map(of).collect()
    };
    let first = place_on_cluster(&world, LATER);
    assert_eq!(marked(&first), ["low-0", "low-1"]);
    assert_eq!(told(&first)[0], ("patch", "ClusterQueue"), "it uses 2 CPUs, and not 3");
    for pod in world.gangs.pods.iter_mut().filter(|pod| pod.metadata.name.as_deref().unwrap().starts_with("low")) {
        pod.metadata.annotations.as_mut().unwrap().insert(label::PREEMPTED.to_owned(), "team/high".to_owned());
    }
    let second = place_on_cluster(&world, LATER + 1);
    let deleted = writes(&second).into_iter().filter(|action| matches!(action, Action::Delete { .. })).count();
    assert_eq!((deleted, lifted(&world)), (2, 3));
    // Until they have left, nobody goes.
    world.gangs.pods.retain(|pod| !pod.metadata.name.as_deref().unwrap().starts_with("low"));
    let third = place_on_cluster(&world, LATER + 2);
    assert_eq!(
        writes(&third)
            .iter()
            .filter(|action| matches!(action, Action::Patch { object, .. } if object.kind == "Pod"))
            .count(),
        2
    );
}

/// It cannot be told so before it is made, and that it is made wakes nobody.
#[test]
fn a_gang_that_has_to_make_room_before_it_is_made_is_looked_at_again_soon() {
    let low: Vec<Pod> = queued("low", 2, 0)
        .into_iter()
        .map(|mut pod| {
            pod.spec.as_mut().unwrap().scheduling_gates = None;
            pod.metadata.uid = None;
            pod
        })
        .collect();
    let mut world = view(vec![node("a", 9)], [low.clone(), queued("high", 2, 5)].concat());
    world.gangs.pods.drain(..2);
    world.gangs.queues = queue(2);
    world.patience_ms = 3_600_000;
    let drafted = Drafted { id: "draft".to_owned(), places: ["a", "a"].into_iter().collect() };
    let intent = Intent { at_ms: NOW, drafted: Some(drafted), ..Intent::default() };
    world.owners.get_mut("low").unwrap().intent = Some(intent);
    world.drafts.insert("low".to_owned(), Arc::new(Draft { id: "draft".to_owned(), pods: low.clone() }));
    let now_ms = NOW + 120_000;
    let placement = place_on_cluster(&world, now_ms);
    let about_low = |action: &Action| action.subject().name.starts_with("low");
    assert!(!placement.plan.actions.iter().any(about_low), "it is not there yet: {:?}", placement.plan.actions);
    assert_eq!(placement.plan.wake_at_ms, Some(now_ms + 1000));
    for (at, pod) in low.into_iter().enumerate() {
        let (mut made, mut elsewhere) = (pod.clone(), pod);
        made.metadata.uid = Some(format!("low-{at}-made"));
        made.spec.as_mut().unwrap().node_name = Some("a".to_owned());
        made.metadata.annotations.as_mut().unwrap().insert(label::PLACED.to_owned(), NOW.to_string());
        elsewhere.metadata.uid.clone_from(&made.metadata.uid);
        let placed_ms = |owner: &str| world.owners.get(owner)?.placed_ms();
        assert!(is_as_decided(None, Some(&made), placed_ms));
        assert!(!is_as_decided(None, Some(&elsewhere), placed_ms), "it has no node");
        assert!(!is_as_decided(None, Some(&made), |_| Some(NOW + 1)), "of another decision");
        assert!(!is_as_decided(Some(&made), None, placed_ms), "it is gone");
        let mut ended = made.clone();
        ended.status.get_or_insert_default().phase = Some("Failed".to_owned());
        assert!(!is_as_decided(Some(&made), Some(&ended), placed_ms), "it holds nothing any more");
        world.gangs.pods.push(made);
    }
    let placement = place_on_cluster(&world, now_ms);
    assert_eq!(
        placement
            .plan
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Patch { object, .. } if object.name.starts_with("low-")))
            .count(),
        2
    );
}

#[test]
fn a_pod_whose_node_the_cluster_chooses_stays_with_its_flavor() {
    let mut all = queued("job", 2, 0);
    let spread = json!([{"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "ScheduleAnyway"}]);
    all[0].spec.as_mut().unwrap().topology_spread_constraints = serde_json::from_value(spread).unwrap();
    let mut pool = node("b", 9);
    pool.metadata.labels.as_mut().unwrap().insert("pool".to_owned(), "new".to_owned());
    let mut world = view(vec![node("a", 9), pool], all);
    world.gangs.queues = queue(3);
    let spec = json!({"nodeLabels": {"pool": "new"}});
    world.gangs.queues.push(json!({"kind": "ResourceFlavor", "metadata": {"name": "f"}, "spec": spec}));
    let placement = place_on_cluster(&world, NOW);
    let selector = |action: &Action| {
        let Action::Patch { object, patch, .. } = action else { return None };
        (object.kind == "Pod").then(|| patch["spec"]["nodeSelector"].clone())
    };
    let selectors: Vec<Value> = placement.plan.actions.iter().filter_map(selector).collect();
    assert_eq!(selectors, [json!({"pool": "new"}), json!({HOSTNAME: "host-of-b"})]);
}

/// Two pods that are given the second of two flavors, whose nodes are tainted.
fn flavored(pods: Vec<Pod>) -> ClusterView {
    let mut pool = node("b", 9);
    pool.metadata.labels.as_mut().unwrap().insert("pool".to_owned(), "spot".to_owned());
    let taint = json!({"key": "cheap", "value": "yes", "effect": "NoSchedule"});
    pool.spec.get_or_insert_default().taints = Some(vec![serde_json::from_value(taint.clone()).unwrap()]);
    let mut world = view(vec![node("a", 9), pool], pods);
    world.gangs.queues = queue(0);
    let quota = |name: &str, cpus: u32| json!({"name": name, "resources": [{"name": "cpu", "nominalQuota": cpus}]});
    let group = &mut world.gangs.queues[0]["spec"]["resourceGroups"][0];
    group["flavors"] = json!([quota("none", 0), quota("spot", 2)]);
    let tolerations = json!([{"key": "cheap", "operator": "Exists"}]);
    let spec = json!({"nodeLabels": {"pool": "spot"}, "nodeTaints": [taint], "tolerations": tolerations});
    world.gangs.queues.push(json!({"kind": "ResourceFlavor", "metadata": {"name": "spot"}, "spec": spec}));
    world
}

#[test]
fn flavors_are_in_the_intent_and_on_the_pods_with_what_they_tolerate() {
    let check = |patch: &Value| {
        assert_eq!(patch["metadata"]["annotations"][label::FLAVORS], "cpu=spot");
        assert_eq!(patch["spec"]["tolerations"], json!([{"key": "cheap", "operator": "Exists"}]));
    };
    let mut world = flavored(queued("job", 2, 0));
    let all = writes(&place_on_cluster(&world, NOW));
    let [intent, gates @ ..] = all.as_slice() else { panic!("{all:?}") };
    for gate in gates {
        let Action::Patch { patch, .. } = gate else { panic!("{gate:?}") };
        check(patch);
        assert_eq!(patch["spec"]["nodeSelector"], json!({HOSTNAME: "host-of-b"}));
    }
    assert_eq!(gates.len(), 2);
    // Whoever wrote the intent died: the next one writes the same.
    carry_out(&mut world, intent);
    let is_pod = |action: &Action| matches!(action, Action::Patch { object, .. } if object.kind == "Pod");
    let again: Vec<Action> =
        writes(&place_on_cluster(&world, NOW + 1)).into_iter().filter(|action| is_pod(action)).collect();
    assert_eq!(again, gates);
    // The pods count for their flavor while they are on their way.
    world.gangs.pods.extend(queued("other", 1, 0));
    let owner = Owner { intent: None, ..world.owners["job"].clone() };
    world.owners.insert("other".to_owned(), owner);
    let placement = place_on_cluster(&world, NOW + 1);
    assert_eq!(placement.waiting[0].code, crate::gang::WaitCode::QuotaUsed, "{placement:?}");
}

#[test]
fn flavors_are_written_on_pods_before_they_are_bound_here() {
    let all = writes(&place_on_cluster(&flavored(bound_here(queued("job", 2, 0))), NOW));
    let kinds: Vec<&str> = all
        .iter()
        .map(|action| match action {
            Action::Patch { object, .. } => object.kind.as_str(),
            Action::Bind { .. } => "bind",
            Action::Create { .. } | Action::Delete { .. } | Action::PatchStatus { .. } | Action::Event { .. } => {
                panic!("{action:?}")
            }
        })
        .collect();
    assert_eq!(kinds, ["Job", "Pod", "Pod", "bind", "bind"]);
}
