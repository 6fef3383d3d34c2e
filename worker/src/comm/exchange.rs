//! The engine of all collectives over connections: what goes out, piece by piece, and what comes in, at the same time.
//!
//! Pieces of either list travel in order, one connection at a time in each direction: what a rank sends first is what
//! its peer waits for first, and a rank sleeps as rarely as can be. An outgoing piece may depend on an incoming one
//! (a partial sum that travels on): then it goes out byte by byte as the other comes in. Nobody waits for the end of a
//! step, only for bytes, so that the whole of an algorithm is one flow in each direction.
//!
//! Why it is sound to reduce and to receive in place: what overwrites a part of the buffer is finished, so it contains our
//! values of that part, and cannot arrive before they have left.

use std::ops::Range;
use std::time::Instant;

use super::CommError;
use super::call::{CALL_BYTES, Call};
use super::element::{self, Element};
use super::mesh::{Mesh, Want};

/// Bytes that are received at once: they stay in the second-level cache while they are added and sent on.
const PORTION_BYTES: usize = 128 * 1024;

/// A part of the buffer that goes to a peer. The first piece carries the description of the call in front.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) peer: usize,
    /// Bytes of the buffer.
    pub(super) range: Range<usize>,
    pub(super) first: bool,
    /// The incoming piece, of the same part of the buffer, as far as which this one may go; else it goes as it is.
    pub(super) after: Option<usize>,
}

/// A part of the buffer that comes from a peer.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) peer: usize,
    /// Bytes of the buffer.
    pub(super) range: Range<usize>,
    pub(super) first: bool,
    /// Whether it is added to what is there, and does not replace it.
    pub(super) reduce: bool,
}

/// Where the description in front of a piece ends.
fn front(first: bool) -> usize {
    if first { CALL_BYTES } else { 0 }
}

impl Outgoing {
    fn length(&self) -> usize {
        front(self.first) + self.range.len()
    }
}

impl Incoming {
    fn length(&self) -> usize {
        front(self.first) + self.range.len()
    }
}

/// One collective in progress. `R` adds its second argument to its first; the flag says that these are the last.
struct Exchange<'call, T, R> {
    mesh: &'call mut Mesh,
    call: Call,
    greeting: [u8; CALL_BYTES],
    outgoing: &'call [Outgoing],
    incoming: &'call [Incoming],
    /// The piece that is being sent, and how much of it is, counting the description.
    sending: usize,
    sent: usize,
    /// The kernel took less than it was offered.
    full: bool,
    receiving: usize,
    received: usize,
    /// The kernel gave less than it was asked for.
    drained: bool,
    /// The last piece that is added.
    last: Option<usize>,
    heard: [u8; CALL_BYTES],
    reduce: R,
    portion: Vec<T>,
    /// Bytes at the front of `portion`: the start of an element whose end has not come.
    split: usize,
}

/// Sends all of `outgoing` and receives all of `incoming`, from and into `data`.
pub(super) fn exchange<T: Element>(
    mesh: &mut Mesh,
    call: Call,
    data: &mut [T],
    (outgoing, incoming): (&[Outgoing], &[Incoming]),
    reduce: impl FnMut(&mut [T], &[T], bool),
) -> Result<(), CommError> {
    let reduced = incoming.iter().filter(|piece| piece.reduce);
    let largest = reduced.map(|piece| piece.range.len()).max().unwrap_or(0);
    let portion = vec![T::default(); largest.min(PORTION_BYTES).div_ceil(size_of::<T>())];
    let exchange = Exchange {
        mesh,
        call,
        greeting: call.encode(),
        outgoing,
        incoming,
        sending: 0,
        sent: 0,
        full: false,
        receiving: 0,
        received: 0,
        drained: false,
        last: incoming.iter().rposition(|piece| piece.reduce),
        heard: [0; CALL_BYTES],
        reduce,
        portion,
        split: 0,
    };
    exchange.run(data)
}

impl<T: Element, R: FnMut(&mut [T], &[T], bool)> Exchange<'_, T, R> {
    fn run(mut self, data: &mut [T]) -> Result<(), CommError> {
        let mut moved = Instant::now();
        let mut ready = Vec::with_capacity(2);
        loop {
            // Sending first: others wait for it, and what was added a moment ago is still in the cache.
            let sent = self.send(data)?;
            let received = self.receive(data)?;
            if self.sending == self.outgoing.len() && self.receiving == self.incoming.len() {
                return Ok(());
            }
            if sent || received {
                moved = Instant::now();
            }
            let may_receive = !self.drained && self.receiving < self.incoming.len();
            if may_receive || !self.full && self.is_free_to_send() {
                continue;
            }
            let wants = [self.want_to_receive(), self.want_to_send()];
            self.mesh.wait(&wants, &mut ready, self.call.operation.name(), moved)?;
            self.drained &= !ready[0];
            self.full &= !ready[1];
        }
    }

    /// Whether something may go out by now.
    fn is_free_to_send(&self) -> bool {
        self.outgoing.get(self.sending).is_some_and(|piece| self.sent < self.sendable(piece))
    }

    /// How much of `piece` may go out by now.
    fn sendable(&self, piece: &Outgoing) -> usize {
        let Some((index, awaited)) = piece.after.and_then(|index| Some((index, self.incoming.get(index)?))) else {
            return piece.length();
        };
        match index.cmp(&self.receiving) {
            std::cmp::Ordering::Less => piece.length(),
            std::cmp::Ordering::Equal => {
                let came = self.received.saturating_sub(front(awaited.first) + self.split);
                (front(piece.first) + came).min(piece.length())
            }
            std::cmp::Ordering::Greater => front(piece.first),
        }
    }

    fn want_to_send(&self) -> Want {
        match self.outgoing.get(self.sending) {
            Some(piece) => Want { peer: piece.peer, read: false, write: self.sent < self.sendable(piece) },
            None => Want { peer: self.mesh.rank, read: false, write: false },
        }
    }

    fn want_to_receive(&self) -> Want {
        let peer = self.incoming.get(self.receiving).map(|piece| piece.peer);
        Want { peer: peer.unwrap_or(self.mesh.rank), read: peer.is_some(), write: false }
    }

    /// Sends until the kernel takes no more, or there is no more; whether anything went.
    fn send(&mut self, data: &[T]) -> Result<bool, CommError> {
        let mut progress = false;
        while let Some(piece) = self.outgoing.get(self.sending) {
            let (front, limit) = (front(piece.first), self.sendable(piece));
            if self.sent < limit {
                if self.full {
                    break;
                }
                let head = &self.greeting[self.sent.min(front)..front];
                let from = piece.range.start + self.sent.saturating_sub(front);
                let to = piece.range.start + limit - front;
                let count = self.mesh.push(piece.peer, head, &element::bytes(data)[from..to])?;
                self.sent += count;
                self.full = count < head.len() + to - from;
                progress |= count > 0;
            }
            if self.sent < piece.length() {
                break;
            }
            let done = piece.peer;
            self.sending += 1;
            self.sent = 0;
            self.full &= self.outgoing.get(self.sending).is_some_and(|next| next.peer == done);
        }
        Ok(progress)
    }

    /// Receives what is there, up to a portion of it; whether there was anything.
    fn receive(&mut self, data: &mut [T]) -> Result<bool, CommError> {
        let mut progress = false;
        while let Some(piece) = self.incoming.get(self.receiving) {
            if self.received < piece.length() {
                if self.drained || progress {
                    break;
                }
                let (asked, got) = match piece.reduce {
                    true => self.receive_and_reduce(piece, data)?,
                    false => self.receive_in_place(piece, data)?,
                };
                progress = got > 0;
                // The next read would find nothing.
                self.drained = got < asked;
            }
            if self.received < piece.length() {
                break;
            }
            let done = piece.peer;
            self.receiving += 1;
            self.received = 0;
            self.drained &= self.incoming.get(self.receiving).is_some_and(|next| next.peer == done);
        }
        Ok(progress)
    }

    fn receive_in_place(&mut self, piece: &Incoming, data: &mut [T]) -> Result<(usize, usize), CommError> {
        let front = front(piece.first);
        let head = &mut self.heard[self.received.min(front)..front];
        // Data behind a wrong description may be anything; it overwrites a buffer that the error makes worthless.
        let from = piece.range.start + self.received.saturating_sub(front);
        let to = piece.range.end.min(from + PORTION_BYTES);
        let target = &mut element::bytes_mut(data)[from..to];
        let asked = head.len() + target.len();
        let count = self.mesh.pull(piece.peer, head, target)?;
        self.compare(piece, count)?;
        Ok((asked, count))
    }

    fn receive_and_reduce(&mut self, piece: &Incoming, data: &mut [T]) -> Result<(usize, usize), CommError> {
        let (front, width) = (front(piece.first), size_of::<T>());
        let head = &mut self.heard[self.received.min(front)..front];
        let done = self.received.saturating_sub(front) - self.split;
        let portion = element::bytes_mut(&mut self.portion);
        let room = (piece.range.len() - done).min(portion.len());
        let asked = head.len() + room - self.split;
        let count = self.mesh.pull(piece.peer, head, &mut portion[self.split..room])?;
        self.compare(piece, count)?;
        let came = self.received.saturating_sub(front) - done;
        let elements = came / width;
        let at = (piece.range.start + done) / width;
        let last = self.last == Some(self.receiving);
        (self.reduce)(&mut data[at..at + elements], &self.portion[..elements], last);
        self.split = came % width;
        element::bytes_mut(&mut self.portion).copy_within(elements * width..came, 0);
        Ok((asked, count))
    }

    /// Counts what came, and compares the peer's description with ours when it is complete.
    fn compare(&mut self, piece: &Incoming, count: usize) -> Result<(), CommError> {
        let before = self.received;
        self.received += count;
        let complete = piece.first && before < CALL_BYTES && self.received >= CALL_BYTES;
        if complete && self.heard != self.greeting {
            let (here, there) = (self.call.describe_own(), Call::describe(&self.heard));
            return Err(self.mesh.disagree(piece.peer, here, there));
        }
        Ok(())
    }
}
