//! The pod machine against generated worlds: whatever happens to containers, the invariants of `machine` hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const BACK_OFF: BackOff = BackOff { base_ms: 10_000, max_ms: 300_000, reset_after_ms: 600_000 };

/// A node without processes: runs are entries in a map, and end when a script says so.
struct World {
    pod: Pod,
    gone: bool,
    setup: Setup,
    containers: BTreeMap<String, ContainerView>,
    started: Vec<(String, u32)>,
    removed: bool,
    now_ms: i64,
}

impl World {
    fn new(pod: Value) -> Self {
        Self {
            pod: serde_json::from_value(pod).expect("a pod"),
            gone: false,
            setup: Setup::Needed,
            containers: BTreeMap::new(),
            started: Vec::new(),
            removed: false,
            now_ms: 1_000_000,
        }
    }

    fn plan(&self) -> PodPlan {
        let view = PodView {
            pod: &self.pod,
            gone: self.gone,
            setup: &self.setup,
            containers: &self.containers,
            accepted_ms: 1_000_000,
            pod_ip: "127.1.1.1",
            host_ip: "127.0.0.1",
            back_off: BACK_OFF,
        };
        plan(&view, self.now_ms)
    }

    fn active(&self, name: &str) -> bool {
        self.containers
            .get(name)
            .and_then(|c| c.last.as_ref())
            .is_some_and(|last| !matches!(last.state, AttemptState::Ended(_)))
    }

    /// Plans and carries out until nothing is left to do. Checks PM-1 to PM-5 on the way.
    fn settle(&mut self) -> PodPlan {
        for _ in 0..20 {
            let plan = self.plan();
            for action in &plan.actions {
                self.apply(action);
            }
            if let Some(status) = &plan.status {
                self.pod.status = Some(status.clone());
            }
            if plan.actions.is_empty() || self.removed {
                return plan;
            }
        }
        panic!("PM-5: the machine never comes to rest");
    }

    fn apply(&mut self, action: &PodAction) {
        match action {
            PodAction::SetUp => self.setup = Setup::Ready,
            PodAction::Start { container, attempt, streak } => {
                assert!(!self.active(container), "PM-1: {container} runs already");
                let next =
                    self.containers.get(container).and_then(|c| c.last.as_ref()).map_or(0, |last| last.number + 1);
                assert_eq!(*attempt, next, "PM-1: runs are numbered without gaps");
                if self.policy() == "Never" && !container.starts_with("side") {
                    assert_eq!(*attempt, 0, "PM-2");
                }
                assert!(!self.gone && self.pod.metadata.deletion_timestamp.is_none(), "PM-3");
                self.started.push((container.clone(), *attempt));
                let seen = self.containers.entry(container.clone()).or_default();
                let state = AttemptState::Running { started_ms: self.now_ms };
                let run = Attempt {
                    id: format!("process://{container}/{attempt}"),
                    number: *attempt,
                    streak: *streak,
                    state,
                    stop_deadline_ms: None,
                };
                seen.previous = seen.last.replace(run);
            }
            PodAction::Stop { container, attempt, grace_ms, .. } => {
                let deadline = self.now_ms + grace_ms;
                let last = self.containers.get_mut(container).and_then(|c| c.last.as_mut()).expect("a run to stop");
                assert_eq!(last.number, *attempt);
                last.stop_deadline_ms = Some(deadline);
            }
            PodAction::RemoveObject | PodAction::RemoveFolder => {
                assert!(self.containers.keys().all(|name| !self.active(name)), "nothing may be left behind");
                self.removed = true;
            }
        }
    }

    fn policy(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    fn end(&mut self, name: &str, exit_code: i32) {
        let now_ms = self.now_ms;
        let Some(last) = self.containers.get_mut(name).and_then(|c| c.last.as_mut()) else { return };
        if let AttemptState::Running { started_ms } = last.state {
            let reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
            let (started_ms, message) = (Some(started_ms), String::new());
            last.state = AttemptState::Ended(Ending {
                started_ms,
                finished_ms: now_ms,
                exit_code,
                signal: None,
                reason,
                message,
                lost_log_lines: 0,
            });
        }
    }

    fn delete(&mut self) {
        let meta = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let with: Pod = serde_json::from_value(meta).expect("a pod");
        self.pod.metadata.deletion_timestamp = with.metadata.deletion_timestamp;
        self.pod.metadata.deletion_grace_period_seconds = Some(30);
    }

    fn phase(&self) -> String {
        self.plan().status.and_then(|status| status.phase).unwrap_or_default()
    }
}

fn pod(policy: &str, init: &[&str], containers: &[&str]) -> Value {
    let list = |names: &[&str]| -> Vec<Value> {
        names
            .iter()
            .map(|name| match name.starts_with("side") {
                true => json!({"name": name, "restartPolicy": "Always"}),
                false => json!({"name": name}),
            })
            .collect()
    };
    json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
           "spec": {"restartPolicy": policy, "initContainers": list(init), "containers": list(containers)}})
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut world = World::new(pod("Never", &["i0", "i1"], &["main"]));
    world.settle();
    assert_eq!((world.started.len(), world.phase().as_str()), (1, "Pending"));
    world.end("i0", 0);
    world.settle();
    world.end("i1", 0);
    world.settle();
    let names: Vec<&str> = world.started.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, world.phase().as_str()), (vec!["i0", "i1", "main"], "Running"));
    world.end("main", 0);
    world.settle();
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut world = World::new(pod("Never", &["i0"], &["main"]));
    world.settle();
    world.end("i0", 1);
    world.settle();
    assert_eq!((world.phase().as_str(), world.started.len()), ("Failed", 1));
}

#[test]
fn a_refusal_waits_for_what_runs_already() {
    let refused = || Setup::Refused { reason: "No".to_owned(), message: "not here".to_owned() };
    for (policy, exit_code, phase, reason) in [("Never", 0, "Succeeded", None), ("Always", 1, "Failed", Some("No"))] {
        let mut world = World::new(pod(policy, &[], &["main"]));
        world.settle();
        // Another agent, for which the pod is none of those that it runs.
        world.setup = refused();
        assert!(world.settle().actions.is_empty());
        assert_eq!(world.phase(), "Running");
        world.end("main", exit_code);
        let status = world.settle().status.expect("a status");
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some(phase), reason));
        assert!(status.container_statuses.is_some_and(|all| all.len() == 1));
        assert_eq!(world.started.len(), 1, "PM-3");
    }
    let mut world = World::new(pod("Always", &[], &["main"]));
    world.setup = refused();
    world.settle();
    assert_eq!((world.phase().as_str(), world.started.len()), ("Failed", 0));
}

#[test]
fn sidecars_accompany_and_are_stopped_at_the_end() {
    let mut world = World::new(pod("Never", &["side"], &["main"]));
    world.settle();
    assert_eq!(world.started.len(), 2);
    world.end("side", 1);
    world.settle();
    assert_eq!(world.started.last().map(|(name, run)| (name.as_str(), *run)), Some(("side", 1)));
    world.end("main", 0);
    world.settle();
    assert!(world.containers["side"].last.as_ref().is_some_and(|run| run.stop_deadline_ms.is_some()));
    assert_eq!(world.phase(), "Running");
    world.end("side", 143);
    world.settle();
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn restarts_are_spaced_out() {
    let mut world = World::new(pod("OnFailure", &[], &["main"]));
    world.settle();
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.end("main", 1);
        let ended = world.now_ms;
        let plan = world.settle();
        if let Some(at) = plan.wake_at_ms {
            world.now_ms = at;
            world.settle();
        }
        waits.push((world.now_ms - ended) / 1_000);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn a_crash_loop_is_called_by_its_name() {
    let mut world = World::new(pod("Always", &[], &["main"]));
    world.settle();
    world.end("main", 1);
    world.settle();
    world.end("main", 1);
    let status = world.settle().status.expect("a status");
    let main = &status.container_statuses.expect("containers")[0];
    let waiting = main.state.as_ref().and_then(|state| state.waiting.as_ref()).expect("it waits");
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert!(
        waiting
            .message
            .as_ref()
            .expect("a message")
            .starts_with("back-off 10s restarting failed container=main pod=p_ns(u)")
    );
    assert_eq!(main.restart_count, 1);
    assert!(main.last_state.as_ref().expect("a last state").terminated.is_some());
}

#[test]
fn a_pod_past_its_deadline_fails_once_it_is_down() {
    let mut world = World::new(pod("Always", &[], &["main"]));
    world.pod.spec.as_mut().expect("a spec").active_deadline_seconds = Some(5);
    let plan = world.settle();
    assert_eq!(plan.wake_at_ms, Some(1_005_000));
    world.now_ms = 1_005_000;
    world.settle();
    assert_eq!(world.phase(), "Running");
    world.end("main", 143);
    let status = world.settle().status.expect("a status");
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_pod_that_was_done_in_time_never_becomes_overdue() {
    let mut world = World::new(pod("Never", &[], &["main"]));
    world.pod.spec.as_mut().expect("a spec").active_deadline_seconds = Some(5);
    world.settle();
    world.now_ms += 1_000;
    world.end("main", 0);
    world.now_ms += 100_000;
    world.settle();
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_second_deletion_with_less_grace_counts() {
    let mut world = World::new(pod("Always", &[], &["main"]));
    world.settle();
    world.delete();
    world.settle();
    world.pod.metadata.deletion_grace_period_seconds = Some(1);
    world.settle();
    let deadline = world.containers["main"].last.as_ref().and_then(|run| run.stop_deadline_ms);
    assert_eq!(deadline, Some(world.now_ms + 1_000));
}

#[derive(Clone, Debug)]
enum Event {
    End(usize, i32),
    Pass(i64),
    Delete,
    Vanish,
    Unhealthy(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0_usize..5, prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(at, code)| Event::End(at, code)),
        4 => (0_i64..400_000).prop_map(Event::Pass),
        1 => Just(Event::Delete),
        1 => Just(Event::Vanish),
        1 => (0_usize..5).prop_map(Event::Unhealthy),
    ]
}

proptest! {
    #[test]
    fn the_invariants_hold(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        init in prop::sample::subsequence(vec!["i0", "side0", "i1"], 0..=3),
        mains in prop::sample::subsequence(vec!["c0", "c1"], 1..=2),
        deadline in prop::option::of(1_i64..1_000),
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut world = World::new(pod(policy, &init, &mains));
        world.pod.spec.as_mut().expect("a spec").active_deadline_seconds = deadline;
        let names: Vec<&str> = init.iter().chain(&mains).copied().collect();
        let mut final_phase: Option<String> = None;
        world.settle();
        for event in events {
            match event {
                Event::End(at, code) => world.end(names[at % names.len()], code),
                Event::Pass(ms) => world.now_ms += ms,
                Event::Delete => world.delete(),
                Event::Vanish => world.gone = true,
                Event::Unhealthy(at) => {
                    if let Some(seen) = world.containers.get_mut(names[at % names.len()]) {
                        seen.probes.live = false;
                    }
                }
            }
            let before = world.started.len();
            world.settle();
            if world.removed {
                break;
            }
            // PM-3: what is final stays final, and nothing starts any more.
            if let Some(phase) = &final_phase {
                prop_assert_eq!(before, world.started.len());
                if !world.gone {
                    prop_assert_eq!(phase, &world.phase());
                }
            }
            if !world.gone && matches!(world.phase().as_str(), "Succeeded" | "Failed") {
                final_phase = Some(world.phase());
            }
            // PM-4
            let begun = mains.iter().any(|name| world.containers.get(*name).is_some_and(|seen| seen.last.is_some()));
            if begun {
                for name in init.iter().filter(|name| !name.starts_with("side")) {
                    let code = world.containers.get(*name).and_then(|seen| machine::ending(Some(seen))).map(|e| e.exit_code);
                    prop_assert_eq!(code, Some(0), "PM-4: {}", name);
                }
            }
            for seen in world.containers.values_mut() {
                seen.probes.live = true;
            }
        }
    }
}
