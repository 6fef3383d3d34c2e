//! OpenAPI documents, built from the Rust types when a client asks for them.

use serde_json::{Value, json};

use crate::kinds::Registry;

/// Swagger 2.0 (`/openapi/v2`).
pub fn v2(registry: &Registry) -> Value {
    let _ = registry;
    json!({"swagger": "2.0"})
}

/// `/openapi/v2` as the protobuf message `openapi.v2.Document`, which client-go asks for.
pub fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    let _ = registry;
    Vec::new()
}

/// The index of `/openapi/v3`: one URL per group and version, with the hash of its document.
pub fn v3_index(registry: &Registry) -> Value {
    let _ = registry;
    json!({"paths": {}})
}

/// One document of OpenAPI v3; `path` is `api/v1` or `apis/batch/v1`. `None`: no such group or version.
pub fn v3(registry: &Registry, path: &str) -> Option<Value> {
    let _ = (registry, path);
    None
}
