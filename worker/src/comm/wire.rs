//! What is said on the rendezvous and control connections: a magic number once, then frames of JSON.
//!
//! These connections carry a few small messages per job, so they are readable rather than compact. The data of
//! collectives travels on connections of its own (see `exchange`).

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The first bytes on every connection; the last one is the protocol's version.
pub(super) const MAGIC: [u8; 8] = *b"TRNYARD\x01";

/// The longest frame that is read. The largest honest one is a roster: 64 bytes for each of some ten thousand ranks.
const FRAME_LIMIT: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub(super) enum Message {
    /// Rank n → rank 0, first.
    #[serde(rename_all = "camelCase")]
    Hello { rank: usize, world_size: usize, generation: u64, token: String, ring: SocketAddr },
    /// Rank 0 → all, when everybody has come: the ring address of each rank.
    Welcome { ring: Vec<SocketAddr> },
    /// Rank 0 → one: not you. `retry` when a newer rank 0 will come at this address.
    Refused { reason: String, retry: bool },
    /// Rank 0 → those who came: these did not.
    #[serde(rename_all = "camelCase")]
    Incomplete { missing: Vec<usize>, waited_ms: u64 },
    /// A rank → its right neighbour, first on a ring connection.
    Ring { rank: usize, generation: u64, token: String },
    /// A rank → rank 0: this neighbour closed its connection to me.
    Suspect { rank: usize },
    /// Either way: this rank is gone, stop what you are doing.
    Lost { rank: usize, reason: String },
    /// Either way: I am leaving and need nothing more.
    Left { rank: usize },
}

/// One message as it travels.
pub(super) fn frame(message: &Message) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("messages are plain data");
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Writes one message.
pub(super) fn say(stream: &mut impl Write, message: &Message) -> io::Result<()> {
    stream.write_all(&frame(message))
}

/// Reads one message from a blocking stream.
pub(super) fn hear(stream: &mut impl Read) -> io::Result<Message> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of impossible length"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Collects frames from a stream that gives bytes in any portions.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

/// What one look at a stream gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A whole message.
    Message(Message),
    /// Nothing whole yet.
    Nothing,
    /// The other side closed, or broke the protocol.
    Closed,
}

impl Inbox {
    /// Reads what is there (the stream must not block) and returns the first whole message.
    pub(super) fn look(&mut self, stream: &mut impl Read) -> Arrival {
        loop {
            match self.next() {
                Arrival::Nothing => {}
                found @ (Arrival::Message(_) | Arrival::Closed) => return found,
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return Arrival::Closed,
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Arrival::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Arrival::Closed,
            }
        }
    }

    /// Takes the magic number off the front. `None` while it is incomplete, `Some(false)` when it is wrong.
    pub(super) fn greeted(&mut self, stream: &mut impl Read) -> Option<bool> {
        let mut byte = [0; 1];
        while self.bytes.len() < MAGIC.len() {
            match stream.read(&mut byte) {
                Ok(0) => return Some(false),
                Ok(_) => self.bytes.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(false),
            }
        }
        let right = self.bytes == MAGIC;
        self.bytes.clear();
        Some(right)
    }

    fn next(&mut self) -> Arrival {
        let Some(length) = self.bytes.first_chunk::<4>() else { return Arrival::Nothing };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_LIMIT {
            return Arrival::Closed;
        }
        let Some(body) = self.bytes.get(4..4 + length) else { return Arrival::Nothing };
        let message = serde_json::from_slice(body);
        self.bytes.drain(..4 + length);
        message.map_or(Arrival::Closed, Arrival::Message)
    }
}

/// Compares secrets without telling by the time it takes how much of them was right.
pub(super) fn same_token(ours: &str, theirs: &str) -> bool {
    let (ours, theirs) = (ours.as_bytes(), theirs.as_bytes());
    let difference = ours.iter().zip(theirs).fold(0, |seen, (a, b)| seen | (a ^ b));
    ours.len() == theirs.len() && difference == 0
}
