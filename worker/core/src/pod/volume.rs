//! What goes into the volumes whose content the API holds, and what a pod needs from the API before it can start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource, Volume,
};
use thiserror::Error;

use super::env::{EnvError, NodeFacts, Sources, field_value, resource_value};

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// Relative to the volume; never leaves it.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// What a volume is made of, once its sources are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// A folder that lives as long as the pod.
    Empty {
        /// `medium: Memory`.
        in_memory: bool,
    },
    /// A path of the host.
    Host {
        /// Absolute.
        path: String,
        /// `hostPath.type`.
        kind: String,
    },
    /// Files from the API.
    Files(Vec<VolumeFile>),
    /// A claim's folder.
    Claim {
        /// The claim's name.
        name: String,
        /// Mounted read-only everywhere.
        read_only: bool,
    },
}

/// Why a volume cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VolumeError {
    /// Something in it does not exist.
    #[error("volume \"{volume}\": {source}")]
    Source {
        /// The volume.
        volume: String,
        /// What is missing.
        source: EnvError,
    },
    /// A kind of volume that this node has not.
    #[error(
        "volume \"{volume}\": {kind} volumes are not available on this node; use emptyDir, hostPath, configMap, secret, projected, downwardAPI or persistentVolumeClaim"
    )]
    Unsupported {
        /// The volume.
        volume: String,
        /// `nfs`, `csi`, …
        kind: String,
    },
    /// A path that would leave the volume.
    #[error("volume \"{volume}\": path {path:?} must be relative and must not contain '..'")]
    Path {
        /// The volume.
        volume: String,
        /// As written.
        path: String,
    },
}

impl VolumeError {
    /// Whether waiting can help: the object may still be created.
    #[must_use]
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Source { .. } => true,
            Self::Unsupported { .. } | Self::Path { .. } => false,
        }
    }
}

/// What a pod refers to in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: Vec<String>,
    /// Secrets.
    pub secrets: Vec<String>,
}

/// Everything the pod's containers and volumes name.
#[must_use]
pub fn references(pod: &Pod) -> References {
    let mut found = References::default();
    let Some(spec) = &pod.spec else { return found };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            found.config_maps.extend(from.config_map_ref.iter().map(|map| map.name.clone()));
            found.secrets.extend(from.secret_ref.iter().map(|secret| secret.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            found.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
            found.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        found.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
        found.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            found.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
            found.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
        }
    }
    for names in [&mut found.config_maps, &mut found.secrets] {
        names.sort();
        names.dedup();
    }
    found
}

/// What `volume` is made of.
///
/// # Errors
/// When something in it does not exist, or the kind is not one this node has.
pub fn volume_plan(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    facts: &NodeFacts,
) -> Result<VolumePlan, VolumeError> {
    if let Some(empty) = &volume.empty_dir {
        return Ok(VolumePlan::Empty { in_memory: empty.medium.as_deref() == Some("Memory") });
    }
    if let Some(host) = &volume.host_path {
        return Ok(VolumePlan::Host { path: host.path.clone(), kind: host.type_.clone().unwrap_or_default() });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(VolumePlan::Claim { name: claim.claim_name.clone(), read_only: claim.read_only == Some(true) });
    }
    let files = Files { pod, volume: &volume.name, sources, facts };
    if let Some(map) = &volume.config_map {
        return files.config_map(map).map(VolumePlan::Files);
    }
    if let Some(secret) = &volume.secret {
        return files.secret(secret).map(VolumePlan::Files);
    }
    if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(0o644);
        return files.downward(downward.items.as_deref().unwrap_or_default(), mode).map(VolumePlan::Files);
    }
    if let Some(projected) = &volume.projected {
        return files.projected(projected).map(VolumePlan::Files);
    }
    Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind_of(volume) })
}

/// The name of the source that is set.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let key = value.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
    key.unwrap_or_else(|| "unknown".to_owned())
}

struct Files<'a> {
    pod: &'a Pod,
    volume: &'a str,
    sources: &'a Sources,
    facts: &'a NodeFacts,
}

impl Files<'_> {
    fn config_map(&self, map: &ConfigMapVolumeSource) -> Result<Vec<VolumeFile>, VolumeError> {
        let optional = map.optional == Some(true);
        let mode = map.default_mode.unwrap_or(0o644);
        self.keyed("configmap", &map.name, &self.sources.config_maps, map.items.as_deref(), mode, optional)
    }

    /// Readable by every user of the container where the manifest does not say otherwise, as upstream: whoever it runs as
    /// has to read them. Others on the machine cannot: the pod's folder is closed to them.
    fn secret(&self, secret: &SecretVolumeSource) -> Result<Vec<VolumeFile>, VolumeError> {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let optional = secret.optional == Some(true);
        let mode = secret.default_mode.unwrap_or(0o644);
        self.keyed("secret", name, &self.sources.secrets, secret.items.as_deref(), mode, optional)
    }

    fn projected(&self, projected: &ProjectedVolumeSource) -> Result<Vec<VolumeFile>, VolumeError> {
        let mode = projected.default_mode.unwrap_or(0o644);
        let mut files = Vec::new();
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let optional = map.optional == Some(true);
                let all = &self.sources.config_maps;
                files.extend(self.keyed("configmap", &map.name, all, map.items.as_deref(), mode, optional)?);
            } else if let Some(secret) = &source.secret {
                let optional = secret.optional == Some(true);
                let all = &self.sources.secrets;
                files.extend(self.keyed("secret", &secret.name, all, secret.items.as_deref(), mode, optional)?);
            } else if let Some(downward) = &source.downward_api {
                files.extend(self.downward(downward.items.as_deref().unwrap_or_default(), mode)?);
            } else {
                let kind =
                    if source.service_account_token.is_some() { "projected serviceAccountToken" } else { "projected" };
                return Err(VolumeError::Unsupported { volume: self.volume.to_owned(), kind: kind.to_owned() });
            }
        }
        Ok(files)
    }

    fn keyed(
        &self,
        kind: &'static str,
        name: &str,
        all: &BTreeMap<String, BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Vec<VolumeFile>, VolumeError> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let fail = |source| VolumeError::Source { volume: self.volume.to_owned(), source };
        let Some(data) = all.get(name) else {
            if optional {
                return Ok(Vec::new());
            }
            return Err(fail(EnvError::Missing { kind, name: name.to_owned(), namespace }));
        };
        let Some(items) = items else {
            return data.iter().map(|(key, content)| self.file(key, content.clone(), mode)).collect();
        };
        let mut files = Vec::new();
        for item in items {
            match data.get(&item.key) {
                Some(content) => files.push(self.file(&item.path, content.clone(), item.mode.unwrap_or(mode))?),
                None if optional => {}
                None => {
                    let (name, key) = (name.to_owned(), item.key.clone());
                    return Err(fail(EnvError::MissingKey { kind, name, key, namespace }));
                }
            }
        }
        Ok(files)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Vec<VolumeFile>, VolumeError> {
        let fail = |source| VolumeError::Source { volume: self.volume.to_owned(), source };
        let mut files = Vec::new();
        for item in items {
            let content = if let Some(field) = &item.field_ref {
                field_value(self.pod, field, self.facts).map_err(fail)?
            } else if let Some(resource) = &item.resource_field_ref {
                let spec = self.pod.spec.as_ref();
                let Some(first) = spec.and_then(|spec| spec.containers.first()) else { continue };
                resource_value(self.pod, first, resource, self.facts).map_err(fail)?
            } else {
                continue;
            };
            files.push(self.file(&item.path, content.into_bytes(), item.mode.unwrap_or(mode))?);
        }
        Ok(files)
    }

    fn file(&self, path: &str, content: Vec<u8>, mode: i32) -> Result<VolumeFile, VolumeError> {
        if !stays_inside(path) {
            return Err(VolumeError::Path { volume: self.volume.to_owned(), path: path.to_owned() });
        }
        Ok(VolumeFile { path: path.to_owned(), content, mode: u32::try_from(mode).unwrap_or(0o600) & 0o777 })
    }
}

/// Whether a relative path never leaves the folder it is joined to.
#[must_use]
pub fn stays_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "a test's own input")]
    fn plan(volume: serde_json::Value) -> Result<VolumePlan, VolumeError> {
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let mut sources = Sources::default();
        let data = BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        sources.config_maps.insert("m".to_owned(), data.clone());
        sources.secrets.insert("s".to_owned(), data);
        volume_plan(&Pod::default(), &volume, &sources, &NodeFacts::default())
    }

    #[test]
    fn secrets_can_be_read_by_whoever_the_container_runs_as() {
        let modes = |source: serde_json::Value| {
            let VolumePlan::Files(files) = plan(json!({"name": "v", "secret": source})).expect("a plan") else {
                panic!("files")
            };
            files.iter().map(|file| file.mode).collect::<Vec<_>>()
        };
        assert_eq!(modes(json!({"secretName": "s"})), [0o644, 0o644]);
        assert_eq!(modes(json!({"secretName": "s", "defaultMode": 0o400})), [0o400, 0o400]);
    }

    #[test]
    fn items_choose_and_rename() {
        let volume =
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "b", "path": "x/y", "mode": 256}]}});
        let file = VolumeFile { path: "x/y".into(), content: b"2".to_vec(), mode: 0o400 };
        assert_eq!(plan(volume), Ok(VolumePlan::Files(vec![file])));
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let volume = json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "b", "path": "../y"}]}});
        assert!(matches!(plan(volume), Err(VolumeError::Path { .. })));
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        let error = plan(json!({"name": "v", "nfs": {"server": "x", "path": "/"}})).expect_err("no nfs here");
        assert!(error.to_string().contains("nfs volumes are not available"), "{error}");
        assert!(!error.may_heal());
    }
}
