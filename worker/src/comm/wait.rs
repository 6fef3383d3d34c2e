//! Waiting for sockets with a deadline.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// A file descriptor and what it is waited for.
#[derive(Clone, Copy)]
pub(super) enum Interest<'fd> {
    Read(BorrowedFd<'fd>),
    Write(BorrowedFd<'fd>),
    Both(BorrowedFd<'fd>),
    /// A place in the list that nothing is waited for at.
    Nothing,
}

/// A socket to read from.
pub(super) fn readable(socket: &impl AsFd) -> Interest<'_> {
    Interest::Read(socket.as_fd())
}

/// Sleeps until one of `interests` is ready (or broken) or `deadline` has passed. Says which are ready, in order.
pub(super) fn until(interests: &[Interest<'_>], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = interests
        .iter()
        .map(|interest| match interest {
            Interest::Read(fd) => (fd.as_raw_fd(), libc::POLLIN),
            Interest::Write(fd) => (fd.as_raw_fd(), libc::POLLOUT),
            Interest::Both(fd) => (fd.as_raw_fd(), libc::POLLIN | libc::POLLOUT),
            // The kernel passes over negative numbers.
            Interest::Nothing => (-1, 0),
        })
        .map(|(fd, events)| libc::pollfd { fd, events, revents: 0 })
        .collect();
    loop {
        let count = libc::nfds_t::try_from(polled.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the pointer and the length are of one live vector; the descriptors are borrowed until the call is over.
        let found = unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms(deadline)) };
        match Errno::result(found) {
            Ok(_) => return Ok(polled.iter().map(|fd| fd.revents != 0).collect()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time left, rounded up to whole milliseconds so that a wait does not spin at its end.
fn timeout_ms(deadline: Instant) -> libc::c_int {
    let left = deadline.saturating_duration_since(Instant::now());
    let ms = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
    libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX)
}

/// `duration` from now; a century where that cannot be represented.
pub(super) fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(3_155_760_000))
}
