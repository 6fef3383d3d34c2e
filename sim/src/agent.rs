//! Nodes and their agents: bound pods become processes that run for a while and end.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_runtime_core::store::{Key, Object, Part};

use crate::api::{Api, at};

/// One process, the holder of ranks.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its pod as it was when the process started.
    pub(crate) pod: Arc<Object>,
    ends_at_ms: i64,
    exit_code: i32,
    restarts: i32,
    /// It has ended, and that is not on record yet.
    pub(crate) over: bool,
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

fn time(now_ms: i64) -> String {
    // RFC 3339 for whole seconds, without a time library: the worlds begin in 2024 and last for hours.
    let seconds = now_ms.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Days since 1970 to a date (Howard Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
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

    /// Do one of them; the answer to its write may get lost. `calm` processes all end well. Returns what was done, and whether a
    /// process started.
    pub(crate) fn act(&mut self, api: &mut Api, duty: Duty, chance: &mut Chance<'_>) -> (String, bool) {
        let now_ms = chance.now_ms;
        let (key, what) = match duty {
            Duty::Kill(uid) => {
                self.remove(&uid);
                return (format!("{}: killed the process of a pod that is gone", self.name), false);
            }
            Duty::Forget(uid) => {
                self.remove(&uid);
                return (format!("{}: forgot a process whose end is on record", self.name), false);
            }
            Duty::Remove(key) => (key, Do::Remove),
            Duty::Start(key) => (key, Do::Start),
            Duty::Tell(key) => (key, Do::Tell),
            Duty::End(key) => (key, Do::End),
            Duty::Lost(key) => (key, Do::Lost),
        };
        let Some(pod) = api.store.get(&key).cloned() else { return (String::new(), false) };
        let uid = pod.uid().to_string();
        match what {
            Do::Remove => {
                self.remove(&uid);
                // A refusal means that somebody else was faster.
                let _ = api.delete(now_ms, &key, Some(&uid), None, Some(0));
                (format!("{}: removed {}", self.name, key.name), false)
            }
            Do::Start => {
                self.put(&pod, run(&pod, chance, 0));
                (format!("{}: started {}", self.name, key.name), true)
            }
            Do::Tell => {
                let Some(process) = self.processes.get(&uid).cloned() else { return (String::new(), false) };
                self.report(api, &pod, &process, "Running", now_ms);
                (format!("{}: told that {} runs", self.name, key.name), false)
            }
            Do::End => {
                let Some(process) = self.processes.get(&uid).cloned() else { return (String::new(), false) };
                self.ended(api, &pod, process, chance)
            }
            Do::Lost => {
                let process = Process { exit_code: 137, ..run(&pod, chance, restarts(&pod).try_into().unwrap_or(0)) };
                self.ended(api, &pod, process, chance)
            }
        }
    }

    fn ended(&mut self, api: &mut Api, pod: &Arc<Object>, process: Process, chance: &mut Chance<'_>) -> (String, bool) {
        let policy = at(pod.value(), &["spec", "restartPolicy"]).and_then(Value::as_str).unwrap_or("Always");
        let again = policy == "Always" || (policy == "OnFailure" && process.exit_code != 0);
        let name = &pod.key().name;
        if again {
            self.put(pod, run(pod, chance, process.restarts + 1));
            return (format!("{}: {name} exited {} and was started again", self.name, process.exit_code), true);
        }
        let phase = if process.exit_code == 0 { "Succeeded" } else { "Failed" };
        let told = self.report(api, pod, &process, phase, chance.now_ms) && !chance.answer_lost;
        let said = format!("{}: {name} exited {}", self.name, process.exit_code);
        if told {
            self.remove(pod.uid());
        } else {
            self.put(pod, Process { over: true, ..process });
        }
        (said, false)
    }

    fn report(&self, api: &mut Api, pod: &Arc<Object>, process: &Process, phase: &str, now_ms: i64) -> bool {
        let running = phase == "Running";
        let state = if running {
            json!({"running": {"startedAt": time(now_ms)}})
        } else {
            json!({"terminated": {
                "exitCode": process.exit_code, "finishedAt": time(now_ms),
                "reason": if process.exit_code == 0 { "Completed" } else { "Error" },
            }})
        };
        let containers = at(pod.value(), &["spec", "containers"]).and_then(Value::as_array);
        let statuses: Vec<Value> = containers
            .into_iter()
            .flatten()
            .map(|container| {
                json!({
                    "name": container["name"], "image": container["image"], "imageID": "", "ready": running,
                    "started": running, "restartCount": process.restarts, "state": state,
                })
            })
            .collect();
        let ready = if running { "True" } else { "False" };
        let patch = json!({
            "metadata": {"uid": **pod.uid()},
            "status": {
                "phase": phase,
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": ready, "lastTransitionTime": time(now_ms)},
                ],
                "containerStatuses": statuses,
                "startTime": time(now_ms),
            },
        });
        api.patch(now_ms, pod.key(), &patch, Part::Status).is_ok()
    }
}

/// What a duty needs of the world.
pub(crate) struct Chance<'world> {
    pub(crate) rng: &'world mut ChaCha8Rng,
    /// Processes that start now end well.
    pub(crate) calm: bool,
    pub(crate) now_ms: i64,
    /// What it writes takes effect, and it does not hear so.
    pub(crate) answer_lost: bool,
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

fn run(pod: &Arc<Object>, chance: &mut Chance<'_>, restarts: i32) -> Process {
    let Chance { rng, calm, now_ms, .. } = chance;
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
    let ends_at_ms = if serves { i64::MAX } else { *now_ms + rng.random_range(1..30_000) };
    Process { pod: Arc::clone(pod), ends_at_ms, exit_code, restarts, over: false }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn dates_are_right() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_709_210_096_789), "2024-02-29T12:34:56Z");
    }
}
