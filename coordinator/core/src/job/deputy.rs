//! What other schedulers are told of a job: an object beside its pods, for as long as the job wants a place.
//!
//! | scheduler | object | pods | they are made |
//! |---|---|---|---|
//! | Trainyard, and the server has PodGroups of its own | PodGroup `<job>-<incarnation>` | name it, and wait at our gate | at once |
//! | Kueue, of a kind that it does not know | Workload `<job>` | have no gate, and go where its flavours are | when it is admitted |
//! | Kueue, of a kind that it knows | none: it makes one, and suspends and resumes the job itself | have no gate | at once |
//! | Volcano | PodGroup `<job>` | have no gate, and name it and Volcano | at once |
//! | Kubernetes | none | have no gate | at once |
//!
//! A job that is suspended, has ended, or changes to another scheduler takes its object back. One whose place is taken back gives up its
//! pods, which is nobody's failure, and asks anew when they are gone.

mod kueue;
mod volcano;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use super::planner::Planner;
use super::tally::tallies;
use super::{JobCode, Phase, Stage};
use crate::model::{JobModel, Scheduler};

use kueue::Claim;

/// Kinds by which others know of a job.
const KINDS: [&str; 2] = ["Workload", "PodGroup"];

/// The version of Kubernetes' own PodGroup that cannot be changed.
const FIXED: &str = "scheduling.k8s.io/v1alpha2";

/// What a scheduler says of where the pods of a role are to go, and what they are to carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Terms {
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Why the pods of a job are not to be made, and what to do about it.
struct Hold {
    why: String,
    hint: Option<String>,
}

fn text<'value>(object: &'value Value, pointer: &str) -> &'value str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

impl Planner<'_> {
    /// Keeps the object of the job's scheduler as the job has it now. Answers whether the pods may be there.
    pub(super) fn hand_over(&mut self, model: &JobModel) -> bool {
        let wanted = self.deputy(model);
        let is_wanted = |there: &&Value| wanted.as_ref().is_some_and(|wanted| is_same(wanted, there));
        let others: Vec<Value> = self.deputies().filter(|there| !is_wanted(there)).cloned().collect();
        self.dismiss(&others);
        let there = self.deputies().find(is_wanted).cloned();
        let hold = match model.policy.scheduler {
            Scheduler::Kueue if !self.dialect.is_known_to_kueue() => self.ask_kueue(model, wanted, there.as_ref()),
            Scheduler::Volcano if wanted.is_none() => Some(Hold {
                why: "waits for Volcano, which this cluster does not have".to_owned(),
                hint: Some("install Volcano and start the operator again, or name another scheduler".to_owned()),
            }),
            Scheduler::Trainyard | Scheduler::Kubernetes | Scheduler::Kueue | Scheduler::Volcano => {
                self.keep(model, wanted, there.as_ref());
                None
            }
        };
        let Some(hold) = hold else { return true };
        self.hold(model, &hold);
        false
    }

    /// Takes the object of the job's scheduler back.
    pub(super) fn take_back(&mut self) {
        let all: Vec<Value> = self.deputies().cloned().collect();
        self.dismiss(&all);
    }

    /// What the scheduler of the job says of its pods, by role.
    pub(super) fn terms(&self, model: &JobModel) -> BTreeMap<String, Terms> {
        if model.policy.scheduler != Scheduler::Kueue || self.dialect.is_known_to_kueue() {
            return BTreeMap::new();
        }
        let workload = self.deputies().find(|there| text(there, "/metadata/name") == model.owner.name);
        match workload.map(|workload| kueue::claim(model, workload, &self.view.related)) {
            Some(Claim::Admitted(terms)) => terms,
            Some(Claim::Waits(_) | Claim::Lost(_) | Claim::Inactive) | None => BTreeMap::new(),
        }
    }

    /// The PodGroup of Kubernetes' own that the pods name.
    pub(super) fn native_group(&self, model: &JobModel) -> Option<String> {
        let is_ours = self.view.config.gangs && model.policy.scheduler == Scheduler::Trainyard;
        let has = !self.view.config.embedded && self.view.config.peers.native.is_some();
        // In another incarnation the gang may have another size.
        (is_ours && has).then(|| format!("{}-{}", model.owner.name, self.ledger.generation))
    }

    /// The object that is to be there.
    fn deputy(&self, model: &JobModel) -> Option<Value> {
        let peers = &self.view.config.peers;
        match model.policy.scheduler {
            Scheduler::Trainyard => {
                let (version, name) = (peers.native.as_ref()?, self.native_group(model)?);
                Some(json!({
                    "apiVersion": version, "kind": "PodGroup", "metadata": {"name": name},
                    "spec": {"schedulingPolicy": {"gang": {"minCount": model.policy.min_available}}},
                }))
            }
            Scheduler::Kubernetes => None,
            Scheduler::Kueue if self.dialect.is_known_to_kueue() => None,
            Scheduler::Kueue => Some(kueue::workload(model, peers.kueue.as_ref()?)),
            Scheduler::Volcano => Some(volcano::pod_group(model, peers.volcano.as_ref()?)),
        }
    }

    /// Objects that stand for the job, of those that are ours: of a kind that it knows, Kueue makes the Workload, and needs it while the
    /// job is suspended.
    fn deputies(&self) -> impl Iterator<Item = &Value> {
        let is_of_kueue = |kind: &str| kind == "Workload" && self.dialect.is_known_to_kueue();
        self.view.extras.iter().filter(move |extra| {
            let kind = text(extra, "/kind");
            KINDS.contains(&kind) && !is_of_kueue(kind)
        })
    }

    fn dismiss(&mut self, objects: &[Value]) {
        let staying = objects.iter().filter(|object| !is_leaving(object));
        let actions: Vec<Action> = staying
            .map(|object| Action::Delete {
                object: reference(object),
                fence: fence(object),
                grace_seconds: None,
                reason: "the job wants no place by it any more".to_owned(),
            })
            .collect();
        self.push_after(actions);
    }

    /// Makes the object, or changes it to what the job says now.
    fn keep(&mut self, model: &JobModel, wanted: Option<Value>, there: Option<&Value>) {
        let Some(wanted) = wanted else { return };
        let Some(there) = there else {
            let action = self.site(model).extra(&wanted);
            // Pods that name it come after it.
            self.push_before(vec![action]);
            return;
        };
        let changed = crate::merge::difference(&there["spec"], &merged(&there["spec"], &wanted["spec"]));
        let is_fixed = text(there, "/apiVersion") == FIXED;
        if let Some(patch) = changed.filter(|_| !is_fixed && !is_leaving(there)) {
            let patch = json!({ "spec": patch });
            self.push_after(vec![Action::Patch { object: reference(there), fence: fence(there), patch }]);
        }
    }

    /// Asks Kueue for a place, and answers why there is none.
    fn ask_kueue(&mut self, model: &JobModel, wanted: Option<Value>, there: Option<&Value>) -> Option<Hold> {
        let queue = model.policy.queue.as_deref().unwrap_or_default();
        let hold = |why: String, hint: Option<&str>| Some(Hold { why, hint: hint.map(str::to_owned) });
        let Some(wanted) = wanted else {
            let hint = "install Kueue and start the operator again, or name another scheduler";
            return hold("waits for Kueue, which this cluster does not have".to_owned(), Some(hint));
        };
        let Some(there) = there else {
            // Its old pods hold what it would ask for.
            if self.pods.is_empty() {
                self.keep(model, Some(wanted), None);
            }
            return hold(format!("waits for a place in queue {queue} of Kueue"), None);
        };
        if is_leaving(there) {
            return hold(format!("waits for a place in queue {queue} of Kueue"), None);
        }
        match kueue::claim(model, there, &self.view.related) {
            Claim::Admitted(_) => None,
            Claim::Waits(said) => hold(format!("waits for a place in queue {queue} of Kueue{said}"), None),
            Claim::Inactive => hold(
                "is stopped by Kueue, which takes its Workload for inactive".to_owned(),
                Some("set spec.active of its Workload to true"),
            ),
            Claim::Lost(_) if self.pods.is_empty() => {
                self.dismiss(std::slice::from_ref(there));
                hold(format!("waits for a place in queue {queue} of Kueue"), None)
            }
            Claim::Lost(said) => hold(format!("has lost its place in queue {queue} of Kueue{said}"), None),
        }
    }

    /// A job that has no place has no pods. Those that it has are ended, which counts as no restart.
    fn hold(&mut self, model: &JobModel, hold: &Hold) {
        let generation = self.ledger.generation;
        let message = format!("{} {}", self.title(), hold.why);
        if self.pods.iter().any(|pod| !pod.deleting && pod.generation == generation) {
            self.ledger.begin();
            self.ledger.waits.clear();
            self.write_ledger();
            self.event(EventSeverity::Warning, "PlaceTakenBack", &message);
            if self.lifecycle.running {
                self.transition(Stage::Restarting, message.clone());
            }
        }
        self.read_checkpoint();
        self.delete_pods(|_| true, "the job has no place");
        self.keep_time(model);
        self.change.tallies = Some(tallies(model, &BTreeMap::new()));
        self.change.phase = Phase::Pending;
        self.change.message = Some(message);
        self.reason(JobCode::WaitsForPlace, &hold.why, hold.hint.as_deref());
    }
}

fn is_same(left: &Value, right: &Value) -> bool {
    ["/apiVersion", "/kind", "/metadata/name"].iter().all(|at| left.pointer(at) == right.pointer(at))
}

/// What others, and the server's defaults, have put into it stays.
fn merged(there: &Value, wanted: &Value) -> Value {
    let (Value::Object(there), Value::Object(wanted)) = (there, wanted) else { return wanted.clone() };
    let mut out = there.clone();
    for (name, value) in wanted {
        let value = there.get(name).map_or_else(|| value.clone(), |present| merged(present, value));
        out.insert(name.clone(), value);
    }
    Value::Object(out)
}

fn fence(object: &Value) -> Fence {
    Fence { uid: Some(text(object, "/metadata/uid").to_owned()), resource_version: None }
}

fn reference(object: &Value) -> ObjectRef {
    ObjectRef {
        api_version: text(object, "/apiVersion").to_owned(),
        kind: text(object, "/kind").to_owned(),
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: text(object, "/metadata/name").to_owned(),
    }
}
