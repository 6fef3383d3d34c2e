//! Nodes and their agents: bound pods become processes that run for a while and end. What is said of a pod, whether it starts
//! again, and whether it is refused, the node agent's core decides ([`crate::pod`]); when it is done is up to the world.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_runtime_core::store::{Key, Object, Part};

use crate::api::{Api, at};
use crate::pod::{self, Answer, Run};

/// One process, the holder of ranks.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its pod as it was when the process started.
    pub(crate) pod: Arc<Object>,
    started_ms: i64,
    ends_at_ms: i64,
    exit_code: i32,
    restarts: u32,
    /// It has ended, and that is not on record yet.
    pub(crate) over: bool,
}

impl Process {
    /// As the node agent's core knows it, while it runs or when it is over.
    const fn seen(&self, over: bool) -> Run {
        let exit_code = if over { Some(self.exit_code) } else { None };
        Run { number: self.restarts, started_ms: self.started_ms, exit_code }
    }
}

/// What an agent did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) said: String,
    /// A process started.
    pub(crate) started: bool,
    /// A process ended.
    pub(crate) ended: bool,
    /// The pod that it refused.
    pub(crate) refused: Option<Arc<Object>>,
}

impl Done {
    fn said(said: String) -> Self {
        Self { said, ..Self::default() }
    }
}

/// One machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) alive: bool,
    /// By the pod's uid. They go on while the agent is away, and it finds them again.
    processes: BTreeMap<String, Process>,
    /// Moves on whenever `processes` changes.
    changes: u64,
}

fn phase(object: &Object) -> &str {
    at(object.value(), &["status", "phase"]).and_then(Value::as_str).unwrap_or("Pending")
}

pub(crate) fn has_ended(object: &Object) -> bool {
    matches!(phase(object), "Succeeded" | "Failed")
}

/// One thing that an agent can do now. Each makes one write or none, and what is left to do is seen from the API and the processes
/// alone: so an agent may be killed between any two of them, and the next one goes on.
#[derive(Clone, Debug)]
pub(crate) enum Duty {
    /// The pod is on its way out: end its process and let it go.
    Remove(Key),
    /// The pod has a place and no process.
    Start(Key),
    /// Its process runs, and its status does not say so.
    Tell(Key),
    /// Its process is over.
    End(Key),
    /// Its end is on record.
    Forget(String),
    /// Its process was lost with the machine.
    Lost(Key),
    /// The pod is gone without a word: end its process.
    Kill(String),
}

impl Machine {
    pub(crate) fn new(name: String) -> Self {
        Self { name, alive: true, processes: BTreeMap::new(), changes: 0 }
    }

    /// The machine stops; so does everything on it.
    pub(crate) fn die(&mut self) {
        self.alive = false;
        self.processes.clear();
        self.changes += 1;
    }

    /// How often its processes have changed.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// The processes that have not ended.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(|process| !process.over)
    }

    fn put(&mut self, pod: &Object, process: Process) {
        self.changes += 1;
        self.processes.insert(pod.uid().to_string(), process);
    }

    fn remove(&mut self, uid: &str) {
        self.changes += 1;
        self.processes.remove(uid);
    }

    /// When its next process is over.
    pub(crate) fn next_end(&self) -> Option<i64> {
        self.processes.values().map(|process| process.ends_at_ms).filter(|at| *at != i64::MAX).min()
    }

    /// From now on everything ends well, and what serves goes on.
    pub(crate) fn calm_down(&mut self) {
        for process in self.processes.values_mut() {
            process.exit_code = 0;
            if at(process.pod.value(), &["spec", "restartPolicy"]).and_then(Value::as_str) == Some("Always") {
                process.ends_at_ms = i64::MAX;
            }
        }
    }

    /// All that it can do now.
    pub(crate) fn duties(&self, api: &Api, now_ms: i64) -> Vec<Duty> {
        let mut duties = Vec::new();
        if !self.alive {
            return duties;
        }
        for (uid, process) in &self.processes {
            if api.store.get(process.pod.key()).is_none_or(|pod| **pod.uid() != **uid) {
                duties.push(Duty::Kill(uid.clone()));
            }
        }
        for pod in api.of_kind("v1", "Pod") {
            if at(pod.value(), &["spec", "nodeName"]).and_then(Value::as_str) != Some(&self.name) {
                continue;
            }
            let process = self.processes.get(&**pod.uid());
            let key = pod.key().clone();
            if pod.is_deleting() {
                // The agent is done with it once the grace is 0 and the process has ended; finalizers are others' work.
                if process.is_some() || pod.deletion_grace_seconds() != Some(0) {
                    duties.push(Duty::Remove(key));
                }
            } else if has_ended(pod) {
                duties.extend(process.map(|_| Duty::Forget(pod.uid().to_string())));
            } else if let Some(process) = process {
                if phase(pod) != "Running" || restarts(pod) != i64::from(process.restarts) {
                    duties.push(Duty::Tell(key.clone()));
                }
                if process.over || process.ends_at_ms <= now_ms {
                    duties.push(Duty::End(key));
                }
            } else if phase(pod) == "Running" {
                duties.push(Duty::Lost(key));
            } else {
                duties.push(Duty::Start(key));
            }
        }
        duties
    }

    /// Do one of them; the answer to its write may get lost. `calm` processes all end well.
    pub(crate) fn act(&mut self, api: &mut Api, duty: Duty, chance: &mut Chance<'_>) -> Done {
        let now_ms = chance.now_ms;
        let (key, what) = match duty {
            Duty::Kill(uid) => {
                self.remove(&uid);
                return Done::said(format!("{}: killed the process of a pod that is gone", self.name));
            }
            Duty::Forget(uid) => {
                self.remove(&uid);
                return Done::said(format!("{}: forgot a process whose end is on record", self.name));
            }
            Duty::Remove(key) => (key, Do::Remove),
            Duty::Start(key) => (key, Do::Start),
            Duty::Tell(key) => (key, Do::Tell),
            Duty::End(key) => (key, Do::End),
            Duty::Lost(key) => (key, Do::Lost),
        };
        let Some(pod) = api.store.get(&key).cloned() else { return Done::default() };
        let uid = pod.uid().to_string();
        match what {
            Do::Remove => {
                self.remove(&uid);
                // A refusal means that somebody else was faster.
                let _ = api.delete(now_ms, &key, Some(&uid), None, Some(0));
                Done::said(format!("{}: removed {}", self.name, key.name))
            }
            Do::Start => {
                let answer = pod::ask(&pod, None, now_ms);
                if !answer.starts() {
                    report(api, &pod, &answer, now_ms);
                    let said = format!("{}: refused {}", self.name, key.name);
                    return Done { refused: Some(pod), ..Done::said(said) };
                }
                self.put(&pod, run(&pod, chance, 0));
                Done { started: true, ..Done::said(format!("{}: started {}", self.name, key.name)) }
            }
            Do::Tell => {
                let Some(process) = self.processes.get(&uid).cloned() else { return Done::default() };
                report(api, &pod, &pod::ask(&pod, Some(process.seen(false)), now_ms), now_ms);
                Done::said(format!("{}: told that {} runs", self.name, key.name))
            }
            Do::End => {
                let Some(process) = self.processes.get(&uid).cloned() else { return Done::default() };
                self.ended(api, &pod, process, chance)
            }
            Do::Lost => {
                let process = Process { exit_code: 137, ..run(&pod, chance, restarts(&pod).try_into().unwrap_or(0)) };
                self.ended(api, &pod, process, chance)
            }
        }
    }

    fn ended(&mut self, api: &mut Api, pod: &Arc<Object>, process: Process, chance: &mut Chance<'_>) -> Done {
        let answer = pod::ask(pod, Some(process.seen(true)), chance.now_ms);
        let name = &pod.key().name;
        if answer.starts() {
            self.put(pod, run(pod, chance, process.restarts + 1));
            let said = format!("{}: {name} exited {} and was started again", self.name, process.exit_code);
            return Done { started: true, ended: true, ..Done::said(said) };
        }
        let told = report(api, pod, &answer, chance.now_ms) && !chance.answer_lost;
        let said = format!("{}: {name} exited {}: {}", self.name, process.exit_code, answer.phase());
        if told {
            self.remove(pod.uid());
        } else {
            self.put(pod, Process { over: true, ..process });
        }
        Done { ended: true, ..Done::said(said) }
    }
}

/// Writes the status. Answers whether that worked.
fn report(api: &mut Api, pod: &Object, answer: &Answer, now_ms: i64) -> bool {
    let patch = json!({"metadata": {"uid": **pod.uid()}, "status": answer.status()});
    api.patch(now_ms, pod.key(), &patch, Part::Status).is_ok()
}

/// What a duty needs of the world.
pub(crate) struct Chance<'world> {
    pub(crate) rng: &'world mut ChaCha8Rng,
    /// Processes that start now end well.
    pub(crate) calm: bool,
    pub(crate) now_ms: i64,
    /// What it writes takes effect, and it does not hear so.
    pub(crate) answer_lost: bool,
    /// Most milliseconds that what it starts lasts.
    pub(crate) most_run_ms: i64,
}

/// A duty about a pod that is still there.
#[derive(Clone, Copy)]
enum Do {
    Remove,
    Start,
    Tell,
    End,
    Lost,
}

/// How often its process was started again, as its status says.
fn restarts(pod: &Object) -> i64 {
    let statuses = at(pod.value(), &["status", "containerStatuses"]).and_then(Value::as_array);
    statuses.and_then(|statuses| statuses.first()?.get("restartCount")?.as_i64()).unwrap_or(0)
}

fn run(pod: &Arc<Object>, chance: &mut Chance<'_>, restarts: u32) -> Process {
    let Chance { rng, calm, now_ms, most_run_ms, .. } = chance;
    let exit_code = if *calm {
        0
    } else {
        match rng.random_range(0..10) {
            0..6 => 0,
            6 => 1,
            7 => 130,
            8 => 137,
            _ => 2,
        }
    };
    // What serves does not end by itself; in the rough part it crashes now and then.
    let serves = *calm && at(pod.value(), &["spec", "restartPolicy"]).and_then(Value::as_str) == Some("Always");
    let ends_at_ms = if serves { i64::MAX } else { *now_ms + rng.random_range(1..*most_run_ms) };
    Process { pod: Arc::clone(pod), started_ms: *now_ms, ends_at_ms, exit_code, restarts, over: false }
}
