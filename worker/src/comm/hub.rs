//! Rank 0's second job: to know who died, and to tell everybody at once.
//!
//! A rank that dies breaks its two ring connections, but only its neighbours see that. So every rank keeps its
//! rendezvous connection to rank 0, and a thread there watches them all. The first loss is the verdict; it is told to
//! every rank and never revised, so all ranks name the same culprit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait::{self, readable};
use super::wire::{Arrival, Inbox, Message, frame, say};

/// How long a suspicion waits for better knowledge: a dying process closes all its connections within this time.
const DOUBT: Duration = Duration::from_millis(250);
/// How long telling one rank may block the others' news.
const TELLING: Duration = Duration::from_secs(1);

/// One rank's end of its connection to the hub; a TCP connection, or a socket pair on rank 0.
#[derive(Debug)]
pub(super) struct Control {
    stream: File,
    inbox: Inbox,
}

impl Control {
    pub(super) fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd: OwnedFd = stream.into();
        set_nonblocking(&fd)?;
        Ok(Self { stream: fd.into(), inbox: Inbox::default() })
    }

    /// What the hub said, if anything.
    pub(super) fn look(&mut self) -> Arrival {
        self.inbox.look(&mut self.stream)
    }

    /// Tells the hub. Failure is not reported: a hub that is gone is noticed by `look`.
    pub(super) fn tell(&mut self, message: &Message) {
        let _ = self.stream.write_all(&frame(message));
    }

    pub(super) fn socket(&self) -> &File {
        &self.stream
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

struct Member {
    stream: TcpStream,
    inbox: Inbox,
}

struct Hub {
    own: UnixStream,
    own_inbox: Inbox,
    door: TcpListener,
    members: BTreeMap<usize, Member>,
    left: BTreeSet<usize>,
    /// The rank that a neighbour lost, and when that is believed.
    suspicion: Option<(usize, Instant)>,
    verdict: bool,
    open: bool,
}

/// Starts the hub on the members' connections and gives rank 0's own.
pub(super) fn start(members: BTreeMap<usize, TcpStream>, door: TcpListener) -> io::Result<(Control, JoinHandle<()>)> {
    let (ours, own) = UnixStream::pair()?;
    own.set_nonblocking(true)?;
    let mut known = BTreeMap::new();
    for (rank, stream) in members {
        super::connect::keep_alive(&stream);
        stream.set_nonblocking(true)?;
        known.insert(rank, Member { stream, inbox: Inbox::default() });
    }
    let mut hub = Hub {
        own,
        own_inbox: Inbox::default(),
        door,
        members: known,
        left: BTreeSet::new(),
        suspicion: None,
        verdict: false,
        open: true,
    };
    let thread = std::thread::Builder::new().name("comm-hub".to_owned()).spawn(move || hub.run())?;
    Ok((Control::new(ours)?, thread))
}

impl Hub {
    fn run(&mut self) {
        while self.open {
            let far = wait::after(Duration::from_secs(3600));
            let deadline = self.suspicion.map_or(far, |(_, due)| due);
            let mut interests = vec![readable(&self.own), readable(&self.door)];
            interests.extend(self.members.values().map(|member| readable(&member.stream)));
            if wait::until(&interests, deadline).is_err() {
                return;
            }
            self.turn_away();
            self.hear_members();
            self.hear_own();
            if let Some((rank, due)) = self.suspicion
                && Instant::now() >= due
            {
                let reason = if self.left.contains(&rank) {
                    "it left the group while others still needed it"
                } else {
                    "it closed its connection"
                };
                self.condemn(rank, reason);
            }
        }
    }

    /// Late comers are strangers: the group is complete.
    fn turn_away(&self) {
        while let Ok((mut stream, _)) = self.door.accept() {
            let _ = stream.set_write_timeout(Some(TELLING));
            let reason = "the job's ranks are complete".to_owned();
            // A newer incarnation waits until this one has gone; a stranger waits in vain.
            let _ = say(&mut stream, &Message::Refused { reason, retry: true });
        }
    }

    fn hear_members(&mut self) {
        let mut news = Vec::new();
        for (rank, member) in &mut self.members {
            loop {
                let arrival = member.inbox.look(&mut member.stream);
                let more = matches!(arrival, Arrival::Message(_));
                if arrival != Arrival::Nothing {
                    news.push((*rank, arrival));
                }
                if !more {
                    break;
                }
            }
        }
        for (from, arrival) in news {
            match arrival {
                Arrival::Message(message) => self.act(from, message),
                Arrival::Closed => {
                    self.members.remove(&from);
                    if !self.left.contains(&from) {
                        self.condemn(from, "its process ended");
                    }
                }
                Arrival::Nothing => {}
            }
        }
    }

    fn hear_own(&mut self) {
        loop {
            match self.own_inbox.look(&mut self.own) {
                Arrival::Message(message) => self.act(0, message),
                Arrival::Nothing => return,
                Arrival::Closed => {
                    self.open = false;
                    return;
                }
            }
        }
    }

    fn act(&mut self, from: usize, message: Message) {
        match message {
            Message::Suspect { rank } => {
                let gone = rank != 0 && !self.members.contains_key(&rank);
                let due = if gone { Instant::now() } else { Instant::now() + DOUBT };
                self.suspicion.get_or_insert((rank, due));
            }
            Message::Lost { rank, reason } => self.condemn(rank, &reason),
            Message::Left { rank: _ } if from == 0 => {
                self.tell_all(&Message::Left { rank: 0 });
                self.open = false;
            }
            Message::Left { rank: _ } => {
                self.left.insert(from);
            }
            Message::Hello { .. }
            | Message::Welcome { .. }
            | Message::Refused { .. }
            | Message::Incomplete { .. }
            | Message::Ring { .. } => tracing::debug!(from, "ignored a message that has no place here"),
        }
    }

    /// The first loss is the one that counts: later ones are its consequences.
    fn condemn(&mut self, rank: usize, reason: &str) {
        self.suspicion = None;
        if self.verdict {
            return;
        }
        self.verdict = true;
        self.tell_all(&Message::Lost { rank, reason: reason.to_owned() });
    }

    fn tell_all(&mut self, message: &Message) {
        let _ = say(&mut self.own, message);
        for member in self.members.values_mut() {
            // The messages are smaller than a socket's buffer, and few: a write that would block is to a rank that
            // reads nothing any more.
            let _ = say(&mut member.stream, message);
        }
    }
}
