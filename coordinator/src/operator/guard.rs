//! The operator's client: it asks for nothing that is not on the list of its rights, and writes nothing unless it leads.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;
use tower::BoxError;
use trainyard_coordinator_core::operator::access::{Right, allowing, asked};
use trainyard_runtime::metrics::Metrics;

use super::fence::Fence;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AskedLabel {
    group: &'static str,
    resource: String,
    verb: &'static str,
}

/// A write that was not sent, since this process does not lead (any more), or not answered before it ceased to.
#[derive(Debug, thiserror::Error)]
#[error("this process does not lead, so it writes nothing")]
pub(super) struct NotLeading;

/// Looks at requests. Cloning shares the counters.
#[derive(Clone)]
pub(super) struct Guard {
    rights: Arc<[Right]>,
    /// The operator's own namespace.
    own: Arc<str>,
    used: Family<AskedLabel, Counter>,
    fenced: Counter,
}

impl Guard {
    pub(super) fn new(rights: Vec<Right>, own: &str) -> Self {
        Self { rights: rights.into(), own: own.into(), used: Family::default(), fenced: Counter::default() }
    }

    pub(super) fn register(&self, page: &Metrics) {
        page.register(|registry| {
            let name = "trainyard_operator_requests";
            registry.register(name, "Requests to the API server, by the right that they use", self.used.clone());
            let name = "trainyard_operator_fenced_writes";
            registry.register(
                name,
                "Writes that were kept back, since this process does not lead",
                self.fenced.clone(),
            );
        });
    }

    /// A client behind this guard; with a fence its writes are the leader's.
    pub(super) fn client(&self, inner: kube::Client, fence: Option<Fence>) -> kube::Client {
        let namespace = inner.default_namespace().to_owned();
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (this, inner, fence) = (this.clone(), inner.clone(), fence.clone());
            async move { this.send(&inner, fence.as_ref(), request).await }
        });
        kube::Client::new(service, namespace)
    }

    async fn send(
        &self,
        inner: &kube::Client,
        fence: Option<&Fence>,
        request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        match asked(method.as_str(), uri.path(), uri.query().unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some(asked)) => match allowing(&self.rights, &self.own, &asked) {
                Some(right) => {
                    let (group, resource, verb) = (right.group, asked.resource, asked.verb.name());
                    self.used.get_or_create(&AskedLabel { group, resource, verb }).inc();
                }
                None => return Ok(forbidden(&format!("{method} {uri} is not on the operator's own list of rights"))),
            },
            Err(words) => return Ok(forbidden(&words)),
        }
        let sent = inner.send(request);
        let Some(fence) = fence.filter(|_| method != Method::GET) else { return Ok(sent.await?) };
        let answer = match fence.remaining() {
            None => None,
            // What is not answered by then is taken back: its connection or stream is closed.
            Some(left) => tokio::time::timeout(left, sent).await.ok(),
        };
        answer.map_or_else(
            || {
                self.fenced.inc();
                Err(NotLeading.into())
            },
            |answer| Ok(answer?),
        )
    }
}

/// As the API server says it.
fn forbidden(words: &str) -> Response<Body> {
    tracing::error!(words, "a request was not sent; please report this");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": words,
    });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::{Pod, Secret};
    use kube::api::{Api, DeleteParams, ListParams};
    use trainyard_coordinator_core::operator::access::{Gangs, rights};

    use super::super::fence::uptime_ms;
    use super::*;

    /// A server that answers with an empty object, and what it was asked.
    fn server() -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        let service = tower::service_fn(move |request: Request<Body>| {
            told.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            async {
                Ok::<_, Infallible>(Response::new(Body::from(
                    br#"{"kind":"Pod","apiVersion":"v1","metadata":{}}"#.to_vec(),
                )))
            }
        });
        (kube::Client::new(service, "default"), heard)
    }

    #[tokio::test]
    async fn what_is_not_on_the_list_is_never_sent() {
        let (inner, heard) = server();
        let client = Guard::new(rights(&BTreeSet::new(), Gangs::Left, false), "own").client(inner, None);
        let refused = Api::<Secret>::namespaced(client.clone(), "team").get("s").await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        let (params, all) = (DeleteParams::default(), ListParams::default());
        let refused = Api::<Pod>::namespaced(client, "team").delete_collection(&params, &all).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        assert!(heard.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_does_not_lead_reads_and_does_not_write() {
        let (inner, heard) = server();
        let (guard, fence) = (Guard::new(rights(&BTreeSet::new(), Gangs::Left, false), "own"), Fence::default());
        let pods: Api<Pod> = Api::namespaced(guard.client(inner, Some(fence.clone())), "team");
        pods.get("p").await.unwrap();
        assert!(pods.delete("p", &DeleteParams::default()).await.is_err());
        assert_eq!(*heard.lock().unwrap(), ["GET /api/v1/namespaces/team/pods/p"]);
        fence.set(Some(uptime_ms() + 60_000));
        pods.delete("p", &DeleteParams::default()).await.unwrap();
        assert_eq!(heard.lock().unwrap().len(), 2);
        assert_eq!(guard.fenced.get(), 1);
    }

    #[tokio::test]
    async fn a_write_without_an_answer_is_taken_back_when_the_time_is_over() {
        let service =
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let (guard, fence) = (Guard::new(rights(&BTreeSet::new(), Gangs::Left, false), "own"), Fence::default());
        fence.set(Some(uptime_ms() + 50));
        let client = guard.client(kube::Client::new(service, "default"), Some(fence));
        let pods: Api<Pod> = Api::namespaced(client, "team");
        assert!(pods.delete("p", &DeleteParams::default()).await.is_err());
    }
}
