//! Packets with descriptors, between the launcher, the zygote and its spares.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt,
    socketpair, sockopt,
};

/// The longest packet that is read: names of modules that could not be imported, with why.
const PACKET: usize = 64 * 1024;
/// An environment may be 2 MiB; the system takes less if it must.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// One end of a SOCK_SEQPACKET pair.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

/// What was read.
#[derive(Debug)]
pub(super) enum Heard {
    Packet(Vec<u8>, Vec<OwnedFd>),
    Nothing,
    End,
}

impl Line {
    /// Two ends; neither is inherited.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(ours), theirs))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends one packet, or fails at once.
    pub(super) fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if packet.len() > PACKET {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &SEND_BUFFER);
        }
        let raw: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let ancillary: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(packet)], ancillary, flags, None)?;
        Ok(())
    }

    /// Reads one packet if one is there.
    pub(super) fn hear(&self) -> io::Result<Heard> {
        let mut packet = vec![0; PACKET];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut slices = [IoSliceMut::new(&mut packet)];
        let (count, descriptors) = match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => (message.bytes, received(message.cmsgs()?)),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            return Ok(Heard::End);
        }
        packet.truncate(count);
        Ok(Heard::Packet(packet, descriptors))
    }

    /// Reads one packet, waiting for it until `deadline`.
    pub(super) fn await_packet(&self, deadline: Instant) -> io::Result<Heard> {
        loop {
            match self.hear()? {
                Heard::Nothing => {}
                heard @ (Heard::Packet(..) | Heard::End) => return Ok(heard),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            let ms = PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket(), PollFlags::POLLIN)], ms) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn received(messages: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in messages {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the system has just made these descriptors for us, and nobody else knows them.
            descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    descriptors
}
