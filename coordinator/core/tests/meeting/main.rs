//! Jobs whose launchers meet: the planner and the rendezvous together, as the shell brings them together.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod away;
mod blame;
mod lab;
mod pulse;
mod stray;
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeMap;

use lab::Lab;
use serde_json::json;
use trainyard_coordinator_core::rendezvous::{Cause, Failure, Generation, Input, Outcome, Stage};
use trainyard_coordinator_core::{explain, instant, job, manifest};
use world::node;

#[test]
fn a_restart_in_place_is_counted_and_told_and_touches_no_pod() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let before = lab.uids();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    lab.fail_rank("wine-worker-1", Cause::Exception, 1);
    lab.world.plan();
    assert_eq!((lab.restarts(), lab.world.status("/phase")), (1, json!("Running")));
    let message = lab.world.status("/conditions/1/message");
    let message = message.as_str().unwrap();
    assert!(message.starts_with("TrainingJob wine is running again: generation 2 of 4 ranks, 0 ms after"), "{message}");
    assert_eq!(lab.world.status("/lastFailure/pod"), json!("wine-worker-1"));
    assert_eq!(lab.world.status("/lastFailure/cause"), json!("exception"));
    assert_eq!(lab.uids(), before);
}

#[test]
fn one_budget_holds_for_restarts_in_place_and_for_new_pods() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure, backoffLimit: 2");
    lab.run();
    lab.fail_rank("wine-worker-0", Cause::Signal, 139);
    lab.run();
    lab.world.fail("wine-worker-1", 137);
    lab.run();
    assert_eq!((lab.restarts(), lab.world.status("/phase")), (2, json!("Running")), "a launcher was lost");
    lab.fail_rank("wine-worker-0", Cause::Exception, 1);
    for pod in ["wine-worker-0", "wine-worker-1"] {
        lab.world.fail(pod, 1);
    }
    lab.world.plan();
    assert_eq!(lab.world.conditions().last().unwrap(), "Failed");
    assert_eq!((lab.restarts(), lab.world.status("/exitCode")), (2, json!(1)));
    assert_eq!(
        lab.world.status("/message"),
        json!(
            "TrainingJob wine has reached its backoffLimit of 2 after 2 restarts: rank 1 (pod wine-worker-0, host host-0) raised an exception: ValueError: no such file; see `trainyard logs wine -n team --rank 1`"
        )
    );
}

#[test]
fn each_cause_has_a_budget_of_its_own() {
    let mut lab = Lab::new("restartPolicy: OnFailure, recovery: {budgets: {outOfMemory: 1}}");
    lab.run();
    lab.fail_rank("wine-worker-0", Cause::OutOfMemory, 137);
    assert_eq!(lab.released, None);
    lab.fail_rank("wine-worker-0", Cause::Signal, 139);
    assert_eq!(lab.released, None, "another cause");
    lab.fail_rank("wine-worker-0", Cause::OutOfMemory, 137);
    assert!(matches!(lab.released, Some(Outcome::Failed(_))));
}

#[test]
fn under_exit_code_what_the_program_says_counts_and_what_befell_it_is_borne() {
    for (cause, code, ends) in [
        (Cause::ExitCode, 3, true),
        (Cause::Exception, 1, true),
        (Cause::ExitCode, 130, false),
        (Cause::Signal, 139, false),
        (Cause::OutOfMemory, 137, false),
    ] {
        let mut lab = Lab::new("restartPolicy: ExitCode");
        lab.run();
        lab.fail_rank("wine-worker-0", cause, code);
        assert_eq!(lab.released.is_some(), ends, "{cause:?} {code}");
    }
}

#[test]
fn a_lost_pod_is_replaced_alone() {
    for size in [1, 3] {
        let mut lab = Lab::new(&format!("replicas: {size}, restartPolicy: OnFailure"));
        lab.run();
        let before = lab.uids();
        lab.world.fail("wine-worker-0", 137);
        lab.run();
        assert_eq!((lab.restarts(), lab.world.status("/phase")), (1, json!("Running")), "of {size}");
        let after = lab.uids();
        assert_eq!(after[1..], before[1..], "the others stay");
        assert_ne!(after[0], before[0]);
        assert_eq!(lab.session.view().generation, 2);
    }
}

#[test]
fn a_pod_that_somebody_deletes_is_replaced_alone() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let before = lab.uids();
    lab.world.pods.remove("wine-worker-1");
    lab.run();
    assert_eq!((lab.restarts(), lab.world.status("/phase")), (1, json!("Running")));
    assert_eq!(lab.uids()[0], before[0]);
}

#[test]
fn a_loss_that_is_cut_off_after_any_write_counts_once() {
    let mut lost = Lab::new("replicas: 2, restartPolicy: OnFailure, backoffLimit: 1");
    lost.run();
    lost.world.fail("wine-worker-1", 137);
    lost.meet();
    let writes = job::plan(&lost.world.view(), lost.world.now_ms).actions;
    assert!(writes.len() > 2, "{writes:#?}");
    for cut in 0..=writes.len() {
        let mut lab = lost.clone();
        for action in &writes[..cut] {
            lab.world.apply_one(action);
        }
        lab.run();
        assert_eq!((lab.restarts(), lab.world.status("/phase")), (1, json!("Running")), "cut off after {cut} writes");
    }
}

#[test]
fn whoever_waits_in_vain_starts_again_with_all() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure, recovery: {returnSeconds: 20}");
    lab.run();
    let before = lab.uids();
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.fail("wine-worker-1", 137);
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Restarting"));
    assert_eq!(lab.world.status("/missing"), json!(["wine-worker-1"]));
    assert_eq!(lab.world.codes, ["Restarting"]);
    lab.pass(19_000);
    assert_eq!(lab.uids()[0], before[0], "it waits");
    lab.stuck.clear();
    lab.stuck.insert("nobody".to_owned());
    lab.pass(1_000);
    // It came at the last moment: nothing more is to be done.
    assert_eq!((lab.restarts(), lab.uids()[0].clone()), (1, before[0].clone()));

    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.now_ms += 600_000;
    lab.world.fail("wine-worker-1", 137);
    lab.run();
    lab.stuck.clear();
    let waits = lab.clone();
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.pass(20_000);
    assert_eq!(lab.restarts(), 3, "the loss, and the restart of all");
    lab.stuck.clear();
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    assert!(lab.uids().iter().zip(&before).all(|(now, then)| now.1 != then.1), "all are new");
    drop(waits);
}

#[test]
fn an_elastic_job_goes_on_with_fewer_and_grows_again() {
    let mut lab =
        Lab::new("restartPolicy: OnFailure, elastic: {minReplicas: 1, maxReplicas: 3}, recovery: {returnSeconds: 10}");
    lab.run();
    assert_eq!(lab.world.pods.len(), 3);
    assert_eq!(lab.world.status("/ranks"), json!(6));
    lab.stuck.insert("wine-worker-2".to_owned());
    lab.world.fail("wine-worker-2", 137);
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Restarting"));
    lab.pass(10_000);
    assert_eq!((lab.world.status("/phase"), lab.world.status("/ranks")), (json!("Running"), json!(4)));
    assert_eq!(lab.world.status("/missing"), json!(["wine-worker-2"]));
    lab.stuck.clear();
    lab.run();
    lab.pass(30_000);
    assert_eq!((lab.world.status("/phase"), lab.world.status("/ranks")), (json!("Running"), json!(6)));
    assert_eq!(lab.restarts(), 1, "growing is nobody's failure");
    // It ends when those that were there have ended.
    lab.world.succeed("wine-worker-0");
    lab.world.plan();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    lab.world.succeed("wine-worker-1");
    lab.world.succeed("wine-worker-2");
    lab.world.plan();
    assert_eq!(lab.world.status("/phase"), json!("Succeeded"));
}

/// Tells a pod that it has to make room while the others of its job go on.
fn told_to_make_room(lab: &mut Lab, name: &str) {
    let pod = lab.world.pods.get_mut(name).unwrap();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("trainyard.dev/shrunk-for".to_owned(), "team/other".to_owned());
    let pod = pod.metadata.uid.clone().unwrap();
    lab.step(Input::Leaves { pod });
}

/// A job that may not fail once: nothing of this is a failure.
#[test]
fn an_elastic_job_that_makes_room_goes_on_with_the_others_and_counts_no_restart() {
    let spec = "backoffLimit: 0, elastic: {minReplicas: 1, maxReplicas: 3}, recovery: {returnSeconds: 10}";
    for with_launchers in [true, false] {
        let mut lab = Lab::new(spec);
        lab.run();
        let before = lab.uids();
        for name in ["wine-worker-2", "wine-worker-1"] {
            told_to_make_room(&mut lab, name);
            lab.world.pods.get_mut(name).unwrap().metadata.deletion_timestamp = Some(instant::time(lab.world.now_ms));
        }
        lab.meet();
        if !with_launchers {
            // Another control plane, to which they have not come back yet.
            lab.world.meeting = None;
        }
        lab.world.plan();
        assert_eq!(lab.world.conditions(), ["Created", "Running"]);
        assert_eq!(lab.uids(), before, "the pods that go are not made anew while they are there");
        // One of them ends by itself.
        lab.world.fail("wine-worker-2", 143);
        lab.world.plan();
        lab.world.reap();
        lab.world.plan();
        assert_eq!(lab.world.pods.len(), 3, "others wait in their places");
        assert!(lab.world.pods["wine-worker-2"].spec.as_ref().unwrap().node_name.is_none());
        lab.meet();
        lab.world.plan();
        let view = lab.session.view();
        assert_eq!((view.ranks, view.restarts, view.generation > 1), (2, 0, true));
        lab.run();
        lab.pass(10_000);
        assert_eq!((lab.world.status("/phase"), lab.world.status("/ranks")), (json!("Running"), json!(6)));
        assert_eq!((lab.restarts(), &lab.uids()[0]), (0, &before[0]), "the survivor goes on");
        assert!(lab.world.conditions().iter().all(|condition| condition == "Created" || condition == "Running"));
    }
}

#[test]
fn whoever_makes_room_is_awaited_by_nobody_and_what_it_says_of_its_ranks_counts_no_more() {
    let mut lab = Lab::new("restartPolicy: OnFailure, backoffLimit: 1, elastic: {minReplicas: 1, maxReplicas: 3}");
    lab.run();
    told_to_make_room(&mut lab, "wine-worker-2");
    assert_eq!((lab.session.view().ranks, lab.session.view().generation), (4, 2));
    let member = lab.streams.values().last().unwrap().clone();
    let failure = Failure { rank: Some(4), cause: Cause::Signal, code: 143, message: String::new(), secondary: false };
    lab.step(Input::Failed { member, generation: Generation(1), failure });
    assert_eq!(lab.session.view().restarts, 0);
    // While the others gather after a failure, too.
    let mut lab = Lab::new("restartPolicy: OnFailure, backoffLimit: 1, elastic: {minReplicas: 1, maxReplicas: 3}");
    lab.run();
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.fail("wine-worker-1", 137);
    lab.meet();
    assert_eq!(lab.session.view().stage, Stage::Recovering);
    told_to_make_room(&mut lab, "wine-worker-2");
    lab.stuck.clear();
    lab.run();
    assert_eq!((lab.session.view().stage, lab.session.view().restarts), (Stage::Running, 1));
}

#[test]
fn a_failure_that_is_not_borne_waits_for_the_pods_to_end_but_not_for_ever() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    lab.fail_rank("wine-worker-0", Cause::Exception, 1);
    lab.world.plan();
    assert_eq!(lab.world.status("/phase"), json!("Running"), "its launchers are ending");
    lab.world.fail("wine-worker-0", 1);
    lab.meet();
    lab.world.plan();
    assert_eq!(lab.world.live().len(), 2, "nothing is started again");
    lab.pass(15_000);
    assert_eq!(lab.world.status("/phase"), json!("Failed"));
    assert_eq!(lab.world.live(), ["wine-worker-0"]);
    assert_eq!(lab.world.events.iter().filter(|event| *event == "TrainingJobFailed").count(), 1);
}

#[test]
fn the_next_control_plane_waits_for_launchers_before_it_judges_their_pods() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let before = lab.uids();
    lab.fail_rank("wine-worker-0", Cause::Signal, 139);
    lab.run();
    // It ends, a pod is lost meanwhile, and another one begins.
    lab.session = Lab::session(&lab.world, 16);
    lab.streams.clear();
    lab.world.now_ms += 60_000;
    lab.world.fail("wine-worker-1", 137);
    lab.world.meeting = Some(Lab::session(&lab.world, 16).view());
    lab.world.plan();
    assert_eq!(lab.world.codes, ["WaitsForRanks"]);
    assert_eq!(lab.world.live().len(), 2);
    lab.run();
    assert_eq!(lab.restarts(), 2);
    assert_eq!(lab.uids()[0], before[0], "whoever ran stays");
    assert!(lab.session.view().generation > 16);
}

#[test]
fn a_pod_that_ends_well_of_a_generation_that_runs_is_lost_to_it() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let uids = lab.uids();
    lab.step(Input::PodDone { pod: uids[1].1.clone() });
    assert_eq!(lab.released, None);
    assert_eq!(lab.session.machine().restarts(), 1);
}

#[test]
fn a_program_that_cannot_run_is_not_started_again_without_a_pause() {
    let mut lab = Lab::new("restartPolicy: OnFailure, backoffLimit: 20");
    lab.run();
    for generation in 1..=3 {
        assert_eq!(lab.session.view().generation, generation);
        lab.fail_rank("wine-worker-0", Cause::Exception, 1);
    }
    assert_eq!(lab.session.view().generation, 3, "the third failure at once: it waits");
    lab.pass(999);
    assert_eq!(lab.session.view().generation, 3);
    lab.pass(1);
    assert_eq!(lab.session.view().generation, 4);
    // What has lived for a while begins a new row.
    lab.pass(5_000);
    lab.fail_rank("wine-worker-0", Cause::Exception, 1);
    assert_eq!(lab.session.view().generation, 5);
}

#[test]
fn explain_names_who_is_missing_what_failed_and_what_is_left() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure, recovery: {budgets: {nodeLost: 2, hang: 0}}");
    lab.run();
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.fail("wine-worker-1", 137);
    lab.run();
    lab.world.now_ms += 5_000;
    // As a command sees it, which cannot ask the rendezvous.
    let mut view = lab.world.view();
    view.rendezvous = explain::told(&view.job, &view.pods);
    let reasons = explain::explain(&view, None, lab.world.now_ms);
    let told: Vec<(&str, &str)> =
        reasons.iter().map(|reason| (reason.code.as_str(), reason.message.as_str())).collect();
    let (code, message) = told[0];
    assert_eq!(code, "Restarting");
    assert!(message.ends_with("pods that have not joined: wine-worker-1"), "{message}");
    assert_eq!(told[1].0, "LastFailure");
    assert!(told[1].1.ends_with(", 5 s ago in generation 1; the ranks have not run since"), "{}", told[1].1);
    assert_eq!(
        told[2],
        ("RestartsLeft", "2 of 3 restarts are left; of those for hang 0 of 0; of those for nodeLost 1 of 2")
    );
}

#[test]
fn an_elastic_job_that_is_made_smaller_or_larger_has_not_failed() {
    let mut lab = Lab::new("replicas: 3, restartPolicy: Never, elastic: {minReplicas: 1, maxReplicas: 4}");
    lab.run();
    let resize = |lab: &mut Lab, replicas: u32| {
        lab.world.edit("/spec/replicas", json!(replicas));
        let job = lab.world.job.as_ref().unwrap();
        let config = manifest::lower(job, &[], &lab.world.config).unwrap().rendezvous.unwrap();
        lab.step(Input::Changed { config });
        lab.run();
    };
    resize(&mut lab, 2);
    assert_eq!((lab.world.status("/phase"), lab.world.status("/ranks")), (json!("Running"), json!(4)));
    assert_eq!(lab.world.live(), ["wine-worker-0", "wine-worker-1"]);
    resize(&mut lab, 4);
    lab.pass(30_000);
    assert_eq!((lab.world.status("/phase"), lab.world.status("/ranks")), (json!("Running"), json!(8)));
    assert_eq!(lab.restarts(), 0);
    assert_eq!(lab.world.status("/lastFailure"), json!(null));
}

#[test]
fn the_name_of_a_pod_outlives_it() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    lab.world.pods.remove("wine-worker-1");
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.run();
    assert_eq!(lab.world.status("/lastFailure/cause"), json!("nodeLost"));
    assert_eq!(lab.world.status("/lastFailure/pod"), json!("wine-worker-1"));
}

/// A job on two nodes of which each has room for all of it.
fn on_two_nodes(spec: &str) -> Lab {
    let mut lab = Lab::new(spec);
    lab.world.nodes = vec![node("laptop", "8", "32Gi"), node("other", "8", "32Gi")];
    lab.run();
    lab
}

fn nodes_of(lab: &Lab) -> BTreeMap<&str, String> {
    let pods = lab.world.pods.iter();
    pods.map(|(name, pod)| (name.as_str(), pod.spec.as_ref().unwrap().node_name.clone().unwrap())).collect()
}

#[test]
fn new_pods_avoid_a_node_on_which_a_rank_stood_still() {
    let mut lab = on_two_nodes("replicas: 2, restartPolicy: OnFailure, backoffLimit: 20");
    let before = nodes_of(&lab)["wine-worker-0"].clone();
    lab.fail_rank("wine-worker-0", Cause::Hang, 1);
    lab.run();
    assert_eq!(nodes_of(&lab)["wine-worker-0"], before, "ranks start again in their pods");
    let told = explain::explain(&lab.world.view(), None, lab.world.now_ms);
    let avoids = told.iter().find(|reason| reason.code == "AvoidsNode").unwrap();
    assert!(avoids.message.contains(&before) && avoids.message.contains("failed once"), "{}", avoids.message);
    lab.world.fail("wine-worker-0", 137);
    lab.run();
    let after = nodes_of(&lab)["wine-worker-0"].clone();
    assert_ne!(after, before, "the new pod is elsewhere");
    // Where there is no other place it comes back all the same.
    lab.world.nodes.retain(|node| node.metadata.name.as_deref() == Some(&before));
    lab.world.now_ms += 60_000;
    lab.world.fail("wine-worker-0", 137);
    lab.run();
    lab.pass(60_000);
    lab.run();
    assert_eq!(nodes_of(&lab)["wine-worker-0"], before);
}

#[test]
fn a_single_failure_is_held_against_no_node_and_several_are_forgotten() {
    let mut lab = on_two_nodes("replicas: 2, restartPolicy: OnFailure, backoffLimit: 20");
    let avoided = |lab: &Lab| {
        let told = explain::explain(&lab.world.view(), None, lab.world.now_ms);
        told.iter().filter(|reason| reason.code == "AvoidsNode").count()
    };
    lab.fail_rank("wine-worker-0", Cause::Signal, 137);
    lab.run();
    assert_eq!(avoided(&lab), 0);
    lab.world.now_ms += 60_000;
    lab.fail_rank("wine-worker-0", Cause::Signal, 137);
    lab.run();
    assert_eq!(avoided(&lab), 1);
    lab.world.now_ms += 3_600_000;
    assert_eq!(avoided(&lab), 0, "an hour later somebody has looked at it");
}

#[test]
fn explain_tells_of_the_launchers_of_a_pytorchjob_too() {
    let template = "{spec: {containers: [{name: pytorch, image: i, command: [torchrun, train.py]}]}}";
    let replicas = format!("{{replicas: 2, restartPolicy: OnFailure, template: {template}}}");
    let mut lab = Lab::of(&format!(
        "{{apiVersion: kubeflow.org/v1, kind: PyTorchJob, metadata: {{name: wine, namespace: team, uid: job-uid}}, spec: {{elasticPolicy: {{minReplicas: 1, maxReplicas: 2}}, pytorchReplicaSpecs: {{Worker: {replicas}}}}}}}"
    ));
    lab.run();
    let told = |lab: &Lab, code: &str| {
        // As a command sees it, which cannot ask the rendezvous.
        let mut view = lab.world.view();
        view.rendezvous = explain::told(&view.job, &view.pods);
        let reasons = explain::explain(&view, None, lab.world.now_ms);
        reasons.into_iter().find(|reason| reason.code == code).map(|reason| reason.message)
    };
    assert_eq!(told(&lab, "LastFailure"), None);
    lab.stuck.insert("wine-worker-1".to_owned());
    lab.world.fail("wine-worker-1", 137);
    lab.run();
    lab.pass(5_000);
    let waits = told(&lab, "Restarting").unwrap();
    assert!(waits.ends_with("pods that have not joined: wine-worker-1"), "{waits}");
    let failed = told(&lab, "LastFailure").unwrap();
    assert!(
        failed.starts_with("a launcher (pod wine-worker-1, ") && failed.ends_with("have not run since"),
        "{failed}"
    );
    lab.stuck.clear();
    lab.run();
    assert!(told(&lab, "LastFailure").unwrap().contains("all ranks ran again 5000 ms later"));
    assert!(!told(&lab, "Running").unwrap().contains("have not joined"));
}
