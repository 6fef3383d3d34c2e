//! Pods on nodes that the cluster cannot reach any more.

use std::collections::BTreeSet;

use serde_json::json;
use trainyard_coordinator_core::rendezvous::Input;
use trainyard_coordinator_core::view::Config;

use crate::lab::{Lab, job};
use crate::world::{GRACE_MS, World, node};

const AWAY_MS: i64 = 15_000;

/// Two pods of one job, on two nodes of a cluster.
fn on_a_cluster(spec: &str) -> Lab {
    let mut world = World::new(&job(&format!("image: x, resources: {{cpu: 1}}, restartPolicy: OnFailure, {spec}")));
    world.nodes = vec![node("a", "1", "8Gi"), node("b", "1", "8Gi")];
    let config = Config { rendezvous: Some("http://there".to_owned()), gangs: true, ..Config::cluster() };
    let mut lab = Lab::with(world, config);
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    lab
}

fn node_of(lab: &Lab, pod: &str) -> String {
    lab.world.pods[pod].spec.as_ref().unwrap().node_name.clone().unwrap()
}

impl Lab {
    /// The line to a launcher is cut.
    fn cut(&mut self, pod: &str) {
        let uid = self.world.pods[pod].metadata.uid.clone().unwrap();
        let member = self.streams[&uid].clone();
        self.step(Input::Away { member, stream: self.next_of(&uid) });
        self.world.meeting = Some(self.session.view());
    }

    fn next_of(&self, uid: &str) -> u64 {
        self.streams[uid].incarnation
    }

    fn replaced(&self, before: &[(String, String)]) -> Vec<String> {
        let after: BTreeSet<(String, String)> = self.uids().into_iter().collect();
        before.iter().filter(|pod| !after.contains(*pod)).map(|(name, _)| name.clone()).collect()
    }
}

#[test]
fn a_pod_of_a_lost_node_is_replaced_alone_as_soon_as_its_launcher_is_given_up_too() {
    let mut lab = on_a_cluster("replicas: 2");
    let before = lab.uids();
    let lost = node_of(&lab, "wine-worker-1");
    lab.cut("wine-worker-1");
    lab.world.silent_nodes.insert(lost.clone());
    lab.pass(AWAY_MS - 1);
    assert_eq!(lab.uids(), before, "its launcher may come back");
    lab.pass(1);
    assert!(!lab.world.pods.contains_key("wine-worker-1"), "it is removed without its node");
    assert!(lab.world.pods["wine-worker-0"].metadata.deletion_timestamp.is_none());
    lab.world.nodes = vec![node("a", "2", "8Gi"), node("b", "2", "8Gi")];
    lab.world.nodes.retain(|node| node.metadata.name.as_deref() != Some(&lost));
    lab.run();
    assert_eq!((lab.restarts(), lab.world.status("/phase")), (1, json!("Running")));
    assert_eq!(lab.replaced(&before), ["wine-worker-1"]);
    assert_ne!(node_of(&lab, "wine-worker-1"), lost);
}

#[test]
fn a_pod_whose_launcher_still_takes_part_is_left_alone_though_its_node_is_out_of_reach() {
    let mut lab = on_a_cluster("replicas: 2");
    let before = lab.uids();
    lab.world.silent_nodes.insert(node_of(&lab, "wine-worker-1"));
    for _ in 0..20 {
        lab.pass(60_000);
    }
    assert_eq!((lab.uids(), lab.restarts()), (before, 0));
}

#[test]
fn a_control_plane_that_has_just_begun_gives_up_whoever_does_not_come_back_from_a_lost_node() {
    let mut lab = on_a_cluster("replicas: 2");
    let before = lab.uids();
    lab.session = Lab::session(&lab.world, 16);
    let gone = before[1].1.clone();
    lab.streams.remove(&before[0].1);
    // It is there for the new control plane as if it could not call it.
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.streams.remove(&gone);
    lab.world.silent_nodes.insert(node_of(&lab, "wine-worker-1"));
    lab.pass(0);
    assert_eq!(lab.uids(), before);
    lab.pass(AWAY_MS - 1);
    assert_eq!(lab.uids(), before, "whoever is alive has this time to come back");
    lab.pass(1);
    assert!(!lab.world.pods.contains_key("wine-worker-1"));
    lab.world.nodes = vec![node("c", "2", "8Gi")];
    lab.stuck.clear();
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    assert_eq!(lab.replaced(&before), ["wine-worker-1"]);
}

#[test]
fn a_control_plane_that_has_just_begun_starts_not_all_anew_for_one_that_does_not_come_back() {
    let mut lab = on_a_cluster("replicas: 2, recovery: {returnSeconds: 20}");
    let before = lab.uids();
    lab.session = Lab::session(&lab.world, 16);
    lab.streams.clear();
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.pass(0);
    lab.pass(19_999);
    assert_eq!(lab.world.live(), ["wine-worker-0", "wine-worker-1"]);
    lab.pass(1);
    assert_eq!(lab.world.live(), ["wine-worker-0"]);
    lab.world.reap();
    lab.stuck.clear();
    lab.run();
    assert_eq!(
        (lab.world.status("/phase"), lab.replaced(&before)),
        (json!("Running"), vec!["wine-worker-1".to_owned()])
    );
}

#[test]
fn a_launcher_that_obeys_nobody_is_replaced_before_all_are() {
    let mut lab = on_a_cluster("replicas: 2, recovery: {returnSeconds: 20}");
    let before = lab.uids();
    lab.cut("wine-worker-1");
    lab.pass(AWAY_MS);
    assert_eq!(lab.world.status("/phase"), json!("Restarting"));
    lab.pass(19_999);
    assert_eq!(lab.world.live(), ["wine-worker-0", "wine-worker-1"], "it is awaited");
    lab.pass(1);
    assert_eq!(lab.world.live(), ["wine-worker-0"], "its node is asked to end it");
    // For as long as that takes the other one is not started anew: its successor could not be there earlier.
    lab.pass(60_000);
    assert_eq!(lab.world.live(), ["wine-worker-0"]);
    lab.world.silent_nodes.insert(node_of(&lab, "wine-worker-1"));
    lab.pass(0);
    assert!(!lab.world.pods.contains_key("wine-worker-1"), "now it is known that nobody will");
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    assert_eq!(lab.replaced(&before), ["wine-worker-1"]);
}

#[test]
fn a_successor_has_the_time_of_a_first_start_before_all_are_started_anew() {
    let mut lab = on_a_cluster("replicas: 2, recovery: {returnSeconds: 20}");
    let before = lab.uids();
    lab.cut("wine-worker-1");
    lab.world.silent_nodes.insert(node_of(&lab, "wine-worker-1"));
    lab.pass(AWAY_MS);
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.now_ms += 15_000;
    lab.world.plan();
    lab.pass(19_999);
    assert_eq!(lab.replaced(&before), ["wine-worker-1"], "the successor is awaited");
    lab.pass(1);
    assert_eq!(lab.world.live(), Vec::<&str>::new(), "in vain: all of them");
}

#[test]
fn what_was_to_be_gone_by_now_is_removed_from_a_node_that_cannot_say_so() {
    for end in ["suspend", "drain"] {
        let mut lab = on_a_cluster("replicas: 2");
        let uid = lab.world.pods["wine-worker-1"].metadata.uid.clone();
        if end == "suspend" {
            lab.world.job.as_mut().unwrap()["spec"]["suspend"] = json!(true);
        } else {
            let due = trainyard_coordinator_core::instant::time(lab.world.now_ms + GRACE_MS);
            lab.world.pods.get_mut("wine-worker-1").unwrap().metadata.deletion_timestamp = Some(due);
        }
        lab.world.silent_nodes.insert(node_of(&lab, "wine-worker-1"));
        lab.world.plan();
        assert_eq!(lab.world.pods["wine-worker-1"].metadata.uid, uid, "it has its time to end");
        lab.world.now_ms += GRACE_MS;
        lab.world.plan();
        let there = lab.world.pods.get("wine-worker-1").and_then(|pod| pod.metadata.uid.clone());
        assert_ne!(there, uid, "{end}");
    }
}
