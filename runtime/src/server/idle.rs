//! Connections on which nothing is asked are closed: each one holds a place that somebody else may need.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::timeout;

/// The requests in flight on one connection.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    requests: watch::Sender<usize>,
    /// Has seen the beginning, when there was none.
    beginning: watch::Receiver<usize>,
}

impl Activity {
    pub(super) fn new() -> Self {
        let (requests, beginning) = watch::channel(0);
        Self { requests, beginning }
    }

    /// One more request, until the guard is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.requests.send_modify(|requests| *requests += 1);
        Busy(self.requests.clone())
    }

    /// Waits until there was no request for so long: `first` while there was none at all, `later` between them. Says which.
    pub(super) async fn idle(&self, first: Duration, later: Duration) -> Duration {
        let mut requests = self.beginning.clone();
        let mut limit = first;
        loop {
            if requests.has_changed().unwrap_or(false) {
                limit = later;
            }
            let busy = *requests.borrow_and_update() > 0;
            let changed = requests.changed();
            if busy {
                // Cannot fail: we hold a sender.
                let _ = changed.await;
            } else if timeout(limit, changed).await.is_err() {
                return limit;
            }
            limit = later;
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Busy(watch::Sender<usize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

/// The body of an answer: its request is in flight until the last of it is handed on.
pub(super) struct Held {
    body: Body,
    _busy: Busy,
}

impl Held {
    pub(super) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
