//! Gangs that are made on their nodes: the job planner and the gang scheduler together, with caches that lag, writes that fail and
//! processes that end between any two writes.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

#[path = "drafts/cluster.rs"]
mod cluster;

use cluster::{Cluster, Controller, job};
use serde_json::json;
use trainyard_coordinator_core::label;

#[test]
fn the_pods_of_a_gang_are_made_on_their_nodes_by_one_write_each() {
    let mut cluster = Cluster::new(&[2, 2], vec![job("first", 3)]);
    cluster.settle();
    let wrote = cluster.writes.clone();
    assert_eq!(wrote.iter().filter(|what| what.starts_with("create Pod")).count(), 3, "{wrote:?}");
    assert_eq!(wrote.iter().filter(|what| what.starts_with("bind")).count(), 0, "{wrote:?}");
    let intent = wrote.iter().position(|what| what == "patch TrainingJob first").unwrap();
    let first = wrote.iter().position(|what| what.starts_with("create Pod")).unwrap();
    assert!(intent < first, "what was decided is on record before the first pod: {wrote:?}");
    assert_eq!(cluster.placed("first"), (3, 3));
    assert!(cluster.pods("first").all(|pod| pod["metadata"]["annotations"][label::PLACED].is_string()));
}

#[test]
fn a_gang_without_room_is_made_to_wait_and_bound_when_there_is_room() {
    let mut cluster = Cluster::new(&[2, 1], vec![job("large", 3), job("next", 2)]);
    cluster.settle();
    assert_eq!((cluster.placed("large"), cluster.placed("next")), ((3, 3), (0, 2)));
    cluster.end("large");
    cluster.settle();
    assert_eq!(cluster.placed("next"), (2, 2));
    assert!(cluster.writes.contains(&"bind next-worker-0".to_owned()), "{:?}", cluster.writes);
}

/// Whatever was begun is completed by whoever comes next, at the same places.
#[test]
fn a_crash_between_any_two_writes_leaves_no_part_of_a_gang() {
    let whole = {
        let mut cluster = Cluster::new(&[2, 2, 2], vec![job("first", 3), job("second", 2)]);
        cluster.settle();
        cluster.writes.len()
    };
    for cut in 0..whole {
        let mut cluster = Cluster::new(&[2, 2, 2], vec![job("first", 3), job("second", 2)]);
        cluster.settle_until(|cluster| cluster.writes.len() >= cut);
        cluster.crash();
        cluster.settle();
        assert_eq!((cluster.placed("first"), cluster.placed("second")), ((3, 3), (2, 2)), "after {cut} writes");
        assert_eq!(cluster.writes.len(), whole, "after {cut} writes: {:?}", cluster.writes);
    }
}

#[test]
fn a_gang_whose_pods_cannot_all_be_made_is_taken_back_whole() {
    let mut cluster = Cluster::new(&[2, 2], vec![job("first", 3)]);
    cluster.refuse = Some("first-worker-2".to_owned());
    cluster.settle();
    assert_eq!(cluster.placed("first"), (2, 2), "the third is refused");
    cluster.sleep(cluster::PATIENCE_MS);
    cluster.settle();
    assert_eq!(cluster.placed("first"), (0, 2), "none of it is on a node, and its successors wait");
    cluster.refuse = None;
    cluster.sleep(600_000);
    cluster.settle();
    assert_eq!(cluster.placed("first"), (3, 3));
}

#[test]
fn a_node_that_is_cordoned_before_all_pods_are_made_gets_none() {
    let mut cluster = Cluster::new(&[2, 2], vec![job("first", 3)]);
    cluster.refuse = Some("first-worker-2".to_owned());
    cluster.settle();
    let node = cluster.intent("first")["drafted"]["places"][1][1].as_str().unwrap().to_owned();
    let on_it = |cluster: &Cluster| {
        cluster
            .pods("first")
            .filter(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default().ends_with(&node))
            .count()
    };
    let before = on_it(&cluster);
    cluster
        .nodes
        .iter_mut()
        .filter(|one| one["metadata"]["name"].as_str().unwrap().ends_with(&node))
        .for_each(|one| one["spec"] = json!({"unschedulable": true}));
    cluster.wake(Controller::Gangs);
    cluster.refuse = None;
    cluster.settle();
    assert!(on_it(&cluster) <= before);
    assert_eq!(cluster.placed("first").0, 0, "the other node has no room for all of them");
}

#[test]
fn a_pod_that_is_lost_after_the_gang_ran_takes_no_place_of_others() {
    let mut cluster = Cluster::new(&[4], vec![job("first", 2)]);
    cluster.settle();
    cluster.run_all();
    cluster.settle();
    assert_eq!(cluster.jobs()["first"]["status"]["phase"], "Running", "{}", cluster.jobs()["first"]["status"]);
    cluster.writes.clear();
    cluster.remove("first-worker-1");
    cluster.settle();
    assert_eq!(cluster.placed("first"), (2, 2), "{:?}", cluster.writes);
}

#[test]
fn a_gang_is_decided_as_often_however_many_pods_it_has() {
    let decisions = |pods: usize| {
        let mut cluster = Cluster::new(&[20], vec![job("first", pods)]);
        cluster.settle();
        cluster.run_all();
        cluster.settle();
        assert_eq!(cluster.placed("first"), (pods, pods));
        cluster.decisions()
    };
    assert_eq!(decisions(3), decisions(20));
}

#[test]
fn random_schedules_neither_overfill_a_node_nor_leave_a_part_of_a_gang() {
    for seed in 0..30 {
        cluster::random(seed);
    }
}
