//! What would be: nodes, jobs and quotas that are only supposed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{HOUR, NOW, World, cluster_queue, contest, gang, local_queue, node, on, promise, queued, world};
use crate::gang::{
    Fate, GangView, NewNodes, Outlook, Shift, SupposeError, Supposition, WaitCode, outlook, place, suppose,
};
use crate::label;
use crate::schedule::Estimate;

/// Numbers that look like chance and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// A small cluster in the middle of its life: what its scheduler decided is carried out.
fn lived(seed: u64, waiting: usize) -> GangView {
    let mut dice = Dice(seed);
    let racks = ["left", "right"];
    let nodes: Vec<Value> = (0..1 + dice.below(4))
        .map(|at| node(&format!("n{at}"), 2 + u32::try_from(dice.below(5)).unwrap(), racks[usize::from(at % 2 == 1)]))
        .collect();
    let more =
        json!({"cohort": "all", "preemption": {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"}});
    let queues = vec![
        cluster_queue("a", 4, &more),
        cluster_queue("b", 6, &more),
        local_queue("qa", "a"),
        local_queue("qb", "b"),
    ];
    let annotations = |dice: &mut Dice| {
        let mut all = if dice.one_in(3) {
            json!({})
        } else {
            let priority = i32::try_from(dice.below(3)).unwrap();
            queued(if dice.one_in(2) { "qa" } else { "qb" }, priority)
        };
        if !dice.one_in(3) {
            all[label::RUN_LIMIT] = json!((1800 * (1 + dice.below(6))).to_string());
        }
        if dice.one_in(4) {
            all[label::REQUIRED_TOPOLOGY] = json!("cloud.provider.com/topology-rack");
        }
        all
    };
    let some = |dice: &mut Dice, name: &str, age_ms: i64| {
        let (size, cpus) = (1 + dice.below(3), 1 + dice.below(3));
        let all = annotations(dice);
        gang(name, usize::try_from(size).unwrap(), u32::try_from(cpus).unwrap(), age_ms, &all)
    };
    let earlier: Vec<Vec<Value>> = (0..dice.below(5)).map(|at| some(&mut dice, &format!("r{at}"), 2 * HOUR)).collect();
    let mut lived = world(&nodes, earlier, queues);
    lived.now_ms = NOW - HOUR;
    lived.step();
    lived.view.pods.retain(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
    lived.now_ms = NOW;
    for at in 0..waiting {
        let age_ms = 60_000 * i64::try_from(dice.below(90)).unwrap();
        lived.add(some(&mut dice, &format!("w{at}"), age_ms));
    }
    lived.step();
    lived.gone();
    lived.view
}

fn what_if(view: &GangView, suppositions: &[Supposition]) -> (Outlook, Vec<String>) {
    let (supposed, words) = suppose(view, suppositions, NOW).unwrap();
    (outlook(view, &supposed, NOW), words)
}

fn submitted(title: &str, pods: Vec<Value>) -> Supposition {
    let pods = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    Supposition::Submitted { title: title.to_owned(), pods }
}

fn joined(count: u32) -> Supposition {
    Supposition::Joined(NewNodes { count, ..NewNodes::default() })
}

fn fates(outlook: &Outlook) -> Vec<(&str, &Fate, &Fate, Shift)> {
    outlook.gangs.iter().map(|one| (one.name.as_str(), &one.before, &one.after, one.shift)).collect()
}

fn starts(node: &str, pods: u32, after: &[&str]) -> Fate {
    let after = after.iter().map(|&name| name.to_owned()).collect();
    Fate::Starts { nodes: [(node.to_owned(), pods)].into(), after }
}

#[test]
fn nothing_supposed_is_what_the_scheduler_says_anyway() {
    let mut waits = 0;
    for seed in 0..300 {
        let view = lived(seed, 4);
        let (outlook, words) = what_if(&view, &[]);
        assert_eq!((words.len(), &outlook.before), (0, &outlook.after), "seed {seed}");
        let told: BTreeSet<_> = place(&view, NOW)
            .waiting
            .into_iter()
            .filter(|gang| gang.code != WaitCode::RoomLeaving)
            .map(|gang| (gang.name, gang.position, gang.estimate.map(|one| (one.expected_ms, one.latest_ms))))
            .collect();
        let mut found = BTreeSet::new();
        for one in &outlook.gangs {
            assert_eq!((&one.before, one.shift), (&one.after, Shift::Same), "seed {seed}");
            if let Fate::Waits { position, estimate, .. } = &one.after {
                let estimate = estimate.map(|one| (one.expected_ms, one.latest_ms));
                found.insert((one.name.clone(), *position, estimate));
            }
        }
        assert_eq!(found, told, "seed {seed}");
        waits += found.len();
    }
    assert!(waits > 100, "only {waits} gangs waited: these worlds say nothing");
}

#[test]
fn more_nodes_never_make_the_start_of_a_gang_that_waits_alone_later() {
    let (mut sooner, mut seen) = (0, 0);
    for seed in 0..600 {
        let view = lived(seed, 1);
        let count = 1 + u32::try_from(seed % 3).unwrap();
        let (outlook, _) = what_if(&view, &[joined(count)]);
        // With another node it may be enough to stop somebody, where it was not before.
        for one in outlook.gangs.iter().filter(|one| one.before != Fate::Runs) {
            // An estimate may become a promise, which is later than what was expected and sure.
            assert!(matches!(one.shift, Shift::Same | Shift::Sooner | Shift::Unclear), "seed {seed}: {one:?}");
            seen += 1;
            sooner += usize::from(one.shift == Shift::Sooner);
        }
    }
    assert!(seen > 100 && sooner > 50, "{sooner} of {seen}");
}

#[test]
fn a_promise_in_the_place_of_an_estimate_is_neither_sooner_nor_later() {
    let sure = on(gang("sure", 1, 4, 2 * HOUR, &json!({label::RUN_LIMIT: "36000"})), "a", NOW - 60_000);
    let open = on(gang("open", 1, 4, 2 * HOUR, &json!({})), "b", NOW - 60_000);
    let waits = gang("waits", 2, 4, 0, &json!({}));
    let world = world(&[node("a", 4, "r"), node("b", 4, "r")], vec![sure, open, waits], Vec::new());
    let (outlook, _) = what_if(&world.view, &[joined(1)]);
    let starts: Vec<_> = [&outlook.gangs[0].before, &outlook.gangs[0].after]
        .map(|fate| {
            let Fate::Waits { estimate: Some(one), .. } = fate else { panic!("{fate:?}") };
            (one.expected_ms - NOW, one.latest_ms.map(|at| at - NOW))
        })
        .into();
    let promise = 10 * HOUR - 60_000;
    assert_eq!(starts, [(60_000, None), (promise, Some(promise))]);
    assert_eq!(outlook.gangs[0].shift, Shift::Unclear);
}

#[test]
fn a_node_that_lets_the_first_start_may_take_the_room_of_the_next() {
    let wide = gang("wide", 2, 4, HOUR, &json!({}));
    let next = gang("next", 1, 4, 60_000, &json!({}));
    let world = world(&[node("n", 4, "left")], vec![wide, next], Vec::new());
    let (outlook, words) = what_if(&world.view, &[joined(1)]);
    assert_eq!(words, ["1 node like n joins (new-2)"]);
    let both: Vec<_> = outlook.gangs.iter().map(|one| (one.name.as_str(), one.shift)).collect();
    assert_eq!(both, [("wide", Shift::Sooner), ("next", Shift::Later)]);
    let share = |totals: &crate::gang::Totals| totals.resources.iter().find(|one| one.resource == "cpu").cloned();
    assert_eq!(share(&outlook.before).map(|cpu| (cpu.used, cpu.capacity)), Some((4000, 4000)));
    assert_eq!(share(&outlook.after).map(|cpu| (cpu.used, cpu.capacity)), Some((8000, 8000)));
}

#[test]
fn a_job_that_is_submitted_shows_where_it_would_stand_and_whom_it_delays() {
    let World { view, .. } = promise();
    let (outlook, words) = what_if(
        &view,
        &[submitted("Job urgent", gang("urgent", 1, 4, 0, &json!({label::PRIORITY: "9", label::RUN_LIMIT: "3600"})))],
    );
    assert_eq!(words, ["Job urgent is submitted, with 1 pod"]);
    let places: Vec<_> = outlook
        .gangs
        .iter()
        .map(|one| {
            let Fate::Waits { position, estimate, .. } = &one.after else { panic!("{:?}", one.after) };
            (one.name.as_str(), one.shift, *position, estimate.map(|one| (one.expected_ms - NOW) / HOUR))
        })
        .collect();
    assert_eq!(places, [("urgent", Shift::New, 1, Some(1)), ("big", Shift::Later, 2, Some(2))]);
    assert_eq!((outlook.before.waiting, outlook.after.waiting, outlook.after.waiting_pods), (1, 2, 3));
    assert_eq!((outlook.before.mean_wait_ms, outlook.after.mean_wait_ms), (Some(HOUR), Some(HOUR * 3 / 2)));
}

#[test]
fn what_would_be_preempted_is_told_with_what_it_loses() {
    let mut world = contest();
    let is_high = |pod: &k8s_openapi::api::core::v1::Pod| pod.metadata.name.as_deref() == Some("high-0");
    world.view.pods.retain(|pod| !is_high(pod));
    let (outlook, _) = what_if(&world.view, &[submitted("Job high", gang("high", 1, 3, 0, &queued("q", 5)))]);
    // Nothing is known of how long the other runs: a minute at least is what the scheduler takes it for.
    let estimate = Some(Estimate { expected_ms: NOW + 60_000, latest_ms: None });
    let stopped = Fate::Stopped { preemptor: "team/high".to_owned(), lost_pod_ms: 2 * HOUR, estimate };
    let high = starts("a", 1, &["team/low"]);
    let expected = [("low", &Fate::Runs, &stopped, Shift::Later), ("high", &Fate::Absent, &high, Shift::New)];
    assert_eq!(fates(&outlook), expected);
    assert_eq!((outlook.after.running, outlook.after.waiting, outlook.after.waiting_pods), (1, 1, 2));
}

#[test]
fn what_a_node_runs_goes_elsewhere_when_it_is_drained_or_gone() {
    let half = on(gang("half", 2, 1, 2 * HOUR, &json!({})), "a", NOW - HOUR);
    let mut bare = on(gang("bare", 1, 1, HOUR, &json!({})), "a", NOW - HOUR);
    bare[0]["metadata"]["ownerReferences"] = json!([]);
    let mut daemon = on(gang("daemon", 1, 1, HOUR, &json!({})), "a", NOW - HOUR);
    daemon[0]["metadata"]["ownerReferences"][0]["kind"] = json!("DaemonSet");
    let world = world(&[node("a", 4, "r"), node("b", 4, "r")], vec![half, bare, daemon], Vec::new());
    let moved = starts("b", 2, &[]);
    let halved = ("half", &Fate::Runs, &moved, Shift::Later);
    let lost = ("bare", &Fate::Runs, &Fate::Absent, Shift::Gone);
    let (drained, words) = what_if(&world.view, &[Supposition::Drained("a".to_owned())]);
    assert_eq!(words, ["node a is drained, 2 pods wait again, 1 pod that has no controller ends"]);
    assert_eq!(fates(&drained), [halved, lost]);
    assert_eq!((drained.before.nodes, drained.after.nodes), (2, 1));
    let (gone, _) = what_if(&world.view, &[Supposition::Gone("a".to_owned())]);
    assert_eq!(fates(&gone), [halved, lost, ("daemon", &Fate::Runs, &Fate::Absent, Shift::Gone)]);
    let (both, _) = what_if(&world.view, &["a", "b"].map(|name| Supposition::Gone(name.to_owned())));
    let fate = &both.gangs[0].after;
    assert!(matches!(fate, Fate::Waits { code: WaitCode::NoNodes, estimate: None, .. }), "{fate:?}");
}

#[test]
fn a_pod_that_is_moved_waits_anew_and_keeps_what_is_its_own() {
    let mut lost =
        on(gang("half", 1, 1, 2 * HOUR, &json!({label::RUN_LIMIT: "60", label::RESERVATION: "{}"})), "a", NOW);
    lost[0]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a", "disk": "ssd"});
    let world = world(&[node("a", 4, "r")], vec![lost], Vec::new());
    let (view, _) = suppose(&world.view, &[Supposition::Gone("a".to_owned())], NOW).unwrap();
    let pod = serde_json::to_value(&view.pods[0]).unwrap();
    assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "ssd"}), "on a cluster it was sent to its node by its name");
    assert_eq!(pod["metadata"]["annotations"][label::RUN_LIMIT], "60");
    assert_eq!(
        (&pod["metadata"]["annotations"][label::RESERVATION], &pod["spec"]["nodeName"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(pod["metadata"]["creationTimestamp"], crate::instant::text(NOW));
}

#[test]
fn new_nodes_are_copies_but_for_what_is_said_of_them() {
    let mut old = node("a", 4, "left");
    old["spec"] = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]});
    let world = world(&[old], Vec::new(), Vec::new());
    let new = NewNodes {
        count: 2,
        like: Some("a".to_owned()),
        resources: [("nvidia.com/gpu".to_owned(), "8".to_owned())].into(),
        labels: [("cloud.provider.com/topology-rack".to_owned(), "right".to_owned())].into(),
    };
    let (view, words) = suppose(&world.view, &[Supposition::Joined(new)], NOW).unwrap();
    let with = "nvidia.com/gpu=8, cloud.provider.com/topology-rack=right";
    assert_eq!(words, [format!("2 nodes like a join, with {with} (new-2 to new-3)")]);
    let node = serde_json::to_value(&view.nodes[2]).unwrap();
    assert_eq!(node["metadata"]["name"], "new-3");
    let labels = json!({"cloud.provider.com/topology-rack": "right", "kubernetes.io/hostname": "new-3"});
    assert_eq!(node["metadata"]["labels"], labels);
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "4", "pods": "10", "nvidia.com/gpu": "8"}));
    assert_eq!(node["spec"], json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]}));
    let error = suppose(&world.view, &[joined(1)], NOW).unwrap_err();
    assert_eq!(error, SupposeError::NothingToCopy, "the only node takes no pods");
    let said = ["cpu", "memory"].map(|resource| (resource.to_owned(), "8".to_owned()));
    let bare = NewNodes { count: 1, resources: said.into(), ..NewNodes::default() };
    let (view, words) = suppose(&world.view, &[Supposition::Joined(bare)], NOW).unwrap();
    assert_eq!((view.nodes.len(), words), (2, vec!["1 node joins, with cpu=8, memory=8 (new-2)".to_owned()]));
}

#[test]
fn another_quota_lets_a_gang_start_or_keeps_it_waiting() {
    let waits = gang("waits", 1, 3, 60_000, &queued("q", 0));
    let queues = vec![cluster_queue("team", 2, &json!({})), local_queue("q", "team")];
    let world = world(&[node("a", 8, "r")], vec![waits], queues);
    let quota = |amount: &str| {
        let (queue, resource, amount) = ("team".to_owned(), "cpu".to_owned(), amount.to_owned());
        Supposition::Quota { queue, resource, amount }
    };
    let (raised, words) = what_if(&world.view, &[quota("3")]);
    assert_eq!(words, ["ClusterQueue team has a nominalQuota of 3 CPUs instead of 2 CPUs"]);
    assert_eq!((&raised.gangs[0].after, raised.gangs[0].shift), (&starts("a", 1, &[]), Shift::Sooner));
    let (lowered, _) = what_if(&world.view, &[quota("1")]);
    let fate = &lowered.gangs[0].after;
    assert!(matches!(fate, Fate::Waits { code: WaitCode::AboveQuota, .. }), "{fate:?}");
    let memory =
        Supposition::Quota { queue: "team".to_owned(), resource: "memory".to_owned(), amount: "1Gi".to_owned() };
    let (_, words) = what_if(&world.view, &[memory]);
    assert_eq!(words, ["ClusterQueue team has a nominalQuota of 1Gi of memory instead of no limit of its own"]);
}

#[test]
fn what_makes_no_sense_is_named() {
    let world = world(&[node("a", 8, "r")], Vec::new(), vec![cluster_queue("team", 2, &json!({}))]);
    let refused = |one: Supposition| suppose(&world.view, &[one], NOW).unwrap_err().to_string();
    let quota = |queue: &str, amount: &str| {
        let (queue, amount) = (queue.to_owned(), amount.to_owned());
        Supposition::Quota { queue, resource: "cpu".to_owned(), amount }
    };
    assert_eq!(refused(Supposition::Gone("b".to_owned())), r#"there is no node "b" (there are: a)"#);
    assert_eq!(refused(Supposition::Drained("b".to_owned())), r#"there is no node "b" (there are: a)"#);
    assert_eq!(refused(quota("none", "1")), r#"there is no ClusterQueue "none" (there are: team)"#);
    assert!(refused(quota("team", "many")).starts_with("cpu: `many` is not a quantity"));
    assert_eq!(refused(quota("team", "-1")), "cpu: -1 is negative");
    let like = NewNodes { count: 1, like: Some("b".to_owned()), ..NewNodes::default() };
    assert_eq!(refused(Supposition::Joined(like)), r#"there is no node "b" (there are: a)"#);
}
