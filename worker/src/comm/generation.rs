//! Membership that outlives failures: when a rank dies, the others stay as they are and join the next generation in
//! the same process.
//!
//! The launcher decides what the next generation is. It and this process talk over the UNIX socket that the launcher
//! names in `TRAINYARD_LAUNCHER_SOCKET`, in lines of JSON.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::{CommError, Communicator, Interrupt, Options};

/// Where the launcher listens: a path, or `@name` for an abstract name.
const LAUNCHER: &str = "TRAINYARD_LAUNCHER_SOCKET";
/// The longest line that is read from the launcher: an environment of a few dozen variables is far below.
const LINE_LIMIT: u64 = 1 << 20;

/// A program's place in its job, over all generations.
///
/// ```no_run
/// use trainyard_worker::comm::{CommError, Communicator, Generations, ReduceOp};
///
/// # fn step(comm: &mut Communicator, model: &mut [f32]) -> Result<(), CommError> { Ok(()) }
/// # fn main() -> Result<(), CommError> {
/// let mut generations = Generations::from_env()?;
/// let mut comm = generations.join()?;
/// let (mut model, mut steps) = (vec![0.0_f32; 1000], 0_i64);
/// while steps < 1000 {
///     match step(&mut comm, &mut model) {
///         Ok(()) => steps += 1,
///         // Somebody is gone: meet again, and go on from what rank 0 has.
///         Err(error) if error.ends_generation() => {
///             comm = generations.regroup(comm, &error)?;
///             comm.broadcast(&mut model, 0)?;
///             comm.broadcast(std::slice::from_mut(&mut steps), 0)?;
///         }
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Generations {
    /// This process's own variables, over which an order's go.
    own: BTreeMap<String, String>,
    /// The variables of the generation that is joined now, or was last.
    world: BTreeMap<String, String>,
    generation: u64,
    launcher: Option<Launcher>,
}

#[derive(Debug)]
struct Launcher {
    line: UnixStream,
    news: Arc<News>,
}

/// What the launcher said, as its reader leaves it for the program.
#[derive(Debug, Default)]
struct News {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The newest order.
    order: Option<Order>,
    /// Generations up to this one are over.
    over: Option<u64>,
    /// Who is interrupted when `of` is over.
    current: Option<(u64, Interrupt)>,
    /// The launcher is gone, or speaks nonsense.
    closed: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Order {
    generation: u64,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// One line of the launcher's. Other kinds of news are not for us.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Word {
    generation: Option<Order>,
    interrupt: Option<Over>,
}

#[derive(Debug, Deserialize)]
struct Over {
    generation: u64,
}

impl Generations {
    /// Tells the launcher that this process joins later generations by itself, so that it is left running when another
    /// rank fails. Without a launcher there is one generation.
    ///
    /// # Errors
    /// [`CommError::Options`] for a wrong environment, [`CommError::Io`] when the launcher cannot be reached.
    pub fn from_env() -> Result<Self, CommError> {
        Self::from_variables(std::env::vars().collect())
    }

    /// [`Generations::from_env`] over given variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(own: BTreeMap<String, String>) -> Result<Self, CommError> {
        let options = Options::from_lookup(|name| own.get(name).cloned())?;
        let launcher = match own.get(LAUNCHER).filter(|address| !address.is_empty()) {
            Some(address) => Some(Launcher::call(address).map_err(|error| CommError::io("the launcher", &error))?),
            None => None,
        };
        let generations = Self { own, world: BTreeMap::new(), generation: options.generation, launcher };
        generations.say_hello(&options);
        Ok(generations)
    }

    /// The generation that was joined last, or is to be joined first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Joins the current generation, or a newer one if the launcher has ordered it meanwhile.
    ///
    /// # Errors
    /// As [`Communicator::connect`]; a rank that is missing because it died again leads on to the next generation.
    pub fn join(&mut self) -> Result<Communicator, CommError> {
        loop {
            self.take_order();
            let mut options = self.options()?;
            if self.launcher.is_some() && options.interrupt.is_none() {
                let interrupt = Interrupt::new().map_err(|error| CommError::io("this process", &error))?;
                options.interrupt = Some(interrupt);
            }
            if let (Some(launcher), Some(interrupt)) = (&self.launcher, &options.interrupt) {
                launcher.news.watch(self.generation, interrupt.clone());
            }
            match Communicator::connect(&options) {
                Ok(comm) => return Ok(comm),
                Err(error) if self.launcher.is_some() && error.ends_generation() => self.await_order(&error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves the generation of `comm`, which ended with `error`, and joins the next one.
    ///
    /// The new group may have another size, and this process another rank in it.
    ///
    /// # Errors
    /// `error` itself where there is no launcher, or it gives no next generation within the rendezvous timeout.
    pub fn regroup(&mut self, comm: Communicator, error: &CommError) -> Result<Communicator, CommError> {
        // Before the wait: the others learn of it by this, if they have not yet.
        drop(comm);
        self.await_order(error)?;
        self.join()
    }

    fn options(&self) -> Result<Options, CommError> {
        Options::from_lookup(|name| self.world.get(name).or_else(|| self.own.get(name)).cloned())
    }

    fn say_hello(&self, options: &Options) {
        let hello = json!({
            "rank": options.rank, "generation": self.generation, "pid": std::process::id(), "cooperates": true,
        });
        self.say(&json!({ "hello": hello }));
    }

    fn say(&self, message: &serde_json::Value) {
        let Some(launcher) = &self.launcher else { return };
        // A launcher that is gone is noticed by the reader.
        let _ = (&launcher.line).write_all(format!("{message}\n").as_bytes());
    }

    /// Waits until there is a newer generation than ours.
    fn await_order(&mut self, error: &CommError) -> Result<(), CommError> {
        let Some(launcher) = &self.launcher else { return Err(error.clone()) };
        self.say(&json!({ "waiting": { "generation": self.generation, "error": error.to_string() } }));
        let patience = self.options()?.rendezvous_timeout;
        if launcher.news.newer(self.generation, patience) { Ok(()) } else { Err(error.clone()) }
    }

    /// Makes the newest order ours, if it is newer than what we have.
    fn take_order(&mut self) {
        let Some(launcher) = &self.launcher else { return };
        let order = launcher.news.lock().order.clone();
        let Some(order) = order.filter(|order| order.generation > self.generation) else { return };
        self.generation = order.generation;
        self.world = order.env;
        self.world.insert("TRAINYARD_GENERATION".to_owned(), order.generation.to_string());
        if let Ok(options) = self.options() {
            self.say_hello(&options);
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Ends the reader, which holds the same connection.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
    }
}

impl Launcher {
    fn call(address: &str) -> std::io::Result<Self> {
        let line = match address.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                let name = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                UnixStream::connect_addr(&name)?
            }
            None => UnixStream::connect(address)?,
        };
        let (reader, news) = (line.try_clone()?, Arc::new(News::default()));
        let told = Arc::clone(&news);
        std::thread::Builder::new().name("comm-launcher".to_owned()).spawn(move || told.hear(reader))?;
        Ok(Self { line, news })
    }
}

impl News {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the launcher says until it says no more.
    fn hear(&self, line: UnixStream) {
        use std::io::Read as _;
        let mut reader = BufReader::new(line);
        let reason = loop {
            let mut text = String::new();
            match (&mut reader).take(LINE_LIMIT).read_line(&mut text) {
                Ok(0) => break "the launcher ended".to_owned(),
                Err(error) => break format!("the launcher cannot be heard: {error}"),
                Ok(_) => {}
            }
            match serde_json::from_str::<Word>(&text) {
                Ok(word) => self.take(word),
                Err(error) => break format!("the launcher says what is no news: {error}"),
            }
        };
        self.lock().closed = Some(reason);
        self.changed.notify_all();
    }

    fn take(&self, word: Word) {
        let mut state = self.lock();
        let over = word.interrupt.map(|over| over.generation);
        let before = word.generation.as_ref().map(|order| order.generation.saturating_sub(1));
        state.over = state.over.max(over).max(before);
        if let Some(order) = word.generation
            && state.order.as_ref().is_none_or(|known| known.generation < order.generation)
        {
            state.order = Some(order);
        }
        state.interrupt();
        self.changed.notify_all();
    }

    /// From now on the end of `generation` triggers `interrupt`; at once if it has come already.
    fn watch(&self, generation: u64, interrupt: Interrupt) {
        let mut state = self.lock();
        state.current = Some((generation, interrupt));
        state.interrupt();
    }

    /// Waits for an order newer than `generation`; `false` when none comes.
    fn newer(&self, generation: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if state.order.as_ref().is_some_and(|order| order.generation > generation) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(reason) = &state.closed {
                tracing::warn!(reason, "there will be no next generation");
                return false;
            }
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn interrupt(&self) {
        if let (Some((generation, interrupt)), Some(over)) = (&self.current, self.over)
            && over >= *generation
        {
            interrupt.trigger();
        }
    }
}
