//! Manifests as JSON: validation against the schema of their kind, and the lowering of jobs.

use serde_json::Value;
use trainyard_coordinator_core::manifest::lower;
use trainyard_coordinator_core::view::Config;
use trainyard_runtime::kinds::registry;
use trainyard_runtime_core::schema::{prune, unknown_fields};

/// One input.
pub(crate) fn run(data: &[u8]) {
    let Ok(mut manifest) = serde_json::from_slice::<Value>(data) else { return };
    let api_version = manifest.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let name = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
    if let Some(kind) = registry().by_api_version(api_version, name) {
        let _ = kind.validate(&manifest);
        let _ = lower(&manifest, &[], &Config::embedded());
        prune(kind.schema(), &mut manifest);
        assert!(unknown_fields(kind.schema(), &manifest).is_empty(), "pruning leaves nothing unknown");
        kind.apply_defaults(&mut manifest);
        let once = manifest.clone();
        kind.apply_defaults(&mut manifest);
        assert_eq!(once, manifest, "defaults are idempotent");
    }
    let _ = lower(&manifest, &[], &Config::cluster());
}
