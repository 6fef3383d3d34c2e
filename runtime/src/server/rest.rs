//! What an answer left unread of its request: it is read before the answer goes out.
//!
//! A request that is refused by its head is answered before its body is there. The connection would then be closed under
//! the client, whose next request on it finds nobody.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// As much as Go's server reads on: a larger rest costs more than a new connection.
const REST_BYTES: usize = 256 * 1024;
/// A client that has sent the head sends the body at once.
pub(super) const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// A request's body that can be taken up again behind its reader.
#[derive(Debug)]
pub(super) struct Shared<B>(Arc<Mutex<Body<B>>>);

#[derive(Debug)]
struct Body<B> {
    body: B,
    /// Whether anybody has asked for it, and so told a client that waits for that to send it.
    begun: bool,
}

impl<B: HttpBody<Data = Bytes> + Unpin> Shared<B> {
    pub(super) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(Body { body, begun: false })))
    }

    /// The other handle to the same body.
    pub(super) fn again(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Reads what is left, if that is worth it. Whether that was all, and the connection can be used again.
    ///
    /// `expects`: the client sends the body only when it is asked for it. It is not asked for what nobody wants.
    pub(super) async fn read_out(mut self, expects: bool) -> bool {
        let (unread, ended) = self.with(|body| (!body.begun, body.body.is_end_stream()));
        let least = usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX);
        if !ended && (least > REST_BYTES || (expects && unread)) {
            return false;
        }
        let all = async {
            let mut left = REST_BYTES;
            while let Some(frame) = self.frame().await {
                let Ok(frame) = frame else { return false };
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else { return false };
                left = rest;
            }
            true
        };
        timeout(REST_TIMEOUT, all).await.unwrap_or(false)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Body<B>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Shared<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.with(|Body { body, begun }| {
            if body.is_end_stream() {
                return Poll::Ready(None);
            }
            *begun = true;
            Pin::new(body).poll_frame(context)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.body.size_hint())
    }
}
