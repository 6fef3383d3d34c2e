//! Collective operations between the ranks of a job: through memory where all are on one machine, else over TCP.
//!
//! Start the program once per rank with `trainyard launch --nproc N -- program`, or as a TrainingJob; then every
//! process calls the same collectives in the same order:
//!
//! ```no_run
//! use trainyard_worker::comm::{Communicator, ReduceOp};
//!
//! # fn main() -> Result<(), trainyard_worker::comm::CommError> {
//! let mut comm = Communicator::from_env()?;
//! let mut gradient = vec![0.5_f32; 1000];
//! comm.all_reduce(&mut gradient, ReduceOp::Mean)?;
//! # Ok(())
//! # }
//! ```
//!
//! Without the launcher's environment a process is a group of one, and every collective is the identity.
//!
//! What is promised:
//! - **C-1, equal results.** Reductions happen in an order that depends on the world size, the length, and on whether all
//!   ranks are on one machine: the same bits on every rank and in every run.
//! - **C-2, no deadlock by size.** Sending and receiving overlap, so buffers of any length work.
//! - **C-3, a death is told at once.** When a process ends, every collective of every other rank fails with
//!   [`CommError::PeerLost`], and all name the same rank.
//! - **C-4, no strangers.** A process without the job's token, or of another generation, is refused. (The token
//!   travels in clear text: it separates jobs, it does not protect against somebody who listens to the network.)
//! - **C-5, mistakes are named.** Ranks that call different collectives, or with different lengths, get
//!   [`CommError::Mismatch`] with both calls.
//!
//! A program that goes on when a rank died, in the same process, takes its communicators from [`Generations`].
//!
//! A rank leaves in good order by dropping its `Communicator`; `std::process::exit` before that looks like a death.

mod call;
mod collective;
mod connect;
mod element;
mod error;
mod exchange;
mod generation;
mod hub;
mod interrupt;
mod memory;
mod mesh;
mod options;
mod rendezvous;
mod shared;
pub(crate) mod star;
mod store;
mod wait;
mod wire;

use std::net::TcpListener;
use std::thread::JoinHandle;

pub use element::{Element, Number, ReduceOp};
pub use error::CommError;
pub use generation::Generations;
pub use interrupt::Interrupt;
pub use options::Options;

use crate::nccl::{Group, NcclError};
use mesh::Mesh;
use shared::Shared;
use wire::Message;

/// By what a communicator moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// There is nobody to move it to.
    Alone,
    /// Memory that all ranks share.
    Memory,
    /// TCP connections.
    Tcp,
    /// GPUs, for long buffers of `f32`; the rest as before.
    Nccl,
}

impl Backend {
    /// One word: `alone`, `memory`, `tcp` or `nccl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Memory => "memory",
            Self::Tcp => "tcp",
            Self::Nccl => "nccl",
        }
    }
}

/// One rank's membership in the group of all ranks.
///
/// Methods block the calling thread. The first error of a collective ends the membership: later calls return it again.
#[derive(Debug)]
pub struct Communicator {
    rank: usize,
    world_size: usize,
    sequence: u64,
    failure: Option<CommError>,
    /// `None` in a group of one.
    mesh: Option<Mesh>,
    /// Where all ranks are on one machine: data goes through memory.
    shared: Option<Shared>,
    gpus: Option<Group>,
    /// Rank 0 only.
    hub: Option<JoinHandle<()>>,
}

impl Communicator {
    /// Joins the group that the environment describes (see [`Options::from_env`]); returns when every rank has come.
    ///
    /// # Errors
    /// See [`CommError`]; a rank that does not come in time is named.
    pub fn from_env() -> Result<Self, CommError> {
        Self::connect(&Options::from_env()?)
    }

    /// Joins the group; returns when every rank has come.
    ///
    /// # Errors
    /// See [`CommError`]; a rank that does not come in time is named.
    pub fn connect(options: &Options) -> Result<Self, CommError> {
        Self::join(options, None)
    }

    /// [`Communicator::connect`] for rank 0 on a socket that listens already, for instance on a port that the system
    /// chose. `options.master_port` is not used.
    ///
    /// # Errors
    /// As there; [`CommError::Options`] for any other rank.
    pub fn connect_on(options: &Options, listener: TcpListener) -> Result<Self, CommError> {
        if options.rank != 0 {
            return Err(CommError::Options(format!("rank {} does not host the rendezvous, rank 0 does", options.rank)));
        }
        Self::join(options, Some(listener))
    }

    /// A group of one, in which every collective is the identity.
    pub fn solo() -> Self {
        Self { rank: 0, world_size: 1, sequence: 0, failure: None, mesh: None, shared: None, gpus: None, hub: None }
    }

    fn join(options: &Options, listener: Option<TcpListener>) -> Result<Self, CommError> {
        options.check()?;
        if options.world_size == 1 {
            return Ok(Self::solo());
        }
        let interrupt = match &options.interrupt {
            Some(interrupt) => interrupt.clone(),
            None => Interrupt::new().map_err(|error| CommError::io("this process", &error))?,
        };
        let meeting = rendezvous::meet(options, listener)?;
        let mut mesh = Mesh {
            rank: options.rank,
            looking: mesh::looking(&meeting.links),
            links: meeting.links,
            control: meeting.control,
            hub_left: false,
            interrupt,
            patience: options.operation_timeout,
        };
        let local = options.shared_memory && meeting.one_machine;
        let shared = if local { collective::share(&mut mesh)? } else { None };
        let (rank, world_size) = (options.rank, options.world_size);
        Ok(Self {
            rank,
            world_size,
            sequence: 0,
            failure: None,
            mesh: Some(mesh),
            shared,
            gpus: None,
            hub: meeting.hub,
        })
    }

    /// Leaves without a word, as a process that dies does. The others fail at once.
    pub fn abort(mut self) {
        // The farewell is told over the control connection; without the mesh there is none.
        self.mesh = None;
    }

    /// This process's number, `0..world_size`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Moves long `f32` buffers over NCCL from now on if every rank has it and a GPU, the `gpu`-th that it sees; else
    /// everything stays as it is. All ranks must call it. Says what it is now and, where it is not NCCL, why.
    ///
    /// On one machine memory is faster than the way to a GPU and back; this is for ranks on several.
    ///
    /// # Errors
    /// [`CommError`] when the ranks cannot agree; that there is no GPU is none.
    pub fn use_gpus(&mut self, gpu: usize) -> Result<(Backend, Option<NcclError>), CommError> {
        let patience = self.mesh.as_ref().map_or(std::time::Duration::from_secs(60), |mesh| mesh.patience);
        match Group::form(self, gpu, patience) {
            Ok(group) => {
                self.gpus = Some(group);
                Ok((self.backend(), None))
            }
            Err(NcclError::Comm(error)) => Err(error),
            Err(reason) => Ok((self.backend(), Some(reason))),
        }
    }

    /// The switch that ends what this communicator is blocked in.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.mesh.as_ref().map(|mesh| mesh.interrupt.clone())
    }

    /// By what data moves.
    pub fn backend(&self) -> Backend {
        if self.gpus.is_some() {
            return Backend::Nccl;
        }
        match (&self.mesh, &self.shared) {
            (None, _) => Backend::Alone,
            (Some(_), Some(_)) => Backend::Memory,
            (Some(_), None) => Backend::Tcp,
        }
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.world_size
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Some(mesh) = &mut self.mesh {
            let rank = self.rank;
            let farewell = match &self.failure {
                None if std::thread::panicking() => Message::Lost { rank, reason: "it panicked".to_owned() },
                None => Message::Left { rank },
                // The hub keeps its first verdict; this one counts only if it knows of none.
                Some(error) => Message::Lost { rank: error.rank().unwrap_or(rank), reason: error.to_string() },
            };
            mesh.control.tell(&farewell);
        }
        // Closing the line ends the hub.
        self.mesh = None;
        if let Some(hub) = self.hub.take() {
            // A hub that panicked has nobody left to tell.
            let _ = hub.join();
        }
    }
}
