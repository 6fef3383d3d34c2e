//! Waiting for sockets with a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A file descriptor and what it is waited for.
#[derive(Clone, Copy)]
pub(super) enum Interest<'fd> {
    Read(BorrowedFd<'fd>),
    Write(BorrowedFd<'fd>),
}

/// A socket to read from.
pub(super) fn readable(socket: &impl AsFd) -> Interest<'_> {
    Interest::Read(socket.as_fd())
}

/// A socket to write to.
pub(super) fn writable(socket: &impl AsFd) -> Interest<'_> {
    Interest::Write(socket.as_fd())
}

/// Sleeps until one of `interests` is ready (or broken) or `deadline` has passed. Says which are ready, in order.
pub(super) fn until(interests: &[Interest<'_>], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = interests
        .iter()
        .map(|interest| match interest {
            Interest::Read(fd) => PollFd::new(*fd, PollFlags::POLLIN),
            Interest::Write(fd) => PollFd::new(*fd, PollFlags::POLLOUT),
        })
        .collect();
    loop {
        match poll(&mut polled, timeout(deadline)) {
            Ok(_) => return Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time left, rounded up to whole milliseconds so that a wait does not spin at its end.
fn timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let ms = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
    PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

/// `duration` from now; a century where that cannot be represented.
pub(super) fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(3_155_760_000))
}
