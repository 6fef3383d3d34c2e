//! Logs of pods that are gone, while their job is still there: `home/ended/<pod uid>/{pod.json, containers/…}`.
//!
//! A job that ended takes its pods away if its `cleanPodPolicy` says so, and a gang that is started again replaces its
//! pods. What they printed is what somebody will ask for then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};

use super::folder::{PodFolder, PodRecord, records};

/// A week: long enough to come back from a holiday to what a job said.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A gang of 256 fits. The oldest go first.
const MAX_PODS: usize = 256;
/// As much as four chatty containers may keep while they run.
const MAX_BYTES: u64 = 1 << 30;

/// The logs of a deleted job are gone this soon.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// How long the garbage collector may take, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// A pod that is gone and whose logs are kept.
#[derive(Clone, Debug)]
pub struct KeptPod {
    /// The object, as last seen.
    pub pod: Pod,
    folder: PathBuf,
}

/// The pods of the job of this uid whose logs are there; those that the agent still has are among them.
#[must_use]
pub fn kept_pods(home: &Path, job_uid: &str) -> Vec<KeptPod> {
    // An agent that was stopped in between has not moved the logs of the last ones yet.
    let held = names(&home.join("pods")).into_iter().filter_map(|uid| {
        let record = PodFolder::new(home, &uid).read_record().ok()?;
        Some((home.join("pods").join(uid), record.pod))
    });
    let all = all(home).into_iter().chain(held);
    all.filter(|(_, pod)| owner(pod).is_some_and(|owner| owner.uid == job_uid))
        .map(|(folder, pod)| KeptPod { pod, folder })
        .collect()
}

impl KeptPod {
    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.pod.metadata.name.as_deref()
    }

    /// The lines of a container's newest run, or of the one before it, each with its time.
    #[must_use]
    pub fn lines(&self, container: &str, previous: bool) -> Vec<(String, String)> {
        let folder = self.folder.join("containers").join(container);
        let names = names(&folder);
        let mut runs: Vec<u32> = names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        runs.sort_unstable();
        let Some(run) = runs.iter().rev().nth(usize::from(previous)) else { return Vec::new() };
        // `0.log.2` is older than `0.log.1`, which is older than `0.log`.
        let prefix = format!("{run}.log.");
        let mut rotated: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        rotated.sort_unstable_by(|a, b| b.cmp(a));
        let files = rotated.into_iter().map(|number| format!("{prefix}{number}")).chain([format!("{run}.log")]);
        let text: String =
            files.map(|name| fs::read(folder.join(name)).unwrap_or_default()).fold(String::new(), |mut all, bytes| {
                all.push_str(&String::from_utf8_lossy(&bytes));
                all
            });
        whole_lines(&text)
    }
}

/// Puts parts together that were written one by one.
fn whole_lines(text: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut open = [false; 2];
    let mut last = [0; 2];
    for entry in text.lines() {
        let mut parts = entry.splitn(4, ' ');
        let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (said, stream) = (parts.next().unwrap_or_default(), usize::from(stream == "stderr"));
        if open[stream] {
            lines[last[stream]].1.push_str(said);
        } else {
            last[stream] = lines.len();
            lines.push((time.to_owned(), said.to_owned()));
        }
        open[stream] = tag == "P";
    }
    lines
}

/// Whether the logs of this pod, which is about to go, are to be kept: it belongs to a job that stays.
pub(super) async fn is_wanted(client: &kube::Client, pod: &Pod) -> bool {
    let Some(owner) = owner(pod).filter(|owner| owner.kind.ends_with("Job")) else { return false };
    stays(client, pod.metadata.namespace.as_deref().unwrap_or_default(), owner).await
}

/// Whether the owner is there and is not being deleted. Where the API does not answer nothing is lost: it is asked again.
async fn stays(client: &kube::Client, namespace: &str, owner: &OwnerReference) -> bool {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let is_same = |job: DynamicObject| {
        job.metadata.uid.as_deref() == Some(&owner.uid) && job.metadata.deletion_timestamp.is_none()
    };
    api.get_opt(&owner.name).await.map_or(true, |found| found.is_some_and(is_same))
}

/// Moves a pod's logs out of its folder, which is about to be removed. May be cut off anywhere and begun again: the logs are in
/// the one place or in the other, and are moved when their pod is on record there.
fn keep(home: &Path, uid: &str, from: &PodFolder, record: &PodRecord) -> io::Result<()> {
    let to = home.join("ended").join(uid);
    // For this user's eyes only, as the pods' folders are.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&to)?;
    let pod = serde_json::to_vec(&record.pod).map_err(io::Error::other)?;
    crate::shim::write_atomically(&to.join("pod.json"), &pod)?;
    let logs = to.join("containers");
    match fs::rename(from.containers(), &logs) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !logs.exists() {
                // It never had any.
                return fs::remove_dir_all(&to);
            }
        }
        Err(error) => return Err(error),
    }
    prune(home, SystemTime::now());
    Ok(())
}

/// Takes away what pods and jobs that are gone from the API left in the state folder, where no agent runs to do it.
///
/// Nothing else may use the folder meanwhile, and none of its pods may run.
///
/// # Errors
/// When the API cannot list the pods.
pub async fn tidy(client: &kube::Client, home: &Path) -> Result<(), kube::Error> {
    let known = settled_pods(client).await?;
    for (uid, record) in records(home) {
        if !known.contains(&uid) {
            let wanted = is_wanted(client, &record.pod).await;
            if let Err(error) = put_away(home, &uid, &record, wanted) {
                tracing::warn!(uid, %error, "the folder of a pod could not be removed");
            }
        }
    }
    sweep(client, home).await;
    Ok(())
}

/// The pods that are there once the garbage collector has taken those of jobs that were just deleted.
async fn settled_pods(client: &kube::Client) -> Result<BTreeSet<String>, kube::Error> {
    let patience = Instant::now() + PATIENCE;
    loop {
        let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?.items;
        let mut owners = BTreeMap::new();
        // What waits for a finalizer may do so for long.
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let Some(owner) = owner(pod) else { continue };
            if !owners.contains_key(&owner.uid) {
                let stays = stays(client, pod.metadata.namespace.as_deref().unwrap_or_default(), owner).await;
                owners.insert(owner.uid.clone(), stays);
            }
        }
        if owners.values().all(|stays| *stays) || Instant::now() > patience {
            return Ok(pods.into_iter().filter_map(|pod| pod.metadata.uid).collect());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes the folder of a pod that is gone, but for its logs if they are `wanted`.
pub(super) fn put_away(home: &Path, uid: &str, record: &PodRecord, wanted: bool) -> io::Result<()> {
    let folder = PodFolder::new(home, uid);
    for path in &record.outside {
        let _ = fs::remove_dir_all(path);
    }
    if wanted && let Err(error) = keep(home, uid, &folder, record) {
        tracing::warn!(uid, %error, "the logs of a pod could not be kept");
    }
    folder.remove()
}

/// Sweeps as long as the agent runs: jobs whose pods are long gone are deleted at any time.
pub(super) async fn keep_swept(client: kube::Client, home: PathBuf) {
    loop {
        sweep(&client, &home).await;
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Takes away what is too old or too much, and what belongs to jobs that are gone.
async fn sweep(client: &kube::Client, home: &Path) {
    prune(home, SystemTime::now());
    let mut known = BTreeMap::new();
    for (folder, pod) in all(home) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let Some(owner) = owner(&pod) else { continue };
        if !known.contains_key(&owner.uid) {
            known.insert(owner.uid.clone(), stays(client, &namespace, owner).await);
        }
        if known.get(&owner.uid) == Some(&false) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn prune(home: &Path, now: SystemTime) {
    let mut folders: Vec<(SystemTime, PathBuf)> = fs::read_dir(home.join("ended"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.0));
    let mut bytes = 0;
    for (index, (at, folder)) in folders.into_iter().enumerate() {
        bytes += size(&folder);
        let old = now.duration_since(at).is_ok_and(|age| age > MAX_AGE);
        if old || index >= MAX_PODS || bytes > MAX_BYTES {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

fn all(home: &Path) -> Vec<(PathBuf, Pod)> {
    let entries = fs::read_dir(home.join("ended")).into_iter().flatten().flatten();
    let read = |folder: PathBuf| {
        let bytes = fs::read(folder.join("pod.json")).ok()?;
        Some((folder, serde_json::from_slice(&bytes).ok()?))
    };
    // One without logs is still being filled.
    entries.map(|entry| entry.path()).filter(|folder| folder.join("containers").exists()).filter_map(read).collect()
}

fn owner(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(home: &Path, uid: &str, job: &str) -> PathBuf {
        let folder = home.join("ended").join(uid);
        fs::create_dir_all(folder.join("containers/main")).expect("a folder");
        let owner = serde_json::json!([{"apiVersion": "v1", "kind": "PyTorchJob", "name": "j", "uid": job, "controller": true}]);
        let pod = serde_json::json!({"metadata": {"name": uid, "ownerReferences": owner}});
        fs::write(folder.join("pod.json"), pod.to_string()).expect("written");
        folder
    }

    #[test]
    fn kept_logs_read_in_order_and_belong_to_their_job() {
        let home = tempfile::tempdir().expect("a folder");
        let containers = kept(home.path(), "a", "job").join("containers/main");
        kept(home.path(), "b", "other");
        fs::write(containers.join("0.log"), "t0 stdout F first run\n").expect("written");
        fs::write(containers.join("1.log.1"), "t1 stdout P hel\nt2 stderr F oh\nt3 stdout F lo\n").expect("written");
        fs::write(containers.join("1.log"), "t4 stdout F \n").expect("written");
        let pods = kept_pods(home.path(), "job");
        assert_eq!(pods.len(), 1);
        let line = |time: &str, text: &str| (time.to_owned(), text.to_owned());
        assert_eq!(pods[0].lines("main", false), [line("t1", "hello"), line("t2", "oh"), line("t4", "")]);
        assert_eq!(pods[0].lines("main", true), [line("t0", "first run")]);
        assert_eq!(pods[0].lines("absent", false), []);
    }

    #[test]
    fn logs_are_kept_though_keeping_them_is_cut_off() {
        let home = tempfile::tempdir().expect("a folder");
        let owner = serde_json::json!([{"apiVersion": "v1", "kind": "PyTorchJob", "name": "j", "uid": "job", "controller": true}]);
        let pod = serde_json::json!({"metadata": {"name": "p", "uid": "u", "ownerReferences": owner}});
        let record = PodRecord { pod: serde_json::from_value(pod).expect("a pod"), ..PodRecord::default() };
        let folder = PodFolder::new(home.path(), "u");
        folder.create(&["main"]).expect("folders");
        folder.write_record(&record).expect("written");
        fs::write(folder.container("main").join("0.log"), "t0 stdout F said\n").expect("written");
        let said = |when: &str| {
            let pods = kept_pods(home.path(), "job");
            assert_eq!(pods.len(), 1, "{when}");
            assert_eq!(pods[0].lines("main", false), [("t0".to_owned(), "said".to_owned())], "{when}");
        };
        fs::create_dir_all(home.path().join("ended/u")).expect("a folder");
        said("cut off after its folder was made");
        fs::write(home.path().join("ended/u/pod.json"), serde_json::to_vec(&record.pod).expect("json"))
            .expect("written");
        said("cut off after the record");
        keep(home.path(), "u", &folder, &record).expect("kept");
        keep(home.path(), "u", &folder, &record).expect("kept, when it was cut off after the move");
        folder.remove().expect("removed");
        said("at the end");
    }

    #[test]
    fn what_is_old_goes() {
        let home = tempfile::tempdir().expect("a folder");
        kept(home.path(), "a", "job");
        prune(home.path(), SystemTime::now());
        assert_eq!(kept_pods(home.path(), "job").len(), 1);
        prune(home.path(), SystemTime::now() + MAX_AGE * 2);
        assert_eq!(kept_pods(home.path(), "job").len(), 0);
    }
}
