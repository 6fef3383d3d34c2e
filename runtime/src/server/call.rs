//! A request for objects, resolved against the kind registry.

use std::sync::Arc;

use http::{HeaderMap, Method, header};
use trainyard_runtime_core::store::{Key, Resource, StoreError};

use super::Api;
use super::accept::Form;
use super::query::Params;
use super::route::ResourcePath;
use super::status::{ApiError, Subject};
use crate::auth::User;
use crate::kinds::{Kind, registry};

/// What is asked of which resource, by whom, in which form.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) kind: &'static Kind,
    /// Where the objects are kept; differs from the kind's own where the kind is a view.
    pub(crate) resource: Resource,
    /// Empty for cluster-scoped kinds and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the main resource.
    pub(crate) subresource: String,
    pub(crate) params: Params,
    pub(crate) form: Form,
    /// Who the fields that this call writes belong to.
    pub(crate) manager: String,
    pub(crate) user: Arc<User>,
    /// Whether it came over a socket.
    pub(crate) remote: bool,
}

impl Call {
    pub(crate) fn key(&self) -> Key {
        Key::new(self.resource.clone(), self.namespace.as_str(), self.name.as_str())
    }

    /// Whether the object is on its way out, so that writing it (its last status, its finalizers) helps it out.
    pub(crate) fn is_deleting(&self) -> bool {
        self.api.store.get(&self.key()).is_ok_and(|object| object.is_deleting())
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject::new(self.kind.group, self.kind.plural, &self.name)
    }

    pub(crate) fn store_error(&self, error: StoreError) -> ApiError {
        ApiError::from_store(error, self.kind.kind).seen_as(self.kind)
    }
}

/// The kind behind a path; 404 for one that is not served, or not in this scope.
pub(crate) fn resolve(path: &ResourcePath) -> Result<&'static Kind, ApiError> {
    let kind =
        registry().by_resource(&path.gv.group, &path.gv.version, &path.plural).ok_or_else(ApiError::no_such_path)?;
    if let Some(subresource) = &path.subresource {
        let known = match subresource.as_str() {
            "status" => kind.status,
            "scale" => kind.scale.is_some(),
            "finalize" => kind.plural == "namespaces",
            other => kind.subresources.contains(&other),
        };
        if !known && !kind.builtin {
            let name = path.name.as_deref().unwrap_or_default();
            return Err(ApiError::not_found(Subject::new(kind.group, kind.plural, name)));
        }
        if !known {
            return Err(ApiError::no_such_path());
        }
    }
    let misplaced = path.namespace.is_some() != kind.namespaced;
    // Namespaced collections can be read without a namespace; everything else needs the right scope.
    if misplaced && (path.name.is_some() || path.namespace.is_some()) {
        return Err(ApiError::no_such_path());
    }
    Ok(kind)
}

/// The API's verb of a request.
pub(crate) fn verb(
    method: &Method,
    kind: &Kind,
    path: &ResourcePath,
    params: &Params,
) -> Result<&'static str, ApiError> {
    let named = path.name.is_some();
    let subject = || Subject::new(kind.group, kind.plural, "");
    // Custom resources have their own handler, which looks at the verb and not at the method.
    let method = if *method == Method::HEAD && !kind.builtin { &Method::GET } else { method };
    match (method.as_str(), named) {
        ("GET", false) if params.watch => Ok("watch"),
        ("GET", true) => Ok("get"),
        ("GET", false) => Ok("list"),
        ("POST", false) => Ok("create"),
        ("POST", true) if path.subresource.is_some() => Ok("create"),
        ("PUT", true) => Ok("update"),
        ("PATCH", true) => Ok("patch"),
        ("DELETE", true) if path.subresource.is_none() => Ok("delete"),
        ("DELETE", false) => Ok("deletecollection"),
        ("PATCH" | "PUT", false) if !kind.builtin => Err(ApiError::bad_request("name must be provided")),
        ("DELETE", true) if !kind.builtin => Err(ApiError::not_supported(subject(), "delete")),
        _ if !kind.builtin => Err(ApiError::not_supported(subject(), "")),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// `fieldManager`, or the program's name from its user agent, as the API server does it.
pub(crate) fn manager(params: &Params, headers: &HeaderMap) -> String {
    /// The API server's limit on manager names.
    const MAX_CHARS: usize = 128;
    let agent = || {
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        agent.split(['/', ' ']).next().filter(|word| !word.is_empty()).unwrap_or("unknown").to_owned()
    };
    params.field_manager.clone().unwrap_or_else(agent).chars().take(MAX_CHARS).collect()
}
