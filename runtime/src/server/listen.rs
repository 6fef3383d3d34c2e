//! Sockets in front of the router: bounded connections, optional TLS, a graceful end.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use http::Request;
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
use super::limit::{CONNECTIONS, DRAIN, H2_STREAMS, HEAD_BYTES, HEAD_TIMEOUT};

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
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(caller.clone());
            router.clone().oneshot(request)
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            // A peer whose machine went away would otherwise hold its watches for ever.
            .keep_alive_interval(HEAD_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            done = connection.as_mut() => return done.map_err(|error| error.to_string()),
            () = self.stopping.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        match tokio::time::timeout(DRAIN, connection).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err("did not finish in time".to_owned()),
        }
    }
}
