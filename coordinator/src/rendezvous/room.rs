//! One job's rendezvous in motion: a task that feeds the core what launchers say and what becomes of pods, and sends what it
//! orders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{Api, DynamicObject};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trainyard_coordinator_core::rendezvous::{
    Config, Generation, Happened, Hello, Input, LastFailure, MemberId, Output, Pulse, RendezvousView, Session, Spent,
};
use trainyard_proto::pace;
use trainyard_proto::plan::{EventSeverity, ObjectRef};
use trainyard_proto::rendezvous as wire;
use trainyard_runtime::driver::{EventSink, Key, Queue, now_ms};

use super::metrics::RendezvousMetrics;
use super::{convert, reserve};

/// Orders that wait in a stream. A launcher is sent a handful of them in an hour, and some in a second while ranks stand still
/// (those may be dropped): one that does not take so many is stuck, and starts afresh with a new stream.
pub(crate) const ORDERS: usize = 16;
/// Members that come and go are told to the job's controller together.
const GATHER: Duration = Duration::from_millis(300);
/// Before a reservation that failed is tried again.
const RESERVE_AGAIN: Duration = Duration::from_millis(500);

/// Where orders of one stream go.
pub(crate) type Orders = mpsc::Sender<Result<wire::ToLauncher, tonic::Status>>;

/// What a room is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A launcher opened a stream.
    Joined { member: MemberId, stream: u64, hello: Box<Hello>, orders: Orders },
    /// It said something in it.
    Heard { member: MemberId, stream: u64, heard: Box<convert::Heard> },
    /// Its stream is over.
    Away { member: MemberId, stream: u64 },
    /// Something that no launcher said.
    Known(Input),
}

/// Whose rendezvous it is.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) object: ObjectRef,
    pub(crate) uid: String,
    pub(crate) key: Key,
    /// Objects of its kind in its namespace.
    pub(crate) api: Api<DynamicObject>,
    /// Wakes its controller.
    pub(crate) queue: Queue,
    pub(crate) events: EventSink,
    pub(crate) metrics: RendezvousMetrics,
}

/// A handle on a room. The room closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Room {
    sender: mpsc::UnboundedSender<Message>,
    session: Arc<Mutex<Session>>,
}

impl Room {
    /// Opens one for a job.
    pub(crate) fn open(
        job: Job,
        config: Config,
        recorded: Generation,
        (spent, failure): (Spent, Option<LastFailure>),
        stop: CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let most = i64::from(config.most);
        job.metrics.open.inc();
        let session = Arc::new(Mutex::new(Session::new(config, recorded, spent, now_ms()).after(failure)));
        let task = Task {
            job,
            session: Arc::clone(&session),
            streams: HashMap::new(),
            own: sender.downgrade(),
            recorded,
            most,
            shown: (0, 0),
        };
        tokio::spawn(async move {
            // Streams end with the task; launchers knock until somebody answers again.
            tokio::select! { () = task.run(receiver) => {}, () = stop.cancelled() => {} }
        });
        Self { sender, session }
    }

    /// Tells it something. It may be closing: then nobody needs to know.
    pub(crate) fn tell(&self, message: Message) {
        let _ = self.sender.send(message);
    }

    /// How it stands.
    pub(crate) fn view(&self) -> RendezvousView {
        lock(&self.session).view()
    }
}

/// A panic in a step has been told of; what it left is checked by the invariants.
fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Stream {
    number: u64,
    orders: Orders,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.show(0, 0);
        self.job.metrics.open.dec();
    }
}

struct Task {
    job: Job,
    session: Arc<Mutex<Session>>,
    streams: HashMap<MemberId, Stream>,
    own: mpsc::WeakUnboundedSender<Message>,
    recorded: Generation,
    most: i64,
    /// Members and missing ones, as the gauges have them of this room.
    shown: (i64, i64),
}

impl Task {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Message>) {
        self.step(Input::Tick);
        loop {
            let deadline = lock(&self.session).deadline();
            let message = match deadline {
                None => receiver.recv().await,
                Some(at) => {
                    let wait = Duration::from_millis(u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0));
                    match tokio::time::timeout(wait, receiver.recv()).await {
                        Ok(message) => message,
                        Err(_) => Some(Message::Known(Input::Tick)),
                    }
                }
            };
            let Some(message) = message else { break };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Joined { member, stream, hello, orders } => self.joined(member, stream, *hello, orders),
            Message::Heard { member, stream, heard } => {
                // What was said in a stream that was replaced since is of no account.
                if self.streams.get(&member).is_some_and(|known| known.number == stream) {
                    match *heard {
                        convert::Heard::Input(input) => self.step(input),
                        convert::Heard::Pulse(pulse) => self.pulse(&member, pulse),
                        convert::Heard::Saved(saved) => self.saved(saved),
                    }
                }
            }
            Message::Away { member, stream } => {
                if self.streams.get(&member).is_some_and(|known| known.number == stream) {
                    self.streams.remove(&member);
                }
                self.step(Input::Away { member, stream });
            }
            Message::Known(input) => {
                if let Input::Changed { config } = &input {
                    self.most = i64::from(config.most);
                }
                if let Input::Reserved { to } = &input {
                    self.recorded = *to;
                }
                if let Input::NotReserved { recorded } = &input {
                    self.recorded = self.recorded.max(*recorded);
                }
                self.step(input);
                // Whoever was given up hears so by the end of its stream, if it hears anything: it may knock again.
                let session = lock(&self.session);
                self.streams.retain(|member, _| session.machine().has(member));
            }
        }
    }

    fn joined(&mut self, member: MemberId, stream: u64, hello: Hello, orders: Orders) {
        tracing::debug!(job = %self.job.key, pod = member.pod, incarnation = member.incarnation, "a launcher joins");
        self.streams.insert(member.clone(), Stream { number: stream, orders });
        self.step(Input::Joined { member: member.clone(), stream, hello });
        let session = lock(&self.session);
        let refused = !session.machine().has(&member) && session.machine().outcome().is_none();
        drop(session);
        if refused && let Some(stream) = self.streams.remove(&member) {
            let _ = stream.orders.try_send(Err(tonic::Status::aborted("a newer launcher has this place")));
        }
    }

    fn pulse(&mut self, member: &MemberId, pulse: wire::Pulse) {
        let pulse: Pulse = convert::pulse(pulse);
        let mut session = lock(&self.session);
        let before = (session.view_of_pulses(), session.spares());
        let mut outputs = Vec::new();
        let happened = session.pulse(now_ms(), member, pulse, &mut outputs);
        let changed = before != (session.view_of_pulses(), session.spares());
        drop(session);
        for output in &outputs {
            self.carry_out(output);
        }
        self.tell(&happened);
        if changed {
            self.job.queue.wake(self.job.key.clone());
        }
    }

    fn saved(&self, saved: wire::Saved) {
        if lock(&self.session).saved(convert::saved(saved)) {
            self.job.queue.wake(self.job.key.clone());
        }
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        let mut session = lock(&self.session);
        let happened = session.step(now_ms(), input, &mut outputs);
        let (members, here) = session.machine().counts();
        let waits = session.machine().world().is_none() && session.machine().outcome().is_none();
        drop(session);
        for output in &outputs {
            self.carry_out(output);
        }
        self.tell(&happened);
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let missing = if waits { (self.most - signed(here)).max(0) } else { 0 };
        let moved = self.show(signed(members), missing);
        if !happened.is_empty() {
            self.job.queue.wake(self.job.key.clone());
        } else if moved {
            self.job.queue.wake_in(self.job.key.clone(), GATHER);
        }
    }

    fn carry_out(&mut self, output: &Output) {
        if let Output::Reserve { to } = output {
            return self.reserve(*to);
        }
        let Some((members, message)) = convert::told(output) else { return };
        for member in members {
            let Some(stream) = self.streams.get(member) else { continue };
            if stream.orders.try_send(Ok(message.clone())).is_err() && !output.may_be_dropped() {
                // It knocks again, and is told what it missed.
                self.streams.remove(member);
            }
        }
        if let Output::Release { members, .. } = output {
            self.streams.retain(|member, _| !members.contains(member));
        }
    }

    fn reserve(&self, to: Generation) {
        let (job, known, own) = (self.job.clone(), self.recorded, self.own.clone());
        tokio::spawn(async move {
            let reserved = reserve::reserve(&job.api, &job.key.name, &job.uid, known, to).await;
            let input = match reserved {
                Ok(()) => Input::Reserved { to },
                // Its pods go with it, and so does this room.
                Err(reserve::Refused::Gone) => return,
                Err(reserve::Refused::Taken(recorded)) => Input::NotReserved { recorded },
                Err(error) => {
                    tracing::warn!(job = %job.key, %error, "generations not reserved; trying again");
                    tokio::time::sleep(RESERVE_AGAIN).await;
                    Input::NotReserved { recorded: known }
                }
            };
            if let Some(own) = own.upgrade() {
                let _ = own.send(Message::Known(input));
            }
        });
    }

    /// Keeps the gauges. Answers whether they moved.
    fn show(&mut self, members: i64, missing: i64) -> bool {
        let moved = self.shown != (members, missing);
        self.job.metrics.members.inc_by(members - self.shown.0);
        self.job.metrics.missing.inc_by(missing - self.shown.1);
        self.shown = (members, missing);
        moved
    }

    fn tell(&self, happened: &[Happened]) {
        // A generation that ran before us was told of by whoever formed it.
        let adopted = happened.iter().find_map(|event| {
            if let Happened::Formed { generation, adopted: true } = event { Some(*generation) } else { None }
        });
        for event in happened {
            self.job.metrics.count(event);
            let job = &self.job.key;
            match event {
                Happened::Failed(failure) => {
                    tracing::info!(%job, cause = failure.cause.word(), generation = failure.generation, "ranks failed");
                    self.event(EventSeverity::Warning, "RankFailed", failed(failure));
                }
                Happened::Blamed(failure) => {
                    tracing::info!(%job, cause = failure.cause.word(), generation = failure.generation, "it was this");
                    self.event(EventSeverity::Warning, "RankFailed", failed(failure));
                }
                Happened::Formed { generation, adopted } => {
                    tracing::info!(%job, generation = generation.0, adopted, "a generation of ranks");
                }
                Happened::Ready { generation, recovered_ms: None, .. } if adopted == Some(*generation) => {}
                // That one rank alone has begun is what its pod says.
                Happened::Ready { generation: Generation(1), members: 1, ranks: 1, recovered_ms: None } => {}
                Happened::Ready { generation, members, ranks, recovered_ms } => {
                    let after = recovered_ms.map(|ms| format!(", {ms} ms after the failure")).unwrap_or_default();
                    let text = format!("Generation {}: {ranks} ranks in {members} pods{after}", generation.0);
                    self.event(EventSeverity::Normal, "GenerationFormed", text);
                }
                Happened::Hangs { stalled, others } => {
                    self.event(EventSeverity::Warning, "RankHangs", sentence(&stalled.words(*others)));
                }
                Happened::Straggles(slow) => {
                    self.event(
                        EventSeverity::Warning,
                        "RankStraggles",
                        sentence(&slow.slow.words(slow.rank, &slow.host)),
                    );
                }
                Happened::KeepsUp { rank, host } => {
                    self.event(EventSeverity::Normal, "RankKeepsUp", sentence(&pace::keeps_up(*rank, host)));
                }
                Happened::Ended(outcome) => tracing::info!(%job, ?outcome, "the rendezvous is over"),
                Happened::Broken(words) => {
                    tracing::error!(%job, words, "an invariant of the rendezvous does not hold; please report this");
                }
            }
        }
    }

    fn event(&self, severity: EventSeverity, reason: &str, message: String) {
        let Job { object, uid, events, .. } = &self.job;
        events.send(object.clone(), uid.clone(), severity, reason.to_owned(), message);
    }
}

/// With a capital.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn failed(failure: &LastFailure) -> String {
    let host = failure.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    let who = failure.rank.map_or_else(|| format!("A launcher{host}"), |rank| format!("Rank {rank}{host}"));
    let line = failure.message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let code = failure.rank.map(|_| format!(", exit code {}", failure.code)).unwrap_or_default();
    format!("{who} failed in generation {} ({}{code}): {line}", failure.generation, failure.cause.word())
}
