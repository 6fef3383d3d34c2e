//! The kernel's table of TCP sockets: who is at the other end of a loopback connection, and which ports are listened on.
//!
//! It is asked over netlink, in microseconds. Where that is not allowed or not built in, the tables under /proc/net are read,
//! for which the kernel walks through all its buckets: milliseconds on a large machine.

mod diag;
mod table;

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The uid that owns the peer's socket; `None` where the kernel does not have it, or has it no longer open.
///
/// Without this, any user of a shared machine could run commands as the server's owner through its port.
pub fn peer_uid(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (peer, local) = (canonical(peer), canonical(local));
    // That netlink knows no such socket can also mean that it knows none at all.
    diag::owner(peer, local).ok().flatten().or_else(|| table::owner(peer, local))
}

/// The uid this process has towards files, as the kernel shows it for our own sockets.
pub fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|meta| meta.uid())
}

/// Ports that somebody listens on, over IPv4 and IPv6. Empty where the kernel does not tell.
pub fn listening_ports() -> BTreeSet<u16> {
    diag::listening().unwrap_or_else(|_| table::listening())
}

/// An IPv4 address that is written as one of IPv6 is in the tables of IPv4 or of IPv6, depending on who opened the socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    type Owner = fn(SocketAddr, SocketAddr) -> Option<u32>;

    /// The question as it is asked of each of the two.
    const OWNERS: [(&str, Owner); 3] = [
        ("either", peer_uid),
        ("netlink", |peer, local| diag::owner(canonical(peer), canonical(local)).expect("netlink")),
        ("/proc", |peer, local| table::owner(canonical(peer), canonical(local))),
    ];

    fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[test]
    fn our_own_connection_is_ours() {
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (listener, address) = listener(at);
            let client = TcpStream::connect(("localhost", address.port()))
                .or_else(|_| TcpStream::connect(address))
                .expect("connects");
            let (server, peer) = listener.accept().expect("accepted");
            let local = server.local_addr().expect("bound");
            for (who, owner) in OWNERS {
                assert_eq!(owner(peer, local), own_uid(), "{who}, {at}");
                // The server's own end, asked the other way round.
                assert_eq!(owner(local, peer), own_uid(), "{who}, {at}");
            }
            drop(client);
        }
    }

    #[test]
    fn a_peer_that_has_closed_is_nobody() {
        let (listener, address) = listener("127.0.0.1:0");
        drop(TcpStream::connect(address).expect("connects"));
        let (server, peer) = listener.accept().expect("accepted");
        for (who, owner) in OWNERS {
            assert_eq!(owner(peer, server.local_addr().expect("bound")), None, "{who}");
        }
    }

    #[test]
    fn a_listener_on_the_peers_port_is_not_the_peer() {
        let (_listener, address) = listener("127.0.0.1:0");
        let nobody: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        for (who, owner) in OWNERS {
            assert_eq!(owner(address, nobody), None, "{who}");
        }
    }

    #[test]
    fn a_port_that_is_listened_on_is_found() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, address) = listener(at);
            let port = address.port();
            let seen = [listening_ports(), diag::listening().expect("netlink"), table::listening()];
            assert!(seen.iter().all(|ports| ports.contains(&port)), "{port} in {seen:?}");
            drop(listener);
            assert!(!listening_ports().contains(&port), "{port} is free again");
        }
    }

    #[test]
    fn a_connection_is_no_listener() {
        let (listener, address) = listener("127.0.0.1:0");
        let client = TcpStream::connect(address).expect("connects");
        let port = client.local_addr().expect("bound").port();
        for ports in [diag::listening().expect("netlink"), table::listening()] {
            assert!(!ports.contains(&port), "{port} in {ports:?}");
        }
        drop(listener);
    }
}
