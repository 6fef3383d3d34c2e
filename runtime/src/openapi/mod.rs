//! OpenAPI documents, built from the schemas of the Rust types when a client asks for them.
//!
//! Nothing is kept: a document is asked for once per client and version of the binary (clients cache by hash), and all documents
//! together are larger than everything else that an idle server holds.

mod convert;
mod path;
mod protobuf;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};
use trainyard_proto::schema;

use crate::kinds::{Kind, METADATA, Registry};
use convert::Dialect;

/// The definition of every list's metadata.
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Swagger 2.0 (`/openapi/v2`).
pub fn v2(registry: &Registry) -> Value {
    let (paths, definitions) = document(registry.iter(), Dialect::V2);
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions})
}

/// `/openapi/v2` as the protobuf message `openapi.v2.Document`, which client-go asks for.
pub fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    protobuf::document(&v2(registry))
}

/// The index of `/openapi/v3`: one URL per group and version, with a hash that changes with the binary.
pub fn v3_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let hash = v3_hash(registry, &path);
            paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
        }
    }
    json!({"paths": paths})
}

/// The hash of one document; also its ETag. Documents are functions of the binary, so the binary is what is hashed.
pub fn v3_hash(registry: &Registry, path: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (path, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    for kind in registry.iter() {
        (kind.group, kind.version, kind.kind).hash(&mut hasher);
    }
    if let Ok(metadata) = std::env::current_exe().and_then(std::fs::metadata) {
        metadata.len().hash(&mut hasher);
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        modified.map(|age| age.as_nanos()).hash(&mut hasher);
    }
    format!("{:016X}", hasher.finish())
}

/// One document of OpenAPI v3; `path` is `api/v1` or `apis/batch/v1`. `None`: no such group or version.
pub fn v3(registry: &Registry, path: &str) -> Option<Value> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    registry.of(group, version).next()?;
    let (paths, schemas) = document(registry.of(group, version), Dialect::V3);
    Some(json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}}))
}

fn info() -> Value {
    json!({"title": "Trainyard", "version": env!("CARGO_PKG_VERSION")})
}

/// Paths and named types of some kinds.
fn document<'k>(kinds: impl Iterator<Item = &'k Kind>, dialect: Dialect) -> (Map<String, Value>, Map<String, Value>) {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    let list_meta = json!({"$ref": format!("#/$defs/{LIST_META}")});
    let mut native = Vec::new();
    for kind in kinds {
        let name = definition_name(kind);
        let json = crate::kinds::json_schema(kind);
        path::paths(kind, &name, dialect, &mut paths);
        if let Some(target) = schema::reference(&json) {
            native.push((target.to_owned(), name.clone(), kind));
        } else {
            definitions.insert(name.clone(), with_kind(convert::schema(&name, &json, dialect), kind, ""));
        }
        definitions.insert(format!("{name}List"), with_kind(list(&name, &list_meta, dialect), kind, "List"));
    }
    let used = native.iter().map(|(target, ..)| target.as_str()).chain([LIST_META, METADATA]);
    for (name, json) in schema::definitions(used, |_| false) {
        definitions.insert(name.clone(), convert::schema(&name, &json, dialect));
    }
    for (type_name, name, kind) in native {
        if let Some(definition) = definitions.shift_remove(&type_name) {
            definitions.insert(name, with_kind(definition, kind, ""));
        }
    }
    (paths, definitions)
}

fn with_kind(mut schema: Value, kind: &Kind, suffix: &str) -> Value {
    if let Value::Object(map) = &mut schema {
        let named = json!([{"group": kind.group, "kind": format!("{}{suffix}", kind.kind), "version": kind.version}]);
        map.insert("x-kubernetes-group-version-kind".to_owned(), named);
    }
    schema
}

/// `io.k8s.api.core.v1.Pod`, `org.kubeflow.v1.PyTorchJob`: domains backwards, as everywhere in Kubernetes.
fn definition_name(kind: &Kind) -> String {
    if kind.builtin {
        let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
        return format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind);
    }
    let domain: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", domain.join("."), kind.version, kind.kind)
}

fn list(name: &str, list_meta: &Value, dialect: Dialect) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let items = json!({"type": "array", "description": "The objects.", "items": {"$ref": dialect.reference(name)}});
    json!({
        "type": "object",
        "description": "A list of objects.",
        "required": ["items"],
        "properties": {
            "apiVersion": text("Version of the schema of this list."),
            "items": items,
            "kind": text("What this list is of."),
            "metadata": convert::schema("", list_meta, dialect),
        },
    })
}
