//! Carries actions out through a `kube::Client`. It decides nothing: what counts as done is written at each action in
//! `trainyard_proto::plan`.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http::HeaderValue;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ObjectMeta, Request, Status};
use serde_json::{Value, json};
use tracing::Instrument as _;
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use super::cache::{Expectation, Probes};
use super::event::EventSink;
use super::{Key, metrics};

/// Writes in flight for one plan. Servers commit what comes at the same time together, so more in flight is faster, up to the size of such
/// a group: ten thousand pods came to a real API server at 421 a second with 32, and at 578 and 634 with 64 (docs/figures/cluster-scale.md).
/// A real server's priority and fairness holds a service account back at a few times as many.
const PARALLEL: usize = 64;
/// Longest time for one action. Kubernetes gives up on a request after 60 s; an answer that comes later than this belongs
/// to a plan that is better made anew.
const ACTION_LIMIT: Duration = Duration::from_secs(30);
/// Longest time for one look at what became of a write.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long is waited before each look at what became of a write that was not answered.
const LOOKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// An action that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is another one than the plan saw: planning again from a newer view is the answer.
    #[error("{verb} {kind} {key}: it changed since it was looked at")]
    Superseded {
        /// What was tried.
        verb: &'static str,
        /// On what kind.
        kind: String,
        /// On which object.
        key: Key,
    },
    /// An object of that name exists and belongs to somebody else.
    #[error("{kind} {key} exists and is not ours; rename the job, or delete that object")]
    Taken {
        /// Of which kind.
        kind: String,
        /// Which object.
        key: Key,
    },
    /// An object of that name is still on its way out.
    #[error("{kind} {key} of an earlier time is still being deleted")]
    StillLeaving {
        /// Of which kind.
        kind: String,
        /// Which object.
        key: Key,
    },
    /// The body that the core made is no Kubernetes object.
    #[error("{kind} {key} cannot be written as an object")]
    Body {
        /// Of which kind.
        kind: String,
        /// Which object.
        key: Key,
        /// What serde says.
        source: serde_json::Error,
    },
    /// The API server did not answer in time. Whether it acted is unknown; the next plan is made from what it shows.
    #[error("{verb} {kind} {key}: no answer within {} s", ACTION_LIMIT.as_secs())]
    NoAnswer {
        /// What was tried.
        verb: &'static str,
        /// On what kind.
        kind: String,
        /// On which object.
        key: Key,
    },
    /// The API server refused, or could not be reached.
    #[error("{verb} {kind} {key}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what kind.
        kind: String,
        /// On which object.
        key: Key,
        /// What it said.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// A newer view makes it go away, so it is not worth a warning.
    pub fn is_stale_view(&self) -> bool {
        match self {
            Self::Superseded { .. } | Self::StillLeaving { .. } => true,
            Self::Taken { .. } | Self::Body { .. } | Self::NoAnswer { .. } | Self::Api { .. } => false,
        }
    }

    /// It may have been carried out all the same: nobody answered, or not whoever would know.
    fn is_unclear(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Api { source, .. } => status_of(source).is_none_or(|status| status.code >= 500),
            Self::Superseded { .. } | Self::Taken { .. } | Self::StillLeaving { .. } | Self::Body { .. } => false,
        }
    }

    /// Why an object will not be made until somebody changes something: the server's words, or whose the name is.
    pub fn refused_create(&self) -> Option<String> {
        match self {
            Self::Api { verb: "create", source, .. } => {
                status_of(source).filter(|status| is_refusal(status)).map(|status| status.message.clone())
            }
            Self::Taken { kind, key, .. } => {
                Some(format!("{kind} {} is there already, and belongs to something else", key.name))
            }
            Self::Superseded { .. }
            | Self::StillLeaving { .. }
            | Self::Body { .. }
            | Self::NoAnswer { .. }
            | Self::Api { .. } => None,
        }
    }
}

/// Told of each action that failed, with what it was about.
pub type FailedFn = Arc<dyn Fn(&ObjectRef, &Error) + Send + Sync>;

/// Where actions go.
#[derive(Clone)]
pub struct Target {
    /// The API server.
    pub client: kube::Client,
    /// Caches that will show what was written.
    pub probes: Probes,
    /// Takes events.
    pub events: EventSink,
    /// Who writes, for metrics and the field manager.
    pub controller: &'static str,
    /// Whether a pod that was bound is read back: the version that a binding made is not in its answer. On a cluster that would be
    /// a third request for each pod.
    pub reads_back: bool,
    /// Who wants to know what failed, besides the controller itself, which tries again.
    pub failed: Option<FailedFn>,
}

/// How far a plan got.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the caches have to show before the key is planned again.
    pub expectations: Vec<Expectation>,
    /// The first action that failed; the ones after it were not tried.
    pub error: Option<Error>,
}

/// The verb of an action, for metrics and logs.
pub(super) fn verb(action: &Action) -> &'static str {
    match action {
        Action::Create { .. } => "create",
        Action::Delete { .. } => "delete",
        Action::Patch { .. } => "patch",
        Action::PatchStatus { .. } => "patchStatus",
        Action::Bind { .. } => "bind",
        Action::Event { .. } => "event",
    }
}

/// Carry `actions` out in order; neighbours of one verb go in parallel.
pub async fn apply(
    target: &Target,
    actions: Vec<Action>,
    span_of: &(dyn Fn(&Action) -> tracing::Span + Sync),
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut rest = actions.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut batch = vec![first];
        while let Some(next) = rest.next_if(|next| next.joins(&batch[0])) {
            batch.push(next);
        }
        let mut results = stream::iter(batch)
            .map(|action| {
                let span = span_of(&action);
                in_time(target, action).instrument(span)
            })
            .buffer_unordered(PARALLEL);
        let mut unclear = Vec::new();
        while let Some((subject, result)) = results.next().await {
            match result {
                Ok(expectation) => outcome.expectations.extend(expectation),
                // The rest of the batch is already on its way: let it land, so that its writes are expected too.
                Err(error) => {
                    unclear.extend(Some(subject).filter(|_| error.is_unclear()));
                    outcome.error.get_or_insert(error);
                }
            }
        }
        drop(results);
        if outcome.error.is_some() {
            outcome.expectations.extend(settled(target, unclear).await);
            break;
        }
    }
    outcome
}

/// What has to be seen before it is known what became of writes that were not answered: the objects as the server has them now. A plan
/// without that could give the place of a pod that was bound to another one.
async fn settled(target: &Target, unclear: Vec<ObjectRef>) -> Vec<Expectation> {
    let mut left = unclear.into_iter().filter(|object| target.probes.of(object).is_some());
    let Some(first) = left.next() else { return Vec::new() };
    // Most often it is the server that is away: it is waited for once, and not for each object.
    let mut found = None;
    for pause in LOOKS {
        tokio::time::sleep(pause).await;
        found = as_it_is(target, &first).await;
        if found.is_some() {
            break;
        }
    }
    let Some(first) = found else { return Vec::new() };
    let others = stream::iter(left).map(|object| async move { as_it_is(target, &object).await });
    let others: Vec<Option<Option<Expectation>>> = others.buffer_unordered(PARALLEL).collect().await;
    std::iter::once(first).chain(others.into_iter().flatten()).flatten().collect()
}

/// What a cache shows that has caught up with an object, if anything can be known of that; `None` if the server does not answer.
async fn as_it_is(target: &Target, object: &ObjectRef) -> Option<Option<Expectation>> {
    let api = api_of(&target.client, object);
    match tokio::time::timeout(LOOK_LIMIT, api.get_opt(&object.name)).await.ok()? {
        Ok(Some(found)) => {
            let list = next_list(target, object);
            Some(seen(target, object.clone(), found.metadata.resource_version.as_deref(), list))
        }
        Ok(None) => Some(Some(Expectation::Left { object: object.clone(), uid: None })),
        // It will not say more the next time: we may not look at such objects, say.
        Err(error) if status_of(&error).is_some_and(|status| status.code < 500) => Some(None),
        Err(_) => None,
    }
}

fn api_of(client: &kube::Client, object: &ObjectRef) -> Api<DynamicObject> {
    let resource = super::resource(&object.api_version, &object.kind);
    if object.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &object.namespace, &resource)
    }
}

async fn in_time(target: &Target, action: Action) -> (ObjectRef, Result<Option<Expectation>, Error>) {
    let (verb, subject) = (verb(&action), action.subject().clone());
    let (kind, key) = (subject.kind.clone(), Key::from(&subject));
    let answer = tokio::time::timeout(ACTION_LIMIT, one(target, action)).await;
    let answer = answer.unwrap_or(Err(Error::NoAnswer { verb, kind, key }));
    if let (Err(error), Some(failed)) = (&answer, &target.failed) {
        failed(&subject, error);
    }
    (subject, answer)
}

async fn one(target: &Target, action: Action) -> Result<Option<Expectation>, Error> {
    let label = metrics::ActionLabel { controller: target.controller, action: verb(&action) };
    let done = match action {
        Action::Create { object, body } => create(target, object, body).await,
        Action::Delete { object, fence, grace_seconds, reason } => {
            delete(target, object, fence, grace_seconds, &reason).await
        }
        Action::Patch { object, fence, patch } => merge(target, object, &fence, patch, false).await,
        Action::PatchStatus { object, fence, patch } => merge(target, object, &fence, patch, true).await,
        Action::Bind { pod, fence, node } => bind(target, pod, fence, node).await,
        Action::Event { regarding, uid, severity, reason, message } => {
            target.events.send(regarding, uid, severity, reason, message);
            Ok(None)
        }
    }?;
    metrics().actions.get_or_create(&label).inc();
    Ok(done)
}

fn seen(target: &Target, object: ObjectRef, version: Option<&str>, list: Option<u64>) -> Option<Expectation> {
    let version = version?.parse().ok()?;
    target.probes.of(&object)?;
    Some(Expectation::Seen { object, version, list: list? })
}

fn next_list(target: &Target, object: &ObjectRef) -> Option<u64> {
    target.probes.of(object).map(|probe| probe.next_list())
}

fn api_error(verb: &'static str, object: &ObjectRef, source: kube::Error) -> Error {
    Error::Api { verb, kind: object.kind.clone(), key: Key::from(object), source: Box::new(source) }
}

fn superseded(verb: &'static str, object: &ObjectRef) -> Error {
    Error::Superseded { verb, kind: object.kind.clone(), key: Key::from(object) }
}

fn status_of(error: &kube::Error) -> Option<&Status> {
    if let kube::Error::Api(status) = error { Some(status) } else { None }
}

/// Of what is written the server answers what [`Made`] is part of, and not the whole object.
const BRIEF: HeaderValue = HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// What is read of the answer to a write.
#[derive(serde::Deserialize)]
pub(super) struct Made {
    metadata: MadeMeta,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeMeta {
    resource_version: Option<String>,
}

pub(super) async fn send(
    client: &kube::Client,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<Made, kube::Error> {
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(http::header::ACCEPT, BRIEF);
    client.request(request).await
}

async fn create(target: &Target, object: ObjectRef, body: Value) -> Result<Option<Expectation>, Error> {
    let api = api_of(&target.client, &object);
    let controller = controller_of(&body, &object.namespace);
    // As text once, and of the answer only the version: pods are made by the thousand.
    let text = serde_json::to_vec(&body).map_err(|source| Error::Body {
        kind: object.kind.clone(),
        key: Key::from(&object),
        source,
    })?;
    drop(body);
    let params = PostParams { field_manager: Some(target.controller.to_owned()), ..PostParams::default() };
    match send(&target.client, Request::new(api.resource_url()).create(&params, text)).await {
        Ok(made) => {
            let list = next_list(target, &object);
            Ok(seen(target, object, made.metadata.resource_version.as_deref(), list))
        }
        Err(error) if status_of(&error).is_some_and(|status| status.reason == "AlreadyExists") => {
            let found = api.get_opt(&object.name).await.map_err(|error| api_error("get", &object, error))?;
            existing(target, object, controller.as_ref(), found)
        }
        Err(error) => {
            if let (Some(status), Some((regarding, uid))) = (status_of(&error).filter(|s| is_refusal(s)), controller) {
                let message = format!("Error creating: {}", status.message);
                target.events.send(regarding, uid, EventSeverity::Warning, "FailedCreate".to_owned(), message);
            }
            Err(api_error("create", &object, error))
        }
    }
}

/// The server does not want the object, by a quota or a rule: trying again helps only when the user changes something, so
/// the user is told at the object whose pod, say, it would have been.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code, 400 | 403 | 413 | 422)
}

/// Our own earlier create, of which we did not hear; or somebody else's object.
fn existing(
    target: &Target,
    object: ObjectRef,
    owner: Option<&(ObjectRef, String)>,
    found: Option<DynamicObject>,
) -> Result<Option<Expectation>, Error> {
    let Some(found) = found else { return Err(superseded("create", &object)) };
    let owners = found.metadata.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let is_ours = controller.map(|known| known.uid.as_str()) == owner.map(|(_, uid)| uid.as_str());
    // What is left of an earlier owner of our name is collected.
    let is_of_earlier = controller
        .zip(owner)
        .is_some_and(|(known, (owner, _))| known.kind == owner.kind && known.name == owner.name && !is_ours);
    if found.metadata.deletion_timestamp.is_some() || is_of_earlier {
        return Err(Error::StillLeaving { kind: object.kind.clone(), key: Key::from(&object) });
    }
    if !is_ours {
        return Err(Error::Taken { kind: object.kind.clone(), key: Key::from(&object) });
    }
    let list = next_list(target, &object);
    Ok(seen(target, object, found.metadata.resource_version.as_deref(), list))
}

/// The controller that an object names, and its uid.
fn controller_of(body: &Value, namespace: &str) -> Option<(ObjectRef, String)> {
    let owners = body.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == json!(true))?;
    let text = |field: &str| owner[field].as_str().map(str::to_owned);
    let object = ObjectRef {
        api_version: text("apiVersion")?,
        kind: text("kind")?,
        namespace: namespace.to_owned(),
        name: text("name")?,
    };
    Some((object, text("uid")?))
}

async fn delete(
    target: &Target,
    object: ObjectRef,
    fence: Fence,
    grace_seconds: Option<i64>,
    reason: &str,
) -> Result<Option<Expectation>, Error> {
    let api = api_of(&target.client, &object);
    let uid = fence.uid.clone();
    let guarded = fence.uid.is_some() || fence.resource_version.is_some();
    let params = DeleteParams {
        grace_period_seconds: grace_seconds.and_then(|seconds| u32::try_from(seconds).ok()),
        propagation_policy: Some(kube::api::PropagationPolicy::Background),
        preconditions: guarded.then_some(Preconditions { uid: fence.uid, resource_version: fence.resource_version }),
        ..DeleteParams::default()
    };
    tracing::debug!(kind = %object.kind, key = %Key::from(&object), reason, "delete");
    match api.delete(&object.name, &params).await {
        Ok(_) => Ok(Some(Expectation::Left { object, uid })),
        Err(error) => match status_of(&error).map(|status| status.code) {
            Some(404) => Ok(None),
            // Another incarnation has the name: the one meant is gone.
            Some(409) if uid.is_some() => {
                let found = api.get_opt(&object.name).await.map_err(|error| api_error("get", &object, error))?;
                if found.is_none_or(|found| found.metadata.uid != uid) {
                    Ok(Some(Expectation::Left { object, uid }))
                } else {
                    Err(superseded("delete", &object))
                }
            }
            Some(_) | None => Err(api_error("delete", &object, error)),
        },
    }
}

async fn merge(
    target: &Target,
    object: ObjectRef,
    fence: &Fence,
    mut patch: Value,
    status: bool,
) -> Result<Option<Expectation>, Error> {
    let verb = if status { "patch status of" } else { "patch" };
    // The server refuses a patch that would change uid or resourceVersion: that is the fence. A status subresource
    // may ignore metadata, so an incarnation that the cache already knows to be another one is not even tried.
    let known = target.probes.of(&object).and_then(|probe| probe.uid(&Key::from(&object)));
    if let (Some(known), Some(meant)) = (&known, &fence.uid)
        && known != meant
    {
        return Err(superseded(verb, &object));
    }
    if let Some(uid) = &fence.uid {
        patch["metadata"]["uid"] = json!(uid);
    }
    if let Some(version) = &fence.resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let api = api_of(&target.client, &object);
    let params = PatchParams { field_manager: Some(target.controller.to_owned()), ..PatchParams::default() };
    let (patch, place) = (Patch::Merge(&patch), Request::new(api.resource_url()));
    let request = if status {
        place.patch_subresource("status", &object.name, &params, &patch)
    } else {
        place.patch(&object.name, &params, &patch)
    };
    match send(&target.client, request).await {
        Ok(changed) => {
            let list = next_list(target, &object);
            Ok(seen(target, object, changed.metadata.resource_version.as_deref(), list))
        }
        Err(error) => match status_of(&error).map(|status| status.code) {
            Some(404 | 409) => Err(superseded(verb, &object)),
            Some(_) | None => Err(api_error(verb, &object, error)),
        },
    }
}

async fn bind(target: &Target, pod: ObjectRef, fence: Fence, node: String) -> Result<Option<Expectation>, Error> {
    let known = target.probes.of(&pod).and_then(|probe| Some((probe.version(&Key::from(&pod))?, probe.next_list())));
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(target.client.clone(), &pod.namespace);
    let binding = Binding {
        metadata: ObjectMeta { name: Some(pod.name.clone()), uid: fence.uid, ..ObjectMeta::default() },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            ..ObjectReference::default()
        },
    };
    let answer: Result<Value, _> = api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) if target.reads_back => Ok(bound(target, pod).await),
        Ok(_) => Ok(known.map(|(version, list)| Expectation::Moved { object: pod, version, list })),
        Err(error) => match status_of(&error).map(|status| status.code) {
            Some(404 | 409) => Err(superseded("bind", &pod)),
            Some(_) | None => Err(api_error("bind", &pod, error)),
        },
    }
}

/// The version that a binding gave the pod. Should that fail, the
/// binding stands all the same, and a plan from a stale view would only be told of a conflict.
async fn bound(target: &Target, pod: ObjectRef) -> Option<Expectation> {
    let found = api_of(&target.client, &pod).get_opt(&pod.name).await.ok()??;
    let list = next_list(target, &pod);
    seen(target, pod, found.metadata.resource_version.as_deref(), list)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn whoever_owns_a_refused_object_is_told() {
        let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
        let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
        let server = move |request: Request<Body>| {
            let told = told.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                if path.ends_with("/events") {
                    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
                    // The test may be over.
                    let _ = told.send(event);
                    return Ok::<_, Infallible>(Response::new(Body::from(body.to_vec())));
                }
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                    "message": "pods \"a\" is forbidden: exceeded quota",
                });
                let mut response = Response::new(Body::from(status.to_string().into_bytes()));
                *response.status_mut() = http::StatusCode::FORBIDDEN;
                Ok(response)
            }
        };
        let client = kube::Client::new(tower::service_fn(server), "default");
        let target = Target {
            events: EventSink::start(client.clone(), "test"),
            client,
            probes: Probes::default(),
            controller: "test",
            reads_back: true,
            failed: Some(Arc::new(move |object, error| {
                // The test may be over.
                let _ = failed.send((object.name.clone(), error.refused_create()));
            })),
        };
        let object = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: "team".to_owned(),
            name: "a".to_owned(),
        };
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "u-1", "controller": true});
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "team", "ownerReferences": [owner]},
        });
        let outcome = apply(&target, vec![Action::Create { object, body }], &|_| tracing::Span::none()).await;
        assert!(matches!(outcome.error, Some(Error::Api { .. })));
        let event = tokio::time::timeout(std::time::Duration::from_secs(10), events.recv()).await;
        let event = event.ok().flatten().unwrap_or_default();
        assert_eq!(event["involvedObject"]["name"], "sum");
        assert_eq!(event["reason"], "FailedCreate");
        assert_eq!(event["message"], "Error creating: pods \"a\" is forbidden: exceeded quota");
        let refusal = "pods \"a\" is forbidden: exceeded quota".to_owned();
        assert_eq!(failures.try_recv().ok(), Some(("a".to_owned(), Some(refusal))));
    }

    /// The server binds the pod, and the answer is lost; the first look at it fails, too.
    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_looked_at() {
        let looks = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let seen_by_server = Arc::clone(&looks);
        let server = move |request: Request<Body>| {
            let looks = Arc::clone(&seen_by_server);
            async move {
                let is_look = request.method() == http::Method::GET;
                if is_look && looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                    let pod =
                        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"}});
                    return Ok::<_, Infallible>(Response::new(Body::from(pod.to_string().into_bytes())));
                }
                let mut response = Response::new(Body::from(b"gateway timeout".to_vec()));
                *response.status_mut() = http::StatusCode::GATEWAY_TIMEOUT;
                Ok(response)
            }
        };
        let client = kube::Client::new(tower::service_fn(server), "default");
        let pods: Arc<dyn super::super::cache::Probe> =
            Arc::new(super::super::Cache::<k8s_openapi::api::core::v1::Pod>::detached());
        let target = Target {
            events: EventSink::start(client.clone(), "test"),
            client,
            probes: Probes::new([("v1".to_owned(), "Pod".to_owned(), pods)]),
            controller: "test",
            reads_back: false,
            failed: None,
        };
        let pod = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: "team".to_owned(),
            name: "a".to_owned(),
        };
        let bind = Action::Bind { pod: pod.clone(), fence: Fence::default(), node: "n".to_owned() };
        let outcome = apply(&target, vec![bind], &|_| tracing::Span::none()).await;
        assert!(matches!(outcome.error, Some(Error::Api { verb: "bind", .. })), "{:?}", outcome.error);
        assert_eq!(outcome.expectations, [Expectation::Seen { object: pod, version: 7, list: 1 }]);
        assert_eq!(looks.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_name_is_taken_by_others_and_left_by_those_who_had_ours() {
        let client = kube::Client::new(
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>()),
            "default",
        );
        let target = Target {
            events: EventSink::start(client.clone(), "test"),
            client,
            probes: Probes::default(),
            controller: "test",
            reads_back: true,
            failed: None,
        };
        let object = |kind: &str, name: &str| ObjectRef {
            api_version: "batch/v1".to_owned(),
            kind: kind.to_owned(),
            namespace: "team".to_owned(),
            name: name.to_owned(),
        };
        let told = |owner: Value| {
            let found = json!({"metadata": {"name": "a", "ownerReferences": owner}});
            let found = serde_json::from_value(found).ok();
            let ours = (object("Trial", "a"), "u-2".to_owned());
            existing(&target, object("Job", "a"), Some(&ours), found)
        };
        let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        assert!(told(owner("Trial", "a", "u-2")).is_ok());
        assert!(matches!(told(owner("Trial", "a", "u-1")), Err(Error::StillLeaving { .. })), "it is collected");
        for other in [owner("Trial", "b", "u-1"), owner("CronJob", "a", "u-1"), json!([])] {
            let error = told(other).err();
            assert_eq!(
                error.and_then(|error| error.refused_create()).as_deref(),
                Some("Job a is there already, and belongs to something else")
            );
        }
    }
}
