//! Random lives: whatever happens to pods, a plan comes to rest, and gangs are never mixed.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;
use trainyard_coordinator_core::job;
use world::{World, phase};

/// What may happen to a job.
#[derive(Clone, Debug)]
enum Event {
    Place,
    StartAll,
    Succeed(usize),
    Fail(usize, i32),
    Lose(usize),
    CrashInPlace(usize, i32),
    Delete(usize),
    Vanish(usize),
    Reap,
    Suspend(bool),
    Scale(i32),
    Ask(i32),
    Wait(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Place),
        3 => Just(Event::StartAll),
        2 => (0..4_usize).prop_map(Event::Succeed),
        2 => ((0..4_usize), prop_oneof![Just(1), Just(137)]).prop_map(|(at, code)| Event::Fail(at, code)),
        1 => (0..4_usize).prop_map(Event::Lose),
        1 => ((0..4_usize), 0..4_i32).prop_map(|(at, restarts)| Event::CrashInPlace(at, restarts)),
        1 => (0..4_usize).prop_map(Event::Delete),
        1 => (0..4_usize).prop_map(Event::Vanish),
        3 => Just(Event::Reap),
        1 => any::<bool>().prop_map(Event::Suspend),
        1 => (1..4_i32).prop_map(Event::Scale),
        1 => (1..80_i32).prop_map(Event::Ask),
        2 => (1..40_000_i64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 0..16)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Training,
    PyTorch,
    Train,
}

#[derive(Clone, Debug)]
struct Settings {
    kind: Kind,
    restart: &'static str,
    limit: Option<u32>,
    clean: &'static str,
    deadline: Option<i64>,
}

fn settings() -> impl Strategy<Value = Settings> {
    let restart = prop::sample::select(vec!["Always", "OnFailure", "Never", "ExitCode"]);
    let clean = prop::sample::select(vec!["None", "Running", "All"]);
    let kind = prop::sample::select(vec![Kind::Training, Kind::PyTorch, Kind::Train]);
    (kind, restart, prop::option::of(0..4_u32), clean, prop::option::of(20..200_i64))
        .prop_map(|(kind, restart, limit, clean, deadline)| Settings { kind, restart, limit, clean, deadline })
}

fn start(settings: &Settings) -> World {
    let manifest = match settings.kind {
        Kind::Training => json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "job"},
            "spec": {
                "replicas": 3, "command": ["train"], "restartPolicy": settings.restart, "backoffLimit": settings.limit,
                "cleanPodPolicy": settings.clean, "activeDeadlineSeconds": settings.deadline, "suspend": false,
                "resources": {"requests": {"cpu": "1"}},
            },
        }),
        Kind::PyTorch => {
            let role = |replicas: i32| {
                let container = json!({"name": "pytorch", "image": "x", "resources": {"requests": {"cpu": "1"}}});
                json!({
                    "replicas": replicas, "restartPolicy": settings.restart,
                    "template": {"spec": {"containers": [container]}},
                })
            };
            json!({
                "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "job"},
                "spec": {
                    "runPolicy": {
                        "backoffLimit": settings.limit, "cleanPodPolicy": settings.clean,
                        "activeDeadlineSeconds": settings.deadline, "suspend": false,
                    },
                    "pytorchReplicaSpecs": {"Master": role(1), "Worker": role(2)},
                },
            })
        }
        Kind::Train => json!({
            "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "job"},
            "spec": {
                "runtimeRef": {"name": "runtime"}, "suspend": false, "activeDeadlineSeconds": settings.deadline,
                "trainer": {"numNodes": 3, "resourcesPerNode": {"requests": {"cpu": "1"}}},
            },
        }),
    };
    let mut world = World::new(&manifest.to_string());
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "node", "image": "x"}]});
    let step =
        json!({"name": "node", "template": {"spec": {"backoffLimit": settings.limit, "template": {"spec": pod}}}});
    world.related.push(json!({
        "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime", "metadata": {"name": "runtime"},
        "spec": {"mlPolicy": {"torch": {}}, "template": {"spec": {"replicatedJobs": [step]}}},
    }));
    world
}

fn nth(world: &World, at: usize) -> Option<String> {
    world.pods.keys().nth(at).cloned()
}

fn happen(world: &mut World, settings: &Settings, event: &Event) {
    let named =
        |world: &World, at: usize, wanted: &str| nth(world, at).filter(|name| phase(&world.pods[name]) == wanted);
    match event {
        Event::Place => {
            world.place();
        }
        Event::StartAll => world.start_all(),
        Event::Succeed(at) => {
            if let Some(name) = named(world, *at, "Running") {
                world.succeed(&name);
            }
        }
        Event::Fail(at, code) => {
            if let Some(name) = named(world, *at, "Running") {
                world.fail(&name, *code);
            }
        }
        Event::Lose(at) => {
            if let Some(name) = nth(world, *at) {
                world.set(&name, json!({"phase": "Failed", "reason": "NodeLost"}));
            }
        }
        Event::CrashInPlace(at, restarts) => {
            let in_place = |world: &World, name: &String| {
                world.pods[name].spec.as_ref().unwrap().restart_policy.as_deref() != Some("Never")
            };
            if let Some(name) = named(world, *at, "Running").filter(|name| in_place(world, name)) {
                world.crash_in_place(&name, *restarts, restarts % 2 == 0);
            }
        }
        Event::Delete(at) => {
            if let Some(name) = nth(world, *at) {
                let now = trainyard_coordinator_core::instant::time(world.now_ms);
                world.pods.get_mut(&name).unwrap().metadata.deletion_timestamp.get_or_insert(now);
            }
        }
        Event::Vanish(at) => {
            if let Some(name) = nth(world, *at) {
                world.pods.remove(&name);
            }
        }
        Event::Reap => world.reap(),
        Event::Suspend(on) => {
            let path = match settings.kind {
                Kind::Training | Kind::Train => "/spec/suspend",
                Kind::PyTorch => "/spec/runPolicy/suspend",
            };
            world.edit(path, json!(on));
        }
        Event::Scale(replicas) => {
            let path = match settings.kind {
                Kind::Training => "/spec/replicas",
                Kind::PyTorch => "/spec/pytorchReplicaSpecs/Worker/replicas",
                Kind::Train => "/spec/trainer/numNodes",
            };
            world.edit(path, json!(replicas));
        }
        Event::Ask(cpus) => {
            let path = match settings.kind {
                Kind::Training => "/spec/resources/requests/cpu",
                Kind::PyTorch => "/spec/pytorchReplicaSpecs/Worker/template/spec/containers/0/resources/requests/cpu",
                Kind::Train => "/spec/trainer/resourcesPerNode/requests/cpu",
            };
            world.edit(path, json!(cpus.to_string()));
        }
        Event::Wait(ms) => world.now_ms += ms,
    }
}

/// J-1: pods of two generations never both have a place without one of them being on its way out.
fn one_generation(world: &World) -> bool {
    let live = world.pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let bound = live
        .filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some() && matches!(phase(pod), "Pending" | "Running"));
    let generations: BTreeSet<&str> = bound
        .filter_map(|pod| pod.metadata.annotations.as_ref()?.get("trainyard.dev/generation").map(String::as_str))
        .collect();
    generations.len() <= 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_comes_to_rest(settings in settings(), events in events()) {
        let mut world = start(&settings);
        // `World::plan` asserts that planning again changes nothing.
        world.plan();
        let mut ended: Option<Vec<String>> = None;
        for event in &events {
            happen(&mut world, &settings, event);
            world.plan();
            prop_assert!(one_generation(&world), "J-1 after {:?}", event);
            let conditions = world.conditions();
            let last = conditions.last().cloned().unwrap_or_default();
            if let Some(before) = &ended {
                prop_assert_eq!(before, &conditions, "J-2: an end is final");
            } else if ["Succeeded", "Complete", "Failed"].contains(&last.as_str()) {
                ended = Some(conditions);
            }
            let restarts = world.status("/restarts").as_u64().unwrap_or(0);
            let limit = settings.limit.map_or(3, u64::from);
            prop_assert!(settings.kind != Kind::Training || restarts <= limit, "J-3: {} restarts of {}", restarts, limit);
        }
    }

    #[test]
    fn the_order_of_the_view_does_not_matter(settings in settings(), events in events(), seed in any::<u64>()) {
        let mut world = start(&settings);
        world.plan();
        for event in &events {
            happen(&mut world, &settings, event);
            let view = world.view();
            let mut shuffled = view.clone();
            let key = |name: &Option<String>| name.as_deref().unwrap().bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)).rotate_left(7));
            shuffled.pods.sort_by_key(|pod| key(&pod.metadata.name));
            shuffled.services.sort_by_key(|service| key(&service.metadata.name));
            prop_assert_eq!(job::plan(&view, world.now_ms), job::plan(&shuffled, world.now_ms));
            world.plan();
        }
    }

    /// However far a plan was carried out before the planner died, the next one ends up in the same place.
    #[test]
    fn a_plan_may_be_cut_off_anywhere(settings in settings(), events in events(), cut in 0..12_usize) {
        let mut world = start(&settings);
        world.plan();
        for event in &events {
            happen(&mut world, &settings, event);
            let plan = job::plan(&world.view(), world.now_ms);
            for action in plan.actions.iter().take(cut) {
                world.apply_one(action);
            }
            world.plan();
            prop_assert!(one_generation(&world), "J-1 after {:?}", event);
            let restarts = world.status("/restarts").as_u64().unwrap_or(0);
            let limit = settings.limit.map_or(3, u64::from);
            prop_assert!(settings.kind != Kind::Training || restarts <= limit, "J-3: {} restarts of {}", restarts, limit);
        }
    }

    #[test]
    fn no_object_makes_the_planner_panic(text in "\\PC{0,200}", kind in prop::sample::select(vec!["TrainingJob", "PyTorchJob", "TrainJob"]), at in 0..6_usize) {
        let group = match kind { "TrainingJob" => "trainyard.dev/v1alpha1", "PyTorchJob" => "kubeflow.org/v1", _ => "trainer.kubeflow.org/v1alpha1" };
        let mut job = json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x", "uid": "u"}, "spec": {}, "status": {}});
        let value = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
        match at {
            0 => job["spec"] = value,
            1 => job["status"] = value,
            2 => job["metadata"] = value,
            3 => job["spec"]["runPolicy"] = value,
            4 => job["status"]["conditions"] = value,
            _ => job["spec"]["command"] = value,
        }
        let mut view = start(&Settings { kind: Kind::Training, restart: "Never", limit: None, clean: "None", deadline: None }).view();
        view.job = job;
        let _ = job::plan(&view, 0);
    }
}
