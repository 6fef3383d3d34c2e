//! Where the schemas of kinds come from, and the building of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use trainyard_runtime_core::schema::{Builder, Schema};

use super::{Column, Kind, Scale, annotation};

/// Writes the schema of one Rust type.
pub(super) type Part = fn(&mut SchemaGenerator) -> schemars::Schema;

/// Where the schema of a kind comes from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// A Rust type that is the whole object.
    Whole(Part),
    /// Nothing is known of spec and status: everything is accepted there.
    Open,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Open => "Open",
        })
    }
}

/// A generator whose definitions are found under `$defs`.
pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

/// Writes the JSON schema of a kind; the types it names are left in the generator.
pub(crate) fn json_schema(kind: &Kind, generator: &mut SchemaGenerator) -> Value {
    if let Source::Whole(part) = kind.source {
        return part(generator).to_value();
    }
    let properties = json!({
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "What this object is."},
        "metadata": generator.subschema_for::<ObjectMeta>().to_value(),
        "spec": open(),
        "status": open(),
    });
    json!({"type": "object", "properties": properties})
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Builds the schema of a kind. Kubernetes' own types are kept and shared between kinds; ours are not, since two types of the
/// same short name may occur in different kinds.
pub(super) fn build(kind: &Kind) -> Arc<Schema> {
    static SHARED: OnceLock<Mutex<BTreeMap<String, Arc<Schema>>>> = OnceLock::new();
    let mut generator = generator();
    let root = json_schema(kind, &mut generator);
    let mut definitions: Map<String, Value> = generator.take_definitions(true);
    // Nobody must write `metadata`; what is missed is the name, and the server says so itself.
    for definition in
        definitions.values_mut().filter(|definition| definition.pointer("/properties/apiVersion").is_some())
    {
        if let Some(Value::Array(required)) = definition.get_mut("required") {
            required.retain(|name| name != "metadata");
        }
    }
    let shared = SHARED.get_or_init(Mutex::default);
    let known = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut builder = Builder::new(&definitions, &annotation::annotation, known);
    let schema = match root.get("$ref").and_then(Value::as_str).and_then(|target| target.rsplit('/').next()) {
        Some(name) => builder.named(name),
        None => Arc::new(builder.schema("", &root)),
    };
    let known = builder.into_known().into_iter().filter(|(name, _)| name.starts_with("io.k8s."));
    shared.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
    schema
}

impl Kind {
    pub(super) fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        source: Source,
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
            source,
            schema: OnceLock::new(),
        }
    }

    pub(super) fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    pub(super) fn all(mut self) -> Self {
        self.categories = &["all"];
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
