//! Why the store refuses, in the API's own classes, so that the server can answer with the matching `Status`.

use thiserror::Error;

use super::object::{Key, Resource};

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldCause {
    /// `metadata.finalizers`, `spec.replicas`, …
    pub field: String,
    /// The API's cause code: `FieldValueInvalid`, `FieldValueRequired`, `FieldValueForbidden`.
    pub reason: &'static str,
    /// What is wrong, as the API words it (`Invalid value: "X": …`).
    pub message: String,
}

/// A refusal. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// 404 `NotFound`.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// The resource asked for.
        resource: Resource,
        /// The name asked for.
        name: String,
    },
    /// 409 `AlreadyExists`.
    #[error("{}{resource} \"{name}\" already exists", if *deleting { "object is being deleted: " } else { "" })]
    AlreadyExists {
        /// The resource.
        resource: Resource,
        /// The name that is taken.
        name: String,
        /// The one that exists is on its way out.
        deleting: bool,
    },
    /// 409 `Conflict`: a precondition on uid or resourceVersion does not hold.
    #[error("operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Conflict {
        /// The resource.
        resource: Resource,
        /// The object's name.
        name: String,
        /// Which precondition, and what to do.
        message: String,
    },
    /// 422 `Invalid`, with the paths of the wrong fields.
    #[error("{resource} \"{name}\" is invalid: {}", causes_text(.causes))]
    Invalid {
        /// The resource.
        resource: Resource,
        /// The object's name (or generateName).
        name: String,
        /// What is wrong, at least one.
        causes: Vec<FieldCause>,
    },
    /// 409 `Conflict`: a precondition of a deletion does not hold. The API names the kind here, not the resource.
    #[error("operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Precondition {
        /// The resource.
        resource: Resource,
        /// The object's name.
        name: String,
        /// Which precondition.
        message: String,
    },
    /// 403 `Forbidden` with cause `NamespaceTerminating`.
    #[error("unable to create new content in namespace {namespace} because it is being terminated")]
    Terminating {
        /// The resource.
        resource: Resource,
        /// The object's name.
        name: String,
        /// The namespace that is being deleted.
        namespace: String,
    },
    /// 400 `BadRequest`: the request makes no sense for any object.
    #[error("{message}")]
    BadRequest {
        /// Why.
        message: String,
    },
    /// 410 `Expired`: the resourceVersion or the continue token is older than what is kept; list again.
    #[error("{message}")]
    Expired {
        /// What is too old, and what to do.
        message: String,
    },
    /// 504 `Timeout` with cause `ResourceVersionTooLarge`: the client has seen a future that this store has not.
    #[error("Timeout: Too large resource version: {asked}, current: {current}")]
    FutureVersion {
        /// What the client asked for.
        asked: u64,
        /// Where the store is.
        current: u64,
    },
    /// 413 `RequestEntityTooLarge`.
    #[error("{resource} \"{name}\" is {size_bytes} bytes, the limit is {limit_bytes}; keep large data in a volume")]
    TooLarge {
        /// The resource.
        resource: Resource,
        /// The object's name.
        name: String,
        /// Size of the object as JSON.
        size_bytes: usize,
        /// The store's limit.
        limit_bytes: usize,
    },
    /// 429 `TooManyRequests`.
    #[error("{message}")]
    TooMany {
        /// What there are too many of.
        message: String,
    },
    /// 507 `InsufficientStorage`: the disk is full; memory and disk are as before, and deletions still work.
    #[error("the write was not stored: {message}")]
    Full {
        /// Which disk, and what to do.
        message: String,
    },
    /// 500 `InternalError`: the disk refused; memory and disk are as before.
    #[error("the write was not stored: {message}")]
    Storage {
        /// What the database said, and what to do.
        message: String,
    },
}

fn causes_text(causes: &[FieldCause]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes {
        let part = format!("{}: {}", cause.field, cause.message);
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    if let [one] = parts.as_slice() { one.clone() } else { format!("[{}]", parts.join(", ")) }
}

impl StoreError {
    /// 404 for this key.
    #[must_use]
    pub fn not_found(key: &Key) -> Self {
        Self::NotFound { resource: key.resource.clone(), name: key.name.to_string() }
    }

    /// 409 for this key, in the words that clients look for.
    #[must_use]
    pub fn modified(key: &Key) -> Self {
        Self::Conflict {
            resource: key.resource.clone(),
            name: key.name.to_string(),
            message: "the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
        }
    }

    /// 422 of an update that does not say which version it is of, where it must.
    #[must_use]
    pub fn unversioned(key: &Key) -> Self {
        let message = "Invalid value: 0: must be specified for an update".to_owned();
        Self::invalid_field(key, "metadata.resourceVersion", "FieldValueInvalid", message)
    }

    /// 422 with one wrong field.
    #[must_use]
    pub fn invalid_field(key: &Key, field: &str, reason: &'static str, message: String) -> Self {
        Self::Invalid {
            resource: key.resource.clone(),
            name: key.name.to_string(),
            causes: vec![FieldCause { field: field.to_owned(), reason, message }],
        }
    }
}
