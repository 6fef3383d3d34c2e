//! Worlds that must hold, and broken cores that must be caught.

mod first_fit;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_coordinator_core::gang::cluster::{ClusterView, place_on_cluster};
use trainyard_coordinator_core::gang::{GangView, Placement, place};
use trainyard_coordinator_core::{job, label, standin};
use trainyard_proto::plan::{Action, Fence, ObjectRef, Plan};

use super::*;

fn seeds() -> Range<u64> {
    let count = std::env::var("TRAINYARD_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let from = std::env::var("TRAINYARD_SIM_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    from..from + count
}

fn explain(failure: &Failure) -> String {
    format!("{failure}\n{}\n{failure}", failure.trace.join("\n"))
}

fn all_pass(cores: Cores) -> Report {
    all_pass_in(Worlds::Drawn, cores)
}

fn all_pass_in(worlds: Worlds, cores: Cores) -> Report {
    let options = Options { cores, worlds, ..Options::default() };
    run_many(seeds(), 2, &options, &|_| {}).unwrap_or_else(|failure| panic!("{}", explain(&failure)))
}

#[test]
fn worlds_keep_every_invariant() {
    let report = all_pass(Cores::default());
    eprintln!("{report:?}");
    assert!(report.succeeded > 0 && report.failed > 0 && report.faults > 0, "{report:?}");
    assert!(report.processes > 0 && report.refused > 0, "{report:?}");
    assert!(report.preempted > 0, "{report:?}");
}

/// Many worlds of one kind.
#[test]
#[ignore = "takes as long as it is told to"]
fn worlds_of_one_kind() {
    let worlds = match std::env::var("TRAINYARD_SIM_WORLDS").as_deref() {
        Ok("plain") => Worlds::Plain,
        Ok("queued") => Worlds::Queued,
        Ok("cluster") => Worlds::Cluster,
        _ => Worlds::Drawn,
    };
    let options = Options { worlds, ..Options::default() };
    let mut failures = Vec::new();
    let started = std::time::Instant::now();
    let total = seeds().filter_map(|seed| run(seed, &options).map_err(|failure| failures.push(failure)).ok());
    let report = total.fold(Report::default(), |mut sum, one| {
        sum.add(&one);
        sum
    });
    eprintln!("{report:?} in {:?}", started.elapsed());
    for failure in &failures {
        eprintln!("{failure}");
    }
    assert!(failures.is_empty(), "{}", explain(&failures[0]));
}

/// Seeds that found something once.
#[test]
fn seeds_that_failed_once_pass() {
    // 8306: the clock went back after a pod was counted as available.
    const ONCE_FAILED: &[u64] = &[8306];
    for &seed in ONCE_FAILED {
        run(seed, &Options::default()).unwrap_or_else(|failure| panic!("{}", explain(&failure)));
    }
}

#[test]
fn a_seed_replays_exactly() {
    let options = Options::default();
    assert_eq!(run(7, &options).unwrap(), run(7, &options).unwrap());
}

/// Run worlds on broken cores until one is caught, and say by which invariant.
fn caught(cores: Cores) -> String {
    caught_in(Worlds::Drawn, cores)
}

fn caught_in(worlds: Worlds, cores: Cores) -> String {
    let options = Options { cores, worlds, quiet_steps: 4_000, ..Options::default() };
    let failure = (0..200).find_map(|seed| run(seed, &options).err()).expect("nobody noticed the broken core");
    let again = run(failure.seed, &options).expect_err("a failing seed replays");
    assert_eq!((again.step, &again.invariant), (failure.step, &failure.invariant), "exactly");
    failure.invariant
}

fn is_bind(action: &Action) -> bool {
    matches!(action, Action::Bind { .. })
}

#[test]
fn a_placer_that_binds_half_a_gang_is_caught() {
    fn half(view: &GangView, now_ms: i64) -> Placement {
        let mut placement = place(view, now_ms);
        let binds = placement.plan.actions.iter().filter(|action| is_bind(action)).count();
        let mut kept = 0;
        placement.plan.actions.retain(|action| {
            kept += usize::from(is_bind(action));
            !is_bind(action) || binds < 2 || kept < binds
        });
        placement
    }
    let broken = caught(Cores { gang: half, ..Cores::default() });
    assert!(broken.starts_with("G-1"), "{broken}");
}

#[test]
fn a_gang_that_stays_begun_is_caught() {
    let pod = |index: usize, status: Value, node: Option<&str>| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("g-{index}"), "annotations": {"trainyard.dev/gang": "g", "trainyard.dev/gang-size": "2"}},
            "spec": {"containers": [], "nodeName": node},
            "status": status,
        }))
        .unwrap()
    };
    let waits = || {
        let mut pod = pod(0, json!({}), None);
        pod.spec.as_mut().unwrap().scheduling_gates =
            serde_json::from_value(json!([{"name": label::GANG_GATE}])).unwrap();
        pod
    };
    let ran =
        json!({"containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0}]});
    let mut leaving = pod(2, json!({}), Some("a"));
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    for (pods, holds) in [
        (vec![waits(), pod(1, json!({}), Some("a"))], false),
        (vec![waits(), pod(1, ran, Some("a"))], true),
        (vec![waits(), pod(1, json!({"phase": "Failed", "reason": "VolumeNotAvailable"}), Some("a"))], true),
        (vec![waits(), waits()], true),
        (vec![waits(), pod(1, json!({}), None)], false),
        (vec![waits(), pod(1, json!({}), Some("a")), pod(2, json!({}), Some("a"))], true),
        (vec![waits(), pod(1, json!({}), Some("a")), leaving], true),
    ] {
        let told = invariant::settled(&pods);
        assert_eq!(told.is_ok(), holds, "{told:?}");
        assert!(told.err().is_none_or(|broken| broken.starts_with("G-2")));
    }
}

#[test]
fn a_placer_that_forgets_what_is_used_is_caught() {
    fn forgetful(view: &GangView, now_ms: i64) -> Placement {
        let mut view = view.clone();
        for spec in view.pods.iter_mut().filter_map(|pod| pod.spec.as_mut()).filter(|spec| spec.node_name.is_some()) {
            spec.containers.iter_mut().for_each(|container| container.resources = None);
        }
        place(&view, now_ms)
    }
    let broken = caught_in(Worlds::Plain, Cores { gang: forgetful, ..Cores::default() });
    assert!(broken.starts_with("N-1"), "{broken}");
}

#[test]
fn a_placer_that_places_nothing_is_caught() {
    fn idle(_: &GangView, _: i64) -> Placement {
        Placement::default()
    }
    let broken = caught(Cores { gang: idle, ..Cores::default() });
    assert!(broken.starts_with("L-"), "{broken}");
}

/// As [`caught`], in worlds with queues.
fn caught_in_queues(gang: fn(&GangView, i64) -> Placement) -> String {
    caught_in(Worlds::Queued, Cores { gang, ..Cores::default() })
}

#[test]
fn a_placer_that_reads_more_quota_than_there_is_is_caught() {
    fn generous(view: &GangView, now_ms: i64) -> Placement {
        let mut view = view.clone();
        for queue in view.queues.iter_mut().filter(|object| object["kind"] == "ClusterQueue") {
            for flavor in queue["spec"]["resourceGroups"][0]["flavors"].as_array_mut().into_iter().flatten() {
                for one in flavor["resources"].as_array_mut().into_iter().flatten() {
                    one["nominalQuota"] = json!("100");
                }
            }
        }
        place(&view, now_ms)
    }
    let broken = caught_in_queues(generous);
    assert!(broken.starts_with("Q-1"), "{broken}");
}

#[test]
fn a_placer_that_forgets_what_may_be_borrowed_is_caught() {
    fn unlimited(view: &GangView, now_ms: i64) -> Placement {
        let mut view = view.clone();
        for queue in view.queues.iter_mut().filter(|object| object["kind"] == "ClusterQueue") {
            for one in
                queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"].as_array_mut().into_iter().flatten()
            {
                one["borrowingLimit"] = Value::Null;
                one["lendingLimit"] = Value::Null;
            }
        }
        place(&view, now_ms)
    }
    let broken = caught_in_queues(unlimited);
    assert!(broken.starts_with("Q-1"), "{broken}");
}

/// Tells every pod of a queue that has a place to make room for whoever waits first.
#[test]
fn a_placer_that_stops_everybody_for_anybody_is_caught() {
    fn cruel(view: &GangView, now_ms: i64) -> Placement {
        let mut placement = place(view, now_ms);
        let Some(first) = placement.waiting.first() else { return placement };
        let mark = json!({"metadata": {"annotations": {label::PREEMPTED: format!("default/{}", first.name)}}});
        for pod in &view.pods {
            let annotations = pod.metadata.annotations.as_ref();
            let is_queued = annotations.is_some_and(|all| all.contains_key(label::QUEUE));
            let is_told = annotations.is_some_and(|all| all.contains_key(label::PREEMPTED));
            let is_placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            if is_queued && is_placed && !is_told && pod.metadata.deletion_timestamp.is_none() {
                let name = pod.metadata.name.as_deref().unwrap();
                let object = crate::workload::object_ref("v1", "Pod", "default", name);
                let patch = mark.clone();
                placement.plan.actions.push(Action::Patch { object, fence: Fence::default(), patch });
            }
        }
        placement
    }
    let broken = caught_in_queues(cruel);
    assert!(broken.starts_with("P-1"), "{broken}");
}

#[test]
fn a_placer_that_starves_a_queue_is_caught() {
    fn unfair(view: &GangView, now_ms: i64) -> Placement {
        let mut view = view.clone();
        let waits = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
        let last = |pod: &Pod| {
            pod.metadata.annotations.as_ref().and_then(|all| all.get(label::QUEUE)).is_some_and(|name| name == "lq-1")
        };
        view.pods.retain(|pod| !waits(pod) || !last(pod));
        place(&view, now_ms)
    }
    let broken = caught_in_queues(unfair);
    assert!(broken.starts_with("L-2"), "{broken}");
}

fn is_lift(action: &Action) -> bool {
    matches!(action, Action::Patch { object, patch, .. }
        if object.kind == "Pod" && patch.pointer("/spec/schedulingGates").is_some_and(Value::is_null))
}

#[test]
fn a_cluster_placer_that_lifts_half_a_gang_is_caught() {
    fn half(view: &ClusterView, now_ms: i64) -> Placement {
        let mut placement = place_on_cluster(view, now_ms);
        let lifts = placement.plan.actions.iter().filter(|action| is_lift(action)).count();
        let mut kept = 0;
        placement.plan.actions.retain(|action| {
            kept += usize::from(is_lift(action));
            !is_lift(action) || lifts < 2 || kept < lifts
        });
        placement
    }
    let broken = caught_in(Worlds::Cluster, Cores { cluster: half, ..Cores::default() });
    assert!(broken.starts_with("G-1"), "{broken}");
}

#[test]
fn a_cluster_placer_that_forsakes_what_was_begun_is_caught() {
    fn forsaking(view: &ClusterView, now_ms: i64) -> Placement {
        let mut seen: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        for pod in view.gangs.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let owner = pod.metadata.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).next();
            let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
            let (gated, lifted) = seen.entry(owner.unwrap_or_default()).or_default();
            *(if gates.is_some_and(|gates| !gates.is_empty()) { gated } else { lifted }) = true;
        }
        if seen.values().any(|(gated, lifted)| *gated && *lifted) {
            return Placement::default();
        }
        place_on_cluster(view, now_ms)
    }
    let broken = caught_in(Worlds::Cluster, Cores { cluster: forsaking, ..Cores::default() });
    // What it forsakes may also run by then, and wait for its others for ever.
    assert!(broken.starts_with("G-2") || broken.starts_with("L-"), "{broken}");
}

#[test]
fn worlds_of_every_kind_keep_every_invariant() {
    let queued = all_pass_in(Worlds::Queued, Cores::default());
    assert!(queued.preempted > 0, "{queued:?}");
    let cluster = all_pass_in(Worlds::Cluster, Cores::default());
    assert!(cluster.bound > 0 && cluster.taken_back > 0, "{cluster:?}");
}

#[test]
fn a_planner_that_never_rests_is_caught() {
    fn restless(view: &JobView, now_ms: i64) -> Plan {
        let mut plan = job::plan(view, now_ms);
        let name = view.job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        plan.actions.push(Action::Patch {
            object: ObjectRef {
                api_version: view.job["apiVersion"].as_str().unwrap_or_default().to_owned(),
                kind: view.job["kind"].as_str().unwrap_or_default().to_owned(),
                namespace: "default".to_owned(),
                name,
            },
            fence: Fence::default(),
            patch: json!({"metadata": {"annotations": {"touched": now_ms.to_string()}}}),
        });
        plan
    }
    let broken = caught(Cores { job: restless, ..Cores::default() });
    assert!(broken.starts_with("I-1") || broken.starts_with("L-1"), "{broken}");
}

#[test]
fn a_planner_that_loses_actions_is_caught() {
    fn lazy(view: &JobView, now_ms: i64) -> Plan {
        let mut plan = job::plan(view, now_ms);
        plan.actions.retain(|action| !matches!(action, Action::PatchStatus { .. }));
        plan
    }
    let broken = caught(Cores { job: lazy, ..Cores::default() });
    assert!(["L-1", "L-2", "B-1"].iter().any(|id| broken.starts_with(id)), "{broken}");
}

#[test]
fn a_job_that_forgets_its_verdict_is_caught() {
    fn amnesiac(view: &standin::job::View<'_>, now_ms: i64) -> Plan {
        let Some(job) = view.job else { return standin::job::plan(view, now_ms) };
        let done = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        if !done {
            return standin::job::plan(view, now_ms);
        }
        Plan {
            actions: vec![Action::PatchStatus {
                object: ObjectRef {
                    api_version: "batch/v1".to_owned(),
                    kind: "Job".to_owned(),
                    namespace: "default".to_owned(),
                    name: job.metadata.name.clone().unwrap_or_default(),
                },
                fence: Fence::default(),
                patch: json!({"status": null}),
            }],
            ..Plan::default()
        }
    }
    let broken = caught(Cores { batch: amnesiac, ..Cores::default() });
    assert!(broken.starts_with("F-1"), "{broken}");
}

#[test]
fn a_set_that_makes_refused_pods_anew_without_a_pause_is_caught() {
    fn hasty(view: &standin::replicaset::View<'_>, now_ms: i64) -> Plan {
        // Every wait is over.
        standin::replicaset::plan(view, now_ms + 86_400_000)
    }
    let broken = caught(Cores { set: hasty, ..Cores::default() });
    assert!(broken.starts_with("B-1"), "{broken}");
}

#[test]
fn a_job_that_makes_refused_pods_anew_is_caught() {
    // Of a PyTorchJob, G-2 notices the first of its pods that is made anew.
    fn deaf(view: &JobView, now_ms: i64) -> Plan {
        if view.job["kind"] != "TrainingJob" {
            return job::plan(view, now_ms);
        }
        let mut view = view.clone();
        view.job["spec"]["restartPolicy"] = json!("OnFailure");
        view.job["spec"]["backoffLimit"] = json!(1_000);
        for status in view.pods.iter_mut().filter_map(|pod| pod.status.as_mut()) {
            status.reason = None;
        }
        job::plan(&view, now_ms)
    }
    let broken = caught(Cores { job: deaf, ..Cores::default() });
    assert!(broken.starts_with("B-1"), "{broken}");
}

#[test]
fn worlds_hold_under_another_placer_too() {
    let cores = Cores { gang: first_fit::place, ..Cores::default() };
    // It knows of no queue.
    all_pass_in(Worlds::Plain, cores);
}

#[test]
fn a_failure_can_be_read_back() {
    let failure =
        Failure { seed: 1, step: 2, invariant: "X".to_owned(), trace: vec!["a".to_owned()], state: Value::Null };
    let text = serde_json::to_string(&failure).unwrap();
    let back: Failure = serde_json::from_str(&text).unwrap();
    assert_eq!(back.to_string(), "seed 1, step 2: X");
}
