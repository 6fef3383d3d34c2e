//! What a shim is told, and what it writes down.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use trainyard_runtime::durable;
use trainyard_worker_core::pod::Ending;

use super::engine::EngineContainer;
use crate::sandbox::Sandbox;
use crate::sandbox::cgroup::ContainerCgroup;

/// State files are for this user's eyes only.
const MODE: u32 = 0o600;

/// Everything a shim needs to run one container once. It travels through a pipe, as it may hold secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimSpec {
    /// The container's name.
    pub container: String,
    /// Which run this is.
    pub attempt: u32,
    /// Failures in a row before it.
    pub streak: u32,
    /// Where [`RunState`] is kept. It must not exist: making it is the claim to this run.
    pub state_file: PathBuf,
    /// The container's log.
    pub log_file: PathBuf,
    /// Log bytes before the file is rotated.
    pub log_max_bytes: u64,
    /// Rotated files kept.
    pub log_keep: u32,
    /// The newest progress.
    pub progress_file: PathBuf,
    /// Metric points, one JSON object a line.
    pub metrics_file: PathBuf,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where the program starts.
    pub dir: String,
    /// What is built around it.
    pub sandbox: Option<Sandbox>,
    /// Its limits.
    pub cgroup: Option<ContainerCgroup>,
    /// What to do once it runs; it is ended where that fails.
    #[serde(default)]
    pub post_start: Option<Hook>,
    /// What to do before it is told to terminate.
    pub pre_stop: Option<Hook>,
    /// Its grace where nobody else says one.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: i64,
    /// The container behind the program, where that is the client of a container engine.
    pub engine: Option<EngineContainer>,
    /// The user and group to become; only root can.
    pub user: Option<User>,
    /// The file that the program may leave its last words in.
    pub message_file: Option<PathBuf>,
}

/// Kubernetes' default.
fn default_grace_ms() -> i64 {
    30_000
}

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its user, where it is not the shim's.
    pub uid: Option<u32>,
    /// Its group, where it is not the shim's.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// A life-cycle hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hook {
    /// A program, run as the container's own.
    Exec(Vec<String>),
    /// A GET request.
    Http {
        /// Host or address.
        host: String,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
    },
    /// Just time.
    Sleep {
        /// How long.
        seconds: i64,
    },
}

/// What a shim writes down about its run. The agent reads it, now or after its own restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// The container's name.
    pub container: String,
    /// Which run this is.
    pub attempt: u32,
    /// Failures in a row before it.
    pub streak: u32,
    /// The boot in which all this happens: process ids of another boot mean nothing.
    pub boot_id: String,
    /// The shim.
    pub shim: ProcessId,
    /// The program, once it runs.
    pub process: Option<ProcessId>,
    /// When the program began.
    pub started_ms: Option<i64>,
    /// When a stop turns into a kill, if a stop was ordered.
    pub stop_deadline_ms: Option<i64>,
    /// The container behind the program: whoever finds its shim dead takes it away.
    #[serde(default)]
    pub engine: Option<EngineContainer>,
    /// Whom the program was started as: what is run beside it is no more than that.
    #[serde(default)]
    pub user: Option<User>,
    /// Its limits, which hold for what is run beside it, too.
    #[serde(default)]
    pub cgroup: Option<ContainerCgroup>,
    /// How it ended.
    pub ending: Option<Ending>,
}

/// What a command needs to know to run in the surroundings of a container's program, and as it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beside {
    /// The program.
    pub process: ProcessId,
    /// Whom it was started as, where that is not who started it.
    pub user: Option<User>,
    /// Its limits.
    pub cgroup: Option<ContainerCgroup>,
}

/// A process that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process of this number, if there is one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, also spaces and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// The kernel's name for this boot.
#[must_use]
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl RunState {
    /// Reads a state file.
    ///
    /// # Errors
    /// When it is not there, or is not one.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Whether the shim that wrote this still watches.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.boot_id == boot_id() && self.shim.is_alive()
    }
}

/// Writes a file so that readers see the old content or the new, never a part: also after the power failed.
///
/// # Errors
/// As the file system says, for instance that the disk is full.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    durable::replace(path, content, MODE)
}

/// The same, but after the power failed the old content may be there again.
///
/// # Errors
/// As the file system says, for instance that the disk is full.
pub(crate) fn renew(path: &Path, content: &[u8]) -> io::Result<()> {
    durable::renew(path, content, MODE)
}

/// The same for what is written often and may be lost with the power: readers never see a part while it lasts.
///
/// # Errors
/// As the file system says, for instance that the disk is full.
pub(crate) fn write_lightly(path: &Path, content: &[u8]) -> io::Result<()> {
    durable::swap(path, content, MODE)
}

/// Makes a file with this content, on the disk before this returns; fails where one exists. Readers never see it half
/// written.
///
/// # Errors
/// `AlreadyExists` where somebody was first.
pub(super) fn create_exclusively(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    let made = write_new(&draft, content).and_then(|file| file.sync_all()).and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    made?;
    // The name is on the disk when the folder is.
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Several may want to be first.
fn draft(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<fs::File> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    file.write_all(content)?;
    Ok(file)
}
