//! The rough part: users change their minds, watches lag, requests fail, machines and the coordinator die.

use rand::RngExt as _;
use serde_json::{Value, json};
use trainyard_runtime_core::store::{Key, Part};

use crate::api::at;
use crate::control::Fault;
use crate::workload;
use crate::world::World;

/// A move of the rough part, by weight: work is frequent, so that there is something to break.
#[derive(Clone, Copy, Debug)]
enum Move {
    Deliver,
    Plan,
    Act,
    Garbage,
    Node,
    Wait,
    User,
    Crash,
    NodeFault,
    ClockJump,
    StrayWake,
    WatchGap,
    Duplicate,
    DiskFull,
}

const WEIGHTS: [(Move, u32); 14] = [
    (Move::Deliver, 30),
    (Move::Plan, 20),
    (Move::Act, 30),
    (Move::Garbage, 6),
    (Move::Node, 20),
    (Move::Wait, 6),
    (Move::User, 5),
    (Move::Crash, 1),
    (Move::NodeFault, 1),
    (Move::ClockJump, 1),
    (Move::StrayWake, 2),
    (Move::WatchGap, 1),
    (Move::Duplicate, 2),
    (Move::DiskFull, 1),
];

impl World {
    pub(crate) fn rough_step(&mut self) {
        self.tend();
        self.rough_bind();
        let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.rng.random_range(0..total);
        let chosen = WEIGHTS.iter().find(|(_, weight)| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        match chosen.map_or(Move::Wait, |(chosen, _)| *chosen) {
            Move::Deliver => {
                let lagging = self.process.lagging(&self.api);
                if !lagging.is_empty() {
                    let resource = lagging[self.rng.random_range(0..lagging.len())].clone();
                    for _ in 0..self.rng.random_range(1..6) {
                        self.deliver(&resource);
                    }
                }
            }
            Move::Plan => {
                let work = self.process.plannable();
                if !work.is_empty() {
                    let work = work[self.rng.random_range(0..work.len())].clone();
                    self.plan(&work);
                }
            }
            Move::Act => self.rough_act(),
            Move::Garbage => {
                self.collect_garbage();
            }
            Move::Node => {
                let index = self.rng.random_range(0..self.machines.len());
                let answer_lost = self.rng.random_range(0..20) == 0;
                self.report.faults += u64::from(answer_lost);
                self.work_on_node(index, answer_lost);
            }
            Move::Wait => {
                self.now_ms += self.rng.random_range(1..self.estate.most_wait_ms());
                self.process.ring(self.now_ms);
            }
            Move::User => self.user(),
            Move::Crash => {
                self.report.faults += 1;
                self.restart_coordinator();
            }
            Move::NodeFault => self.node_fault(),
            Move::ClockJump => self.clock_jump(),
            Move::StrayWake => {
                // A wake-up for nothing, or once more.
                let all = crate::control::every_work(&self.api);
                let work = all[self.rng.random_range(0..all.len())].clone();
                self.process.dirty.insert(work);
            }
            Move::WatchGap | Move::Duplicate => self.watch_fault(matches!(chosen, Some((Move::WatchGap, _)))),
            Move::DiskFull => {
                self.report.faults += 1;
                let writes = self.rng.random_range(1..12);
                self.api.refuse_writes(writes);
                self.say(|| format!("the disk is full: the next {writes} writes are refused"));
            }
        }
    }

    /// Forward by up to an hour, as after a sleep; back by seconds, as a time server does it.
    fn clock_jump(&mut self) {
        self.memory.happened();
        self.report.faults += 1;
        let forward = self.rng.random_range(0..2) == 0;
        self.now_ms += if forward { self.rng.random_range(0..3_600_000) } else { -self.rng.random_range(0..10_000) };
        self.process.ring(self.now_ms);
        self.say(|| "the clock jumped".to_owned());
    }

    fn watch_fault(&mut self, gap: bool) {
        self.report.faults += 1;
        let at = self.rng.random_range(0..self.api.logs.len());
        let Some(resource) = self.api.logs.keys().nth(at).cloned() else { return };
        if gap {
            self.process.list_again(&self.api, &resource);
            self.say(|| format!("watch of {} had a gap: listed again", resource.plural));
        } else {
            self.process.deliver_again(&self.api, &resource);
            self.say(|| format!("watch of {} repeats itself", resource.plural));
        }
    }

    fn rough_act(&mut self) {
        if self.process.flights.is_empty() {
            return;
        }
        let flight = self.rng.random_range(0..self.process.flights.len());
        let fault = match self.rng.random_range(0..40) {
            0 => Fault::Refused,
            1 => Fault::AnswerLost,
            _ => Fault::None,
        };
        if fault != Fault::None {
            self.report.faults += 1;
        }
        self.act(flight, fault);
    }

    fn node_fault(&mut self) {
        self.memory.happened();
        self.report.faults += 1;
        let index = self.rng.random_range(0..self.machines.len());
        let alive = self.machines[index].alive;
        if alive {
            self.machines[index].die();
        } else {
            self.machines[index].alive = true;
        }
        self.set_ready(index, !alive);
        let name = self.machines[index].name.clone();
        self.say(|| format!("{name} {}", if alive { "died" } else { "came back" }));
    }

    fn user(&mut self) {
        self.memory.happened();
        let jobs = self.jobs();
        if jobs.is_empty() || (self.report.jobs < workload::MOST_JOBS && self.rng.random_range(0..2) == 0) {
            if self.report.jobs < workload::MOST_JOBS {
                self.create_job();
            }
            return;
        }
        let names: Vec<&String> = jobs.keys().collect();
        let key = jobs[names[self.rng.random_range(0..names.len())]].clone();
        match self.rng.random_range(0..10) {
            0 => {
                let deleted = self.api.delete(self.now_ms, &key, None, None, None);
                self.say(|| format!("user deletes {}: {}", key.name, deleted.is_ok()));
            }
            1..4 => self.toggle_suspend(&key),
            4..6 => self.rescale(&key),
            6 => self.delete_a_pod(),
            _ => {}
        }
    }

    pub(crate) fn create_job(&mut self) {
        // Now and then under the name of one that is gone, or going.
        let reuse = self.report.jobs > 0 && self.rng.random_range(0..4) == 0;
        let serial = if reuse { self.rng.random_range(0..self.report.jobs) } else { self.report.jobs };
        let (object, mut body) = workload::job(&mut self.rng, serial);
        if self.spoils.random_range(0..8) == 0 {
            workload::spoil(&mut body);
        }
        self.estate.enlist(&mut body);
        let made = self.api.create(self.now_ms, &object, body);
        if made.is_ok() {
            self.report.jobs += 1;
        }
        self.say(|| format!("user creates {} {}: {}", object.kind, object.name, made.is_ok()));
    }

    fn toggle_suspend(&mut self, key: &Key) {
        let Some(object) = self.api.store.get(key) else { return };
        let spec = &object.value()["spec"];
        let patch = match object.value()["kind"].as_str() {
            Some("Deployment") => json!({"spec": {"paused": spec["paused"] != true}}),
            Some("PyTorchJob") => json!({"spec": {"runPolicy": {"suspend": spec["runPolicy"]["suspend"] != true}}}),
            _ => json!({"spec": {"suspend": spec["suspend"] != true}}),
        };
        self.patch(key, &patch);
    }

    fn rescale(&mut self, key: &Key) {
        let Some(object) = self.api.store.get(key) else { return };
        let patch = match object.value()["kind"].as_str() {
            Some("Deployment") => json!({"spec": {
                "replicas": self.rng.random_range(0..3), "paused": null,
                "template": {"metadata": {"annotations": {"restarted": self.report.steps.to_string()}}},
            }}),
            Some("Job") => json!({"spec": {"parallelism": self.rng.random_range(1..4)}}),
            Some("TrainingJob") => json!({"spec": {"replicas": self.rng.random_range(1..=4)}}),
            Some("PyTorchJob") if at(object.value(), &["spec", "pytorchReplicaSpecs", "Worker"]).is_some() => {
                json!({"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": self.rng.random_range(1..=3)}}}})
            }
            _ => return,
        };
        self.patch(key, &patch);
    }

    fn delete_a_pod(&mut self) {
        let pods: Vec<Key> = self.api.of_kind("v1", "Pod").map(|pod| pod.key().clone()).collect();
        if pods.is_empty() {
            return;
        }
        let key = pods[self.rng.random_range(0..pods.len())].clone();
        let deleted = self.api.delete(self.now_ms, &key, None, None, None);
        self.say(|| format!("user deletes pod {}: {}", key.name, deleted.is_ok()));
    }

    pub(crate) fn patch(&mut self, key: &Key, patch: &Value) {
        let done = self.api.patch(self.now_ms, key, patch, Part::Main);
        self.say(|| format!("user patches {} {patch}: {}", key.name, done.is_ok()));
    }
}
