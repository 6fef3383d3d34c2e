//! Two ranks measure their link: the lower one calls, says who it is, and both send.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trainyard_worker_core::preflight::Link;

/// How long a connection may take. A handshake takes one round trip; three seconds cover one lost packet's retry.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one side waits for the other's next bytes.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a caller may take to say who it is. It does so at once; others may say nothing at all.
const GREETING: Duration = Duration::from_millis(500);
/// Round trips; their median is told.
const TRIPS: usize = 32;
/// Sent before the clock runs, so that the connection's windows are open.
const WARM_UP: usize = 1 << 20;
const CHUNK: usize = 256 * 1024;

/// Who measures, so that a call from somebody else is not taken for it.
pub(super) struct Name<'name> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) token: &'name str,
}

impl Name<'_> {
    fn greeting(&self) -> Vec<u8> {
        let text = format!("trainyard preflight {} {} {}\n", self.from, self.to, self.token);
        text.into_bytes()
    }
}

/// The lower rank's side, which knows the result.
pub(super) fn call(name: &Name<'_>, address: &str, bytes: usize) -> Link {
    let link = Link { from: name.from, to: name.to, ..Link::default() };
    let measured = address
        .parse::<SocketAddr>()
        .map_err(io::Error::other)
        .and_then(|address| TcpStream::connect_timeout(&address, CONNECT))
        .and_then(|stream| measure(stream, name, bytes));
    match measured {
        Ok((latency, bandwidth)) => {
            Link { latency_micros: Some(latency), gigabytes_per_second: Some(bandwidth), ..link }
        }
        Err(error) => {
            let error = format!("rank {} cannot talk to rank {} at {address}: {error}", name.from, name.to);
            Link { error: Some(error), ..link }
        }
    }
}

fn measure(mut stream: TcpStream, name: &Name<'_>, bytes: usize) -> io::Result<(f64, f64)> {
    prepare(&stream)?;
    stream.write_all(&name.greeting())?;
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        trips.push(began.elapsed());
    }
    trips.sort_unstable();
    let latency = trips[TRIPS / 2].as_secs_f64() * 1e6 / 2.0;
    let mut slowest = Duration::ZERO;
    for receiving in [false, true] {
        for amount in [WARM_UP.min(bytes), bytes] {
            let began = Instant::now();
            if receiving {
                // Our byte starts the other side.
                stream.write_all(&[1])?;
                take(&mut stream, amount)?;
            } else {
                give(&mut stream, amount)?;
                stream.read_exact(&mut [0])?;
            }
            if amount == bytes {
                slowest = slowest.max(began.elapsed());
            }
        }
    }
    Ok((latency, bytes as f64 / slowest.as_secs_f64().max(1e-9) / 1e9))
}

/// The higher rank's side. What goes wrong here goes wrong at the other end too, where it is told.
pub(super) fn answer(name: &Name<'_>, door: &TcpListener, bytes: usize) {
    let mut deadline = Instant::now() + CONNECT + Duration::from_secs(1);
    // The one who is waited for waits that long for an answer, once it is connected.
    let last = Instant::now() + SILENCE;
    let expected = name.greeting();
    while let Some(mut stream) = accept(door, deadline) {
        let mut greeting = vec![0; expected.len()];
        let ours = stream.set_read_timeout(Some(GREETING)).and_then(|()| stream.read_exact(&mut greeting));
        if ours.is_ok() && greeting == expected && prepare(&stream).is_ok() {
            if let Err(error) = echo(&mut stream, bytes) {
                tracing::debug!(%error, from = name.from, "a link was not measured to its end");
            }
            return;
        }
        // A stranger's time is not ours.
        deadline = (deadline + GREETING).min(last);
    }
}

fn accept(door: &TcpListener, deadline: Instant) -> Option<TcpStream> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let left = deadline.saturating_duration_since(Instant::now());
    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, left).is_ok_and(|ready| ready > 0);
    if ready { door.accept().ok().map(|(stream, _)| stream) } else { None }
}

fn echo(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    for _ in 0..TRIPS {
        stream.read_exact(&mut [0])?;
        stream.write_all(&[1])?;
    }
    for sending in [false, true] {
        for amount in [WARM_UP.min(bytes), bytes] {
            if sending {
                stream.read_exact(&mut [0])?;
                give(stream, amount)?;
            } else {
                take(stream, amount)?;
                stream.write_all(&[1])?;
            }
        }
    }
    Ok(())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

fn give(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK.min(bytes.max(1))];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(chunk.len());
        stream.write_all(&chunk[..count])?;
        left -= count;
    }
    Ok(())
}

fn take(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK.min(bytes.max(1))];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(chunk.len());
        stream.read_exact(&mut chunk[..count])?;
        left -= count;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn strangers_at_the_door_make_no_link_bad() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let silent: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut rude = TcpStream::connect(address).unwrap();
        rude.write_all(&[b'x'; 100]).unwrap();
        let name = || Name { from: 0, to: 1, token: "secret" };
        let link = std::thread::scope(|scope| {
            scope.spawn(|| answer(&name(), &door, 1 << 16));
            call(&name(), &address.to_string(), 1 << 16)
        });
        assert_eq!(link.error, None);
        assert!(link.latency_micros.is_some());
        drop(silent);
    }
}
