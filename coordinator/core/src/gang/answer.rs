//! The engine's answer as actions: bindings, pods that make room, what is set aside, and conditions on the pods that wait.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef, Reason};

use super::flavor::{self, Assigned};
use super::gather::{Gang, annotation, node_name};
use super::reason::{Case, Free, Wait};
use super::scene::{Kind, Note, OVERDUE_MS, Part, Scene, incomplete};
use super::{Placement, WaitCode, WaitingGang};
use crate::schedule::{Admission, Decision, Estimate, Place, Reservation, View, Waiting};
use crate::{instant, label};

/// Above this number of pods, one event tells of a whole gang.
const MAX_BIND_EVENTS: usize = 16;

/// How long after its last pod a gang may still be gathering. Pods of one plan are created within milliseconds; creation
/// times are whole seconds; a store under load takes some more.
const GATHERING_MS: i64 = 5000;

/// A wake-up later than this is none.
const LONG_MS: i64 = 400 * 86_400_000;

struct Answer<'a> {
    scene: &'a Scene<'a>,
    decision: &'a Decision,
    free: Free,
    now_ms: i64,
    placement: Placement,
    /// Gangs that lose their places in this decision.
    lost: BTreeSet<usize>,
}

/// What is known of a gang that waits, beside why.
#[derive(Default)]
struct Turn {
    queue: u32,
    position: u32,
    estimate: Option<Estimate>,
    reserved: bool,
}

/// Says it in actions.
pub(super) fn placement(scene: &Scene<'_>, decision: &Decision, now_ms: i64) -> Placement {
    let lost = decision.preemptions.iter().map(|lost| scene.parts[lost.gang as usize].gang).collect();
    let free = Free::after(scene, decision);
    let mut answer = Answer { scene, decision, free, now_ms, placement: Placement::default(), lost };
    for admission in &decision.admissions {
        answer.admit(admission);
    }
    for waiting in &decision.waiting {
        answer.waits(waiting);
    }
    for (gang, wait) in &scene.early {
        let gang = &scene.gangs[*gang];
        // What cannot start for a reason of its own does not keep room either.
        if wait.code != WaitCode::GangIncomplete && gives_back(gang) {
            answer.give_back(gang, wait);
        }
        answer.wait(gang, &gang.waiting, wait.clone(), &Turn::default());
    }
    answer.make_room();
    answer.reserve();
    // A gang that may have more pods never comes to its turn by age.
    let wake = decision.wake_at_ms.filter(|at| *at < now_ms.saturating_add(LONG_MS));
    let estimates =
        decision.waiting.iter().filter_map(|waiting| waiting.reservation.as_ref()).filter(|one| !one.promised);
    let overdue = estimates.map(|one| one.start_ms.saturating_add(OVERDUE_MS)).min();
    let plan = &mut answer.placement.plan;
    plan.wake_at_ms = [plan.wake_at_ms, wake, overdue].into_iter().flatten().min();
    answer.placement
}

/// Whether a gang that cannot be completed gives up the places that it has. One that runs does not: a replica of it failed, and the
/// others are not ended for the time that its successor waits. One that has no process yet would only keep others from the room: it
/// was begun and its room was lost, or it lost pods before they started.
fn gives_back(gang: &Gang<'_>) -> bool {
    gang.placed > 0 && gang.placed < gang.size && gang.idle.len() == gang.placed
}

/// For whom a pod was told to go.
fn makes_room_for(pod: &Pod) -> Option<&str> {
    annotation(pod, label::PREEMPTED).or_else(|| annotation(pod, label::SHRUNK))
}

impl<'a> Answer<'a> {
    fn admit(&mut self, admission: &Admission) {
        let at = admission.gang as usize;
        let part = &self.scene.parts[at];
        let gang = &self.scene.gangs[part.gang];
        if self.lost.contains(&part.gang) {
            return;
        }
        if !admission.after.is_empty() {
            let names: BTreeSet<String> = admission.after.iter().map(|gang| title(self.scene.gang_of(*gang))).collect();
            let names: Vec<String> = names.into_iter().collect();
            let message = format!("its places are free as soon as the pods of {} have left", names.join(", "));
            let wait = Wait { code: WaitCode::RoomLeaving, message, hint: None };
            let queue = self.scene.view.gangs[at].queue;
            let estimate = Some(Estimate { expected_ms: self.now_ms, latest_ms: None });
            self.wait(gang, &part.pods.concat(), wait, &Turn { queue, estimate, ..Turn::default() });
            return;
        }
        if self.takes_quota_of_others(at) {
            return;
        }
        let mut rest: Vec<_> = part.pods.iter().map(|pods| pods.iter().copied()).collect();
        let mut places = Vec::new();
        let way = part.ways.get(admission.option as usize);
        for place in &admission.places {
            let pods = rest[place.role as usize].by_ref().take(place.count as usize);
            let given = way.and_then(|way| way.get(place.role as usize)).filter(|given| given.is_told);
            places.extend(pods.map(|pod| (pod, self.scene.view.nodes[place.node as usize].name.as_str(), given)));
        }
        let least: Vec<u32> = rest.iter().map(|pods| u32::try_from(pods.len()).unwrap_or(u32::MAX)).collect();
        let rest: Vec<&Pod> = rest.into_iter().flatten().collect();
        self.bind(places);
        if !rest.is_empty() {
            let wait = self.case(at, admission.option, least, rest.len()).lacks_room();
            let queue = self.scene.view.gangs[at].queue;
            self.wait(gang, &rest, wait, &Turn { queue, ..Turn::default() });
        }
    }

    /// Whether the quota that a gang starts with may be that of gangs which are stopped, or shrink, in this decision. They are told first,
    /// and it starts at the next look: if it started before, and nobody lived to tell them, all of them would go on beyond the quota.
    fn takes_quota_of_others(&self, part: usize) -> bool {
        self.scene.view.gangs[part].queue > 0 && !self.decision.preemptions.is_empty()
    }

    fn case(&self, part: usize, option: u32, least: Vec<u32>, whole: usize) -> Case<'_> {
        Case { scene: self.scene, free: &self.free, part, option, least, whole }
    }

    fn waits(&mut self, waiting: &Waiting) {
        let at = waiting.gang as usize;
        let part = &self.scene.parts[at];
        let gang = &self.scene.gangs[part.gang];
        if matches!(part.kind, Kind::Runs | Kind::Leaves) {
            return;
        }
        let least = self.scene.shape(at, waiting.option).roles.iter().map(|role| role.min).collect();
        let mut wait = self.case(at, waiting.option, least, gang.waiting.len()).explain(&waiting.reason);
        let (mut estimate, mut position) = (waiting.estimate, waiting.position + 1);
        if part.kind == Kind::Missing && gives_back(gang) {
            self.give_back(gang, &wait);
            estimate = None;
            // What it gives back is free only when its pods are gone, so that it waits in any case.
            if gang.waiting.len() < gang.size {
                wait = incomplete(gang.waiting.len(), gang.size);
                position = 0;
            }
        }
        // Estimates know nothing of fragments and topology; where that is what is missing, nobody knows.
        let estimate = estimate.filter(|estimate| estimate.expected_ms > self.now_ms);
        let queue = self.scene.view.gangs[at].queue;
        let turn = Turn { queue, position, estimate, reserved: waiting.reservation.is_some() };
        self.wait(gang, &part.pods.concat(), wait, &turn);
    }

    fn bind(&mut self, mut places: Vec<(&Pod, &str, Option<&Assigned>)>) {
        places.sort_by_key(|(pod, _, _)| pod.metadata.name.clone());
        let mut events = Vec::new();
        // All of them first: bindings that follow each other are made at the same time.
        for (pod, given) in places.iter().filter_map(|(pod, _, given)| Some((pod, (*given)?))) {
            let patch = flavor::patch(pod, &given.text(), &given.given);
            self.placement.plan.actions.push(Action::Patch { object: reference(pod), fence: fence(pod), patch });
        }
        for (pod, node, _) in &places {
            let object = reference(pod);
            if places.len() <= MAX_BIND_EVENTS {
                let message = format!("Successfully assigned {}/{} to {node}", object.namespace, object.name);
                events.push(event(pod, EventSeverity::Normal, "Scheduled", message));
            }
            self.placement.plan.actions.push(Action::Bind { pod: object, fence: fence(pod), node: (*node).to_owned() });
        }
        self.placement.plan.actions.extend(events);
    }

    /// Takes the pods that have a place and do not run away; the job's controller makes them anew, without one. Fenced by the version
    /// that was looked at: a pod that has started meanwhile stays.
    fn give_back(&mut self, gang: &Gang<'_>, wait: &Wait) {
        let lacking =
            format!("{} of {} pods of its gang have no place: {}", gang.waiting.len(), gang.size, wait.message);
        for (at, pod) in gang.idle.iter().enumerate() {
            if at == 0 {
                let told = event(pod, EventSeverity::Warning, "GangGivenBack", lacking.clone());
                self.placement.plan.actions.push(told);
            }
            self.delete(pod, lacking.clone());
        }
    }

    fn delete(&mut self, pod: &Pod, reason: String) {
        let (object, fence) = (reference(pod), exact(pod));
        self.placement.plan.actions.push(Action::Delete { object, fence, grace_seconds: None, reason });
    }

    /// Gangs that are stopped for others. All their pods are marked first, and deleted at the next look: whatever happens in between, a gang
    /// of which one pod is marked goes as a whole. Of one that shrinks the pods that go are marked, each for itself.
    fn make_room(&mut self) {
        for preemption in &self.decision.preemptions {
            let part = &self.scene.parts[preemption.gang as usize];
            let preemptor = title(self.scene.gang_of(preemption.preemptor));
            let gang = &self.scene.gangs[part.gang];
            if preemption.stops {
                let message = format!("{} is stopped to make room for {preemptor}", title(gang));
                self.send_off(&gang.held, label::PREEMPTED, &preemptor, message);
            } else {
                let pods = last_on(part, &self.scene.view, &preemption.places);
                let (less, all) = (pods.len(), gang.held.len());
                let message = format!("{} gives up {less} of its {all} pods to make room for {preemptor}", title(gang));
                self.send_off(&pods, label::SHRUNK, &preemptor, message);
            }
        }
        for (at, gang) in self.scene.gangs.iter().enumerate() {
            if !self.lost.contains(&at) {
                self.drain(gang);
            }
        }
        for gang in self.scene.gangs.iter().filter(|gang| !gang.leaving.is_empty()) {
            let marks = || gang.leaving.iter().filter_map(|pod| annotation(pod, label::PREEMPTED));
            let preemptor = marks().next().unwrap_or_default();
            let stays = |pod: &&&Pod| pod.metadata.deletion_timestamp.is_none();
            let (marked, unmarked): (Vec<&Pod>, Vec<&Pod>) =
                gang.leaving.iter().filter(stays).partition(|pod| makes_room_for(pod).is_some());
            unmarked.iter().for_each(|pod| self.mark(pod, label::PREEMPTED, preemptor));
            // With the last mark that was written the others would be forgotten.
            for pod in marked.iter().filter(|_| unmarked.is_empty()) {
                self.delete(pod, format!("it makes room for {}", makes_room_for(pod).unwrap_or(preemptor)));
            }
        }
    }

    /// Stops what runs in a queue that nothing is to run in.
    fn drain(&mut self, gang: &Gang<'_>) {
        let Some(queue) = gang.held.first().and_then(|pod| self.scene.setting.drained(pod)) else { return };
        let message = format!("{} is stopped, as the stopPolicy of {queue} says", title(gang));
        self.send_off(&gang.held, label::PREEMPTED, &format!("{queue}, which is drained"), message);
    }

    /// Marks pods that have to go, and tells of it once.
    fn send_off(&mut self, pods: &[&Pod], name: &str, preemptor: &str, message: String) {
        let reason = if name == label::SHRUNK { "Shrunk" } else { "Preempted" };
        let told = pods.first().map(|pod| event(pod, EventSeverity::Warning, reason, message));
        self.placement.plan.actions.extend(told);
        for pod in pods {
            self.mark(pod, name, preemptor);
        }
    }

    fn mark(&mut self, pod: &Pod, name: &str, preemptor: &str) {
        let patch = json!({"metadata": {"annotations": {name: preemptor}}});
        self.placement.plan.actions.push(Action::Patch { object: reference(pod), fence: exact(pod), patch });
    }

    /// Writes down what is set aside, on the first pod of each gang: it holds after a restart of the coordinator, too.
    fn reserve(&mut self) {
        let kept: BTreeMap<u32, &Reservation> = self
            .decision
            .waiting
            .iter()
            .filter_map(|waiting| Some((waiting.gang, waiting.reservation.as_ref()?)))
            .collect();
        let admitted: BTreeSet<u32> = self.decision.admissions.iter().map(|admission| admission.gang).collect();
        for (at, part) in (0..).zip(&self.scene.parts).filter(|(at, _)| !admitted.contains(at)) {
            let note = kept.get(&at).map(|kept| self.note(part, kept));
            let first = part.pods.iter().flatten();
            let first =
                first.min_by_key(|pod| (annotation(pod, label::RESERVATION).is_none(), pod.metadata.name.as_deref()));
            if note == part.noted || matches!(part.kind, Kind::Runs | Kind::Leaves | Kind::Spare) {
                continue;
            }
            let Some(pod) = first else { continue };
            let text = note.map(|note| serde_json::to_string(&note).expect("numbers and texts serialise"));
            let patch = json!({"metadata": {"annotations": {label::RESERVATION: text}}});
            self.placement.plan.actions.push(Action::Patch { object: reference(pod), fence: fence(pod), patch });
        }
    }

    fn note(&self, part: &Part<'_>, kept: &Reservation) -> Note {
        let name = |node: u32| self.scene.view.nodes[node as usize].name.clone();
        let places = kept.places.iter().map(|place| (place.role, name(place.node), place.count)).collect();
        let way = part.ways.get(kept.option as usize).filter(|_| part.ways.len() > 1);
        let flavors = way.into_iter().flatten().map(Assigned::text).collect();
        Note { start_ms: kept.start_ms, promised: kept.promised, places, flavors }
    }

    fn wait(&mut self, gang: &Gang<'_>, pods: &[&Pod], wait: Wait, turn: &Turn) {
        let text = match &wait.hint {
            Some(hint) => format!("{}; {hint}", wait.message),
            None => wait.message.clone(),
        };
        let mut told = quiet_until(gang, wait.code, self.now_ms, &mut self.placement);
        let silent = told;
        for pod in pods.iter().filter(|_| !silent) {
            let Some(conditions) = conditions(pod, &text, self.now_ms) else { continue };
            let patch = json!({ "status": { "conditions": conditions } });
            let action = Action::PatchStatus { object: reference(pod), fence: fence(pod), patch };
            self.placement.plan.actions.push(action);
            // One event for the gang, when what it waits for changes.
            if !told {
                told = true;
                let event = event(pod, EventSeverity::Warning, "FailedScheduling", text.clone());
                self.placement.plan.actions.push(event);
            }
        }
        self.placement.plan.reasons.push(Reason {
            subject: pods.first().map_or_else(|| reference(&Pod::default()), |pod| reference(pod)),
            code: wait.code.name().to_owned(),
            message: wait.message.clone(),
            hint: wait.hint.clone(),
        });
        let mut names: Vec<String> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect();
        names.sort_unstable();
        self.placement.waiting.push(WaitingGang {
            namespace: gang.namespace.to_owned(),
            name: gang.name.to_owned(),
            pods: names,
            code: wait.code,
            message: wait.message,
            hint: wait.hint,
            queue: self.scene.view.queues[turn.queue as usize].name.clone(),
            position: turn.position,
            estimate: turn.estimate,
            reserved: turn.reserved,
        });
    }
}

/// A gang's name for people.
pub(super) fn title(gang: &Gang<'_>) -> String {
    format!("{}/{}", gang.namespace, gang.name)
}

/// The pods of a gang that these places are of: on each node those of the highest index.
fn last_on<'view>(part: &Part<'view>, view: &View, places: &[Place]) -> Vec<&'view Pod> {
    let mut pods = Vec::new();
    for place in places {
        let node = view.nodes[place.node as usize].name.as_str();
        let here = part.pods[place.role as usize].iter().rev().filter(|pod| node_name(pod) == Some(node));
        pods.extend(here.take(place.count as usize));
    }
    pods
}

/// Exactly the version that was looked at.
fn exact(pod: &Pod) -> Fence {
    Fence { resource_version: pod.metadata.resource_version.clone(), ..fence(pod) }
}

/// Whether the gang is so young that the pods that it lacks are probably on their way. Nothing is written about it then;
/// the scheduler looks again when it no longer is.
fn quiet_until(gang: &Gang<'_>, code: WaitCode, now_ms: i64, placement: &mut Placement) -> bool {
    let until = gang.youngest_ms.saturating_add(GATHERING_MS);
    let quiet = code == WaitCode::GangIncomplete && now_ms < until;
    if quiet {
        let wake = placement.plan.wake_at_ms.map_or(until, |at| at.min(until));
        placement.plan.wake_at_ms = Some(wake);
    }
    quiet
}

/// The pod's conditions with the one that says that it waits, or `None` if they say so already.
fn conditions(pod: &Pod, message: &str, now_ms: i64) -> Option<Vec<PodCondition>> {
    let present = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let old = present.iter().find(|condition| condition.type_ == "PodScheduled");
    let same = |old: &PodCondition| old.status == "False" && old.reason.as_deref() == Some("Unschedulable");
    if old.is_some_and(|old| same(old) && old.message.as_deref() == Some(message)) {
        return None;
    }
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let mut conditions: Vec<PodCondition> = present.iter().filter(|c| c.type_ != "PodScheduled").cloned().collect();
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| instant::time(now_ms))),
        ..PodCondition::default()
    });
    Some(conditions)
}

pub(super) fn reference(pod: &Pod) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

fn fence(pod: &Pod) -> Fence {
    Fence { uid: pod.metadata.uid.clone(), resource_version: None }
}

fn event(pod: &Pod, severity: EventSeverity, reason: &str, message: String) -> Action {
    Action::Event {
        regarding: reference(pod),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        severity,
        reason: reason.to_owned(),
        message,
    }
}
