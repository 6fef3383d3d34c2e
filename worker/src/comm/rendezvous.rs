//! How ranks find each other: all call rank 0, rank 0 tells each where its neighbours are, then they connect to each other (see `connect`).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connect;
use super::hub::{self, Control};
use super::store;
use super::wait::{self, Interest, readable};
use super::wire::{Arrival, Inbox, MAGIC, Message, same_token, say};
use super::{CommError, Options};

/// What rank 0's address in the store is called.
const PURPOSE: &str = "communicator";
/// How long somebody who connects may take to say who he is. Honest ranks take one round trip.
pub(super) const INTRODUCTION: Duration = Duration::from_secs(5);
/// How many connections may be unintroduced at a time, beyond the world size: enough for strays, not for a flood.
const SPARE_GUESTS: usize = 64;
/// The first and the longest pause between attempts to reach rank 0.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long rank 0 waits for its port: an earlier incarnation may still be dying.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than rank 0 the others wait, so that they hear from it who is missing.
const HEARING: Duration = Duration::from_secs(2);

/// What the rendezvous gives each rank.
pub(super) struct Meeting {
    /// The line to the hub.
    pub(super) control: Control,
    /// The hub's thread, on rank 0.
    pub(super) hub: Option<JoinHandle<()>>,
    /// The connections to the other ranks, by rank.
    pub(super) links: Vec<Option<TcpStream>>,
    /// Whether all ranks seem to be on one machine; the same on every rank.
    pub(super) one_machine: bool,
}

/// Meets as `options.rank`. `door` is rank 0's listener where the caller has one already.
pub(super) fn meet(options: &Options, door: Option<TcpListener>) -> Result<Meeting, CommError> {
    let began = Instant::now();
    let deadline = wait::after(options.rendezvous_timeout);
    if options.rank == 0 { receive(options, door, began, deadline) } else { visit(options, began, deadline) }
}

// ---- rank 0 ----

/// Somebody connected who has not said who he is.
struct Guest {
    stream: TcpStream,
    inbox: Inbox,
    greeted: bool,
    since: Instant,
}

fn receive(
    options: &Options,
    door: Option<TcpListener>,
    began: Instant,
    deadline: Instant,
) -> Result<Meeting, CommError> {
    let door = door.map_or_else(|| open(options, PURPOSE, deadline), Ok)?;
    let local = door.local_addr().map_err(|error| CommError::io("the rendezvous port", &error))?;
    let data_door = connect::listen(local.ip())?;
    let own = data_door.local_addr().map_err(|error| CommError::io("the data port", &error))?;
    door.set_nonblocking(true).map_err(|error| CommError::io("the rendezvous port", &error))?;

    let mut members = BTreeMap::new();
    let mut addresses = BTreeMap::from([(0, own)]);
    let mut guests: Vec<Guest> = Vec::new();
    while addresses.len() < options.world_size {
        if Instant::now() >= deadline {
            return Err(incomplete(options, &mut members, &addresses, began));
        }
        guests.retain(|guest| guest.since.elapsed() < INTRODUCTION);
        await_news(&door, &guests, &members, options, deadline)?;
        admit(&door, &mut guests, options.world_size + SPARE_GUESTS);
        let mut waiting = Vec::new();
        for mut guest in guests.drain(..) {
            match introduce(&mut guest, options, &addresses) {
                Introduction::Pending => waiting.push(guest),
                Introduction::Member { rank, ring } => {
                    addresses.insert(rank, ring);
                    members.insert(rank, guest.stream);
                }
                Introduction::Stranger => {}
            }
        }
        guests = waiting;
        notice_deserters(&mut members)?;
    }
    let mut roster: Vec<SocketAddr> = addresses.into_values().collect();
    // Listening on every address says nothing about which one leads here; the last rank, who will call, used one.
    if own.ip().is_unspecified()
        && let Some(reached) = members.values().next_back().and_then(|stream| stream.local_addr().ok())
    {
        roster[0].set_ip(reached.ip());
    }
    for (rank, stream) in &mut members {
        stream
            .set_nonblocking(false)
            .and_then(|()| say(stream, &Message::Welcome { ring: roster.clone() }))
            .map_err(|error| lost(*rank, &error))?;
    }
    let (mut control, hub) = hub::start(members, door).map_err(|error| CommError::io("the other ranks", &error))?;
    let links = connect::all(options, &roster, &data_door, &mut control, deadline)?;
    Ok(Meeting { control, hub: Some(hub), links, one_machine: one_machine(&roster) })
}

/// Binds the address that the others will call. A service's address is not ours to bind: then any address will do. Where
/// the launcher keeps a store at that port, any port will do.
pub(super) fn open(options: &Options, purpose: &str, deadline: Instant) -> Result<TcpListener, CommError> {
    if options.store {
        return open_beside_store(options, purpose, deadline);
    }
    let patience = deadline.min(wait::after(PORT_PATIENCE));
    loop {
        let address = resolve(options).unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, options.master_port).into());
        let mut bound = TcpListener::bind(address);
        if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable) {
            bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.master_port));
        }
        match bound {
            Ok(door) => return Ok(door),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                pause(options, RETRY.0)?;
            }
            Err(error) => return Err(CommError::listen(address, &error)),
        }
    }
}

fn open_beside_store(options: &Options, purpose: &str, deadline: Instant) -> Result<TcpListener, CommError> {
    loop {
        match store::listen(options, purpose) {
            Ok(door) => return Ok(door),
            Err(error) if Instant::now() >= deadline => return Err(CommError::io("the job's store", &error)),
            Err(_) => pause(options, RETRY.0)?,
        }
    }
}

/// Sleeps until somebody connects, speaks or leaves; wakes for guests that take too long.
fn await_news(
    door: &TcpListener,
    guests: &[Guest],
    members: &BTreeMap<usize, TcpStream>,
    options: &Options,
    deadline: Instant,
) -> Result<(), CommError> {
    let oldest = guests.iter().map(|guest| guest.since + INTRODUCTION).min();
    let mut interests = vec![interruption(options), readable(door)];
    interests.extend(guests.iter().map(|guest| readable(&guest.stream)));
    interests.extend(members.values().map(readable));
    let until = oldest.map_or(deadline, |oldest| oldest.min(deadline));
    let ready = wait::until(&interests, until).map_err(|error| CommError::io("the rendezvous port", &error))?;
    if ready[0] { Err(CommError::Interrupted) } else { Ok(()) }
}

/// The switch by which another thread ends this, where there is one.
pub(super) fn interruption(options: &Options) -> Interest<'_> {
    options.interrupt.as_ref().map_or(Interest::Nothing, readable)
}

/// Sleeps, unless it is interrupted.
pub(super) fn pause(options: &Options, time: Duration) -> Result<(), CommError> {
    let ready = wait::until(&[interruption(options)], Instant::now() + time);
    if ready.is_ok_and(|ready| ready == [true]) { Err(CommError::Interrupted) } else { Ok(()) }
}

fn admit(door: &TcpListener, guests: &mut Vec<Guest>, limit: usize) {
    while let Ok((stream, _)) = door.accept() {
        if guests.len() >= limit || stream.set_nonblocking(true).is_err() {
            continue;
        }
        guests.push(Guest { stream, inbox: Inbox::default(), greeted: false, since: Instant::now() });
    }
}

enum Introduction {
    Pending,
    Member { rank: usize, ring: SocketAddr },
    Stranger,
}

fn introduce(guest: &mut Guest, options: &Options, known: &BTreeMap<usize, SocketAddr>) -> Introduction {
    if !guest.greeted {
        match guest.inbox.greeted(&mut guest.stream) {
            None => return Introduction::Pending,
            Some(false) => return Introduction::Stranger,
            Some(true) => guest.greeted = true,
        }
    }
    let (rank, verdict) = match guest.inbox.look(&mut guest.stream) {
        Arrival::Nothing => return Introduction::Pending,
        Arrival::Message(Message::Hello { rank, world_size, generation, token, ring }) => {
            (rank, judge(options, known, rank, world_size, generation, &token).map(|()| ring))
        }
        Arrival::Message(_) | Arrival::Closed => return Introduction::Stranger,
    };
    match verdict {
        Ok(ring) => Introduction::Member { rank, ring },
        Err(refusal) => {
            tracing::warn!(rank, ?refusal, "refused a process at the rendezvous");
            // A refusal that cannot be delivered changes nothing: the connection is closed either way.
            let _ = say(&mut guest.stream, &refusal);
            Introduction::Stranger
        }
    }
}

/// Whether a process may join, or what it is told.
fn judge(
    options: &Options,
    known: &BTreeMap<usize, SocketAddr>,
    rank: usize,
    world_size: usize,
    generation: u64,
    token: &str,
) -> Result<(), Message> {
    let refused = |reason: String, retry| Err(Message::Refused { reason, retry });
    if !same_token(&options.token, token) {
        return refused("it does not know this job's token".to_owned(), false);
    }
    if generation != options.generation {
        let newer = generation > options.generation;
        return refused(format!("it is of generation {generation}, the job is at {}", options.generation), newer);
    }
    if world_size != options.world_size {
        return refused(format!("it expects {world_size} ranks, the job has {}", options.world_size), false);
    }
    if rank >= world_size {
        return refused(format!("there is no rank {rank} among {world_size}"), false);
    }
    if known.contains_key(&rank) {
        return refused(format!("another process is rank {rank} already"), false);
    }
    Ok(())
}

/// A member says nothing while it waits; anything readable is its end.
fn notice_deserters(members: &mut BTreeMap<usize, TcpStream>) -> Result<(), CommError> {
    let gone = members.iter().find_map(|(rank, stream)| match stream.peek(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Ok(_) | Err(_) => Some(*rank),
    });
    let Some(rank) = gone else { return Ok(()) };
    let reason = "it ended while the others were still coming".to_owned();
    members.remove(&rank);
    for stream in members.values_mut() {
        let _ = say(stream, &Message::Lost { rank, reason: reason.clone() });
    }
    Err(CommError::PeerLost { rank, reason })
}

fn incomplete(
    options: &Options,
    members: &mut BTreeMap<usize, TcpStream>,
    addresses: &BTreeMap<usize, SocketAddr>,
    began: Instant,
) -> CommError {
    let missing: Vec<usize> = (0..options.world_size).filter(|rank| !addresses.contains_key(rank)).collect();
    let waited = began.elapsed();
    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    for stream in members.values_mut() {
        // Those who cannot be told find out by the closed connection.
        let _ = say(stream, &Message::Incomplete { missing: missing.clone(), waited_ms });
    }
    CommError::Missing { ranks: missing, world_size: options.world_size, waited }
}

// ---- the other ranks ----

fn visit(options: &Options, began: Instant, deadline: Instant) -> Result<Meeting, CommError> {
    let mut rest = RETRY.0;
    loop {
        let reason = match attempt(options, deadline)? {
            Visit::Met(meeting) => return Ok(*meeting),
            Visit::Again(reason) => reason,
        };
        if Instant::now() + rest >= deadline {
            return Err(CommError::MasterUnreachable {
                rank: options.rank,
                address: options.address(),
                waited: began.elapsed(),
                reason,
            });
        }
        pause(options, rest)?;
        rest = (rest * 3 / 2).min(RETRY.1);
    }
}

enum Visit {
    Met(Box<Meeting>),
    /// Rank 0 is not there yet, or an old one still is.
    Again(String),
}

fn attempt(options: &Options, deadline: Instant) -> Result<Visit, CommError> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let connected = find(options, PURPOSE).and_then(|address| TcpStream::connect_timeout(&address, left));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return Ok(Visit::Again(error.to_string())),
    };
    // The address by which rank 0 is reached is one by which the others reach us.
    let here = stream.local_addr().map_err(|error| CommError::io("rank 0", &error))?;
    let data_door = connect::listen(here.ip())?;
    let ring = data_door.local_addr().map_err(|error| CommError::io("the data port", &error))?;
    let hello = Message::Hello {
        rank: options.rank,
        world_size: options.world_size,
        generation: options.generation,
        token: options.token.clone(),
        ring,
    };
    if let Err(error) = introduce_self(&mut stream, &hello) {
        return Ok(Visit::Again(error.to_string()));
    }
    let ready = wait::until(&[interruption(options), readable(&stream)], deadline + HEARING);
    if ready.is_ok_and(|ready| ready[0]) {
        return Err(CommError::Interrupted);
    }
    let answer = wait_for_answer(&mut stream, deadline + HEARING);
    let roster = match answer {
        Ok(Message::Welcome { ring }) if ring.len() == options.world_size => ring,
        Ok(Message::Refused { reason, retry: true }) => return Ok(Visit::Again(reason)),
        Ok(Message::Refused { reason, retry: false }) => {
            return Err(CommError::Refused { rank: options.rank, reason });
        }
        Ok(Message::Incomplete { missing, waited_ms }) => {
            return Err(CommError::Missing {
                ranks: missing,
                world_size: options.world_size,
                waited: Duration::from_millis(waited_ms),
            });
        }
        Ok(Message::Lost { rank, reason }) => return Err(CommError::PeerLost { rank, reason }),
        Ok(other) => return Ok(Visit::Again(format!("unexpected answer {other:?}"))),
        Err(error) => return Ok(Visit::Again(error.to_string())),
    };
    connect::keep_alive(&stream);
    let mut control = Control::new(stream).map_err(|error| CommError::io("rank 0", &error))?;
    let links = connect::all(options, &roster, &data_door, &mut control, deadline)?;
    Ok(Visit::Met(Box::new(Meeting { control, hub: None, links, one_machine: one_machine(&roster) })))
}

pub(super) fn introduce_self(stream: &mut TcpStream, message: &Message) -> io::Result<()> {
    use std::io::Write as _;
    stream.set_nodelay(true)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&super::wire::frame(message));
    stream.write_all(&bytes)
}

fn wait_for_answer(stream: &mut TcpStream, deadline: Instant) -> io::Result<Message> {
    wait::until(&[readable(stream)], deadline)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let answer = super::wire::hear(stream)?;
    stream.set_read_timeout(None)?;
    Ok(answer)
}

/// Pods of one machine may have different loopback addresses.
fn one_machine(roster: &[SocketAddr]) -> bool {
    let first = roster.first().map(SocketAddr::ip);
    roster.iter().all(|address| address.ip().is_loopback()) || roster.iter().all(|address| Some(address.ip()) == first)
}

/// Where rank 0 listens.
pub(super) fn find(options: &Options, purpose: &str) -> io::Result<SocketAddr> {
    if options.store { store::find(options, purpose) } else { resolve(options) }
}

/// The master's address; IPv4 first, because pods have IPv4 addresses more often than not.
pub(super) fn resolve(options: &Options) -> io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = (options.master_addr.as_str(), options.master_port).to_socket_addrs()?.collect();
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", options.master_addr)))
}

pub(super) fn lost(rank: usize, error: &io::Error) -> CommError {
    CommError::PeerLost { rank, reason: format!("it ended while the ranks were connecting ({error})") }
}
