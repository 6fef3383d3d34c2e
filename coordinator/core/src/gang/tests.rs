//! Queues, preemption and reservations over Kubernetes objects.

mod flavors;
mod network;
mod outlook;
mod shrink;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::{GangView, Placement, WaitCode, place};
use crate::{instant, label};

const NOW: i64 = 1_767_225_600_000;
const HOUR: i64 = 3_600_000;

struct World {
    view: GangView,
    now_ms: i64,
}

fn node(name: &str, cpus: u32, rack: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"cloud.provider.com/topology-rack": rack}},
        "status": {"allocatable": {"cpu": cpus.to_string(), "pods": "10"}},
    })
}

/// Pods of one gang that ask for so many CPUs each, created before now.
fn gang(name: &str, size: usize, cpus: u32, age_ms: i64, annotations: &Value) -> Vec<Value> {
    let one = |index: usize| {
        let mut pod = json!({
            "metadata": {
                "namespace": "team", "name": format!("{name}-{index}"), "uid": format!("{name}-{index}"), "resourceVersion": "1",
                "creationTimestamp": instant::text(NOW - age_ms),
                "annotations": {label::GANG: name, label::GANG_SIZE: size.to_string()},
                "labels": {label::REPLICA_INDEX: index.to_string()},
                "ownerReferences": [{"apiVersion": "x/v1", "kind": "Job", "name": name, "uid": name, "controller": true}],
            },
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpus.to_string()}}}]},
            "status": {"phase": "Pending"},
        });
        for (key, value) in annotations.as_object().unwrap() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        pod
    };
    (0..size).map(one).collect()
}

fn on(mut pods: Vec<Value>, node: &str, since_ms: i64) -> Vec<Value> {
    for pod in &mut pods {
        pod["spec"]["nodeName"] = json!(node);
        pod["status"] = json!({"phase": "Running", "startTime": instant::text(since_ms)});
    }
    pods
}

fn cluster_queue(name: &str, cpus: u32, more: &Value) -> Value {
    let quota = json!({"name": "cpu", "nominalQuota": cpus});
    let mut spec = json!({"resourceGroups": [{"coveredResources": ["cpu"], "flavors": [{"name": "default", "resources": [quota]}]}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": super::QUEUE_API_VERSION, "kind": "ClusterQueue", "metadata": {"name": name, "uid": name}, "spec": spec})
}

fn local_queue(name: &str, cluster_queue: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "team", "uid": name});
    json!({"apiVersion": super::QUEUE_API_VERSION, "kind": "LocalQueue", "metadata": metadata, "spec": {"clusterQueue": cluster_queue}})
}

fn world(nodes: &[Value], pods: Vec<Vec<Value>>, queues: Vec<Value>) -> World {
    let nodes = nodes.iter().map(|node| serde_json::from_value(node.clone()).unwrap()).collect();
    let pods = pods.into_iter().flatten().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    World { view: GangView { nodes, pods, queues, ..GangView::default() }, now_ms: NOW }
}

fn merge(target: &mut Value, patch: &Value) {
    let (Some(into), Some(from)) = (target.as_object_mut(), patch.as_object()) else {
        *target = patch.clone();
        return;
    };
    for (key, value) in from {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert_with(|| json!({})), value);
        }
    }
}

impl World {
    fn pod(&mut self, name: &str) -> &mut Pod {
        self.view.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap()
    }

    fn patch(&mut self, kind: &str, name: &str, patch: &Value) {
        if kind != "Pod" {
            let same = |object: &&mut Value| object["kind"] == kind && object["metadata"]["name"] == name;
            merge(self.view.queues.iter_mut().find(same).unwrap(), patch);
            return;
        }
        let pod = self.pod(name);
        let mut value = serde_json::to_value(&*pod).unwrap();
        merge(&mut value, patch);
        *pod = serde_json::from_value(value).unwrap();
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Patch { object, patch, .. } | Action::PatchStatus { object, patch, .. } => {
                self.patch(&object.kind, &object.name, patch);
            }
            Action::Delete { object, fence, .. } => {
                assert!(fence.uid.is_some() && fence.resource_version.is_some(), "{action:?}");
                let patch = json!({"metadata": {"deletionTimestamp": instant::text(NOW)}});
                self.patch("Pod", &object.name, &patch);
            }
            Action::Bind { pod, node, .. } => {
                let since = instant::text(self.now_ms);
                let patch = json!({"spec": {"nodeName": node}, "status": {"phase": "Running", "startTime": since}});
                self.patch("Pod", &pod.name, &patch);
            }
            Action::Event { .. } => {}
            Action::Create { .. } => panic!("{action:?}"),
        }
    }

    fn look(&self) -> Placement {
        place(&self.view, self.now_ms)
    }

    /// Decides, and carries all of it out.
    fn step(&mut self) -> Placement {
        let placement = self.look();
        placement.plan.actions.iter().for_each(|action| self.carry_out(action));
        placement
    }

    fn rests(&self) {
        assert_eq!(place(&self.view, self.now_ms + 5).plan.actions, [], "deciding again");
    }

    fn add(&mut self, pods: Vec<Value>) {
        self.view.pods.extend(pods.into_iter().map(|pod| serde_json::from_value::<Pod>(pod).unwrap()));
    }

    fn gone(&mut self) {
        self.view.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    }
}

/// What is done to pods, but for conditions: (verb, pod).
fn done(placement: &Placement) -> Vec<(&'static str, &str)> {
    fn object(action: &Action) -> Option<&ObjectRef> {
        match action {
            Action::Bind { pod: object, .. } | Action::Delete { object, .. } | Action::Patch { object, .. } => {
                Some(object)
            }
            Action::Create { .. } | Action::PatchStatus { .. } | Action::Event { .. } => None,
        }
    }
    let verb = |action: &'_ Action| match action {
        Action::Bind { .. } => "bind",
        Action::Delete { .. } => "delete",
        Action::Patch { .. } => "mark",
        Action::Create { .. } | Action::PatchStatus { .. } | Action::Event { .. } => "",
    };
    let both = placement.plan.actions.iter().filter_map(|action| Some((verb(action), object(action)?)));
    both.filter(|(_, object)| object.kind == "Pod").map(|(verb, object)| (verb, object.name.as_str())).collect()
}

fn codes(placement: &Placement) -> Vec<(&str, WaitCode)> {
    placement.waiting.iter().map(|gang| (gang.name.as_str(), gang.code)).collect()
}

fn queued(name: &str, priority: i32) -> Value {
    json!({label::QUEUE: name, label::PRIORITY: priority.to_string()})
}

/// A gang of low priority that runs, and one of a high one that needs its room.
fn contest() -> World {
    let low = on(gang("low", 2, 2, 2 * HOUR, &queued("q", 0)), "a", NOW - HOUR);
    let high = gang("high", 1, 3, 0, &queued("q", 5));
    let more = json!({"preemption": {"withinClusterQueue": "LowerPriority"}});
    world(&[node("a", 4, "r")], vec![low, high], vec![cluster_queue("team", 4, &more), local_queue("q", "team")])
}

#[test]
fn a_gang_that_makes_room_goes_as_a_whole_before_the_other_is_bound() {
    let mut world = contest();
    let first = world.step();
    assert_eq!(done(&first), [("mark", "low-0"), ("mark", "low-1")], "{:?}", first.plan);
    assert_eq!(codes(&first), [("high", WaitCode::RoomLeaving)]);
    assert_eq!(first.waiting[0].message, "its places are free as soon as the pods of team/low have left");
    assert_eq!(done(&world.step()), [("delete", "low-0"), ("delete", "low-1")]);
    assert_eq!(done(&world.step()), [], "its pods are still there");
    world.rests();
    world.gone();
    assert_eq!(done(&world.step()), [("bind", "high-0")]);
    world.step();
    world.rests();
}

#[test]
fn a_coordinator_that_dies_while_it_stops_a_gang_finishes_it() {
    let mut world = contest();
    let first = world.look();
    let marks: Vec<Action> = first
        .plan
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Patch { object, .. } if object.kind == "Pod"))
        .cloned()
        .collect();
    world.carry_out(&marks[0]);
    // The other gang has gone meanwhile: a gang of which a pod was told to go goes all the same.
    world.view.pods.retain(|pod| pod.metadata.name.as_deref() != Some("high-0"));
    assert_eq!(done(&world.step()), [("mark", "low-1")], "as long as one of them is not told, no mark goes");
    assert_eq!(done(&world.step()), [("delete", "low-0"), ("delete", "low-1")]);
    world.rests();
}

#[test]
fn quota_is_given_on_only_when_those_that_had_it_are_told() {
    let mut world = contest();
    // There is room beside them, so that nobody has to wait until they have left.
    world.view.nodes = vec![serde_json::from_value(node("a", 9, "r")).unwrap()];
    let first = world.look();
    let told = [("mark", "low-0"), ("mark", "low-1")];
    assert_eq!(done(&first), told, "a bind that is carried out before the marks could be the last thing that is done");
    world.step();
    assert_eq!(done(&world.step()), [("bind", "high-0"), ("delete", "low-0"), ("delete", "low-1")]);
}

#[test]
fn who_needs_no_quota_waits_for_nobody_to_be_told() {
    let mut world = contest();
    world.view.nodes = vec![serde_json::from_value(node("a", 9, "r")).unwrap()];
    world.add(gang("free", 1, 1, 0, &json!({})));
    assert_eq!(done(&world.step()), [("bind", "free-0"), ("mark", "low-0"), ("mark", "low-1")]);
}

#[test]
fn nobody_is_stopped_where_no_queue_says_so() {
    let mut world = contest();
    world.view.queues.clear();
    let placement = world.step();
    assert_eq!(done(&placement), []);
    assert_eq!(codes(&placement), [("high", WaitCode::InsufficientResources)]);
}

/// A gang that needs all of the node, which is half taken for another hour.
fn promise() -> World {
    let half = on(gang("half", 1, 2, 2 * HOUR, &json!({label::RUN_LIMIT: "7200"})), "a", NOW - HOUR);
    world(&[node("a", 4, "r")], vec![half, gang("big", 2, 2, 60_000, &json!({}))], Vec::new())
}

#[test]
fn what_is_set_aside_is_written_down_and_holds_for_whoever_comes_later() {
    let mut world = promise();
    let first = world.step();
    assert_eq!(done(&first), [("mark", "big-0")], "its reservation");
    let start = NOW + HOUR;
    let estimate = first.waiting[0].estimate.unwrap();
    assert_eq!((first.waiting[0].reserved, estimate.expected_ms, estimate.latest_ms), (true, start, Some(start)));
    world.rests();
    world.add(gang("endless", 1, 2, 1_000, &json!({})));
    let second = world.step();
    assert_eq!(codes(&second), [("big", WaitCode::InsufficientResources), ("endless", WaitCode::Reserved)]);
    let message = "there is room, but it is set aside for team/big, whose turn is before";
    assert_eq!((second.waiting[1].message.as_str(), done(&second)), (message, vec![]));
    world.add(gang("short", 1, 2, 0, &json!({label::RUN_LIMIT: "600"})));
    assert_eq!(done(&world.step()), [("bind", "short-0")], "it has ended before");
    world.step();
    world.rests();
    // What is written on the pod is all that is known: without it the later one starts.
    world.patch("Pod", "big-0", &json!({"metadata": {"annotations": {label::RESERVATION: null}}}));
    world.view.pods.retain(|pod| pod.metadata.name.as_deref() != Some("short-0"));
    let big_is_later = json!({"metadata": {"creationTimestamp": instant::text(NOW + 1_000)}});
    ["big-0", "big-1"].iter().for_each(|name| world.patch("Pod", name, &big_is_later));
    assert_eq!(done(&world.look())[0], ("bind", "endless-0"));
}

#[test]
fn an_estimate_does_not_keep_a_gang_that_runs_from_the_pod_that_it_lost() {
    let mut pods = on(gang("runs", 2, 2, 2 * HOUR, &json!({})), "a", NOW - HOUR);
    pods[1]["spec"]["nodeName"] = Value::Null;
    pods[1]["status"] = json!({"phase": "Pending"});
    let mut waits = gang("waits", 1, 4, HOUR, &json!({}));
    let note = json!({"startMs": NOW - 1, "promised": false, "places": [[0, "a", 1]]});
    waits[0]["metadata"]["annotations"][label::RESERVATION] = json!(note.to_string());
    let mut both = world(&[node("a", 4, "r")], vec![pods, waits], Vec::new());
    // Alone, the reservation keeps the room from whoever comes.
    let mut alone = World { view: both.view.clone(), now_ms: NOW };
    alone.view.pods.retain(|pod| pod.metadata.name.as_deref() != Some("runs-1"));
    alone.add(gang("new", 1, 2, 0, &json!({label::RUN_LIMIT: "60"})));
    assert_eq!(done(&alone.look()), []);
    alone.now_ms += super::scene::OVERDUE_MS;
    assert!(done(&alone.look()).contains(&("bind", "new-0")), "it was wrong for too long");
    assert!(done(&both.step()).contains(&("bind", "runs-1")));
}

#[test]
fn a_lost_pod_comes_back_to_the_rack_of_the_others() {
    let near = json!({label::REQUIRED_TOPOLOGY: "cloud.provider.com/topology-rack"});
    let mut pods = on(gang("runs", 2, 2, 2 * HOUR, &near), "c", NOW - HOUR);
    pods[1]["spec"]["nodeName"] = Value::Null;
    pods[1]["status"] = json!({"phase": "Pending"});
    let nodes = [node("a", 2, "left"), node("b", 2, "left"), node("c", 2, "right"), node("d", 2, "right")];
    let placement = world(&nodes, vec![pods.clone()], Vec::new()).look();
    let found = placement
        .plan
        .actions
        .iter()
        .find_map(|action| if let Action::Bind { node, .. } = action { Some(node.as_str()) } else { None });
    assert_eq!(found, Some("d"));
    let placement = world(&nodes[..3], vec![pods], Vec::new()).look();
    assert_eq!((done(&placement), placement.waiting.len()), (vec![], 1), "{:?}", placement.plan);
}

#[test]
fn quota_is_what_queues_say_with_numbers() {
    let runs = on(gang("runs", 1, 3, HOUR, &queued("q", 0)), "a", NOW - HOUR);
    let pods = |cpus: u32| vec![runs.clone(), gang("new", 1, cpus, 0, &queued("q", 0))];
    let queues = |more: &Value| vec![cluster_queue("team", 4, more), local_queue("q", "team")];
    let used = world(&[node("a", 16, "r")], pods(2), queues(&json!({}))).look();
    assert_eq!(codes(&used), [("new", WaitCode::QuotaUsed)]);
    assert_eq!(used.waiting[0].message, "it asks for 2 CPUs, of the quota of ClusterQueue team 1 CPU is left");
    assert_eq!(used.waiting[0].queue, "team");
    let above = world(&[node("a", 16, "r")], pods(5), queues(&json!({}))).look();
    assert_eq!(codes(&above), [("new", WaitCode::AboveQuota)]);
    // What the other queue of the cohort does not use can be borrowed, up to a limit.
    let cohort = json!({"cohort": "all"});
    let mut lent = queues(&cohort);
    lent.push(cluster_queue("other", 2, &cohort));
    assert_eq!(done(&world(&[node("a", 16, "r")], pods(2), lent.clone()).look()), [("bind", "new-0")]);
    lent[0]["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["borrowingLimit"] = json!("500m");
    assert_eq!(codes(&world(&[node("a", 16, "r")], pods(2), lent).look()), [("new", WaitCode::QuotaUsed)]);
    let stopped = world(&[node("a", 16, "r")], pods(1), queues(&json!({"stopPolicy": "Hold"}))).look();
    assert_eq!(codes(&stopped), [("new", WaitCode::QueueStopped)]);
    let elsewhere = gang("lost", 1, 1, 0, &queued("nowhere", 0));
    let missing = world(&[node("a", 16, "r")], vec![elsewhere.clone()], queues(&json!({}))).look();
    assert_eq!(codes(&missing), [("lost", WaitCode::NoQueue)]);
    assert_eq!(done(&world(&[node("a", 16, "r")], vec![elsewhere], Vec::new()).look()), [("bind", "lost-0")]);
}

#[test]
fn a_queue_is_for_the_namespaces_that_it_selects() {
    let selecting = |selector: Value| {
        let queues = vec![cluster_queue("team", 4, &json!({"namespaceSelector": selector})), local_queue("q", "team")];
        let mut world = world(&[node("a", 16, "r")], vec![gang("job", 1, 1, 0, &queued("q", 0))], queues);
        let labels = BTreeMap::from([("tier".to_owned(), "research".to_owned())]);
        world.view.namespaces = BTreeMap::from([("team".to_owned(), labels)]);
        world
    };
    let named = json!({"matchLabels": {"kubernetes.io/metadata.name": "team"}});
    let tiers = json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["research", "free"]}]});
    for selector in [json!(null), json!({}), json!({"matchLabels": {"tier": "research"}}), named, tiers] {
        assert_eq!(done(&selecting(selector.clone()).look()), [("bind", "job-0")], "{selector}");
    }
    let absent = json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
    for selector in [json!({"matchLabels": {"tier": "free"}}), absent, json!("all")] {
        let placement = selecting(selector.clone()).look();
        assert_eq!(codes(&placement), [("job", WaitCode::NoQueue)], "{selector}");
        assert_eq!(placement.waiting[0].message, "ClusterQueue team takes nothing of namespace team");
    }
    let mut bad = selecting(json!("all"));
    bad.step();
    assert_eq!(active(&bad, 0).0, "False");
    // What runs there stays.
    let mut runs = selecting(json!({"matchLabels": {"tier": "free"}}));
    runs.view.pods.clear();
    runs.add(on(gang("old", 1, 1, HOUR, &queued("q", 0)), "a", NOW - HOUR));
    assert_eq!(done(&runs.step()), []);
}

#[test]
fn a_queue_that_is_drained_stops_what_runs_in_it_and_nothing_else() {
    let hold = |of: &str, policy: &str| {
        let running = |name: &str, queue: &str| on(gang(name, 2, 1, HOUR, &queued(queue, 0)), "a", NOW - HOUR);
        let mut queues = vec![
            cluster_queue("team", 4, &json!({})),
            local_queue("q", "team"),
            cluster_queue("others", 4, &json!({})),
            local_queue("o", "others"),
        ];
        let at = queues.iter().position(|queue| queue["metadata"]["name"] == of).unwrap();
        queues[at]["spec"]["stopPolicy"] = json!(policy);
        world(&[node("a", 16, "r")], vec![running("mine", "q"), running("theirs", "o")], queues)
    };
    for (of, title) in [("team", "ClusterQueue team"), ("q", "LocalQueue q")] {
        let mut world = hold(of, "HoldAndDrain");
        let first = world.step();
        assert_eq!(done(&first), [("mark", "mine-0"), ("mark", "mine-1")]);
        let told = first.plan.actions.iter().find_map(|action| {
            let Action::Event { reason, message, .. } = action else { return None };
            (reason == "Preempted").then(|| message.clone())
        });
        assert_eq!(told.unwrap(), format!("team/mine is stopped, as the stopPolicy of {title} says"));
        assert_eq!(done(&world.step()), [("delete", "mine-0"), ("delete", "mine-1")]);
        world.gone();
        world.step();
        world.rests();
        // Its successors wait.
        world.add(gang("mine", 2, 1, 0, &queued("q", 0)));
        assert_eq!(codes(&world.step()), [("mine", WaitCode::QueueStopped)]);
    }
    let mut held = hold("team", "Hold");
    assert_eq!(done(&held.step()), [], "what runs goes on");
    // What a gang lost is given back to it while its queue is held, and not while it is drained.
    for (policy, bound) in [("Hold", 1), ("HoldAndDrain", 0)] {
        let mut world = hold("team", policy);
        world.patch("Pod", "mine-1", &json!({"spec": {"nodeName": null}, "status": {"phase": "Pending"}}));
        let verbs: Vec<&str> = done(&world.look()).into_iter().map(|(verb, _)| verb).collect();
        assert_eq!(verbs.iter().filter(|verb| **verb == "bind").count(), bound, "{policy}");
    }
}

/// A flavor of nodes with these labels.
fn flavor(name: &str, labels: &Value) -> Value {
    let metadata = json!({"name": name, "uid": name});
    json!({"apiVersion": super::QUEUE_API_VERSION, "kind": "ResourceFlavor", "metadata": metadata, "spec": {"nodeLabels": labels}})
}

#[test]
fn quota_of_a_flavor_is_of_its_nodes() {
    let pool = |name: &str, pool: &str| {
        let mut node = node(name, 4, "r");
        node["metadata"]["labels"]["pool"] = json!(pool);
        node
    };
    let nodes = [node("plain", 4, "r"), pool("new", "a100"), pool("old", "v100")];
    let queues = |flavors: &[&str]| {
        let mut queue = cluster_queue("team", 4, &json!({}));
        let group = &mut queue["spec"]["resourceGroups"][0]["flavors"];
        let quota = group[0]["resources"].clone();
        *group = flavors.iter().map(|name| json!({"name": name, "resources": quota})).collect();
        let labels = |pool: &str| json!({ "pool": pool });
        vec![queue, local_queue("q", "team"), flavor("a100", &labels("a100")), flavor("v100", &labels("v100"))]
    };
    let nodes_of = |placement: &Placement| -> Vec<String> {
        let node = |action: &Action| if let Action::Bind { node, .. } = action { Some(node.clone()) } else { None };
        placement.plan.actions.iter().filter_map(node).collect()
    };
    let look = |flavors: &[&str], gang: Vec<Value>| world(&nodes, vec![gang], queues(flavors)).look();
    let job = |cpus: u32| gang("job", 1, cpus, 0, &queued("q", 0));
    assert_eq!(nodes_of(&look(&["a100"], job(3))), ["new"]);
    assert_eq!(nodes_of(&look(&["v100"], job(3))), ["old"]);
    // Of several, one for all pods; of one that nobody has described, any node.
    assert_eq!(nodes_of(&look(&["a100", "v100"], gang("job", 2, 2, 0, &queued("q", 0)))), ["new"; 2]);
    assert_eq!(
        codes(&look(&["a100", "v100"], gang("job", 2, 3, 0, &queued("q", 0)))),
        [("job", WaitCode::AboveQuota)],
        "no flavor has quota for both"
    );
    assert_eq!(nodes_of(&look(&["default"], gang("job", 1, 3, 0, &queued("q", 0)))).len(), 1);
    // A pod that asks for other nodes finds none, and is told why.
    let mut elsewhere = job(1);
    elsewhere[0]["spec"]["nodeSelector"] = json!({"pool": "v100"});
    let placement = look(&["a100"], elsewhere);
    assert_eq!(codes(&placement), [("job", WaitCode::NoMatchingNode)]);
    let hint = placement.waiting[0].hint.as_ref().unwrap();
    assert!(hint.contains("the flavors of ClusterQueue team are of nodes with pool=a100"), "{hint}");
    // Jobs of no queue go anywhere.
    assert_eq!(nodes_of(&look(&["a100"], gang("free", 3, 3, 0, &json!({})))).len(), 3);
}

fn active(world: &World, at: usize) -> (String, String) {
    let condition = &world.view.queues[at]["status"]["conditions"][0];
    (condition["status"].as_str().unwrap().to_owned(), condition["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_bad_queue_is_told_so_and_nothing_else_stops() {
    let mut bad = cluster_queue("bad", 4, &json!({"queueingStrategy": "Sometimes"}));
    bad["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"] = json!("much");
    let queues =
        vec![cluster_queue("team", 4, &json!({})), local_queue("q", "team"), bad, local_queue("astray", "none")];
    let mut world = world(&[node("a", 4, "r")], vec![gang("job", 1, 1, 0, &queued("q", 0))], queues);
    let placement = world.step();
    assert_eq!(done(&placement), [("bind", "job-0")]);
    assert_eq!(active(&world, 0).0, "True");
    let (status, message) = active(&world, 2);
    assert_eq!(status, "False");
    assert!(message.contains("nominalQuota of cpu") && message.contains("StrictFIFO"), "{message}");
    assert_eq!(active(&world, 3), ("False".to_owned(), "there is no ClusterQueue \"none\"".to_owned()));
    world.step();
    world.rests();
    assert_eq!(world.view.queues[0]["status"]["admittedWorkloads"], 1);
}

#[test]
fn what_a_queue_used_is_written_when_it_changes_and_decays() {
    let runs = on(gang("runs", 1, 4, HOUR, &queued("q", 0)), "a", NOW - HOUR);
    let mut world =
        world(&[node("a", 4, "r")], vec![runs], vec![cluster_queue("team", 4, &json!({})), local_queue("q", "team")]);
    world.step();
    world.rests();
    let usage = |world: &World| -> super::queue::Usage {
        serde_json::from_str(world.view.queues[0]["metadata"]["annotations"][label::USAGE].as_str().unwrap()).unwrap()
    };
    assert_eq!((usage(&world).used["cpu"], usage(&world).decayed.len()), (4000, 0));
    world.now_ms += 24 * HOUR;
    world.view.pods.clear();
    world.step();
    assert_eq!((usage(&world).used.len(), usage(&world).decayed["cpu"]), (0, 2000), "half of it after a day");
    assert_eq!(usage(&world).as_of(world.now_ms + 24 * HOUR).decayed["cpu"], 1000);
}

#[test]
fn the_example_makes_sense() {
    let text = include_str!("../../../../examples/queues.yaml");
    let queues: Vec<Value> = text.split("\n---\n").map(|one| serde_saphyr::from_str(one).unwrap()).collect();
    let mut world = world(&[node("a", 4, "r")], vec![], queues);
    world.step();
    let all: Vec<String> = (0..world.view.queues.len()).map(|at| active(&world, at).0).collect();
    assert_eq!(all, ["True"; 4]);
}

/// Half of what was decided could be written: two gangs have the same places.
#[test]
fn reservations_that_overlap_do_not_keep_both_gangs_from_starting() {
    let note = json!({"startMs": NOW - 1, "promised": false, "places": [[0, "a", 1]]}).to_string();
    let note = json!({ label::RESERVATION: note });
    let pods = vec![gang("one", 1, 3, HOUR, &note), gang("two", 1, 3, HOUR, &note)];
    let placement = world(&[node("a", 4, "r")], pods, vec![]).look();
    assert!(done(&placement).contains(&("bind", "one-0")), "{:?}", placement.plan);
}

#[test]
fn gangs_that_ask_for_the_same_share_one_shape() {
    let near = json!({label::REQUIRED_TOPOLOGY: "cloud.provider.com/topology-rack"});
    let mut other = gang("named", 2, 1, 0, &json!({}));
    other.iter_mut().for_each(|pod| pod["metadata"]["labels"][label::REPLICA_TYPE] = json!("master"));
    let gangs = vec![
        gang("a", 2, 1, 0, &json!({})),
        gang("b", 2, 1, HOUR, &queued("q", 3)),
        gang("larger", 2, 2, 0, &json!({})),
        gang("more", 3, 1, 0, &json!({})),
        other,
        gang("near", 2, 1, 0, &near),
        on(gang("runs", 2, 1, HOUR, &json!({})), "n", NOW - HOUR),
    ];
    let view = super::picture(&world(&[node("n", 8, "r")], gangs, Vec::new()).view, NOW);
    let first = &view.gangs[0].shape;
    let shared: Vec<bool> = view.gangs.iter().map(|gang| std::sync::Arc::ptr_eq(&gang.shape, first)).collect();
    assert_eq!(shared, [true, true, false, false, false, false, false]);
}
