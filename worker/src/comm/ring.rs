//! Moving bytes around the ring: to the right neighbour and from the left one, at the same time.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::hub::Control;
use super::wait::{self, Interest, readable, writable};
use super::wire::{Arrival, Message};
use super::{CommError, element};

/// The size of a call's description on the wire.
const CALL_BYTES: usize = 32;
/// How long a rank that lost a neighbour waits for the hub's verdict: longer than the hub's own doubt.
const VERDICT: Duration = Duration::from_secs(2);

/// What a rank is doing, so that its neighbour can compare it with its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) sequence: u64,
    pub(super) operation: Operation,
    pub(super) element: u8,
    pub(super) reduce: u8,
    pub(super) root: u32,
    pub(super) length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    AllReduce,
    Broadcast,
    AllGather,
    ReduceScatter,
    Barrier,
}

impl Operation {
    const ALL: [Self; 5] = [Self::AllReduce, Self::Broadcast, Self::AllGather, Self::ReduceScatter, Self::Barrier];

    fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::Barrier => "barrier",
        }
    }
}

impl Call {
    fn encode(self) -> [u8; CALL_BYTES] {
        let operation = Operation::ALL.iter().position(|known| *known == self.operation).unwrap_or_default();
        let mut bytes = [0; CALL_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8] = operation as u8;
        bytes[9] = self.element;
        bytes[10] = self.reduce;
        bytes[12..16].copy_from_slice(&self.root.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The words for a message, from the wire's bytes, which may come from a program gone wrong.
    fn describe(bytes: &[u8; CALL_BYTES]) -> String {
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(long)
        };
        let operation = Operation::ALL.get(usize::from(bytes[8])).map_or("an unknown operation", |known| known.name());
        let reduce = match bytes[10] {
            1 => ", sum",
            2 => ", mean",
            3 => ", min",
            4 => ", max",
            _ => "",
        };
        let root = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let root = if bytes[8] == Operation::Broadcast as u8 { format!(", root {root}") } else { String::new() };
        let sequence = long(0);
        if bytes[8] == Operation::Barrier as u8 {
            return format!("barrier() as call {sequence}");
        }
        format!("{operation}({} × {}{reduce}{root}) as call {sequence}", long(16), element::name_of(bytes[9]))
    }
}

/// The two ring connections and the line to the hub.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) right_rank: usize,
    pub(super) left_rank: usize,
    pub(super) right: TcpStream,
    pub(super) left: TcpStream,
    pub(super) control: Control,
    /// Rank 0 left in good order; nobody answers on the control connection any more.
    pub(super) hub_left: bool,
    pub(super) patience: Duration,
}

impl Ring {
    /// Tells the right neighbour about `call` and checks that the left one makes the same, while sending `send` and
    /// receiving `receive` behind the descriptions.
    pub(super) fn open(&mut self, call: Call, send: &[u8], receive: &mut [u8]) -> Result<(), CommError> {
        let ours = call.encode();
        let mut theirs = [0; CALL_BYTES];
        let mut transfer = Transfer { send: [&ours, send], sent: 0, received: 0 };
        // The data behind a wrong description may never come, so the description is read and compared first.
        let operation = call.operation.name();
        transfer.run(self, operation, &mut theirs, false)?;
        if theirs != ours {
            let (here, there) = (Call::describe(&ours), Call::describe(&theirs));
            let reason = format!("rank {} called {there} where the next rank called {here}", self.left_rank);
            self.control.tell(&Message::Lost { rank: self.left_rank, reason });
            return Err(CommError::Mismatch { rank: self.left_rank, here, there });
        }
        transfer.received = 0;
        transfer.run(self, operation, receive, true)
    }

    /// Sends `send` to the right and fills `receive` from the left; returns when both are done.
    pub(super) fn exchange(&mut self, call: Call, send: &[u8], receive: &mut [u8]) -> Result<(), CommError> {
        let mut transfer = Transfer { send: [send, &[]], sent: 0, received: 0 };
        transfer.run(self, call.operation.name(), receive, true)
    }

    /// A neighbour's connection broke: ask who is really to blame.
    fn blame(&mut self, neighbour: usize, error: &str) -> CommError {
        let own = CommError::PeerLost { rank: neighbour, reason: error.to_owned() };
        if self.hub_left {
            return own;
        }
        self.control.tell(&Message::Suspect { rank: neighbour });
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

/// How far one exchange has come.
struct Transfer<'data> {
    send: [&'data [u8]; 2],
    sent: usize,
    received: usize,
}

impl Transfer<'_> {
    /// Works until `receive` is full and, if `flush`, everything is sent.
    fn run(&mut self, ring: &mut Ring, operation: &str, receive: &mut [u8], flush: bool) -> Result<(), CommError> {
        let wanted = receive.len();
        let total = self.send.iter().map(|part| part.len()).sum::<usize>();
        let mut moved = Instant::now();
        loop {
            let mut progress = false;
            if self.sent < total {
                let count = self.push(ring)?;
                self.sent += count;
                progress |= count > 0;
            }
            if self.received < wanted {
                let count = self.pull(ring, receive)?;
                self.received += count;
                progress |= count > 0;
            }
            let sending = self.sent < total;
            if self.received == wanted && !(sending && flush) {
                return Ok(());
            }
            if progress {
                moved = Instant::now();
                continue;
            }
            let deadline = moved.checked_add(ring.patience).unwrap_or_else(|| wait::after(ring.patience));
            if Instant::now() >= deadline {
                let rank = if self.received < wanted { ring.left_rank } else { ring.right_rank };
                return Err(CommError::Timeout { rank, operation: operation.to_owned(), waited: ring.patience });
            }
            self.sleep(ring, sending, self.received < wanted, deadline)?;
        }
    }

    fn push(&self, ring: &mut Ring) -> Result<usize, CommError> {
        let (first, second) = (self.send[0], self.send[1]);
        let head = first.get(self.sent..).unwrap_or_default();
        let tail = &second[self.sent.saturating_sub(first.len())..];
        match ring.right.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)]) {
            Ok(count) => Ok(count),
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(ring.blame(ring.right_rank, &format!("it takes no data ({error})"))),
        }
    }

    fn pull(&self, ring: &mut Ring, receive: &mut [u8]) -> Result<usize, CommError> {
        match ring.left.read(&mut receive[self.received..]) {
            Ok(0) => Err(ring.blame(ring.left_rank, "it closed its connection")),
            Ok(count) => Ok(count),
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(ring.blame(ring.left_rank, &format!("it sends no data ({error})"))),
        }
    }

    /// Sleeps until a socket that matters is ready or the hub has news.
    fn sleep(&self, ring: &mut Ring, sending: bool, receiving: bool, deadline: Instant) -> Result<(), CommError> {
        let listening = !ring.hub_left;
        let ready = {
            let mut interests: Vec<Interest<'_>> = Vec::with_capacity(3);
            if listening {
                interests.push(readable(ring.control.socket()));
            }
            if sending {
                interests.push(writable(&ring.right));
            }
            if receiving {
                interests.push(readable(&ring.left));
            }
            wait::until(&interests, deadline).map_err(|error| CommError::io("the ring", &error))?
        };
        if listening && ready.first() == Some(&true) { ring.news() } else { Ok(()) }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
