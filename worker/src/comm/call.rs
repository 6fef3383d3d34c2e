//! What a rank is doing, as it tells the others before any data.

use super::element;

/// The size of a call's description on the wire.
pub(super) const CALL_BYTES: usize = 32;

/// What a rank is doing, so that its neighbour can compare it with its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) sequence: u64,
    pub(super) operation: Operation,
    pub(super) element: u8,
    pub(super) reduce: u8,
    pub(super) root: u32,
    pub(super) length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    AllReduce,
    Broadcast,
    AllGather,
    ReduceScatter,
    Barrier,
    /// The ranks look for memory that all of them can map.
    Share,
}

impl Operation {
    const ALL: [Self; 6] =
        [Self::AllReduce, Self::Broadcast, Self::AllGather, Self::ReduceScatter, Self::Barrier, Self::Share];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::Barrier => "barrier",
            Self::Share => "connect",
        }
    }
}

impl Call {
    pub(super) fn encode(self) -> [u8; CALL_BYTES] {
        let operation = Operation::ALL.iter().position(|known| *known == self.operation).unwrap_or_default();
        let mut bytes = [0; CALL_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8] = operation as u8;
        bytes[9] = self.element;
        bytes[10] = self.reduce;
        bytes[12..16].copy_from_slice(&self.root.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The words for a message.
    pub(super) fn describe_own(self) -> String {
        Self::describe(&self.encode())
    }

    /// The words for a message, from the wire's bytes, which may come from a program gone wrong.
    pub(super) fn describe(bytes: &[u8; CALL_BYTES]) -> String {
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(long)
        };
        let operation = Operation::ALL.get(usize::from(bytes[8])).map_or("an unknown operation", |known| known.name());
        let reduce = match bytes[10] {
            1 => ", sum",
            2 => ", mean",
            3 => ", min",
            4 => ", max",
            _ => "",
        };
        let root = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let root = if bytes[8] == Operation::Broadcast as u8 { format!(", root {root}") } else { String::new() };
        let sequence = long(0);
        if bytes[8] == Operation::Barrier as u8 {
            return format!("barrier() as call {sequence}");
        }
        format!("{operation}({} × {}{reduce}{root}) as call {sequence}", long(16), element::name_of(bytes[9]))
    }
}
