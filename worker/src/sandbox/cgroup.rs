//! Limits through cgroups, where this user may write them; version 2 and version 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where cgroup file systems are mounted by every distribution.
const MOUNT: &str = "/sys/fs/cgroup";
/// Period of the processor quota: the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;

/// What is to be limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes; the container is killed above.
    pub memory_bytes: Option<i64>,
    /// Thousandths of a processor.
    pub cpu_milli: Option<i64>,
}

impl Limits {
    /// Whether there is nothing to limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory_bytes.is_none() && self.cpu_milli.is_none()
    }
}

/// What this machine lets us do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One tree for all controllers.
    V2 {
        /// Our folder in it.
        base: PathBuf,
    },
    /// A tree per controller.
    V1 {
        /// Our folder in the memory tree.
        memory: Option<PathBuf>,
        /// Our folder in the cpu tree.
        cpu: Option<PathBuf>,
    },
    /// Nothing; why.
    Unavailable(String),
}

/// The cgroup of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerCgroup {
    /// Folders whose `cgroup.procs` the process joins, and that are removed after it.
    pub folders: Vec<PathBuf>,
    /// The file that counts OOM kills.
    pub oom_file: Option<PathBuf>,
}

impl Cgroups {
    /// Looks where this process is, and tries to make a folder there.
    #[must_use]
    pub fn detect() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if Path::new(MOUNT).join("cgroup.controllers").exists() {
            let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            return Self::detect_v2(&join(Path::new(MOUNT), path));
        }
        let v1 = |controller: &str| {
            let path = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let controllers = parts.next()?;
                controllers.split(',').any(|name| name == controller).then(|| parts.next()).flatten()
            })?;
            let base = join(&Path::new(MOUNT).join(controller), path).join("trainyard");
            fs::create_dir_all(&base).ok().map(|()| base)
        };
        let (memory, cpu) = (v1("memory"), v1("cpu"));
        if memory.is_none() && cpu.is_none() {
            return Self::Unavailable(format!("no cgroup under {MOUNT} can be written by this user"));
        }
        Self::V1 { memory, cpu }
    }

    /// In version 2 a group with processes cannot hand controllers on, so the containers' groups are made beside ours.
    fn detect_v2(own: &Path) -> Self {
        let why = |error: io::Error| {
            Self::Unavailable(format!(
                "{} cannot be written ({error}); delegate it, for instance with systemd's Delegate=yes",
                own.display()
            ))
        };
        let parent = if own == Path::new(MOUNT) { own } else { own.parent().unwrap_or(own) };
        let base = parent.join("trainyard");
        if let Err(error) = fs::create_dir_all(&base) {
            return why(error);
        }
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu");
        match fs::write(base.join("cgroup.subtree_control"), "+memory +cpu") {
            Ok(()) => Self::V2 { base },
            Err(error) => why(error),
        }
    }

    /// Makes a group with these limits.
    ///
    /// # Errors
    /// When a limit cannot be written; what was made is taken away again.
    pub fn create(&self, name: &str, limits: Limits) -> io::Result<ContainerCgroup> {
        let mut group = ContainerCgroup::default();
        let made = match self {
            Self::V2 { base } => create_v2(base, name, limits, &mut group),
            Self::V1 { memory, cpu } => create_v1(memory.as_deref(), cpu.as_deref(), name, limits, &mut group),
            Self::Unavailable(why) => Err(io::Error::new(io::ErrorKind::Unsupported, why.clone())),
        };
        if let Err(error) = made {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }
}

fn join(base: &Path, absolute: &str) -> PathBuf {
    base.join(absolute.trim_start_matches('/'))
}

fn create_v2(base: &Path, name: &str, limits: Limits, group: &mut ContainerCgroup) -> io::Result<()> {
    let folder = base.join(name);
    fs::create_dir_all(&folder)?;
    group.folders.push(folder.clone());
    if let Some(bytes) = limits.memory_bytes {
        fs::write(folder.join("memory.max"), bytes.to_string())?;
        // Where swap is not accounted for there is no such file.
        let _ = fs::write(folder.join("memory.swap.max"), "0");
        group.oom_file = Some(folder.join("memory.events"));
    }
    if let Some(milli) = limits.cpu_milli {
        fs::write(folder.join("cpu.max"), format!("{} {CPU_PERIOD_US}", quota_us(milli)))?;
    }
    Ok(())
}

fn create_v1(
    memory: Option<&Path>,
    cpu: Option<&Path>,
    name: &str,
    limits: Limits,
    group: &mut ContainerCgroup,
) -> io::Result<()> {
    let missing = |what| io::Error::new(io::ErrorKind::Unsupported, format!("the {what} controller cannot be written"));
    if let Some(bytes) = limits.memory_bytes {
        let folder = memory.ok_or_else(|| missing("memory"))?.join(name);
        fs::create_dir_all(&folder)?;
        group.folders.push(folder.clone());
        fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
        let _ = fs::write(folder.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        group.oom_file = Some(folder.join("memory.oom_control"));
    }
    if let Some(milli) = limits.cpu_milli {
        let folder = cpu.ok_or_else(|| missing("cpu"))?.join(name);
        fs::create_dir_all(&folder)?;
        group.folders.push(folder.clone());
        fs::write(folder.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
        fs::write(folder.join("cpu.cfs_quota_us"), quota_us(milli).to_string())?;
    }
    Ok(())
}

/// The kernel refuses quotas under one millisecond.
fn quota_us(milli: i64) -> i64 {
    (milli.saturating_mul(CPU_PERIOD_US) / 1_000).max(1_000)
}

impl ContainerCgroup {
    /// Puts the calling process into the group.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), "0"))
    }

    /// Whether the kernel killed a process of the group for want of memory.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        let Some(text) = self.oom_file.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return false };
        text.lines().any(|line| {
            line.strip_prefix("oom_kill ").is_some_and(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
        })
    }

    /// Takes the group away. A probe may still run in it: it ends with its container.
    pub fn remove(&self) {
        for folder in &self.folders {
            // What dies leaves the group a moment later. One that does not is not waited for for ever.
            for _ in 0..100 {
                let busy = fs::remove_dir(folder).err().and_then(|error| error.raw_os_error()) == Some(libc::EBUSY);
                if !busy {
                    break;
                }
                let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in inside.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}
