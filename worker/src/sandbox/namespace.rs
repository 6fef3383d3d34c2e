//! Entering a sandbox: namespaces first, then the mounts.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::mirror::Mirrors;
use super::{Mount, Sandbox, SandboxError};

/// Which namespaces this process may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Mount namespaces as root.
    Root,
    /// Mount namespaces inside a user namespace.
    User,
    /// None; the kernel's answer.
    None(String),
}

/// Finds out by trying, in this process: call it in a process that is to end soon, and single-threaded.
#[must_use]
pub fn allowed() -> Allowed {
    let root = nix::unistd::geteuid().is_root();
    let attempt = |user_namespace| -> Result<(), SandboxError> {
        let sandbox = Sandbox { user_namespace, ..Sandbox::default() };
        enter_namespaces(&sandbox)?;
        let tmpfs = mount(Some("tmpfs"), "/proc/self", Some("tmpfs"), MsFlags::empty(), None::<&str>);
        // Mounting over /proc/self is refused by some kernels though tmpfs is allowed; /dev is the second opinion.
        tmpfs
            .or_else(|_| mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>))
            .map_err(|errno| SandboxError::Namespace { what: "mount", source: errno.into() })
    };
    if root && attempt(false).is_ok() {
        return Allowed::Root;
    }
    match attempt(true) {
        Ok(()) => Allowed::User,
        Err(error) => Allowed::None(error.to_string()),
    }
}

/// Puts the calling process, which must be single-threaded, into the sandbox. After an error the process is of no use.
///
/// # Errors
/// When a namespace or a mount is refused; the error names the volume.
pub fn enter(sandbox: &Sandbox) -> Result<(), SandboxError> {
    enter_namespaces(sandbox)?;
    if let Some(name) = &sandbox.host_name {
        // A name the kernel does not take (too long) is no reason to refuse the pod: HOSTNAME has it too.
        let _ = nix::unistd::sethostname(name);
    }
    mount_all(sandbox)
}

fn enter_namespaces(sandbox: &Sandbox) -> Result<(), SandboxError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let inner = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    if sandbox.user_namespace {
        let fail = |source| SandboxError::Namespace { what: "user", source };
        unshare(CloneFlags::CLONE_NEWUSER | inner).map_err(|errno| fail(errno.into()))?;
        // The user stays who they are: files made in the container belong to them on the machine, too.
        std::fs::write("/proc/self/setgroups", "deny").map_err(fail)?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(fail)?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).map_err(fail)?;
    } else {
        unshare(inner).map_err(|errno| SandboxError::Namespace { what: "mount", source: errno.into() })?;
    }
    // Slave: what the machine mounts later is seen, what we mount stays here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|errno| SandboxError::Namespace { what: "mount", source: errno.into() })
}

struct Opened<'a> {
    mount: &'a Mount,
    source: File,
    is_dir: bool,
}

fn mount_all(sandbox: &Sandbox) -> Result<(), SandboxError> {
    // Sources are opened before anything is covered: a mount may hide the path of the next one's source.
    let mut opened = Vec::with_capacity(sandbox.mounts.len());
    for mount in &sandbox.mounts {
        let fail = |source| failed(mount, "its source cannot be opened", source);
        let source = match &mount.sub_path {
            None => open_path(&mount.source),
            Some(path) => super::beneath::open(&mount.source, path),
        };
        let source = source.map_err(fail)?;
        let is_dir = source.metadata().map_err(fail)?.is_dir();
        opened.push(Opened { mount, source, is_dir });
    }
    // Outer mount points first, so that inner ones land inside them.
    opened.sort_by_key(|opened| opened.mount.target.components().count());
    let mut mirrors = Mirrors::new(&sandbox.scratch);
    mirrors.leave_writable(&sandbox.dir);
    for opened in &opened {
        mirrors
            .provide(&opened.mount.target, opened.is_dir)
            .map_err(|error| failed(opened.mount, error.what, error.source))?;
        bind(opened)?;
        if !opened.mount.read_only {
            mirrors.leave_writable(&opened.mount.target);
        }
    }
    mirrors.seal();
    Ok(())
}

fn open_path(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

fn failed(mount: &Mount, what: &'static str, source: io::Error) -> SandboxError {
    SandboxError::Mount { volume: mount.volume.clone(), target: mount.target.clone(), what, source }
}

fn bind(opened: &Opened<'_>) -> Result<(), SandboxError> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.source.as_raw_fd()));
    let target = &opened.mount.target;
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|errno| failed(opened.mount, "the bind mount is refused", errno.into()))?;
    if opened.mount.read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | kept_flags(target);
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
            .map_err(|errno| failed(opened.mount, "it cannot be made read-only", errno.into()))?;
    }
    Ok(())
}

/// Flags that a user namespace may not take off a mount it inherited.
fn kept_flags(target: &Path) -> MsFlags {
    use nix::sys::statvfs::FsFlags;
    let Ok(stat) = nix::sys::statvfs::statvfs(target) else { return MsFlags::empty() };
    let mut kept = MsFlags::empty();
    for (has, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        if stat.flags().contains(has) {
            kept |= keep;
        }
    }
    kept
}
