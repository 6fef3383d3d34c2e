//! The schemas of kinds, made of what [`trainyard_proto::schema`] knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use trainyard_proto::schema;
use trainyard_runtime_core::schema::{Builder, Schema};

use super::{Column, Kind, Scale, annotation};

/// The definition of every object's metadata.
pub(crate) const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The JSON schema of a kind. Of a kind that has none spec and status may be anything.
pub(crate) fn json_schema(kind: &Kind) -> Value {
    if let Some(name) = schema::of(&kind.api_version(), kind.kind) {
        return json!({"$ref": format!("#/$defs/{name}")});
    }
    let open = || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let properties = json!({
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "What this object is."},
        "metadata": {"$ref": format!("#/$defs/{METADATA}")},
        "spec": open(),
        "status": open(),
    });
    json!({"type": "object", "properties": properties})
}

/// Builds the schema of a kind. Named types are built once.
pub(super) fn build(kind: &Kind) -> Arc<Schema> {
    static KNOWN: OnceLock<Mutex<BTreeMap<String, Arc<Schema>>>> = OnceLock::new();
    let shared = KNOWN.get_or_init(Mutex::default);
    let known = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let root = json_schema(kind);
    let name = schema::reference(&root);
    let mut definitions = schema::definitions([name.unwrap_or(METADATA)], |name| known.contains_key(name));
    // Nobody must write `metadata`; what is missed is the name, and the server says so itself.
    for definition in
        definitions.values_mut().filter(|definition| definition.pointer("/properties/apiVersion").is_some())
    {
        if let Some(Value::Array(required)) = definition.get_mut("required") {
            required.retain(|name| name != "metadata");
        }
    }
    let mut builder = Builder::new(&definitions, &annotation::annotation, known);
    let schema = match name {
        Some(name) => builder.named(name),
        None => Arc::new(builder.schema("", &root)),
    };
    shared.lock().unwrap_or_else(PoisonError::into_inner).extend(builder.into_known());
    schema
}

impl Kind {
    pub(super) fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        builtin: bool,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            // Leaked once per kind for the life of the process: every other name is static, too.
            singular: kind.to_lowercase().leak(),
            short_names: &[],
            categories: &[],
            namespaced: true,
            status: false,
            scale: None,
            subresources: &[],
            columns: super::column::DEFAULT,
            builtin,
            read_only: false,
            stored_as: None,
            schema: OnceLock::new(),
        }
    }

    pub(super) fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    pub(super) fn all(self) -> Self {
        self.categories(&["all"])
    }

    pub(super) fn categories(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names;
        self
    }

    pub(super) fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    pub(super) fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    pub(super) fn scale(mut self, scale: Scale) -> Self {
        self.scale = Some(scale);
        self
    }

    pub(super) fn subresources(mut self, names: &'static [&'static str]) -> Self {
        self.subresources = names;
        self
    }

    pub(super) fn columns(mut self, columns: &'static [Column]) -> Self {
        self.columns = columns;
        self
    }

    pub(super) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(super) fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.stored_as = Some((group, version));
        self
    }
}
