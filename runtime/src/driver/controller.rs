//! The loop of one controller.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use trainyard_proto::plan::{Action, Plan};

use super::apply::{Target, apply, verb};
use super::cache::Expectation;
use super::metrics::ControllerLabel;
use super::{Key, Queue, metrics, now_ms};

/// Longest time that a key waits for a cache to show our own writes. A watch delivers within milliseconds; when it
/// does not for this long it is broken and being restarted, and planning from what is known is better than not at all.
const EXPECTATION_LIMIT: Duration = Duration::from_secs(10);

/// Planning that takes so long is a part of what keeps the machine busy.
const LONG_PLANNING: Duration = Duration::from_millis(20);
/// A key whose planning takes long rests for so many times as long before it is planned again, so that planning for it takes a
/// quarter of one processor's time at most, however often its objects change.
const REST: u32 = 3;

/// Reads the caches, asks the core. `None` when there is nothing to plan for (any more).
pub type PlanFn = Arc<dyn Fn(&Key, i64) -> Option<Plan> + Send + Sync>;

/// The W3C trace parent that an action (or, with `None`, the planning of the key) belongs to.
pub type TraceFn = Arc<dyn Fn(&Key, Option<&Action>) -> Option<String> + Send + Sync>;

/// A plan function with all that it takes to run it.
#[derive(Clone)]
pub struct Controller {
    /// Its name in logs, metrics and spans.
    pub name: &'static str,
    /// The core behind its view.
    pub plan: PlanFn,
    /// Which trace things belong to.
    pub trace: TraceFn,
    /// Where actions go.
    pub target: Target,
    /// Keys to plan. The caches' listeners put them in.
    pub queue: Queue,
}

#[derive(Default)]
struct Waiting {
    by_key: Mutex<HashMap<Key, (Instant, Vec<Expectation>)>>,
    /// Keys whose planning took long, and until when they rest.
    rests: Mutex<HashMap<Key, Instant>>,
}

impl Waiting {
    /// How much longer a key rests.
    fn rest(&self, key: &Key, now: Instant) -> Option<Duration> {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let left = rests.get(key)?.saturating_duration_since(now);
        if left.is_zero() {
            rests.remove(key);
            return None;
        }
        Some(left)
    }

    fn planned(&self, key: &Key, took: Duration, now: Instant) {
        if took >= LONG_PLANNING {
            self.rests.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), now + took * REST);
        }
    }
}

impl Controller {
    /// Plan keys on `workers` tasks until `stop`. Actions in flight are finished before it returns.
    pub async fn run(self, workers: usize, stop: CancellationToken) {
        let waiting = Arc::new(Waiting::default());
        let mut tasks = JoinSet::new();
        for _ in 0..workers.max(1) {
            tasks.spawn(self.clone().work(Arc::clone(&waiting), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(controller = self.name, %error, "controller worker panicked; another takes its place, please report this");
                tasks.spawn(self.clone().work(Arc::clone(&waiting), stop.clone()));
            }
        }
    }

    async fn work(self, waiting: Arc<Waiting>, stop: CancellationToken) {
        loop {
            let key = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                key = self.queue.next() => key,
            };
            let label = ControllerLabel { controller: self.name };
            // Planning has its own guard inside; this one is for all the rest.
            if AssertUnwindSafe(self.turn(&key, &waiting)).catch_unwind().await.is_err() {
                let delay = self.queue.retry(key.clone());
                tracing::error!(controller = self.name, %key, ?delay, "a turn panicked, trying again; please report this");
            }
            self.queue.done(&key);
            metrics().waiting.get_or_create(&label).set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
        }
    }

    async fn turn(&self, key: &Key, waiting: &Waiting) {
        let label = ControllerLabel { controller: self.name };
        if self.must_wait(key, waiting, &label) {
            return;
        }
        if let Some(left) = waiting.rest(key, Instant::now()) {
            metrics().deferred.get_or_create(&label).inc();
            self.queue.wake_in(key.clone(), left);
            return;
        }
        let (now, began) = (now_ms(), Instant::now());
        // A bug that one object brings to light must not stop the others: the worker outlives it, and the key is tried again.
        let Ok(planned) = catch_unwind(AssertUnwindSafe(|| (self.plan)(key, now))) else {
            metrics().errors.get_or_create(&label).inc();
            let delay = self.queue.retry(key.clone());
            tracing::error!(controller = self.name, %key, ?delay, "planning panicked, trying again; please report this");
            return;
        };
        waiting.planned(key, began.elapsed(), Instant::now());
        let Some(plan) = planned else {
            self.queue.succeeded(key);
            return;
        };
        metrics().plans.get_or_create(&label).inc();
        if let Some(at) = plan.wake_at_ms {
            let delay = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
            // At least a millisecond: a core that asks for "now" again and again must not spin.
            self.queue.wake_in(key.clone(), Duration::from_millis(delay.max(1)));
        }
        if plan.actions.is_empty() {
            self.queue.succeeded(key);
            return;
        }
        self.carry_out(key, plan, waiting, &label).await;
    }

    fn must_wait(&self, key: &Key, waiting: &Waiting, label: &ControllerLabel) -> bool {
        let mut by_key = waiting.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, expectations)) = by_key.get_mut(key) else { return false };
        expectations.retain(|expectation| !expectation.is_met(&self.target.probes));
        if expectations.is_empty() {
            by_key.remove(key);
            return false;
        }
        let waited = since.elapsed();
        if waited >= EXPECTATION_LIMIT {
            tracing::warn!(controller = self.name, %key, missing = expectations.len(), "watch did not show our own writes");
            metrics().expectations_expired.get_or_create(label).inc();
            by_key.remove(key);
            return false;
        }
        // The event that is waited for wakes the key; this timer is for the case that it never comes.
        metrics().deferred.get_or_create(label).inc();
        self.queue.wake_in(key.clone(), EXPECTATION_LIMIT.saturating_sub(waited));
        true
    }

    async fn carry_out(&self, key: &Key, plan: Plan, waiting: &Waiting, label: &ControllerLabel) {
        let name = format!("{} plan", self.name);
        let count = plan.actions.len();
        let span = tracing::info_span!("plan", controller = self.name, %key, actions = count, otel.name = name);
        crate::trace::adopt(&span, (self.trace)(key, None).as_deref());
        let span_of = |action: &Action| {
            let span = tracing::info_span!(
                parent: &span,
                "action",
                verb = verb(action),
                controller = self.name,
                otel.name = format!("{} {}", self.name, verb(action))
            );
            // A key that stands for many jobs has no trace of its own: then each action says where it belongs.
            if let Some(parent) = (self.trace)(key, Some(action)) {
                crate::trace::adopt(&span, Some(&parent));
            }
            span
        };
        let began = Instant::now();
        let outcome = apply(&self.target, plan.actions, &span_of).instrument(span.clone()).await;
        metrics().apply_seconds.get_or_create(label).observe(began.elapsed().as_secs_f64());
        if !outcome.expectations.is_empty() {
            let mut by_key = waiting.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            by_key.insert(key.clone(), (Instant::now(), outcome.expectations));
            drop(by_key);
            // The caches may have shown everything before it was written down here: look once more.
            self.queue.wake(key.clone());
        }
        match outcome.error {
            None => self.queue.succeeded(key),
            Some(error) => self.failed(key, &error, label),
        }
    }

    fn failed(&self, key: &Key, error: &super::apply::Error, label: &ControllerLabel) {
        metrics().errors.get_or_create(label).inc();
        let delay = self.queue.retry(key.clone());
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        if error.is_stale_view() {
            tracing::debug!(controller = self.name, %key, %error, ?delay, "planning again from a newer view");
        } else {
            tracing::warn!(controller = self.name, %key, %error, cause, ?delay, "action failed, trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::super::{EventSink, Probes};
    use super::*;

    #[test]
    fn a_key_whose_planning_takes_long_rests_in_proportion_and_no_other_does() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let [slow, quick] = ["slow", "quick"].map(|name| Key::new("default", name));
        waiting.planned(&slow, Duration::from_millis(100), now);
        waiting.planned(&quick, Duration::from_millis(1), now);
        assert_eq!(waiting.rest(&slow, now), Some(Duration::from_millis(300)));
        assert_eq!(waiting.rest(&slow, now + Duration::from_millis(299)), Some(Duration::from_millis(1)));
        assert_eq!(waiting.rest(&quick, now), None);
        assert_eq!(waiting.rest(&slow, now + Duration::from_millis(300)), None);
        assert!(waiting.rests.lock().is_ok_and(|rests| rests.is_empty()), "what is over is forgotten");
    }

    fn nobody() -> kube::Client {
        let answer = |_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>();
        kube::Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn a_panic_in_one_plan_stops_neither_the_worker_nor_the_key() {
        let (told, mut planned) = tokio::sync::mpsc::unbounded_channel();
        let client = nobody();
        let controller = Controller {
            name: "test",
            plan: Arc::new(move |key, _| {
                // The test may be over.
                let _ = told.send(key.name.clone());
                assert_ne!(key.name, "bad", "a plan that cannot be made");
                None
            }),
            trace: Arc::new(|_, _| None),
            target: Target {
                events: EventSink::start(client.clone(), "test"),
                client,
                probes: Probes::default(),
                controller: "test",
                reads_back: true,
                failed: None,
            },
            queue: Queue::default(),
        };
        let (queue, stop) = (controller.queue.clone(), CancellationToken::new());
        queue.wake(Key::new("default", "bad"));
        queue.wake(Key::new("default", "good"));
        let running = tokio::spawn(controller.run(1, stop.clone()));
        for expected in ["bad", "good", "bad"] {
            let next = tokio::time::timeout(Duration::from_secs(10), planned.recv()).await;
            assert_eq!(next.ok().flatten().as_deref(), Some(expected));
        }
        stop.cancel();
        assert!(running.await.is_ok());
    }
}
