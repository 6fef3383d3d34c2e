//! Launchers that were started by hand, one on each node, meet: the one whose address is the endpoint serves the rendezvous,
//! and all of them, this one included, call there.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use trainyard_coordinator::rendezvous::meeting::{self, News, Terms};
use trainyard_coordinator_core::rendezvous::{Budget, Config, Happened, LastFailure};
use trainyard_proto::pace;
use trainyard_proto::rendezvous::from_launcher::Message;
use trainyard_proto::rendezvous::release::Outcome;
use trainyard_proto::rendezvous::to_launcher::Message as Order;
use trainyard_proto::rendezvous::{Cause, Failure, Release};
use trainyard_worker::host;
use trainyard_worker::launch;
use trainyard_worker::launch::link::{self, Event, Link, Meeting};

use crate::alone;

/// Where the rendezvous of a job lets launchers in: there is one job, and it has no namespace.
const PLACE: &str = "torchrun";
/// A secret that all nodes were given, where the job's name is not secret enough.
const TOKEN: &str = "TRAINYARD_JOB_TOKEN";
/// Set by `trainyard torchrun`: this launcher among those of the job.
const OWN: &str = "TRAINYARD_POD_UID";
/// How long this launcher waits before it says for whom.
const WORD_MS: i64 = 5_000;
/// The rendezvous gives up by itself, with better words: so much later we do.
const SLACK_MS: i64 = 5_000;
/// An answer of PyTorch's store comes at once.
const PROBE: Duration = Duration::from_secs(2);

/// The line of this launcher; it may serve the rendezvous, too.
pub(crate) fn meet(meeting: Meeting) -> Result<Box<dyn Link>, String> {
    let token = token(&meeting.id, std::env::var(TOKEN).ok().as_deref());
    let hosting = serve(&meeting, &token)?;
    let address = match &hosting {
        Some(hosting) => reachable(hosting.address()).to_string(),
        None => authority(&meeting.host, meeting.port),
    };
    let line = link::call(&format!("http://{address}"), PLACE, PLACE, &token)?;
    let endpoint = authority(&meeting.host, meeting.port);
    Ok(Box::new(Guest { line, hosting, meeting, endpoint, waits: Waits::default(), formed: false, over: false }))
}

/// What launchers of one job know, and others need not: gRPC carries ASCII.
fn token(id: &str, secret: Option<&str>) -> String {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}.{}", hex(id), hex(secret.unwrap_or_default()))
}

/// Serves the rendezvous if its address is ours and nobody serves there yet.
fn serve(meeting: &Meeting, token: &str) -> Result<Option<meeting::Meeting>, String> {
    let endpoint = authority(&meeting.host, meeting.port);
    let listener = match (meeting.is_host, listen(meeting)) {
        (Some(false), _) | (None, Err(_)) => return Ok(None),
        (Some(true), Err(error)) => return Err(format!("cannot serve the rendezvous at {endpoint}: {error}")),
        (None | Some(true), Ok(listener)) => listener,
    };
    let own = std::env::var(OWN).unwrap_or_default();
    let terms = Terms {
        token: token.to_owned(),
        config: config(meeting),
        tell: Box::new(move |news| {
            if let Some(words) = words(news, &own) {
                launch::tell(format!("trainyard: {words}\n"));
            }
        }),
    };
    let failed = |error| format!("cannot serve the rendezvous at {endpoint}: {error}");
    meeting::Meeting::serve(listener, terms).map(Some).map_err(failed)
}

fn listen(meeting: &Meeting) -> io::Result<TcpListener> {
    let anywhere = || TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, meeting.port)));
    let is_named = meeting.is_host == Some(true) || host::name() == meeting.host;
    let mut found = match (meeting.host.as_str(), meeting.port).to_socket_addrs() {
        Ok(found) => found.collect::<Vec<_>>(),
        Err(_) if is_named => return anywhere(),
        Err(error) => return Err(error),
    };
    found.sort_by_key(|address| !address.is_ipv4());
    let Some(first) = found.first().copied() else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
    // A machine may know its own name as a loopback address, which the others do not.
    if first.ip().is_loopback() && !is_loopback(&meeting.host) {
        return anywhere();
    }
    match TcpListener::bind(first) {
        Err(error) if is_named && error.kind() == io::ErrorKind::AddrNotAvailable => anywhere(),
        bound => bound,
    }
}

/// Whether this means the machine itself, whoever says it.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a socket that listens anywhere is called from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// `host:port`, as it stands in an address of the web.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn config(meeting: &Meeting) -> Config {
    Config {
        least: meeting.least,
        most: meeting.most,
        join_ms: meeting.join_ms,
        last_call_ms: meeting.last_call_ms,
        away_ms: meeting.away_ms,
        lost_ms: meeting.join_ms,
        return_ms: meeting.last_call_ms,
        // Newcomers come in together.
        grow_ms: meeting.last_call_ms,
        budget: Budget { total: Some(meeting.max_restarts), ..alone::budget() },
    }
}

/// What the user of the serving launcher hears.
fn words(news: &News<'_>, own: &str) -> Option<String> {
    let happened = match news {
        News::Here(here, least) => return Some(format!("{here} of {least} nodes are at the rendezvous")),
        News::Torchrun(from) => {
            let words = "PyTorch's torchrun called at the rendezvous, which it cannot take part in";
            return Some(format!("{words} (from {from}); start every node by `trainyard torchrun`"));
        }
        News::Stranger(from) => {
            return Some(format!(
                "a launcher at {from} was refused at the rendezvous: its --rdzv-id, or its {TOKEN}, is another one"
            ));
        }
        News::Happened(happened) => happened,
    };
    match happened {
        // The launcher that has the rank says it, and here that is this one.
        Happened::Failed(failure) | Happened::Blamed(failure) if failure.pod.as_deref() == Some(own) => None,
        Happened::Failed(failure) | Happened::Blamed(failure) => Some(failed(failure)),
        Happened::Ready { generation, members, ranks, .. } => {
            let nodes = if *members == 1 { "1 node".to_owned() } else { format!("{members} nodes") };
            Some(format!("generation {}: {ranks} ranks on {nodes}", generation.0))
        }
        // Of its own ranks a launcher says it by itself, but it does not see that others wait in the same way.
        Happened::Hangs { stalled, others } if stalled.in_collective || host::name() != stalled.host => {
            Some(stalled.words(*others))
        }
        Happened::Straggles(slow) => Some(slow.slow.words(slow.rank, &slow.host)),
        Happened::KeepsUp { rank, host } => Some(pace::keeps_up(*rank, host)),
        Happened::Broken(invariant) => Some(format!("please report this: {invariant}")),
        Happened::Formed { .. } | Happened::Hangs { .. } | Happened::Ended(_) => None,
    }
}

fn failed(failure: &LastFailure) -> String {
    let host = failure.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    let who = failure.rank.map_or_else(|| format!("a launcher{host}"), |rank| format!("rank {rank}{host}"));
    format!("generation {}: {who} failed: {}", failure.generation, failure.message)
}

/// For whom this launcher waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waits {
    /// Since when no generation was ordered. The launcher's clock begins with it.
    since_ms: i64,
    /// Whether somebody answers at the endpoint.
    connected: bool,
    said: bool,
}

/// The line, with an eye on what does not come.
struct Guest {
    line: Box<dyn Link>,
    /// Dropped last of all: the others hear how it ended before this process does.
    hosting: Option<meeting::Meeting>,
    meeting: Meeting,
    endpoint: String,
    waits: Waits,
    /// Whether a generation was ever ordered.
    formed: bool,
    over: bool,
}

impl Guest {
    fn word_due(&self) -> Option<i64> {
        let due = self.waits.connected && !self.waits.said && !self.formed && !self.over;
        due.then_some(self.waits.since_ms + WORD_MS)
    }

    fn end_due(&self) -> Option<i64> {
        (!self.formed && !self.over).then_some(self.meeting.join_ms.saturating_add(SLACK_MS))
    }

    fn heard(&mut self, event: Event) -> Event {
        match &event {
            Event::Up => {}
            Event::Answered => self.waits.connected = true,
            Event::Down => {
                self.waits.connected = false;
                if !self.formed && !self.over && self.hosting.is_none() && is_torch(&self.endpoint) {
                    return self.give_up(format!(
                        "PyTorch's torchrun answers at {}, and not trainyard torchrun: start every node by the same program",
                        self.endpoint
                    ));
                }
            }
            Event::Order(Order::Form(_)) => self.formed = true,
            Event::Order(Order::Halt(_) | Order::Deadlock(_) | Order::Others(_)) => {}
            Event::Order(Order::Release(_)) => self.over = true,
        }
        event
    }

    fn give_up(&mut self, message: String) -> Event {
        self.over = true;
        let failure =
            Failure { rank: None, cause: Cause::RendezvousTimeout.into(), code: 1, message, secondary: false };
        Event::Order(Order::Release(Release { outcome: Some(Outcome::Failed(failure)) }))
    }
}

impl Link for Guest {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.line.readable()
    }

    fn deadline(&self) -> Option<i64> {
        self.line.deadline().into_iter().chain(self.word_due()).chain(self.end_due()).min()
    }

    fn say(&mut self, now_ms: i64, message: Message) {
        self.line.say(now_ms, message);
    }

    fn receive(&mut self, now_ms: i64) -> Option<Event> {
        if let Some(event) = self.line.receive(now_ms) {
            return Some(self.heard(event));
        }
        if self.word_due().is_some_and(|due| now_ms >= due) {
            self.waits.said = true;
            launch::tell(format!("trainyard: at the rendezvous {}; waiting for the other nodes\n", self.endpoint));
        }
        if self.end_due().is_some_and(|due| now_ms >= due) {
            let (endpoint, seconds) = (&self.endpoint, self.meeting.join_ms / 1000);
            return Some(self.give_up(format!("no place in a generation at {endpoint} within {seconds} s")));
        }
        None
    }
}

/// Whether PyTorch's store answers there: it repeats a number that it is told.
fn is_torch(endpoint: &str) -> bool {
    const VALIDATE: u8 = 0;
    const MAGIC: u32 = 0x3C85_F7CE;
    const PING: u8 = 13;
    const NUMBER: u32 = 0x7472_6e79;
    let ask = || -> io::Result<bool> {
        let address = endpoint.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
        stream.set_read_timeout(Some(PROBE))?;
        let mut question = vec![VALIDATE];
        question.extend(MAGIC.to_le_bytes());
        question.push(PING);
        question.extend(NUMBER.to_le_bytes());
        stream.write_all(&question)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        Ok(answer == NUMBER.to_le_bytes())
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(host: &str, is_host: Option<bool>) -> Meeting {
        Meeting {
            host: host.to_owned(),
            port: 0,
            is_host,
            id: "job".to_owned(),
            index: None,
            least: 1,
            most: 2,
            max_restarts: 1,
            join_ms: 1000,
            last_call_ms: 100,
            away_ms: 500,
        }
    }

    #[test]
    fn only_the_owner_of_the_endpoint_serves_it() {
        let loopback = listen(&meeting("localhost", None)).unwrap();
        assert!(loopback.local_addr().unwrap().ip().is_loopback(), "nobody else can reach it");
        // An address for documentation: no machine has it.
        assert!(listen(&meeting("192.0.2.1", None)).is_err());
        assert!(serve(&meeting("192.0.2.1", None), "t").unwrap().is_none());
        assert!(serve(&meeting("localhost", Some(false)), "t").unwrap().is_none());
        let told = listen(&meeting("192.0.2.1", Some(true))).unwrap();
        assert!(told.local_addr().unwrap().ip().is_unspecified(), "the user says that it is ours, by another address");
        assert!(reachable(told.local_addr().unwrap()).ip().is_loopback());
    }

    #[test]
    fn a_taken_endpoint_is_somebody_elses() {
        let first = listen(&meeting("localhost", None)).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = Meeting { port, ..meeting("localhost", None) };
        assert!(serve(&second, "t").unwrap().is_none());
        let told = Meeting { is_host: Some(true), ..second };
        assert!(serve(&told, "t").is_err_and(|words| words.contains("cannot serve the rendezvous at localhost:")));
    }

    #[test]
    fn names_and_secrets_make_the_token() {
        assert_eq!(token("é", None), "c3a9.");
        assert!(token("a", Some("b")) != token("a", None) && token("a", Some("b")).is_ascii());
        assert_eq!(authority("::1", 7), "[::1]:7");
    }
}
