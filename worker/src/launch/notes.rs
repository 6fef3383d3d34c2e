//! What ranks tell the launcher, and are told by it: JSON lines on a UNIX socket. Nothing of it is needed; a rank that says
//! nonsense is not heard, and loses nothing else by it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, Uid};
use serde::Deserialize;
use serde_json::{Value, json};
use trainyard_worker_core::supervisor::ProcessId;

use super::console;

/// Tells a rank where the launcher listens: `@name` is an abstract socket of that name.
pub(super) const SOCKET: &str = "TRAINYARD_LAUNCHER_SOCKET";
/// A line's length at most: what a list of thousands of modules takes.
const LINE_BYTES: usize = 256 * 1024;
/// Read at once.
const READ_BYTES: usize = 16 * 1024;
/// Connections for each rank: the program's own and those of a few helpers.
const PEERS_OF_A_RANK: usize = 8;

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Hello {
    pub(super) rank: u32,
    #[serde(default)]
    pub(super) generation: u64,
    /// Whether it can join the next generation without ending.
    #[serde(default)]
    pub(super) cooperates: bool,
}

/// A step that is done.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Step {
    pub(super) step: u64,
    #[serde(default)]
    pub(super) metrics: BTreeMap<String, f64>,
}

/// A line of a rank.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Hello(Hello),
    Step(Step),
    Phase(String),
    /// It left its generation with an error, and waits for news.
    Waiting(Value),
    Modules(Value),
}

/// What follows from a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Note {
    Hello(Hello),
    Step(Step),
    Phase(String),
    /// The rank's own words are heard no longer.
    Gone,
}

/// The launcher's end.
pub(super) struct Notes {
    listener: UnixListener,
    name: String,
    peers: Vec<Peer>,
    most: usize,
    warned: bool,
}

struct Peer {
    stream: UnixStream,
    pid: Pid,
    process: Option<ProcessId>,
    buffer: Vec<u8>,
}

impl Notes {
    /// Listens under a name that nobody else has.
    pub(super) fn open(ranks: usize) -> io::Result<Self> {
        // The name is no secret: who calls must be of our user.
        let name = format!("trainyard-launcher-{}-{}", std::process::id(), started_ns());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, name, peers: Vec::new(), most: ranks * PEERS_OF_A_RANK, warned: false })
    }

    /// The value of [`SOCKET`].
    pub(super) fn address(&self) -> String {
        format!("@{}", self.name)
    }

    /// What the loop polls.
    pub(super) fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// Takes in what is there. `who` finds the process by the number of the one that calls, and by what it says of itself.
    pub(super) fn hear(&mut self, who: impl Fn(Pid, &Hello) -> Option<ProcessId>) -> Vec<(ProcessId, Note)> {
        self.admit();
        let mut notes = Vec::new();
        let mut nonsense = None;
        self.peers.retain_mut(|peer| {
            let open = peer.read();
            while let Some(end) = peer.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = peer.buffer.drain(..=end).collect();
                if let Err(error) = peer.take(&line, &who, &mut notes) {
                    nonsense = Some(error);
                }
            }
            let endless = peer.buffer.len() > LINE_BYTES;
            if !open || endless {
                notes.extend(peer.process.map(|process| (process, Note::Gone)));
            }
            open && !endless
        });
        if let Some(error) = nonsense.filter(|_| !std::mem::replace(&mut self.warned, true)) {
            let text = "trainyard: a rank told the launcher what it does not understand; passed over";
            console::tell(format!("{text}: {error}\n"));
        }
        notes
    }

    /// Tells a process that its generation is over. False if it cannot be told.
    pub(super) fn interrupt(&mut self, process: ProcessId, generation: u64) -> bool {
        self.tell(process, &json!({"interrupt": {"generation": generation}}))
    }

    /// Tells a process to take part in a generation. False if it cannot be told.
    pub(super) fn assign(&mut self, process: ProcessId, generation: u64, variables: &[(String, String)]) -> bool {
        let env: serde_json::Map<String, Value> =
            variables.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        self.tell(process, &json!({"generation": {"generation": generation, "env": env}}))
    }

    /// Messages are few and small: one that does not fit at once has a reader that does not read.
    fn tell(&mut self, process: ProcessId, message: &Value) -> bool {
        let line = format!("{message}\n");
        let mut peers = self.peers.iter_mut().rev().filter(|peer| peer.process == Some(process));
        peers.next().is_some_and(|peer| peer.stream.write(line.as_bytes()).is_ok_and(|count| count == line.len()))
    }

    fn admit(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let Ok(peer) = getsockopt(&stream, PeerCredentials) else { continue };
            let ours = Uid::from_raw(peer.uid()) == Uid::effective() || peer.uid() == 0;
            if ours && self.peers.len() < self.most && stream.set_nonblocking(true).is_ok() {
                let pid = Pid::from_raw(peer.pid());
                self.peers.push(Peer { stream, pid, process: None, buffer: Vec::new() });
            }
        }
    }
}

impl Peer {
    /// Reads what is there, up to the longest line. False at the end.
    fn read(&mut self) -> bool {
        let mut chunk = [0; READ_BYTES];
        while self.buffer.len() <= LINE_BYTES {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn take(
        &mut self,
        line: &[u8],
        who: &impl Fn(Pid, &Hello) -> Option<ProcessId>,
        notes: &mut Vec<(ProcessId, Note)>,
    ) -> Result<(), serde_json::Error> {
        let note = match serde_json::from_slice(line)? {
            Line::Hello(hello) => {
                self.process = self.process.or_else(|| who(self.pid, &hello));
                Note::Hello(hello)
            }
            Line::Step(step) => Note::Step(step),
            Line::Phase(phase) => Note::Phase(phase),
            Line::Waiting(_) | Line::Modules(_) => return Ok(()),
        };
        notes.extend(self.process.map(|process| (process, note)));
        Ok(())
    }
}

fn started_ns() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::time::{Duration, Instant};

    use super::*;

    const PROCESS: ProcessId = ProcessId { generation: 1, local_rank: 0 };

    fn connect(notes: &Notes) -> UnixStream {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&notes.name).unwrap()).unwrap()
    }

    fn hear(notes: &mut Notes) -> Vec<Note> {
        let found = notes.hear(|_, hello| (hello.rank == 0).then_some(PROCESS));
        found.into_iter().map(|(_, note)| note).collect()
    }

    #[test]
    fn a_rank_is_heard_and_told() {
        let mut notes = Notes::open(1).unwrap();
        let mut rank = connect(&notes);
        assert_eq!(hear(&mut notes), []);
        rank.write_all(b"{\"hello\":{\"rank\":0,\"generation\":1,\"pid\":7,\"cooperates\":true}}\n{\"step\":").unwrap();
        let hello = Hello { rank: 0, generation: 1, cooperates: true };
        assert_eq!(hear(&mut notes), [Note::Hello(hello)]);
        rank.write_all(b"{\"step\":3,\"metrics\":{\"loss\":1}}}\n{\"phase\":\"evaluate\"}\n").unwrap();
        let step = Step { metrics: [("loss".to_owned(), 1.0)].into(), ..told(3) };
        assert_eq!(hear(&mut notes), [Note::Step(step), Note::Phase("evaluate".to_owned())]);
        assert!(notes.interrupt(PROCESS, 1));
        assert!(notes.assign(PROCESS, 2, &[("RANK".to_owned(), "0".to_owned())]));
        let mut lines = BufReader::new(rank.try_clone().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"interrupt":{"generation":1}}"#);
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"generation":{"generation":2,"env":{"RANK":"0"}}}"#);
        drop((lines, rank));
        assert_eq!(hear(&mut notes), [Note::Gone]);
        assert!(!notes.interrupt(PROCESS, 2));
    }

    fn told(step: u64) -> Step {
        Step { step, metrics: BTreeMap::new() }
    }

    #[test]
    fn nonsense_is_passed_over_and_an_endless_line_ends_it() {
        let mut notes = Notes::open(1).unwrap();
        let mut rank = connect(&notes);
        rank.write_all(b"{\"hello\":{\"rank\":0}}\n{\"step\":{\"step\":-1}}\nhello\n\n{\"step\":{\"step\":4}}\n")
            .unwrap();
        assert_eq!(hear(&mut notes).last(), Some(&Note::Step(told(4))));
        rank.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        while heard.is_empty() {
            let _ = rank.write(&[b'x'; READ_BYTES]);
            heard = hear(&mut notes);
        }
        assert_eq!(heard, [Note::Gone]);
        // A child of another test that has yet to become its program may hold the other end for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while rank.write(b"x").map_err(|error| error.kind()) != Err(ErrorKind::BrokenPipe) {
            assert!(Instant::now() < deadline, "the line is still open");
            std::thread::yield_now();
        }
    }
}
