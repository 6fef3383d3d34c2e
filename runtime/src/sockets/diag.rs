//! The table as netlink tells it: sock_diag(7).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// The kernel compares no cookie.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Who has the socket whose own end is `peer` and whose other end is `local`.
pub(super) fn owner(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    let mut id = if peer.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() };
    (id.source_address, id.source_port) = (peer.ip(), peer.port());
    (id.destination_address, id.destination_port) = (local.ip(), local.port());
    id.cookie = NO_COOKIE;
    let found = match ask(&request(family(peer.ip()), StateFlags::all(), id), NLM_F_REQUEST) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_it = |socket: &&InetResponse| {
        let socket = &socket.header;
        // A listener answers for connections that are not there. A socket that its process has closed has no inode, and
        // shows uid 0 whoever had it, though what it sent before can still be read.
        socket.state == TCP_ESTABLISHED
            && socket.inode != 0
            && (socket.socket_id.source_port, socket.socket_id.destination_port) == (peer.port(), local.port())
    };
    Ok(found.iter().find(is_it).map(|socket| socket.header.uid))
}

/// All ports that are listened on.
pub(super) fn listening() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let found = ask(&request(family, StateFlags::LISTEN, id), NLM_F_REQUEST | NLM_F_DUMP)?;
        ports.extend(found.iter().map(|socket| socket.header.socket_id.source_port));
    }
    Ok(ports)
}

const fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

const fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

fn ask(request: &InetRequest, flags: u16) -> io::Result<Vec<InetResponse>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request.clone()).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if !take(&answer, flags & NLM_F_DUMP == NLM_F_DUMP, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes in one datagram of the answer. Answers whether another one follows.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's messages are another crate's, and whatever else comes is wrong"
)]
fn take(answer: &[u8], dump: bool, found: &mut Vec<InetResponse>) -> io::Result<bool> {
    let mut rest = answer;
    while !rest.is_empty() {
        let packet = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
        match packet.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => found.push(*response),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            other => return Err(io::Error::other(format!("an unexpected answer of netlink: {other:?}"))),
        }
        // Messages begin at multiples of four bytes.
        let length = (packet.header.length as usize).next_multiple_of(4);
        rest = rest.get(length.max(4)..).unwrap_or_default();
    }
    Ok(dump)
}
