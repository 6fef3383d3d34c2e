//! The data connections: one between each two ranks, or between neighbours only where there are too many.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::hub::Control;
use super::rendezvous::{INTRODUCTION, interruption, introduce_self, lost};
use super::wait::{self, readable};
use super::wire::{Arrival, MAGIC, Message, same_token};
use super::{CommError, Options};

/// Up to this many ranks each two have a connection. Then one step suffices for a short message, and each rank holds 63
/// sockets at most; beyond, data goes around the ring.
const FULL_MESH: usize = 64;

/// The congestion control between ranks of one machine: every kernel has it, for everybody.
const LOCAL_CONGESTION: &str = "reno";
/// The send buffer between ranks of one machine, of which the kernel makes twice as much. Measured with 2 to 8 ranks on one
/// chip: less wakes ranks more often, more leaves the cache.
const LOCAL_BYTES: usize = 512 * 1024;

/// Whom `rank` has a connection to.
fn peers(rank: usize, world: usize) -> Vec<usize> {
    let near = |peer: usize| (rank + 1) % world == peer || (peer + 1) % world == rank;
    (0..world).filter(|peer| *peer != rank && (world <= FULL_MESH || near(*peer))).collect()
}

pub(super) fn listen(ip: IpAddr) -> Result<TcpListener, CommError> {
    TcpListener::bind((ip, 0)).map_err(|error| CommError::listen((ip, 0).into(), &error))
}

/// Calls the ranks above this one, then takes the calls of those below. Nobody waits for anybody in the first half (the
/// kernel completes connections to a listening socket), so there is no deadlock.
pub(super) fn all(
    options: &Options,
    roster: &[SocketAddr],
    door: &TcpListener,
    control: &mut Control,
    deadline: Instant,
) -> Result<Vec<Option<TcpStream>>, CommError> {
    let (rank, world) = (options.rank, options.world_size);
    let peers = peers(rank, world);
    let mut links: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
    for peer in peers.iter().copied().filter(|peer| *peer > rank) {
        let remaining = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let called = TcpStream::connect_timeout(&roster[peer], remaining).and_then(|mut stream| {
            let hello = Message::Ring { rank, generation: options.generation, token: options.token.clone() };
            introduce_self(&mut stream, &hello)?;
            Ok(stream)
        });
        links[peer] = Some(called.map_err(|error| lost(peer, &error))?);
    }
    let set_up = |error: io::Error| CommError::io("the data port", &error);
    door.set_nonblocking(true).map_err(set_up)?;
    while let Some(missing) = peers.iter().copied().find(|peer| *peer < rank && links[*peer].is_none()) {
        let interests = [readable(door), readable(control.socket()), interruption(options)];
        let ready = wait::until(&interests, deadline).map_err(set_up)?;
        if ready[2] {
            return Err(CommError::Interrupted);
        }
        if ready[1] && !ready[0] {
            bad_news(control)?;
        }
        if Instant::now() >= deadline && !ready[0] {
            let reason = "it never connected to the others".to_owned();
            return Err(CommError::PeerLost { rank: missing, reason });
        }
        let Ok((stream, _)) = door.accept() else { continue };
        if let Some((caller, stream)) = accept(stream, options)
            && peers.contains(&caller)
            && caller < rank
        {
            links[caller] = Some(stream);
        }
    }
    for stream in links.iter().flatten() {
        keep_alive(stream);
        if is_local(stream) {
            tune_local(stream);
        }
        stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(set_up)?;
    }
    Ok(links)
}

/// The hub speaks between the welcome and the first collective only to end things.
fn bad_news(control: &mut Control) -> Result<(), CommError> {
    match control.look() {
        Arrival::Nothing => Ok(()),
        Arrival::Message(Message::Lost { rank, reason }) => Err(CommError::PeerLost { rank, reason }),
        Arrival::Message(_) | Arrival::Closed => {
            Err(CommError::PeerLost { rank: 0, reason: "it ended while the ranks were connecting".to_owned() })
        }
    }
}

/// Who called, if it is one of ours.
fn accept(mut stream: TcpStream, options: &Options) -> Option<(usize, TcpStream)> {
    use std::io::Read as _;
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(INTRODUCTION)).ok()?;
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).ok()?;
    let Message::Ring { rank, generation, token } = super::wire::hear(&mut stream).ok()? else { return None };
    let ours = magic == MAGIC && generation == options.generation;
    (ours && same_token(&options.token, &token)).then_some((rank, stream))
}

/// Whether the other end is on this machine.
pub(super) fn is_local(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(own), Ok(peer)) => own.ip() == peer.ip() || peer.ip().is_loopback(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Between ranks of one machine there is no network that could be congested: an algorithm that paces what it sends (BBR, the
/// default of many systems) only holds it back. And what is under way should fit the cache, so that its receiver finds it
/// there. Between machines the system's choices stay.
fn tune_local(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    // Best effort: all of this is speed.
    let _ = setsockopt(stream, sockopt::TcpCongestion, &std::ffi::OsString::from(LOCAL_CONGESTION));
    let _ = setsockopt(stream, sockopt::SndBuf, &LOCAL_BYTES);
}

/// Lets the kernel notice a host that vanished without a word: 10 s of silence, then 4 probes 5 s apart.
pub(super) fn keep_alive(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    // Best effort: without it a vanished host is noticed by the operation timeout.
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &10);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &5);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &4);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_two_ends() {
        for world in [2, 3, 8, 64, 65, 200] {
            for rank in 0..world {
                for peer in peers(rank, world) {
                    assert!(peers(peer, world).contains(&rank), "{rank} and {peer} of {world}");
                }
            }
        }
        assert_eq!(peers(0, 65), [1, 64]);
        assert_eq!(peers(1, 4), [0, 2, 3]);
    }
}
