//! Who is connected to the store and what they have done: written by the server's thread, read by anybody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trainyard_worker_core::c10d::ClientId;

/// One connection to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its other end.
    pub address: SocketAddr,
    /// When it was accepted, in milliseconds since the epoch.
    pub connected_ms: i64,
    /// When the last request came; `None` before the first.
    pub last_request_ms: Option<i64>,
    /// Requests so far.
    pub requests: u64,
    /// The key that it waits for now, as text.
    pub waits_for: Option<String>,
}

/// All connections, and how many requests there were in all.
#[derive(Debug, Default)]
pub(super) struct Roll {
    requests: AtomicU64,
    /// Locked when somebody comes or goes, and by readers; not by requests.
    present: Mutex<BTreeMap<ClientId, Arc<Activity>>>,
}

impl Roll {
    pub(super) fn enter(&self, id: ClientId, address: SocketAddr, now_ms: i64) -> Arc<Activity> {
        let activity = Arc::new(Activity {
            address,
            connected_ms: now_ms,
            last_request_ms: AtomicI64::new(i64::MIN),
            requests: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            waits_for: Mutex::new(Vec::new()),
        });
        locked(&self.present).insert(id, activity.clone());
        activity
    }

    pub(super) fn leave(&self, id: ClientId) {
        locked(&self.present).remove(&id);
    }

    pub(super) fn count(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn clients(&self) -> Vec<Client> {
        let present: Vec<Arc<Activity>> = locked(&self.present).values().cloned().collect();
        present.iter().map(|activity| activity.read()).collect()
    }
}

/// What one connection has done.
#[derive(Debug)]
pub(super) struct Activity {
    address: SocketAddr,
    connected_ms: i64,
    last_request_ms: AtomicI64,
    requests: AtomicU64,
    waits: AtomicBool,
    /// Of the newest wait.
    waits_for: Mutex<Vec<u8>>,
}

impl Activity {
    pub(super) fn asked(&self, requests: u64, now_ms: i64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.last_request_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn waits_for(&self, key: &[u8]) {
        let mut held = locked(&self.waits_for);
        held.clear();
        held.extend_from_slice(key);
        drop(held);
        self.waits.store(true, Ordering::Release);
    }

    /// An answer goes out, so nothing is waited for.
    pub(super) fn answered(&self) {
        self.waits.store(false, Ordering::Release);
    }

    fn read(&self) -> Client {
        let last = self.last_request_ms.load(Ordering::Relaxed);
        let waits = self.waits.load(Ordering::Acquire);
        Client {
            address: self.address,
            connected_ms: self.connected_ms,
            last_request_ms: (last != i64::MIN).then_some(last),
            requests: self.requests.load(Ordering::Relaxed),
            waits_for: waits.then(|| String::from_utf8_lossy(&locked(&self.waits_for)).into_owned()),
        }
    }
}

/// What a panicked thread left is whole: each change is one assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
