//! A world of objects in which plans are carried out, jobs end as chance has it, and the controllers die between any two writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use trainyard_proto::plan::{Action, Plan};

use super::*;
use crate::budget::Confirm;
use crate::experiment::Experiment;
use crate::fidelity::{Ladder, Policy};
use crate::objective::{Goal, Take};
use crate::observation::Observation;
use crate::sampler::Random;
use crate::search::Search;
use crate::space::{Domain, Parameter, Scale, Space};
use crate::stopping::{Rule, Stopping, Verdict};

fn objectives() -> Vec<Objective> {
    vec![Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }]
}

fn setup(budget: Budget) -> Setup {
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "spec": {"template": {"spec": {"containers": [{"name": "a", "command": ["x", "{x}", "{trial.name}"]}]}}},
    });
    Setup {
        objectives: objectives(),
        budget,
        job,
        keep: Keep::All,
        algorithm: "random".to_owned(),
        stopping: None,
        checkpoints: "checkpoints".to_owned(),
        has_population: false,
    }
}

fn search(ladder: Option<&Ladder>) -> Search {
    let x = Parameter {
        name: "x".to_owned(),
        domain: Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None },
        when: None,
    };
    let space = Space::new(vec![x], Vec::new()).unwrap();
    let experiment = Experiment::new(space, objectives(), 1, Box::new(Random));
    Search::new(match ladder {
        Some(ladder) => experiment.with_ladder(ladder.clone(), Policy::Asha),
        None => experiment,
    })
}

struct World {
    objects: BTreeMap<(String, String), Json>,
    /// What the pods of a trial wrote.
    seen: BTreeMap<String, (Observation, bool)>,
    setup: Setup,
    search: Search,
    ladder: Option<Ladder>,
    uids: u64,
    now_ms: i64,
    /// How many jobs were ever made for a trial.
    made: BTreeMap<String, u64>,
    /// Jobs that the watch has not shown.
    unseen: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    verdicts: BTreeMap<String, Verdict>,
    /// So many suggestions are made in one plan, after the first.
    patience: usize,
}

impl World {
    fn new(budget: Budget) -> Self {
        let experiment = json!({
            "apiVersion": API_VERSION, "kind": "Experiment",
            "metadata": {"name": "e", "namespace": "n", "uid": "e-uid"}, "spec": {"parameters": {"x": {}}},
        });
        let objects = BTreeMap::from([(("Experiment".to_owned(), "e".to_owned()), experiment)]);
        let (seen, made) = (BTreeMap::new(), BTreeMap::new());
        let (unseen, refused, verdicts) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let setup = setup(budget);
        let (uids, now_ms, patience) = (0, 1_000_000, usize::MAX);
        Self {
            objects,
            seen,
            setup,
            search: search(None),
            ladder: None,
            uids,
            now_ms,
            made,
            unseen,
            refused,
            verdicts,
            patience,
        }
    }

    fn get(&self, kind: &str, name: &str) -> Option<&Json> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    fn experiment(&self) -> &Json {
        self.get("Experiment", "e").unwrap()
    }

    fn phase(&self) -> &str {
        text(self.experiment(), "/status/phase")
    }

    fn names(&self, kind: &str) -> Vec<String> {
        self.objects.keys().filter(|(of, _)| of == kind).map(|(_, name)| name.clone()).collect()
    }

    fn plans(&mut self) -> Vec<Plan> {
        let object = self.experiment().clone();
        let view = ExperimentView { object: &object, setup: Ok(&self.setup) };
        let mut left = self.patience;
        let mut more = || {
            let is_left = left > 0;
            left = left.saturating_sub(1);
            is_left
        };
        let mut plans = vec![experiment(&view, Some(&mut self.search), &mut more, self.now_ms)];
        for name in self.names("Trial") {
            let seen = match self.seen.get(&name) {
                None => Seen::Nothing,
                Some((observation, true)) => Seen::Whole(observation),
                Some((observation, false)) => Seen::Part(observation),
            };
            let view = TrialView {
                object: self.get("Trial", &name).unwrap(),
                experiment: Some(&object),
                setup: Some(&self.setup),
                job: self.get("Job", &name).filter(|_| !self.unseen.contains(&name)),
                seen,
                refused: self.refused.get(&name).map(String::as_str),
                verdict: self.verdicts.get(&name),
            };
            plans.push(trial(&view, self.now_ms));
        }
        plans
    }

    fn carry_out(&mut self, action: Action) {
        let key = (action.subject().kind.clone(), action.subject().name.clone());
        match action {
            Action::Create { mut body, .. } => {
                if !self.objects.contains_key(&key) {
                    self.uids += 1;
                    body["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
                    if key.0 == "Job" {
                        *self.made.entry(key.1.clone()).or_default() += 1;
                    }
                    self.objects.insert(key.clone(), body);
                }
            }
            Action::Delete { .. } => {
                self.objects.remove(&key);
            }
            Action::Patch { patch, .. } | Action::PatchStatus { patch, .. } => {
                merge(self.objects.get_mut(&key).unwrap(), &patch);
            }
            Action::Bind { .. } | Action::Event { .. } => unreachable!("the tuner has no such action"),
        }
        let (search, object) = (&mut self.search, self.objects.get(&key));
        if key.0 == "Trial" {
            let (number, known) = stored(object.unwrap(), &self.setup.objectives).unwrap();
            search.observe(number, Some(known));
        }
    }

    /// A new process: only what is stored is known.
    fn restart(&mut self) {
        self.search = search(self.ladder.as_ref());
        for name in self.names("Trial") {
            let (number, known) = stored(self.get("Trial", &name).unwrap(), &self.setup.objectives).unwrap();
            self.search.observe(number, Some(known));
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let actions: Vec<Action> = self.plans().into_iter().flat_map(|plan| plan.actions).collect();
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.carry_out(action));
        }
        panic!("plans do not end");
    }

    /// A job that runs comes to its end.
    fn end_one(&mut self, which: usize, how: u8) {
        let is_active = |name: &String| {
            let job = self.get("Job", name).unwrap();
            matches!(job::stage(job), job::Stage::Active) && !job::is_suspended(job)
        };
        let active: Vec<String> = self.names("Job").into_iter().filter(is_active).collect();
        let Some(name) = active.get(which % active.len().max(1)).cloned() else { return };
        let job = self.objects.get_mut(&("Job".to_owned(), name.clone())).unwrap();
        let kind = if how == 0 { "Failed" } else { "Complete" };
        job["status"] = json!({"conditions": [{"type": kind, "status": "True", "message": "exit code 1"}]});
        let mut observation = Observation::new(1);
        observation.line(if how == 1 { "other=1" } else { "loss=0.5" }, &self.setup.objectives);
        self.seen.insert(name, (observation, true));
    }
}

fn merge(value: &mut Json, patch: &Json) {
    let Json::Object(entries) = patch else { return *value = patch.clone() };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, entry) in entries {
        if entry.is_null() {
            value.as_object_mut().unwrap().shift_remove(name);
        } else {
            merge(&mut value[name], entry);
        }
    }
}

fn budget(trials: u64, parallel: u64) -> Budget {
    Budget { trials: Some(trials), parallel, failures: Some(1000), seconds: None, confirm: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_crash_between_any_two_writes_loses_nothing_and_starts_nothing_twice(
        trials in 1_u64..12,
        parallel in 1_u64..5,
        moves in prop::collection::vec((0_usize..8, 0_u8..5, 0_usize..6, any::<bool>()), 1..60),
    ) {
        let mut world = World::new(budget(trials, parallel));
        let mut ended: BTreeMap<String, Json> = BTreeMap::new();
        for (which, how, written, suspend) in moves {
            let actions: Vec<Action> = world.plans().into_iter().flat_map(|plan| plan.actions).collect();
            if written < actions.len() {
                // The process dies before the rest is written.
                actions.into_iter().take(written).for_each(|action| world.carry_out(action));
                world.restart();
            } else {
                actions.into_iter().for_each(|action| world.carry_out(action));
            }
            world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap()["spec"]["suspend"] = json!(suspend && which == 0);
            world.end_one(which, how);
            let running = world.search.counts().running;
            prop_assert!(running <= parallel, "{running} of {parallel} run");
            for name in world.names("Trial") {
                let object = world.get("Trial", &name).unwrap();
                if ["Succeeded", "Failed", "Stopped"].contains(&text(object, "/status/phase")) {
                    let status = object["status"].clone();
                    prop_assert_eq!(ended.entry(name).or_insert_with(|| status.clone()), &status, "what has ended stays so");
                }
            }
        }
        world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap()["spec"]["suspend"] = json!(false);
        for _ in 0..100 {
            world.settle();
            world.end_one(0, 2);
        }
        prop_assert!(["Succeeded", "Failed"].contains(&world.phase()), "{}", world.experiment());
        prop_assert_eq!(world.search.counts().started, trials);
        prop_assert_eq!(world.search.counts().running, 0);
        prop_assert!(world.made.values().all(|count| *count == 1), "{:?}", world.made);
        let tried: BTreeSet<String> = world.names("Trial").iter().map(|name| world.get("Trial", name).unwrap()["spec"]["parameters"].to_string()).collect();
        prop_assert_eq!(tried.len() as u64, trials, "nothing was tried twice");
    }
}

#[test]
fn an_experiment_runs_to_its_end() {
    let mut world = World::new(budget(3, 2));
    world.settle();
    assert_eq!(world.names("Job"), ["e-0", "e-1"]);
    let job = world.get("Job", "e-0").unwrap();
    let x = &world.get("Trial", "e-0").unwrap()["spec"]["parameters"]["x"];
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["command"], json!(["x", x.to_string(), "e-0"]));
    let labels = json!({"trainyard.dev/experiment": "e", "trainyard.dev/trial": "e-0"});
    assert_eq!(job["metadata"]["labels"], labels);
    assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
    for how in [2, 1, 0] {
        world.end_one(0, how);
        world.settle();
    }
    let status = &world.experiment()["status"];
    assert_eq!(
        status["trials"],
        json!({"started": 3, "running": 0, "succeeded": 1, "failed": 2, "stopped": 0, "next": 3})
    );
    assert_eq!((&status["phase"], &status["best"]["summary"]), (&json!("Succeeded"), &json!("loss=0.5")));
    let messages: Vec<&str> =
        ["e-0", "e-1", "e-2"].map(|name| text(world.get("Trial", name).unwrap(), "/status/message")).into();
    assert_eq!(messages, ["", "it told no `loss`; it told `other`", "exit code 1"]);
}

/// A job that runs tells this and ends well.
fn tell(world: &mut World, name: &str, loss: f64) {
    let job = world.objects.get_mut(&("Job".to_owned(), name.to_owned())).unwrap();
    job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let mut observation = Observation::new(1);
    observation.line(&format!("loss={loss}"), &world.setup.objectives);
    world.seen.insert(name.to_owned(), (observation, true));
    world.settle();
}

fn confirmed(trials: u64, parallel: u64, candidates: u64, repeats: u64) -> World {
    World::new(Budget { confirm: Some(Confirm { candidates, repeats }), ..budget(trials, parallel) })
}

#[test]
fn the_best_are_tried_again_and_the_best_of_them_is_chosen_by_that_alone() {
    let mut world = confirmed(4, 2, 2, 3);
    world.settle();
    for (number, loss) in [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)] {
        tell(&mut world, &format!("e-{number}"), loss);
    }
    let spec = |world: &World, name: &str| world.get("Trial", name).unwrap()["spec"].clone();
    assert_eq!(world.names("Trial"), ["e-0", "e-1", "e-2", "e-3", "e-4", "e-5"], "two at the same time");
    assert_eq!((&spec(&world, "e-4")["repeats"], &spec(&world, "e-5")["repeats"]), (&json!(0), &json!(1)));
    assert_eq!(spec(&world, "e-4")["parameters"], spec(&world, "e-0")["parameters"]);
    assert_eq!(world.experiment()["status"]["best"]["trial"], "e-0", "nothing else is known yet");
    // What looked best was lucky.
    for (number, loss) in [(4, 0.5), (5, 0.2), (6, 0.6), (7, 0.3), (8, 0.7), (9, 0.25)] {
        assert_eq!(world.phase(), "Running");
        tell(&mut world, &format!("e-{number}"), loss);
    }
    let status = &world.experiment()["status"];
    assert_eq!((world.phase(), world.names("Trial").len()), ("Succeeded", 10));
    assert_eq!(status["trials"]["started"], 4, "repeats are beside the budget");
    let best = &status["best"];
    assert_eq!((&best["trial"], &best["repeats"]), (&json!("e-1"), &json!(3)));
    assert_eq!(best["values"]["loss"], 0.25, "0.2 that it told at first does not count");
    // t(1 - 0.025 / 2) with 2 degrees of freedom is 6.2053, and the deviation is 0.05.
    let reach = 6.2053 * 0.05 / 3_f64.sqrt();
    assert!((best["interval"]["high"].as_f64().unwrap() - 0.25 - reach).abs() < 1e-4, "{best}");
    assert_eq!(best["summary"], "loss=0.25 ± 0.17913 (95 %)");
    // A larger budget goes on from there, and what is better now is tried again, too.
    world.setup.budget.trials = Some(5);
    world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap()["status"]["phase"] = json!(null);
    world.settle();
    assert_eq!(spec(&world, "e-10").get("repeats"), None);
    tell(&mut world, "e-10", 0.01);
    assert_eq!((&spec(&world, "e-11")["repeats"], &spec(&world, "e-12")["repeats"]), (&json!(10), &json!(10)));
    assert_eq!(world.experiment()["status"]["best"]["trial"], "e-10");
    assert_eq!(world.experiment()["status"]["best"].get("interval"), None, "a merge patch has taken it away");
}

#[test]
fn a_candidate_that_fails_again_is_no_winner() {
    let mut world = confirmed(2, 1, 3, 2);
    world.settle();
    tell(&mut world, "e-0", 0.1);
    tell(&mut world, "e-1", 0.2);
    world.end_one(0, 0);
    world.settle();
    for (number, loss) in [(3, 0.9), (4, 0.1), (5, 0.9)] {
        tell(&mut world, &format!("e-{number}"), loss);
    }
    let best = &world.experiment()["status"]["best"];
    assert_eq!((world.phase(), &best["trial"], &best["repeats"]), ("Succeeded", &json!("e-1"), &json!(2)));
    assert_eq!(best["interval"]["low"], 0.9, "two that told the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn repeats_are_made_as_often_as_wanted_wherever_the_process_dies(
        parallel in 1_u64..4,
        moves in prop::collection::vec((0_usize..8, 0_u8..5, 0_usize..6, any::<bool>()), 1..40),
    ) {
        let mut world = confirmed(4, parallel, 2, 3);
        let suspend = |world: &mut World, is: bool| {
            world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap()["spec"]["suspend"] = json!(is);
        };
        for (which, how, written, suspended) in moves {
            let actions: Vec<Action> = world.plans().into_iter().flat_map(|plan| plan.actions).collect();
            let is_cut = written < actions.len();
            actions.into_iter().take(written.max(if is_cut { 0 } else { usize::MAX })).for_each(|action| world.carry_out(action));
            if is_cut {
                world.restart();
            }
            suspend(&mut world, suspended && which == 0);
            world.end_one(which, how);
            let running = world.search.counts().running + world.search.repeats().0;
            prop_assert!(running <= parallel, "{running} of {parallel} run");
        }
        suspend(&mut world, false);
        for _ in 0..60 {
            world.settle();
            world.end_one(0, 2);
        }
        prop_assert!(["Succeeded", "Failed"].contains(&world.phase()), "{}", world.experiment());
        let mut made: BTreeMap<u64, u64> = BTreeMap::new();
        for name in world.names("Trial") {
            let repeats = world.get("Trial", &name).unwrap()["spec"]["repeats"].as_u64();
            repeats.into_iter().for_each(|of| *made.entry(of).or_default() += 1);
        }
        prop_assert_eq!(made.len() as u64, world.search.counts().succeeded.min(2));
        prop_assert!(made.values().all(|count| *count == 3), "{made:?}");
        prop_assert!(world.made.values().all(|count| *count == 1), "{:?}", world.made);
    }
}

#[test]
fn a_target_that_is_reached_stops_the_rest() {
    let mut world = World::new(budget(9, 3));
    world.setup.objectives[0].target = Some(0.5);
    world.search = {
        let mut objectives = objectives();
        objectives[0].target = Some(0.5);
        let x = Parameter {
            name: "x".to_owned(),
            domain: Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None },
            when: None,
        };
        Search::new(Experiment::new(Space::new(vec![x], Vec::new()).unwrap(), objectives, 1, Box::new(Random)))
    };
    world.settle();
    world.end_one(1, 2);
    world.settle();
    assert_eq!(world.phase(), "Succeeded");
    assert_eq!(text(world.experiment(), "/status/message"), "trial 1 has reached the target: loss=0.5");
    assert_eq!(world.names("Job"), ["e-1"], "jobs that still ran are gone");
    assert_eq!(text(world.get("Trial", "e-0").unwrap(), "/status/phase"), "Stopped");
}

#[test]
fn hopeless_experiments_end() {
    let mut world = World::new(Budget { failures: None, ..budget(100, 1) });
    for _ in 0..6 {
        world.settle();
        world.end_one(0, 0);
    }
    world.settle();
    assert_eq!(world.phase(), "Failed");
    assert!(text(world.experiment(), "/status/message").starts_with("the first 5 trials failed and none succeeded"));
}

#[test]
fn time_that_is_over_ends_an_experiment_when_its_trials_have_ended() {
    let mut world = World::new(Budget { trials: None, seconds: Some(60), ..budget(1, 2) });
    world.settle();
    let plan = world.plans().remove(0);
    assert_eq!(plan.wake_at_ms, Some(1_000_000 + 60_000));
    world.now_ms += 60_000;
    world.end_one(0, 2);
    world.settle();
    assert_eq!((world.phase(), world.names("Trial").len()), ("Running", 2), "no trial is begun any more");
    world.end_one(0, 2);
    world.settle();
    assert_eq!(text(world.experiment(), "/status/message"), "its time of 60 s is over");
}

#[test]
fn pods_that_are_gone_with_what_they_told_fail_their_trial() {
    let mut world = World::new(budget(1, 1));
    world.settle();
    world.end_one(0, 2);
    let ended = jiff::Timestamp::from_millisecond(world.now_ms).unwrap().to_string();
    world.objects.get_mut(&("Job".to_owned(), "e-0".to_owned())).unwrap()["status"]["completionTime"] = json!(ended);
    world.seen.clear();
    world.settle();
    let plan = world.plans().remove(1);
    assert_eq!(plan.wake_at_ms, Some(1_005_000), "they may come into sight");
    world.now_ms += 5_000;
    world.settle();
    let message = text(world.get("Trial", "e-0").unwrap(), "/status/message");
    assert_eq!(message, "its pods are gone, and with them what they told");
}

fn job_of<'world>(world: &'world mut World, name: &str) -> &'world mut Json {
    world.objects.get_mut(&("Job".to_owned(), name.to_owned())).unwrap()
}

fn message<'world>(world: &'world World, trial: &str) -> (&'world str, &'world str) {
    let object = world.get("Trial", trial).unwrap();
    (text(object, "/status/phase"), text(object, "/status/message"))
}

#[test]
fn pods_that_never_come_into_sight_are_not_waited_for_where_the_job_does_not_say_when_it_ended() {
    let mut world = World::new(budget(1, 1));
    world.settle();
    world.end_one(0, 2);
    world.seen.clear();
    let ended = jiff::Timestamp::from_millisecond(world.now_ms + 2_000).unwrap().to_string();
    job_of(&mut world, "e-0")["status"]["conditions"][0]["lastTransitionTime"] = json!(ended);
    assert_eq!(world.plans()[1].wake_at_ms, Some(1_007_000), "from the time of its condition");
    job_of(&mut world, "e-0")["status"]["conditions"][0]["lastTransitionTime"] = Json::Null;
    assert_eq!(world.plans()[1].wake_at_ms, Some(1_005_000), "or at least from the start");
    world.now_ms += 5_000;
    world.settle();
    assert_eq!(message(&world, "e-0"), ("Failed", "its pods are gone, and with them what they told"));
}

#[test]
fn what_a_pod_told_that_failed_is_not_the_result_of_a_job_that_succeeded() {
    let mut world = World::new(budget(1, 1));
    world.settle();
    world.end_one(0, 2);
    let (told, _) = world.seen.remove("e-0").unwrap();
    let object = world.experiment().clone();
    let plan = |world: &World| {
        let view = TrialView {
            object: world.get("Trial", "e-0").unwrap(),
            experiment: Some(&object),
            setup: Some(&world.setup),
            job: world.get("Job", "e-0"),
            seen: Seen::Broken(&told),
            refused: None,
            verdict: None,
        };
        trial(&view, world.now_ms)
    };
    let first = plan(&world);
    assert_eq!((first.actions, first.wake_at_ms), (Vec::new(), Some(1_005_000)));
    world.now_ms += 5_000;
    plan(&world).actions.into_iter().for_each(|action| world.carry_out(action));
    let expected = ("Failed", "its job succeeded, and the pod that tells for it did not");
    assert_eq!(message(&world, "e-0"), expected);
}

#[test]
fn a_job_that_is_refused_fails_its_trial_with_the_words_of_the_refusal() {
    let mut world = World::new(budget(2, 1));
    let why = "jobs.batch \"e-0\" is forbidden: exceeded quota";
    world.refused.insert("e-0".to_owned(), why.to_owned());
    world.settle();
    assert_eq!(message(&world, "e-0"), ("Failed", &*format!("its job is refused: {why}")));
    assert_eq!(world.names("Job"), ["e-1"], "and the next one runs");
    world.refused.insert("e-1".to_owned(), why.to_owned());
    world.end_one(0, 2);
    world.settle();
    assert_eq!(message(&world, "e-1").0, "Succeeded", "what is there was not refused");
}

#[test]
fn a_job_was_deleted_only_if_it_had_been_seen() {
    let mut world = World::new(budget(1, 1));
    world.unseen.insert("e-0".to_owned());
    for _ in 0..3 {
        world.plans().into_iter().flat_map(|plan| plan.actions).for_each(|action| world.carry_out(action));
    }
    assert_eq!((message(&world, "e-0").0, world.made["e-0"]), ("", 1), "the watch of jobs is slow");
    world.unseen.clear();
    world.settle();
    let uid = &world.get("Job", "e-0").unwrap()["metadata"]["uid"];
    assert_eq!(&world.get("Trial", "e-0").unwrap()["status"]["job"]["uid"], uid);
    world.objects.remove(&("Job".to_owned(), "e-0".to_owned()));
    world.settle();
    assert_eq!((message(&world, "e-0"), world.made["e-0"]), (("Failed", "its job was deleted"), 1));
}

#[test]
fn a_job_and_its_pods_stay_until_what_they_told_was_read() {
    for (kind, spec) in [
        ("Job", json!({"ttlSecondsAfterFinished": 0})),
        ("TrainingJob", json!({"ttlSecondsAfterFinished": 9, "cleanPodPolicy": "All"})),
        ("PyTorchJob", json!({"runPolicy": {"ttlSecondsAfterFinished": 0, "cleanPodPolicy": "All"}})),
    ] {
        let template = json!({"kind": kind, "spec": spec});
        let mut held = template.clone();
        job::hold(&mut held);
        let spec = held.pointer("/spec/runPolicy").unwrap_or(&held["spec"]);
        assert_eq!(spec.get("ttlSecondsAfterFinished"), None);
        assert!(spec.get("cleanPodPolicy").is_none_or(|policy| policy == "Running"));
        let patch = job::released(&held, &template).unwrap();
        merge(&mut held, &patch);
        assert_eq!((&held, job::released(&held, &template)), (&template, None));
    }
    let plain = json!({"kind": "Job", "spec": {"backoffLimit": 0}});
    let mut held = plain.clone();
    job::hold(&mut held);
    assert_eq!((&held, job::released(&held, &plain)), (&plain, None));
}

#[test]
fn a_job_is_given_its_own_end_back_once_its_trial_has_ended() {
    let mut world = World::new(budget(1, 1));
    world.setup.job["spec"]["ttlSecondsAfterFinished"] = json!(0);
    world.settle();
    assert_eq!(world.get("Job", "e-0").unwrap()["spec"].get("ttlSecondsAfterFinished"), None);
    world.end_one(0, 2);
    world.settle();
    assert_eq!(message(&world, "e-0").0, "Succeeded");
    assert_eq!(world.get("Job", "e-0").unwrap()["spec"]["ttlSecondsAfterFinished"], 0);
}

#[test]
fn suggestions_that_take_long_hold_no_trial_up_and_are_the_same() {
    let names = |patience| {
        let mut world = World::new(budget(6, 4));
        world.patience = patience;
        let plan = world.plans().remove(0);
        let made = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
        assert_eq!(made, (patience + 1).min(4));
        world.settle();
        let trials = world.names("Trial").into_iter();
        let tried = trials.map(|name| world.get("Trial", &name).unwrap()["spec"]["parameters"].clone());
        tried.collect::<Vec<_>>()
    };
    let at_once = names(9);
    assert_eq!(at_once.len(), 4);
    assert_eq!(names(0), at_once);
    assert_eq!(names(1), at_once);
}

fn with_rules(world: &mut World) {
    let rules = vec![Rule::Threshold { lower: None, upper: Some(1.0), start: 0 }];
    world.setup.stopping = Some(Stopping { at: 0, objective: objectives().remove(0), rules });
}

/// A pod that still writes.
fn told(world: &mut World, trial: &str, losses: &[f64]) {
    let mut observation = Observation::new(1);
    for loss in losses {
        observation.line(&format!("loss={loss}"), &world.setup.objectives);
    }
    world.seen.insert(trial.to_owned(), (observation, false));
}

#[test]
fn a_trial_that_is_hopeless_is_stopped_with_the_reason_and_its_job_goes() {
    let mut world = World::new(budget(2, 1));
    with_rules(&mut world);
    world.settle();
    told(&mut world, "e-0", &[3.0, 2.0]);
    world.settle();
    assert_eq!(message(&world, "e-0").0, "Running", "nobody says that it is to be stopped");
    world.verdicts.insert("e-0".to_owned(), Verdict::Hopeless("at step 2 it had too much".to_owned()));
    world.settle();
    assert_eq!(message(&world, "e-0"), ("Stopped", "at step 2 it had too much"));
    let status = &world.get("Trial", "e-0").unwrap()["status"];
    assert_eq!(status["curve"], json!([[1.0, 3.0], [2.0, 2.0]]), "others are compared with it");
    assert_eq!(world.names("Job"), ["e-1"], "its job has gone and the next one runs");
    assert_eq!(world.search.counts().stopped, 1);
    let (_, stored) = stored(world.get("Trial", "e-0").unwrap(), &world.setup.objectives).unwrap();
    assert_eq!(stored.reports.iter().map(|report| report.step).collect::<Vec<_>>(), [1, 2]);
    world.end_one(0, 2);
    world.settle();
    assert_eq!(text(world.experiment(), "/status/best/trial"), "e-1", "what was stopped is not the best");
}

#[test]
fn what_a_trial_told_at_the_rungs_that_it_has_passed_is_kept_while_it_runs() {
    let mut world = World::new(budget(2, 1));
    with_rules(&mut world);
    let ladder = Ladder::new(None, 1.0, 9.0, 3.0).unwrap();
    let stopping = world.setup.stopping.as_mut().unwrap();
    stopping.rules = vec![Rule::Halving { ladder, brackets: false }];
    world.settle();
    told(&mut world, "e-0", &[0.5, 0.25]);
    world.settle();
    let curve = |world: &World| world.get("Trial", "e-0").unwrap()["status"]["curve"].clone();
    assert_eq!(curve(&world), json!([[1.0, 0.5]]));
    // A log that is read anew says less than what is known.
    told(&mut world, "e-0", &[0.5]);
    world.settle();
    told(&mut world, "e-0", &[0.5, 0.25, 0.25, 0.75]);
    world.settle();
    assert_eq!(curve(&world), json!([[1.0, 0.5], [3.0, 0.25]]));
    let (_, known) = stored(world.get("Trial", "e-0").unwrap(), &world.setup.objectives).unwrap();
    assert_eq!(known.reports.iter().map(|report| report.step).collect::<Vec<_>>(), [1, 3]);
    // Where it is to be stopped it has not passed.
    world.verdicts.insert("e-0".to_owned(), Verdict::Hopeless("too much".to_owned()));
    world.settle();
    let all = json!([[1.0, 0.5], [2.0, 0.25], [3.0, 0.25], [4.0, 0.75]]);
    assert_eq!((message(&world, "e-0").0, curve(&world)), ("Stopped", all));
}

#[test]
fn of_a_long_curve_means_and_best_values_are_stored() {
    let mut world = World::new(budget(1, 1));
    with_rules(&mut world);
    world.settle();
    let losses: Vec<f64> = (0..500).map(|at| if at == 3 { 0.0 } else { 0.5 }).collect();
    told(&mut world, "e-0", &losses);
    world.verdicts.insert("e-0".to_owned(), Verdict::Settled("no better for long".to_owned()));
    world.settle();
    let (_, known) = stored(world.get("Trial", "e-0").unwrap(), &world.setup.objectives).unwrap();
    let so_far = known.reports.last().unwrap().so_far.clone().unwrap();
    assert_eq!((known.reports.len(), so_far.reports, so_far.lowest[0], so_far.highest[0]), (100, 500, 0.0, 0.5));
    assert!((so_far.means[0] - 0.499).abs() < 1e-9, "{so_far:?}");
}

#[test]
fn an_experiment_goes_on_with_the_default_that_it_began_with() {
    let mut world = World::new(budget(2, 1));
    world.settle();
    assert_eq!(text(world.experiment(), "/status/algorithm"), "random");
    world.setup.algorithm = "newer".to_owned();
    world.settle();
    assert_eq!(text(world.experiment(), "/status/algorithm"), "random");
    let experiment = world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap();
    experiment["spec"]["algorithm"] = json!("newer");
    world.settle();
    assert!(world.experiment().pointer("/status/algorithm").is_none_or(Json::is_null), "its spec says it");
}

#[test]
fn the_best_of_a_ladder_are_tried_again_with_all_of_the_resource() {
    let mut world = confirmed(14, 1, 2, 2);
    world.ladder = Some(Ladder::new(Some("epochs".to_owned()), 1.0, 9.0, 3.0).unwrap());
    world.restart();
    for _ in 0..30 {
        world.settle();
        world.end_one(0, 2);
    }
    world.settle();
    assert_eq!(world.phase(), "Succeeded");
    let specs: Vec<Json> =
        world.names("Trial").iter().map(|name| world.get("Trial", name).unwrap()["spec"].clone()).collect();
    let most = specs
        .iter()
        .filter(|spec| spec.get("repeats").is_none())
        .filter_map(|spec| spec["parameters"]["epochs"].as_u64())
        .max();
    let repeats: Vec<&Json> = specs.iter().filter(|spec| spec.get("repeats").is_some()).collect();
    assert!(!repeats.is_empty());
    for spec in repeats {
        let of = world.get("Trial", &format!("e-{}", spec["repeats"])).unwrap();
        assert_eq!(of["spec"]["parameters"]["epochs"].as_u64(), most, "those that had the most are candidates");
        assert_eq!(
            (&spec["parameters"]["epochs"], &spec["parameters"]["x"]),
            (&json!(9), &of["spec"]["parameters"]["x"])
        );
    }
    let best = &world.experiment()["status"]["best"];
    assert_eq!((&best["repeats"], &best["parameters"]["epochs"]), (&json!(2), &json!(9)));
}

#[test]
fn the_jobs_of_the_last_trials_and_of_the_best_one_stay() {
    let mut world = World::new(budget(3, 1));
    world.setup.keep = Keep::Recent;
    for loss in [0.5, 0.1, 0.9] {
        world.settle();
        let name = world.names("Trial").into_iter().next_back().unwrap();
        world.end_one(0, 2);
        tell(&mut world, &name, loss);
    }
    assert_eq!(world.names("Job"), ["e-0", "e-1", "e-2"]);
    let experiment = world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap();
    experiment["status"]["trials"]["next"] = json!(RECENT + 1);
    let plan = |world: &World, name: &str| {
        let view = TrialView {
            object: world.get("Trial", name).unwrap(),
            experiment: Some(world.experiment()),
            setup: Some(&world.setup),
            job: world.get("Job", name),
            seen: Seen::Nothing,
            refused: None,
            verdict: None,
        };
        matches!(trial(&view, world.now_ms).actions.as_slice(), [Action::Delete { .. }])
    };
    assert_eq!(["e-0", "e-1", "e-2"].map(|name| plan(&world, name)), [true, false, false], "one is too old");
    let experiment = world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap();
    experiment["status"]["trials"]["next"] = json!(RECENT + 3);
    assert_eq!(["e-0", "e-1", "e-2"].map(|name| plan(&world, name)), [true, false, true]);
}

#[test]
fn a_trial_that_is_settled_has_succeeded_with_what_it_told() {
    let mut world = World::new(budget(1, 1));
    with_rules(&mut world);
    world.settle();
    told(&mut world, "e-0", &[0.5, 0.25, 0.25]);
    world.verdicts.insert("e-0".to_owned(), Verdict::Settled("no better for 1 step".to_owned()));
    world.settle();
    assert_eq!(message(&world, "e-0"), ("Succeeded", "no better for 1 step"));
    assert_eq!(world.get("Trial", "e-0").unwrap()["status"]["values"], json!({"loss": 0.25}));
    assert_eq!((world.names("Job").len(), world.phase()), (0, "Succeeded"));
}

#[test]
fn a_trial_that_is_suspended_is_not_judged() {
    let mut world = World::new(budget(1, 1));
    with_rules(&mut world);
    world.settle();
    told(&mut world, "e-0", &[3.0]);
    world.objects.get_mut(&("Experiment".to_owned(), "e".to_owned())).unwrap()["spec"]["suspend"] = json!(true);
    world.verdicts.insert("e-0".to_owned(), Verdict::Hopeless("too much".to_owned()));
    world.settle();
    assert_eq!(message(&world, "e-0").0, "Suspended");
}

#[test]
fn a_configuration_goes_on_with_more_in_the_folder_of_its_first_trial() {
    let mut world = World::new(budget(4, 1));
    world.ladder = Some(Ladder::new(Some("epochs".to_owned()), 1.0, 9.0, 3.0).unwrap());
    world.restart();
    let command = json!(["x", "{x}", "{epochs}", "{trial.checkpoint}"]);
    world.setup.job["spec"]["template"]["spec"]["containers"][0]["command"] = command;
    for _ in 0..4 {
        world.settle();
        world.end_one(0, 2);
        // The process ends, and another one goes on.
        world.restart();
    }
    world.settle();
    let spec = |name: &str| world.get("Trial", name).unwrap()["spec"].clone();
    let (first, last) = (spec("e-0"), spec("e-3"));
    assert_eq!((&first["parameters"]["epochs"], &last["parameters"]["epochs"]), (&json!(1), &json!(3)));
    // All have the same loss; the first of them goes on.
    assert_eq!((&last["continues"], &last["parameters"]["x"]), (&json!(0), &first["parameters"]["x"]));
    let command =
        |name: &str| world.get("Job", name).unwrap()["spec"]["template"]["spec"]["containers"][0]["command"].clone();
    assert_eq!(command("e-0")[3], "checkpoints/e-e-uid/0");
    assert_eq!((&command("e-3")[2], &command("e-3")[3]), (&json!("3"), &json!("checkpoints/e-e-uid/0")));
    assert_eq!(command("e-1")[3], "checkpoints/e-e-uid/1");
    let best = &world.experiment()["status"]["best"];
    assert_eq!((&best["trial"], &best["parameters"]["epochs"]), (&json!("e-3"), &json!(3)), "of those with the most");
}

#[test]
fn numbers_are_shown_short() {
    let shown = [0.0, 0.5, 0.123_456_789, 12.5, 1_234.567_89, -3.0, 1e-7, 123_456_789_012.0].map(short);
    assert_eq!(shown, ["0", "0.5", "0.12346", "12.5", "1234.57", "-3", "1.00000e-7", "1.23457e11"]);
}
