//! What can go wrong between ranks. Every variant that is somebody's fault names the rank.

use std::net::SocketAddr;
use std::time::Duration;

/// A failed rendezvous or collective. After the first error of a collective the communicator is unusable: every later
/// call returns the same error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// The environment or the options do not make sense.
    #[error("cannot set up the communicator: {0}")]
    Options(String),
    /// Rank 0 could not listen on the rendezvous address.
    #[error("rank 0 cannot listen on {address}: {reason}; is another job using that port?")]
    Listen {
        /// `MASTER_ADDR:MASTER_PORT`.
        address: String,
        /// The system's words.
        reason: String,
    },
    /// Rank 0 did not answer within the rendezvous timeout.
    #[error("rank {rank} got no answer from rank 0 at {address} within {}: {reason}", seconds(.waited))]
    MasterUnreachable {
        /// The rank that reports.
        rank: usize,
        /// `MASTER_ADDR:MASTER_PORT`.
        address: String,
        /// How long it tried.
        waited: Duration,
        /// The last attempt's error.
        reason: String,
    },
    /// Some ranks never came to the rendezvous.
    #[error("{} missing at the rendezvous ({world_size} expected) after {}", list(.ranks), seconds(.waited))]
    Missing {
        /// Who did not come.
        ranks: Vec<usize>,
        /// Ranks expected.
        world_size: usize,
        /// How long rank 0 waited.
        waited: Duration,
    },
    /// Rank 0 refused this process: a stranger, an old generation, a doubled rank, or a different world size.
    #[error("rank 0 refused rank {rank}: {reason}")]
    Refused {
        /// The rank that was refused.
        rank: usize,
        /// Why.
        reason: String,
    },
    /// A rank died, or left while others still needed it.
    #[error("rank {rank} is gone: {reason}")]
    PeerLost {
        /// Who.
        rank: usize,
        /// What was seen.
        reason: String,
    },
    /// A collective did not finish in time.
    #[error("{operation} timed out after {}: nothing moves between this rank and rank {rank}", seconds(.waited))]
    Timeout {
        /// The neighbour that neither sent nor took data.
        rank: usize,
        /// Which collective.
        operation: String,
        /// How long it waited.
        waited: Duration,
    },
    /// Two ranks called different collectives, or with different lengths or types.
    #[error("ranks disagree: this rank called {here}, rank {rank} called {there}")]
    Mismatch {
        /// The left neighbour.
        rank: usize,
        /// This rank's call.
        here: String,
        /// The neighbour's.
        there: String,
    },
    /// Another thread of this process threw the [`Interrupt`](super::Interrupt).
    #[error("interrupted by this process")]
    Interrupted,
    /// The network failed in a way that is nobody's death.
    #[error("connection to {peer}: {reason}")]
    Io {
        /// Whom this was with.
        peer: String,
        /// The system's words.
        reason: String,
    },
}

impl CommError {
    /// The rank at fault, where one is known.
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::Refused { rank, .. }
            | Self::PeerLost { rank, .. }
            | Self::Timeout { rank, .. }
            | Self::Mismatch { rank, .. } => Some(*rank),
            Self::Missing { ranks, .. } => ranks.first().copied(),
            Self::MasterUnreachable { .. } => Some(0),
            Self::Options(_) | Self::Listen { .. } | Self::Interrupted | Self::Io { .. } => None,
        }
    }

    /// Whether this ends the generation rather than the program: somebody is gone or does not come, and the job may go on
    /// with those who are left or come again. The other errors are mistakes, which a new generation would repeat.
    pub fn ends_generation(&self) -> bool {
        match self {
            Self::PeerLost { .. }
            | Self::Missing { .. }
            | Self::MasterUnreachable { .. }
            | Self::Timeout { .. }
            | Self::Interrupted
            | Self::Io { .. } => true,
            Self::Options(_) | Self::Listen { .. } | Self::Refused { .. } | Self::Mismatch { .. } => false,
        }
    }

    pub(super) fn io(peer: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::Io { peer: peer.to_string(), reason: error.to_string() }
    }

    pub(super) fn listen(address: SocketAddr, error: &std::io::Error) -> Self {
        Self::Listen { address: address.to_string(), reason: error.to_string() }
    }
}

fn seconds(duration: &Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

/// `rank 3 is`, `ranks 1, 2 and 5 are`.
fn list(ranks: &[usize]) -> String {
    match ranks {
        [] => "no ranks are".to_owned(),
        [one] => format!("rank {one} is"),
        [most @ .., last] => {
            let most: Vec<String> = most.iter().map(usize::to_string).collect();
            format!("ranks {} and {last} are", most.join(", "))
        }
    }
}
