//! The pod's folder, `home/pods/<uid>`: what a later agent needs to go on with the pod.
//!
//! ```text
//! pod.json                                the pod as last seen, its address, its GPUs
//! state/<container>.<run>.json            the shim's notes
//! state/<container>.<run>.env             variables, for a container engine
//! state/<container>.progress              newest progress
//! containers/<container>/<run>.log[.n]    CRI logs
//! containers/<container>/metrics.jsonl    metric points not yet in the records
//! volumes/<volume>/…                      emptyDir, configMap, secret, …
//! root/                                   empty; mount point for new roots
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::memory;
use crate::shim::{RunState, write_atomically};

/// What the agent remembers of a pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRecord {
    /// The object as last seen; what to go by when it is gone from the API.
    pub(super) pod: Pod,
    /// The pod's loopback address.
    pub(super) ip: String,
    /// GPUs that are the pod's.
    pub(super) gpus: Vec<u32>,
    /// When this node took it on.
    pub(super) accepted_ms: i64,
    /// Folders outside of the pod's own that go with it.
    pub(super) outside: Vec<PathBuf>,
    /// The once-per-pod event about images was sent.
    pub(super) image_event_sent: bool,
    /// Volumes that were given to the pod's group, and in which boot. What becomes of them since is the programs' affair.
    #[serde(default)]
    pub(super) given: BTreeMap<PathBuf, String>,
}

/// Paths of one pod.
#[derive(Clone, Debug)]
pub(super) struct PodFolder {
    base: PathBuf,
}

impl PodFolder {
    pub(super) fn new(home: &Path, uid: &str) -> Self {
        Self { base: home.join("pods").join(uid) }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.base.join("state")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.base.join("root")
    }

    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.base.join("volumes").join(name)
    }

    pub(super) fn container(&self, name: &str) -> PathBuf {
        self.base.join("containers").join(name)
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.base.join("containers")
    }

    pub(super) fn state_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.state().join(format!("{container}.{attempt}.json"))
    }

    /// The variables of a run, for a container engine. Not beside the logs, which may be kept.
    pub(super) fn env_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.state().join(format!("{container}.{attempt}.env"))
    }

    pub(super) fn progress_file(&self, container: &str) -> PathBuf {
        self.state().join(format!("{container}.progress"))
    }

    /// The newest checkpoint, as the launcher tells it.
    pub(super) fn checkpoint_file(&self, container: &str) -> PathBuf {
        self.state().join(format!("{container}.checkpoint"))
    }

    pub(super) fn log_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.container(container).join(format!("{attempt}.log"))
    }

    /// What the launcher tells of its ranks, for the trace. Beside the logs, and forgotten with them.
    pub(super) fn spans_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.log_file(container, attempt).with_extension("log.spans")
    }

    pub(super) fn metrics_file(&self, container: &str) -> PathBuf {
        self.container(container).join("metrics.jsonl")
    }

    /// Makes the folder, for this user's eyes only: volumes may hold secrets.
    pub(super) fn create(&self, containers: &[&str]) -> io::Result<()> {
        let make = |path: PathBuf| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(self.state())?;
        make(self.scratch())?;
        make(self.base.join("volumes"))?;
        containers.iter().try_for_each(|name| make(self.container(name)))
    }

    pub(super) fn write_record(&self, record: &PodRecord) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        write_atomically(&self.base.join("pod.json"), &bytes)
    }

    /// Writes the record if it is another one than is there.
    pub(super) fn renew_record(&self, record: &PodRecord) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        let path = self.base.join("pod.json");
        if fs::read(&path).is_ok_and(|there| there == bytes) { Ok(()) } else { write_atomically(&path, &bytes) }
    }

    pub(super) fn read_record(&self) -> io::Result<PodRecord> {
        let bytes = fs::read(self.base.join("pod.json"))?;
        serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The newest two runs of each container, newest first. `known` are ended runs that need not be read again.
    pub(super) fn runs(&self, known: &BTreeMap<String, Vec<RunState>>) -> BTreeMap<String, Vec<RunState>> {
        let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir(self.state()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((container, attempt)) = name.to_str().and_then(run_of) else { continue };
            found.entry(container.to_owned()).or_default().push(attempt);
        }
        let mut runs = BTreeMap::new();
        for (container, mut attempts) in found {
            attempts.sort_unstable_by(|a, b| b.cmp(a));
            let states: Vec<RunState> = attempts
                .iter()
                .take(2)
                .filter_map(|attempt| {
                    let before = known.get(&container).and_then(|runs| runs.iter().find(|run| run.attempt == *attempt));
                    match before {
                        Some(run) if run.ending.is_some() => Some(run.clone()),
                        Some(_) | None => RunState::read(&self.state_file(&container, *attempt)).ok(),
                    }
                })
                .collect();
            runs.insert(container, states);
        }
        runs
    }

    /// Takes away what runs before the previous one left.
    pub(super) fn forget_before(&self, container: &str, attempt: u32) {
        let Some(oldest_kept) = attempt.checked_sub(1) else { return };
        let Some(gone) = oldest_kept.checked_sub(1) else { return };
        let _ = fs::remove_file(self.state_file(container, gone));
        let _ = fs::remove_file(self.env_file(container, gone));
        let log = self.log_file(container, gone);
        let prefix = format!("{gone}.");
        for entry in log.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        for volume in fs::read_dir(self.base.join("volumes")).into_iter().flatten().flatten() {
            memory::unmount(&volume.path());
        }
        match fs::remove_dir_all(&self.base) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// `main.3.json` → container and run.
fn run_of(file: &str) -> Option<(&str, u32)> {
    let (container, attempt) = file.strip_suffix(".json")?.rsplit_once('.')?;
    if container.is_empty() || container.starts_with('.') {
        return None;
    }
    Some((container, attempt.parse().ok()?))
}

/// The records of all pods that have a folder, by uid. A folder without a record holds nothing that ever ran; one whose
/// record does not read may hold logs and running containers, and is left as it is.
pub(super) fn records(home: &Path) -> BTreeMap<String, PodRecord> {
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(home.join("pods")).into_iter().flatten().flatten() {
        let Ok(uid) = entry.file_name().into_string() else { continue };
        let folder = PodFolder::new(home, &uid);
        match folder.read_record() {
            Ok(record) => {
                records.insert(uid, record);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(uid, "a pod folder without a record is removed");
                let _ = folder.remove();
            }
            Err(error) => tracing::error!(uid, %error, "the record of a pod does not read; its folder is left alone"),
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::run_of;

    #[test]
    fn state_files_are_told_from_others() {
        assert_eq!(run_of("main.12.json"), Some(("main", 12)));
        for other in [".main.0.json.77", "main.progress", "main.0.reserve", ".0.json"] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }
}
