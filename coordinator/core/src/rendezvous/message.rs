//! What launchers say, and what they are told.

use serde::{Deserialize, Serialize};
use trainyard_proto::tempo::Silence;

use super::Config;
use super::world::{Generation, MemberId, Seat, World};

/// The first message of a stream, and of each stream that replaces a broken one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The member's place, where the manifest fixes it (the pod's index); else places are given in the order of joining.
    pub index: Option<u32>,
    /// Where the other members reach it.
    pub address: String,
    /// The port that it holds for the store of a generation to come: a new one with each stream, because the old one may
    /// have been announced in an order that reached others and not it. It keeps the old ones, too, until it obeys an
    /// order: the order that was lost may come again.
    pub port: u16,
    /// How many ranks it starts.
    pub ranks: u32,
    /// The highest generation that it was ever ordered to form.
    pub seen: Generation,
    /// What its ranks do.
    pub ranks_are: Standing,
    /// Name of its host, for people.
    pub host: String,
    /// What the API says of its pod, not the launcher: its name and its node, for the time when the pod is gone.
    #[serde(default)]
    pub place: Box<Place>,
}

/// A pod, as the API has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// Its name.
    pub pod: Option<String>,
    /// The node that it is bound to.
    pub node: Option<String>,
}

/// What a member's ranks do, as it can tell after the coordinator was away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// There are none.
    Idle,
    /// They run.
    Running(Part),
    /// They ended well, and the launcher waits for those of the others.
    Finished(Part),
    /// One failed, and nothing was ordered since.
    Failed {
        /// In which generation.
        generation: Generation,
        /// How.
        failure: Failure,
    },
}

impl Standing {
    /// The part of a generation that is not over.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        match self {
            Self::Running(part) | Self::Finished(part) => Some(part),
            Self::Idle | Self::Failed { .. } => None,
        }
    }

    /// The generation that the ranks belong to, or did until one of them failed.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Running(part) | Self::Finished(part) => Some(part.generation),
            Self::Failed { generation, .. } => Some(*generation),
            Self::Idle => None,
        }
    }
}

/// A member's part in a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Which.
    pub generation: Generation,
    /// [`World::digest`].
    pub digest: u64,
    /// [`World::restarts`].
    pub restarts: u32,
    /// The member's own seat.
    pub seat: Seat,
    /// Seats of the whole world, and its ranks: whoever comes later knows by them what is missing. 0 where the member does not
    /// know.
    #[serde(default)]
    pub pods: u32,
    /// See `pods`.
    #[serde(default)]
    pub ranks: u32,
}

/// Why a rank, and with it its generation, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// It returned a code other than 0.
    ExitCode,
    /// A signal ended it.
    Signal,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// A Python module was not found or could not be loaded.
    ImportError,
    /// The program raised an exception.
    Exception,
    /// The ranks did not all meet in time.
    RendezvousTimeout,
    /// It stood still.
    Hang,
    /// Its node, or its launcher, is gone.
    NodeLost,
    /// A GPU reported an Xid error.
    GpuXid,
    /// The check before the job found a bad link, machine or GPU.
    Preflight,
}

/// The end of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Which rank, among all; `None` when a whole member is gone.
    pub rank: Option<u32>,
    /// Why.
    pub cause: Cause,
    /// The exit code that it stands for (128 + n for signal n).
    pub code: i32,
    /// In words: the first meaningful line of the rank's own.
    pub message: String,
    /// Whether it only follows from the failure of another rank, whose launcher may tell of it a moment later.
    #[serde(default)]
    pub secondary: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// A member opened a stream.
    Joined {
        /// Who.
        member: MemberId,
        /// Which stream: higher than those before it.
        stream: u64,
        /// Its first message.
        hello: Hello,
    },
    /// A stream broke. The member's ranks may well run on.
    Away {
        /// Whose.
        member: MemberId,
        /// Which.
        stream: u64,
    },
    /// A member holds a port for the store of a generation to come.
    Holds {
        /// Who.
        member: MemberId,
        /// The port.
        port: u16,
        /// The last generation that it has seen: the port is for a later one.
        seen: Generation,
    },
    /// A pod is known to have ended, with all that ran in it.
    PodGone {
        /// UID of the pod.
        pod: String,
    },
    /// A pod is known to have ended well, with all that ran in it. Launchers end well only when they were released, and that
    /// is when the ranks of all had finished.
    PodDone {
        /// UID of the pod.
        pod: String,
    },
    /// A pod has to make room, and the others of its job go on: its launcher takes part no more.
    Leaves {
        /// UID of the pod.
        pod: String,
    },
    /// A member has started its ranks.
    Ready {
        /// Who.
        member: MemberId,
        /// Of which generation.
        generation: Generation,
    },
    /// A rank failed; the member has stopped, or is stopping, its others.
    Failed {
        /// Who says so.
        member: MemberId,
        /// In which generation.
        generation: Generation,
        /// What happened.
        failure: Failure,
    },
    /// All ranks of a member ended well.
    Finished {
        /// Who.
        member: MemberId,
        /// In which generation.
        generation: Generation,
    },
    /// The durable record covers all numbers up to this one.
    Reserved {
        /// The last of them.
        to: Generation,
    },
    /// The durable record could not be written.
    NotReserved {
        /// What it says, as far as is known: all numbers up to this one are taken, by whomever.
        recorded: Generation,
    },
    /// The job was started again by others so often.
    Elsewhere {
        /// In all.
        restarts: u32,
    },
    /// The job's size or terms have changed.
    Changed {
        /// What it allows now.
        config: Config,
    },
    /// The job is to end.
    Stop,
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// Write down durably that all generations up to this one are taken; answer with [`Input::Reserved`].
    Reserve {
        /// The last of them.
        to: Generation,
    },
    /// Order these members to end what they run and to start their part of this world.
    Form {
        /// Whom to tell: all of the world, or one whose stream broke before it heard.
        members: Vec<MemberId>,
        /// The world.
        world: World,
    },
    /// Order these members to end the ranks of this generation, and to wait.
    Halt {
        /// Whom.
        members: Vec<MemberId>,
        /// Which generation.
        generation: Generation,
    },
    /// Tell these members that all ranks wait for each other. It is theirs to know what the job wants done about that.
    Deadlock {
        /// Whom: the launcher of that rank.
        members: Vec<MemberId>,
        /// Which generation.
        generation: Generation,
        /// The first rank.
        rank: u32,
    },
    /// Tell these members, whose own ranks show nothing, that all that do are silent for long.
    Others {
        /// Whom.
        members: Vec<MemberId>,
        /// Which generation.
        generation: Generation,
        /// `None` when that is over.
        silence: Option<Silence>,
    },
    /// The job has ended: these launchers end too, with its result.
    Release {
        /// Whom.
        members: Vec<MemberId>,
        /// The result.
        outcome: Outcome,
    },
}

impl Output {
    /// Whether nothing depends on it: what is not heard now is said again.
    #[must_use]
    pub const fn may_be_dropped(&self) -> bool {
        matches!(self, Self::Others { .. })
    }
}

/// How a job's rendezvous ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// All ranks of one generation ended well.
    Succeeded,
    /// No restart is left for this failure.
    Failed(Failure),
    /// Somebody stopped the job.
    Stopped,
}
