//! From a request to its answer: who asks, may they, and which verb it is.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::json;
use tracing::Instrument as _;

use super::accept::{self, Form};
use super::call::{self, Call};
use super::query::Params;
use super::route::{ResourcePath, Route};
use super::rules::stored;
use super::status::ApiError;
use super::{Api, access, answer, bind, body, delete, patch, read, scale, watch, write};
use crate::auth::origin::{self, Foreign};
use crate::auth::{Attributes, User, allowed};
use crate::metrics::{CONTENT_TYPE, RequestLabels, VerbLabels};
use crate::{discovery, podlog, sockets};

/// Where a request came from; every transport puts one into the request's extensions.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// This process.
    Internal,
    /// A connection.
    Socket(Arc<Connection>),
}

/// What is known of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Our end.
    pub(crate) local: SocketAddr,
    /// Whether the peer's process is this user's (or root's), found out when it is first asked.
    pub(crate) trusted: OnceLock<bool>,
}

impl Connection {
    fn is_trusted(&self) -> bool {
        *self.trusted.get_or_init(|| {
            let (ours, theirs) = (sockets::own_uid(), sockets::peer_uid(self.peer, self.local));
            self.peer.ip().to_canonical().is_loopback() && theirs.is_some() && (theirs == ours || theirs == Some(0))
        })
    }
}

/// The one handler.
pub(super) async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut label = Label::default();
    let response = match answer(&api, parts, body, &mut label).await {
        Ok(response) => response,
        Err(error) => {
            if error.code().is_server_error() {
                tracing::error!(
                    verb = label.verb,
                    resource = label.resource,
                    message = error.message(),
                    "request failed"
                );
            }
            error.into_response()
        }
    };
    let labels = RequestLabels { verb: label.verb, resource: label.resource, code: response.status().as_u16() };
    api.metrics.requests.get_or_create(&labels).inc();
    if label.verb != "watch" {
        api.metrics.latency.get_or_create(&VerbLabels { verb: label.verb }).observe(started.elapsed().as_secs_f64());
    }
    response
}

/// What the metrics say of a request. Only known resources are named, so that clients cannot make up labels.
struct Label {
    verb: &'static str,
    resource: String,
}

impl Default for Label {
    fn default() -> Self {
        Self { verb: "get", resource: "-".to_owned() }
    }
}

async fn answer(api: &Arc<Api>, parts: Parts, body: axum::body::Body, label: &mut Label) -> Result<Response, ApiError> {
    let route = Route::parse(parts.uri.path());
    let (user, remote) = authenticate(api, &parts, &route)?;
    if route == Route::Unknown
        && let Some(guest) = api.guest(parts.uri.path())
    {
        let verb = if guest.reads.contains(&parts.uri.path()) { "list" } else { "update" };
        let (group, resource) = guest.kind;
        let asked = Attributes { verb, group, resource, subresource: "", namespace: "" };
        allowed(&user, &asked).map_err(ApiError::refused)?;
        return Ok((guest.answer)(Request::from_parts(parts, body)).await);
    }
    let form = accept::negotiate(parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()));
    match &route {
        Route::Resource(path) => {
            let request = Asked { api, parts: &parts, user, remote, form: form? };
            resource(request, path.clone(), body, label).await
        }
        Route::Metrics => Ok(answer::bytes(StatusCode::OK, CONTENT_TYPE, api.registry.encode())),
        Route::Health => Ok(health(api)),
        Route::Root
        | Route::CoreVersions
        | Route::Groups
        | Route::Group(_)
        | Route::GroupVersion(_)
        | Route::Version
        | Route::OpenApiV2
        | Route::OpenApiV3Index
        | Route::OpenApiV3(_)
        | Route::Unknown => {
            if parts.method != Method::GET && parts.method != Method::HEAD {
                return Err(ApiError::method_not_allowed());
            }
            // OpenAPI clients accept media types of their own; the documents say what they are.
            let openapi = matches!(route, Route::OpenApiV2 | Route::OpenApiV3Index | Route::OpenApiV3(_));
            let form = if openapi { form.unwrap_or_default() } else { form? };
            let found = discovery::answer(&api.documents, &route, form.into(), &parts.headers, parts.uri.query());
            match (found, &route) {
                (Some(found), _) => Ok(found),
                // A group that exists says so, whatever the version.
                (None, Route::GroupVersion(gv)) if known_group(&gv.group) => Err(ApiError::no_such_path()),
                (None, _) => Ok(nothing_here()),
            }
        }
    }
}

/// A server whose store takes no writes is neither ready nor alive: only a restart helps.
fn health(api: &Api) -> Response {
    let (code, said) = if api.store.has_ended() {
        (StatusCode::INTERNAL_SERVER_ERROR, "[-]store failed: nothing can be written; restart the server")
    } else {
        (StatusCode::OK, "ok")
    };
    answer::bytes(code, "text/plain; charset=utf-8", said)
}

/// Whether Kubernetes' own router has the group; custom resources have none of their own.
fn known_group(group: &str) -> bool {
    crate::kinds::registry().iter().any(|kind| kind.builtin && kind.group == group)
}

/// What Go's router says of a path that nobody registered; resources of known groups get a Status instead.
fn nothing_here() -> Response {
    answer::bytes(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

impl From<Form> for discovery::Wish {
    fn from(form: Form) -> Self {
        Self { aggregated: form.view == accept::View::AggregatedDiscovery, yaml: form.media == accept::Media::Yaml }
    }
}

/// Who asks. A valid token counts for itself; without one a local peer of the same user is the owner.
fn authenticate(api: &Api, parts: &Parts, route: &Route) -> Result<(Arc<User>, bool), ApiError> {
    let connection = match parts.extensions.get::<Caller>() {
        Some(Caller::Internal) => return Ok((Arc::new(User::owner()), false)),
        Some(Caller::Socket(connection)) => connection,
        // A transport that does not say who calls is a bug; nobody gets in through it.
        None => return Err(ApiError::unauthorized("Unauthorized")),
    };
    let text = |name: header::HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(token) = text(header::AUTHORIZATION).and_then(bearer) {
        let user =
            api.tokens.user(token).ok_or_else(|| ApiError::unauthorized("Unauthorized: the token is not known"))?;
        return Ok((Arc::new(user.clone()), true));
    }
    let host = text(header::HOST).or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let fetch_site = parts.headers.get("sec-fetch-site").and_then(|v| v.to_str().ok());
    origin::check(host, text(header::ORIGIN), fetch_site).map_err(|foreign| match foreign {
        Foreign::Host => {
            ApiError::refused("the Host header names no loopback address; show a token to use another name")
        }
        Foreign::Origin => ApiError::refused("requests of other web pages are refused; show a token to allow them"),
    })?;
    if !api.tokens_demanded && connection.is_trusted() {
        return Ok((Arc::new(User::owner()), true));
    }
    // Probes carry no token and learn nothing.
    if *route == Route::Health {
        return Ok((
            Arc::new(User { name: "system:anonymous".to_owned(), roles: std::collections::BTreeMap::new() }),
            true,
        ));
    }
    let how =
        if api.tokens_demanded { "show a token" } else { "connect as the user who runs the server, or show a token" };
    Err(ApiError::unauthorized(format!("Unauthorized: {how}")))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

struct Asked<'a> {
    api: &'a Arc<Api>,
    parts: &'a Parts,
    user: Arc<User>,
    remote: bool,
    form: Form,
}

async fn resource(
    asked: Asked<'_>,
    path: ResourcePath,
    body: axum::body::Body,
    label: &mut Label,
) -> Result<Response, ApiError> {
    let headers = &asked.parts.headers;
    let params = Params::parse(asked.parts.uri.query().unwrap_or_default(), &asked.parts.method)?;
    if let Some(kind) = access::review(&path) {
        if asked.parts.method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        let bytes = body::read(body, headers).await?;
        return access::answer(kind, &asked.user, asked.form, &body::content_type(headers), &bytes);
    }
    if crate::kinds::registry().of(&path.gv.group, &path.gv.version).next().is_none() {
        // A group answers for the versions that it does not have.
        return if known_group(&path.gv.group) { Err(ApiError::no_such_path()) } else { Ok(nothing_here()) };
    }
    let kind = call::resolve(&path)?;
    label.resource = match &path.subresource {
        Some(subresource) => format!("{}/{subresource}", kind.plural),
        None => kind.plural.to_owned(),
    };
    let verb = call::verb(&asked.parts.method, kind, &path, &params)?;
    label.verb = verb;
    let manager = call::manager(&params, headers);
    let call = Call {
        api: Arc::clone(asked.api),
        kind,
        resource: stored(kind),
        namespace: path.namespace.unwrap_or_default(),
        name: path.name.unwrap_or_default(),
        subresource: path.subresource.unwrap_or_default(),
        params,
        form: asked.form,
        manager,
        user: asked.user,
        remote: asked.remote,
    };
    authorize(&call, verb)?;
    let response = run(&call, verb, headers, body).instrument(span(headers, verb, &label.resource)).await;
    tracing::debug!(
        verb,
        resource = label.resource,
        namespace = call.namespace,
        name = call.name,
        user = call.user.name,
        code = response.as_ref().map_or_else(|error| error.code().as_u16(), |r| r.status().as_u16()),
        "request"
    );
    response
}

/// A caller that shows its trace gets a span in it. Others cost nothing: the control plane's own writes have spans where
/// they are decided.
fn span(headers: &HeaderMap, verb: &'static str, resource: &str) -> tracing::Span {
    let Some(parent) = headers.get("traceparent").filter(|_| verb != "watch") else { return tracing::Span::none() };
    let span =
        tracing::info_span!("api", verb, resource, otel.name = format!("API {verb} {resource}"), otel.kind = "server");
    crate::trace::adopt(&span, parent.to_str().ok());
    span
}

fn authorize(call: &Call, verb: &str) -> Result<(), ApiError> {
    // A namespace is governed by the roles in it.
    let own_namespace = call.kind.group.is_empty() && call.kind.plural == "namespaces";
    let attributes = Attributes {
        verb,
        group: call.kind.group,
        resource: call.kind.plural,
        subresource: &call.subresource,
        namespace: if own_namespace { &call.name } else { &call.namespace },
    };
    allowed(&call.user, &attributes).map_err(|why| ApiError::forbidden(call.subject(), &why))
}

async fn run(call: &Call, verb: &str, headers: &HeaderMap, body: axum::body::Body) -> Result<Response, ApiError> {
    match (verb, call.subresource.as_str()) {
        ("get", "" | "status") => return read::get(call),
        ("get", "scale") => return scale::get(call),
        ("get", "log") => return podlog::answer(call).await,
        ("list", _) => return read::list(call),
        ("watch", _) => return watch::watch(call),
        _ => {}
    }
    let content_type = body::content_type(headers);
    if let Some(refused) = &call.params.refused {
        if verb == "patch" {
            patch::supported(call, &content_type)?;
        } else if matches!(verb, "create" | "update") {
            body::supported(&content_type)?;
        }
        return Err(refused.clone());
    }
    let bytes: Bytes = body::read(body, headers).await?;
    match (verb, call.subresource.as_str()) {
        ("create", "") => write::create(call, &content_type, &bytes).await,
        ("create", "binding") => bind::bind(call, &content_type, &bytes).await,
        ("create", "eviction") => bind::evict(call, &content_type, &bytes).await,
        ("update", "" | "status" | "finalize") => write::update(call, &content_type, &bytes).await,
        ("patch", "" | "status") => patch::patch(call, &content_type, &bytes).await,
        ("update" | "patch", "scale") => scale::write(call, verb, &content_type, &bytes).await,
        ("delete", "") => delete::delete(call, &content_type, &bytes).await,
        ("deletecollection", "") => delete::collection(call, &content_type, &bytes).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// `/`: the paths, as `kubectl get --raw /` shows them.
pub(crate) fn paths() -> serde_json::Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in crate::kinds::registry().groups() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    json!({"paths": paths})
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::super::router;
    use super::*;
    use crate::auth::Tokens;
    use crate::metrics::Metrics;
    use crate::store::{Options, Store};

    #[tokio::test]
    async fn a_server_that_cannot_write_is_not_healthy() {
        let home = tempfile::tempdir().expect("a folder");
        let store = Store::open(Options::new(home.path().join("store.db"), Vec::new())).await.expect("opens");
        let tokens = Tokens::default();
        let api = Arc::new(Api::new(store.clone(), home.path().to_owned(), Metrics::new(), tokens, false));
        let codes = async || {
            let mut codes = Vec::new();
            for path in ["/readyz", "/livez", "/healthz"] {
                let mut request = Request::builder().uri(path).body(Body::empty()).expect("a request");
                request.extensions_mut().insert(Caller::Internal);
                let answer = router(Arc::clone(&api)).oneshot(request).await.expect("answered");
                codes.push(answer.status().as_u16());
            }
            codes
        };
        assert_eq!(codes().await, [200; 3]);
        store.break_writer().await;
        assert_eq!(codes().await, [500; 3]);
    }
}
