//! The table as /proc/net/tcp and /proc/net/tcp6 show it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `TCP_ESTABLISHED`, as the tables write it.
const ESTABLISHED: &str = "01";
/// `TCP_LISTEN`.
const LISTEN: &str = "0A";

fn tables() -> impl Iterator<Item = String> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|file| std::fs::read_to_string(file).ok())
}

/// Who has the socket whose own end is `peer` and whose other end is `local`.
pub(super) fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    tables().find_map(|table| find(&table, peer, local))
}

/// All ports that are listened on.
pub(super) fn listening() -> BTreeSet<u16> {
    tables().flat_map(|table| table.lines().skip(1).filter_map(listening_port).collect::<Vec<_>>()).collect()
}

fn listening_port(row: &str) -> Option<u16> {
    let mut columns = row.split_whitespace();
    let local = columns.nth(1)?;
    let state = columns.nth(1)?;
    (state == LISTEN).then(|| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok())?
}

/// Looks for the row whose local end is `peer` and whose remote end is `local`: the peer's own socket.
///
/// Only an established socket with an inode says whose it is: one that its process has closed shows uid 0 for whoever had
/// it, and what it sent before can still be read.
fn find(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|row| {
        let mut columns = row.split_whitespace();
        let from = address(columns.nth(1)?)?;
        let to = address(columns.next()?)?;
        let state = columns.next()?;
        // After the state: queues, timer, retransmits, uid; then timeout, inode.
        let uid = columns.nth(3)?.parse().ok()?;
        let inode: u64 = columns.nth(1)?.parse().ok()?;
        (same(from, peer) && same(to, local) && state == ESTABLISHED && inode != 0).then_some(uid)
    })
}

fn same(left: SocketAddr, right: SocketAddr) -> bool {
    left.port() == right.port() && left.ip().to_canonical() == right.ip().to_canonical()
}

/// `0100007F:1F90` and its IPv6 form: words of four bytes, each as the machine stores it, in hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_peers_row_is_found_not_ours() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
             1: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n";
        let server: SocketAddr = "127.0.0.1:8080".parse().expect("address");
        let client: SocketAddr = "127.0.0.1:49153".parse().expect("address");
        assert_eq!(find(table, client, server), Some(1000));
        assert_eq!(find(table, server, client), Some(0));
        assert_eq!(find(table, "127.0.0.1:1".parse().expect("address"), server), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_closed_socket_is_nobodys() {
        let server: SocketAddr = "127.0.0.1:8080".parse().expect("address");
        let client: SocketAddr = "127.0.0.1:49153".parse().expect("address");
        let found = |state: &str, uid: &str, inode: &str| {
            let row = format!("0: 0100007F:C001 0100007F:1F90 {state} 0:0 00:0 0 {uid} 0 {inode} 1 0\n");
            find(&format!("the heading\n{row}"), client, server)
        };
        assert_eq!(found("01", "1000", "7"), Some(1000));
        // FIN_WAIT1, FIN_WAIT2, TIME_WAIT: whatever uid they show.
        for state in ["04", "05", "06"] {
            assert_eq!(found(state, "0", "0"), None, "{state}");
            assert_eq!(found(state, "1000", "7"), None, "{state}");
        }
        assert_eq!(found("01", "0", "0"), None, "without an inode no process has it");
    }

    #[test]
    fn only_ports_that_are_listened_on_count() {
        for (row, port) in [
            (
                "   0: 0100007F:5BA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1",
                Some(23_456),
            ),
            ("   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0", Some(8_080)),
            ("   2: 0100007F:5BA1 0100007F:1F90 01 00000000:00000000 02:000000EF 00000000     0        0 2 2", None),
            ("   3: 0100007F:5BA2 0100007F:1F90 06 00000000:00000000 03:000000EF 00000000     0        0 0 3", None),
            ("garbage", None),
        ] {
            assert_eq!(listening_port(row), port, "{row}");
        }
    }
}
