//! Reading requests from a connection's bytes.

/// The first message of every connection: proof that the peer speaks this protocol.
const MAGIC: u32 = 0x3C85_F7CE;
/// The longest key that torch's own server takes.
const KEY_BYTES: u64 = 8 * 1024;
/// The longest value that torch's own server takes.
const VALUE_BYTES: u64 = 8 * 1024 * 1024;
/// The most keys of one request that torch's own server takes.
const KEYS: u64 = 128 * 1024;
/// One request as a whole; only a request with very many values comes near.
const REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// Of this length and more, it is seen first whether a request is whole: reading a long one anew with each piece that comes would
/// copy what came before each time.
const LONG_BYTES: usize = 64 * 1024;

/// Why a connection is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first message is not torch's greeting.
    #[error("the peer does not speak torch's store protocol")]
    Stranger,
    /// A request that this server does not know.
    #[error("unknown request {0}; the program's torch is newer than this server")]
    Unknown(u8),
    /// A key, a value, a list or a request is longer than allowed.
    #[error("{what} of {length} bytes or items; {limit} are allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// How long it is.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// Adding to a value that is no number.
    #[error("cannot add to a value that is not a number")]
    NotANumber,
    /// The store holds as much as it may.
    #[error("the store is full ({0} bytes)")]
    Full(usize),
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Set { key: Vec<u8>, value: Vec<u8> },
    CompareSet { key: Vec<u8>, expected: Vec<u8>, desired: Vec<u8> },
    Get { key: Vec<u8> },
    Add { key: Vec<u8>, amount: i64 },
    Check { keys: Vec<Vec<u8>> },
    Wait { keys: Vec<Vec<u8>> },
    CountKeys,
    Delete { key: Vec<u8> },
    Append { key: Vec<u8>, value: Vec<u8> },
    MultiGet { keys: Vec<Vec<u8>> },
    MultiSet { pairs: Vec<(Vec<u8>, Vec<u8>)> },
    CancelWait,
    Ping { nonce: [u8; 4] },
    Push { queue: Vec<u8>, value: Vec<u8> },
    Pop { queue: Vec<u8> },
    QueueLength { queue: Vec<u8> },
    ListKeys,
    Barrier { key: Vec<u8>, world_size: i64 },
}

/// Why there is no request.
enum Stop {
    /// The rest has not come yet.
    Incomplete,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads the greeting; gives the bytes it took, or `None` while it is not whole.
pub(super) fn greeting(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut expected = vec![0];
    expected.extend_from_slice(&MAGIC.to_le_bytes());
    let known = bytes.len().min(expected.len());
    if bytes[..known] != expected[..known] {
        return Err(Refusal::Stranger);
    }
    Ok((known == expected.len()).then_some(known))
}

/// Reads one request and gives it with the bytes it took, or `None` while it is not whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut reader = Reader { rest: bytes, copies: true };
    let look =
        if bytes.len() < LONG_BYTES { Ok(()) } else { read(&mut Reader { rest: bytes, copies: false }).map(drop) };
    match look.and_then(|()| read(&mut reader)) {
        Ok(request) => Ok(Some((request, bytes.len() - reader.rest.len()))),
        Err(Stop::Incomplete) if bytes.len() > REQUEST_BYTES => {
            Err(Refusal::TooLong { what: "a request", length: bytes.len() as u64, limit: REQUEST_BYTES as u64 })
        }
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

/// The numbers are the protocol's, in the order of torch's `QueryType`.
fn read(reader: &mut Reader<'_>) -> Result<Request, Stop> {
    let [code] = reader.array()?;
    Ok(match code {
        1 => Request::Set { key: reader.key()?, value: reader.value()? },
        2 => Request::CompareSet { key: reader.key()?, expected: reader.value()?, desired: reader.value()? },
        3 => Request::Get { key: reader.key()? },
        4 => Request::Add { key: reader.key()?, amount: i64::from_le_bytes(reader.array()?) },
        5 => Request::Check { keys: reader.keys()? },
        6 => Request::Wait { keys: reader.keys()? },
        7 => Request::CountKeys,
        8 => Request::Delete { key: reader.key()? },
        9 => Request::Append { key: reader.key()?, value: reader.value()? },
        10 => Request::MultiGet { keys: reader.keys()? },
        11 => {
            let count = reader.count()?;
            let mut pairs = Vec::new();
            for _ in 0..count {
                pairs.push((reader.key()?, reader.value()?));
            }
            Request::MultiSet { pairs }
        }
        12 => Request::CancelWait,
        13 => Request::Ping { nonce: reader.array()? },
        14 => Request::Push { queue: reader.key()?, value: reader.value()? },
        15 => Request::Pop { queue: reader.key()? },
        16 => Request::QueueLength { queue: reader.key()? },
        17 => Request::ListKeys,
        18 => Request::Barrier { key: reader.key()?, world_size: i64::from_le_bytes(reader.array()?) },
        other => return Err(Refusal::Unknown(other).into()),
    })
}

struct Reader<'bytes> {
    rest: &'bytes [u8],
    /// Whether keys and values are wanted, and not only their lengths.
    copies: bool,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Stop::Incomplete)?;
        self.rest = rest;
        Ok(*head)
    }

    fn length(&mut self, what: &'static str, limit: u64) -> Result<usize, Stop> {
        let length = u64::from_le_bytes(self.array()?);
        if length > limit {
            return Err(Refusal::TooLong { what, length, limit }.into());
        }
        // Within the limits, which fit.
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn bytes(&mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, Stop> {
        let length = self.length(what, limit)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Stop::Incomplete)?;
        self.rest = rest;
        Ok(if self.copies { head.to_vec() } else { Vec::new() })
    }

    fn key(&mut self) -> Result<Vec<u8>, Stop> {
        self.bytes("a key", KEY_BYTES)
    }

    fn value(&mut self) -> Result<Vec<u8>, Stop> {
        self.bytes("a value", VALUE_BYTES)
    }

    fn count(&mut self) -> Result<usize, Stop> {
        self.length("a list of keys", KEYS)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Stop> {
        let count = self.count()?;
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(self.key()?);
        }
        Ok(keys)
    }
}
