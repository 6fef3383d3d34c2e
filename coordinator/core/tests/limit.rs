//! `activeDeadlineSeconds`: how long a job may have its places.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

mod world;

use serde_json::json;
use trainyard_coordinator_core::view::Config;
use trainyard_coordinator_core::{instant, label};
use world::{START_MS, TRAINING, World, node, pytorch};

const TRAINJOB: &str = "
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: wine}
spec:
  runtimeRef: {name: torch}
  activeDeadlineSeconds: 60
  trainer: {numNodes: 3}
";

fn trainjob() -> World {
    let mut world = World::new(TRAINJOB);
    world.related.push(world::yaml(
        "{apiVersion: trainer.kubeflow.org/v1alpha1, kind: ClusterTrainingRuntime, metadata: {name: torch}, spec: {mlPolicy: {torch: {}},
          template: {spec: {replicatedJobs: [{name: node, template: {spec: {template: {spec: {containers: [{name: node, image: x}]}}}}}]}}}}",
    ));
    world
}

fn training() -> World {
    let mut world = World::new(TRAINING);
    world.job.as_mut().unwrap()["spec"]["activeDeadlineSeconds"] = json!(60);
    world
}

fn has_failed(world: &World) -> bool {
    world.conditions().contains(&"Failed".to_owned())
}

/// That it goes on until then, and is ended then.
fn ends_at(world: &mut World, at_ms: i64) {
    assert_eq!(world.wake_at_ms, Some(at_ms));
    world.now_ms = at_ms - 1;
    world.plan();
    assert!(!has_failed(world), "{:?}", world.conditions());
    world.now_ms = at_ms;
    world.plan();
    assert!(has_failed(world), "{:?}", world.conditions());
    assert_eq!(world.live(), [""; 0]);
}

fn preempt(world: &mut World) {
    let pod = world.pods.values_mut().next().unwrap();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(label::PREEMPTED.to_owned(), "team/big".to_owned());
    world.plan();
    world.reap();
    world.plan();
}

#[test]
fn who_waits_for_places_uses_none_of_its_time() {
    for mut world in [training(), pytorch(json!({"activeDeadlineSeconds": 60})), trainjob()] {
        world.nodes.clear();
        world.plan();
        world.place();
        world.plan();
        assert_eq!(world.wake_at_ms, None, "nothing is due");
        world.now_ms += 600_000;
        world.plan();
        assert!(!has_failed(&world), "{:?}", world.conditions());
        world.nodes.push(node("late", "64", "256Gi"));
        world.place();
        world.plan();
        // Its pods may take their time to begin.
        world.now_ms += 10_000;
        world.start_all();
        world.plan();
        ends_at(&mut world, START_MS + 660_000);
    }
}

#[test]
fn the_start_time_stays_when_the_job_was_taken_up() {
    let mut world = pytorch(json!({"activeDeadlineSeconds": 60}));
    world.plan();
    world.now_ms += 600_000;
    world.run();
    assert_eq!(world.status("/startTime"), json!("2026-01-01T00:00:00Z"), "as Kubeflow's clients know it");
}

#[test]
fn who_had_to_make_room_waits_on_nobodys_time() {
    let mut world = training();
    world.run();
    world.now_ms += 40_000;
    preempt(&mut world);
    world.now_ms += 600_000;
    world.plan();
    assert!(!has_failed(&world), "{:?}", world.conditions());
    world.run();
    ends_at(&mut world, START_MS + 660_000);
}

#[test]
fn the_time_between_a_failure_and_the_next_start_counts() {
    let mut world = training();
    world.run();
    for seconds in [10, 20] {
        world.now_ms = START_MS + seconds * 1000;
        world.fail("wine-worker-1", 1);
        world.plan();
        world.reap();
        world.run();
    }
    // The second time in a row it is put off by 10 s.
    world.now_ms = START_MS + 30_000;
    world.run();
    ends_at(&mut world, START_MS + 60_000);
}

#[test]
fn a_limit_that_is_over_before_the_next_start_is_kept() {
    let mut world = training();
    world.job.as_mut().unwrap()["spec"]["activeDeadlineSeconds"] = json!(25);
    world.run();
    for seconds in [10, 20] {
        world.now_ms = START_MS + seconds * 1000;
        world.fail("wine-worker-1", 1);
        world.plan();
        world.reap();
        world.run();
    }
    assert_eq!(world.live(), [""; 0], "it is put off");
    ends_at(&mut world, START_MS + 25_000);
}

#[test]
fn who_waits_for_places_after_a_failure_waits_on_nobodys_time() {
    let mut world = training();
    world.run();
    world.now_ms += 10_000;
    world.fail("wine-worker-1", 1);
    world.plan();
    world.reap();
    world.nodes.clear();
    world.run();
    world.now_ms += 600_000;
    world.run();
    assert!(!has_failed(&world), "{:?}", world.conditions());
    world.nodes.push(node("late", "64", "256Gi"));
    world.run();
    ends_at(&mut world, START_MS + 660_000);
}

#[test]
fn a_job_that_is_resumed_has_all_its_time_again() {
    let mut world = training();
    world.run();
    world.now_ms += 40_000;
    world.job.as_mut().unwrap()["spec"]["suspend"] = json!(true);
    world.plan();
    world.reap();
    world.now_ms += 100_000;
    world.job.as_mut().unwrap()["spec"]["suspend"] = json!(false);
    world.plan();
    world.now_ms += 100_000;
    world.run();
    ends_at(&mut world, START_MS + 300_000);
}

#[test]
fn a_planner_that_comes_late_counts_from_when_the_pods_got_their_nodes() {
    let mut world = training();
    world.plan();
    world.place();
    world.now_ms += 30_000;
    for index in 0..3 {
        world.set(
            &format!("wine-worker-{index}"),
            json!({"phase": "Running", "startTime": instant::text(START_MS + 5_000)}),
        );
    }
    world.plan();
    ends_at(&mut world, START_MS + 65_000);
}

#[test]
fn a_limit_that_comes_later_counts_from_the_same_moment() {
    let mut world = World::new(TRAINING);
    world.plan();
    world.now_ms += 100_000;
    world.place();
    for index in 0..3 {
        world.set(
            &format!("wine-worker-{index}"),
            json!({"phase": "Running", "startTime": instant::text(world.now_ms)}),
        );
    }
    world.plan();
    assert_eq!(world.wake_at_ms, None);
    world.now_ms += 20_000;
    world.job.as_mut().unwrap()["spec"]["activeDeadlineSeconds"] = json!(60);
    world.plan();
    ends_at(&mut world, START_MS + 160_000);
}

/// What starts together counts from when it could; what the cluster's scheduler places one by one holds a node from the first on.
#[test]
fn a_gang_counts_when_it_is_whole_and_others_with_their_first_pod() {
    for (gangs, counts) in [(true, false), (false, true)] {
        let mut world = training();
        world.job.as_mut().unwrap()["spec"]["image"] = json!("x");
        world.config = Config { gangs, ..Config::cluster() };
        world.plan();
        assert_eq!(world.names().len(), 3);
        let first = world.pods.get_mut("wine-worker-0").unwrap();
        first.spec.as_mut().unwrap().node_name = Some("laptop".to_owned());
        world.plan();
        assert_eq!(world.wake_at_ms.is_some(), counts);
        world.now_ms += 600_000;
        world.plan();
        assert_eq!(has_failed(&world), counts);
    }
}
