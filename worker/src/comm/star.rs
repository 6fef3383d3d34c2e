//! A line from each rank to rank 0 and nothing else: for talk about the network before it is known to work.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rendezvous::{self, INTRODUCTION, interruption};
use super::wait::{self, readable};
use super::wire::same_token;
use super::{CommError, Options};

/// What rank 0's address in the store is called.
const PURPOSE: &str = "preflight";
/// The longest line: measurements of a thousand ranks.
const LINE_LIMIT: u64 = 16 << 20;
/// The pause between attempts to reach rank 0.
const RETRY: Duration = Duration::from_millis(50);

/// One rank's end.
#[derive(Debug)]
pub(crate) struct Star {
    rank: usize,
    lines: Vec<Line>,
    /// The address by which the others reach this rank.
    pub(crate) address: IpAddr,
}

#[derive(Debug)]
struct Line {
    peer: usize,
    stream: BufReader<TcpStream>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Introduction {
    rank: usize,
    world_size: usize,
    generation: u64,
    token: String,
}

impl Line {
    fn say(&mut self, value: &impl Serialize) -> Result<(), CommError> {
        let text = serde_json::to_vec(value).map_err(io::Error::from);
        let said = text.and_then(|mut text| {
            text.push(b'\n');
            self.stream.get_mut().write_all(&text)
        });
        said.map_err(|error| self.lost(&error))
    }

    fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, CommError> {
        let mut text = Vec::new();
        match (&mut self.stream).take(LINE_LIMIT).read_until(b'\n', &mut text) {
            Ok(0) => Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_slice(&text).map_err(|error| self.lost(&error.into())),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &io::Error) -> CommError {
        CommError::PeerLost { rank: self.peer, reason: format!("it does not answer ({error})") }
    }
}

impl Star {
    /// Returns when every rank has come. `patience` is how long an answer may take later.
    pub(crate) fn meet(options: &Options, patience: Duration) -> Result<Self, CommError> {
        let deadline = wait::after(options.rendezvous_timeout);
        let star = if options.rank == 0 { receive(options, deadline)? } else { visit(options, deadline)? };
        for line in &star.lines {
            let stream = line.stream.get_ref();
            let set = stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_nodelay(true));
            set.map_err(|error| CommError::io("the other ranks", &error))?;
        }
        Ok(star)
    }

    /// Everybody's `value` in rank order, on every rank. All must call it.
    pub(crate) fn exchange(&mut self, value: Value) -> Result<Vec<Value>, CommError> {
        if self.rank != 0 {
            let Some(line) = self.lines.first_mut() else { return Ok(vec![value]) };
            line.say(&value)?;
            return line.hear();
        }
        let mut all = vec![value];
        for line in &mut self.lines {
            all.push(line.hear()?);
        }
        for line in &mut self.lines {
            line.say(&all)?;
        }
        Ok(all)
    }
}

fn receive(options: &Options, deadline: Instant) -> Result<Star, CommError> {
    let began = Instant::now();
    let door = rendezvous::open(options, PURPOSE, deadline)?;
    let failed = |error: io::Error| CommError::io("the rendezvous port", &error);
    door.set_nonblocking(true).map_err(failed)?;
    let mut lines: Vec<Line> = Vec::new();
    while lines.len() + 1 < options.world_size {
        let ready = wait::until(&[interruption(options), readable(&door)], deadline).map_err(failed)?;
        if ready[0] {
            return Err(CommError::Interrupted);
        }
        if !ready[1] && Instant::now() >= deadline {
            let here = |rank: &usize| lines.iter().any(|line| line.peer == *rank);
            let missing: Vec<usize> = (1..options.world_size).filter(|rank| !here(rank)).collect();
            return Err(CommError::Missing { ranks: missing, world_size: options.world_size, waited: began.elapsed() });
        }
        let Some(line) = admit(&door, options) else { continue };
        // A rank that calls again has given its first call up.
        lines.retain(|known| known.peer != line.peer);
        lines.push(line);
    }
    lines.sort_by_key(|line| line.peer);
    let address = match lines.last() {
        Some(line) => line.stream.get_ref().local_addr().map_err(failed)?.ip(),
        None => door.local_addr().map_err(failed)?.ip(),
    };
    for line in &mut lines {
        line.say(&"welcome")?;
    }
    Ok(Star { rank: 0, lines, address })
}

fn admit(door: &TcpListener, options: &Options) -> Option<Line> {
    let (stream, _) = door.accept().ok()?;
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(INTRODUCTION)).ok()?;
    let mut line = Line { peer: 0, stream: BufReader::new(stream) };
    let Introduction { rank, world_size, generation, token } = line.hear().ok()?;
    let ours = world_size == options.world_size && generation == options.generation && (1..world_size).contains(&rank);
    line.peer = rank;
    (ours && same_token(&options.token, &token)).then_some(line)
}

fn visit(options: &Options, deadline: Instant) -> Result<Star, CommError> {
    let began = Instant::now();
    loop {
        let reason = match call(options, deadline) {
            Ok(star) => return Ok(star),
            Err(error) => error.to_string(),
        };
        if Instant::now() + RETRY >= deadline {
            let (rank, address, waited) = (options.rank, options.address(), began.elapsed());
            return Err(CommError::MasterUnreachable { rank, address, waited, reason });
        }
        rendezvous::pause(options, RETRY)?;
    }
}

fn call(options: &Options, deadline: Instant) -> io::Result<Star> {
    let address = rendezvous::find(options, PURPOSE)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let stream = TcpStream::connect_timeout(&address, left)?;
    let address = stream.local_addr()?.ip();
    stream.set_read_timeout(Some(left))?;
    let mut line = Line { peer: 0, stream: BufReader::new(stream) };
    let Options { rank, world_size, generation, token, .. } = options.clone();
    line.say(&Introduction { rank, world_size, generation, token }).map_err(io::Error::other)?;
    line.hear::<String>().map_err(io::Error::other)?;
    Ok(Star { rank, lines: vec![line], address })
}
