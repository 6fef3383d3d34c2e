//! Jobs whose launchers meet: the planner and the rendezvous together, as the shell brings them together.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use trainyard_coordinator_core::explain;
use trainyard_coordinator_core::job::{self, Ledger};
use trainyard_coordinator_core::manifest;
use trainyard_coordinator_core::rendezvous::{
    Cause, Failure, Generation, Happened, Hello, Input, MemberId, Outcome, Output, Place, Pulse, RankPulse, Session,
    Spares, Standing,
};
use trainyard_coordinator_core::view::Config;
use trainyard_proto::pace::Window;
use world::{World, node, phase};

/// A job, and its launchers: they join as soon as their pods run, and obey.
#[derive(Clone)]
struct Lab {
    world: World,
    session: Session,
    /// Launchers that do not join though their pods run.
    stuck: BTreeSet<String>,
    streams: BTreeMap<String, MemberId>,
    next: u64,
    seen: u64,
    happened: Vec<Happened>,
    released: Option<Outcome>,
}

fn job(spec: &str) -> String {
    format!(
        "{{apiVersion: trainyard.dev/v1alpha1, kind: TrainingJob, metadata: {{name: wine, namespace: team, uid: job-uid}}, spec: {{command: [train], {spec}}}}}"
    )
}

impl Lab {
    fn new(spec: &str) -> Self {
        Self::of(&job(spec))
    }

    fn of(manifest: &str) -> Self {
        let mut world = World::new(manifest);
        world.config = Config { rendezvous: Some("unix:/sock".to_owned()), ..Config::embedded() };
        let session = Self::session(&world, 0);
        let mut lab = Self {
            world,
            session,
            stuck: BTreeSet::new(),
            streams: BTreeMap::new(),
            next: 0,
            seen: 0,
            happened: Vec::new(),
            released: None,
        };
        lab.world.plan();
        lab.world.place();
        lab.world.start_all();
        lab
    }

    fn session(world: &World, recorded: u64) -> Session {
        let job = world.job.as_ref().unwrap();
        let config = manifest::lower(job, &[], &world.config).unwrap().rendezvous.unwrap();
        Session::new(config, Generation(recorded), Ledger::read(job).spent(), world.now_ms)
    }

    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            let happened = self.session.step(self.world.now_ms, input, &mut out);
            assert!(!happened.iter().any(|event| matches!(event, Happened::Broken(_))), "{happened:?}");
            self.happened.extend(happened);
            for output in out {
                match output {
                    Output::Reserve { to } => inputs.push(Input::Reserved { to }),
                    Output::Form { members, world } => {
                        let generation = world.generation;
                        self.seen = generation.0;
                        let port = u16::try_from(2000 + generation.0).unwrap();
                        for member in members {
                            inputs.push(Input::Holds { member: member.clone(), port, seen: generation });
                            inputs.push(Input::Ready { member, generation });
                        }
                    }
                    Output::Halt { .. } => {}
                    Output::Release { outcome, .. } => self.released = Some(outcome),
                }
            }
        }
    }

    /// Tells the rendezvous what became of pods, and lets launchers join.
    fn meet(&mut self) {
        let known: Vec<String> = self.streams.keys().cloned().collect();
        for pod in known {
            let lives = self
                .world
                .pods
                .values()
                .any(|p| p.metadata.uid.as_deref() == Some(&pod) && !matches!(phase(p), "Failed" | "Succeeded"));
            if !lives {
                self.streams.remove(&pod);
                self.step(Input::PodGone { pod });
            }
        }
        let running: Vec<(String, u32)> = self
            .world
            .pods
            .iter()
            .filter(|(name, pod)| {
                phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none() && !self.stuck.contains(*name)
            })
            .map(|(name, pod)| (pod.metadata.uid.clone().unwrap(), name.rsplit_once('-').unwrap().1.parse().unwrap()))
            .collect();
        for (pod, index) in running {
            if self.streams.contains_key(&pod) {
                continue;
            }
            self.next += 1;
            let member = MemberId { pod: pod.clone(), incarnation: self.next };
            self.streams.insert(pod, member.clone());
            let hello = Hello {
                index: Some(index),
                address: format!("10.0.0.{index}"),
                port: 1000,
                ranks: 2,
                seen: Generation(0),
                ranks_are: Standing::Idle,
                host: format!("host-{index}"),
                place: Box::new(self.place(&member.pod)),
            };
            self.step(Input::Joined { member, stream: self.next, hello });
        }
        self.step(Input::Tick);
        self.world.meeting = Some(self.session.view());
    }

    /// What the API says of a pod.
    fn place(&self, uid: &str) -> Place {
        let pod = self.world.pods.values().find(|pod| pod.metadata.uid.as_deref() == Some(uid)).unwrap();
        Place { pod: pod.metadata.name.clone(), node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) }
    }

    /// Everything that can happen by itself, until nothing changes.
    fn run(&mut self) {
        for _ in 0..8 {
            self.meet();
            self.world.plan();
            self.world.reap();
            self.meet();
            self.world.plan();
            self.world.place();
            self.world.start_all();
        }
    }

    fn pass(&mut self, ms: i64) {
        self.world.now_ms += ms;
        self.meet();
        self.world.plan();
    }

    fn fail_rank(&mut self, pod: &str, cause: Cause, code: i32) {
        let uid = self.world.pods[pod].metadata.uid.clone().unwrap();
        let member = self.streams[&uid].clone();
        let generation = Generation(self.session.view().generation);
        let failure = Failure { rank: Some(1), cause, code, message: "ValueError: no such file".to_owned() };
        self.step(Input::Failed { member, generation, failure });
        self.world.meeting = Some(self.session.view());
    }

    fn uids(&self) -> Vec<(String, String)> {
        let pods = self.world.pods.iter();
        pods.map(|(name, pod)| (name.clone(), pod.metadata.uid.clone().unwrap())).collect()
    }

    fn restarts(&self) -> u64 {
        self.world.status("/restarts").as_u64().unwrap()
    }
}

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
fn the_next_control_plane_releases_whoever_the_last_one_could_not() {
    let mut lab = Lab::new("replicas: 2, restartPolicy: OnFailure");
    lab.run();
    // All ranks had finished; one launcher was released and has ended, then the control plane was cut off.
    let uids = lab.uids();
    lab.session = Lab::session(&lab.world, 16);
    lab.streams.clear();
    lab.step(Input::PodDone { pod: uids[0].1.clone() });
    assert_eq!(lab.released, None, "nobody is there yet");
    lab.stuck.insert(uids[0].0.clone());
    lab.meet();
    assert_eq!(lab.released, Some(Outcome::Succeeded));
    assert_eq!(lab.uids(), uids, "nobody is started again");
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
fn ranks_that_stand_still_are_named() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let uid = lab.world.pods["wine-worker-1"].metadata.uid.clone().unwrap();
    let member = lab.streams[&uid].clone();
    let rank = |rank: u32, waits_in: &str, in_collective| RankPulse {
        rank,
        silent_ms: 4_000,
        waits_in: waits_in.to_owned(),
        in_collective,
        stalled: true,
        window: None,
    };
    let pulse =
        |ranks: Vec<RankPulse>| Pulse { generation: 1, ranks, spares: Spares { count: 1, memory_bytes: 1 << 20 } };
    let both = pulse(vec![rank(2, "all_reduce", true), rank(3, "load", false)]);
    let happened = lab.session.pulse(lab.world.now_ms, &member, both.clone());
    let [Happened::Hangs { stalled, others: 1 }] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((stalled.rank, stalled.in_collective), (3, false));
    assert_eq!(lab.session.pulse(lab.world.now_ms, &member, both), [], "told once");
    // A rank of another launcher is not its to tell of.
    assert_eq!(lab.session.pulse(lab.world.now_ms, &member, pulse(vec![rank(0, "x", false)])).len(), 0);
    lab.session.pulse(lab.world.now_ms, &member, pulse(vec![rank(2, "all_reduce", true), rank(3, "load", false)]));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!(lab.world.codes, ["StandsStill"]);
    let message = lab.world.status("/message");
    let message = message.as_str().unwrap();
    assert!(message.starts_with("rank 3 on host-1 has stood still in load since "), "{message}");
    assert!(message.ends_with("; 1 other rank waits too"), "{message}");
    assert_eq!(lab.world.status("/spares/memoryBytes"), json!(1 << 20));
    lab.session.pulse(lab.world.now_ms, &member, pulse(Vec::new()));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!((lab.world.status("/stalled"), lab.world.status("/message")), (json!(null), json!(null)));
}

/// Each launcher sees its own ranks only: who is to blame is known where all of it comes together.
#[test]
fn a_hang_over_several_pods_blames_the_rank_that_does_not_wait() {
    let stalled = |rank: u32, in_collective| RankPulse {
        rank,
        silent_ms: 2_000,
        waits_in: if in_collective { "all_reduce" } else { "load" }.to_owned(),
        in_collective,
        stalled: true,
        window: None,
    };
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let member = |lab: &Lab, pod: &str| lab.streams[lab.world.pods[pod].metadata.uid.as_ref().unwrap()].clone();
    let [first, second] = ["wine-worker-0", "wine-worker-1"].map(|pod| member(&lab, pod));
    let say = |lab: &mut Lab, member: &MemberId, ranks: Vec<RankPulse>| {
        let happened = lab.session.pulse(lab.world.now_ms, member, Pulse { generation: 1, ranks, ..Pulse::default() });
        happened
            .into_iter()
            .map(|event| {
                let Happened::Hangs { stalled, others } = event else { panic!("{event:?}") };
                (stalled.rank, others)
            })
            .collect::<Vec<_>>()
    };
    // Those who wait may wait for one that evaluates.
    assert_eq!(say(&mut lab, &first, vec![stalled(0, true), stalled(1, true)]), []);
    assert_eq!(lab.session.view().stalled, []);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true)]), []);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, false)]), [(3, 3)]);
    assert_eq!(lab.session.view().stalled.len(), 4);
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    let message = lab.world.status("/message").as_str().unwrap().to_owned();
    assert!(message.starts_with("rank 3 on host-1 has stood still in load since "), "{message}");
    assert!(message.ends_with("; 3 other ranks wait too"), "{message}");
    // It gets on, and the others are about to.
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true)]), []);
    assert_eq!(lab.session.view().stalled, []);
    // All wait: for each other.
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, true)]), [(0, 3)]);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, true)]), [], "told once");
}

#[test]
fn a_rank_that_makes_those_of_other_pods_wait_is_named() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let pods = ["wine-worker-0", "wine-worker-1"].map(|pod| lab.world.pods[pod].metadata.uid.clone().unwrap());
    let members = pods.map(|uid| lab.streams[&uid].clone());
    let windows = |lab: &mut Lab, number: u64, works: [u32; 4]| {
        lab.world.now_ms += 8_000;
        let mut happened = Vec::new();
        for (member, first) in members.iter().zip([0, 2]) {
            let rank = |rank: u32| {
                let works = works[rank as usize];
                // Only the first pod's output tells of steps.
                let steps = if first == 0 { 9 } else { 0 };
                let window =
                    Window { number, looks: 100, lock: 100 - works, steps, took_ms: 8_000, ..Window::default() };
                RankPulse { rank, window: Some(window), ..RankPulse::default() }
            };
            let pulse = Pulse { generation: 1, ranks: vec![rank(first), rank(first + 1)], ..Pulse::default() };
            // Said with each pulse until there is a newer one.
            happened.extend(lab.session.pulse(lab.world.now_ms, member, pulse.clone()));
            happened.extend(lab.session.pulse(lab.world.now_ms, member, pulse));
        }
        happened
    };
    for number in 1..3 {
        assert_eq!(windows(&mut lab, number, [40, 42, 40, 95]), []);
    }
    let happened = windows(&mut lab, 3, [40, 42, 40, 95]);
    let [Happened::Straggles(slow)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((slow.rank, slow.host.as_str(), slow.percent), (3, "host-1", 237));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!(lab.world.codes, ["Straggles"]);
    assert_eq!(lab.world.status("/stragglers/0/rank"), json!(3));
    assert_eq!(lab.world.status("/stragglers/0/slowdown"), json!(2.37));
    let message = lab.world.status("/message").as_str().unwrap().to_owned();
    assert!(message.starts_with("rank 3 on host-1 makes the others wait: its steps have taken 2.3 times"), "{message}");
    for number in 4..6 {
        assert_eq!(windows(&mut lab, number, [90, 92, 90, 95]), []);
    }
    let host = "host-1".to_owned();
    assert_eq!(windows(&mut lab, 6, [90, 92, 90, 95]), [Happened::KeepsUp { rank: 3, host }]);
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!((lab.world.status("/stragglers"), lab.world.status("/message")), (json!(null), json!(null)));
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
