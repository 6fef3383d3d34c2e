//! One generation's world: which launcher starts which ranks, and where they meet.

use serde::{Deserialize, Serialize};

/// The number of a rendezvous. Every restart and every resize is a new one; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// A launcher process. A launcher that is started again in the same pod is another member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberId {
    /// UID of the pod.
    pub pod: String,
    /// Grows with each launcher process of the pod.
    pub incarnation: u64,
}

/// A member's part in a world.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seat {
    /// Whose it is.
    pub member: MemberId,
    /// Rank of the member among the members, from 0 (torchrun's `GROUP_RANK`).
    pub node_rank: u32,
    /// Rank of its first process among all ranks.
    pub first_rank: u32,
    /// Number of its processes.
    pub ranks: u32,
    /// Where the others reach it: a name or an IP address.
    pub address: String,
    /// The port that it holds for the store of this generation.
    pub port: u16,
}

/// The ranks of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct World {
    /// Which generation.
    pub generation: Generation,
    /// By `node_rank`; never empty.
    pub seats: Vec<Seat>,
    /// How many generations of this job were ended by a failure before.
    pub restarts: u32,
}

impl World {
    /// Number of ranks.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.seats.iter().map(|seat| seat.ranks).sum()
    }

    /// The seat whose launcher serves the store.
    #[must_use]
    pub fn master(&self) -> Option<&Seat> {
        self.seats.first()
    }

    /// The seat of a member.
    #[must_use]
    pub fn seat_of(&self, member: &MemberId) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.member == *member)
    }

    /// A number that two worlds share only if they are the same world: FNV-1a over all that is in it.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.number(self.generation.0);
        hash.number(u64::from(self.restarts));
        for seat in &self.seats {
            hash.text(&seat.member.pod);
            hash.number(seat.member.incarnation);
            hash.number(u64::from(seat.first_rank) << 32 | u64::from(seat.ranks));
            hash.text(&seat.address);
            hash.number(u64::from(seat.port));
        }
        hash.0
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo; <http://www.isthe.com/chongo/tech/comp/fnv/>): the same on every machine.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// With its length, so that no two lists of texts look alike.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }
}
