//! One plan for one job: observe, decide, build, clean up, write the status.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use trainyard_proto::plan::{Action, EventSeverity, Fence, Plan, Reason};

use super::clock::Clock;
use super::decision::{self, Decision, Situation};
use super::draft::Birth;
use super::ledger::Ledger;
use super::meeting::goes_on_with;
use super::replica::{Observed, Standing};
use super::restart::{Lost, is_resized, preempted};
use super::subject::Subject;
use super::tally::tallies;
use super::{FailureCause, JobCode, Lifecycle, Phase, Stage, StatusChange, Tally, Transition};
use crate::diagnostic::Diagnostic;
use crate::gang::cluster::Draft;
use crate::manifest::Dialect;
use crate::model::{JobModel, RestartRule, RestartScope, Scheduler};
use crate::view::JobView;

/// Above this number of pods created at once, one event tells of all of them.
const MAX_CREATE_EVENTS: usize = 16;

pub(super) struct Planner<'view> {
    pub(super) view: &'view JobView,
    pub(super) now_ms: i64,
    pub(super) dialect: &'static dyn Dialect,
    pub(super) subject: Subject,
    pub(super) lifecycle: Lifecycle,
    pub(super) ledger: Ledger,
    /// The job's own pods.
    pub(super) pods: Vec<Observed<'view>>,
    pub(super) change: StatusChange,
    /// Uids of the pods that this plan deletes.
    pub(super) deleted: BTreeSet<String>,
    /// Whether the pods that are to be made on their nodes are asked for, and what they are.
    pub(super) sketches: bool,
    pub(super) draft: Option<Draft>,
    /// Whether the status waits until the pods are made, as [`super::draft`] says.
    status_waits: bool,
    ledger_changed: bool,
    /// Actions that must be done before the status says what they stand for.
    before: Vec<Action>,
    after: Vec<Action>,
    events: Vec<Action>,
    /// Events of a job that is taken up: once, with the status that says so.
    first_events: Vec<Action>,
    reasons: Vec<Reason>,
    wake_at_ms: Option<i64>,
}

impl<'view> Planner<'view> {
    pub(super) fn new(view: &'view JobView, dialect: &'static dyn Dialect, subject: Subject, now_ms: i64) -> Self {
        let lifecycle = dialect.read_status(&view.job);
        let mut pods: Vec<Observed<'view>> =
            view.pods.iter().filter(|pod| subject.owns(&pod.metadata)).map(Observed::read).collect();
        // Permuted input gives the same plan.
        pods.sort_by(|left, right| (left.name, left.uid).cmp(&(right.name, right.uid)));
        // Pods may be seen before the ledger that they were made by; an older view of it must not take them for old.
        let mut ledger = Ledger::read(&view.job);
        ledger.generation = pods.iter().map(|pod| pod.generation).fold(ledger.generation, u64::max);
        let change = StatusChange {
            now_ms,
            transitions: Vec::new(),
            tallies: None,
            selectors: BTreeMap::new(),
            phase: Phase::Pending,
            start_ms: lifecycle.start_ms,
            completion_ms: lifecycle.completion_ms,
            progress: None,
            exit_code: None,
            message: None,
            restarts: ledger.all_restarts(),
            ranks: None,
            meeting: None,
            checkpoint: None,
        };
        let (before, after, events, reasons) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let deleted = BTreeSet::new();
        Self {
            view,
            now_ms,
            dialect,
            subject,
            lifecycle,
            ledger,
            pods,
            change,
            deleted,
            sketches: false,
            draft: None,
            status_waits: false,
            ledger_changed: false,
            before,
            after,
            events,
            first_events: Vec::new(),
            reasons,
            wake_at_ms: None,
        }
    }

    /// The plan, and the pods that are to be made on their nodes, if those were asked for.
    pub(super) fn run(mut self) -> (Plan, Option<Draft>) {
        if self.subject.deleting {
            self.reason(JobCode::Deleting, "is being deleted", None);
            self.remove_strays();
            return self.finish(false);
        }
        if let Some(manager) = self.dialect.managed_by(&self.view.job) {
            let message = format!("is run by {manager}, as its managedBy says");
            self.reason(JobCode::ManagedElsewhere, &message, None);
            return self.finish(false);
        }
        if let Some(missing) = self.dialect.waits_for(&self.view.job, &self.view.related) {
            let message = format!("waits for {} {}, which does not exist", missing.kind, missing.name);
            self.reason(JobCode::WaitsForRelated, &message, Some("create it, or name another"));
            return self.finish(false);
        }
        match self.dialect.lower(&self.view.job, &self.view.related, &self.view.config) {
            Ok(model) => self.run_model(&model),
            Err(diagnostics) => self.run_invalid(&diagnostics),
        }
    }

    fn run_model(mut self, model: &JobModel) -> (Plan, Option<Draft>) {
        self.change.selectors = model.roles.iter().map(|role| (role.name.clone(), role.selector.clone())).collect();
        self.change.ranks = model.ranks;
        self.remove_strays();
        if self.lifecycle.finished.is_some() {
            self.clean_up(model);
            return self.finish(false);
        }
        self.take_up(model);
        self.create_extras(model);
        if model.policy.suspend {
            self.take_back();
            self.suspend(model);
            return self.finish(true);
        }
        self.resume();
        if model.policy.scheduler == Scheduler::Trainyard {
            self.advance(model);
            // Of the incarnation that it has now, if it goes on.
            if !matches!(self.change.phase, Phase::Succeeded | Phase::Failed) {
                self.hand_over(model);
            }
        } else if self.hand_over(model) {
            self.advance(model);
        }
        self.finish(true)
    }

    /// A job that cannot be run has failed; what may run of it from an earlier, better spec is ended.
    fn run_invalid(mut self, diagnostics: &[Diagnostic]) -> (Plan, Option<Draft>) {
        if self.lifecycle.finished.is_some() {
            self.reason(JobCode::Failed, "has ended", None);
            return self.finish(false);
        }
        self.remove_strays();
        self.take_back();
        self.delete_live_first("the job is invalid");
        let list: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        let message = format!("{} is invalid: {}", self.title(), list.join("; "));
        if !self.lifecycle.created {
            self.transition(Stage::Created, format!("{} is created.", self.title()));
        }
        self.event(EventSeverity::Warning, &format!("{}Invalid", self.kind()), &message);
        self.end(Stage::Failed(FailureCause::Invalid), message.clone());
        self.change.message = Some(message.clone());
        self.reason(JobCode::Invalid, &message, Some("correct the manifest, delete the job, and apply it again"));
        self.finish(true)
    }

    fn take_up(&mut self, model: &JobModel) {
        if self.lifecycle.created {
            return;
        }
        self.transition(Stage::Created, format!("{} is created.", self.title()));
        if !model.policy.suspend {
            self.change.start_ms = Some(self.now_ms);
        }
        let notes = model.notes.iter().map(|note| (EventSeverity::Normal, note));
        let warnings = model.warnings.iter().map(|warning| (EventSeverity::Warning, warning));
        for (severity, told) in notes.chain(warnings) {
            let event = self.event_of(severity, &told.reason, &told.message);
            self.first_events.push(event);
        }
    }

    fn suspend(&mut self, model: &JobModel) {
        self.read_checkpoint();
        self.delete_pods(|_| true, "the job is suspended");
        self.delete_services(|_| true, "the job is suspended");
        self.change.tallies = Some(model.roles.iter().map(|role| (role.name.clone(), Tally::default())).collect());
        self.change.phase = Phase::Suspended;
        self.change.start_ms = None;
        if !self.lifecycle.suspended {
            let message = format!("{} is suspended.", self.title());
            self.transition(Stage::Suspended, message.clone());
            self.event(EventSeverity::Normal, &format!("{}Suspended", self.kind()), &message);
        }
        self.reason(JobCode::Suspended, "is suspended", Some(&format!("trainyard resume {}", self.subject.name)));
    }

    /// A resumed job is a new incarnation: pods of the time before, still on their way out, are not taken for its own.
    fn resume(&mut self) {
        if !self.lifecycle.suspended {
            return;
        }
        let message = format!("{} is resumed.", self.title());
        self.transition(Stage::Resumed, message.clone());
        self.event(EventSeverity::Normal, &format!("{}Resumed", self.kind()), &message);
        self.change.start_ms = Some(self.now_ms);
        self.ledger.clock = Clock::default();
        self.ledger.begin();
        self.ledger.waits.clear();
        self.write_ledger();
    }

    fn advance(&mut self, model: &JobModel) {
        let current = self.current(model);
        if is_resized(model, &current) && !self.has_succeeded(model, &current) {
            self.resize(model);
            self.converge(model);
            return;
        }
        if let Some(preemptor) = preempted(&current).filter(|_| !self.has_succeeded(model, &current)) {
            self.read_checkpoint();
            self.give_way(model, preemptor);
            self.converge(model);
            return;
        }
        let meeting = self.meeting(model, &current);
        self.change.tallies = Some(tallies(model, &current));
        self.read_progress(model, &current);
        self.read_checkpoint();
        self.read_meeting(model, &current);
        if self.waits_for_launchers(&current) || self.end_released(model, &current) {
            return;
        }
        if let Some(meeting) = meeting {
            self.replace_lost(model, &current, meeting);
        }
        let gang_due = meeting.is_some_and(|meeting| self.gang_is_due(model, &current, meeting));
        let failed = self.failed(model, &current);
        let mut situation = self.situation(model, &current, &failed);
        situation.wanted += u32::from(gang_due);
        self.change.restarts = situation.restarts;
        match decision::decide(&situation) {
            Decision::Succeed => self.succeed(model),
            Decision::Fail(cause) => self.fail(model, cause),
            Decision::Restart => {
                let alone = meeting.is_some() && !gang_due;
                let scope = match model.restart_scope {
                    RestartScope::Gang if alone => RestartScope::Replica,
                    RestartScope::Replica if gang_due => RestartScope::Gang,
                    scope @ (RestartScope::Gang | RestartScope::Replica) => scope,
                };
                self.restart(model, &failed, &situation, scope);
                self.converge(model);
            }
            Decision::Continue => {
                self.tell_progress(model, &current);
                self.converge(model);
            }
        }
    }

    /// The pods of this incarnation, by name. One that makes room while the others go on is none of them any more: what becomes of it
    /// is nobody's failure, and another one waits in its place as soon as it is gone.
    pub(super) fn current(&self, model: &JobModel) -> BTreeMap<String, Observed<'view>> {
        let wanted: BTreeSet<&str> = model.replicas().map(|(_, replica)| replica.name.as_str()).collect();
        let generation = self.ledger.generation;
        let own = |pod: &&Observed<'_>| pod.generation == generation && !pod.shrunk && wanted.contains(pod.name);
        let pods = self.pods.iter().filter(own);
        pods.map(|pod| (pod.name.to_owned(), pod.clone())).collect()
    }

    /// Replicas that failed and are not counted yet, with whether they may be started again.
    fn failed(&self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) -> Vec<Lost<'view>> {
        let meeting = self.meeting(model, current);
        // Where a gang ran whole, a pod that is missing was taken away while it ran. What launchers know they count.
        let was_whole = meeting.is_none()
            && model.restart_scope == RestartScope::Gang
            && self.lifecycle.running
            && !self.ledger.starting
            && !goes_on_with(model, current);
        let mut lost = Vec::new();
        for (role, replica) in model.replicas() {
            match current.get(&replica.name) {
                Some(pod) if meeting.is_some_and(|meeting| meeting.joined.contains(pod.uid)) => {}
                Some(pod) if has_failed(pod, role.restart) && !self.is_counted(pod) => {
                    let code = super::replica::container_exit_code(pod.pod, &role.main_container);
                    // What the node can never run it will not run the next time either.
                    let refused = super::replica::refusal(pod.pod).is_some();
                    let retryable = !refused && decision::is_retryable(role.restart, code);
                    lost.push(Lost { pod: Some(pod.clone()), retryable });
                }
                None if was_whole => {
                    lost.push(Lost { pod: None, retryable: decision::is_retryable(role.restart, None) });
                }
                Some(_) | None => {}
            }
        }
        lost
    }

    pub(super) fn is_counted(&self, pod: &Observed<'_>) -> bool {
        self.ledger.counted.iter().any(|uid| uid == pod.uid)
    }

    fn situation(
        &self,
        model: &JobModel,
        current: &BTreeMap<String, Observed<'view>>,
        failed: &[Lost<'view>],
    ) -> Situation {
        let meeting = self.meeting(model, current);
        let by_launcher = |pod: &Observed<'_>| meeting.is_some_and(|meeting| meeting.joined.contains(pod.uid));
        let own = current.values().filter(|pod| !self.is_counted(pod) && !by_launcher(pod));
        let in_place: u32 = own.map(|pod| pod.restarts).sum();
        let wanted = match model.restart_scope {
            RestartScope::Gang if meeting.is_none() => usize::from(!failed.is_empty()),
            RestartScope::Gang | RestartScope::Replica => failed.len(),
        };
        let deadline = self.deadline_ms(model);
        Situation {
            succeeded: self.has_succeeded(model, current),
            past_deadline: deadline.is_some_and(|deadline| self.now_ms >= deadline),
            fatal: failed.iter().any(|lost| !lost.retryable),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            wanted_in_place: current.values().any(|pod| pod.wants_restart && !pod.deleting),
            restarts: self.ledger.all_restarts().saturating_add(in_place),
            limit: model.policy.backoff_limit,
        }
    }

    fn deadline_ms(&self, model: &JobModel) -> Option<i64> {
        self.ledger.clock.deadline_ms(model.policy.active_deadline_ms?)
    }

    fn read_progress(&mut self, model: &JobModel, current: &BTreeMap<String, Observed<'view>>) {
        let leader = model.leader().and_then(|leader| current.get(&leader.name));
        let annotations = leader.and_then(|leader| leader.pod.metadata.annotations.as_ref());
        let text = annotations.and_then(|annotations| annotations.get(crate::label::PROGRESS));
        self.change.progress =
            text.and_then(|text| serde_json::from_str(text).ok()).filter(|progress: &Value| progress.is_object());
    }

    /// The newest checkpoint, by the launchers' words. A pod on its way out may have written it last, and some tell only the
    /// node agent, or only the rendezvous.
    pub(super) fn read_checkpoint(&mut self) {
        let annotated = self.pods.iter().filter_map(|pod| {
            let text = pod.pod.metadata.annotations.as_ref()?.get(crate::label::CHECKPOINT)?;
            serde_json::from_str(text).ok().filter(Value::is_object)
        });
        let told = self.view.rendezvous.as_ref().and_then(|view| serde_json::to_value(view.checkpoint.as_ref()?).ok());
        let at_ms = |found: &Value| found.get("atMs").and_then(Value::as_i64);
        self.change.checkpoint = annotated.chain(told).max_by_key(at_ms);
    }

    /// Makes what is missing and takes away what is too much.
    pub(super) fn converge(&mut self, model: &JobModel) {
        self.delete_counted();
        let stale = self.delete_foreign(model);
        self.keep_time(model);
        self.create_services(model);
        if stale {
            self.reason(JobCode::WaitsForOldPods, "waits until the pods of its last start are gone", None);
        } else {
            self.create_pods(model);
        }
        self.wake_at(self.deadline_ms(model));
    }

    fn create_services(&mut self, model: &JobModel) {
        let have: BTreeSet<&str> =
            self.view.services.iter().filter_map(|service| service.metadata.name.as_deref()).collect();
        let missing: Vec<_> = model.services.iter().filter(|service| !have.contains(service.name.as_str())).collect();
        let wanted = model.services.iter().map(|service| service.name.as_str());
        self.tell_taken("service", wanted, self.view.services.iter().map(|service| &service.metadata));
        let site = self.site(model);
        let actions: Vec<Action> = missing.iter().map(|service| site.service(service)).collect();
        let names = missing.iter().map(|service| service.name.clone()).collect::<Vec<_>>();
        self.after.extend(actions);
        self.created_events("SuccessfulCreateService", "service", &names);
    }

    /// Objects beside pods and services outlive a suspension.
    fn create_extras(&mut self, model: &JobModel) {
        let site = self.site(model);
        let actions: Vec<Action> =
            model.extras.iter().filter(|extra| !self.has_extra(extra)).map(|extra| site.extra(extra)).collect();
        self.after.extend(actions);
    }

    fn has_extra(&self, extra: &Value) -> bool {
        let key = |object: &Value| (object.get("kind").cloned(), object.pointer("/metadata/name").cloned());
        self.view.extras.iter().chain(&self.view.related).any(|object| key(object) == key(extra))
    }

    fn create_pods(&mut self, model: &JobModel) {
        // A name that any pod has, even one that is not ours, cannot be taken.
        let taken: BTreeSet<&str> = self.view.pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        let mut missing: Vec<_> =
            model.replicas().filter(|(_, replica)| !taken.contains(replica.name.as_str())).collect();
        let waits: Vec<Option<i64>> =
            missing.iter().map(|(_, replica)| self.ledger.due(&replica.name, self.now_ms)).collect();
        for due in &waits {
            self.wake_at(*due);
        }
        let mut due = waits.iter();
        missing.retain(|_| due.next().is_some_and(Option::is_none));
        let delayed = waits.iter().any(Option::is_some);
        let site = self.site(model);
        let hashes = if missing.is_empty() { BTreeMap::new() } else { site.template_hashes() };
        let birth = if missing.is_empty() || delayed { Birth::Waiting } else { self.birth(model, &site, &hashes) };
        let until = self.status_waits_until(&birth).filter(|_| !self.ledger_changed);
        let draft = if self.sketches { self.draft(model, &site, &hashes, &birth, until) } else { None };
        let (nodes, placed_ms) = match birth {
            Birth::Held => {
                self.keep_back(draft, until);
                return;
            }
            Birth::Waiting => (BTreeMap::new(), None),
            Birth::Placed { nodes, at_ms } => (nodes, Some(at_ms)),
        };
        let hash = |name: &str| hashes.get(name).map(String::as_str).unwrap_or_default();
        let place = |name: &str| Some((nodes.get(name)?.as_str(), placed_ms?));
        let actions: Vec<Action> = missing
            .iter()
            .map(|(role, replica)| site.pod(role, replica, hash(&replica.name), place(&replica.name)))
            .collect();
        self.keep_back(draft, until);
        let names = missing.iter().map(|(_, replica)| replica.name.clone()).collect::<Vec<_>>();
        self.after.extend(actions);
        self.created_events("SuccessfulCreatePod", "pod", &names);
        let wanted = model.replicas().map(|(_, replica)| replica.name.as_str());
        self.tell_taken("pod", wanted, self.view.pods.iter().map(|pod| &pod.metadata));
    }

    /// Keeps the draft for whoever asked for it, and the status back.
    fn keep_back(&mut self, draft: Option<Draft>, status_until: Option<i64>) {
        (self.draft, self.status_waits) = (draft, status_until.is_some());
        self.wake_at(status_until);
    }

    /// Says which names that the job needs are another owner's.
    fn tell_taken<'name>(
        &mut self,
        noun: &str,
        wanted: impl Iterator<Item = &'name str>,
        there: impl Iterator<Item = &'name ObjectMeta>,
    ) {
        let foreign: BTreeSet<&str> =
            there.filter(|meta| !self.subject.owns(meta)).filter_map(|meta| meta.name.as_deref()).collect();
        let taken: Vec<&str> = wanted.filter(|name| foreign.contains(name)).collect();
        if !taken.is_empty() {
            let message = format!("waits for the name of {noun} {}, which another owner has", taken.join(", "));
            self.reason(JobCode::NameTaken, &message, Some(&format!("delete that {noun}, or name the job otherwise")));
        }
    }

    pub(super) fn site<'model>(&'model self, model: &'model JobModel) -> super::build::Site<'model> {
        super::build::Site {
            model,
            generation: self.ledger.generation,
            restarts: self.ledger.restarts,
            port: self.port(model),
            gated: self.view.config.embedded
                || (self.view.config.gangs && model.policy.scheduler == Scheduler::Trainyard),
            binds: self.view.config.binds,
            native_group: self.native_group(model),
            terms: self.terms(model),
            terse: !self.view.config.embedded,
            launcher: self.view.config.launcher_image.as_deref(),
            avoid: self.ledger.avoided(self.now_ms).into_iter().map(|(node, _)| node).collect(),
            queue: self.queue(model),
            passed_on: &self.subject.passed_on,
        }
    }

    /// The queue of the job's pods. Those of a gang that holds places stay in the queue that gave it these: in another one it is when it
    /// begins anew.
    fn queue<'model>(&'model self, model: &'model JobModel) -> Option<&'model str> {
        let label = || {
            let labels = self.view.job.pointer("/metadata/labels")?;
            labels[crate::label::QUEUE_NAME].as_str()
        };
        let holds = |pod: &&Observed<'view>| {
            let has_place = pod.pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            pod.generation == self.ledger.generation && has_place && pod.pod.metadata.deletion_timestamp.is_none()
        };
        match self.pods.iter().find(holds) {
            Some(holder) => holder.pod.metadata.annotations.as_ref()?.get(crate::label::QUEUE).map(String::as_str),
            None => model.policy.queue.as_deref().or_else(label),
        }
    }

    fn created_events(&mut self, reason: &str, noun: &str, names: &[String]) {
        if names.len() > MAX_CREATE_EVENTS {
            let message = format!("Created {} {noun}s: {} … {}", names.len(), names[0], names[names.len() - 1]);
            self.event(EventSeverity::Normal, reason, &message);
            return;
        }
        for name in names {
            self.event(EventSeverity::Normal, reason, &format!("Created {noun}: {name}"));
        }
    }

    pub(super) fn transition(&mut self, to: Stage, message: String) {
        self.change.transitions.push(Transition { to, message });
    }

    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.subject.name)
    }

    pub(super) fn kind(&self) -> &'static str {
        self.dialect.info().kind
    }

    pub(super) fn wake_at(&mut self, at: Option<i64>) {
        self.wake_at_ms = match (self.wake_at_ms, at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    pub(super) fn reason(&mut self, code: JobCode, message: &str, hint: Option<&str>) {
        self.reasons.push(Reason {
            subject: self.subject.object.clone(),
            code: code.name().to_owned(),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        });
    }

    pub(super) fn event(&mut self, severity: EventSeverity, reason: &str, message: &str) {
        let event = self.event_of(severity, reason, message);
        self.events.push(event);
    }

    fn event_of(&self, severity: EventSeverity, reason: &str, message: &str) -> Action {
        Action::Event {
            regarding: self.subject.object.clone(),
            uid: self.subject.uid.clone(),
            severity,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    /// The ledger goes first: what it counts must be on record before the pods are gone.
    pub(super) fn write_ledger(&mut self) {
        self.ledger_changed = true;
    }

    pub(super) fn push_before(&mut self, actions: Vec<Action>) {
        self.before.extend(actions);
    }

    pub(super) fn push_after(&mut self, actions: Vec<Action>) {
        self.after.extend(actions);
    }

    fn finish(self, write_status: bool) -> (Plan, Option<Draft>) {
        let ledger = self.ledger_changed.then(|| Action::Patch {
            object: self.subject.object.clone(),
            fence: Fence { uid: self.subject.uid(), resource_version: self.subject.resource_version.clone() },
            patch: self.ledger.patch(),
        });
        let mut actions: Vec<Action> = ledger.into_iter().chain(self.before).collect();
        if write_status && !self.status_waits {
            let present = self.view.job.get("status").cloned().unwrap_or(Value::Null);
            let next = self.dialect.render_status(&self.view.job, &self.change);
            if let Some(patch) = crate::merge::difference(&present, &next) {
                // The first write to the job insists on the version that was looked at; a second one follows from it.
                let first = !actions.iter().any(|action| matches!(action, Action::Patch { .. }));
                let resource_version = self.subject.resource_version.clone().filter(|_| first);
                actions.push(Action::PatchStatus {
                    object: self.subject.object.clone(),
                    fence: Fence { uid: self.subject.uid(), resource_version },
                    patch: serde_json::json!({ "status": patch }),
                });
            }
        }
        actions.extend(self.after);
        if !self.status_waits {
            actions.extend(self.first_events);
        }
        actions.extend(self.events);
        (Plan { actions, reasons: self.reasons, wake_at_ms: self.wake_at_ms }, self.draft)
    }
}

/// Whether a pod failed. One that would start again in place, though its replica's rule leaves that to the controller, has:
/// it was made before the rule was changed.
pub(super) const fn has_failed(pod: &Observed<'_>, rule: RestartRule) -> bool {
    let by_controller = matches!(rule, RestartRule::Never | RestartRule::ExitCode);
    matches!(pod.standing, Standing::Failed) || (by_controller && pod.wants_restart)
}

/// The second in which a time lies: API objects keep whole seconds, and the plan must not depend on whether the time was
/// stored in between.
pub(super) const fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000) * 1000
}
