//! Nodes and their agents: bound pods become processes that run for a while and end.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_runtime_core::store::{Key, Object, Part};

use crate::api::Api;

/// One process, the holder of ranks.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its pod as it was when the process started.
    pub(crate) pod: Arc<Object>,
    ends_at_ms: i64,
    exit_code: i32,
    restarts: i32,
}

/// One machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) alive: bool,
    /// By the pod's uid.
    pub(crate) processes: BTreeMap<String, Process>,
}

fn phase(object: &Object) -> &str {
    object.value().pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending")
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

/// One thing that an agent can do now.
#[derive(Clone, Debug)]
pub(crate) enum Duty {
    /// The pod is on its way out: end its process and let it go.
    Remove(Key),
    /// The pod has a place and no process.
    Start(Key),
    /// Its process is over.
    End(Key),
    /// Its process was lost with the machine.
    Lost(Key),
    /// The pod is gone without a word: end its process.
    Kill(String),
}

impl Machine {
    pub(crate) fn new(name: String) -> Self {
        Self { name, alive: true, processes: BTreeMap::new() }
    }

    /// The machine stops; so does everything on it.
    pub(crate) fn die(&mut self) {
        self.alive = false;
        self.processes.clear();
    }

    /// When its next process is over.
    pub(crate) fn next_end(&self) -> Option<i64> {
        self.processes.values().map(|process| process.ends_at_ms).filter(|at| *at != i64::MAX).min()
    }

    /// From now on everything ends well, and what serves goes on.
    pub(crate) fn calm_down(&mut self) {
        for process in self.processes.values_mut() {
            process.exit_code = 0;
            if process.pod.value().pointer("/spec/restartPolicy").and_then(Value::as_str) == Some("Always") {
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
            if pod.value().pointer("/spec/nodeName").and_then(Value::as_str) != Some(&self.name) {
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
                // Nothing left to do.
            } else if let Some(process) = process {
                if process.ends_at_ms <= now_ms {
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

    /// Do one of them. `calm` processes all end well. Returns what was done, and whether a process started.
    pub(crate) fn act(
        &mut self,
        api: &mut Api,
        duty: Duty,
        rng: &mut ChaCha8Rng,
        calm: bool,
        now_ms: i64,
    ) -> (String, bool) {
        match duty {
            Duty::Kill(uid) => {
                self.processes.remove(&uid);
                (format!("{}: killed the process of a pod that is gone", self.name), false)
            }
            Duty::Remove(key) => {
                let Some(pod) = api.store.get(&key).cloned() else { return (String::new(), false) };
                self.processes.remove(&**pod.uid());
                let uid = pod.uid().to_string();
                // A refusal means that somebody else was faster.
                let _ = api.delete(now_ms, &key, Some(&uid), None, Some(0));
                (format!("{}: removed {}", self.name, key.name), false)
            }
            Duty::Start(key) => {
                let Some(pod) = api.store.get(&key).cloned() else { return (String::new(), false) };
                let process = run(&pod, rng, calm, 0, now_ms);
                self.report(api, &pod, &process, "Running", now_ms);
                self.processes.insert(pod.uid().to_string(), process);
                (format!("{}: started {}", self.name, key.name), true)
            }
            Duty::End(key) => {
                let Some(pod) = api.store.get(&key).cloned() else { return (String::new(), false) };
                let Some(process) = self.processes.remove(&**pod.uid()) else { return (String::new(), false) };
                self.ended(api, &pod, process, rng, calm, now_ms)
            }
            Duty::Lost(key) => {
                let Some(pod) = api.store.get(&key).cloned() else { return (String::new(), false) };
                let mut process = run(&pod, rng, calm, 0, now_ms);
                process.exit_code = 137;
                self.ended(api, &pod, process, rng, calm, now_ms)
            }
        }
    }

    fn ended(
        &mut self,
        api: &mut Api,
        pod: &Arc<Object>,
        process: Process,
        rng: &mut ChaCha8Rng,
        calm: bool,
        now_ms: i64,
    ) -> (String, bool) {
        let policy = pod.value().pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or("Always");
        let again = policy == "Always" || (policy == "OnFailure" && process.exit_code != 0);
        let name = &pod.key().name;
        if again {
            let next = run(pod, rng, calm, process.restarts + 1, now_ms);
            self.report(api, pod, &next, "Running", now_ms);
            self.processes.insert(pod.uid().to_string(), next);
            return (format!("{}: {name} exited {} and was started again", self.name, process.exit_code), true);
        }
        let phase = if process.exit_code == 0 { "Succeeded" } else { "Failed" };
        self.report(api, pod, &process, phase, now_ms);
        (format!("{}: {name} exited {}", self.name, process.exit_code), false)
    }

    fn report(&self, api: &mut Api, pod: &Arc<Object>, process: &Process, phase: &str, now_ms: i64) {
        let running = phase == "Running";
        let state = if running {
            json!({"running": {"startedAt": time(now_ms)}})
        } else {
            json!({"terminated": {
                "exitCode": process.exit_code, "finishedAt": time(now_ms),
                "reason": if process.exit_code == 0 { "Completed" } else { "Error" },
            }})
        };
        let containers = pod.value().pointer("/spec/containers").and_then(Value::as_array);
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
        // Refused only if the pod is gone, and then nobody reads it.
        let _ = api.patch(now_ms, pod.key(), &patch, Part::Status);
    }
}

fn run(pod: &Arc<Object>, rng: &mut ChaCha8Rng, calm: bool, restarts: i32, now_ms: i64) -> Process {
    let exit_code = if calm {
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
    let serves = calm && pod.value().pointer("/spec/restartPolicy").and_then(Value::as_str) == Some("Always");
    let ends_at_ms = if serves { i64::MAX } else { now_ms + rng.random_range(1..30_000) };
    Process { pod: Arc::clone(pod), ends_at_ms, exit_code, restarts }
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
