//! One pod's task: observes, asks the machine, carries out, tells the API.

mod news;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tracing::Instrument as _;
use trainyard_proto::plan::EventSeverity;
use trainyard_worker_core::pod::{
    self, AttemptState, Blocked, ContainerView, PodAction, PodView, Probes, Setup, StopReason,
};

use super::archive;
use super::begin::{Begin, BeginError};
use super::config::ContainerMode;
use super::disk::Watched;
use super::engine;
use super::folder::{PodFolder, PodRecord};
use super::image::ImageError;
use super::pidfd;
use super::probe::Verdict;
use super::report::{self, Written};
use super::setup::{self, Surroundings, all_containers};
use super::shared::Shared;
use super::trace::ContainerSpan;
use crate::shim::{ProcessId, RunState, launch, now_ms, order_stop};
use news::News;

/// A container that starts within this time is told of once, as running, and not before as being created.
const HOLD_STATUS_MS: i64 = 150;
/// While many containers start here, one that runs is told of after this time: many have ended by then, and are told of once, with all
/// that they said.
const HOLD_RUNNING_MS: i64 = 150;
/// When a write to the API failed.
const RETRY_MS: i64 = 1_000;
/// When a container could not be begun for want of something that may come.
pub(super) const BLOCKED_RETRY_MS: i64 = 2_000;

/// What reaches a pod's task from outside.
pub(super) enum Message {
    /// The object as it is now.
    Seen(Box<Pod>),
    /// The object is gone.
    Gone,
}

/// What goes on with one container, besides what its shim wrote down.
#[derive(Default)]
pub(super) struct Live {
    /// A shim on the way.
    pub(super) launching: Option<Launching>,
    pub(super) blocked: Option<Blocked>,
    pub(super) probes: Probes,
    /// Run that probes and the watch on the shim belong to.
    pub(super) probed: Option<u32>,
    pub(super) watched: Option<u32>,
    pub(super) probing: Option<JoinHandle<()>>,
    pub(super) tasks: Vec<JoinHandle<()>>,
    /// Run that was ordered to stop, and when it is killed: known here before its shim has noted it.
    pub(super) stopping: Option<(u32, i64)>,
    /// The run that this agent launched and whose end it has not spoken of yet.
    unspoken: Option<u32>,
    /// The span of that run.
    span: Option<ContainerSpan>,
}

/// A shim that was launched and has not written anything yet.
#[derive(Clone, Copy)]
pub(super) struct Launching {
    pub(super) attempt: u32,
    pub(super) streak: u32,
    pub(super) since_ms: i64,
    pub(super) shim: Option<ProcessId>,
}

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) folder: PodFolder,
    pub(super) record: PodRecord,
    gone: bool,
    setup: Setup,
    surroundings: Surroundings,
    pub(super) runs: BTreeMap<String, Vec<RunState>>,
    pub(super) live: BTreeMap<String, Live>,
    /// Whether it was seen to what ended before this task was there.
    pub(super) looked_back: bool,
    told: Option<PodStatus>,
    progress_told: String,
    checkpoint_told: String,
    retry_at_ms: Option<i64>,
    pub(super) changed: Arc<Notify>,
    watched: Option<Watched>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    pub(super) verdict_sender: mpsc::UnboundedSender<Verdict>,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, uid: &str, record: PodRecord, gone: bool) -> Self {
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        Self {
            folder: PodFolder::new(&shared.config.home, uid),
            told: record.pod.status.clone(),
            shared,
            record,
            gone,
            setup: Setup::Needed,
            surroundings: Surroundings::default(),
            runs: BTreeMap::new(),
            live: BTreeMap::new(),
            looked_back: false,
            progress_told: String::new(),
            checkpoint_told: String::new(),
            retry_at_ms: None,
            changed: Arc::new(Notify::new()),
            watched: None,
            verdicts,
            verdict_sender,
        }
    }

    /// Runs until the pod's folder is gone, or the agent hangs up.
    pub(super) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        self.watch_folder();
        loop {
            let step = self.step().await;
            let wake_at = match step {
                Step::Over => return,
                Step::Again => continue,
                Step::Wait(wake_at) => wake_at,
            };
            let changed = self.changed.clone();
            let sleep = async {
                match wake_at {
                    Some(at) => {
                        tokio::time::sleep(Duration::from_millis(u64::try_from(at - now_ms()).unwrap_or(0) + 1)).await
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => match message {
                    None => return,
                    Some(Message::Seen(pod)) => self.see(*pod),
                    Some(Message::Gone) => self.gone = true,
                },
                Some(verdict) = self.verdicts.recv() => self.judge(&verdict),
                () = changed.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// Takes in the object as the watch tells it. The watch may be behind our own writes: what we told of the status
    /// stands, and only conditions of others are taken over.
    fn see(&mut self, mut pod: Pod) {
        if let Some(told) = &self.told {
            let mut status = told.clone();
            let foreign = pod.status.take().and_then(|status| status.conditions).unwrap_or_default();
            let own = status.conditions.get_or_insert_default();
            for condition in foreign {
                if own.iter().all(|known| known.type_ != condition.type_) {
                    own.push(condition);
                }
            }
            pod.status = Some(status);
        }
        self.record.pod = pod;
    }

    fn watch_folder(&mut self) {
        if self.watched.is_none() && self.folder.state().is_dir() {
            match self.shared.disk.watch(&self.folder.state(), self.changed.clone()) {
                Ok(watched) => self.watched = Some(watched),
                Err(error) => {
                    tracing::error!(%error, "a pod's folder cannot be watched; raise fs.inotify.max_user_watches")
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        let now_ms = now_ms();
        self.read_runs();
        self.end_probes_of_an_earlier_agent();
        self.stop_probes_of_the_ended();
        self.keep_watch();
        let view = self.view(now_ms);
        let plan = pod::plan(
            &PodView {
                pod: &self.record.pod,
                gone: self.gone,
                setup: &self.setup,
                containers: &view,
                accepted_ms: self.record.accepted_ms,
                pod_ip: &self.record.ip,
                host_ip: self.shared.host_ip(),
                back_off: self.shared.back_off(),
            },
            now_ms,
        );
        let removes = plan.actions.iter().any(|action| matches!(action, PodAction::RemoveObject));
        let mut acted = false;
        for action in plan.actions.iter().filter(|action| !matches!(action, PodAction::RemoveObject)) {
            if matches!(action, PodAction::RemoveFolder) {
                self.remove().await;
                return Step::Over;
            }
            acted |= self.carry_out(action, now_ms).await;
        }
        if acted {
            return Step::Again;
        }
        let mut wake_at = plan.wake_at_ms;
        let mut wake = |at: i64| wake_at = Some(wake_at.map_or(at, |known| known.min(at)));
        if self.retry_at_ms.is_some_and(|at| now_ms < at) {
            wake(self.retry_at_ms.unwrap_or(now_ms));
            return Step::Wait(wake_at);
        }
        if let Some(held_until) = self.held_until_ms(now_ms)
            && !removes
        {
            wake(held_until);
            return Step::Wait(wake_at);
        }
        let news = self.news().await;
        if plan.status.as_ref().is_some_and(is_final) && view.values().all(has_ended) {
            self.free_gpus();
        }
        self.tell(plan.status, news).await;
        if removes && self.retry_at_ms.is_none() {
            self.remove_object().await;
        }
        if let Some(at) = self.retry_at_ms {
            wake(at);
        }
        Step::Wait(wake_at)
    }

    /// While a container is just being launched its status is about to change, and so is that of one that has just begun where many come
    /// and go: one write instead of two.
    fn held_until_ms(&self, now_ms: i64) -> Option<i64> {
        let launching = self.live.values().filter_map(|live| Some(live.launching?.since_ms + HOLD_STATUS_MS)).max();
        let newest = self.runs.values().filter_map(|runs| runs.first());
        let began = newest.filter(|run| run.ending.is_none() && run.stop_deadline_ms.is_none());
        let running = began.filter_map(|run| Some(run.started_ms? + HOLD_RUNNING_MS)).max();
        let running = running.filter(|until| now_ms < *until && self.shared.starts.is_on(now_ms));
        launching.max(running).filter(|until| now_ms < *until)
    }

    pub(super) fn container(&self, name: &str) -> Option<&Container> {
        all_containers(&self.record.pod).find(|container| container.name == name)
    }

    /// Whether something was done, so that planning again makes sense at once.
    async fn carry_out(&mut self, action: &PodAction, now_ms: i64) -> bool {
        match action {
            PodAction::SetUp => {
                self.set_up().await;
                true
            }
            PodAction::Start { container, attempt, streak } => {
                self.start(container, *attempt, *streak).await;
                true
            }
            PodAction::Stop { container, attempt, grace_ms, reason } => {
                self.stop(container, *attempt, *grace_ms, *reason, now_ms)
            }
            PodAction::RemoveObject | PodAction::RemoveFolder => false,
        }
    }

    async fn set_up(&mut self) {
        let before = std::mem::take(&mut self.setup);
        match setup::make(&self.shared, &self.folder, &mut self.record).await {
            Ok(surroundings) => {
                self.surroundings = surroundings;
                self.setup = Setup::Ready;
                self.watch_folder();
                if !self.record.image_event_sent {
                    self.say_users_are_ignored();
                }
                self.say_images_are_ignored();
            }
            Err(unready) => {
                self.setup = unready.into_setup();
                let (reason, message) = match &self.setup {
                    Setup::Waiting { message, .. } => ("FailedMount", message.clone()),
                    Setup::Refused { reason, message } => (reason.as_str(), message.clone()),
                    Setup::Needed | Setup::Ready => return,
                };
                let known = matches!(&before, Setup::Waiting { message: old, .. } if *old == message);
                if !known {
                    self.shared.pod_event(&self.record.pod, EventSeverity::Warning, reason, message);
                }
            }
        }
    }

    /// Only root can become somebody else.
    fn say_users_are_ignored(&self) {
        if self.shared.config.mode != ContainerMode::Process || nix::unistd::geteuid().is_root() {
            return;
        }
        let pod = self.record.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let own = nix::unistd::geteuid().as_raw();
        let asks = all_containers(&self.record.pod)
            .filter_map(|container| engine::user(pod, container.security_context.as_ref()))
            .any(|user| user.uid.is_some_and(|uid| uid != own) || user.gid.is_some() || !user.groups.is_empty());
        if asks {
            let message = format!(
                "runAsUser, runAsGroup and groups are ignored: containers run as processes of user {own}, and only root can become another; start trainyard as root, or with --containers podman"
            );
            self.shared.pod_event(&self.record.pod, EventSeverity::Warning, "SecurityContextIgnored", message);
        }
    }

    fn say_images_are_ignored(&mut self) {
        if self.record.image_event_sent || self.shared.config.mode != ContainerMode::Process {
            return;
        }
        let images: Vec<&str> = all_containers(&self.record.pod)
            .filter_map(|c| c.image.as_deref())
            .filter(|image| !image.is_empty())
            .collect();
        if !images.is_empty() {
            let message = format!(
                "images are ignored: containers run as processes of this machine ({}); start trainyard with --containers podman (or docker) to run images",
                images.join(", ")
            );
            self.shared.pod_event(&self.record.pod, EventSeverity::Normal, "ImageIgnored", message);
        }
        self.record.image_event_sent = true;
        // What was said to the pod's users is not said again by a later agent; where nothing was, that needs no note.
        if !images.is_empty() || !nix::unistd::geteuid().is_root() {
            let _ = self.folder.write_record(&self.record);
        }
    }

    async fn start(&mut self, name: &str, attempt: u32, streak: u32) {
        let Some(container) = self.container(name).cloned() else { return };
        if self.live.get(name).is_some_and(|live| live.blocked.is_some()) {
            // What was missing may be there now.
            self.set_up().await;
            if self.setup != Setup::Ready {
                return;
            }
        }
        let (starting, span) = ContainerSpan::begin(&self.record.pod, name);
        let begin = Begin {
            shared: &self.shared,
            folder: &self.folder,
            record: &self.record,
            surroundings: &self.surroundings,
            container: &container,
            attempt,
            streak,
            span: span.as_ref().map(ContainerSpan::this),
        };
        let spec = begin.spec().instrument(starting.clone()).await;
        self.shared.starts.note(now_ms());
        let launched = match spec {
            Ok(spec) => starting.in_scope(|| launch(&self.shared.config.shim_program, &spec)).map_err(BeginError::Io),
            Err(error) => Err(error),
        };
        let live = self.live.entry(name.to_owned()).or_default();
        match launched {
            Ok(launched) => {
                let pid = launched.child.id().cast_signed();
                live.blocked = None;
                live.launching = Some(Launching { attempt, streak, since_ms: now_ms(), shim: ProcessId::of(pid) });
                live.unspoken = Some(attempt);
                live.span = span;
                live.tasks.retain(|task| !task.is_finished());
                let changed = self.changed.clone();
                live.tasks.push(tokio::spawn(async move {
                    pidfd::ended(pid).await;
                    drop(launched);
                    changed.notify_one();
                }));
                self.folder.forget_before(name, attempt);
                self.shared.pod_event(
                    &self.record.pod,
                    EventSeverity::Normal,
                    "Started",
                    format!("Started container {name}"),
                );
            }
            Err(error) => {
                let reason = match &error {
                    BeginError::Image(error) => error.reason(),
                    BeginError::Env(_) => "CreateContainerConfigError",
                    BeginError::Mount { .. } | BeginError::Io(_) => "CreateContainerError",
                };
                let message = error.to_string();
                let known = live.blocked.as_ref().is_some_and(|blocked| blocked.message == message);
                let (severity, event, text) = match &error {
                    BeginError::Image(ImageError::Pulling(_)) => (EventSeverity::Normal, "Pulling", message.clone()),
                    BeginError::Image(_) | BeginError::Env(_) | BeginError::Mount { .. } | BeginError::Io(_) => {
                        (EventSeverity::Warning, "Failed", format!("Error: {message}"))
                    }
                };
                if !known {
                    self.shared.pod_event(&self.record.pod, severity, event, text);
                }
                live.blocked =
                    Some(Blocked { reason: reason.to_owned(), message, retry_at_ms: now_ms() + BLOCKED_RETRY_MS });
            }
        }
    }

    /// Whether the order arrived. A shim that has not written anything yet is ordered once it has: its note wakes us.
    fn stop(&mut self, name: &str, attempt: u32, grace_ms: i64, reason: StopReason, now_ms: i64) -> bool {
        let Some(run) = self.runs.get(name).and_then(|runs| runs.iter().find(|run| run.attempt == attempt)) else {
            return false;
        };
        match order_stop(run, grace_ms) {
            Ok(()) => {
                let deadline = now_ms.saturating_add(grace_ms);
                self.live.entry(name.to_owned()).or_default().stopping = Some((attempt, deadline));
                let why = match reason {
                    StopReason::Deleted | StopReason::Finished => String::new(),
                    StopReason::Deadline => ": the pod was active longer than its activeDeadlineSeconds".to_owned(),
                    StopReason::Unhealthy => {
                        ": it failed its liveness or startup probe and will be restarted".to_owned()
                    }
                };
                let message = format!("Stopping container {name}{why}");
                self.shared.pod_event(&self.record.pod, EventSeverity::Normal, "Killing", message);
                true
            }
            Err(error) => {
                tracing::debug!(container = name, %error, "the container ended before it was stopped");
                false
            }
        }
    }

    /// Tells the API of a new status and of what the containers wrote down, in one write.
    async fn tell(&mut self, status: Option<PodStatus>, news: News) {
        self.retry_at_ms = None;
        if status.is_some() {
            self.say_what_ended();
        }
        let status = status.filter(|status| self.told.as_ref() != Some(status));
        let written = match &status {
            Some(new) => {
                let old = self.told.as_ref();
                report::status(&self.shared, &self.record.pod, old, new, &news.annotations()).await
            }
            None if news.is_empty() => return,
            None => report::annotate(&self.shared, &self.record.pod, &news.annotations()).await,
        };
        match written {
            // Where it is gone, the watch tells so in its own time.
            Written::Done | Written::Gone => {
                self.note(news);
                if let Some(status) = status {
                    self.record.pod.status = Some(status.clone());
                    self.told = Some(status);
                }
            }
            Written::Failed(error) => {
                tracing::warn!(pod = self.record.pod.metadata.name, %error, "what is known of a pod could not be written");
                self.retry_at_ms = Some(now_ms() + RETRY_MS);
            }
        }
    }

    /// Failed starts and crashes become events, once per run.
    fn say_what_ended(&mut self) {
        for (name, live) in &mut self.live {
            let Some(run) = self.runs.get(name).and_then(|runs| runs.first()) else { continue };
            let Some(ending) = run.ending.as_ref().filter(|_| live.unspoken == Some(run.attempt)) else { continue };
            live.unspoken = None;
            if let Some(span) = live.span.take() {
                span.end(run, ending, &self.folder.spans_file(name, run.attempt));
            }
            if ending.lost_log_lines > 0 {
                let lost = ending.lost_log_lines;
                let message = format!(
                    "the last {lost} lines of the log of container {name} are lost: there was no room for them on the disk"
                );
                self.shared.pod_event(&self.record.pod, EventSeverity::Warning, "LogIncomplete", message);
            }
            let (reason, message) = match (ending.reason.as_str(), ending.exit_code, run.attempt) {
                (_, 0, _) => continue,
                ("StartError", ..) => ("Failed", format!("Error: container {name}: {}", ending.message)),
                ("OOMKilled", ..) => {
                    ("OOMKilled", format!("container {name} used more memory than its limit and was killed"))
                }
                (_, code, 0) => ("Failed", format!("container {name} ended with exit code {code}")),
                (_, code, again) => {
                    ("BackOff", format!("container {name} ended with exit code {code} after {again} restarts"))
                }
            };
            self.shared.pod_event(&self.record.pod, EventSeverity::Warning, reason, message);
        }
    }

    /// A pod that has finished has no GPUs, though its object stays: to the scheduler they are free from the moment that
    /// the API is told. The record first, so that no later agent takes them for the pod's.
    fn free_gpus(&mut self) {
        if !self.record.gpus.is_empty() {
            let gpus = std::mem::take(&mut self.record.gpus);
            if let Err(error) = self.folder.write_record(&self.record) {
                tracing::warn!(?gpus, %error, "it could not be noted that a finished pod has no GPUs any more");
            }
        }
        self.shared.gpus.release(self.record.pod.metadata.uid.as_deref().unwrap_or_default());
    }

    async fn remove_object(&mut self) {
        match report::remove(&self.shared, &self.record.pod).await {
            Written::Done | Written::Gone => {}
            Written::Failed(error) => {
                tracing::warn!(pod = self.record.pod.metadata.name, %error, "a deleted pod could not be taken out of the API");
                self.retry_at_ms = Some(now_ms() + RETRY_MS);
            }
        }
    }

    async fn remove(&mut self) {
        self.watched = None;
        let uid = self.record.pod.metadata.uid.clone().unwrap_or_default();
        self.shared.gpus.release(&uid);
        let wanted = archive::is_wanted(&self.shared.client, &self.record.pod).await;
        let (record, home, gone) = (self.record.clone(), self.shared.config.home.clone(), uid.clone());
        let removed = tokio::task::spawn_blocking(move || archive::put_away(&home, &gone, &record, wanted)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(uid, %error, "the folder of a pod could not be removed");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        for task in self.live.values().flat_map(|live| live.tasks.iter().chain(&live.probing)) {
            task.abort();
        }
    }
}

/// Whether a pod with this status never runs again.
fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn has_ended(container: &ContainerView) -> bool {
    container.last.as_ref().is_none_or(|last| matches!(last.state, AttemptState::Ended(_)))
}

enum Step {
    /// The pod is no more.
    Over,
    /// Something was done: look again.
    Again,
    /// Nothing to do before this moment, or before something happens.
    Wait(Option<i64>),
}
