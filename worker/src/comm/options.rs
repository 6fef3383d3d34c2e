//! Who this rank is and where the others are.

use std::time::Duration;

use super::{CommError, Interrupt};

/// How long ranks may take to come together, if nothing else is said. Pods of one gang start together; two minutes
/// cover a slow image or a slow interpreter.
const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a collective may stand still. Five minutes cover a rank that evaluates or writes a checkpoint alone.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(300);

/// Everything [`Communicator::connect`](super::Communicator::connect) needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// This process, `0..world_size`.
    pub rank: usize,
    /// How many processes there are; at least 1.
    pub world_size: usize,
    /// Where rank 0 listens: a host name or an address.
    pub master_addr: String,
    /// Where rank 0 listens: the TCP port.
    pub master_port: u16,
    /// A secret of the job. Processes that do not know it are refused. Empty where there is none.
    pub token: String,
    /// The job's incarnation. Processes of another one are refused.
    pub generation: u64,
    /// How long the ranks may take to come together.
    pub rendezvous_timeout: Duration,
    /// How long a collective may stand still without a byte moving.
    pub operation_timeout: Duration,
    /// A switch by which another thread ends the rendezvous and every collective; `None` where nobody has one.
    pub interrupt: Option<Interrupt>,
    /// Whether ranks of one machine may exchange data through memory instead of sockets. All ranks must say the same.
    pub shared_memory: bool,
    /// Whether a store as PyTorch's is at the master's address: then rank 0 listens elsewhere and leaves word there.
    pub store: bool,
}

impl Options {
    /// Rank `rank` of `world_size` at `master_addr:master_port`, without a token, in generation 0.
    pub fn new(rank: usize, world_size: usize, master_addr: impl Into<String>, master_port: u16) -> Self {
        Self {
            rank,
            world_size,
            master_addr: master_addr.into(),
            master_port,
            token: String::new(),
            generation: 0,
            rendezvous_timeout: RENDEZVOUS_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            interrupt: None,
            shared_memory: true,
            store: false,
        }
    }

    /// Reads what the launcher (or torchrun, or a PyTorchJob) sets: `RANK`, `WORLD_SIZE`, `MASTER_ADDR`,
    /// `MASTER_PORT`; then `TRAINYARD_JOB_TOKEN`, `TRAINYARD_GENERATION`, `TRAINYARD_RENDEZVOUS_TIMEOUT` and
    /// `TRAINYARD_OPERATION_TIMEOUT` (both in seconds).
    ///
    /// `TRAINYARD_SHARED_MEMORY=0` keeps data on sockets even where all ranks are on one machine.
    ///
    /// Without `RANK` and `WORLD_SIZE` the process is alone: rank 0 of 1.
    ///
    /// # Errors
    /// [`CommError::Options`] when a variable is missing or is not a number.
    pub fn from_env() -> Result<Self, CommError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// [`Options::from_env`] over any source of variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, CommError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let options = match (lookup("RANK"), lookup("WORLD_SIZE")) {
            (None, None) => Self::new(0, 1, "127.0.0.1", 0),
            (Some(rank), Some(world)) => {
                let world_size = number("WORLD_SIZE", &world)?;
                let mut options = Self::new(number("RANK", &rank)?, world_size, "127.0.0.1", 0);
                if world_size > 1 {
                    options.master_addr = lookup("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
                    let port = lookup("MASTER_PORT").ok_or_else(|| missing("MASTER_PORT"))?;
                    options.master_port = number("MASTER_PORT", &port)?;
                }
                options
            }
            (None, Some(_)) => return Err(missing("RANK")),
            (Some(_), None) => return Err(missing("WORLD_SIZE")),
        };
        let mut options = options;
        options.token = lookup("TRAINYARD_JOB_TOKEN").unwrap_or_default();
        if let Some(generation) = lookup("TRAINYARD_GENERATION") {
            options.generation = number("TRAINYARD_GENERATION", &generation)?;
        }
        if let Some(timeout) = lookup("TRAINYARD_RENDEZVOUS_TIMEOUT") {
            options.rendezvous_timeout = Duration::from_secs(number("TRAINYARD_RENDEZVOUS_TIMEOUT", &timeout)?);
        }
        if let Some(timeout) = lookup("TRAINYARD_OPERATION_TIMEOUT") {
            options.operation_timeout = Duration::from_secs(number("TRAINYARD_OPERATION_TIMEOUT", &timeout)?);
        }
        // The launcher's (or torchrun's) word that the master's port is its own.
        options.store = options.world_size > 1 && lookup("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        options.shared_memory = lookup("TRAINYARD_SHARED_MEMORY").is_none_or(|value| value != "0");
        options.check()?;
        Ok(options)
    }

    pub(super) fn check(&self) -> Result<(), CommError> {
        if self.world_size == 0 || self.rank >= self.world_size {
            return Err(CommError::Options(format!(
                "rank {} is not one of {} ranks (0 to {})",
                self.rank,
                self.world_size,
                self.world_size.saturating_sub(1)
            )));
        }
        Ok(())
    }

    /// `MASTER_ADDR:MASTER_PORT` for messages.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.master_addr, self.master_port)
    }
}

fn missing(name: &str) -> CommError {
    CommError::Options(format!("{name} is not set; start the program with `trainyard launch --nproc N -- …`"))
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N, CommError> {
    value.trim().parse().map_err(|_| CommError::Options(format!("{name}={value} is not a number in range")))
}
