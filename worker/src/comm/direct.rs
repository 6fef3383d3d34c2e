//! Every rank talks straight to every other, where the ring would take `n − 1` hops. The algorithms for worlds small
//! enough to have a connection between each two ranks.
//!
//! A collective is two lists: what goes out, piece by piece, and what comes in. Pieces go to the next rank first, then
//! to the one after it; they come from the previous rank first. So what a rank sends first is what its peer waits for
//! first, a wait is for one connection in each direction, and a rank sleeps as rarely as can be.
//!
//! An all-reduce of `n` ranks sends the values of segment `p` to rank `p`, which adds them to its own, and then its own
//! finished segment to everybody: `2 (n − 1) / n` of the buffer from each rank, the least possible.
//!
//! Why it is sound to reduce and to receive in place: a peer's finished segment `p` contains our values of it, so it
//! cannot arrive before they have left.

use std::ops::Range;
use std::time::Instant;

use super::CommError;
use super::call::{CALL_BYTES, Call};
use super::element::{self, Element};
use super::mesh::{Mesh, Want};

/// Bytes that are received and then reduced at once: they stay in the second-level cache meanwhile.
const PORTION_BYTES: usize = 128 * 1024;

/// What is done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Sent as it is at the start, received over what is there.
    Plain,
    /// Sent as far as all incoming [`Manner::Reduce`] pieces have been added.
    Reduced,
    /// Added to what is there.
    Reduce,
}

/// A part of the buffer that travels to or from one peer. The first piece in either direction carries the description
/// of the call in front.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) peer: usize,
    /// Bytes of the buffer.
    pub(super) range: Range<usize>,
    pub(super) manner: Manner,
    pub(super) first: bool,
}

/// One collective in progress. `R` adds its second argument to its first; the flag says that these are the last.
struct Exchange<'call, T, R> {
    mesh: &'call mut Mesh,
    call: Call,
    greeting: [u8; CALL_BYTES],
    outgoing: &'call [Piece],
    incoming: &'call [Piece],
    /// The piece that is being sent, and how much of it is, counting the description.
    sending: usize,
    sent: usize,
    receiving: usize,
    received: usize,
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
    (outgoing, incoming): (&[Piece], &[Piece]),
    reduce: impl FnMut(&mut [T], &[T], bool),
) -> Result<(), CommError> {
    let reduced = incoming.iter().filter(|piece| piece.manner == Manner::Reduce);
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
        receiving: 0,
        received: 0,
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
            // Sending first: others wait for it.
            let sent = self.send(data)?;
            let received = self.receive(data)?;
            if self.sending == self.outgoing.len() && self.receiving == self.incoming.len() {
                return Ok(());
            }
            if sent || received {
                moved = Instant::now();
            }
            if received && self.is_free_to_send() {
                continue;
            }
            let wants = [self.want_to_receive(), self.want_to_send()];
            self.mesh.wait(&wants, &mut ready, self.call.operation.name(), moved)?;
        }
    }

    /// Where the description in front of a piece ends.
    fn front(piece: &Piece) -> usize {
        if piece.first { CALL_BYTES } else { 0 }
    }

    /// Whether something may go out that what came in held back before.
    fn is_free_to_send(&self) -> bool {
        self.outgoing.get(self.sending).is_some_and(|piece| self.sent < self.sendable(piece))
    }

    /// How much of `piece` may go out by now.
    fn sendable(&self, piece: &Piece) -> usize {
        let length = Self::front(piece) + piece.range.len();
        if piece.manner != Manner::Reduced {
            return length;
        }
        // Each piece that is reduced is the same part of the buffer, so the last one decides.
        let last = self.incoming.iter().rposition(|piece| piece.manner == Manner::Reduce);
        match last {
            Some(last) if self.receiving < last => 0,
            Some(last) if self.receiving == last => {
                let front = self.incoming.get(last).map_or(0, Self::front);
                self.received.saturating_sub(front + self.split).min(length)
            }
            Some(_) | None => length,
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
            let (front, limit) = (Self::front(piece), self.sendable(piece));
            if self.sent < limit {
                let head = &self.greeting[self.sent.min(front)..front];
                let from = piece.range.start + self.sent.saturating_sub(front);
                let to = piece.range.start + limit - front;
                let count = self.mesh.push(piece.peer, head, &element::bytes(data)[from..to])?;
                self.sent += count;
                progress |= count > 0;
            }
            if self.sent < front + piece.range.len() {
                break;
            }
            self.sending += 1;
            self.sent = 0;
        }
        Ok(progress)
    }

    /// Receives until there is nothing to be had; whether there was anything.
    fn receive(&mut self, data: &mut [T]) -> Result<bool, CommError> {
        let mut progress = false;
        while let Some(piece) = self.incoming.get(self.receiving) {
            let whole = Self::front(piece) + piece.range.len();
            if self.received < whole {
                let asked_and_got = match piece.manner {
                    Manner::Reduce => self.receive_and_reduce(piece, data)?,
                    Manner::Plain | Manner::Reduced => self.receive_in_place(piece, data)?,
                };
                progress |= asked_and_got.1 > 0;
                // Less than asked for: the next read would find nothing.
                if self.received < whole && asked_and_got.1 < asked_and_got.0 {
                    break;
                }
            }
            if self.received == whole {
                self.receiving += 1;
                self.received = 0;
            }
        }
        Ok(progress)
    }

    fn receive_in_place(&mut self, piece: &Piece, data: &mut [T]) -> Result<(usize, usize), CommError> {
        let front = Self::front(piece);
        let head = &mut self.heard[self.received.min(front)..front];
        // Data behind a wrong description may be anything; it overwrites a buffer that the error makes worthless.
        let from = piece.range.start + self.received.saturating_sub(front);
        let target = &mut element::bytes_mut(data)[from..piece.range.end];
        let asked = head.len() + target.len();
        let count = self.mesh.pull(piece.peer, head, target)?;
        self.compare(piece, count)?;
        Ok((asked, count))
    }

    fn receive_and_reduce(&mut self, piece: &Piece, data: &mut [T]) -> Result<(usize, usize), CommError> {
        let (front, width) = (Self::front(piece), size_of::<T>());
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
        let last = !self.incoming[self.receiving + 1..].iter().any(|later| later.manner == Manner::Reduce);
        (self.reduce)(&mut data[at..at + elements], &self.portion[..elements], last);
        self.split = came % width;
        element::bytes_mut(&mut self.portion).copy_within(elements * width..came, 0);
        Ok((asked, count))
    }

    /// Counts what came, and compares the peer's description with ours when it is complete.
    fn compare(&mut self, piece: &Piece, count: usize) -> Result<(), CommError> {
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
