//! Watches: a line of JSON per event, for as long as the client, its timeout or the server last.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use trainyard_runtime_core::store::{FieldCause, Object, StoreError, WatchEvent, WatchQuery};

use super::accept::{Media, View};
use super::call::Call;
use super::limit::{CHUNK_BYTES, WATCH_SECONDS, WATCH_STALL};
use super::stall::while_read;
use super::status::{ApiError, Subject};
use super::{answer, brief, now_ms, read, view};
use crate::store::{Watch, WatchOptions};
use crate::table;

pub(crate) fn watch(call: &Call) -> Result<Response, ApiError> {
    if call.form.media == Media::Yaml {
        return Err(ApiError::not_acceptable());
    }
    let params = &call.params;
    let selector = read::parsed(call)?;
    if params.send_initial_events.is_none() && !params.version_match.is_empty() {
        let why = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        return Err(match_refused(&params.version_match, why));
    }
    if params.send_initial_events.is_some() && params.version_match != "NotOlderThan" {
        let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(match_refused(&params.version_match, why));
    }
    read::known(call, &selector)?;
    let asked = read::version(&params.resource_version)?;
    let query = WatchQuery {
        namespace: read::namespace(call),
        selector,
        resource_version: asked,
        // Who wants bookmarks and says no version is told when he has seen everything; of events there are too many.
        send_initial: params
            .send_initial_events
            .or((params.bookmarks && asked.unwrap_or(0) == 0 && call.kind.plural != "events").then_some(true)),
    };
    let permit = permit(call)?;
    let options = WatchOptions { bookmarks: params.bookmarks };
    let events = match call.api.store.watch(&call.resource, query, options) {
        Ok(events) => events,
        // A version that is too old is told inside the stream, as the API server does: clients relist on it.
        Err(error @ StoreError::Expired { .. }) => {
            let line = error_line(&call.store_error(error));
            return Ok(answer::bytes(StatusCode::OK, "application/json", line));
        }
        Err(error) => return Err(call.store_error(error)),
    };
    let stream = Lines {
        events,
        call: call.clone(),
        header_sent: false,
        ends_at: ends_at(call),
        stopping: call.api.stopping.clone(),
        _open: OpenWatch::new(call.api.metrics.watches.clone()),
        sent: call.api.metrics.watch_events.clone(),
        _permit: permit,
    };
    let lines = stream.into_stream();
    // The controllers in this process read always.
    let body = if call.remote { Body::from_stream(while_read(lines, WATCH_STALL)) } else { Body::from_stream(lines) };
    Ok(answer::bytes(StatusCode::OK, "application/json", body))
}

/// A version is matched only where the initial events are asked for.
fn match_refused(version_match: &str, why: &str) -> ApiError {
    let cause = |reason: &'static str, message: String| FieldCause {
        field: "resourceVersionMatch".to_owned(),
        reason,
        message,
    };
    let mut causes = vec![cause("FieldValueForbidden", why.to_owned())];
    if !matches!(version_match, "" | "NotOlderThan") {
        let why = format!("Unsupported value: {version_match:?}: supported values: \"NotOlderThan\"");
        causes.push(cause("FieldValueNotSupported", why));
    }
    ApiError::invalid(Subject::new("meta.k8s.io", "ListOptions", ""), causes)
}

/// A place among the streams of sockets; the controllers in this process need none.
pub(crate) fn permit(call: &Call) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if !call.remote {
        return Ok(None);
    }
    let streams = std::sync::Arc::clone(&call.api.streams);
    let refused =
        |_| ApiError::too_many("too many watches and followed logs are open; close some, or try again later", 5);
    streams.try_acquire_owned().map(Some).map_err(refused)
}

/// When the watch ends by itself; never for the controllers in this process, whose client can wait for ever.
fn ends_at(call: &Call) -> Option<Instant> {
    let drawn = || rand::random_range(WATCH_SECONDS / 2..WATCH_SECONDS);
    match call.params.timeout_seconds {
        Some(seconds) if seconds > 0 => Some(Instant::now() + Duration::from_secs(seconds.min(24 * 3_600))),
        Some(_) | None => call.remote.then(|| Instant::now() + Duration::from_secs(drawn())),
    }
}

/// Counts a watch while it is open.
struct OpenWatch(Gauge);

impl OpenWatch {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct Lines {
    events: Watch,
    call: Call,
    /// Tables name their columns once.
    header_sent: bool,
    ends_at: Option<Instant>,
    stopping: CancellationToken,
    _open: OpenWatch,
    sent: Counter,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lines {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
        futures::stream::unfold(Some(self), |state| async move {
            let mut lines = state?;
            let (chunk, go_on) = lines.chunk().await?;
            Some((Ok(Bytes::from(chunk)), go_on.then_some(lines)))
        })
    }

    /// The next lines, and whether more may follow. Everything that is there already goes out in one piece.
    async fn chunk(&mut self) -> Option<(Vec<u8>, bool)> {
        let mut chunk = Vec::new();
        let mut event = self.wait().await?;
        loop {
            match event {
                Ok(event) => self.write(&event, &mut chunk),
                Err(error) => {
                    chunk.extend_from_slice(error_line(&self.call.store_error(error)).as_bytes());
                    return Some((chunk, false));
                }
            }
            if chunk.len() >= CHUNK_BYTES {
                return Some((chunk, true));
            }
            match self.events.try_next() {
                Some(next) => event = next,
                None => return Some((chunk, true)),
            }
        }
    }

    async fn wait(&mut self) -> Option<Result<WatchEvent, StoreError>> {
        let events = &mut self.events;
        let next = async {
            match self.ends_at {
                Some(at) => timeout_at(at, events.next()).await.ok().flatten(),
                None => events.next().await,
            }
        };
        tokio::select! {
            event = next => event,
            () = self.stopping.cancelled() => None,
        }
    }

    fn write(&mut self, event: &WatchEvent, chunk: &mut Vec<u8>) {
        // Who has not asked for bookmarks is not told either where the initial events end.
        if matches!(event, WatchEvent::Bookmark { .. }) && !self.call.params.bookmarks {
            return;
        }
        self.sent.inc();
        let (kind, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark { resource_version, initial_end } => {
                let bookmark = self.bookmark(*resource_version, *initial_end);
                line("BOOKMARK", &[&bookmark.to_string()], chunk);
                return;
            }
        };
        match (self.call.form.view, self.call.kind.stored_as) {
            // The watchers in this process do not look at them, and would read them all the same.
            (View::Whole | View::AggregatedDiscovery, None) if !self.call.remote => {
                let (before, behind) = brief::parts(object.json());
                line(kind, &[before, behind], chunk);
            }
            (View::Whole | View::AggregatedDiscovery, None) => line(kind, &[object.json()], chunk),
            _ => {
                let shown = self.shown(object);
                line(kind, &[&shown.to_string()], chunk);
            }
        }
    }

    fn shown(&mut self, object: &Object) -> Value {
        let viewed = self.call.kind.stored_as.map(|_| view::shown(self.call.kind, object.value()));
        let value = viewed.as_ref().unwrap_or_else(|| object.value());
        match self.call.form.view {
            View::Whole | View::AggregatedDiscovery => value.clone(),
            View::Partial | View::PartialList => table::partial(value),
            View::Table => {
                let with_header = !std::mem::replace(&mut self.header_sent, true);
                let rows = answer::rows(&self.call);
                let mut table = table::table(self.call.kind, [value], rows, with_header, now_ms());
                table["metadata"]["resourceVersion"] = value["metadata"]["resourceVersion"].clone();
                table
            }
        }
    }

    fn bookmark(&self, resource_version: u64, initial_end: bool) -> Value {
        let mut meta = json!({"resourceVersion": resource_version.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let kind = self.call.kind;
        match self.call.form.view {
            View::Whole | View::AggregatedDiscovery => {
                json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta})
            }
            View::Partial | View::PartialList => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            View::Table => {
                let empty = json!({"metadata": meta});
                let mut table = table::table(kind, [&empty], answer::rows(&self.call), false, now_ms());
                table["metadata"] = json!({"resourceVersion": resource_version.to_string()});
                table
            }
        }
    }
}

/// A line of an object in parts.
fn line(kind: &str, object: &[&str], chunk: &mut Vec<u8>) {
    chunk.reserve(object.iter().map(|part| part.len()).sum::<usize>() + 40);
    chunk.extend_from_slice(b"{\"type\":\"");
    chunk.extend_from_slice(kind.as_bytes());
    chunk.extend_from_slice(b"\",\"object\":");
    object.iter().for_each(|part| chunk.extend_from_slice(part.as_bytes()));
    chunk.extend_from_slice(b"}\n");
}

fn error_line(error: &ApiError) -> String {
    format!("{}\n", json!({"type": "ERROR", "object": error.to_value()}))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use http::Request;
    use tower::ServiceExt as _;

    use super::super::dispatch::Connection;
    use super::super::limit::STREAMS;
    use super::super::{Api, Caller, router, rules, seed};
    use super::*;
    use crate::auth::Tokens;
    use crate::metrics::Metrics;
    use crate::store::{Options, Resource, Store, WriteOptions};

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_does_not_read_gives_its_place_back() {
        let home = tempfile::tempdir().expect("a folder");
        let options = Options::new(home.path().join("store.db"), rules(crate::kinds::registry()));
        let store = Store::open(options).await.expect("opens");
        seed(&store).await.expect("seeded");
        let tokens = Tokens::default();
        let api = Arc::new(Api::new(store.clone(), home.path().to_owned(), Metrics::new(), tokens, false));
        let address = || "127.0.0.1:1".parse().expect("an address");
        let connection = Connection { peer: address(), local: address(), trusted: OnceLock::from(true) };
        let request =
            Request::builder().uri("/api/v1/namespaces/default/configmaps?watch=1").header("host", "localhost");
        let mut request = request.body(Body::empty()).expect("a request");
        request.extensions_mut().insert(Caller::Socket(Arc::new(connection)));
        let unread = router(Arc::clone(&api)).oneshot(request).await.expect("answered");
        assert_eq!((unread.status(), api.streams.available_permits()), (StatusCode::OK, STREAMS - 1));
        // More than what waits on the way.
        for name in ["a", "b", "c", "d"] {
            let map = json!({"metadata": {"name": name}});
            let configmaps = Resource::new("", "configmaps");
            store.create(&configmaps, "default", map, WriteOptions::default()).await.expect("created");
            // The watch sees each by itself.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let all = u32::try_from(STREAMS).expect("few");
        let given_back = tokio::time::timeout(WATCH_STALL * 2, api.streams.acquire_many(all)).await;
        assert!(given_back.is_ok(), "its place is free");
        drop(unread);
    }
}
