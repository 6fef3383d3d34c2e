//! PersistentVolumeClaims: a folder each, `home/volumes/<namespace>/<claim>.<uid>`, kept until the claim is deleted.
//!
//! The uid tells a claim from a later one of the same name: what is left to do for the one never touches the other's data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::Deserialize as _;
use serde_json::json;

/// Uids are UUIDs.
const UID_LENGTH: usize = 36;

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

/// Takes away the folders and volumes of claims that were deleted while no agent ran. `listed` are the uids of all that
/// exist.
pub(super) async fn reconcile(client: &kube::Client, home: &Path, listed: &BTreeSet<String>) {
    for namespace in std::fs::read_dir(home.join("volumes")).into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            let names = (namespace.file_name().into_string(), entry.file_name().into_string());
            let (Ok(namespace), Ok(folder)) = names else { continue };
            let (name, uid) = owner(&folder);
            if !uid.is_some_and(|uid| listed.contains(uid)) && !exists(client, &namespace, name, uid).await {
                remove_folder(&entry.path());
            }
        }
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let Ok(found) = volumes.list(&ListParams::default()).await else { return };
    for volume in found.items {
        let Some(spec) = &volume.spec else { continue };
        let ours = spec.host_path.as_ref().is_some_and(|at| Path::new(&at.path).starts_with(home.join("volumes")));
        let Some(claim) = spec.claim_ref.as_ref().filter(|_| ours) else { continue };
        let (namespace, name) = (claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref());
        let uid = claim.uid.as_deref();
        if !uid.is_some_and(|uid| listed.contains(uid))
            && !exists(client, namespace, name.unwrap_or_default(), uid).await
        {
            let _ = volumes.delete(volume.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::default()).await;
        }
    }
}

/// Whether the claim is there: it may have been made since the list. Where the API does not answer it is taken to be.
async fn exists(client: &kube::Client, namespace: &str, name: &str, uid: Option<&str>) -> bool {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    match claims.get_opt(name).await {
        Ok(found) => found.is_some_and(|found| uid.is_none() || found.metadata.uid.as_deref() == uid),
        Err(_) => true,
    }
}

fn remove_folder(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the folder of a deleted claim could not be removed");
    }
}

/// Nothing where the claim is none of the API's.
fn folder(home: &Path, claim: &PersistentVolumeClaim) -> Option<PathBuf> {
    let uid = claim.metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
    let (namespace, name) = key(claim);
    Some(home.join("volumes").join(namespace).join(format!("{name}.{uid}")))
}

/// Name and uid of the claim that a folder is of. One without a uid is of the time before they had it.
fn owner(folder: &str) -> (&str, Option<&str>) {
    match folder.rsplit_once('.') {
        Some((name, uid)) if uid.len() == UID_LENGTH => (name, Some(uid)),
        Some(_) | None => (folder, None),
    }
}

/// What a bound claim had under its name alone becomes its own.
fn adopt(home: &Path, claim: &PersistentVolumeClaim, to: &Path) -> std::io::Result<()> {
    let (namespace, name) = key(claim);
    let old = home.join("volumes").join(namespace).join(name);
    if is_bound(claim) && !to.exists() && old.is_dir() { std::fs::rename(old, to) } else { Ok(()) }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
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
    let Some(path) = folder(home, &claim) else { return Ok(None) };
    adopt(home, &claim, &path)?;
    std::fs::create_dir_all(&path)?;
    if !is_bound(&claim) {
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
    let body = PersistentVolume::deserialize(&volume).map_err(kube::Error::SerdeError)?;
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
    let Some(path) = folder(home, claim) else { return };
    remove_folder(&path);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    if let Err(error) = volumes.delete(&volume_name(claim), &DeleteParams::default()).await {
        tracing::debug!(%error, "the volume of a deleted claim is gone already");
    }
}

#[cfg(test)]
mod tests {
    use trainyard_runtime::embedded::{Embedded, Options};

    use super::*;

    struct World {
        home: tempfile::TempDir,
        server: Embedded,
    }

    impl World {
        async fn new() -> Self {
            let home = tempfile::tempdir().expect("a folder");
            let server = Embedded::open(Options::new(home.path())).await.expect("a server");
            Self { home, server }
        }

        fn claims(&self) -> Api<PersistentVolumeClaim> {
            Api::namespaced(self.server.client(), "default")
        }

        async fn make(&self) -> PersistentVolumeClaim {
            let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}});
            let claim = serde_json::from_value(claim).expect("a claim");
            self.claims().create(&PostParams::default(), &claim).await.expect("a claim")
        }

        async fn bind(&self) -> PathBuf {
            let bound = bind(&self.server.client(), self.home.path(), "default", "data").await;
            bound.expect("the API answers").expect("a claim")
        }

        async fn delete(&self) {
            self.claims().delete("data", &DeleteParams::default()).await.expect("a deletion");
            if let Some(claim) = self.claims().get_opt("data").await.expect("an answer") {
                unprotect(&self.server.client(), &claim).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_left_to_do_for_a_deleted_claim_spares_a_new_one_of_its_name() {
        let world = World::new().await;
        let old = world.make().await;
        let old_folder = world.bind().await;
        std::fs::write(old_folder.join("old"), "").expect("a file");
        world.delete().await;
        let new = world.make().await;
        let new_folder = world.bind().await;
        assert!(!new_folder.join("old").exists(), "data of another claim");
        std::fs::write(new_folder.join("new"), "").expect("a file");
        // Told late, and once more by the list of an agent that knows nothing else.
        release(&world.server.client(), world.home.path(), &old).await;
        let listed: BTreeSet<String> = new.metadata.uid.clone().into_iter().collect();
        reconcile(&world.server.client(), world.home.path(), &listed).await;
        // A list from before it was made does not know of it.
        reconcile(&world.server.client(), world.home.path(), &BTreeSet::new()).await;
        assert!(new_folder.join("new").exists() && !old_folder.exists());
        let volumes: Api<PersistentVolume> = Api::all(world.server.client());
        let found = volumes.list(&ListParams::default()).await.expect("volumes");
        let names: Vec<_> = found.items.into_iter().filter_map(|volume| volume.metadata.name).collect();
        assert_eq!(names, [volume_name(&new)]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_folder_without_a_uid_goes_to_the_bound_claim_of_its_name_and_goes_with_none() {
        let world = World::new().await;
        let before = world.home.path().join("volumes/default/data");
        let written = || std::fs::create_dir_all(&before).and_then(|()| std::fs::write(before.join("f"), ""));
        world.make().await;
        // Not yet bound: what lies there is not this claim's.
        written().expect("a file");
        assert!(!world.bind().await.join("f").exists());
        std::fs::remove_dir_all(world.bind().await).expect("removed");
        assert!(world.bind().await.join("f").exists());
        written().expect("a file");
        world.delete().await;
        reconcile(&world.server.client(), world.home.path(), &BTreeSet::new()).await;
        assert!(!before.exists());
    }
}
