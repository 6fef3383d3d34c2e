//! The store by which PyTorch's ranks meet, served on a socket from before the ranks start.
//!
//! Where rank 0 has to host the store, the other ranks knock in vain until it has imported torch, and torch's client
//! waits longer after each attempt. Hosted by the launcher, it answers the first knock.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use trainyard_worker_core::c10d::{ClientId, Input, Output, Store};

/// Read at once.
const READ_BYTES: usize = 64 * 1024;
/// Answers that a client has not read yet. Who asks on without reading is cut off.
const OUTBOX_BYTES: usize = 64 * 1024 * 1024;
/// Connections at a time: as many ranks as one rendezvous has in the largest jobs we know, on one server.
const CLIENTS: usize = 65_536;

/// The running server; dropping it closes all connections.
#[derive(Debug)]
pub struct Server {
    /// Closed to end the thread.
    line: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a listening socket, in a thread of its own.
    ///
    /// # Errors
    /// The system's, when the socket or the thread cannot be set up.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (line, end) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        let mut service =
            Service { listener, end, store: Store::default(), peers: BTreeMap::new(), next: 0, open: true };
        let thread = std::thread::Builder::new().name("c10d-store".to_owned()).spawn(move || service.run())?;
        Ok(Self { line: Some(line), thread: Some(thread) })
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

struct Peer {
    stream: TcpStream,
    outbox: Vec<u8>,
}

struct Service {
    listener: TcpListener,
    end: UnixStream,
    store: Store,
    peers: BTreeMap<ClientId, Peer>,
    next: ClientId,
    open: bool,
}

impl Service {
    fn run(&mut self) {
        while self.open {
            let Ok(ready) = self.wait() else { return };
            match (&self.end).read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => self.open = false,
            }
            self.admit();
            for id in ready {
                self.flush(id);
                self.hear(id);
            }
        }
    }

    /// Sleeps until something happens; gives the clients with which it did.
    fn wait(&self) -> io::Result<Vec<ClientId>> {
        let mut polled = vec![
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(self.peers.values().map(|peer| {
            let outgoing = if peer.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            PollFd::new(peer.stream.as_fd(), PollFlags::POLLIN | outgoing)
        }));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {
                let states = polled[2..].iter().map(|fd| fd.any().unwrap_or(true));
                Ok(self.peers.keys().zip(states).filter_map(|(id, ready)| ready.then_some(*id)).collect())
            }
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn admit(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() >= CLIENTS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            // Answers are small and awaited.
            let _ = stream.set_nodelay(true);
            let id = self.next;
            self.next += 1;
            self.peers.insert(id, Peer { stream, outbox: Vec::new() });
            self.tell(Input::Connected(id));
        }
    }

    fn hear(&mut self, id: ClientId) {
        let mut chunk = vec![0; READ_BYTES];
        while let Some(peer) = self.peers.get_mut(&id) {
            match peer.stream.read(&mut chunk) {
                Ok(0) => self.lose(id),
                Ok(count) => self.tell(Input::Received(id, &chunk[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.lose(id),
            }
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.store.step(input, &mut out);
        for output in out {
            match output {
                Output::Send(id, bytes) => {
                    let Some(peer) = self.peers.get_mut(&id) else { continue };
                    peer.outbox.extend(bytes);
                    self.flush(id);
                }
                Output::Close(id, refusal) => {
                    if let Some(peer) = self.peers.remove(&id) {
                        let from = peer.stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |a| a.to_string());
                        tracing::warn!(%from, %refusal, "ended a connection to the ranks' store");
                    }
                }
            }
        }
    }

    fn flush(&mut self, id: ClientId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while !peer.outbox.is_empty() {
            match peer.stream.write(&peer.outbox) {
                Ok(count) => drop(peer.outbox.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && peer.outbox.len() <= OUTBOX_BYTES => return,
                Err(_) => return self.lose(id),
            }
        }
    }

    fn lose(&mut self, id: ClientId) {
        if self.peers.remove(&id).is_some() {
            self.tell(Input::Disconnected(id));
        }
    }
}
