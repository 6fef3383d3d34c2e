//! The ranks' store on real sockets: many clients at once, clients that do not read, and what is known of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trainyard_worker::c10d::Server;

const PATIENCE: Duration = Duration::from_secs(20);

fn server() -> (Server, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Server::start(listener).unwrap(), address)
}

fn client(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[0, 0xce, 0xf7, 0x85, 0x3c]).unwrap();
    client
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [(bytes.len() as u64).to_le_bytes().as_slice(), bytes].concat()
}

fn wait_for(key: &[u8]) -> Vec<u8> {
    [[6].as_slice(), &1_u64.to_le_bytes(), &block(key)].concat()
}

fn answer<const N: usize>(client: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_key_lets_all_go_that_wait_for_it() {
    let (server, address) = server();
    let mut clients: Vec<TcpStream> = (0..300).map(|_| client(address)).collect();
    for client in &mut clients {
        client.write_all(&wait_for(b"last")).unwrap();
    }
    until("all wait", || server.clients().iter().filter(|c| c.waits_for.as_deref() == Some("last")).count() == 300);
    clients[7].write_all(&[[12].as_slice(), &[1], &block(b"last"), &block(b"1")].concat()).unwrap();
    assert_eq!(answer::<1>(&mut clients[7]), [1], "its own wait was cancelled");
    for client in clients.iter_mut().enumerate().filter_map(|(at, client)| (at != 7).then_some(client)) {
        assert_eq!(answer::<1>(client), [0]);
    }
    assert_eq!(server.requests(), 302);
    until("nobody waits", || server.clients().iter().all(|client| client.waits_for.is_none()));
}

#[test]
fn who_is_there_and_who_has_spoken_is_known() {
    let (server, address) = server();
    let silent = TcpStream::connect(address).unwrap();
    let mut speaker = client(address);
    speaker.write_all(&[7]).unwrap();
    assert_eq!(answer::<8>(&mut speaker), [0; 8]);
    let of = |stream: &TcpStream| {
        let address = stream.local_addr().unwrap();
        server.clients().into_iter().find(|client| client.address == address)
    };
    until("the request is counted", || of(&speaker).is_some_and(|client| client.requests == 1));
    let known = of(&speaker).unwrap();
    assert!(known.last_request_ms.unwrap() >= known.connected_ms);
    assert_eq!(of(&silent).unwrap().last_request_ms, None);
    drop(silent);
    until("who left is gone", || server.clients().len() == 1);
}

#[test]
fn who_does_not_read_holds_nobody_up_and_gets_all_in_the_end() {
    let (_server, address) = server();
    let mut slow = client(address);
    let value = vec![b'x'; 8 << 20];
    slow.write_all(&[[1].as_slice(), &block(b"large"), &block(&value)].concat()).unwrap();
    for _ in 0..4 {
        slow.write_all(&[[3].as_slice(), &block(b"large")].concat()).unwrap();
    }
    let mut other = client(address);
    other.write_all(&[13, 1, 2, 3, 4]).unwrap();
    assert_eq!(answer::<4>(&mut other), [1, 2, 3, 4]);
    for _ in 0..4 {
        assert_eq!(answer::<8>(&mut slow), (value.len() as u64).to_le_bytes());
        let mut bytes = vec![0; value.len()];
        slow.read_exact(&mut bytes).unwrap();
        assert!(bytes == value);
    }
}

#[test]
fn strangers_are_shown_out_and_the_end_closes_all() {
    let (server, address) = server();
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(stranger.read(&mut [0; 8]), Ok(0) | Err(_)));
    let mut rank = client(address);
    rank.write_all(&wait_for(b"never")).unwrap();
    until("it waits", || server.clients().iter().any(|client| client.waits_for.is_some()));
    drop(server);
    assert!(matches!(rank.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}
