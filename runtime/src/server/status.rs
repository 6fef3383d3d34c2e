//! Refusals as the API words them: `metav1.Status`, which every client knows how to print and to branch on.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use trainyard_runtime_core::store::{FieldCause, StoreError};

use crate::kinds::Kind;

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    code: StatusCode,
    reason: &'static str,
    message: String,
    subject: Subject,
    causes: Vec<FieldCause>,
    retry_after_seconds: Option<u32>,
    warnings: Vec<String>,
}

/// The field that updates are checked by.
const VERSION: &str = "metadata.resourceVersion";

/// What the refusal is about: `details` of the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Subject {
    /// API group.
    pub(crate) group: String,
    /// The plural resource; of 422 the kind, as the API has it.
    pub(crate) kind: String,
    /// The object's name.
    pub(crate) name: String,
}

impl Subject {
    /// The plural resource of an API group and, where known, an object's name.
    pub(crate) fn new(group: &str, kind: &str, name: &str) -> Self {
        Self { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason,
            message: message.into(),
            subject: Subject::default(),
            causes: Vec::new(),
            retry_after_seconds: None,
            warnings: Vec::new(),
        }))
    }

    /// With what a client is to be told beside the refusal.
    pub(crate) fn warning(mut self, warnings: &[String]) -> Self {
        self.0.warnings.extend_from_slice(warnings);
        self
    }

    /// With what was to be told before that.
    pub(crate) fn preceded_by(mut self, mut warnings: Vec<String>) -> Self {
        warnings.append(&mut self.0.warnings);
        self.0.warnings = warnings;
        self
    }

    /// The refusal in the names of a kind whose objects are kept as another's.
    pub(crate) fn seen_as(mut self, kind: &Kind) -> Self {
        let inner = &mut self.0;
        if kind.stored_as.is_some() && inner.subject.kind == kind.plural {
            let before = format!("{} \"", inner.subject.qualified());
            inner.subject.group = kind.group.to_owned();
            inner.message = inner.message.replacen(&before, &format!("{} \"", inner.subject.qualified()), 1);
        }
        self
    }

    fn about(mut self, subject: Subject) -> Self {
        self.0.subject = subject;
        self
    }

    /// 400: the request makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: no token, or one that is not known.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// 403 in front of any resource: a foreign origin, a foreign peer.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 403 for one resource.
    pub(crate) fn forbidden(subject: Subject, why: &str) -> Self {
        let message = if subject.name.is_empty() {
            format!("{} is forbidden: {why}", subject.qualified())
        } else {
            format!("{} \"{}\" is forbidden: {why}", subject.qualified(), subject.name)
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(subject)
    }

    /// 404 for an object.
    pub(crate) fn not_found(subject: Subject) -> Self {
        let message = format!("{} \"{}\" not found", subject.qualified(), subject.name);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(subject)
    }

    /// 404 for a path that nothing serves.
    pub(crate) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 405 of a custom resource.
    pub(crate) fn not_supported(subject: Subject, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", subject.qualified());
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about(subject)
    }

    /// 406: nothing that the client accepts can be made.
    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        )
    }

    /// 406: what the client accepts cannot be made of this.
    pub(crate) fn no_such_view(message: &str) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 409.
    pub(crate) fn conflict(subject: Subject, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{}\": {why}", subject.qualified(), subject.name);
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(subject)
    }

    /// 409 of server-side apply: others own the fields.
    pub(crate) fn apply_conflict(message: impl Into<String>, causes: Vec<FieldCause>) -> Self {
        let mut error = Self::new(StatusCode::CONFLICT, "Conflict", message);
        error.0.causes = causes;
        error
    }

    /// 410: the resourceVersion or continue token is too old.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 413.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415: a body of a type that this verb does not take.
    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }

    /// 415 of a patch.
    pub(crate) fn unsupported_patch() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    /// 422 of a patch that does not fit its object.
    pub(crate) fn rejected() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// A refusal to read an object, where it is the outcome of a patch.
    pub(crate) fn of_patch(self) -> Self {
        if self.0.code != StatusCode::BAD_REQUEST {
            return self;
        }
        let why = self.0.message.split_once("cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
        Self::unreadable(why.map_or(&*self.0.message, |(_, why)| why)).preceded_by(self.0.warnings)
    }

    /// 422 of a patch whose outcome cannot be read as an object of its kind.
    pub(crate) fn unreadable(why: &str) -> Self {
        let message = format!("Invalid value: \"{{…}}\": {why}");
        let cause = FieldCause { field: "patch".to_owned(), reason: "FieldValueInvalid", message };
        Self::invalid(Subject::default(), vec![cause])
    }

    /// 422; `kind` is the kind (`Pod`), not the resource.
    pub(crate) fn invalid(kind: Subject, causes: Vec<FieldCause>) -> Self {
        // A cause found twice is listed twice and told once.
        let mut wrong: Vec<String> = Vec::new();
        for cause in &causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !wrong.contains(&text) {
                wrong.push(text);
            }
        }
        let text = if wrong.len() == 1 { wrong.remove(0) } else { format!("[{}]", wrong.join(", ")) };
        let message = format!("{} \"{}\" is invalid: {text}", kind.qualified(), kind.name);
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind);
        error.0.causes = causes;
        error
    }

    /// 400 for what kube-apiserver takes for a fault of its own, in its words.
    pub(crate) fn fault(why: &str) -> Self {
        let mut error = Self::bad_request(format!("Internal error occurred: {why}"));
        error.0.causes = vec![FieldCause { field: String::new(), reason: "", message: why.to_owned() }];
        error
    }

    /// The refusal with other words for what it names.
    pub(crate) fn reworded(mut self, from: &str, to: &str) -> Self {
        self.0.message = self.0.message.replace(from, to);
        for cause in &mut self.0.causes {
            cause.message = cause.message.replace(from, to);
        }
        self
    }

    /// 429 with the seconds to wait.
    pub(crate) fn too_many(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.0.retry_after_seconds = Some(retry_after_seconds);
        error
    }

    /// 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The store's refusal of a request for objects of `kind`.
    pub(crate) fn from_store(error: StoreError, kind: &str) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound { resource, name } => {
                Self::not_found(Subject::new(&resource.group, &resource.plural, &name))
            }
            StoreError::AlreadyExists { resource, name, deleting } => {
                let subject = Subject::new(&resource.group, &resource.plural, &name);
                let dying = if deleting { "object is being deleted: " } else { "" };
                let message = format!("{dying}{} \"{name}\" already exists", subject.qualified());
                Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(subject)
            }
            StoreError::Conflict { resource, name, message } => {
                Self::conflict(Subject::new(&resource.group, &resource.plural, &name), &message)
            }
            // It was looked for before anybody knew the kind.
            StoreError::Invalid { resource, name, causes } if causes.iter().all(|c| c.field == VERSION) => {
                Self::invalid(Subject::new(&resource.group, &resource.plural, &name), causes)
            }
            StoreError::Invalid { resource, name, causes } => {
                Self::invalid(Subject::new(&resource.group, kind, &name), causes)
            }
            StoreError::Precondition { resource, name, message } => {
                Self::conflict(Subject::new(&resource.group, kind, &name), &message)
            }
            StoreError::Terminating { resource, name, namespace } => {
                let subject = Subject::new(&resource.group, &resource.plural, &name);
                let mut error = Self::forbidden(subject, &message);
                error.0.causes = vec![FieldCause {
                    field: "metadata.namespace".to_owned(),
                    reason: "NamespaceTerminating",
                    message: format!("namespace {namespace} is being terminated"),
                }];
                error
            }
            StoreError::BadRequest { message } => Self::bad_request(message),
            StoreError::Expired { message } => Self::expired(message),
            StoreError::FutureVersion { .. } => {
                let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
                error.0.causes = vec![FieldCause {
                    field: String::new(),
                    reason: "ResourceVersionTooLarge",
                    message: "Too large resource version".to_owned(),
                }];
                error.0.retry_after_seconds = Some(1);
                error
            }
            StoreError::TooLarge { .. } => Self::too_large(message),
            StoreError::TooMany { message } => Self::too_many(message, 1),
            StoreError::Full { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", message),
            StoreError::Storage { .. } => Self::internal(message),
        }
    }

    /// The HTTP status.
    pub(crate) fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The sentence for people.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let inner = &self.0;
        let mut details = Map::new();
        let mut put = |key: &str, text: &str| {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::from(text));
            }
        };
        put("name", &inner.subject.name);
        put("group", &inner.subject.group);
        put("kind", &inner.subject.kind);
        if !inner.causes.is_empty() {
            let shown = |cause: &FieldCause| {
                let parts = [("reason", cause.reason), ("message", &*cause.message), ("field", &*cause.field)];
                parts
                    .into_iter()
                    .filter(|(_, text)| !text.is_empty())
                    .map(|(k, text)| (k.to_owned(), text.into()))
                    .collect()
            };
            details.insert("causes".to_owned(), inner.causes.iter().map(shown).map(Value::Object).collect());
        }
        if let Some(seconds) = inner.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": inner.message, "reason": inner.reason,
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status["code"] = Value::from(inner.code.as_u16());
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response =
            (self.0.code, [(header::CONTENT_TYPE, "application/json")], self.to_value().to_string()).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        super::answer::warn(response, &self.0.warnings)
    }
}

/// The `Success` status that deletions and bindings answer with.
pub(crate) fn success(subject: &Subject, uid: &str) -> Value {
    let mut details = json!({"name": subject.name, "kind": subject.kind});
    if !subject.group.is_empty() {
        details["group"] = Value::from(subject.group.as_str());
    }
    if !uid.is_empty() {
        details["uid"] = Value::from(uid);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_api_servers() {
        let error = ApiError::not_found(Subject::new("apps", "deployments", "web"));
        assert_eq!(error.message(), "deployments.apps \"web\" not found");
        assert_eq!(error.to_value()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        assert_eq!(error.to_value()["code"], 404);
    }

    #[test]
    fn one_cause_stands_alone_and_several_in_brackets() {
        let cause = |field: &str| FieldCause {
            field: field.to_owned(),
            reason: "FieldValueInvalid",
            message: "Invalid value: 1".to_owned(),
        };
        let one = ApiError::invalid(Subject::new("", "Pod", "p"), vec![cause("spec.a")]);
        assert_eq!(one.message(), "Pod \"p\" is invalid: spec.a: Invalid value: 1");
        let two = ApiError::invalid(Subject::new("", "Pod", "p"), vec![cause("spec.a"), cause("spec.b")]);
        assert_eq!(two.message(), "Pod \"p\" is invalid: [spec.a: Invalid value: 1, spec.b: Invalid value: 1]");
        assert_eq!(two.to_value()["details"]["causes"][1]["field"], "spec.b");
    }
}
