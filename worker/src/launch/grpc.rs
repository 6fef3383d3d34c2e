//! The line to a coordinator: gRPC, in a thread of its own, so that the launcher's loop stays one poll.
//!
//! A stream that ends is made anew, for as long as the launcher lives: training does not need it meanwhile.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::rendezvous_client::RendezvousClient;
use trainyard_proto::rendezvous::{FromLauncher, JOB, NAMESPACE, TOKEN};

use super::link::{Event, Link};
use super::{LaunchError, console};

/// The first pause before another attempt, and the longest. 512 launchers at the longest are 2,000 attempts in a second.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// An attempt that takes longer has met a machine that is gone.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a silent line is tried, and how long an answer may take: a machine that vanished says no farewell.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Failed attempts in a row after which the user hears of it: about 5 s.
const PATIENCE: u32 = 25;

/// Where the rendezvous is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    /// An abstract socket, and the user that it must be of.
    Open {
        name: String,
        owner: u32,
    },
    Address(String),
}

/// The job, as the rendezvous asks for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) token: String,
}

/// What the thread tells the loop.
enum Heard {
    Up(UnboundedSender<FromLauncher>),
    Event(Event),
}

/// The loop's end of the line.
pub(super) struct Remote {
    heard: Receiver<Heard>,
    /// A byte for everything heard.
    bell: UnixStream,
    stream: Option<UnboundedSender<FromLauncher>>,
}

impl Remote {
    /// Begins to call. `address` is `unix:/path`, `unix:@trainyard-<user>-<number>` or `http://host:port`.
    pub(super) fn call(address: &str, job: Job) -> Result<Self, LaunchError> {
        let place = place(address)?;
        let system = |source| LaunchError::System { doing: "set up the line to the coordinator", source };
        let (bell, ringer) = UnixStream::pair().map_err(system)?;
        bell.set_nonblocking(true).map_err(system)?;
        ringer.set_nonblocking(true).map_err(system)?;
        let (tell, heard) = mpsc::channel();
        let address = address.to_owned();
        let caller = Caller { place, address, job, tell, ringer };
        std::thread::Builder::new().name("rendezvous".to_owned()).spawn(move || caller.run()).map_err(system)?;
        Ok(Self { heard, bell, stream: None })
    }
}

impl Link for Remote {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn deadline(&self) -> Option<i64> {
        None
    }

    fn say(&mut self, _now_ms: i64, message: Said) {
        if let Some(stream) = &self.stream {
            // What a broken stream loses, the next Hello says again.
            let _ = stream.unbounded_send(FromLauncher { message: Some(message) });
        }
    }

    fn receive(&mut self, _now_ms: i64) -> Option<Event> {
        // Before the queue: a bell that rings meanwhile is for something later.
        while self.bell.read(&mut [0; 256]).is_ok_and(|count| count > 0) {}
        match self.heard.try_recv().ok()? {
            Heard::Up(stream) => {
                self.stream = Some(stream);
                Some(Event::Up)
            }
            Heard::Event(event) => {
                if event == Event::Down {
                    self.stream = None;
                }
                Some(event)
            }
        }
    }
}

fn place(address: &str) -> Result<Place, LaunchError> {
    if let Some(name) = address.strip_prefix("unix:@") {
        let owner = name.strip_prefix("trainyard-").and_then(|rest| rest.split('-').next()?.parse().ok());
        let text = || format!("TRAINYARD_RENDEZVOUS={address} names no user, as in unix:@trainyard-1000-0");
        let owner = owner.ok_or_else(|| LaunchError::Environment(text()))?;
        return Ok(Place::Open { name: name.to_owned(), owner });
    }
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(Place::Socket(path.into()));
    }
    if address.starts_with("http://") && address.parse::<Uri>().is_ok() {
        return Ok(Place::Address(address.to_owned()));
    }
    let text = format!("TRAINYARD_RENDEZVOUS={address} is neither unix:/path nor http://host:port");
    Err(LaunchError::Environment(text))
}

/// The thread's part.
struct Caller {
    place: Place,
    address: String,
    job: Job,
    tell: Sender<Heard>,
    ringer: UnixStream,
}

impl Caller {
    fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return console::tell(format!("trainyard: cannot call the coordinator: {error}\n")),
        };
        runtime.block_on(self.call_for_ever());
    }

    async fn call_for_ever(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut failed = 0_u32;
        loop {
            let why = match self.connect().await {
                Ok(channel) => {
                    let (lived, why) = self.speak(channel).await;
                    if lived {
                        (pause, failed) = (FIRST_PAUSE, 0);
                    }
                    why
                }
                Err(error) => chain(&error),
            };
            failed += 1;
            if failed == PATIENCE {
                let address = &self.address;
                console::tell(format!("trainyard: waiting for the rendezvous at {address}: {why}\n"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.place {
            Place::Socket(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { io::Result::Ok(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
                });
                // The name is never looked up.
                Endpoint::from_static("http://rendezvous").connect_with_connector(connector).await
            }
            Place::Open { name, owner } => {
                let (name, owner) = (name.clone(), *owner);
                let connector = tower::service_fn(move |_: Uri| {
                    let stream = open(&name, owner);
                    async move { stream.map(TokioIo::new) }
                });
                Endpoint::from_static("http://rendezvous").connect_with_connector(connector).await
            }
            Place::Address(address) => {
                let endpoint = Endpoint::from_shared(address.clone())?;
                let endpoint = endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(KEEP_ALIVE);
                endpoint.keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true).connect().await
            }
        }
    }

    /// One stream, to its end. Gives whether anything was heard on it, and why it ended.
    async fn speak(&mut self, channel: Channel) -> (bool, String) {
        let (say, said) = unbounded();
        // At once: the coordinator may wait for the first message before it answers.
        self.tell(Heard::Up(say));
        let mut lived = false;
        let why = match self.listen(channel, said, &mut lived).await {
            Ok(()) => "it ended the stream".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.tell(Heard::Event(Event::Down));
        (lived, why)
    }

    async fn listen(
        &mut self,
        channel: Channel,
        said: UnboundedReceiver<FromLauncher>,
        lived: &mut bool,
    ) -> Result<(), Status> {
        let mut request = Request::new(said);
        let metadata = request.metadata_mut();
        let texts = [(NAMESPACE, &self.job.namespace), (JOB, &self.job.name), (TOKEN, &self.job.token)];
        for (key, text) in texts {
            if let Ok(value) = AsciiMetadataValue::try_from(text.as_str()) {
                metadata.insert(key, value);
            }
        }
        let mut orders = RendezvousClient::new(channel).join(request).await?.into_inner();
        self.tell(Heard::Event(Event::Answered));
        while let Some(order) = orders.message().await? {
            *lived = true;
            if let Some(order) = order.message {
                self.tell(Heard::Event(Event::Order(order)));
            }
        }
        Ok(())
    }

    fn tell(&mut self, heard: Heard) {
        // The launcher that no longer listens is at its end, and we with it. A full bell rings already.
        if self.tell.send(heard).is_ok() {
            let _ = self.ringer.write(&[1]);
        }
    }
}

/// Anybody can take a name: what answers must be of the user that it is made of, or of root, which is also what a user's own
/// containers take that user for.
fn open(name: &str, owner: u32) -> io::Result<tokio::net::UnixStream> {
    // Local and never full for long: a connection is there at once, or not at all.
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?.uid();
    if peer != owner && peer != 0 {
        let text = format!("@{name} is held by user {peer}, not by {owner}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn next(remote: &mut Remote) -> Event {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(event) = remote.receive(0) {
                return event;
            }
            assert!(Instant::now() < deadline, "nothing is heard");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_takes_a_call_and_says_nothing_has_not_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut remote = Remote::call(&address, Job::default()).unwrap();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(next(&mut remote), Event::Up);
            // It has called, and is hung up on.
            stream.read_exact(&mut [0; 24]).unwrap();
            drop(stream);
            assert_eq!(next(&mut remote), Event::Down);
        }
    }
}
