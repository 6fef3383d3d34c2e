use serde_json::{Value, json};

use trainyard_proto::plan::Action;

use super::super::job::{View, plan};
use super::world::World;

fn world_with(spec: &Value) -> World {
    let mut world = World::new();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    world.put(job);
    world.settle();
    world
}

fn condition<'a>(world: &'a World, kind: &str) -> &'a Value {
    let conditions = world.get("Job", "sum")["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

fn status<'a>(world: &'a World, field: &str) -> &'a Value {
    &world.get("Job", "sum")["status"][field]
}

fn end_all(world: &mut World, phase: &str) {
    for pod in world.pods_in("Running") {
        world.set_phase(&pod, phase);
    }
}

fn run_all(world: &mut World) {
    for pod in world.pods_in("Pending") {
        world.set_phase(&pod, "Running");
    }
    world.settle();
}

#[test]
fn a_pod_that_its_node_can_never_run_fails_the_job() {
    let mut world = world_with(&json!({"backoffLimit": 6}));
    let pod = world.names("Pod")[0].clone();
    world.set_phase(&pod, "Running");
    world.change(
        "Pod",
        &pod,
        &json!({"status": {
            "phase": "Failed", "reason": "VolumeNotAvailable", "message": "nfs volumes are not available",
            "conditions": [], "containerStatuses": null,
        }}),
    );
    world.settle();
    let failed = condition(&world, "Failed");
    assert_eq!(failed["reason"], "VolumeNotAvailable");
    assert_eq!(
        failed["message"],
        format!("Pod {pod} was refused: nfs volumes are not available; correct the Job, delete it, and apply it again")
    );
    assert_eq!(world.names("Pod").len(), 1, "no other is made");
}

#[test]
fn runs_completions_with_bounded_parallelism_and_completes_once() {
    let mut world = world_with(&json!({"parallelism": 2, "completions": 3}));
    assert_eq!(world.pods_in("Pending").len(), 2, "BJ-2");
    run_all(&mut world);
    assert_eq!(status(&world, "active"), 2);
    assert_eq!(status(&world, "ready"), 2);
    end_all(&mut world, "Succeeded");
    world.settle();
    assert_eq!(status(&world, "succeeded"), 2, "BJ-1");
    assert_eq!(world.pods_in("Pending").len(), 1, "only one completion is missing");
    run_all(&mut world);
    end_all(&mut world, "Succeeded");
    world.settle();
    assert_eq!(status(&world, "succeeded"), 3);
    assert_eq!(status(&world, "uncountedTerminatedPods"), &Value::Null);
    assert_eq!(condition(&world, "Complete")["status"], "True");
    assert!(status(&world, "completionTime").is_string());
    assert!(world.pods().iter().all(|pod| pod.metadata.finalizers.is_none()));
    let writes = world.writes;
    world.now_ms += 1_000_000;
    world.settle();
    assert_eq!(world.writes, writes, "BJ-3: a finished Job is left alone");
}

#[test]
fn every_end_is_counted_once_though_the_controller_dies_after_each_action() {
    let mut world = world_with(&json!({"parallelism": 3, "completions": 3}));
    run_all(&mut world);
    end_all(&mut world, "Succeeded");
    world.settle_crashing(1);
    assert_eq!(status(&world, "succeeded"), 3, "BJ-1");
    assert_eq!(condition(&world, "Complete")["status"], "True");
    assert_eq!(world.names("Pod").len(), 3);
}

#[test]
fn a_counted_success_survives_the_deletion_of_its_pod() {
    let mut world = world_with(&json!({"parallelism": 1, "completions": 2}));
    run_all(&mut world);
    let first = world.pods_in("Running").remove(0);
    end_all(&mut world, "Succeeded");
    world.vanish("Pod", &first);
    assert!(world.has("Pod", &first), "the finalizer holds it until it is counted");
    world.settle();
    assert!(!world.has("Pod", &first));
    assert_eq!(status(&world, "succeeded"), 1);
}

#[test]
fn indexed_pods_know_their_index_and_each_index_succeeds_once() {
    let mut world = world_with(&json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed"}));
    let pods = world.pods();
    let indexes: Vec<&str> = pods
        .iter()
        .map(|pod| pod.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-completion-index"].as_str())
        .collect();
    assert_eq!(indexes, ["0", "1", "2"]);
    for (pod, index) in pods.iter().zip(indexes) {
        let env = pod.spec.as_ref().unwrap().containers[0].env.as_ref().unwrap();
        assert_eq!((env[0].name.as_str(), env[0].value.as_deref()), ("JOB_COMPLETION_INDEX", Some(index)));
        assert_eq!(pod.spec.as_ref().unwrap().hostname.as_deref(), Some(format!("sum-{index}").as_str()));
    }
    run_all(&mut world);
    let names = world.pods_in("Running");
    world.set_phase(&names[0], "Succeeded");
    world.set_phase(&names[2], "Succeeded");
    world.set_phase(&names[1], "Failed");
    world.settle();
    assert_eq!(status(&world, "completedIndexes"), "0,2");
    assert_eq!(world.pods_in("Pending").len(), 0, "the failed index waits for its back-off");
    assert_eq!(world.wake_at(), Some(world.now_ms + 10_000));
    world.now_ms += 10_000;
    world.settle();
    run_all(&mut world);
    end_all(&mut world, "Succeeded");
    world.settle();
    assert_eq!(status(&world, "completedIndexes"), "0-2");
    assert_eq!(condition(&world, "Complete")["status"], "True");
    assert_eq!(status(&world, "failed"), 1);
}

#[test]
fn too_many_failures_fail_the_job_and_end_its_other_pods() {
    let mut world = world_with(&json!({"parallelism": 2, "completions": 2, "backoffLimit": 0}));
    run_all(&mut world);
    let names = world.pods_in("Running");
    world.set_phase(&names[0], "Failed");
    world.settle();
    assert_eq!(condition(&world, "FailureTarget")["reason"], "BackoffLimitExceeded");
    assert_eq!(condition(&world, "Failed"), &Value::Null, "a pod is still on its way out");
    world.vanish("Pod", &names[1]);
    world.settle();
    assert_eq!(condition(&world, "Failed")["reason"], "BackoffLimitExceeded");
    assert!(world.events.iter().any(|event| event.starts_with("BackoffLimitExceeded")));
}

#[test]
fn the_deadline_is_kept_to_the_millisecond() {
    let mut world = world_with(&json!({"activeDeadlineSeconds": 30}));
    run_all(&mut world);
    let due = world.wake_at().unwrap();
    assert_eq!(due, world.now_ms + 30_000);
    world.now_ms = due;
    let name = world.pods_in("Running").remove(0);
    world.settle();
    world.vanish("Pod", &name);
    world.settle();
    assert_eq!(condition(&world, "Failed")["reason"], "DeadlineExceeded");
}

#[test]
fn a_suspended_job_has_no_pods_and_a_resumed_one_starts_its_clock_anew() {
    let mut world = world_with(&json!({"parallelism": 2, "completions": 2}));
    run_all(&mut world);
    world.change("Job", "sum", &json!({"spec": {"suspend": true}}));
    world.settle();
    for pod in world.names("Pod") {
        world.vanish("Pod", &pod);
    }
    world.settle();
    assert_eq!(condition(&world, "Suspended")["status"], "True");
    assert_eq!(status(&world, "startTime"), &Value::Null);
    assert_eq!(status(&world, "failed"), &Value::Null, "what we took away did not fail");
    world.now_ms += 60_000;
    world.change("Job", "sum", &json!({"spec": {"suspend": false}}));
    world.settle();
    assert_eq!(condition(&world, "Suspended")["status"], "False");
    assert_eq!(world.pods_in("Pending").len(), 2);
}

#[test]
fn a_finished_job_is_deleted_when_its_time_to_live_is_over() {
    let mut world = world_with(&json!({"ttlSecondsAfterFinished": 60}));
    run_all(&mut world);
    end_all(&mut world, "Succeeded");
    world.settle();
    assert_eq!(world.wake_at(), Some(world.now_ms + 60_000));
    world.now_ms += 60_000;
    world.settle();
    assert!(!world.has("Job", "sum"));
}

#[test]
fn a_work_queue_is_done_with_the_first_success_and_the_last_end() {
    let mut world = world_with(&json!({"parallelism": 2}));
    run_all(&mut world);
    let names = world.pods_in("Running");
    world.set_phase(&names[0], "Succeeded");
    world.settle();
    assert_eq!(world.names("Pod").len(), 2, "nobody is replaced once the queue is empty");
    assert_eq!(condition(&world, "Complete"), &Value::Null);
    world.set_phase(&names[1], "Succeeded");
    world.settle();
    assert_eq!(condition(&world, "Complete")["status"], "True");
}

#[test]
fn pods_come_in_bursts_and_numbers_beyond_all_reason_do_no_harm() {
    let mut world = world_with(&json!({"parallelism": 501, "activeDeadlineSeconds": i64::MAX}));
    assert_eq!(world.names("Pod").len(), 501, "a second burst follows the first");
    assert_eq!(world.wake_at(), Some(i64::MAX), "the deadline is never reached");
    assert_eq!(condition(&world, "FailureTarget"), &Value::Null);
    world.change("Job", "sum", &json!({"spec": {"parallelism": i32::MAX}}));
    let jobs: Vec<k8s_openapi::api::batch::v1::Job> = world.all("Job");
    let plan = plan(&View { job: jobs.first(), pods: Vec::new() }, world.now_ms);
    let created = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
    assert_eq!(created, 500);
}

/// Ends a pod with an exit code.
fn exit(world: &mut World, pod: &str, code: i32) {
    world.set_phase(pod, if code == 0 { "Succeeded" } else { "Failed" });
    let statuses = json!([{
        "name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": code, "finishedAt": super::super::object::time(world.now_ms)}},
    }]);
    world.change("Pod", pod, &json!({"status": {"containerStatuses": statuses}}));
}

/// The only active pod of an index.
fn of_index(world: &World, index: i32) -> Option<String> {
    let active = world.pods().into_iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
    });
    let label = "batch.kubernetes.io/job-completion-index";
    let mut of_index = active.filter(|pod| pod.metadata.labels.as_ref().unwrap()[label] == index.to_string());
    let name = of_index.next().and_then(|pod| pod.metadata.name);
    assert!(of_index.next().is_none(), "BJ-2: one pod for each index");
    name
}

fn later(world: &mut World, seconds: i64) {
    world.now_ms += seconds * 1000;
    world.settle();
}

#[test]
fn a_pod_failure_policy_tells_failures_apart() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Later", "onExitCodes": {"operator": "NotIn", "values": [0]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [0]}},
    ]);
    let spec = json!({"backoffLimit": 1, "podFailurePolicy": {"rules": rules}});
    let mut world = world_with(&spec);
    run_all(&mut world);
    let name = world.pods_in("Running").remove(0);
    exit(&mut world, &name, 143);
    world.change("Pod", &name, &json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}}));
    world.settle();
    assert_eq!(status(&world, "failed"), &Value::Null, "ignored");
    assert!(world.get("Pod", &name)["metadata"]["finalizers"].is_null(), "and let go");
    later(&mut world, 10);
    run_all(&mut world);
    let name = world.pods_in("Running").remove(0);
    exit(&mut world, &name, 1);
    world.settle();
    assert_eq!(status(&world, "failed"), 1, "counted");
    later(&mut world, 20);
    run_all(&mut world);
    let name = world.pods_in("Running").remove(0);
    exit(&mut world, &name, 42);
    world.settle();
    assert_eq!(condition(&world, "Failed")["reason"], "PodFailurePolicy");
    let message = condition(&world, "Failed")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[test]
fn every_index_has_retries_of_its_own() {
    for crash_after in [usize::MAX, 1] {
        let mut world = world_with(&json!({
            "parallelism": 3, "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        }));
        run_all(&mut world);
        for (index, code) in [(0, 0), (1, 1), (2, 0)] {
            let name = of_index(&world, index).unwrap();
            exit(&mut world, &name, code);
        }
        world.settle_crashing(crash_after);
        assert_eq!(status(&world, "failedIndexes"), "");
        assert_eq!(world.wake_at(), Some(world.now_ms + 10_000));
        world.now_ms += 10_000;
        world.settle_crashing(crash_after);
        let second = of_index(&world, 1).unwrap();
        let count = "batch.kubernetes.io/job-index-failure-count";
        assert_eq!(world.get("Pod", &second)["metadata"]["annotations"][count], "1", "BJ-4");
        exit(&mut world, &second, 1);
        world.settle_crashing(crash_after);
        assert_eq!(status(&world, "failedIndexes"), "1");
        assert_eq!(status(&world, "completedIndexes"), "0,2");
        assert_eq!((status(&world, "failed"), status(&world, "succeeded")), (&json!(2), &json!(2)), "BJ-1");
        assert_eq!(condition(&world, "Failed")["reason"], "FailedIndexes");
    }
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let rules = json!([{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}}]);
    let mut world = world_with(&json!({
        "parallelism": 4, "completions": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 5,
        "maxFailedIndexes": 1, "podFailurePolicy": {"rules": rules},
    }));
    run_all(&mut world);
    let first = of_index(&world, 0).unwrap();
    exit(&mut world, &first, 3);
    world.settle();
    assert_eq!(status(&world, "failedIndexes"), "0", "without using up its retries");
    assert_eq!(condition(&world, "FailureTarget"), &Value::Null);
    assert_eq!(of_index(&world, 0), None);
    let second = of_index(&world, 1).unwrap();
    exit(&mut world, &second, 3);
    world.settle();
    assert_eq!(condition(&world, "FailureTarget")["reason"], "MaxFailedIndexesExceeded");
    assert_eq!((of_index(&world, 2), of_index(&world, 3)), (None, None), "nothing goes on");
    for pod in world.names("Pod") {
        world.change("Pod", &pod, &json!({"metadata": {"deletionGracePeriodSeconds": 0}}));
        world.vanish("Pod", &pod);
    }
    world.settle();
    assert_eq!(condition(&world, "Failed")["reason"], "MaxFailedIndexesExceeded");
}

#[test]
fn a_success_policy_ends_the_job_before_all_have_succeeded() {
    for (rule, done, holds) in [
        (json!({"succeededIndexes": "0,2"}), &[0][..], false),
        (json!({"succeededIndexes": "0,2"}), &[0, 2], true),
        (json!({"succeededIndexes": "0-2", "succeededCount": 1}), &[3], false),
        (json!({"succeededIndexes": "0-2", "succeededCount": 1}), &[1], true),
        (json!({"succeededCount": 2}), &[1, 3], true),
    ] {
        let mut world = world_with(&json!({
            "parallelism": 4, "completions": 4, "completionMode": "Indexed", "successPolicy": {"rules": [rule]},
        }));
        run_all(&mut world);
        for index in done {
            let name = of_index(&world, *index).unwrap();
            exit(&mut world, &name, 0);
        }
        world.settle();
        assert_eq!(condition(&world, "SuccessCriteriaMet")["reason"] == "SuccessPolicy", holds, "{rule} {done:?}");
        if holds {
            for pod in world.names("Pod") {
                if world.get("Pod", &pod)["status"]["phase"] == "Running" {
                    world.vanish("Pod", &pod);
                }
            }
            world.settle();
            assert_eq!(condition(&world, "Complete")["message"], "Matched rules at index 0");
            assert!(status(&world, "completionTime").is_string());
        }
    }
}

#[test]
fn a_pod_on_its_way_out_is_replaced_as_the_policy_says() {
    for (policy, at_once) in [("TerminatingOrFailed", true), ("Failed", false)] {
        let mut world = world_with(&json!({"podReplacementPolicy": policy, "backoffLimit": 3}));
        run_all(&mut world);
        let name = world.pods_in("Running").remove(0);
        world.change("Pod", &name, &json!({"metadata": {"deletionTimestamp": "2023-11-14T22:13:20Z"}}));
        world.settle();
        assert_eq!(status(&world, "terminating"), 1, "{policy}");
        assert_eq!(world.pods_in("Pending").len(), usize::from(at_once), "{policy}");
        exit(&mut world, &name, 143);
        world.vanish("Pod", &name);
        world.settle();
        later(&mut world, 10);
        assert_eq!(world.pods_in("Pending").len(), 1, "{policy}");
        assert_eq!(status(&world, "failed"), 1, "{policy}: counted once");
    }
}

#[test]
fn the_pod_of_an_indexed_job_as_it_is_made() {
    let world = world_with(&json!({"completions": 1, "completionMode": "Indexed", "backoffLimitPerIndex": 1}));
    let pod = world.names("Pod").remove(0);
    insta::assert_yaml_snapshot!(world.get("Pod", &pod));
}
