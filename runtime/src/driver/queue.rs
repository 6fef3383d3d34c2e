//! Coalesced wake-ups: many reasons to plan a key become one planning of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Key;

/// First delay after an error; doubled for each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// Longest delay after an error: an API server that comes back is noticed within this time.
const BACKOFF_LAST: Duration = Duration::from_secs(30);

/// A work queue of keys. A key is in it at most once, and is handed to one worker at a time: a wake-up during its
/// processing makes it come again afterwards.
#[derive(Clone, Default)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    processing: HashSet<Key>,
    again: HashSet<Key>,
    timers: BTreeSet<(Instant, Key)>,
    timer_of: BTreeMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl State {
    fn push(&mut self, key: Key) -> bool {
        if self.processing.contains(&key) {
            self.again.insert(key);
            return false;
        }
        if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
            return true;
        }
        false
    }

    fn cancel_timer(&mut self, key: &Key) {
        if let Some(at) = self.timer_of.remove(key) {
            self.timers.remove(&(at, key.clone()));
        }
    }

    fn take_due(&mut self, now: Instant) {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, key.clone()));
            self.timer_of.remove(&key);
            self.push(key);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Plan `key` as soon as a worker is free.
    pub fn wake(&self, key: Key) {
        if self.lock().push(key) {
            self.inner.notify.notify_one();
        }
    }

    /// Plan `key` in `delay`, unless it is woken earlier for a timer that is already set.
    pub fn wake_in(&self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.lock();
        if state.timer_of.get(&key).is_some_and(|set| *set <= at) {
            return;
        }
        state.cancel_timer(&key);
        state.timers.insert((at, key.clone()));
        state.timer_of.insert(key, at);
        drop(state);
        // Whoever sleeps until the earliest timer has to look again.
        self.inner.notify.notify_one();
    }

    /// Plan `key` again after a back-off that doubles with each failure in a row, with jitter so that keys which
    /// failed together do not come back together. Returns the delay.
    pub fn retry(&self, key: Key) -> Duration {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            *failures
        };
        let full = BACKOFF_FIRST.saturating_mul(1_u32 << failures.min(16).saturating_sub(1)).min(BACKOFF_LAST);
        let delay = full.mul_f64(rand::random_range(0.5..1.0));
        self.wake_in(key, delay);
        delay
    }

    /// `key` succeeded: its next failure starts with the shortest back-off.
    pub fn succeeded(&self, key: &Key) {
        self.lock().failures.remove(key);
    }

    /// Failures of `key` in a row.
    pub fn failures(&self, key: &Key) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key to plan; call [`Queue::done`] with it afterwards.
    pub async fn next(&self) -> Key {
        loop {
            let notified = self.inner.notify.notified();
            let until = {
                let mut state = self.lock();
                state.take_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.inner.notify.notify_one();
                    }
                    return key;
                }
                state.timers.first().map(|(at, _)| *at)
            };
            match until {
                Some(at) => {
                    tokio::select! { () = notified => {}, () = tokio::time::sleep_until(at) => {} }
                }
                None => notified.await,
            }
        }
    }

    /// Processing of `key` is over. If it was woken meanwhile, it is queued again.
    pub fn done(&self, key: &Key) {
        let mut state = self.lock();
        state.processing.remove(key);
        if state.again.remove(key) && state.push(key.clone()) {
            drop(state);
            self.inner.notify.notify_one();
        }
    }

    /// Keys that wait for a worker.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// No key waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[tokio::test]
    async fn coalesces_wakeups_and_never_hands_out_a_key_twice_at_once() {
        let queue = Queue::default();
        queue.wake(key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert!(queue.is_empty(), "a is still being processed");
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn wakes_at_the_earliest_timer() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.wake_in(key("a"), Duration::from_secs(3600));
        queue.wake_in(key("a"), Duration::from_millis(20));
        queue.wake_in(key("a"), Duration::from_secs(1800));
        assert_eq!(queue.next().await, key("a"));
        assert!(start.elapsed() >= Duration::from_millis(20));
        queue.done(&key("a"));
        let state = queue.lock();
        assert!(state.timers.is_empty() && state.timer_of.is_empty(), "one timer, one wake-up");
    }

    #[tokio::test]
    async fn backs_off_further_with_each_failure_and_starts_over_after_success() {
        let queue = Queue::default();
        let first = queue.retry(key("a"));
        let mut last = first;
        for _ in 0..30 {
            last = queue.retry(key("a"));
        }
        assert!(first <= BACKOFF_FIRST);
        assert!(last <= BACKOFF_LAST && last >= BACKOFF_LAST / 2);
        queue.succeeded(&key("a"));
        assert!(queue.retry(key("a")) <= BACKOFF_FIRST);
    }
}
