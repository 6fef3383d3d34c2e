//! Jobs from creation to their end.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use serde_json::{Value, json};
use trainyard_coordinator_core::view::Config;
use world::{START_MS, TRAINING, World, pytorch};

#[test]
fn a_pytorchjob_succeeds_with_its_master() {
    let mut world = pytorch(json!({}));
    world.plan();
    assert_eq!(world.names(), ["mnist-master-0", "mnist-worker-0", "mnist-worker-1"]);
    assert_eq!(world.services.len(), 3);
    assert_eq!(world.conditions(), ["Created"]);
    assert_eq!(world.codes, ["WaitsForPlace"]);
    assert_eq!(world.status("/startTime"), json!("2026-01-01T00:00:00Z"));
    world.place();
    world.start_all();
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Running"]);
    assert_eq!(world.status("/replicaStatuses/Worker/active"), json!(2));
    world.succeed("mnist-master-0");
    world.plan();
    assert_eq!(world.conditions(), ["Created", "!Running", "Succeeded"]);
    assert_eq!(
        world.status("/replicaStatuses/Worker"),
        json!({
            "succeeded": 2,
            "selector": "training.kubeflow.org/job-name=mnist,training.kubeflow.org/operator-name=pytorchjob-controller,training.kubeflow.org/replica-type=worker",
        })
    );
    assert_eq!(world.live().len(), 3, "cleanPodPolicy None keeps all");
    assert!(world.events.contains(&"PyTorchJobSucceeded".to_owned()));
    assert!(world.events.contains(&"SuccessfulCreatePod".to_owned()));
}

#[test]
fn without_a_master_all_workers_decide_and_with_elasticity_any() {
    for (elastic, done_after_first) in [(None, false), (Some(json!({"minReplicas": 1, "maxReplicas": 2})), true)] {
        let mut world = pytorch(json!({}));
        world.edit("/spec/pytorchReplicaSpecs", json!({"Worker": {"replicas": 2, "template": {"spec": {"containers": [{"name": "pytorch", "image": "x"}]}}}}));
        if let Some(elastic) = elastic {
            world.job.as_mut().unwrap()["spec"]["elasticPolicy"] = elastic;
        }
        world.run();
        assert_eq!(world.conditions(), ["Created", "Running"]);
        world.succeed("mnist-worker-1");
        world.plan();
        assert_eq!(world.conditions().contains(&"Succeeded".to_owned()), done_after_first);
        world.succeed("mnist-worker-0");
        world.plan();
        assert!(world.conditions().contains(&"Succeeded".to_owned()));
    }
}

#[test]
fn the_deadline_is_kept_to_the_moment() {
    let mut world = pytorch(json!({"activeDeadlineSeconds": 10}));
    world.run();
    assert_eq!(world.wake_at_ms, Some(START_MS + 10_000));
    world.now_ms = START_MS + 10_000;
    world.plan();
    assert_eq!(world.conditions().last().unwrap(), "Failed");
    assert_eq!(world.live(), [""; 0]);
}

#[test]
fn ttl_deletes_the_finished_job_at_its_time() {
    let mut world = pytorch(json!({"ttlSecondsAfterFinished": 60}));
    world.run();
    world.now_ms += 5500;
    world.succeed("mnist-master-0");
    world.plan();
    assert_eq!(world.wake_at_ms, Some(START_MS + 65_000));
    world.now_ms = START_MS + 64_999;
    world.plan();
    assert!(world.job.is_some());
    world.now_ms += 1;
    world.plan();
    assert!(world.job.is_none());
}

#[test]
fn clean_pod_policies() {
    for (policy, pods, services) in [("None", 3, 3), ("Running", 1, 1), ("All", 0, 0)] {
        let mut world = pytorch(json!({"cleanPodPolicy": policy}));
        world.run();
        world.succeed("mnist-master-0");
        world.plan();
        assert_eq!((world.live().len(), world.services.len()), (pods, services), "{policy}");
    }
}

#[test]
fn what_has_not_begun_when_the_job_ends_never_begins() {
    let mut world = pytorch(json!({"cleanPodPolicy": "None"}));
    world.run();
    world.set("mnist-worker-0", json!({"phase": "Failed", "reason": "Evicted"}));
    world.plan();
    world.reap();
    world.plan();
    assert_eq!(world.live().len(), 3, "it waits for a node again");
    world.succeed("mnist-master-0");
    world.plan();
    assert_eq!(world.live(), ["mnist-master-0", "mnist-worker-1"]);
}

#[test]
fn suspending_takes_all_away_and_resuming_starts_the_clock_anew() {
    let mut world = pytorch(json!({"suspend": false, "activeDeadlineSeconds": 100}));
    world.run();
    world.edit("/spec/runPolicy/suspend", json!(true));
    world.plan();
    assert_eq!(world.conditions(), ["Created", "!Running", "Suspended"]);
    assert_eq!((world.live().len(), world.services.len()), (0, 0));
    assert_eq!(world.status("/startTime"), Value::Null, "as documented: suspending resets it");
    assert_eq!(world.wake_at_ms, None);
    world.now_ms += 50_000;
    world.edit("/spec/runPolicy/suspend", json!(false));
    // The old pods are still there, running and on their way out: they are not taken for failed ones.
    world.plan();
    assert_eq!(world.conditions(), ["Created", "!Running", "!Suspended"]);
    assert_eq!(world.status("/startTime"), json!("2026-01-01T00:00:50Z"));
    world.reap();
    world.run();
    assert_eq!(world.conditions(), ["Created", "!Suspended", "Running"]);
    assert_eq!(world.wake_at_ms, Some(START_MS + 150_000));
    assert!(world.events.contains(&"PyTorchJobResumed".to_owned()));
}

/// A pod that the smaller job does not want any more still has its rank, until it has ended.
#[test]
fn a_job_that_is_resumed_smaller_waits_for_all_pods_of_its_last_start() {
    let mut world = pytorch(json!({"suspend": false}));
    world.run();
    world.edit("/spec/runPolicy/suspend", json!(true));
    world.plan();
    world.edit("/spec/pytorchReplicaSpecs/Worker/replicas", json!(1));
    world.edit("/spec/runPolicy/suspend", json!(false));
    world.pods.remove("mnist-master-0");
    world.pods.remove("mnist-worker-0");
    world.plan();
    assert_eq!(world.names(), ["mnist-worker-1"]);
    assert!(world.codes.contains(&"WaitsForOldPods".to_owned()), "{:?}", world.codes);
    world.reap();
    world.plan();
    assert_eq!(world.names(), ["mnist-master-0", "mnist-worker-0"]);
}

#[test]
fn a_job_that_begins_suspended_has_no_start() {
    let mut world = pytorch(json!({"suspend": true}));
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Suspended"]);
    assert_eq!(world.status("/startTime"), Value::Null);
    assert!(world.pods.is_empty());
}

#[test]
fn another_manager_keeps_us_out() {
    for (manager, ours) in [("kueue.x-k8s.io/multikueue", false), ("kubeflow.org/training-operator", true), ("", true)]
    {
        let mut world = pytorch(json!({"managedBy": manager}));
        world.plan();
        assert_eq!(!world.pods.is_empty(), ours, "{manager}");
    }
}

#[test]
fn a_job_of_another_manager_is_left_alone_even_if_it_cannot_be_lowered() {
    let mut world = pytorch(json!({"managedBy": "kueue.x-k8s.io/multikueue", "backoffLimit": -1}));
    assert_eq!(world.plan().actions, []);
    assert_eq!(world.codes, ["ManagedElsewhere"]);
    let mut world = World::new(TRAINJOB);
    world.job.as_mut().unwrap()["spec"]["managedBy"] = json!("kueue.x-k8s.io/multikueue");
    assert_eq!(world.plan().actions, [], "not even its runtime is looked for");
    assert_eq!(world.codes, ["ManagedElsewhere"]);
}

#[test]
fn an_invalid_job_fails_with_all_that_is_wrong() {
    let mut world = pytorch(json!({"backoffLimit": -1}));
    world.edit("/spec/pytorchReplicaSpecs/Master/replicas", json!(2));
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Failed"]);
    assert_eq!(world.status("/conditions/1/reason"), json!("PyTorchJobInvalid"));
    let message = world.status("/conditions/1/message");
    let message = message.as_str().unwrap();
    assert!(message.contains("spec.runPolicy.backoffLimit") && message.contains("Master.replicas"), "{message}");
    assert!(world.events.contains(&"PyTorchJobInvalid".to_owned()));
}

#[test]
fn a_smaller_elastic_job_gives_up_its_last_pods() {
    let mut world = pytorch(json!({}));
    world.run();
    world.edit("/spec/pytorchReplicaSpecs/Worker/replicas", json!(1));
    world.plan();
    assert_eq!(world.live(), ["mnist-master-0", "mnist-worker-0"]);
    assert_eq!(world.services.len(), 2);
}

#[test]
fn a_job_that_waits_can_be_made_small_enough_to_start() {
    for (mut world, replicas) in
        [(World::new(TRAINING), "/spec/replicas"), (pytorch(json!({})), "/spec/pytorchReplicaSpecs/Worker/replicas")]
    {
        world.nodes.clear();
        world.plan();
        world.place();
        world.nodes.push(world::node("laptop", "64", "256Gi"));
        world.edit(replicas, json!(1));
        world.plan();
        world.reap();
        world.run();
        assert_eq!(world.conditions(), ["Created", "Running"]);
    }
}

#[test]
fn a_job_that_waits_can_be_given_less_so_that_it_starts() {
    let mut ours = World::new(TRAINING);
    ours.job.as_mut().unwrap()["spec"]["resources"] = json!({"cpu": 100});
    let mut upstream = pytorch(json!({}));
    let container = "/spec/pytorchReplicaSpecs/Worker/template/spec/containers/0";
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}});
    upstream.job.as_mut().unwrap().pointer_mut(container).unwrap()["resources"] = resources("100");
    for (mut world, path, less) in
        [(ours, "/spec/resources", json!({"cpu": 1})), (upstream, &format!("{container}/resources"), resources("1"))]
    {
        world.plan();
        world.place();
        world.plan();
        assert!(world.pods.values().all(|pod| pod.spec.as_ref().unwrap().node_name.is_none()));
        world.edit(path, less);
        world.plan();
        world.reap();
        world.run();
        assert_eq!(world.conditions(), ["Created", "Running"]);
        let count = world.names().len();
        world.edit(path, world.job.as_ref().unwrap().pointer(path).unwrap().clone());
        world.plan();
        assert_eq!(world.live().len(), count, "what runs is left alone");
    }
}

#[test]
fn what_runs_is_not_made_anew_when_its_template_changes() {
    let mut world = World::new(TRAINING);
    world.run();
    world.job.as_mut().unwrap()["spec"]["resources"] = json!({"cpu": 2});
    world.plan();
    assert_eq!(world.conditions(), ["Created", "Running"]);
    assert_eq!(world.live().len(), world.names().len());
}

#[test]
fn a_replica_of_a_job_that_became_smaller_finds_its_place_again() {
    let mut world = pytorch(json!({}));
    world.run();
    world.edit("/spec/pytorchReplicaSpecs/Worker/replicas", json!(1));
    world.plan();
    world.reap();
    world.set("mnist-worker-0", json!({"phase": "Failed", "reason": "Evicted"}));
    world.plan();
    world.reap();
    world.run();
    assert_eq!(world.conditions(), ["Created", "Running"]);
}

#[test]
fn a_trainingjob_copies_its_leaders_progress_and_succeeds_with_all() {
    let mut world = World::new(TRAINING);
    world.run();
    let progress = json!({"step": 3, "totalSteps": 10, "metrics": {"loss": 0.5}});
    let leader = world.pods.get_mut("wine-worker-0").unwrap();
    leader.metadata.annotations.as_mut().unwrap().insert("trainyard.dev/progress".to_owned(), progress.to_string());
    world.plan();
    assert_eq!(world.status("/progress/step"), json!(3));
    for index in 0..3 {
        world.succeed(&format!("wine-worker-{index}"));
        world.plan();
    }
    assert_eq!(world.status("/phase"), json!("Succeeded"));
    assert_eq!(world.status("/exitCode"), json!(0));
    assert_eq!(world.status("/progress/step"), json!(3));
}

#[test]
fn a_gang_that_is_being_made_makes_no_noise() {
    let mut world = World::new(TRAINING);
    world.plan();
    let gated = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gates"});
    let last = world.pods.remove("wine-worker-2").unwrap();
    for name in ["wine-worker-0", "wine-worker-1"] {
        world.set(name, json!({"conditions": [gated]}));
    }
    let placement = world.place();
    assert_eq!(placement.plan.actions, [], "two of three pods are there: nothing is written");
    assert_eq!(placement.waiting[0].code, trainyard_coordinator_core::gang::WaitCode::GangIncomplete);
    world.pods.insert("wine-worker-2".to_owned(), last);
    world.plan();
    assert_eq!(world.status("/message"), Value::Null, "the gate is no news");
    world.run();
    assert!(!world.events.contains(&"FailedScheduling".to_owned()));
}

#[test]
fn a_waiting_job_says_what_it_waits_for() {
    let mut world = World::new(TRAINING);
    world.edit("/spec/replicas", json!(1));
    world.job.as_mut().unwrap()["spec"]["resources"] = json!({"cpu": 100});
    world.plan();
    world.place();
    world.plan();
    assert_eq!(world.status("/phase"), json!("Pending"));
    assert_eq!(
        world.status("/message"),
        json!(
            "it needs 100 CPUs, node laptop has 64 CPUs allocatable of which 64 CPUs are free; lower resources.cpu, or use fewer replicas: it can never start here as it is"
        )
    );
}

const RUNTIME: &str = "
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata: {name: torch-distributed, labels: {trainer.kubeflow.org/framework: torch}}
spec:
  mlPolicy: {numNodes: 1, torch: {}}
  template:
    spec:
      replicatedJobs:
        - name: node
          template:
            spec:
              template:
                spec:
                  containers: [{name: node, image: pytorch}]
";

const TRAINJOB: &str = "
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tj}
spec:
  runtimeRef: {name: torch-distributed}
  trainer: {numNodes: 2, command: [torchrun, train.py], resourcesPerNode: {requests: {cpu: 2}}}
";

#[test]
fn a_trainjob_waits_for_its_runtime_and_then_completes() {
    let mut world = World::new(TRAINJOB);
    world.plan();
    assert_eq!(world.codes, ["WaitsForRelated"]);
    world.related.push(world::yaml(RUNTIME));
    world.plan();
    assert_eq!(world.names(), ["tj-node-0-0", "tj-node-0-1"]);
    assert_eq!(world.conditions(), [""; 0]);
    let env = world.env("tj-node-0-1");
    assert_eq!(env["PET_NODE_RANK"], "1");
    assert_eq!(env["PET_MASTER_ADDR"], "tj-node-0-0.tj");
    assert_eq!(env["PET_NPROC_PER_NODE"], "2");
    world.place();
    world.start_all();
    world.plan();
    assert_eq!(world.status("/jobsStatus/0/active"), json!(1));
    world.succeed("tj-node-0-0");
    world.plan();
    world.succeed("tj-node-0-1");
    world.plan();
    assert_eq!(world.conditions(), ["Complete"]);
    assert_eq!(world.status("/jobsStatus/0/succeeded"), json!(1));
}

#[test]
fn a_trainjob_goes_on_with_the_runtime_that_it_began_with() {
    let mut world = World::new(TRAINJOB);
    world.related.push(world::yaml(RUNTIME));
    world.run();
    assert_eq!(world.related[1]["metadata"]["name"], json!("tj-runtime-snapshot"));
    assert_eq!(world.related[1]["metadata"]["ownerReferences"][0]["uid"], json!("job-uid"));
    let containers = "/spec/template/spec/replicatedJobs/0/template/spec/template/spec/containers/0/image";
    *world.related[0].pointer_mut(containers).unwrap() = json!("newer");
    world.set("tj-node-0-1", json!({"phase": "Failed", "reason": "Evicted"}));
    world.plan();
    world.reap();
    world.plan();
    let image = |world: &World| world.pods["tj-node-0-1"].spec.as_ref().unwrap().containers[0].image.clone();
    assert_eq!(image(&world).as_deref(), Some("pytorch"), "a change of the runtime is not for this job");
    world.related.remove(0);
    world.plan();
    assert_ne!(world.codes, ["WaitsForRelated"]);
    world.place();
    world.start_all();
    world.succeed("tj-node-0-0");
    world.succeed("tj-node-0-1");
    world.plan();
    assert_eq!(world.conditions(), ["Complete"], "the runtime is gone, and the job ends as it would");
}

#[test]
fn a_config_map_of_somebody_else_is_no_snapshot() {
    let mut world = World::new(TRAINJOB);
    world.related.push(world::yaml(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: tj-runtime-snapshot, namespace: default}, data: {runtime: '{\"spec\": {}}'}}",
    ));
    world.plan();
    assert_eq!(world.codes, ["WaitsForRelated"]);
    world.related.push(world::yaml(RUNTIME));
    world.plan();
    assert_eq!(world.names().len(), 2);
    assert_eq!(world.related.len(), 2, "and it is left alone");
}

#[test]
fn fields_without_effect_are_told() {
    let mut world = pytorch(json!({"schedulingPolicy": {"minResources": {"cpu": "1"}, "scheduleTimeoutSeconds": 5}}));
    world.plan();
    assert_eq!(world.events.iter().filter(|reason| *reason == "FieldIgnored").count(), 2);
    let mut world = World::new(TRAINJOB);
    let mut runtime = world::yaml(RUNTIME);
    runtime["spec"]["template"]["spec"]["failurePolicy"] = json!({"maxRestarts": 3});
    world.related.push(runtime);
    world.plan();
    assert_eq!(world.events.iter().filter(|reason| *reason == "FieldIgnored").count(), 1);
}

/// The program in a user's image may be an older one, which would not find its variables.
#[test]
fn only_a_launcher_that_comes_with_us_is_told_all_in_one_variable() {
    for (image, is_one) in [(None, false), (Some("trainyard:1"), true)] {
        let mut world = World::new(TRAINING);
        world.config = Config { launcher_image: image.map(str::to_owned), ..Config::cluster() };
        world.job.as_mut().unwrap()["spec"]["image"] = json!("users:1");
        world.plan();
        let (_, pod) = world.pods.first_key_value().expect("a pod");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let names: Vec<&str> = container.env.iter().flatten().map(|variable| variable.name.as_str()).collect();
        assert_eq!(names.contains(&"TRAINYARD_TOLD"), is_one, "{names:?}");
        assert_eq!(names.contains(&"PET_NNODES"), !is_one, "{names:?}");
    }
}
