//! Phrases by which programs and their libraries say what went wrong. Found in PyTorch 2.13, NCCL, gloo, JAX and Horovod.

use super::Kind;

/// Memory that could not be had.
const MEMORY: [&str; 12] = [
    "MemoryError",
    "OutOfMemoryError",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "HIP out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "RESOURCE_EXHAUSTED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "insufficient shared memory (shm)",
];

/// The ranks that did not all meet.
const RENDEZVOUS: [&str; 11] = [
    "waiting for clients",
    "The client socket has timed out",
    "The client socket has failed to connect",
    "Timeout waiting for key",
    "wait timeout after",
    "Gloo connectFullMesh failed",
    "RendezvousTimeoutError",
    "RendezvousConnectionError",
    "missing at the rendezvous",
    "got no answer from rank 0",
    "Barrier timed out",
];

/// A collective that did not end.
const HANG: [&str; 6] = [
    "Watchdog caught collective operation timeout",
    "ms for recv operation to complete",
    "ms for send operation to complete",
    "failed to pass monitoredBarrier",
    "Some NCCL operations have failed or timed out",
    "nothing moves between this rank and rank",
];

/// What only a survivor says, of another's end.
const SURVIVOR: [&str; 24] = [
    "Connection closed by remote peer",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "BrokenPipeError",
    "ConnectionResetError",
    "Transport endpoint is not connected",
    "recvValue failed",
    "sendBytes failed",
    "failed to recv, got 0 bytes",
    "Failed to recv, got 0 bytes",
    "Did the remote server shutdown or crash",
    "Connection was likely closed",
    "remote process exited",
    "remote process exiting",
    "NCCL communicator was aborted",
    "NCCL communicator encountered error set by ProcessGroupNCCL",
    "ncclRemoteError",
    "ncclSystemError",
    "Process group watchdog thread terminated",
    "Timed out waiting for peers",
    "Horovod has been shut down",
    "Terminating process because the JAX distributed service detected fatal errors",
    "the job's coordinator is gone",
];

/// A module or a library that could not be loaded. The first two are types, and stand at the beginning.
const IMPORT: [&str; 4] =
    ["ModuleNotFoundError", "ImportError", ": cannot open shared object file", ": No module named "];

/// What a message says.
pub(super) struct Meaning {
    pub(super) kind: Kind,
    pub(super) secondary: bool,
    pub(super) blames: Option<u32>,
}

/// What a message says by its phrases; `otherwise` if by none.
pub(super) fn meaning(line: &str, otherwise: Kind) -> Meaning {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| line.contains(phrase));
    let blames = blamed(line);
    let of = |kind, secondary| Meaning { kind, secondary, blames };
    if says(&MEMORY) {
        of(Kind::OutOfMemory, false)
    } else if says(&HANG) {
        of(Kind::Hang, true)
    } else if says(&RENDEZVOUS) {
        of(Kind::RendezvousTimeout, true)
    } else if says(&SURVIVOR) || is_peer_lost(line) {
        of(otherwise, true)
    } else if IMPORT.iter().any(|phrase| line.starts_with(phrase) || (phrase.starts_with(':') && line.contains(phrase)))
    {
        of(Kind::ImportError, false)
    } else {
        of(otherwise, false)
    }
}

/// Our own communicator's `rank 3 is gone: …`.
fn is_peer_lost(line: &str) -> bool {
    line.contains(" is gone: ") && number_after(line, "rank ").is_some()
}

/// The rank that a message names as the one that did not do its part.
fn blamed(line: &str) -> Option<u32> {
    if let Some((before, _)) = line.split_once(" failed to pass monitoredBarrier") {
        let (_, last) = before.rsplit_once("Rank")?;
        return last.trim_start_matches('s').trim().split(',').next()?.trim().parse().ok();
    }
    if is_peer_lost(line) {
        return number_after(line, "rank ");
    }
    if line.contains("missing at the rendezvous") {
        return number_after(line, "rank ").or_else(|| number_after(line, "ranks "));
    }
    line.split_once("nothing moves between this rank and ").and_then(|(_, rest)| number_after(rest, "rank "))
}

fn number_after(line: &str, word: &str) -> Option<u32> {
    line.match_indices(word).find_map(|(at, _)| {
        let digits: String = line[at + word.len()..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}
