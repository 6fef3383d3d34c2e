//! Pods that fail: who starts again, when, how often, and how a job ends by it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use serde_json::{Value, json};
use trainyard_coordinator_core::instant;
use trainyard_coordinator_core::view::Config;
use trainyard_proto::refusal::Refusal;
use world::{TRAINING, World, pytorch, pytorch_with};

#[test]
fn never_fails_the_job_with_the_replica() {
    let mut world = pytorch_with("Never", json!({}));
    world.run();
    world.fail("mnist-worker-1", 3);
    world.plan();
    assert_eq!(world.conditions(), ["Created", "!Running", "Failed"]);
    assert!(world.events.contains(&"ExitedWithCode".to_owned()));
    let message = world.status("/conditions/2/message");
    assert_eq!(
        message,
        json!(
            "PyTorchJob mnist has failed: pod mnist-worker-1 failed first: it ended with exit code 3; see `trainyard logs mnist`"
        )
    );
}

#[test]
fn exit_code_tells_permanent_from_passing_failures() {
    for (code, state) in [(1, "Failed"), (127, "Failed"), (128, "Restarting"), (137, "Restarting")] {
        let mut world = pytorch_with("ExitCode", json!({}));
        world.run();
        world.fail("mnist-worker-0", code);
        world.plan();
        assert_eq!(world.conditions().last().unwrap(), state, "exit code {code}");
    }
}

#[test]
fn only_the_failed_replica_of_a_pytorchjob_starts_again() {
    let mut world = pytorch(json!({}));
    world.run();
    world.set("mnist-worker-1", json!({"phase": "Failed", "reason": "Evicted"}));
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Restarting"]);
    assert_eq!(world.live(), ["mnist-master-0", "mnist-worker-0"]);
    world.reap();
    world.plan();
    assert_eq!(world.live().len(), 3);
    assert_eq!(world.conditions(), ["Created", "Restarting"]);
    world.place();
    world.start_all();
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Running"]);
}

#[test]
fn recreated_pods_count_against_the_backoff_limit() {
    let mut world = pytorch(json!({"backoffLimit": 2}));
    world.run();
    for restart in 1..=3 {
        world.set("mnist-worker-0", json!({"phase": "Failed", "reason": "NodeLost"}));
        world.plan();
        if restart <= 2 {
            assert_eq!(world.conditions(), ["Created", "Restarting"], "restart {restart}");
            world.run_again();
        }
    }
    assert_eq!(world.conditions().last().unwrap(), "Failed");
    assert_eq!(world.live(), ["mnist-worker-0"], "what still ran is ended, what ended is kept");
}

#[test]
fn a_restart_that_is_cut_off_after_any_write_counts_once() {
    for cut in 0..8 {
        let mut world = World::new(TRAINING);
        world.edit("/spec/backoffLimit", json!(1));
        world.run();
        world.fail("wine-worker-1", 7);
        let mut plan = trainyard_coordinator_core::job::plan(&world.view(), world.now_ms);
        plan.actions.truncate(cut);
        world.apply(&plan);
        for _ in 0..4 {
            world.plan();
            world.reap();
        }
        world.place();
        world.start_all();
        world.plan();
        assert_eq!(world.conditions().last().unwrap(), "Running", "cut off after {cut} writes");
        assert_eq!(world.status("/restarts"), json!(1), "cut off after {cut} writes");
        assert_eq!(world.live().len(), 3);
        // Now a pod that is taken away is a loss, and there is no restart left.
        world.pods.remove("wine-worker-0");
        world.plan();
        assert_eq!(world.conditions().last().unwrap(), "Failed", "cut off after {cut} writes");
    }
}

#[test]
fn a_pod_that_its_node_can_never_run_fails_the_job_at_once() {
    for restart in ["Always", "OnFailure", "ExitCode", "Never"] {
        let mut world = pytorch_with(restart, json!({}));
        world.plan();
        world.place();
        let message = "container \"pytorch\" has no command";
        world.set(
            "mnist-worker-1",
            json!({"phase": "Failed", "reason": Refusal::CommandRequired.reason(), "message": message}),
        );
        let plan = world.plan();
        assert_eq!(world.conditions().last().unwrap(), "Failed", "{restart}");
        assert_eq!(plan.wake_at_ms, None);
        let told = world.status("/conditions").as_array().unwrap().last().unwrap()["message"].clone();
        assert_eq!(
            told,
            json!(format!(
                "PyTorchJob mnist has failed: pod mnist-worker-1 failed first: its node cannot run it (CommandRequired): \
                 {message}; correct the manifest, delete the job, and apply it again"
            ))
        );
    }
}

#[test]
fn a_replica_that_fails_again_and_again_waits_ever_longer() {
    let mut world = pytorch(json!({}));
    world.run();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let failed_ms = world.now_ms;
        world.set("mnist-worker-0", json!({"phase": "Failed", "reason": "Evicted"}));
        world.plan();
        world.reap();
        world.plan();
        while !world.live().contains(&"mnist-worker-0") {
            assert_eq!(world.live().len(), 2, "the others go on");
            world.now_ms = world.wake_at_ms.expect("it says when it goes on");
            world.plan();
        }
        waits.push((world.now_ms - failed_ms) / 1000);
        world.run();
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    // What has run for long begins anew, and another replica has a row of its own.
    world.now_ms += 600_000;
    for pod in ["mnist-worker-0", "mnist-worker-1"] {
        world.set(pod, json!({"phase": "Failed", "reason": "Evicted"}));
        world.plan();
        world.reap();
        world.plan();
        assert_eq!(world.live().len(), 3, "{pod}");
    }
}

#[test]
fn a_gang_that_fails_again_waits_and_says_until_when() {
    let mut world = World::new(TRAINING);
    world.edit("/spec/backoffLimit", json!(5));
    world.run();
    for wait_ms in [0, 10_000, 20_000] {
        world.fail("wine-worker-1", 1);
        world.plan();
        world.reap();
        world.plan();
        assert_eq!(world.live().len(), if wait_ms == 0 { 3 } else { 0 }, "{wait_ms}");
        if wait_ms > 0 {
            assert_eq!(world.status("/phase"), json!("Restarting"));
            let until = world.now_ms + wait_ms;
            assert_eq!(world.wake_at_ms, Some(until));
            let message = world.status("/message").as_str().unwrap().to_owned();
            assert!(message.ends_with(&format!("; it starts again at {}", instant::text(until))), "{message}");
            world.now_ms = until;
        }
        world.run();
        assert_eq!(world.live().len(), 3);
    }
}

#[test]
fn a_gang_whose_pod_was_taken_away_does_not_wait() {
    let mut world = World::new(TRAINING);
    world.edit("/spec/backoffLimit", json!(5));
    world.run();
    for _ in 0..3 {
        world.pods.remove("wine-worker-1");
        world.plan();
        world.reap();
        world.plan();
        assert_eq!(world.live().len(), 3);
        world.run();
    }
    world.fail("wine-worker-1", 1);
    world.plan();
    world.reap();
    world.plan();
    assert_eq!(world.live().len(), 3, "its first failure");
}

/// A job that may not start again at all waits for its turn again when it had to make room.
#[test]
fn a_gang_that_makes_room_for_another_has_not_failed() {
    let mut training = World::new(TRAINING);
    training.edit("/spec/backoffLimit", json!(0));
    for mut world in [training, pytorch(json!({"backoffLimit": 0}))] {
        world.run();
        let all = world.live().len();
        let marked = world.pods.keys().next_back().unwrap().clone();
        let pod = world.pods.get_mut(&marked).unwrap();
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert("trainyard.dev/preempted-for".to_owned(), "team/big".to_owned());
        world.plan();
        assert_eq!(world.pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count(), all);
        world.reap();
        world.plan();
        assert_eq!(world.live().len(), all, "its pods wait");
        let waits = |pod: &k8s_openapi::api::core::v1::Pod| pod.spec.as_ref().unwrap().node_name.is_none();
        assert!(world.pods.values().all(waits));
        world.run();
        assert!(world.conditions().iter().all(|condition| condition != "Failed"), "{:?}", world.conditions());
    }
}

#[test]
fn what_a_restart_made_good_is_not_blamed_for_the_end() {
    let mut world = pytorch(json!({"backoffLimit": 1}));
    world.run();
    world.fail("mnist-worker-0", 7);
    world.plan();
    // Its pod is still on its way out.
    world.now_ms += 1000;
    world.fail("mnist-worker-1", 3);
    world.plan();
    let told = world.status("/conditions").as_array().unwrap().last().unwrap()["message"].clone();
    let begin = "PyTorchJob mnist has reached its backoffLimit of 1 after 1 restart: pod mnist-worker-1 failed first";
    assert!(told.as_str().unwrap().starts_with(begin), "{told}");
}

#[test]
fn restarts_in_place_and_recreated_pods_are_counted_together() {
    let mut world = pytorch(json!({"backoffLimit": 2}));
    world.run();
    world.crash_in_place("mnist-worker-0", 1, false);
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Running"]);
    world.fail("mnist-worker-0", 1);
    world.crash_in_place("mnist-worker-0", 1, false);
    world.set("mnist-worker-0", json!({"phase": "Failed", "reason": "Evicted"}));
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Restarting"]);
    world.reap();
    world.run();
    world.crash_in_place("mnist-worker-1", 0, true);
    world.plan();
    assert_eq!(world.conditions().last().unwrap(), "Failed", "two restarts were used up");
}

#[test]
fn a_limit_of_zero_allows_no_restart() {
    let mut world = pytorch(json!({"backoffLimit": 0}));
    world.run();
    world.crash_in_place("mnist-master-0", 0, true);
    world.plan();
    assert_eq!(world.conditions().last().unwrap(), "Failed");
}

#[test]
fn a_rule_that_became_never_holds_for_pods_made_before() {
    let mut world = pytorch(json!({}));
    world.run();
    for role in ["Master", "Worker"] {
        world.edit(&format!("/spec/pytorchReplicaSpecs/{role}/restartPolicy"), json!("Never"));
    }
    world.crash_in_place("mnist-worker-0", 0, true);
    world.plan();
    assert_eq!(world.conditions().last().unwrap(), "Failed");
    assert_eq!(world.live(), ["mnist-master-0", "mnist-worker-1"], "what would start again is ended");
}

#[test]
fn a_running_gang_of_another_size_starts_again_without_counting_it() {
    for replicas in [2, 4] {
        let mut world = World::new(TRAINING);
        world.edit("/spec/restartPolicy", json!("Never"));
        world.run();
        world.edit("/spec/replicas", json!(replicas));
        world.plan();
        assert_eq!(world.status("/phase"), json!("Restarting"));
        assert_eq!(world.live(), [""; 0]);
        world.reap();
        world.run();
        assert_eq!(world.status("/phase"), json!("Running"));
        assert_eq!(world.status("/restarts"), json!(0));
        assert_eq!(world.names().len(), replicas);
        assert_eq!(world.env("wine-worker-1")["PET_NNODES"], replicas.to_string());
    }
}

#[test]
fn launchers_check_first_where_the_job_says_so() {
    let told = |value: Option<bool>| {
        let mut world = World::new(TRAINING);
        if let Some(value) = value {
            let mut spec = world.job.as_ref().unwrap()["spec"].clone();
            spec["preflight"] = json!(value);
            world.edit("/spec", spec);
        }
        world.plan();
        world.env("wine-worker-1").get("TRAINYARD_PREFLIGHT").cloned()
    };
    assert_eq!(told(None), None);
    assert_eq!(told(Some(false)), None);
    assert_eq!(told(Some(true)).as_deref(), Some("1"));
}

#[test]
fn the_whole_gang_of_a_trainingjob_starts_again() {
    let mut world = World::new(TRAINING);
    world.plan();
    assert_eq!(world.status("/phase"), json!("Pending"));
    assert_eq!(world.env("wine-worker-2")["TRAINYARD_GENERATION"], "0");
    world.place();
    world.plan();
    assert_eq!(world.status("/phase"), json!("Starting"));
    world.start_all();
    world.plan();
    assert_eq!(world.status("/phase"), json!("Running"));
    let port = world.env("wine-worker-0")["PET_MASTER_PORT"].clone();
    assert_eq!(world.env("wine-worker-0")["TRAINYARD_RESTARTS"], "0");
    assert_eq!(world.env("wine-worker-0")["TRAINYARD_STOP_GRACE_SECONDS"], "30");

    world.fail("wine-worker-1", 9);
    world.plan();
    assert_eq!(world.status("/phase"), json!("Restarting"));
    assert_eq!(world.live(), [""; 0]);
    assert_eq!(world.status("/restarts"), json!(1));
    assert_eq!(
        world.status("/message"),
        json!(
            "TrainingJob wine is restarting (restart 1 of 2): rank 1 (pod wine-worker-1) failed first: it ended with exit code 9"
        )
    );
    world.reap();
    world.run();
    assert_eq!(world.status("/phase"), json!("Running"));
    assert_eq!(world.env("wine-worker-0")["TRAINYARD_GENERATION"], "1");
    assert_eq!(world.env("wine-worker-0")["PET_MASTER_PORT"], port);

    // A second restart: half the old pods are gone, half are not, so nothing new starts yet.
    world.set("wine-worker-0", json!({"phase": "Failed", "reason": "NodeLost"}));
    world.plan();
    world.pods.remove("wine-worker-2");
    world.plan();
    assert_eq!(world.codes[1], "WaitsForOldPods");
    assert_eq!(world.live(), [""; 0]);
    world.run_again();
    let told = world.env("wine-worker-0");
    assert_eq!((told["TRAINYARD_RESTARTS"].as_str(), told["TRAINYARD_MAX_RESTARTS"].as_str()), ("2", "2"));

    world.fail("wine-worker-2", 1);
    world.now_ms += 1000;
    world.fail("wine-worker-0", 143);
    world.plan();
    assert_eq!(world.status("/phase"), json!("Failed"));
    assert_eq!(world.status("/exitCode"), json!(1));
    assert_eq!(world.status("/replicaStatuses/Worker/active"), Value::Null, "what still ran is ended");
    let message = world.status("/message");
    assert_eq!(
        message,
        json!(
            "TrainingJob wine has reached its backoffLimit of 2 after 2 restarts: rank 2 (pod wine-worker-2) failed first: it ended with exit code 1; see `trainyard logs wine --rank 2`"
        )
    );
}

#[test]
fn a_deleted_pod_of_a_running_gang_is_a_failure() {
    let mut world = World::new(TRAINING);
    world.run();
    world.pods.remove("wine-worker-1");
    world.plan();
    assert_eq!(world.status("/phase"), json!("Restarting"));
}

#[test]
fn on_a_cluster_new_pods_prefer_other_nodes_to_one_on_which_two_failed() {
    let mut world = pytorch_with("OnFailure", json!({}));
    world.config = Config::cluster();
    world.run();
    let preferred = |world: &World| {
        let spec = world.pods["mnist-worker-0"].spec.clone().unwrap();
        let affinity = spec.affinity.and_then(|affinity| affinity.node_affinity);
        serde_json::to_value(affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution)).unwrap()
    };
    for failures in 1..=2 {
        world.fail("mnist-worker-0", 137);
        world.plan();
        world.run_again();
        let avoids = json!([{"weight": 100, "preference": {"matchFields": [
            {"key": "metadata.name", "operator": "NotIn", "values": ["laptop"]}
        ]}}]);
        assert_eq!(preferred(&world), if failures == 1 { json!(null) } else { avoids });
    }
    assert_eq!(world.events.iter().filter(|event| *event == "NodeAvoided").count(), 1);
}
