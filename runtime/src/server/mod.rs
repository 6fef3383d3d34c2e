//! The embedded Kubernetes API server: one router, served by sockets and by the in-process client alike.

mod accept;
pub(crate) mod access;
mod admit;
pub(crate) mod answer;
mod bind;
mod body;
mod brief;
pub(crate) mod call;
mod check;
mod delete;
pub(crate) mod dispatch;
mod duplicate;
pub(crate) mod guest;
mod identity;
mod idle;
pub(crate) mod limit;
pub(crate) mod listen;
mod patch;
mod priority;
mod protobuf;
pub(crate) mod query;
mod quota;
mod read;
mod rest;
pub(crate) mod route;
mod rules;
mod scale;
mod seed;
mod service_ip;
pub(crate) mod stall;
pub(crate) mod status;
mod view;
pub(crate) mod watch;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::auth::Tokens;
use crate::discovery::Documents;
use crate::metrics::{Metrics, ServerMetrics};
use crate::store::Store;

pub(crate) use dispatch::Caller;
use guest::Guest;
pub(crate) use rules::rules;
pub(crate) use seed::seed;

/// What every request handler sees.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) home: PathBuf,
    pub(crate) registry: Metrics,
    pub(crate) metrics: ServerMetrics,
    pub(crate) documents: Documents,
    pub(crate) tokens: Tokens,
    /// Nobody gets in without a token, not even the owner's own processes.
    pub(crate) tokens_demanded: bool,
    /// Watches and followed logs of sockets at a time.
    pub(crate) streams: Arc<Semaphore>,
    /// Ends watches and followed logs.
    pub(crate) stopping: CancellationToken,
    /// One at a time counts against a quota and then creates.
    pub(crate) quota_gate: Mutex<()>,
    /// One at a time looks for a free address and then creates.
    pub(crate) address_gate: Mutex<()>,
    /// Services of other parts at our address.
    pub(crate) guests: RwLock<Vec<Guest>>,
}

impl Api {
    pub(crate) fn new(store: Store, home: PathBuf, registry: Metrics, tokens: Tokens, tokens_demanded: bool) -> Self {
        Self {
            store,
            home,
            metrics: ServerMetrics::register(&registry),
            registry,
            documents: Documents::default(),
            tokens,
            tokens_demanded,
            streams: Arc::new(Semaphore::new(limit::STREAMS)),
            stopping: CancellationToken::new(),
            quota_gate: Mutex::new(()),
            address_gate: Mutex::new(()),
            guests: RwLock::default(),
        }
    }
}

impl Api {
    /// The guest that has a path.
    fn guest(&self, path: &str) -> Option<Guest> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.iter().find(|guest| path.starts_with(guest.prefix)).cloned()
    }

    /// Answers at our address for another part from now on.
    pub(crate) fn admit(&self, guest: Guest) {
        self.guests.write().unwrap_or_else(PoisonError::into_inner).push(guest);
    }
}

/// The router: everything is one fallback, since the paths are data (the kind registry), not code.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(dispatch::handle).with_state(api)
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
