//! The server's thread: one epoll over all connections, so that an event costs the same among four clients and among
//! four thousand.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen};
use trainyard_worker_core::c10d::{ClientId, Input, Output, Store};

use super::activity::{Activity, Roll};
use crate::shim::now_ms;

/// Read at once from one client; then it is the next one's turn.
const READ_BYTES: usize = 256 * 1024;
/// Answers that a client has not read yet. Who lets more pile up is cut off.
const OUTBOX_BYTES: usize = 64 * 1024 * 1024;
/// Connections at a time: as many ranks as one rendezvous has in the largest jobs we know, on one server.
const CLIENTS: usize = 65_536;
/// Taken from the kernel at once.
const EVENTS: usize = 1024;
/// Accepted in a row, before those who are connected get their turn.
const ADMISSIONS: usize = 256;
/// How long nobody is accepted after the process ran out of descriptors.
const PAUSE_MS: u16 = 50;

const END: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

struct Peer {
    stream: TcpStream,
    outbox: Vec<u8>,
    /// Of the outbox, gone already.
    sent: usize,
    /// Waits for room in the socket; until then nothing is read from it.
    blocked: bool,
    activity: Arc<Activity>,
}

pub(super) struct Service {
    epoll: Epoll,
    listener: TcpListener,
    /// Kept open for the epoll.
    _end: UnixStream,
    store: Store,
    peers: BTreeMap<ClientId, Peer>,
    next: ClientId,
    open: bool,
    /// Out of descriptors: the listener is not watched for a moment, as it would be ready without end.
    paused: bool,
    now_ms: i64,
    roll: Arc<Roll>,
    chunk: Vec<u8>,
}

impl Service {
    pub(super) fn new(listener: TcpListener, end: UnixStream, roll: Arc<Roll>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // All ranks knock at the same moment; what the kernel does not keep until it is accepted tries again in a second.
        listen(&listener, Backlog::MAXALLOWABLE)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Self {
            epoll,
            listener,
            _end: end,
            store: Store::default(),
            peers: BTreeMap::new(),
            next: 0,
            open: true,
            paused: false,
            now_ms: now_ms(),
            roll,
            chunk: vec![0; READ_BYTES],
        })
    }

    pub(super) fn run(&mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while self.open {
            let timeout = if self.paused { EpollTimeout::from(PAUSE_MS) } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "the ranks' store ends: it cannot wait for its clients");
                    return;
                }
            };
            self.now_ms = now_ms();
            self.watch_listener();
            for event in &events[..count] {
                match event.data() {
                    // Nobody writes there: it was closed.
                    END => self.open = false,
                    LISTENER => self.admit(),
                    id => self.serve(id, event.events()),
                }
            }
        }
    }

    fn serve(&mut self, id: ClientId, events: EpollFlags) {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.flush(id);
        }
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.hear(id);
        }
    }

    // ---- coming and going ----

    fn admit(&mut self) {
        for _ in 0..ADMISSIONS {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    let id = self.next;
                    self.next += 1;
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
                    let ready = stream.set_nonblocking(true).is_ok() && self.epoll.add(&stream, event).is_ok();
                    if !ready || self.peers.len() >= CLIENTS {
                        continue;
                    }
                    // Answers are small and awaited.
                    let _ = stream.set_nodelay(true);
                    let activity = self.roll.enter(id, address, self.now_ms);
                    self.peers.insert(id, Peer { stream, outbox: Vec::new(), sent: 0, blocked: false, activity });
                    self.tell(Input::Connected(id));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE) if raise_descriptor_limit() => {}
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => return self.pause(&error),
                    // Of that one connection.
                    Some(_) | None => {}
                },
            }
        }
    }

    fn pause(&mut self, error: &io::Error) {
        tracing::warn!(%error, clients = self.peers.len(), "the ranks' store cannot accept more connections now");
        self.paused = self.epoll.modify(&self.listener, &mut EpollEvent::new(EpollFlags::empty(), LISTENER)).is_ok();
    }

    fn watch_listener(&mut self) {
        if self.paused {
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
            self.paused = self.epoll.modify(&self.listener, &mut event).is_err();
        }
    }

    fn lose(&mut self, id: ClientId) {
        if self.peers.remove(&id).is_some() {
            self.roll.leave(id);
            self.tell(Input::Disconnected(id));
        }
    }

    // ---- talking ----

    fn hear(&mut self, id: ClientId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut chunk = std::mem::take(&mut self.chunk);
        match peer.stream.read(&mut chunk) {
            Ok(0) => self.lose(id),
            Ok(count) => self.tell(Input::Received(id, &chunk[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.lose(id),
        }
        self.chunk = chunk;
    }

    fn tell(&mut self, input: Input<'_>) {
        let speaker = match input {
            Input::Received(id, _) => Some(id),
            Input::Connected(_) | Input::Disconnected(_) => None,
        };
        let mut out = Vec::new();
        let before = self.store.requests();
        self.store.step(input, &mut out);
        // Before the answers go out, so that who has one is counted.
        self.count(speaker, self.store.requests() - before);
        self.deliver(out);
        if let Some(id) = speaker
            && let Some(key) = self.store.waits_for(id)
            && let Some(peer) = self.peers.get(&id)
        {
            peer.activity.waits_for(key);
        }
    }

    fn count(&self, speaker: Option<ClientId>, requests: u64) {
        if let Some(peer) = speaker.and_then(|id| self.peers.get(&id))
            && requests > 0
        {
            self.roll.count(requests);
            peer.activity.asked(requests, self.now_ms);
        }
    }

    fn deliver(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(id, bytes) => {
                    let Some(peer) = self.peers.get_mut(&id) else { continue };
                    peer.activity.answered();
                    if peer.outbox.is_empty() {
                        peer.outbox = bytes;
                    } else {
                        peer.outbox.extend(bytes);
                    }
                    if !peer.blocked || peer.outbox.len() - peer.sent > OUTBOX_BYTES {
                        self.flush(id);
                    }
                }
                Output::Close(id, refusal) => {
                    if let Some(peer) = self.peers.remove(&id) {
                        self.roll.leave(id);
                        let from = peer.stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |a| a.to_string());
                        tracing::warn!(%from, %refusal, "ended a connection to the ranks' store");
                    }
                }
            }
        }
    }

    fn flush(&mut self, id: ClientId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while peer.sent < peer.outbox.len() {
            match peer.stream.write(&peer.outbox[peer.sent..]) {
                Ok(count) => peer.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && peer.outbox.len() - peer.sent <= OUTBOX_BYTES =>
                {
                    return self.interest(id, true);
                }
                Err(_) => return self.lose(id),
            }
        }
        peer.outbox = Vec::new();
        peer.sent = 0;
        self.interest(id, false);
    }

    /// Whether to be told of room to write, or of something to read.
    fn interest(&mut self, id: ClientId, blocked: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.blocked != blocked {
            peer.blocked = blocked;
            let flags = if blocked { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            if self.epoll.modify(&peer.stream, &mut EpollEvent::new(flags, id)).is_err() {
                self.lose(id);
            }
        }
    }
}

/// Lets this process have as many descriptors as it may. False when it has them already.
fn raise_descriptor_limit() -> bool {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok(),
        Err(_) => false,
    }
}
