//! Control planes that were away for so long, or were cut off in such a moment, that pods ended well without them.

use serde_json::json;
use trainyard_coordinator_core::rendezvous::{
    Budget, Cause, Config, Failure, Generation, Hello, Input, MemberId, Outcome, Output, Part, Place, Rendezvous,
    Spent, Stage, Standing, World,
};

use crate::lab::Lab;

/// What launchers know of their generation, which outlives the control plane.
struct Left {
    world: World,
    uids: Vec<String>,
}

impl Left {
    /// Ends the control plane, and begins another one so much later.
    fn behind(lab: &mut Lab, away_ms: i64) -> Self {
        let world = lab.session.machine().world().unwrap().clone();
        lab.session = Lab::session(&lab.world, 16);
        lab.streams.clear();
        lab.world.now_ms += away_ms;
        lab.session = Lab::session(&lab.world, 16);
        Self { world, uids: lab.uids().into_iter().map(|(_, uid)| uid).collect() }
    }

    fn done(&self, lab: &mut Lab, at: usize) {
        lab.world.succeed(&format!("wine-worker-{at}"));
        lab.step(Input::PodDone { pod: self.uids[at].clone() });
    }

    fn part(&self, at: usize) -> Part {
        let seat = self.world.seats[at].clone();
        Part {
            generation: self.world.generation,
            digest: self.world.digest(),
            restarts: self.world.restarts,
            seat,
            pods: u32::try_from(self.world.seats.len()).unwrap(),
            ranks: self.world.size(),
        }
    }

    fn member(&self, at: usize) -> MemberId {
        self.world.seats[at].member.clone()
    }

    fn comes(&self, lab: &mut Lab, at: usize, ranks_are: Standing) {
        let member = self.member(at);
        lab.next += 1;
        lab.streams.insert(member.pod.clone(), member.clone());
        let hello = Hello {
            index: u32::try_from(at).ok(),
            address: format!("10.0.0.{at}"),
            port: 1000,
            ranks: 2,
            seen: self.world.generation,
            ranks_are,
            host: format!("host-{at}"),
            place: Box::new(lab.place(&member.pod)),
        };
        lab.step(Input::Joined { member, stream: lab.next, hello });
    }
}

#[test]
fn ranks_that_still_run_are_not_ended_because_others_ended_well_meanwhile() {
    for told_first in [true, false] {
        let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
        lab.run();
        let left = Left::behind(&mut lab, 75_000);
        // Its ranks had finished early, and its launcher has given up on the control plane after a minute.
        if told_first {
            left.done(&mut lab, 0);
            assert_eq!(lab.released, None, "nobody is there yet");
        }
        left.comes(&mut lab, 1, Standing::Running(left.part(1)));
        if !told_first {
            left.done(&mut lab, 0);
        }
        assert_eq!(lab.released, None, "its ranks still run");
        assert_eq!((lab.session.view().stage, lab.session.view().generation), (Stage::Running, 1), "it is adopted");
        // For as long as they like: nobody is started anew for want of the other launcher.
        lab.world.plan();
        for _ in 0..10 {
            lab.pass(60_000);
            lab.world.place();
            lab.world.start_all();
        }
        assert_eq!((lab.released.clone(), lab.restarts()), (None, 0));
        assert_eq!(lab.world.status("/phase"), json!("Running"));
        let uids: Vec<String> = lab.uids().into_iter().map(|(_, uid)| uid).collect();
        assert_eq!(uids, left.uids);
        lab.step(Input::Finished { member: left.member(1), generation: Generation(1) });
        assert_eq!(lab.released, Some(Outcome::Succeeded));
    }
}

#[test]
fn a_failure_of_those_that_still_run_starts_the_whole_job_again() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let left = Left::behind(&mut lab, 75_000);
    left.done(&mut lab, 0);
    left.comes(&mut lab, 1, Standing::Running(left.part(1)));
    let failure =
        Failure { rank: Some(2), cause: Cause::Exception, code: 1, message: "ValueError".to_owned(), secondary: false };
    lab.step(Input::Failed { member: left.member(1), generation: Generation(1), failure });
    assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Recovering));
    lab.pass(30_000);
    lab.session = Lab::session(&lab.world, 32);
    lab.run();
    assert_eq!((lab.restarts(), lab.world.status("/phase")), (2, json!("Running")));
    assert!(lab.uids().iter().all(|(_, uid)| !left.uids.contains(uid)), "all are new");
}

#[test]
fn the_next_control_plane_releases_whoever_the_last_one_could_not() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    // All ranks had finished; one launcher was released and has ended, then the control plane was cut off.
    let left = Left::behind(&mut lab, 0);
    left.done(&mut lab, 0);
    assert_eq!(lab.released, None, "nobody is there yet");
    left.comes(&mut lab, 1, Standing::Finished(left.part(1)));
    assert_eq!(lab.released, Some(Outcome::Succeeded));
    let uids: Vec<String> = lab.uids().into_iter().map(|(_, uid)| uid).collect();
    assert_eq!(uids, left.uids, "nobody is started again");
}

#[test]
fn a_launcher_that_came_anew_is_no_proof_that_its_ranks_had_finished() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    let left = Left::behind(&mut lab, 75_000);
    left.done(&mut lab, 0);
    left.comes(&mut lab, 1, Standing::Idle);
    lab.pass(15_000);
    assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Recovering));
    assert_eq!(lab.session.machine().restarts(), 1);
}

#[test]
fn an_elastic_generation_is_taken_over_without_those_who_ended_well() {
    let mut lab = Lab::new("restartPolicy: OnFailure, elastic: {minReplicas: 1, maxReplicas: 4}, replicas: 3");
    lab.run();
    let left = Left::behind(&mut lab, 75_000);
    lab.stuck.insert("wine-worker-2".to_owned());
    left.done(&mut lab, 1);
    left.comes(&mut lab, 0, Standing::Running(left.part(0)));
    lab.pass(10_000);
    assert_eq!(lab.session.view().stage, Stage::Joining, "others may be on their way");
    left.comes(&mut lab, 2, Standing::Finished(left.part(2)));
    lab.pass(5_000);
    assert_eq!((lab.session.view().stage, lab.session.view().ranks), (Stage::Running, 6));
    lab.step(Input::Finished { member: left.member(0), generation: Generation(1) });
    assert_eq!((lab.released.clone(), lab.restarts()), (Some(Outcome::Succeeded), 0));
}

/// Three pods train. The least number of an elastic job says nothing of how many its generation had.
fn elastic() -> Lab {
    let mut lab = Lab::new("restartPolicy: OnFailure, elastic: {minReplicas: 1, maxReplicas: 4}, replicas: 3");
    lab.run();
    lab
}

#[test]
fn an_elastic_generation_of_which_one_ended_well_and_the_others_came_anew_has_not_succeeded() {
    let mut lab = elastic();
    let left = Left::behind(&mut lab, 75_000);
    left.done(&mut lab, 0);
    for at in 1..3 {
        left.comes(&mut lab, at, Standing::Idle);
    }
    lab.pass(14_999);
    assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Joining));
    lab.pass(1);
    assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Recovering));
    let failure = lab.session.view().last_failure.unwrap();
    assert_eq!((failure.cause, lab.session.machine().restarts()), (Cause::NodeLost, 1));
    assert_eq!(
        failure.message,
        "1 launcher ended well while the control plane was away, and the 2 that are there are not the rest of its generation"
    );
}

#[test]
fn pods_of_an_elastic_job_that_were_lost_while_one_ended_well_are_started_again() {
    let mut lab = elastic();
    let left = Left::behind(&mut lab, 75_000);
    // Nobody runs any more when the next control plane looks.
    for at in 1..3 {
        lab.world.fail(&format!("wine-worker-{at}"), 137);
    }
    left.done(&mut lab, 0);
    lab.run();
    lab.pass(15_000);
    lab.run();
    assert_eq!((lab.released.clone(), lab.restarts() > 0), (None, true));
    assert_ne!(lab.world.status("/phase"), json!("Succeeded"));
    lab.pass(30_000);
    lab.run();
    assert_eq!(lab.world.status("/phase"), json!("Running"));
    assert!(lab.uids().iter().skip(1).all(|(_, uid)| !left.uids.contains(uid)), "whoever was lost is there anew");
}

#[test]
fn an_elastic_generation_is_not_taken_over_without_those_who_were_lost() {
    for ranks_are in [Standing::Running, Standing::Finished] {
        let mut lab = elastic();
        let left = Left::behind(&mut lab, 75_000);
        lab.stuck.insert("wine-worker-2".to_owned());
        left.done(&mut lab, 1);
        left.comes(&mut lab, 0, ranks_are(left.part(0)));
        lab.pass(15_000);
        assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Recovering));
        let failure = lab.session.view().last_failure.unwrap();
        assert_eq!((failure.cause, lab.session.machine().restarts()), (Cause::NodeLost, 1));
        let words = "and the 1 that is there is not the rest of its generation of 3";
        assert!(failure.message.ends_with(words), "{}", failure.message);
    }
}

#[test]
fn a_generation_that_is_smaller_than_the_job_may_be_is_taken_over_when_others_had_their_time() {
    let mut lab = Lab::new("restartPolicy: OnFailure, elastic: {minReplicas: 1, maxReplicas: 4}, replicas: 3");
    lab.stuck.insert("wine-worker-2".to_owned());
    lab.run();
    lab.pass(5_000);
    assert_eq!((lab.session.view().stage, lab.session.view().ranks), (Stage::Running, 4));
    let left = Left::behind(&mut lab, 75_000);
    lab.stuck.insert("wine-worker-1".to_owned());
    left.done(&mut lab, 0);
    left.comes(&mut lab, 1, Standing::Running(left.part(1)));
    // A third one might run a newer one.
    assert_eq!((lab.session.view().stage, lab.session.machine().restarts()), (Stage::Joining, 0));
    lab.pass(15_000);
    assert_eq!((lab.session.view().stage, lab.session.view().ranks), (Stage::Running, 4));
    lab.step(Input::Finished { member: left.member(1), generation: Generation(1) });
    assert_eq!((lab.released.clone(), lab.session.machine().restarts()), (Some(Outcome::Succeeded), 0));
}

#[test]
fn whoever_does_not_know_how_many_they_were_is_taken_over_only_with_all_of_them() {
    let mut lab = elastic();
    let left = Left::behind(&mut lab, 75_000);
    left.done(&mut lab, 0);
    for at in 1..3 {
        left.comes(&mut lab, at, Standing::Running(Part { pods: 0, ranks: 0, ..left.part(at) }));
    }
    lab.pass(15_000);
    assert_eq!((lab.released.clone(), lab.session.view().stage), (None, Stage::Recovering));
}

#[test]
fn a_launcher_that_starts_no_ranks_is_given_up() {
    for replicas in [1, 2] {
        let mut lab = Lab::new(&format!("replicas: {replicas}, restartPolicy: OnFailure, backoffLimit: 5"));
        lab.run();
        let before = lab.uids();
        let (stuck, uid) = before.last().unwrap().clone();
        lab.deaf.insert(uid.clone());
        lab.fail_rank("wine-worker-0", Cause::Signal, 137);
        assert_eq!((lab.session.view().stage, lab.session.view().generation), (Stage::Forming, 2));
        lab.pass(599_999);
        assert_eq!(lab.session.view().stage, Stage::Forming);
        assert_eq!(lab.session.deadline(), Some(lab.world.now_ms + 1));
        lab.pass(1);
        assert_eq!((lab.session.view().stage, lab.session.machine().restarts()), (Stage::Recovering, 2));
        let failure = lab.session.view().last_failure.unwrap();
        assert_eq!((failure.cause, failure.pod.as_deref()), (Cause::NodeLost, Some(uid.as_str())));
        assert!(failure.message.ends_with("did not start its ranks within 600 s"), "{} of {stuck}", failure.message);
        // The next rung: all pods are new.
        lab.pass(30_000);
        lab.session = Lab::session(&lab.world, 16);
        lab.run();
        assert_eq!(lab.world.status("/phase"), json!("Running"), "of {replicas}");
        assert!(lab.uids().iter().all(|(_, uid)| before.iter().all(|(_, old)| old != uid)), "of {replicas}");
    }
}

#[test]
fn ranks_that_run_are_waited_for_no_more() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    assert_eq!(lab.session.deadline(), None);
    let left = Left::behind(&mut lab, 1_000);
    for at in 0..2 {
        left.comes(&mut lab, at, Standing::Running(left.part(at)));
    }
    assert_eq!((lab.session.deadline(), lab.restarts()), (None, 0), "adopted");
}

fn config() -> Config {
    let budget = Budget::default();
    Config {
        least: 1,
        most: 1,
        join_ms: 600_000,
        last_call_ms: 5_000,
        away_ms: 15_000,
        return_ms: 30_000,
        lost_ms: 600_000,
        grow_ms: 30_000,
        budget,
    }
}

fn id(pod: &str) -> MemberId {
    MemberId { pod: pod.to_owned(), incarnation: 1 }
}

fn hello(seen: u64) -> Hello {
    Hello {
        index: Some(0),
        address: "10.0.0.1".to_owned(),
        port: 1000,
        ranks: 1,
        seen: Generation(seen),
        ranks_are: Standing::Idle,
        host: "host".to_owned(),
        place: Box::<Place>::default(),
    }
}

#[test]
fn a_number_that_nobody_can_have_seen_stops_nothing() {
    for seen in [1 << 40, u64::MAX - 1, u64::MAX] {
        let mut machine = Rendezvous::new(config(), Generation(0), Spent::default(), 0);
        let mut out = Vec::new();
        machine.step(0, Input::Joined { member: id("a"), stream: 1, hello: hello(seen) }, &mut out);
        assert_eq!(out, [Output::Reserve { to: Generation(16) }], "{seen}");
        machine.step(0, Input::Reserved { to: Generation(16) }, &mut out);
        assert_eq!(machine.world().unwrap().generation, Generation(1));
    }
}

#[test]
fn the_clock_is_not_looked_at_while_a_port_or_a_number_is_missing() {
    let mut machine = Rendezvous::new(config(), Generation(0), Spent::default(), 0);
    let mut out = Vec::new();
    machine.step(0, Input::Joined { member: id("a"), stream: 1, hello: hello(0) }, &mut out);
    machine.step(60_000, Input::Tick, &mut out);
    assert_eq!(machine.deadline(), None, "a number is missing");
    machine.step(60_000, Input::Reserved { to: Generation(16) }, &mut out);
    let failure = |generation| Input::Failed {
        member: id("a"),
        generation: Generation(generation),
        failure: Failure { rank: Some(0), cause: Cause::Signal, code: 137, message: String::new(), secondary: false },
    };
    // The port is the old generation's.
    machine.step(70_000, failure(1), &mut out);
    machine.step(80_000, Input::Tick, &mut out);
    assert_eq!((machine.world(), machine.deadline()), (None, None));
    machine.step(90_000, Input::Holds { member: id("a"), port: 1001, seen: Generation(1) }, &mut out);
    assert_eq!(machine.world().unwrap().generation, Generation(2));
}
