//! Many simulated clients of torch's store in one thread: real sockets, one epoll, torch's wire protocol.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::Error;

/// A step of all clients that takes longer is not going to end.
const PATIENCE: Duration = Duration::from_secs(60);
const GREETING: [u8; 5] = [0, 0xce, 0xf7, 0x85, 0x3c];
const ADD: u8 = 4;
const WAIT: u8 = 6;
const PING: u8 = 13;
const SET: u8 = 1;
const BARRIER: u8 = 18;

/// What each client does next, and so what it waits for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its ping is to come back.
    Ping,
    /// The first `add` of a store-based barrier is to be answered.
    Arrive,
    /// The second one, which asks how many there are.
    Count,
    /// The last key is to be there, or the barrier open.
    Wait,
    Done,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    phase: Phase,
}

/// All clients.
#[derive(Debug)]
pub struct Crowd {
    epoll: Epoll,
    clients: Vec<Client>,
    round: usize,
}

impl Crowd {
    /// Connects `size` clients, which greet and are greeted as torch's are; and how long that took.
    ///
    /// # Errors
    /// When the server refuses, or does not answer for a minute.
    pub fn connect(address: SocketAddr, size: usize) -> Result<(Self, Duration), Error> {
        let began = Instant::now();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system)?;
        let mut crowd = Self { epoll, clients: Vec::with_capacity(size), round: 0 };
        for at in 0..size {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(&GREETING)?;
            stream.write_all(&[PING, 1, 2, 3, 4])?;
            stream.set_nonblocking(true)?;
            crowd.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, at as u64)).map_err(system)?;
            crowd.clients.push(Client { stream, phase: Phase::Ping });
        }
        crowd.drive()?;
        Ok((crowd, began.elapsed()))
    }

    /// The barrier of `torch.distributed.distributed_c10d._store_based_barrier`: all add one to a counter, ask for its
    /// value, and wait for a key that the last one sets.
    ///
    /// # Errors
    /// When the server does not answer for a minute.
    pub fn store_based_barrier(&mut self) -> Result<Duration, Error> {
        self.round += 1;
        let arrive = add(&self.counter(), 1);
        self.all(Phase::Arrive, &arrive)
    }

    /// The store's own barrier.
    ///
    /// # Errors
    /// When the server does not answer for a minute.
    pub fn barrier(&mut self) -> Result<Duration, Error> {
        let world = self.clients.len() as i64;
        let request = [[BARRIER].as_slice(), &block(b"barrier"), &world.to_le_bytes()].concat();
        self.all(Phase::Wait, &request)
    }

    fn all(&mut self, phase: Phase, request: &[u8]) -> Result<Duration, Error> {
        let began = Instant::now();
        for client in &mut self.clients {
            client.phase = phase;
            client.stream.write_all(request)?;
        }
        self.drive()?;
        Ok(began.elapsed())
    }

    fn drive(&mut self) -> Result<(), Error> {
        let mut left = self.clients.len();
        let mut events = vec![EpollEvent::empty(); 1024];
        let patience = EpollTimeout::try_from(PATIENCE).unwrap_or(EpollTimeout::NONE);
        while left > 0 {
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(0) => return Err(Error::Request(format!("{left} clients got no answer within {PATIENCE:?}"))),
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(system(error)),
            };
            for event in &events[..count] {
                let at = usize::try_from(event.data()).unwrap_or(usize::MAX);
                left -= usize::from(self.hear(at)?);
            }
        }
        Ok(())
    }

    /// Reads one answer and goes on. True when this client is done.
    fn hear(&mut self, at: usize) -> Result<bool, Error> {
        let (world, counter) = (self.clients.len() as i64, self.counter());
        let client = &mut self.clients[at];
        let mut bytes = [0; 8];
        let count = client.stream.read(&mut bytes)?;
        let expected = match client.phase {
            Phase::Ping => 4,
            Phase::Arrive | Phase::Count => 8,
            Phase::Wait => 1,
            Phase::Done => 0,
        };
        if count != expected {
            return Err(Error::Request(format!("{count} bytes of answer in {:?}", client.phase)));
        }
        let last = [counter.as_slice(), b":last_worker"].concat();
        client.phase = match client.phase {
            Phase::Arrive => {
                client.stream.write_all(&add(&counter, 0))?;
                Phase::Count
            }
            Phase::Count => {
                if i64::from_le_bytes(bytes) == world {
                    client.stream.write_all(&[[SET].as_slice(), &block(&last), &block(b"1")].concat())?;
                }
                client.stream.write_all(&[[WAIT].as_slice(), &1_u64.to_le_bytes(), &block(&last)].concat())?;
                Phase::Wait
            }
            Phase::Ping | Phase::Wait | Phase::Done => Phase::Done,
        };
        Ok(client.phase == Phase::Done)
    }

    fn counter(&self) -> Vec<u8> {
        format!("/store_based_barrier_key:{}", self.round).into_bytes()
    }
}

fn add(key: &[u8], amount: i64) -> Vec<u8> {
    [[ADD].as_slice(), &block(key), &amount.to_le_bytes()].concat()
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [(bytes.len() as u64).to_le_bytes().as_slice(), bytes].concat()
}

fn system(error: Errno) -> Error {
    Error::Io(error.into())
}
