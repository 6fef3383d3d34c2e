//! Ending a blocked call from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use super::wait::{self, readable};

/// Ends the operation that a [`Communicator`](super::Communicator) is blocked in, and every later one, with
/// [`CommError::Interrupted`](super::CommError::Interrupted). Clones are the same switch; it cannot be switched back.
///
/// ```
/// # use trainyard_worker::comm::{Interrupt, Options};
/// let interrupt = Interrupt::new().expect("a descriptor is left");
/// let mut options = Options::new(0, 2, "127.0.0.1", 29500);
/// options.interrupt = Some(interrupt.clone());
/// std::thread::spawn(move || interrupt.trigger());
/// ```
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// What is written to the first is never read from the second, which stays readable.
    ends: Arc<(UnixStream, UnixStream)>,
}

impl Interrupt {
    /// A switch that is not thrown.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let (thrown, seen) = UnixStream::pair()?;
        thrown.set_nonblocking(true)?;
        Ok(Self { ends: Arc::new((thrown, seen)) })
    }

    /// Throws the switch.
    pub fn trigger(&self) {
        use std::io::Write as _;
        // It fails only when the pair is full of earlier throws.
        let _ = (&self.ends.0).write(&[1]);
    }

    /// Whether the switch was thrown.
    pub fn is_triggered(&self) -> bool {
        wait::until(&[readable(self)], Instant::now()).is_ok_and(|ready| ready == [true])
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.1.as_fd()
    }
}
