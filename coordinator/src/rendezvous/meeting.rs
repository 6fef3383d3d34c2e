//! The rendezvous of launchers that were started by hand: one of them serves it, for one job, without a cluster.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tonic::{Request, Response, Status, Streaming};
use trainyard_coordinator_core::rendezvous::{
    Config, Generation, Happened, Hello, Input, MemberId, Output, Session, Spent,
};
use trainyard_proto::rendezvous as wire;
use trainyard_runtime::driver::now_ms;
use wire::rendezvous_server::{Rendezvous, RendezvousServer};

use super::room::{ORDERS, Orders};
use super::service::HELLO_LIMIT;
use super::{PING, convert};

/// Callers that have not said a word yet. Each costs a descriptor; a job has as many launchers as machines.
const STRANGERS: usize = 1024;
/// After an accept that failed for want of descriptors or memory: they do not come back at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long the others may take to hear how the job ended: a launcher whose stream broke just then knocks within 250 ms.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a TCPStore's client of PyTorch says first.
const VALIDATE: u8 = 0;

/// Whose rendezvous it is, and who is told what happens there.
pub struct Terms {
    /// What launchers must know to take part.
    pub token: String,
    /// What the job allows.
    pub config: Config,
    /// Told of all that is worth it.
    pub tell: Box<dyn Fn(&News<'_>) + Send + Sync>,
}

/// Something to tell the user.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// Of the ranks.
    Happened(&'a Happened),
    /// Launchers that are there, of how many that are needed at least, whenever that changes before a generation runs.
    Here(usize, u32),
    /// A torchrun of PyTorch called from there: it cannot take part.
    Torchrun(SocketAddr),
    /// A launcher of another job called from there, or one that does not know the token.
    Stranger(SocketAddr),
}

/// A rendezvous that is served by threads of this process, until it is dropped.
pub struct Meeting {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Meeting {
    /// Serves it on `listener`.
    ///
    /// # Errors
    /// When the system has no more threads or descriptors.
    pub fn serve(listener: std::net::TcpListener, terms: Terms) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let session = Session::new(terms.config.clone(), Generation(0), Spent::default(), now_ms());
        let inner = Inner { session, streams: HashMap::new(), visits: BTreeSet::new(), untold: BTreeSet::new() };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            moved: Notify::new(),
            left: Condvar::new(),
            streams: AtomicU64::new(1),
            warned: AtomicBool::new(false),
            terms,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("meeting".to_owned()).spawn(move || runtime.block_on(run(own, listener)))?;
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Meeting {
    /// A job that has ended has ended for all: they are told before this process may end, too.
    fn drop(&mut self) {
        let inner = self.shared.lock();
        if inner.session.machine().outcome().is_some() {
            let here = |inner: &mut Inner| !(inner.visits.is_empty() && inner.untold.is_empty());
            drop(self.shared.left.wait_timeout_while(inner, FAREWELL, here));
        }
    }
}

struct Shared {
    terms: Terms,
    inner: Mutex<Inner>,
    /// The next deadline may be another one.
    moved: Notify,
    /// A launcher hung up.
    left: Condvar,
    streams: AtomicU64,
    warned: AtomicBool,
}

struct Inner {
    session: Session,
    streams: HashMap<MemberId, (u64, Orders)>,
    /// Streams of launchers that have said hello and not hung up.
    visits: BTreeSet<u64>,
    /// Members that do not know yet that the job has ended.
    untold: BTreeSet<MemberId>,
}

impl Shared {
    /// A panic in a step has been told of; what it left is checked by the invariants.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: &News<'_>) {
        (self.terms.tell)(news);
    }

    fn step(&self, input: Input) {
        let mut inner = self.lock();
        let before = inner.session.machine().counts();
        let mut inputs = vec![input];
        let mut all = Vec::new();
        while let Some(input) = inputs.pop() {
            let mut outputs = Vec::new();
            all.extend(inner.session.step(now_ms(), input, &mut outputs));
            for output in &outputs {
                match output {
                    // No number outlives this process, and whoever has seen a higher one says so in its hello.
                    Output::Reserve { to } => inputs.push(Input::Reserved { to: *to }),
                    Output::Form { .. }
                    | Output::Halt { .. }
                    | Output::Deadlock { .. }
                    | Output::Others { .. }
                    | Output::Release { .. } => inner.carry_out(output),
                }
            }
        }
        let machine = inner.session.machine();
        let counts = machine.counts();
        let gathers = machine.world().is_none() && machine.outcome().is_none();
        drop(inner);
        if gathers && counts != before {
            self.tell(&News::Here(counts.1, self.terms.config.least));
        }
        for happened in &all {
            self.tell(&News::Happened(happened));
        }
        self.moved.notify_one();
        self.left.notify_all();
    }

    fn pulse(&self, member: &MemberId, pulse: wire::Pulse) {
        let mut inner = self.lock();
        let mut outputs = Vec::new();
        let all = inner.session.pulse(now_ms(), member, convert::pulse(pulse), &mut outputs);
        for output in &outputs {
            inner.carry_out(output);
        }
        drop(inner);
        for happened in &all {
            self.tell(&News::Happened(happened));
        }
    }

    fn joined(&self, member: &MemberId, stream: u64, hello: Hello, orders: Orders) {
        let mut inner = self.lock();
        inner.streams.insert(member.clone(), (stream, orders));
        inner.visits.insert(stream);
        drop(inner);
        self.step(Input::Joined { member: member.clone(), stream, hello });
        let mut inner = self.lock();
        let machine = inner.session.machine();
        let refused = !machine.has(member) && machine.outcome().is_none();
        if refused && let Some((_, orders)) = inner.streams.remove(member) {
            let _ = orders.try_send(Err(Status::aborted("a newer launcher has this place")));
        }
    }

    fn is_present(&self, member: &MemberId, stream: u64) -> bool {
        self.lock().streams.get(member).is_some_and(|(number, _)| *number == stream)
    }

    /// Whoever was given up hears so by the end of its stream, if it hears anything: it may knock again.
    fn hang_up(&self) {
        let inner = &mut *self.lock();
        inner.streams.retain(|member, _| inner.session.machine().has(member));
    }

    fn left(&self, member: MemberId, stream: u64) {
        let mut inner = self.lock();
        inner.visits.remove(&stream);
        if inner.streams.get(&member).is_some_and(|(number, _)| *number == stream) {
            inner.streams.remove(&member);
        }
        drop(inner);
        self.step(Input::Away { member, stream });
    }
}

impl Inner {
    fn carry_out(&mut self, output: &Output) {
        let Some((members, message)) = convert::told(output) else { return };
        for member in members {
            let sent = self.streams.get(member).is_some_and(|(_, orders)| orders.try_send(Ok(message.clone())).is_ok());
            if !sent && !output.may_be_dropped() {
                // It knocks again, and is told what it missed.
                self.streams.remove(member);
            }
            if let Output::Release { .. } = output {
                self.streams.remove(member);
                if sent {
                    self.untold.remove(member)
                } else {
                    self.untold.insert(member.clone())
                };
            }
        }
    }
}

/// The thread's part.
async fn run(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the rendezvous cannot be served"),
    };
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(accept(Arc::clone(&shared), listener, sender));
    let incoming = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    tokio::spawn(keep_time(Arc::clone(&shared)));
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .add_service(RendezvousServer::new(Service { shared }))
        .serve_with_incoming(incoming);
    if let Err(error) = served.await {
        tracing::error!(%error, "the rendezvous is served no more; training goes on");
    }
}

async fn keep_time(shared: Arc<Shared>) {
    shared.step(Input::Tick);
    loop {
        let deadline = shared.lock().session.deadline();
        let due = match deadline {
            None => {
                shared.moved.notified().await;
                false
            }
            Some(at) => {
                let wait = Duration::from_millis(u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0));
                tokio::time::timeout(wait, shared.moved.notified()).await.is_err()
            }
        };
        if due {
            shared.step(Input::Tick);
            shared.hang_up();
            // Its own step is no news to it.
            shared.moved.notified().await;
        }
    }
}

/// Takes calls, and passes on those of launchers.
async fn accept(shared: Arc<Shared>, listener: TcpListener, sender: mpsc::Sender<io::Result<TcpStream>>) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(STRANGERS));
    while let Ok(place) = Arc::clone(&strangers).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (shared, sender) = (Arc::clone(&shared), sender.clone());
                tokio::spawn(async move {
                    if is_launcher(&shared, &stream, from).await && stream.set_nodelay(true).is_ok() {
                        let _ = sender.send(Ok(stream)).await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a launcher's connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Whether a caller does not begin as a client of PyTorch's store.
async fn is_launcher(shared: &Shared, stream: &TcpStream, from: SocketAddr) -> bool {
    let mut first = [0];
    match tokio::time::timeout(HELLO_LIMIT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == VALIDATE => {
            // It calls again and again.
            if !shared.warned.swap(true, Ordering::Relaxed) {
                shared.tell(&News::Torchrun(from));
            }
            false
        }
        Ok(Ok(count)) => count > 0,
        Ok(Err(_)) | Err(_) => false,
    }
}

struct Service {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Rendezvous for Service {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<wire::ToLauncher, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<wire::FromLauncher>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let given = request.metadata().get(wire::TOKEN).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        if !same(&given, self.shared.terms.token.as_bytes()) {
            if let Some(from) = request.remote_addr() {
                self.shared.tell(&News::Stranger(from));
            }
            return Err(Status::unauthenticated("another --rdzv-id, or another TRAINYARD_JOB_TOKEN, meets there"));
        }
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        let (orders, mut outgoing) = mpsc::channel(ORDERS);
        let visit = Visit { shared: Arc::clone(&self.shared), stream, orders };
        tokio::spawn(visit.run(request.into_inner()));
        Ok(Response::new(Box::pin(futures::stream::poll_fn(move |context| outgoing.poll_recv(context)))))
    }
}

/// Without telling by the time it takes how far the two agree.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// A launcher's stream, as it comes in.
struct Visit {
    shared: Arc<Shared>,
    stream: u64,
    orders: Orders,
}

impl Visit {
    async fn run(self, mut incoming: Streaming<wire::FromLauncher>) {
        let Self { shared, stream, orders } = self;
        let first = tokio::time::timeout(HELLO_LIMIT, incoming.message()).await;
        let Ok(Ok(Some(first))) = first else { return };
        let (member, hello) = match convert::hello(first) {
            Ok(greeting) => greeting,
            Err(error) => {
                let _ = orders.try_send(Err(Status::invalid_argument(error.to_string())));
                return;
            }
        };
        // The stream is ended by dropping its sender: none may be kept here.
        shared.joined(&member, stream, hello, orders);
        while let Ok(Some(message)) = incoming.message().await {
            match convert::heard(&member, message) {
                Ok(convert::Heard::Input(input)) if shared.is_present(&member, stream) => shared.step(input),
                Ok(convert::Heard::Pulse(pulse)) if shared.is_present(&member, stream) => shared.pulse(&member, pulse),
                // What was said in a stream that was replaced since is of no account.
                Ok(convert::Heard::Input(_) | convert::Heard::Pulse(_)) => {}
                // There is nobody to show it to.
                Ok(convert::Heard::Saved(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, "a launcher misspoke");
                    break;
                }
            }
        }
        shared.left(member, stream);
    }
}
