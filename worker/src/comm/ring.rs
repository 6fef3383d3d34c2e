//! Data one way around: to the right neighbour and from the left one, at the same time. For worlds too large for a
//! connection between each two ranks, and for long broadcasts.

use std::time::Instant;

use super::CommError;
use super::call::{CALL_BYTES, Call};
use super::element::{self, Element};
use super::mesh::{Mesh, Want};

/// A rank's place in a call that goes around.
pub(super) struct Ring<'mesh> {
    pub(super) mesh: &'mesh mut Mesh,
    pub(super) call: Call,
    opened: bool,
}

impl<'mesh> Ring<'mesh> {
    pub(super) fn new(mesh: &'mesh mut Mesh, call: Call) -> Self {
        Self { mesh, call, opened: false }
    }

    /// Sends `send` to the right and fills `receive` from the left; returns when both are done. The first time the
    /// descriptions of the call go ahead.
    pub(super) fn exchange<T: Element>(&mut self, send: &[T], receive: &mut [T]) -> Result<(), CommError> {
        let (send, receive) = (element::bytes(send), element::bytes_mut(receive));
        if self.opened {
            return Transfer { send: [&[], send], sent: 0, received: 0 }.run(self, receive, true);
        }
        self.opened = true;
        let ours = self.call.encode();
        let mut theirs = [0; CALL_BYTES];
        let mut transfer = Transfer { send: [&ours, send], sent: 0, received: 0 };
        // The data behind a wrong description may never come, so the description is read and compared first.
        transfer.run(self, &mut theirs, false)?;
        if theirs != ours {
            let (_, left) = self.mesh.neighbours();
            return Err(self.mesh.disagree(left, self.call.describe_own(), Call::describe(&theirs)));
        }
        transfer.received = 0;
        transfer.run(self, receive, true)
    }
}

/// How far one exchange has come.
struct Transfer<'data> {
    send: [&'data [u8]; 2],
    sent: usize,
    received: usize,
}

impl Transfer<'_> {
    /// Works until `receive` is full and, if `flush`, everything is sent.
    fn run(&mut self, ring: &mut Ring<'_>, receive: &mut [u8], flush: bool) -> Result<(), CommError> {
        let (right, left) = ring.mesh.neighbours();
        let wanted = receive.len();
        let total = self.send.iter().map(|part| part.len()).sum::<usize>();
        let mut moved = Instant::now();
        let mut ready = Vec::new();
        loop {
            let mut count = 0;
            if self.sent < total {
                let (first, second) = (self.send[0], self.send[1]);
                let head = first.get(self.sent..).unwrap_or_default();
                let sent = ring.mesh.push(right, head, &second[self.sent.saturating_sub(first.len())..])?;
                self.sent += sent;
                count += sent;
            }
            if self.received < wanted {
                let received = ring.mesh.pull(left, &mut [], &mut receive[self.received..])?;
                self.received += received;
                count += received;
            }
            let (write, read) = (self.sent < total, self.received < wanted);
            let unfinished = read || (write && flush);
            if !unfinished {
                return Ok(());
            }
            if count > 0 {
                moved = Instant::now();
                continue;
            }
            let wants = [Want { peer: left, read, write: false }, Want { peer: right, read: false, write }];
            ring.mesh.wait(&wants, &mut ready, ring.call.operation.name(), moved)?;
        }
    }
}
