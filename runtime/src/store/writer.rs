//! The one task that writes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use trainyard_runtime_core::store::{Batch, Resource, Store as State, StoreError};

use super::disk::Disk;
use super::metrics::metrics;

/// Tells a job how its batch ended; the job then answers its caller.
pub(super) type Finish = Box<dyn FnOnce(Result<(), &StoreError>) + Send>;
/// Stages something.
pub(super) type Stage = Box<dyn FnOnce(&mut Batch, &State) -> Finish + Send>;

/// One command.
pub(super) struct Job {
    pub(super) stage: Stage,
    /// It makes room, or finishes what makes room: taken on a full disk too.
    pub(super) frees: bool,
}

/// What the writer is sent.
pub(super) enum Message {
    Job(Job),
    Close(oneshot::Sender<()>),
}

/// Most commands in one commit: about 10 ms of staging in the worst case, so that the first of a batch does not wait
/// long for the last.
const BATCH_COMMANDS: usize = 256;
/// Commands waiting before senders have to: four batches.
pub(super) const QUEUE_COMMANDS: usize = 4 * BATCH_COMMANDS;

/// What readers, watchers and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    state: RwLock<State>,
    signals: Mutex<Signals>,
    ended: CancellationToken,
}

/// Where commits are announced. Dropping the senders ends every watch.
#[derive(Debug, Default)]
struct Signals {
    by_resource: BTreeMap<Resource, watch::Sender<u64>>,
    any: Option<watch::Sender<u64>>,
    ended: bool,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: RwLock::new(state), signals: Mutex::default(), ended: CancellationToken::new() }
    }

    /// The committed state. Hold it briefly and never across an await.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        // A panic elsewhere cannot have left a half commit: commits are replaced whole or panic before they begin.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is told the resourceVersion after each commit that touches this resource; ends with the store.
    pub(super) fn signal(&self, resource: &Resource) -> watch::Receiver<u64> {
        let mut signals = self.signals();
        if signals.ended {
            return watch::Sender::new(0).subscribe();
        }
        signals.by_resource.entry(resource.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Is told the resourceVersion after each commit; ends with the store.
    pub(super) fn any_signal(&self) -> watch::Receiver<u64> {
        let mut signals = self.signals();
        if signals.ended {
            return watch::Sender::new(0).subscribe();
        }
        signals.any.get_or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, batch: Batch) {
        let version = batch.resource_version();
        let touched = self.state.write().unwrap_or_else(PoisonError::into_inner).commit(batch);
        let signals = self.signals();
        for signal in touched.iter().filter_map(|r| signals.by_resource.get(r)).chain(&signals.any) {
            signal.send_replace(version);
        }
    }

    fn end(&self) {
        *self.signals() = Signals { ended: true, ..Signals::default() };
        self.ended.cancel();
    }

    /// Cancelled when nothing can be written any more.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// A failed batch's numbers are not used again: its frames may lie in the log's tail.
    fn burn(&self, batch: &Batch) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).burn(batch);
    }
}

/// Makes the end of the writer known, however it comes: watches end, and whoever minds the store hears of it. A new writer
/// would not do, since nobody knows what a bug in the one before has left in memory.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "object store: the writer panicked; nothing is written until a restart, please report this"
            );
        }
        self.0.end();
    }
}

/// Takes commands until it is told to close or nobody can send any more.
pub(super) async fn write_all(shared: Arc<Shared>, mut disk: Disk, mut queue: mpsc::Receiver<Message>) {
    let ending = Ending(Arc::clone(&shared));
    let mut closing: Option<oneshot::Sender<()>> = None;
    let mut waiting: Vec<Message> = Vec::with_capacity(BATCH_COMMANDS);
    while closing.is_none() && queue.recv_many(&mut waiting, BATCH_COMMANDS).await > 0 {
        let mut jobs = Vec::with_capacity(waiting.len());
        for message in waiting.drain(..) {
            match message {
                Message::Job(job) => jobs.push(job),
                Message::Close(done) => closing = Some(done),
            }
        }
        write_batch(&shared, &mut disk, jobs).await;
    }
    // Dropping the queue refuses what comes later.
    drop(queue);
    drop(ending);
    disk.close().await;
    if let Some(done) = closing {
        // Nobody waits: nothing to tell.
        let _ = done.send(());
    }
}

async fn write_batch(shared: &Shared, disk: &mut Disk, jobs: Vec<Job>) {
    let jobs = match disk.full() {
        Some(message) => refuse_all_but_deletions(shared, jobs, message),
        None => jobs,
    };
    let (batch, finishes) = stage(shared, jobs);
    if batch.is_empty() {
        finishes.into_iter().for_each(|finish| finish(Ok(())));
        return;
    }
    let began = Instant::now();
    match disk.write(batch.rows()).await {
        Ok(()) => {
            metrics().commits.inc();
            metrics().writes.inc_by(u64::try_from(finishes.len()).unwrap_or(u64::MAX));
            metrics().seconds.observe(began.elapsed().as_secs_f64());
            shared.publish(batch);
            finishes.into_iter().for_each(|finish| finish(Ok(())));
        }
        Err(error) => {
            metrics().failures.inc();
            tracing::error!(%error, "object store: a batch was refused by the disk");
            shared.burn(&batch);
            let refusal = refusal(&error);
            finishes.into_iter().for_each(|finish| finish(Err(&refusal)));
        }
    }
}

fn stage(shared: &Shared, jobs: Vec<Job>) -> (Batch, Vec<Finish>) {
    let state = shared.state();
    let mut batch = Batch::new(&state);
    let mut finishes = Vec::with_capacity(jobs.len());
    for job in jobs {
        finishes.extend(stage_one(&mut batch, &state, job));
    }
    (batch, finishes)
}

fn stage_one(batch: &mut Batch, state: &State, job: Job) -> Option<Finish> {
    // A caller's function may panic. It has staged nothing then, and its caller sees the answer channel close.
    let staged = catch_unwind(AssertUnwindSafe(|| (job.stage)(batch, state)));
    staged.map_err(|_| tracing::error!("object store: a transaction function panicked; it has changed nothing")).ok()
}

/// Each of the others is looked at on its own: what would be refused anyway, or would change nothing, is answered as ever.
fn refuse_all_but_deletions(shared: &Shared, jobs: Vec<Job>, message: String) -> Vec<Job> {
    let (taken, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.frees);
    let refusal = StoreError::Full { message };
    let state = shared.state();
    for job in others {
        let mut alone = Batch::new(&state);
        if let Some(finish) = stage_one(&mut alone, &state, job) {
            finish(if alone.is_empty() { Ok(()) } else { Err(&refusal) });
        }
    }
    taken
}

fn refusal(error: &sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        // SQLITE_FULL
        Some("13") => StoreError::Full { message: format!("{error}; free some space, then try again") },
        Some(_) | None => StoreError::Storage { message: format!("{error}; look at the disk, then try again") },
    }
}
