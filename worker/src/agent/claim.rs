//! PersistentVolumeClaims: a folder each, under `home/volumes/<namespace>/<claim>`, kept until the claim is deleted.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// The folder of a claim.
pub(super) fn folder(home: &Path, namespace: &str, claim: &str) -> PathBuf {
    home.join("volumes").join(namespace).join(claim)
}

/// Gives the folder of a claim, made and marked as bound at first use; nothing where there is no such claim.
pub(super) async fn bind(
    client: &kube::Client,
    home: &Path,
    namespace: &str,
    name: &str,
) -> Result<Option<PathBuf>, ClaimError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let Some(claim) = claims.get_opt(name).await? else { return Ok(None) };
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let path = folder(home, namespace, name);
    std::fs::create_dir_all(&path)?;
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") {
        mark_bound(client, &claims, &claim, &path).await?;
    }
    Ok(Some(path))
}

/// Why a claim could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("its folder cannot be made: {0}")]
    Folder(#[from] std::io::Error),
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

async fn mark_bound(
    client: &kube::Client,
    claims: &Api<PersistentVolumeClaim>,
    claim: &PersistentVolumeClaim,
    path: &Path,
) -> Result<(), ClaimError> {
    let name = claim.metadata.name.clone().unwrap_or_default();
    let spec = claim.spec.clone().unwrap_or_default();
    let requested = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let capacity = json!({"storage": requested.get("storage").map_or("1Gi", |quantity| quantity.0.as_str())});
    let modes = spec.access_modes.unwrap_or_else(|| vec!["ReadWriteOnce".to_owned()]);
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim)},
        "spec": {
            "capacity": capacity, "accessModes": modes, "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec.storage_class_name.unwrap_or_default(), "volumeMode": "Filesystem",
            "hostPath": {"path": path, "type": ""},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name,
                         "namespace": claim.metadata.namespace, "uid": claim.metadata.uid},
        },
    });
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let body: PersistentVolume = serde_json::from_value(volume).map_err(kube::Error::SerdeError)?;
    match volumes.create(&PostParams::default(), &body).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    let merge = PatchParams::default();
    let bound = json!({"status": {"phase": "Bound"}});
    volumes.patch_status(&volume_name(claim), &merge, &Patch::Merge(bound)).await?;
    let to_volume = json!({"spec": {"volumeName": volume_name(claim)}});
    claims.patch(&name, &merge, &Patch::Merge(to_volume)).await?;
    let bound = json!({"status": {"phase": "Bound", "capacity": capacity, "accessModes": modes}});
    claims.patch_status(&name, &merge, &Patch::Merge(bound)).await?;
    Ok(())
}

/// Takes away the folder and the volume of a claim that was deleted. Nothing else is ever removed here.
pub(super) async fn release(client: &kube::Client, home: &Path, claim: &PersistentVolumeClaim) {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if namespace.is_empty() || name.is_empty() {
        return;
    }
    let path = folder(home, namespace, name);
    if let Err(error) = std::fs::remove_dir_all(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the folder of a deleted claim could not be removed");
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    if let Err(error) = volumes.delete(&volume_name(claim), &DeleteParams::default()).await {
        tracing::debug!(%error, "the volume of a deleted claim is gone already");
    }
}
