//! The network interface by which the ranks of other pods are reached: what gloo and NCCL would otherwise guess from the
//! host's name, or from the order of the interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// Pods that are asked for: the first ones tell as much as all.
const PEERS: usize = 8;
/// The port in front of a name that is only looked up. Nothing is sent to it.
const ANY_PORT: u16 = 9;

/// The interface towards one of `peers`, the first that is on another machine; if all are on this one, its own.
pub(super) fn towards<'a>(peers: impl Iterator<Item = &'a str>) -> Option<String> {
    let sources: Vec<IpAddr> = peers.take(PEERS).filter_map(source).collect();
    let chosen = sources.iter().find(|source| !source.is_loopback()).or(sources.first())?;
    holder(*chosen)
}

/// The interface that has `address`, a name or number of this machine.
pub(super) fn of(address: &str) -> Option<String> {
    resolve(address).into_iter().find_map(|found| holder(found.ip()))
}

fn resolve(address: &str) -> Vec<SocketAddr> {
    (address, ANY_PORT).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// The address from which the system would send to `peer`.
fn source(peer: &str) -> Option<IpAddr> {
    resolve(peer).into_iter().find_map(|target| {
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(target).ok()?;
        // To an address of this machine the system sends from that address, whichever interface has it.
        Some(socket.local_addr().ok()?.ip())
    })
}

/// The name of the interface that has this address. All of 127.0.0.0/8 is the loopback's.
fn holder(address: IpAddr) -> Option<String> {
    let has = |found: IpAddr| found == address || (found.is_loopback() && address.is_loopback());
    let mut all = getifaddrs().ok()?;
    let found = all.find(|interface| {
        let socket = interface.address.as_ref();
        let four = socket.and_then(|socket| socket.as_sockaddr_in()).map(|four| IpAddr::from(four.ip()));
        let six = socket.and_then(|socket| socket.as_sockaddr_in6()).map(|six| IpAddr::from(six.ip()));
        four.or(six).is_some_and(has)
    })?;
    Some(found.interface_name)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_chosen_only_among_ourselves() {
        let loopback = of("127.0.0.1").unwrap();
        assert_eq!(towards(["127.0.0.1", "127.3.2.1"].into_iter()), Some(loopback.clone()));
        assert_eq!(towards(std::iter::empty()), None);
        assert_eq!(towards(["a name that nobody has"].into_iter()), None);
        // Documentation's addresses (RFC 5737) go wherever the default route goes, if there is one.
        if let Some(outward) = towards(["127.0.0.1", "192.0.2.1"].into_iter()).filter(|found| *found != loopback) {
            assert_eq!(towards(["192.0.2.1"].into_iter()), Some(outward.clone()), "not the first, the one abroad");
            let own = source("192.0.2.1").unwrap();
            assert_eq!(of(&own.to_string()), Some(outward));
        }
    }
}
