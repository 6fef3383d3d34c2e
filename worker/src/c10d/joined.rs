//! Which processes have a connection to the store, whoever hosts it and wherever: by the kernel's tables.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ESTABLISHED: &str = "01";

/// For each of `pids`, processes of this network namespace, whether it holds an open connection to `store`.
///
/// A process that may not be looked at counts as not connected.
#[must_use]
pub fn joined(pids: &[u32], store: SocketAddr) -> Vec<bool> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(|line| inode_of(line, store)));
    }
    pids.iter().map(|pid| !sockets.is_empty() && holds(*pid, &sockets)).collect()
}

/// The socket's number, if the line is of a connection that leads to `store`.
fn inode_of(line: &str, store: SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
    let remote = address(remote)?;
    let same = remote.port() == store.port()
        && (store.ip().is_unspecified() || remote.ip().to_canonical() == store.ip().to_canonical());
    (same && *state == ESTABLISHED).then(|| inode.parse().ok())?
}

/// `0100007F:1F90`: 32-bit words in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<u32> =
        (0..ip.len() / 8).map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()).collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn holds(pid: u32, sockets: &BTreeSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode: u64| sockets.contains(&inode))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_with_a_connection_is_told_from_one_without() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let store = listener.local_addr().unwrap();
            let me = std::process::id();
            assert_eq!(joined(&[me, 1], store), [false, false]);
            let connection = TcpStream::connect(store).unwrap();
            assert_eq!(joined(&[me, u32::MAX], store), [true, false]);
            drop(connection);
            assert_eq!(joined(&[me], store), [false]);
        }
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        assert_eq!(address("0100007F:1F90"), Some(SocketAddr::from(([127, 0, 0, 1], 8080))));
        let mapped = address("0000000000000000FFFF00000100007F:0050").unwrap();
        assert_eq!(mapped.ip().to_canonical(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(address("01:1"), None);
    }
}
