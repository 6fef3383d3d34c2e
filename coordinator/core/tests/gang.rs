//! The gang scheduler: all or nothing, in turn, with reasons.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_coordinator_core::gang::{GangView, Placement, WaitCode, place};
use trainyard_proto::plan::Action;
use world::{START_MS, node};

/// One pod of a gang.
fn pod(gang: &str, index: usize, size: usize, requests: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{gang}-{index}"), "namespace": "default", "uid": format!("{gang}-{index}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"training.kubeflow.org/replica-index": index.to_string()},
            "annotations": {"trainyard.dev/gang": gang, "trainyard.dev/gang-size": size.to_string()},
        },
        "spec": {"containers": [{"name": "main", "resources": {"requests": requests}}], "schedulingGates": [{"name": "trainyard.dev/gang"}]},
        "status": {"phase": "Pending"},
    }))
    .unwrap()
}

fn gang(name: &str, size: usize, requests: &Value) -> Vec<Pod> {
    (0..size).map(|index| pod(name, index, size, requests.clone())).collect()
}

fn with(mut pod: Pod, patch: &Value) -> Pod {
    let mut value = serde_json::to_value(&pod).unwrap();
    for (name, part) in patch.as_object().unwrap() {
        for (key, inner) in part.as_object().unwrap() {
            value[name][key] = inner.clone();
        }
    }
    pod = serde_json::from_value(value).unwrap();
    pod
}

fn view(nodes: Vec<Node>, pods: Vec<Pod>) -> GangView {
    GangView { nodes, pods, ..GangView::default() }
}

fn bound(placement: &Placement) -> BTreeMap<String, String> {
    let binds = placement.plan.actions.iter();
    binds
        .filter_map(|action| {
            if let Action::Bind { pod, node, .. } = action { Some((pod.name.clone(), node.clone())) } else { None }
        })
        .collect()
}

fn codes(placement: &Placement) -> Vec<(String, WaitCode)> {
    placement.waiting.iter().map(|gang| (gang.name.clone(), gang.code)).collect()
}

#[test]
fn a_gang_starts_whole_or_not_at_all() {
    let fits = view(vec![node("a", "4", "8Gi")], gang("g", 4, &json!({"cpu": "1"})));
    assert_eq!(bound(&place(&fits, START_MS)).len(), 4);
    let too_many = view(vec![node("a", "4", "8Gi")], gang("g", 5, &json!({"cpu": "1"})));
    let placement = place(&too_many, START_MS);
    assert_eq!(bound(&placement).len(), 0);
    assert_eq!(codes(&placement), [("g".to_owned(), WaitCode::TooLarge)]);
    assert_eq!(
        placement.waiting[0].message,
        "its 5 pods need 5 CPUs, node a has 4 CPUs allocatable of which 4 CPUs are free"
    );
    let patches = placement.plan.actions.iter().filter(|action| matches!(action, Action::PatchStatus { .. })).count();
    assert_eq!(patches, 5, "each pod is told");
}

#[test]
fn a_gang_waits_until_all_its_pods_exist() {
    let mut pods = gang("g", 3, &json!({}));
    pods.pop();
    let view = view(vec![node("a", "4", "8Gi")], pods);
    let placement = place(&view, START_MS);
    assert_eq!(codes(&placement), [("g".to_owned(), WaitCode::GangIncomplete)]);
    assert_eq!(placement.waiting[0].message, "2 of 3 pods of the gang exist");
    assert_eq!(placement.plan.actions, [], "a young gang is still gathering");
    let later = placement.plan.wake_at_ms.unwrap();
    assert_eq!(place(&view, later).plan.actions.len(), 3, "both pods are told, with one event");
}

#[test]
fn a_replica_that_starts_again_joins_its_gang() {
    let mut pods = gang("g", 3, &json!({"cpu": "1"}));
    pods[0] = with(pods[0].clone(), &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}));
    pods[1] = with(pods[1].clone(), &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}}));
    let placement = place(&view(vec![node("a", "2", "8Gi")], pods), START_MS);
    assert_eq!(bound(&placement).into_keys().collect::<Vec<_>>(), ["g-2"]);
}

fn given_back(placement: &Placement) -> Vec<&str> {
    let actions = placement.plan.actions.iter();
    actions
        .filter_map(|action| if let Action::Delete { object, .. } = action { Some(object.name.as_str()) } else { None })
        .collect()
}

/// Three places for a gang of four, of which the last has a place: others took the room of the ones that it lost.
fn gang_without_room(last: &Value) -> GangView {
    let mut pods = gang("g", 4, &json!({"cpu": "1"}));
    pods[3] = with(
        pods[3].clone(),
        &json!({"spec": {"nodeName": "a"}, "metadata": {"resourceVersion": "7"}, "status": last}),
    );
    pods.push(with(
        pod("other", 0, 1, json!({"cpu": "1"})),
        &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
    ));
    view(vec![node("a", "4", "8Gi")], pods)
}

#[test]
fn a_gang_that_lost_its_room_before_it_ran_gives_back_its_places() {
    let pulling = json!([{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}}]);
    for last in [json!({}), json!({ "containerStatuses": pulling })] {
        let mut view = gang_without_room(&last);
        let placement = place(&view, START_MS);
        assert_eq!(given_back(&placement), ["g-3"]);
        assert!(bound(&placement).is_empty());
        let fenced = |action: &Action| matches!(action, Action::Delete { fence, .. } if fence.resource_version.as_deref() == Some("7") && fence.uid.as_deref() == Some("g-3"));
        assert!(placement.plan.actions.iter().any(fenced), "a pod that started meanwhile stays");
        view.pods[3].metadata.deletion_timestamp = view.pods[3].metadata.creation_timestamp.clone();
        let again = place(&view, START_MS);
        assert_eq!((given_back(&again).len(), bound(&again).len()), (0, 0));
        assert_eq!(again.waiting, placement.waiting, "it says at once what it waits for");
    }
}

#[test]
fn a_gang_that_runs_keeps_its_places_while_a_replica_waits() {
    let ended = json!([{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}]);
    for last in [json!({"phase": "Running"}), json!({"phase": "Succeeded"}), json!({ "containerStatuses": ended })] {
        let view = gang_without_room(&last);
        assert_eq!(given_back(&place(&view, START_MS)), [""; 0], "{last}");
    }
}

#[test]
fn a_begun_gang_whose_pods_are_still_being_made_keeps_its_places() {
    let mut view = gang_without_room(&json!({}));
    view.pods.remove(0);
    assert_eq!(given_back(&place(&view, START_MS)), [""; 0]);
}

#[test]
fn what_others_use_is_not_free() {
    let other = with(
        pod("other", 0, 1, json!({"cpu": "3"})),
        &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
    );
    let mut pods = gang("g", 2, &json!({"cpu": "1"}));
    pods.push(other);
    let placement = place(&view(vec![node("a", "4", "8Gi")], pods), START_MS);
    assert_eq!(codes(&placement), [("g".to_owned(), WaitCode::InsufficientResources)]);
    assert_eq!(
        placement.waiting[0].message,
        "its 2 pods need 2 CPUs, node a has 4 CPUs allocatable of which 1 CPU is free"
    );
}

#[test]
fn gpus_that_are_not_there_are_named() {
    let pods = gang("g", 1, &json!({"nvidia.com/gpu": "1"}));
    let placement = place(&view(vec![node("a", "4", "8Gi")], pods), START_MS);
    assert_eq!(placement.waiting[0].code, WaitCode::TooLarge);
    assert_eq!(placement.waiting[0].message, "it needs 1 GPU, node a has 0 GPUs allocatable of which 0 GPUs are free");
    assert!(placement.waiting[0].hint.as_ref().unwrap().contains("resources.gpu"));
}

#[test]
fn reasons_by_table() {
    let cordoned = {
        let mut node = node("a", "4", "8Gi");
        node.spec.get_or_insert_default().unschedulable = Some(true);
        node
    };
    let tainted: Node = {
        let mut value = serde_json::to_value(node("a", "4", "8Gi")).unwrap();
        value["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
        serde_json::from_value(value).unwrap()
    };
    let sleeping: Node = {
        let mut value = serde_json::to_value(node("a", "4", "8Gi")).unwrap();
        value["status"]["conditions"][0]["status"] = json!("False");
        serde_json::from_value(value).unwrap()
    };
    let plain = || pod("g", 0, 1, json!({"cpu": "1"}));
    let selecting = with(plain(), &json!({"spec": {"nodeSelector": {"zone": "b"}}}));
    let tolerant = with(plain(), &json!({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}));
    let gated = with(plain(), &json!({"spec": {"schedulingGates": [{"name": "example.com/mine"}]}}));
    let wrong = pod("g", 0, 1, json!({"cpu": "much"}));
    for (name, nodes, pod, expected) in [
        ("no nodes", vec![], plain(), Some(WaitCode::NoNodes)),
        ("not ready", vec![sleeping], plain(), Some(WaitCode::NoNodes)),
        ("cordoned", vec![cordoned], plain(), Some(WaitCode::NoMatchingNode)),
        ("tainted", vec![tainted.clone()], plain(), Some(WaitCode::NoMatchingNode)),
        ("tolerated", vec![tainted], tolerant, None),
        ("selector", vec![node("a", "4", "8Gi")], selecting, Some(WaitCode::NoMatchingNode)),
        ("foreign gate", vec![node("a", "4", "8Gi")], gated, Some(WaitCode::Gated)),
        ("bad request", vec![node("a", "4", "8Gi")], wrong, Some(WaitCode::BadRequest)),
        (
            "no piece large enough",
            vec![node("a", "1", "8Gi"), node("b", "1", "8Gi")],
            pod_of("1500m"),
            Some(WaitCode::TooLarge),
        ),
        ("fits", vec![node("a", "4", "8Gi")], plain(), None),
    ] {
        let placement = place(&view(nodes, vec![pod]), START_MS);
        assert_eq!(placement.waiting.first().map(|gang| gang.code), expected, "{name}: {:?}", placement.waiting);
        assert!(placement.waiting.iter().all(|gang| !gang.message.is_empty()), "{name}");
    }
}

fn pod_of(cpu: &str) -> Pod {
    pod("g", 0, 1, json!({"cpu": cpu}))
}

#[test]
fn turns_go_by_priority_then_age_and_begun_gangs_first() {
    let prioritised = |name: &str, priority: &str| {
        let mut pod = pod(name, 0, 1, json!({"cpu": "1"}));
        pod.metadata.annotations.as_mut().unwrap().insert("trainyard.dev/priority".to_owned(), priority.to_owned());
        pod
    };
    let older = with(prioritised("older", "1"), &json!({"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}}));
    let pods = vec![prioritised("low", "0"), prioritised("high", "5"), prioritised("same", "1"), older];
    let placement = place(&view(vec![node("a", "2", "8Gi")], pods), START_MS);
    assert_eq!(bound(&placement).into_keys().collect::<Vec<_>>(), ["high-0", "older-0"]);
    assert_eq!(codes(&placement).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["same", "low"]);
}

#[test]
fn a_gang_with_a_smaller_minimum_starts_with_it() {
    let mut pods = gang("g", 3, &json!({"cpu": "1"}));
    for pod in &mut pods {
        pod.metadata.annotations.as_mut().unwrap().insert("trainyard.dev/gang-size".to_owned(), "2".to_owned());
    }
    let placement = place(&view(vec![node("a", "2", "8Gi")], pods), START_MS);
    assert_eq!(bound(&placement).into_keys().collect::<Vec<_>>(), ["g-0", "g-1"]);
    assert_eq!(placement.waiting[0].pods, ["g-2"]);
}

#[test]
fn a_gang_takes_the_fewest_nodes_and_the_tightest() {
    let nodes = vec![node("a", "2", "8Gi"), node("b", "8", "8Gi"), node("c", "4", "8Gi")];
    let placement = place(&view(nodes, gang("g", 4, &json!({"cpu": "1"}))), START_MS);
    assert_eq!(bound(&placement).into_values().collect::<BTreeSet<_>>(), BTreeSet::from(["c".to_owned()]));
}

#[test]
fn what_pods_prefer_comes_before_what_is_tight_and_after_what_fits() {
    let not = |name: &str| json!({"key": "metadata.name", "operator": "NotIn", "values": [name]});
    let preferring = |names: &[&str]| {
        let fields: Vec<Value> = names.iter().map(|name| not(name)).collect();
        json!([{"weight": 100, "preference": {"matchFields": fields}}])
    };
    let place_with = |nodes: Vec<Node>, preferred: &Value| {
        let affinity = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}});
        let pods = gang("a", 2, &json!({"cpu": "1"})).into_iter().map(|pod| with(pod, &affinity)).collect();
        let mut nodes: Vec<String> = bound(&place(&view(nodes, pods), START_MS)).into_values().collect();
        nodes.sort_unstable();
        nodes
    };
    let nodes = || vec![node("tight", "2", "8Gi"), node("wide", "8", "8Gi")];
    assert_eq!(place_with(nodes(), &json!([])), ["tight", "tight"]);
    assert_eq!(place_with(nodes(), &preferring(&["tight"])), ["wide", "wide"]);
    assert_eq!(place_with(nodes(), &preferring(&["tight", "wide"])), ["tight", "tight"], "nothing else is there");
    let half = vec![node("bad", "8", "8Gi"), node("good", "1", "8Gi")];
    assert_eq!(place_with(half, &preferring(&["bad"])), ["bad", "good"], "what does not fit elsewhere");
}

#[test]
fn ten_thousand_pods_on_a_thousand_nodes_are_placed_in_one_go() {
    let nodes: Vec<Node> = (0..1000).map(|at| node(&format!("n{at:04}"), "16", "64Gi")).collect();
    let pods: Vec<Pod> = (0..10).flat_map(|at| gang(&format!("g{at}"), 1000, &json!({"cpu": "1"}))).collect();
    let placement = place(&view(nodes, pods), START_MS);
    assert_eq!(bound(&placement).len(), 10_000);
}

/// Some nodes, some gangs of one shape each, some of their pods bound.
fn worlds() -> impl Strategy<Value = GangView> {
    let nodes = prop::collection::vec((1..9_i64, 1..5_i64), 0..4);
    let begun = prop::sample::select(vec![None, Some("Running"), Some("Pending")]);
    let gangs = prop::collection::vec((1..5_usize, 1..5_i64, 0..2_i64, begun), 0..6);
    (nodes, gangs).prop_map(|(nodes, gangs)| {
        let nodes = nodes
            .iter()
            .enumerate()
            .map(|(at, (cpu, memory))| node(&format!("n{at}"), &cpu.to_string(), &format!("{memory}Gi")))
            .collect();
        let pods = gangs
            .iter()
            .enumerate()
            .flat_map(|(at, (size, cpu, memory, bound))| {
                let mut pods =
                    gang(&format!("g{at}"), *size, &json!({"cpu": cpu.to_string(), "memory": format!("{memory}Gi")}));
                if let Some(phase) = bound {
                    pods[0] = with(pods[0].clone(), &json!({"spec": {"nodeName": "n0"}, "status": {"phase": phase}}));
                }
                pods
            })
            .collect();
        view(nodes, pods)
    })
}

fn gang_of(name: &str) -> &str {
    name.split('-').next().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gangs_are_placed_whole_within_what_is_free(view in worlds()) {
        let placement = place(&view, START_MS);
        let bound = bound(&placement);
        let waiting: BTreeSet<&str> = placement.waiting.iter().map(|gang| gang.name.as_str()).collect();
        for pod in view.pods.iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.is_none()) {
            let name = pod.metadata.name.as_deref().unwrap();
            prop_assert_ne!(bound.contains_key(name), waiting.contains(gang_of(name)), "{} either starts or waits with its gang", name);
        }
        let given_back = given_back(&placement);
        for pod in view.pods.iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some()) {
            let (name, idle) = (pod.metadata.name.as_deref().unwrap(), pod.status.as_ref().unwrap().phase.as_deref() == Some("Pending"));
            let gives_back = idle && waiting.contains(gang_of(name));
            prop_assert_eq!(given_back.contains(&name), gives_back, "{} keeps its place only with its gang", name);
        }
        for node in &view.nodes {
            let name = node.metadata.name.as_deref().unwrap();
            let capacity: i64 = node.status.as_ref().unwrap().allocatable.as_ref().unwrap()["cpu"].0.parse().unwrap();
            let cpus = |pods: &mut dyn Iterator<Item = &Pod>| pods.map(|pod| pod.spec.as_ref().unwrap().containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0.parse::<i64>().unwrap()).sum::<i64>();
            let before = cpus(&mut view.pods.iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(name)));
            let added = cpus(&mut view.pods.iter().filter(|pod| bound.get(pod.metadata.name.as_deref().unwrap()).is_some_and(|at| at == name)));
            prop_assert!(added == 0 || before + added <= capacity, "{}: {} + {} of {}", name, before, added, capacity);
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(view in worlds(), seed in any::<u64>()) {
        let mut shuffled = view.clone();
        let key = |name: &Option<String>| name.as_deref().unwrap().bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)).rotate_left(7));
        shuffled.pods.sort_by_key(|pod| key(&pod.metadata.name));
        shuffled.nodes.sort_by_key(|node| key(&node.metadata.name));
        prop_assert_eq!(place(&view, START_MS), place(&shuffled, START_MS));
    }

    #[test]
    fn one_more_node_never_keeps_the_first_gang_from_starting(view in worlds()) {
        let first = |placement: &Placement| bound(placement).contains_key("g0-0");
        // Alone: gangs that are begun have their turn before it, and may use the new node to come in its way.
        let mut view = view;
        view.pods.retain(|pod| gang_of(pod.metadata.name.as_deref().unwrap()) == "g0" || pod.spec.as_ref().unwrap().node_name.is_some());
        let mut more = view.clone();
        more.nodes.push(node("n9", "4", "4Gi"));
        let started = first(&place(&view, START_MS));
        prop_assert!(!started || first(&place(&more, START_MS)));
    }
}
