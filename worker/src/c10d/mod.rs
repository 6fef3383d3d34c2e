//! The store by which PyTorch's ranks meet, served on a socket from before the ranks start.
//!
//! Where rank 0 has to host the store, the other ranks knock in vain until it has imported torch, and torch's client
//! waits longer after each attempt. Hosted by the launcher, it answers the first knock.

mod activity;
mod joined;
mod service;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use activity::Client;
pub use joined::joined;

use activity::Roll;
use service::Service;

/// The running server; dropping it closes all connections.
#[derive(Debug)]
pub struct Server {
    /// Closed to end the thread.
    line: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    roll: Arc<Roll>,
}

impl Server {
    /// Serves on a listening socket, in a thread of its own.
    ///
    /// # Errors
    /// The system's, when the socket or the thread cannot be set up.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        let (line, end) = UnixStream::pair()?;
        let roll = Arc::new(Roll::default());
        let mut service = Service::new(listener, end, roll.clone())?;
        let thread = std::thread::Builder::new().name("c10d-store".to_owned()).spawn(move || service.run())?;
        Ok(Self { line: Some(line), thread: Some(thread), roll })
    }

    /// Who is connected, in the order of arrival.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.roll.clients()
    }

    /// Requests that were answered so far, by whomever: a sign of life of the ranks. Costs one atomic read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.roll.requests()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.line = None;
        if let Some(thread) = self.thread.take() {
            // A server that panicked serves nobody any more: that is what is wanted here.
            let _ = thread.join();
        }
    }
}
