//! Sockets in front of the router: bounded connections, optional TLS, a graceful end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::dispatch::{Caller, Connection};
use super::idle::{Activity, Held};
use super::limit::{CONNECTIONS, DRAIN, H2_STREAMS, HEAD_BYTES, HEAD_TIMEOUT, IDLE_TIMEOUT, WRITE_STALL};
use super::rest::Shared;
use super::stall::Stalling;

/// What every connection of a listener shares.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Accepts until the server stops.
pub(crate) async fn accept(listener: Arc<TcpListener>, front: Front) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = front.stopping.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a peer that left at once: others may still come in.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit = CONNECTIONS, "too many connections; one was closed");
            continue;
        };
        let connection = front.clone();
        front.tasks.spawn(async move {
            let _place = place;
            if let Err(error) = connection.run(stream, peer).await {
                tracing::debug!(%peer, error, "connection ended");
            }
        });
    }
}

impl Front {
    async fn run(self, stream: TcpStream, peer: SocketAddr) -> Result<(), String> {
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        // Watch events are small and somebody waits for each.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let caller = Caller::Socket(Arc::new(Connection { peer, local, trusted: OnceLock::new() }));
        let stream = Stalling::new(stream, WRITE_STALL);
        match self.tls.clone() {
            None => self.speak(stream, caller).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await;
                let stream =
                    handshake.map_err(|_| "no TLS handshake".to_owned())?.map_err(|error| error.to_string())?;
                self.speak(stream, caller).await
            }
        }
    }

    async fn speak<S>(self, stream: S, caller: Caller) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let activity = Activity::new();
        let counted = activity.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = counted.begin();
            let (head, body) = request.into_parts();
            let body = Shared::new(body);
            // A stream of HTTP/2 ends without its connection.
            let rest = (head.version < Version::HTTP_2).then(|| body.again());
            let expects = head.headers.contains_key(EXPECT);
            let mut request = Request::from_parts(head, Body::new(body));
            request.extensions_mut().insert(caller.clone());
            let answered = router.clone().oneshot(request);
            async move {
                let mut answer = answered.await?;
                if let Some(rest) = rest
                    && !rest.read_out(expects).await
                {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Held::new(body, busy)))
            }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        // For the builder the rest between two requests belongs to the head of the second.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            // A peer whose machine went away would otherwise hold its watches for ever.
            .keep_alive_interval(HEAD_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // The builder's own limit begins when it knows the protocol, and a peer need not say anything.
        let patience = tokio::select! {
            done = connection.as_mut() => return done.map_err(|error| error.to_string()),
            waited = activity.idle(HEAD_TIMEOUT, IDLE_TIMEOUT) => waited,
            () = self.stopping.cancelled() => DRAIN,
        };
        connection.as_mut().graceful_shutdown();
        let drained = async {
            self.stopping.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            done = connection => done.map_err(|error| error.to_string()),
            () = tokio::time::sleep(patience) => Err("did not finish in time".to_owned()),
            () = drained => Err("did not finish before the server stopped".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::routing::{get, post};
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, sleep};

    use super::super::rest::REST_TIMEOUT;
    use super::*;

    const ASK: &[u8] = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A connection to a server that answers `/quick` at once, `/slow` after an hour, `/large` at length, and `/echo` what it
    /// is sent.
    fn connected() -> DuplexStream {
        connected_until(CancellationToken::new())
    }

    fn connected_until(stopping: CancellationToken) -> DuplexStream {
        let slow = || async {
            sleep(Duration::from_secs(3_600)).await;
            "slow"
        };
        let router = Router::new()
            .route("/quick", get(|| async { "quick" }))
            .route("/slow", get(slow))
            .route("/large", get(|| async { vec![b'x'; 1 << 20] }))
            .route("/echo", post(|body: Bytes| async { body }));
        let front = Front { router, tls: None, stopping, tasks: TaskTracker::new() };
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(front.speak(Stalling::new(theirs, WRITE_STALL), Caller::Internal));
        ours
    }

    /// Until the server closes.
    async fn rest(mut client: DuplexStream) -> (String, Duration) {
        let began = Instant::now();
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.expect("an end");
        (String::from_utf8_lossy(&said).into_owned(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_let_go() {
        for said in [&b""[..], b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /quick HT", b"\0\0"] {
            let mut client = connected();
            client.write_all(said).await.expect("taken");
            let (_, waited) = rest(client).await;
            assert!(waited <= HEAD_TIMEOUT * 3, "{said:?}: {waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_rest_between_requests_but_not_for_ever() {
        let mut client = connected();
        for _ in 0..3 {
            client.write_all(ASK).await.expect("taken");
            let mut answer = [0; 1_024];
            let length = client.read(&mut answer).await.expect("answered");
            assert!(answer[..length].ends_with(b"quick"), "{:?}", String::from_utf8_lossy(&answer[..length]));
            // As long as Go's clients keep an idle one.
            sleep(Duration::from_secs(90)).await;
        }
        let (_, waited) = rest(client).await;
        assert!(waited <= IDLE_TIMEOUT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_long_is_not_idleness() {
        let mut client = connected();
        client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("taken");
        let (answer, _) = rest(client).await;
        assert!(answer.ends_with("slow"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_is_let_go() {
        let mut client = connected();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("taken");
        sleep(WRITE_STALL * 2).await;
        let (answer, waited) = rest(client).await;
        assert!(answer.len() < 1 << 20 && waited < HEAD_TIMEOUT, "{} bytes after {waited:?}", answer.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_refused_by_its_head_leaves_the_connection_usable() {
        let mut client = connected();
        for _ in 0..2 {
            client.write_all(b"POST /absent HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n").await.expect("taken");
            sleep(Duration::from_millis(10)).await;
            client.write_all(b"body").await.expect("taken");
        }
        client.write_all(ASK).await.expect("taken");
        let (answers, _) = rest(client).await;
        assert!(answers.matches("404 Not Found").count() == 2 && answers.ends_with("quick"), "{answers}");
    }

    /// Whoever asks before sending is answered once, and is not asked for what nobody reads.
    #[tokio::test(start_paused = true)]
    async fn a_refused_body_that_waits_to_be_asked_for_is_not_asked_for() {
        let mut client = connected();
        let head = b"POST /absent HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        client.write_all(head).await.expect("taken");
        let (said, waited) = rest(client).await;
        assert!(said.starts_with("HTTP/1.1 404 Not Found") && said.contains("connection: close"), "{said}");
        assert!(waited < REST_TIMEOUT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_asked_for_and_read_leaves_the_connection_usable() {
        let mut client = connected();
        let head = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        client.write_all(head).await.expect("taken");
        let mut asked = [0; 1_024];
        let length = client.read(&mut asked).await.expect("answered");
        assert!(
            asked[..length].starts_with(b"HTTP/1.1 100 Continue"),
            "{:?}",
            String::from_utf8_lossy(&asked[..length])
        );
        client.write_all(b"body").await.expect("taken");
        client.write_all(ASK).await.expect("taken");
        let (said, _) = rest(client).await;
        assert!(said.contains("body") && said.ends_with("quick"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_to_read_out_is_not_waited_for() {
        let mut client = connected();
        client.write_all(b"POST /absent HTTP/1.1\r\nhost: x\r\ncontent-length: 262145\r\n\r\n").await.expect("taken");
        let (said, waited) = rest(client).await;
        assert!(said.contains("404 Not Found") && said.contains("connection: close"), "{said}");
        assert!(waited < REST_TIMEOUT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_being_let_go_does_not_hold_up_the_end() {
        let stopping = CancellationToken::new();
        let mut client = connected_until(stopping.clone());
        client.write_all(b"GET /quick HT").await.expect("taken");
        sleep(HEAD_TIMEOUT + Duration::from_millis(1)).await;
        stopping.cancel();
        let (_, waited) = rest(client).await;
        assert!(waited <= DRAIN + Duration::from_millis(1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_too_much_left_unread_is_closed_and_says_so() {
        let mut client = connected();
        client.write_all(b"POST /absent HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").await.expect("taken");
        let (mut answer, mut body) = tokio::io::split(client);
        tokio::spawn(async move { while body.write_all(&[b'x'; 4_096]).await.is_ok() {} });
        let mut said = Vec::new();
        answer.read_to_end(&mut said).await.expect("an end");
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("404 Not Found") && said.contains("connection: close"), "{said}");
    }
}
