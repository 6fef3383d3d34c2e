//! The connections to the other ranks, the line to the hub, and waiting on all of them.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::CommError;
use super::connect::is_local;
use super::hub::Control;
use super::interrupt::Interrupt;
use super::wait::{self, Interest, readable};
use super::wire::{Arrival, Message};

/// How long a rank that lost a neighbour waits for the hub's verdict: longer than the hub's own doubt.
const VERDICT: Duration = Duration::from_secs(2);
/// How long a rank looks again and again before it sleeps, where each rank of this machine has a processor. Waking a
/// sleeper costs up to 50 µs on a virtual machine.
const LOOKING: Duration = Duration::from_micros(60);

/// A rank's connections.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) rank: usize,
    /// By rank; `None` for itself and for those that no algorithm of this world size needs.
    pub(super) links: Vec<Option<TcpStream>>,
    pub(super) control: Control,
    /// Rank 0 left in good order; nobody answers on the control connection any more.
    pub(super) hub_left: bool,
    pub(super) interrupt: Interrupt,
    pub(super) patience: Duration,
    /// How long a wait may look before it sleeps.
    pub(super) looking: Duration,
}

/// What a wait is for: the links to read from and to write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) peer: usize,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// How long waits of a rank with these connections may look before they sleep: not at all where the ranks of one machine
/// are more than its processors, and would only take them from each other.
pub(super) fn looking(links: &[Option<TcpStream>]) -> Duration {
    let ranks = 1 + links.iter().flatten().filter(|link| is_local(link)).count();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if ranks <= processors { LOOKING } else { Duration::ZERO }
}

impl Mesh {
    pub(super) fn world(&self) -> usize {
        self.links.len()
    }

    /// Whether there is a connection to every other rank.
    pub(super) fn is_full(&self) -> bool {
        self.links.iter().filter(|link| link.is_some()).count() + 1 == self.links.len()
    }

    /// The neighbour that data goes to, and the one it comes from.
    pub(super) fn neighbours(&self) -> (usize, usize) {
        let world = self.world();
        ((self.rank + 1) % world, (self.rank + world - 1) % world)
    }

    fn link(&self, peer: usize) -> &TcpStream {
        self.links.get(peer).and_then(Option::as_ref).expect("an algorithm uses only links that its world size has")
    }

    /// Sends what the kernel takes; how many bytes that was.
    pub(super) fn push(&mut self, peer: usize, head: &[u8], tail: &[u8]) -> Result<usize, CommError> {
        let sent = match (head.is_empty(), tail.is_empty()) {
            (true, true) => return Ok(0),
            (true, false) => self.link(peer).write(tail),
            (false, true) => self.link(peer).write(head),
            (false, false) => self.link(peer).write_vectored(&[IoSlice::new(head), IoSlice::new(tail)]),
        };
        match sent {
            Ok(count) => Ok(count),
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(self.blame(peer, &format!("it takes no data ({error})"))),
        }
    }

    /// Receives what is there, `head` first; how many bytes that was.
    pub(super) fn pull(&mut self, peer: usize, head: &mut [u8], tail: &mut [u8]) -> Result<usize, CommError> {
        let received = match (head.is_empty(), tail.is_empty()) {
            (true, true) => return Ok(0),
            (true, false) => self.link(peer).read(tail),
            (false, true) => self.link(peer).read(head),
            (false, false) => self.link(peer).read_vectored(&mut [IoSliceMut::new(head), IoSliceMut::new(tail)]),
        };
        match received {
            Ok(0) => Err(self.blame(peer, "it closed its connection")),
            Ok(count) => Ok(count),
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(self.blame(peer, &format!("it sends no data ({error})"))),
        }
    }

    /// Two ranks do different things: tells the hub, and gives the error.
    pub(super) fn disagree(&mut self, peer: usize, here: String, there: String) -> CommError {
        let reason = format!("rank {peer} called {there} where rank {} called {here}", self.rank);
        self.control.tell(&Message::Lost { rank: peer, reason });
        CommError::Mismatch { rank: peer, here, there }
    }

    /// Waits until one of `wants` can go on, or fails when there is news that ends things, or nothing moved since
    /// `moved` for too long. `ready` says which, in order.
    pub(super) fn wait(
        &mut self,
        wants: &[Want],
        ready: &mut Vec<bool>,
        operation: &str,
        moved: Instant,
    ) -> Result<(), CommError> {
        let looking = moved + self.looking;
        let deadline = moved.checked_add(self.patience).unwrap_or_else(|| wait::after(self.patience));
        loop {
            let now = Instant::now();
            let until = if now < looking { now } else { deadline };
            let found = self.poll(wants, until)?;
            let (special, links) = found.split_at(2);
            if special[0] {
                return Err(CommError::Interrupted);
            }
            if special[1] {
                self.news()?;
            }
            if links.iter().any(|link| *link) {
                ready.clear();
                ready.extend_from_slice(links);
                return Ok(());
            }
            if now >= deadline {
                let rank = wants.iter().find(|want| want.read).or(wants.first()).map_or(0, |want| want.peer);
                return Err(CommError::Timeout { rank, operation: operation.to_owned(), waited: self.patience });
            }
            if now < looking {
                std::thread::yield_now();
            }
        }
    }

    /// The interrupt, the hub, then `wants`.
    fn poll(&self, wants: &[Want], until: Instant) -> Result<Vec<bool>, CommError> {
        let mut interests: Vec<Interest<'_>> = Vec::with_capacity(2 + wants.len());
        interests.push(readable(&self.interrupt));
        interests.push(if self.hub_left { Interest::Nothing } else { readable(self.control.socket()) });
        interests.extend(wants.iter().map(|want| match (want.read, want.write) {
            (true, true) => Interest::Both(self.link(want.peer).as_fd()),
            (true, false) => Interest::Read(self.link(want.peer).as_fd()),
            (false, true) => Interest::Write(self.link(want.peer).as_fd()),
            (false, false) => Interest::Nothing,
        }));
        wait::until(&interests, until).map_err(|error| CommError::io("the other ranks", &error))
    }

    /// For waits that are not for a connection: fails when there is news that ends things, when a connection broke (on
    /// which nothing travels meanwhile), or when it has lasted too long since `began`.
    pub(super) fn watch(&mut self, operation: &str, began: Instant) -> Result<(), CommError> {
        let peers: Vec<usize> = (0..self.world()).filter(|peer| self.links[*peer].is_some()).collect();
        let wants: Vec<Want> = peers.iter().map(|peer| Want { peer: *peer, read: true, write: false }).collect();
        let found = self.poll(&wants, Instant::now())?;
        if found[0] {
            return Err(CommError::Interrupted);
        }
        if found[1] {
            self.news()?;
        }
        if let Some(at) = found[2..].iter().position(|found| *found) {
            return Err(self.blame(peers[at], "it closed its connection"));
        }
        if began.elapsed() >= self.patience {
            let (_, rank) = self.neighbours();
            return Err(CommError::Timeout { rank, operation: operation.to_owned(), waited: self.patience });
        }
        Ok(())
    }

    /// A rank's connection broke: ask who is really to blame.
    fn blame(&mut self, peer: usize, error: &str) -> CommError {
        let own = CommError::PeerLost { rank: peer, reason: error.to_owned() };
        if self.hub_left {
            return own;
        }
        self.control.tell(&Message::Suspect { rank: peer });
        let deadline = wait::after(VERDICT);
        while Instant::now() < deadline {
            match self.control.look() {
                Arrival::Message(Message::Lost { rank, reason }) => return CommError::PeerLost { rank, reason },
                Arrival::Message(Message::Left { .. }) => {
                    self.hub_left = true;
                    return own;
                }
                Arrival::Message(_) => {}
                Arrival::Closed => return master_gone(),
                Arrival::Nothing => {
                    if wait::until(&[readable(self.control.socket())], deadline).is_err() {
                        return own;
                    }
                }
            }
        }
        own
    }

    /// News from the hub in the middle of a collective.
    fn news(&mut self) -> Result<(), CommError> {
        match self.control.look() {
            Arrival::Nothing => Ok(()),
            Arrival::Message(Message::Lost { rank, reason }) => Err(CommError::PeerLost { rank, reason }),
            Arrival::Message(Message::Left { .. }) => {
                self.hub_left = true;
                Ok(())
            }
            Arrival::Message(_) => Ok(()),
            Arrival::Closed => Err(master_gone()),
        }
    }
}

fn master_gone() -> CommError {
    CommError::PeerLost { rank: 0, reason: "its process ended".to_owned() }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
