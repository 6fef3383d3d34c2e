//! The Kubernetes API as the commands use it: paths, JSON, tables, watches and log streams.
//!
//! Requests are made by path instead of by typed kinds, since every command works with every kind, also with those that only the
//! server knows.

use futures::{AsyncBufReadExt as _, Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use crate::error::CliError;

/// Our name in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "trainyard";

/// How `kubectl get` asks for a table.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How clients ask for all kinds at once.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// What an API server refused, as its Status object says it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
    /// `details.causes`: (field path, reason, message).
    pub(crate) causes: Vec<Cause>,
}

/// One field that was refused.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) field: String,
    pub(crate) message: String,
}

/// Why a request gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The server said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Nobody said anything.
    #[error("the API server does not answer")]
    Transport(#[source] Box<kube::Error>),
    /// The answer makes no sense.
    #[error("the API server answered with something unexpected")]
    Garbled(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// The HTTP status, where there is one.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Transport(_) | Self::Garbled(_) => None,
        }
    }

    /// 404.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            let value = serde_json::to_value(&**status).unwrap_or_default();
            return Self::Refused(refusal(status.code, &value));
        }
        Self::Transport(Box::new(error))
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(refusal) => Self::Refused {
                hint: match refusal.code {
                    401 => Some("the server wants a token; take a kubeconfig that has one (--kubeconfig)".to_owned()),
                    403 => Some("ask for the right, or use another --context or --namespace".to_owned()),
                    _ => None,
                },
                message: refusal.message,
                status: refusal.code,
            },
            ApiError::Transport(source) => {
                let (message, hint) = silence(&innermost(&*source));
                Self::Unreachable { message, hint: hint.to_owned() }
            }
            ApiError::Garbled(source) => {
                Self::Internal { doing: "cannot read the API server's answer".to_owned(), source }
            }
        }
    }
}

/// What to do when nobody answers.
pub(crate) const SILENT: &str = "check that it runs (`trainyard up`, or the cluster of your --context)";

/// What the cause of a request without an answer means: a sentence, and what to do.
fn silence(cause: &str) -> (String, &'static str) {
    let certificate = |message: &str, hint| (format!("{message}: {cause}"), hint);
    if cause.contains("certificate expired") {
        return certificate(
            "the API server's certificate has expired",
            "the cluster's administrator renews it; if it is still valid, this machine's clock is wrong (`date`)",
        );
    }
    if cause.contains("not valid for") {
        return certificate(
            "the API server's certificate is for another name",
            "write the name that the certificate has as `server` into the kubeconfig, or set `tls-server-name` there",
        );
    }
    if cause.contains("invalid peer certificate") {
        return certificate(
            "the API server's certificate is not trusted",
            "put the cluster's own authority into the kubeconfig (`certificate-authority-data`): get a fresh kubeconfig",
        );
    }
    (format!("the API server does not answer: {cause}"), SILENT)
}

pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

fn refusal(code: u16, status: &Value) -> Refusal {
    let cause = |cause: &Value| Cause {
        field: cause["field"].as_str().unwrap_or_default().to_owned(),
        message: cause["message"].as_str().unwrap_or_default().to_owned(),
    };
    let causes = status["details"]["causes"].as_array().map(|list| list.iter().map(cause).collect());
    let message = status["message"].as_str().filter(|text| !text.is_empty());
    Refusal {
        code,
        message: message.map_or_else(|| format!("the API server answered with status {code}"), str::to_owned),
        causes: causes.unwrap_or_default(),
    }
}

/// One change seen by a watch.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The object is there, as it is now.
    Present(Value),
    /// The object went away; this was its last state.
    Gone(Value),
    /// Nothing changed up to this version.
    Bookmark,
    /// The watch cannot go on (usually 410 Gone): list again.
    Expired,
}

/// A connection to an API server, in process or over HTTP.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The connection itself, for parts that bring their own requests.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// GET an object or a list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send("GET", path, "application/json", None).await
    }

    /// GET, with 404 as `None`.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// GET as a table made by the server.
    pub(crate) async fn table(&self, path: &str) -> Result<Value, ApiError> {
        self.send("GET", path, TABLE, None).await
    }

    /// GET a discovery document, aggregated if the server can.
    pub(crate) async fn discovery(&self, path: &str) -> Result<Value, ApiError> {
        self.send("GET", path, DISCOVERY, None).await
    }

    /// GET as text.
    pub(crate) async fn text(&self, path: &str) -> Result<String, ApiError> {
        Ok(self.client.request_text(request("GET", path, "*/*", None)?).await?)
    }

    /// POST an object.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send("POST", path, "application/json", Some(("application/json", body))).await
    }

    /// PATCH by RFC 7396.
    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send("PATCH", path, "application/json", Some(("application/merge-patch+json", body))).await
    }

    /// PATCH by server-side apply.
    pub(crate) async fn apply(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send("PATCH", path, "application/json", Some(("application/apply-patch+yaml", body))).await
    }

    /// DELETE with options.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value, ApiError> {
        self.send("DELETE", path, "application/json", Some(("application/json", options))).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, ApiError> {
        let response = self.client.send(request(method, path, accept, body)?.map(Body::from)).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        if (200..300).contains(&code) {
            return serde_json::from_slice(&bytes).map_err(|error| ApiError::Garbled(Box::new(error)));
        }
        let text = || Value::from_iter([("message", String::from_utf8_lossy(&bytes).trim().to_owned())]);
        let status = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Err(ApiError::Refused(refusal(code, &status)))
    }

    /// The lines of a response as they come, without their line ends.
    pub(crate) async fn lines(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = std::io::Result<String>> + Unpin + use<>, ApiError> {
        let reader = self.client.request_stream(request("GET", path, "*/*", None)?).await?;
        // Logs may hold anything; what is no UTF-8 is replaced, not refused.
        let lines = reader.lines_lossy();
        Ok(Box::pin(lines))
    }

    /// Watches from a path that has its query string already.
    pub(crate) async fn watch(
        &self,
        path: &str,
        accept_table: bool,
    ) -> Result<impl Stream<Item = Result<Change, ApiError>> + Unpin + use<>, ApiError> {
        let accept = if accept_table { TABLE } else { "application/json" };
        let reader = self.client.request_stream(request("GET", path, accept, None)?).await?;
        let changes = reader.lines().map_err(|error| ApiError::Garbled(Box::new(error))).map(|line| change(&line?));
        Ok(Box::pin(changes))
    }
}

/// `lines()` that survives bytes that are no UTF-8.
trait LinesLossy: futures::AsyncBufRead + Unpin + Sized {
    fn lines_lossy(self) -> impl Stream<Item = std::io::Result<String>> {
        futures::stream::try_unfold(self, async |mut reader| {
            let mut bytes = Vec::new();
            if reader.read_until(b'\n', &mut bytes).await? == 0 {
                return Ok(None);
            }
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), reader)))
        })
    }
}

impl<R: futures::AsyncBufRead + Unpin> LinesLossy for R {}

fn change(line: &str) -> Result<Change, ApiError> {
    let mut event: Value = serde_json::from_str(line).map_err(|error| ApiError::Garbled(Box::new(error)))?;
    let object = event["object"].take();
    match event["type"].as_str().unwrap_or_default() {
        "ADDED" | "MODIFIED" => Ok(Change::Present(object)),
        "DELETED" => Ok(Change::Gone(object)),
        "BOOKMARK" => Ok(Change::Bookmark),
        _ if object["code"] == 410 => Ok(Change::Expired),
        _ => Err(ApiError::Refused(refusal(
            object["code"].as_u64().and_then(|c| c.try_into().ok()).unwrap_or(500),
            &object,
        ))),
    }
}

fn request(
    method: &str,
    path: &str,
    accept: &str,
    body: Option<(&str, &Value)>,
) -> Result<http::Request<Vec<u8>>, ApiError> {
    let mut builder = http::Request::builder().method(method).uri(path).header("Accept", accept);
    if method != "GET"
        && let Some(parent) = trainyard_runtime::trace::current()
    {
        builder = builder.header("traceparent", parent);
    }
    let mut bytes = Vec::new();
    if let Some((content_type, value)) = body {
        builder = builder.header("Content-Type", content_type);
        bytes = serde_json::to_vec(value).map_err(|error| ApiError::Garbled(Box::new(error)))?;
    }
    builder.body(bytes).map_err(|error| ApiError::Garbled(Box::new(error)))
}

/// Percent-encodes a value for a query string.
pub(crate) fn query(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
