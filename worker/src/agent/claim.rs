//! PersistentVolumeClaims: a folder each, under `home/volumes/<namespace>/<claim>`, kept until the claim is deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// Keeps a claim that is deleted until no pod uses it any more, as on a cluster.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

fn finalizers(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    claim.metadata.finalizers.iter().flatten().map(String::as_str)
}

fn is_protected(claim: &PersistentVolumeClaim) -> bool {
    finalizers(claim).any(|held| held == PROTECTION)
}

/// Namespace and name of a claim.
pub(super) type ClaimKey = (String, String);

pub(super) fn key(claim: &PersistentVolumeClaim) -> ClaimKey {
    (claim.metadata.namespace.clone().unwrap_or_default(), claim.metadata.name.clone().unwrap_or_default())
}

/// The claims that a pod uses: none when it has finished.
pub(super) fn used_by(pod: &Pod) -> BTreeSet<ClaimKey> {
    if matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
        return BTreeSet::new();
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| Some((namespace.clone(), volume.persistent_volume_claim.as_ref()?.claim_name.clone())))
        .collect()
}

/// Whether the claim is deleted and waits for its pods only.
pub(super) fn waits_for_pods(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some() && is_protected(claim)
}

/// Lets a deleted claim go that no pod uses any more.
pub(super) async fn unprotect(client: &kube::Client, claim: &PersistentVolumeClaim) {
    let (namespace, name) = key(claim);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let held: Vec<&str> = finalizers(claim).filter(|held| *held != PROTECTION).collect();
    let patch = json!({"metadata": {"uid": claim.metadata.uid, "finalizers": held}});
    if let Err(error) = claims.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        tracing::debug!(claim = name, %error, "a deleted claim is gone already");
    }
}

/// Takes away the folders and volumes of claims that were deleted while no agent ran. `listed` are all that exist.
pub(super) async fn reconcile(client: &kube::Client, home: &Path, listed: &BTreeSet<ClaimKey>) {
    for namespace in std::fs::read_dir(home.join("volumes")).into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            let names = (namespace.file_name().into_string(), entry.file_name().into_string());
            let (Ok(namespace), Ok(name)) = names else { continue };
            if listed.contains(&(namespace.clone(), name.clone())) {
                continue;
            }
            // It may have been made since the list.
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
            if matches!(claims.get_opt(&name).await, Ok(None)) {
                remove_folder(&folder(home, &namespace, &name));
            }
        }
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let Ok(found) = volumes.list(&ListParams::default()).await else { return };
    for volume in found.items {
        let Some(spec) = &volume.spec else { continue };
        let ours = spec.host_path.as_ref().is_some_and(|at| Path::new(&at.path).starts_with(home.join("volumes")));
        let Some(claim) = spec.claim_ref.as_ref().filter(|_| ours) else { continue };
        let key = (claim.namespace.clone().unwrap_or_default(), claim.name.clone().unwrap_or_default());
        if !listed.contains(&key) {
            let _ = volumes.delete(volume.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::default()).await;
        }
    }
}

fn remove_folder(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the folder of a deleted claim could not be removed");
    }
}

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
    if !is_protected(&claim) {
        let held: Vec<&str> = finalizers(&claim).chain([PROTECTION]).collect();
        let patch = json!({"metadata": {"uid": claim.metadata.uid, "finalizers": held}});
        claims.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
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
    remove_folder(&folder(home, namespace, name));
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    if let Err(error) = volumes.delete(&volume_name(claim), &DeleteParams::default()).await {
        tracing::debug!(%error, "the volume of a deleted claim is gone already");
    }
}
