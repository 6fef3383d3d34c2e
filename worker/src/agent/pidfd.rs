//! Waiting for the end of any process, ours or adopted.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a process to end, and collects it where it is a child of ours.
pub(super) async fn ended(pid: i32) {
    over(pid).await;
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
}

/// Waits for a process to end and leaves it to be collected: its number stays its own. At once on a kernel without pidfds.
pub(super) async fn over(pid: i32) {
    if let Ok(fd) = open(pid)
        // SAFETY: an owned descriptor, which lives as long as the registration does.
        && let Ok(watched) = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
    {
        let _ = watched.readable().await;
    }
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; its result is checked before it becomes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
