//! Finding rank 0 through the job's store, where the launcher keeps one at the master's port (as for PyTorch): then that
//! port is not rank 0's to listen at, so it takes any other and writes it down.
//!
//! Three of the store's requests suffice: introduce, set, get what is there.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::Options;

/// What a client says first: the request's number and c10d's magic.
const VALIDATE: [u8; 5] = [0, 0xce, 0xf7, 0x85, 0x3c];
const SET: u8 = 1;
const GET: u8 = 3;
const CHECK: u8 = 5;
/// How long the store may take to answer: it is asked for small things only.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer: an address.
const ANSWER_BYTES: u64 = 256;

struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(options: &Options) -> io::Result<Self> {
        let address = super::rendezvous::resolve(options)?;
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        stream.write_all(&VALIDATE)?;
        Ok(Self { stream })
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let mut request = vec![SET];
        write_text(&mut request, key);
        write_text(&mut request, value);
        self.stream.write_all(&request)?;
        // Asking for it makes sure that it is there before this returns.
        self.get(key).map(drop)
    }

    /// What is there, if anything.
    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let mut request = vec![CHECK];
        request.extend_from_slice(&1_u64.to_le_bytes());
        write_text(&mut request, key);
        self.stream.write_all(&request)?;
        let mut ready = [0];
        self.stream.read_exact(&mut ready)?;
        if ready != [0] {
            return Ok(None);
        }
        let mut request = vec![GET];
        write_text(&mut request, key);
        self.stream.write_all(&request)?;
        let mut length = [0; 8];
        self.stream.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > ANSWER_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the store has something else there"));
        }
        let mut value = vec![0; usize::try_from(length).unwrap_or_default()];
        self.stream.read_exact(&mut value)?;
        String::from_utf8(value).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn write_text(request: &mut Vec<u8>, text: &str) {
    request.extend_from_slice(&(text.len() as u64).to_le_bytes());
    request.extend_from_slice(text.as_bytes());
}

fn key(options: &Options, purpose: &str) -> String {
    format!("trainyard/{purpose}/{}", options.generation)
}

/// Rank 0: listens where the store is reached from, and tells the others.
pub(super) fn listen(options: &Options, purpose: &str) -> io::Result<TcpListener> {
    let mut client = Client::connect(options)?;
    let door = TcpListener::bind((client.stream.local_addr()?.ip(), 0))?;
    client.set(&key(options, purpose), &door.local_addr()?.to_string())?;
    Ok(door)
}

/// The others: where rank 0 listens.
pub(super) fn find(options: &Options, purpose: &str) -> io::Result<SocketAddr> {
    let found = Client::connect(options)?.get(&key(options, purpose))?;
    let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "rank 0 is not there yet"))?;
    found.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "rank 0 left no address in the store"))
}
