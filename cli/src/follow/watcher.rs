//! Follows one job from here to its end, and obeys Ctrl-C.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use trainyard_worker_core::progress::Tracker;

use super::failure;
use super::label::Label;
use super::observe::{Seen, Subject, observe};
use super::phase::{self, Phase};
use super::progress::Progress;
use super::screen::Screen;
use super::stream::{Choice, Delivered, Streams};
use crate::api::{ApiError, query};
use crate::error::CliError;
use crate::exit_code;
use crate::job::{self, End};
use crate::output::style;
use crate::session::{Place, Session, internal};
use crate::target::Found;

/// Lines kept of each rank, to show the last words of the one that failed.
const LAST_WORDS: usize = 10;
/// After the job's end, logs that are still open get this long: the node agent writes them before it reports the end.
const LOG_PATIENCE: Duration = Duration::from_secs(3);
/// Pods of a deleted job get a little more than Kubernetes' usual grace.
const DELETE_PATIENCE: Duration = Duration::from_secs(35);
/// After a second Ctrl-C, killed pods get this long to go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A server that does not answer for so long is looked for anew: it may be gone, or be another process by now.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);
/// Controllers that do not say that they stopped a job are believed to have done so after this long.
const TOLD_PATIENCE: Duration = Duration::from_secs(3);
/// Signals this close together are one request.
const SAME_PRESS: Duration = Duration::from_millis(400);
/// Observations waiting to be shown. Log readers wait when it is full, so that a flood of lines cannot fill the memory.
const QUEUE: usize = 1024;

/// How following came to its end.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The job ended.
    Ended(End),
    /// A deployment has all its replicas.
    Available,
    /// The user asked us to stop the job, by this signal; it is suspended, or deleted.
    Stopped { signal: i32, killed: bool },
    /// The user asked us to leave; the job goes on.
    Left { signal: i32 },
    /// Somebody deleted the job.
    Deleted,
    /// The server on this machine went away. It may have a successor, or be in need of one.
    ServerLost,
}

/// What is carried over when a job is followed in several stretches.
#[derive(Debug)]
pub(crate) struct Before {
    /// When the first stretch began.
    pub(crate) started: Instant,
    /// Log lines that were shown.
    pub(crate) delivered: Delivered,
    /// The job is to be stopped, because of this signal; `true`: at once.
    pub(crate) stop: Option<(i32, bool)>,
}

impl Before {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), delivered: Delivered::new(), stop: None }
    }
}

/// What is known at the end.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) job: Value,
    /// Every pod that the job had.
    pub(crate) pod_uids: Vec<String>,
    pub(crate) failure: Option<failure::Failure>,
    pub(crate) last_words: Vec<String>,
    pub(crate) progress: Option<Progress>,
    pub(crate) took: Duration,
    /// For the next stretch, should there be one.
    pub(crate) before: Before,
    /// Stdout took no more lines, although it was not closed: a full disk, for instance.
    pub(crate) output_failed: bool,
}

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// We started it, so Ctrl-C stops it; else Ctrl-C only leaves.
    pub(crate) owner: bool,
    /// A deployment is followed until it is available, else until Ctrl-C.
    pub(crate) until_available: bool,
}

/// What Ctrl-C has brought about so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Gracefully { signal: i32, since: Instant },
    AtOnce { signal: i32, deadline: Instant },
}

struct Watcher<'a> {
    session: &'a Session,
    found: Found,
    manner: Manner,
    screen: Screen,
    streams: Streams,
    started: Instant,
    /// Last known state of every pod that the job ever had, by uid.
    pods: BTreeMap<String, Value>,
    gone: BTreeSet<String>,
    phase: Option<Phase>,
    progress: Option<Progress>,
    last_words: BTreeMap<Label, VecDeque<String>>,
    trackers: BTreeMap<Label, Tracker>,
    /// Metrics of the last line that had any.
    latest: Vec<String>,
    /// How often each metric was printed.
    seen: BTreeMap<String, u32>,
    failed_rank: Option<usize>,
    told: BTreeSet<String>,
    stopping: Stopping,
    ended: Option<(Outcome, Instant)>,
    /// Whether the pods were listed after the end.
    looked_again: bool,
    restarts: i64,
    /// Since when the server on this machine does not answer.
    lost_since: Option<Instant>,
    /// The reader of our stdout went away.
    reader_gone: bool,
    output_failed: bool,
}

/// Follows a job until it ends, is stopped, or is left.
pub(crate) async fn follow(
    session: &Session,
    found: Found,
    manner: Manner,
    before: Before,
) -> Result<Report, CliError> {
    let (to, from) = mpsc::channel(QUEUE);
    let namespace = found.namespace().to_owned();
    let selector = query(&job::pod_selector(&found));
    let one = query(&format!("metadata.name={}", found.name()));
    let paths = [
        (Subject::Job, format!("{}?fieldSelector={one}", found.resource.collection(Some(&namespace)))),
        (Subject::Pod, format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")),
        (Subject::Event, format!("/api/v1/namespaces/{namespace}/events")),
    ];
    let mut tasks = JoinSet::new();
    for (subject, path) in paths {
        tasks.spawn(observe(session.api.clone(), path, subject, to.clone()));
    }
    let streams = Streams::new(session.api.clone(), found.name().to_owned(), Choice::default(), to);
    let stop = before.stop;
    let mut watcher = Watcher {
        session,
        found,
        manner,
        screen: Screen::new(),
        streams: streams.after(before.delivered),
        started: before.started,
        pods: BTreeMap::new(),
        gone: BTreeSet::new(),
        phase: None,
        progress: None,
        last_words: BTreeMap::new(),
        trackers: BTreeMap::new(),
        latest: Vec::new(),
        seen: BTreeMap::new(),
        failed_rank: None,
        told: BTreeSet::new(),
        stopping: Stopping::No,
        ended: None,
        looked_again: false,
        restarts: 0,
        lost_since: None,
        reader_gone: false,
        output_failed: false,
    };
    if let Some((signal, at_once)) = stop {
        watcher.stop(signal).await?;
        if at_once {
            watcher.kill(signal).await?;
        }
    }
    watcher.run(from).await
}

/// The signals that mean "stop".
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(internal("cannot listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
        }
    }
}

impl Watcher<'_> {
    async fn run(mut self, mut from: Receiver<Seen>) -> Result<Report, CliError> {
        let mut signals = Signals::new()?;
        let outcome = loop {
            if self.ended.is_some() && !self.looked_again {
                self.looked_again = true;
                self.look_again().await?;
            }
            if let Some(outcome) = self.over() {
                break outcome;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                number = signals.next() => {
                    if let Some(outcome) = self.interrupted(number).await? {
                        break outcome;
                    }
                }
                seen = from.recv() => match seen {
                    Some(seen) => {
                        self.see(seen)?;
                        if std::mem::take(&mut self.reader_gone)
                            && self.stopping == Stopping::No
                            && let Some(outcome) = self.interrupted(SignalKind::pipe().as_raw_value()).await?
                        {
                            break outcome;
                        }
                    }
                    // The streams hold a sender, so this cannot happen before the end.
                    None => break Outcome::Deleted,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Some((outcome, _)) = self.ended.take() {
                        break outcome;
                    }
                    if let Stopping::AtOnce { signal, .. } = self.stopping {
                        break Outcome::Stopped { signal, killed: true };
                    }
                    if self.lost_since.is_some() {
                        break Outcome::ServerLost;
                    }
                }
            }
        };
        self.screen.clear();
        Ok(self.report(outcome))
    }

    /// The job's watch may be ahead of that of its pods: what they printed must not be missed.
    async fn look_again(&mut self) -> Result<(), CliError> {
        let selector = query(&job::pod_selector(&self.found));
        let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", self.found.namespace());
        let mut list = match self.session.api.get(&path).await {
            // The server of another `trainyard run` goes when its job ends; what was seen until then must do.
            Err(ApiError::Transport(_)) => return Ok(()),
            list => list?,
        };
        for pod in list["items"].as_array_mut().into_iter().flatten() {
            self.see_pod(pod.take());
        }
        Ok(())
    }

    fn report(mut self, outcome: Outcome) -> Report {
        self.drop_settings();
        let alone = self.alone();
        let mut failure = failure::first(self.pods.values(), self.found.name(), alone);
        if let (Some(failure), Some(rank)) = (&mut failure, self.failed_rank)
            && matches!(failure.label, Label::Only | Label::Named(_))
        {
            failure.label = Label::Rank(rank);
        }
        let of = |label: &Label| self.last_words.get(label);
        let last_words = failure.as_ref().and_then(|failure| of(&failure.label).or_else(|| of(&Label::Only)));
        Report {
            outcome,
            pod_uids: self.pods.keys().cloned().collect(),
            last_words: last_words.into_iter().flatten().cloned().collect(),
            failure,
            job: self.found.object,
            progress: self.progress,
            took: self.started.elapsed(),
            before: Before {
                started: self.started,
                delivered: self.streams.delivered(),
                stop: match self.stopping {
                    Stopping::No => None,
                    Stopping::Gracefully { signal, .. } => Some((signal, false)),
                    Stopping::AtOnce { signal, .. } => Some((signal, true)),
                },
            },
            output_failed: self.output_failed,
        }
    }

    /// What was printed once and long ago is a setting (`batch=32`), not a result.
    fn drop_settings(&mut self) {
        if let (Some(progress), false) = (&mut self.progress, self.seen.is_empty()) {
            let (latest, seen) = (&self.latest, &self.seen);
            progress.metrics.retain(|(name, _)| latest.contains(name) || seen.get(name).is_none_or(|count| *count > 1));
        }
    }

    fn alone(&self) -> bool {
        // A pod that replaces another has its name.
        let names: BTreeSet<_> = self.pods.values().map(|pod| pod["metadata"]["name"].as_str()).collect();
        names.len() <= 1
    }

    fn live_pods(&self) -> Vec<&Value> {
        self.pods.iter().filter(|(uid, _)| !self.gone.contains(*uid)).map(|(_, pod)| pod).collect()
    }

    /// When there is something to do although nothing is seen.
    fn deadline(&self) -> Option<Instant> {
        match (&self.ended, self.stopping) {
            (Some((_, at)), _) => Some(*at),
            (None, Stopping::AtOnce { deadline, .. }) => Some(deadline),
            (None, Stopping::Gracefully { since, .. }) if self.lost_since.is_none() => {
                Some(since + TOLD_PATIENCE).filter(|at| *at > Instant::now())
            }
            (None, Stopping::No | Stopping::Gracefully { .. }) => self.lost_since.map(|since| since + SERVER_PATIENCE),
        }
    }

    /// Whether there is nothing more to see.
    fn over(&self) -> Option<Outcome> {
        let left = self.live_pods().iter().filter(|pod| !phase::is_over(pod)).count();
        match (&self.ended, self.stopping) {
            // Pods of a deleted job get their grace; nobody else would see them off.
            (Some((Outcome::Deleted, _)), Stopping::No) if left > 0 => None,
            (Some((outcome, _)), Stopping::No) if !self.streams.any_open() => Some(outcome.clone()),
            (_, Stopping::Gracefully { signal, since })
                if left == 0 && !self.streams.any_open() && self.is_told(since) =>
            {
                Some(Outcome::Stopped { signal, killed: false })
            }
            (_, Stopping::AtOnce { signal, .. }) if left == 0 => Some(Outcome::Stopped { signal, killed: true }),
            _ => None,
        }
    }

    /// Whether the job's controller knows that the job is to stop: until then it may still be making pods.
    fn is_told(&self, since: Instant) -> bool {
        let told = |condition: &Value| condition["type"] == "Suspended" && condition["status"] == "True";
        let conditions = self.found.object["status"]["conditions"].as_array();
        self.ended.is_some()
            || since.elapsed() >= TOLD_PATIENCE
            || conditions.is_some_and(|conditions| conditions.iter().any(told))
    }

    fn see(&mut self, seen: Seen) -> Result<(), CliError> {
        match seen {
            Seen::Present(Subject::Job, object) => self.see_job(object),
            Seen::Present(Subject::Pod, pod) => self.see_pod(pod),
            Seen::Present(Subject::Event, event) => return self.see_event(&event),
            Seen::Gone(Subject::Job, object) => self.job_gone(&object),
            Seen::Gone(Subject::Pod, pod) => {
                let uid = uid(&pod);
                self.gone.insert(uid.clone());
                self.pods.insert(uid, pod);
            }
            Seen::Listed(Subject::Job, uids) if uids.is_empty() => self.job_gone(&self.found.object.clone()),
            Seen::Listed(Subject::Pod, uids) => {
                let lost = self.pods.keys().filter(|uid| !uids.contains(uid)).cloned().collect::<Vec<_>>();
                self.gone.extend(lost);
            }
            Seen::Gone(Subject::Event, _) | Seen::Listed(Subject::Job | Subject::Event, _) => {}
            // Three watches break together; one of them is enough to tell.
            Seen::Lost(Subject::Job, why) => {
                if matches!(self.session.place, Place::Server { .. }) {
                    self.lost_since = Some(Instant::now());
                }
                self.screen.say("warning:", style::CARE, &format!("{why}; the job goes on, trying again"))?;
            }
            Seen::Back(Subject::Job) => {
                self.lost_since = None;
                self.screen.say("Connected", style::GOOD, "the API server answers again")?;
            }
            Seen::Lost(Subject::Pod | Subject::Event, _) | Seen::Back(Subject::Pod | Subject::Event) => {}
            Seen::Line(line) => {
                if let Err(error) = self.screen.log(&line.label, &line.text) {
                    self.no_output(&error)?;
                }
                self.be_patient();
                self.failed_rank = self.failed_rank.or_else(|| failure::reported_rank(&line.text));
                let progress = self.track(&line.label, &line.text);
                let words = self.last_words.entry(line.label).or_default();
                if words.len() == LAST_WORDS {
                    words.pop_front();
                }
                words.push_back(line.text);
                // The phase cannot have changed by this.
                return if progress { self.show() } else { Ok(()) };
            }
            Seen::LogEnded(key) => self.streams.ended(&key),
        }
        self.show()
    }

    /// Stdout takes no more lines. Without a reader we stop as any program in a pipe does; else the job is worth more than its output.
    fn no_output(&mut self, error: &std::io::Error) -> Result<(), CliError> {
        self.screen.mute();
        self.reader_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        self.output_failed = !self.reader_gone;
        if self.output_failed {
            let name = self.found.name();
            let text = format!("cannot write the output: {error}; the job goes on, see `trainyard logs {name}`");
            self.screen.say("warning:", style::BAD, &text)?;
        }
        Ok(())
    }

    /// Lines that are still coming after the end are not cut off, if all who may write them have ended.
    fn be_patient(&mut self) {
        let all_over = self.ended.is_some() && self.live_pods().into_iter().all(phase::is_over);
        if let (Some((_, deadline)), true) = (&mut self.ended, all_over) {
            *deadline = Instant::now() + LOG_PATIENCE;
        }
    }

    fn see_job(&mut self, object: Value) {
        if uid(&object) != self.found.uid() {
            return;
        }
        self.found.object = object;
        let status = &self.found.object["status"]["progress"];
        self.take_progress(Progress::of(status));
        let end = job::end(&self.found.object);
        let available = self.manner.until_available && is_available(&self.found.object);
        let outcome = end.map(Outcome::Ended).or(available.then_some(Outcome::Available));
        if let (Some(outcome), None) = (outcome, &self.ended) {
            self.ended = Some((outcome, Instant::now() + LOG_PATIENCE));
        }
    }

    fn job_gone(&mut self, object: &Value) {
        if uid(object) == self.found.uid() && self.ended.is_none() {
            self.ended = Some((Outcome::Deleted, Instant::now() + DELETE_PATIENCE));
        }
    }

    fn see_pod(&mut self, pod: Value) {
        self.take_progress(Progress::of_pod(&pod));
        self.pods.insert(uid(&pod), pod);
        let alone = self.alone() && !self.expects_more_pods();
        // All pods are looked at again: with a second pod, the first one's lines need a name.
        for pod in self.pods.values() {
            self.streams.look_at(pod, alone);
        }
    }

    /// Whether the job has more replicas than pods seen so far.
    fn expects_more_pods(&self) -> bool {
        let spec = &self.found.object["spec"];
        let roles = spec.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("ReplicaSpecs"));
        let of_roles: u64 = roles
            .flat_map(|(_, roles)| roles.as_object().into_iter().flatten())
            .map(|(_, role)| role["replicas"].as_u64().unwrap_or(1))
            .sum();
        let counts = [&spec["replicas"], &spec["trainer"]["numNodes"], &spec["parallelism"]];
        let plain = counts.iter().find_map(|count| count.as_u64()).unwrap_or(1);
        of_roles.max(plain) > 1
    }

    /// Reads progress from a line as it comes. Of a job that we did not start the first lines are old: their times mean nothing.
    fn track(&mut self, label: &Label, line: &str) -> bool {
        if !self.manner.owner {
            return false;
        }
        let Some(sample) = trainyard_worker_core::progress::parse(line) else { return false };
        let now = crate::view::now_ms();
        self.trackers.entry(label.clone()).or_default().observe(&sample, now);
        self.latest = sample.metrics.keys().cloned().collect();
        for name in &self.latest {
            *self.seen.entry(name.clone()).or_default() += 1;
        }
        // Many ranks may print; the lowest one stands for the job.
        let first = self.trackers.values().next().and_then(|tracker| serde_json::to_value(tracker.progress()).ok());
        self.take_progress(first.as_ref().and_then(Progress::of));
        true
    }

    fn take_progress(&mut self, new: Option<Progress>) {
        let Some(mut new) = new else { return };
        if self.progress.as_ref().is_some_and(|old| old.at_ms > new.at_ms) {
            return;
        }
        // A reader that began later knows fewer metrics; none is forgotten.
        for (name, value) in self.progress.iter().flat_map(|old| &old.metrics) {
            if !new.metrics.iter().any(|(known, _)| known == name) {
                new.metrics.push((name.clone(), *value));
            }
        }
        self.progress = Some(new);
    }

    /// Tells about warnings, and about what the node could not honour.
    fn see_event(&mut self, event: &Value) -> Result<(), CliError> {
        let about = event["involvedObject"]["uid"].as_str().unwrap_or_default();
        let ours = about == self.found.uid() || self.pods.contains_key(about);
        let reason = event["reason"].as_str().unwrap_or_default();
        let noteworthy = event["type"] == "Warning" || reason.contains("Ignored") || reason.contains("Oversubscribed");
        let message = event["message"].as_str().unwrap_or_default().trim();
        // Waiting for a place is shown as a phase, and failures at the end, both with more to say.
        let shown_elsewhere = matches!(reason, "FailedScheduling" | "Unschedulable")
            || reason.ends_with("Failed")
            || reason.ends_with("JobRestarting");
        if !ours || !noteworthy || shown_elsewhere || !self.told.insert(format!("{reason}{message}")) {
            return Ok(());
        }
        self.screen.say("note:", style::CARE, &format!("{message} ({reason})"))?;
        Ok(())
    }

    /// Shows the phase if it changed, and the progress.
    fn show(&mut self) -> Result<(), CliError> {
        let phase = phase::of(&self.found.object, &self.live_pods());
        let restarts = self.found.object["status"]["restarts"].as_i64().unwrap_or(0);
        if restarts > self.restarts {
            self.restarts = restarts;
            self.screen.say("Restarting", style::CARE, &format!("all ranks (restart {restarts})"))?;
        }
        // The end gets a summary of its own. While we stop the job, its suspension is our doing.
        let own_words =
            matches!(phase, Phase::Ended(_) | Phase::Ending | Phase::Created) || self.stopping != Stopping::No;
        // Many pods start one after the other: one line for all.
        let counting = matches!((&self.phase, &phase), (Some(Phase::Starting { .. }), Phase::Starting { .. }));
        if self.phase.as_ref() != Some(&phase) && !own_words && !counting {
            let colour = match phase {
                Phase::Queued { .. } | Phase::Suspended { .. } | Phase::Restarting { .. } => style::CARE,
                Phase::Created | Phase::Starting { .. } | Phase::Running { .. } | Phase::Ending | Phase::Ended(_) => {
                    style::GOOD
                }
            };
            self.screen.say(phase.word(), colour, &phase.detail())?;
            self.tell_if_oversubscribed(&phase)?;
            if matches!(phase, Phase::Queued { .. }) {
                let name = self.found.name();
                let way = if self.manner.owner { "Ctrl-C stops it" } else { "Ctrl-C leaves it" };
                let never = phase.detail().contains("never");
                let hope = if never { "it waits for that; " } else { "it starts by itself when there is room; " };
                self.screen.more(&format!("{hope}`trainyard explain {name}` tells more; {way}"))?;
            }
        }
        match (&phase, &self.progress) {
            (Phase::Running { .. }, Some(progress)) if progress.share().or(progress.rate).is_some() => {
                let mut progress = progress.clone();
                progress.metrics.retain(|(name, _)| self.seen.get(name).is_none_or(|count| *count > 1));
                self.screen.progress(&progress)?;
            }
            (Phase::Ended(_) | Phase::Ending, _) => {}
            _ => self.screen.wait(&format!("{} {}", phase.word(), phase.detail())),
        }
        self.phase = Some(phase);
        Ok(())
    }

    /// More ranks than CPUs work, but a newcomer should know why it is slow.
    fn tell_if_oversubscribed(&mut self, phase: &Phase) -> Result<(), CliError> {
        let Phase::Running { of, .. } = phase else { return Ok(()) };
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let here = !matches!(self.session.place, Place::Cluster { .. });
        if here && *of > cpus && self.told.insert("oversubscribed".to_owned()) {
            self.screen
                .more(&format!("{of} ranks share the {cpus} CPUs of this machine: it works, but more slowly"))?;
        }
        Ok(())
    }

    /// First Ctrl-C: stop gracefully. Second: kill. Of a job that is not ours: leave.
    async fn interrupted(&mut self, signal: i32) -> Result<Option<Outcome>, CliError> {
        if !self.manner.owner {
            return Ok(Some(Outcome::Left { signal }));
        }
        match self.stopping {
            Stopping::No => {
                self.screen.say("Stopping", style::CARE, "all ranks get SIGTERM; Ctrl-C again kills them at once")?;
                self.stop(signal).await?;
                Ok(None)
            }
            // One key press may arrive twice: from the terminal, and from a parent that passes it on.
            Stopping::Gracefully { since, .. } if since.elapsed() < SAME_PRESS => Ok(None),
            Stopping::Gracefully { .. } => {
                self.screen.say("Killing", style::BAD, "all ranks get SIGKILL")?;
                self.kill(signal).await?;
                Ok(None)
            }
            Stopping::AtOnce { signal, .. } => Ok(Some(Outcome::Stopped { signal, killed: true })),
        }
    }

    async fn stop(&mut self, signal: i32) -> Result<(), CliError> {
        self.stopping = Stopping::Gracefully { signal, since: Instant::now() };
        suspend(self.session, &self.found).await?;
        self.look_again().await
    }

    async fn kill(&mut self, signal: i32) -> Result<(), CliError> {
        self.stopping = Stopping::AtOnce { signal, deadline: Instant::now() + KILL_PATIENCE };
        let root = format!("/api/v1/namespaces/{}/pods", self.found.namespace());
        let selector = query(&job::pod_selector(&self.found));
        // Asked for, not remembered: a job that is stopped from its first moment on was not seen yet.
        let pods = self.session.api.get(&format!("{root}?labelSelector={selector}")).await?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let path = format!("{root}/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
            present(self.session.api.delete(&path, &delete_options(Some(0))).await)?;
        }
        Ok(())
    }
}

/// Asks for the job's end, such that it can be resumed where its kind can.
pub(crate) async fn suspend(session: &Session, found: &Found) -> Result<(), CliError> {
    present(match job::suspend_patch(&found.resource, true) {
        Some(patch) => session.api.merge(&found.path(), &patch).await,
        None => session.api.delete(&found.path(), &delete_options(None)).await,
    })
}

/// What is gone already needs no end.
fn present(answer: Result<Value, ApiError>) -> Result<(), CliError> {
    answer.map(|_| ()).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error.into()) })
}

/// Options of a delete request.
pub(crate) fn delete_options(grace: Option<i64>) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    options
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn is_available(deployment: &Value) -> bool {
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    deployment["status"]["availableReplicas"].as_i64().unwrap_or(0) >= wanted
        && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
}

/// The exit code of a process that was stopped by a signal.
pub(crate) fn signal_code(signal: i32) -> u8 {
    exit_code::SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0))
}
