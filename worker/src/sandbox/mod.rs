//! What surrounds a container's process: its mounts, its host name, its limits.
//!
//! A container in process mode sees the machine's own files, with the pod's volumes where the manifest wants them. Mount
//! points that do not exist are made to appear without creating anything on the machine: the nearest existing folder is
//! mirrored (a tmpfs whose entries are bind mounts of the real ones) and the mount point is made in the mirror. A mirror
//! is read-only, so that nothing that a program believes to be saved is lost with it; a mirrored `/` is writable and
//! ephemeral, as a container's own layer is. The working directory and the volumes are there to be written: mount points
//! inside of them are made in them, and stay as empty folders and files.

pub mod beneath;
pub mod cgroup;
mod mirror;
mod namespace;

pub use namespace::{Allowed, allowed, enter};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What to build around a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Make a user namespace first: the way for those who are not root.
    pub user_namespace: bool,
    /// An empty folder of ours, for a new root where one is needed.
    pub scratch: PathBuf,
    /// Where the program starts.
    #[serde(default)]
    pub dir: PathBuf,
    /// The host name to see.
    pub host_name: Option<String>,
    /// What goes where.
    pub mounts: Vec<Mount>,
}

/// One bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The volume it comes from, for messages.
    pub volume: String,
    /// A folder or file of the machine.
    pub source: PathBuf,
    /// The part of it that is mounted, where that is not all. What lies there is the containers' to choose: it is opened
    /// beneath the source, and links do not lead out of it.
    #[serde(default)]
    pub sub_path: Option<PathBuf>,
    /// Where the container sees it.
    pub target: PathBuf,
    /// Not to be written through this mount.
    pub read_only: bool,
}

/// The kernel's answer in words that fit: a limit on namespaces is told as a full device.
fn said(source: &std::io::Error) -> String {
    if is_limit(source) { "the limit on their number is reached, or is 0".to_owned() } else { source.to_string() }
}

/// What has to be changed so that it is allowed.
fn switch(source: &std::io::Error) -> &'static str {
    if is_limit(source) {
        "sysctl user.max_user_namespaces=10000"
    } else {
        "sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
    }
}

fn is_limit(source: &std::io::Error) -> bool {
    source.raw_os_error() == Some(libc::ENOSPC)
}

/// Why a sandbox could not be built. The text reaches the user in the container's status.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Namespaces are refused.
    #[error(
        "cannot make a {what} namespace: {}; run as root, or allow unprivileged user namespaces ({})",
        said(source),
        switch(source)
    )]
    Namespace {
        /// `mount`, `user`.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A volume could not be put where it belongs.
    #[error("cannot mount volume \"{volume}\" at {}: {what}: {source}", target.display())]
    Mount {
        /// The volume.
        volume: String,
        /// Where.
        target: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}
