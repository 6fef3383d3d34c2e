//! Ranks of one machine exchange data through memory that they share, not through sockets.
//!
//! The memory has three banks; each holds a slot per rank. A buffer goes through in chunks: every rank copies its chunk
//! into its slot, all meet, each reduces its share of the chunk over all slots, all meet, everybody copies the result
//! out. The three steps of three successive chunks are done between two meetings, each in a bank of its own, so a long
//! buffer costs one meeting per chunk. The count of chunks goes on from call to call: a rank that is still copying out
//! of one bank is never disturbed by one that has begun the next call.
//!
//! - **S-1.** Between two meetings a bank is in one step only, and in the reducing step rank `r` alone touches share `r`.
//! - **S-2.** Every call meets at least once, and after its first meeting each rank compares what all ranks called.
//! - **S-3.** A meeting is left only when all have come, or when somebody is known to be gone.

use std::ops::Range;
use std::time::Instant;

use super::CommError;
use super::call::{CALL_BYTES, Call};
use super::element::Element;
use super::memory::Memory;
use super::mesh::Mesh;

/// Bytes of one slot: against the time that two megabytes take, a meeting is short; and the banks of a few ranks stay in
/// the third-level cache.
const SLOT_BYTES: usize = 2 << 20;
const BANKS: usize = 3;

/// The shared memory and where this rank is in it.
#[derive(Debug)]
pub(super) struct Shared {
    memory: Memory,
    rank: usize,
    world: usize,
    /// Chunks so far, in all calls: the same on every rank.
    chunks: usize,
}

/// How large the memory is.
pub(super) fn bytes(world: usize) -> usize {
    descriptions(world) + BANKS * world * SLOT_BYTES
}

/// Where the slots begin: behind two descriptions of each rank, on a page.
fn descriptions(world: usize) -> usize {
    (Memory::COUNTERS + 2 * world * CALL_BYTES).next_multiple_of(4096)
}

impl Shared {
    pub(super) fn new(memory: Memory, rank: usize, world: usize) -> Self {
        Self { memory, rank, world, chunks: 0 }
    }

    fn slot(&self, chunk: usize, rank: usize) -> usize {
        descriptions(self.world) + ((chunk % BANKS) * self.world + rank) * SLOT_BYTES
    }

    /// `part` of rank `rank`'s slot.
    fn read<T: Element>(&self, chunk: usize, rank: usize, part: &Range<usize>) -> &[T] {
        let start = self.slot(chunk, rank) + part.start * size_of::<T>();
        // SAFETY: S-1: until the next meeting nobody writes there; the memory is as large as `bytes` says.
        unsafe { self.memory.slice(start, part.len()) }
    }

    /// The same to write.
    #[expect(
        clippy::mut_from_ref,
        reason = "the memory is other processes' too: S-1 keeps accesses apart, not borrows"
    )]
    fn write<T: Element>(&self, chunk: usize, rank: usize, part: &Range<usize>) -> &mut [T] {
        let start = self.slot(chunk, rank) + part.start * size_of::<T>();
        // SAFETY: S-1: until the next meeting nobody else touches it, and this rank holds no other slice of it.
        unsafe { self.memory.slice_mut(start, part.len()) }
    }

    fn meet(&self, mesh: &mut Mesh, call: Call) -> Result<(), CommError> {
        let began = Instant::now();
        self.memory.meet(self.world, mesh.looking, || mesh.watch(call.operation.name(), began))
    }

    /// The first meeting of a call (S-2).
    fn open(&self, mesh: &mut Mesh, call: Call) -> Result<(), CommError> {
        let place = |rank: usize| {
            // A rank may write its next description while others still compare this one: two take turns.
            let turn = (call.sequence % 2) as usize;
            Memory::COUNTERS + (turn * self.world + rank) * CALL_BYTES
        };
        let ours = call.encode();
        // SAFETY: each rank writes its own place only, and not again before everybody has compared (S-3, two turns).
        unsafe { self.memory.slice_mut::<u8>(place(self.rank), CALL_BYTES) }.copy_from_slice(&ours);
        self.meet(mesh, call)?;
        for rank in 0..self.world {
            let mut theirs = [0; CALL_BYTES];
            // SAFETY: as above.
            theirs.copy_from_slice(unsafe { self.memory.slice::<u8>(place(rank), CALL_BYTES) });
            if theirs != ours {
                return Err(mesh.disagree(rank, call.describe_own(), Call::describe(&theirs)));
            }
        }
        Ok(())
    }

    /// Meets for step `step` of a call.
    fn step(&self, mesh: &mut Mesh, call: Call, step: usize) -> Result<(), CommError> {
        if step == 0 { self.open(mesh, call) } else { self.meet(mesh, call) }
    }

    /// Replaces `data` by its reduction over all ranks. `reduce` adds its second argument to its first.
    pub(super) fn all_reduce<T: Element>(
        &mut self,
        mesh: &mut Mesh,
        call: Call,
        data: &mut [T],
        reduce: impl Fn(&mut [T], &[T]),
        finish: impl Fn(&mut [T]),
    ) -> Result<(), CommError> {
        let (parts, first) = (chunks::<T>(data.len()), self.chunks);
        self.chunks += parts.len();
        for step in 0..parts.len() + 2 {
            if let Some(part) = parts.get(step) {
                self.write(first + step, self.rank, &(0..part.len())).copy_from_slice(&data[part.clone()]);
            }
            if let Some((at, part)) = step.checked_sub(1).and_then(|at| Some((at, parts.get(at)?))) {
                let share = super::collective::segment(part.len(), self.world, self.rank);
                let sum = self.write(first + at, 0, &share);
                for rank in 1..self.world {
                    reduce(sum, self.read(first + at, rank, &share));
                }
                finish(sum);
            }
            if let Some((at, part)) = step.checked_sub(2).and_then(|at| Some((at, parts.get(at)?))) {
                data[part.clone()].copy_from_slice(self.read(first + at, 0, &(0..part.len())));
            }
            // What is left after the last meeting is to copy out, and nobody waits for that.
            if step <= parts.len() {
                self.step(mesh, call, step)?;
            }
        }
        Ok(())
    }

    /// Passes chunks of `input` to everybody; `take(rank, part, values)` gets what each rank gave. Only ranks for which
    /// `gives` says so give something.
    pub(super) fn pass<T: Element>(
        &mut self,
        mesh: &mut Mesh,
        call: Call,
        data: &mut [T],
        length: usize,
        gives: impl Fn(usize) -> Option<Range<usize>>,
    ) -> Result<(), CommError> {
        let (parts, first) = (chunks::<T>(length), self.chunks);
        self.chunks += parts.len();
        for step in 0..=parts.len() {
            if let (Some(part), Some(own)) = (parts.get(step), gives(self.rank)) {
                let source = &data[own.start + part.start..own.start + part.end];
                self.write(first + step, self.rank, &(0..part.len())).copy_from_slice(source);
            }
            if let Some((at, part)) = step.checked_sub(1).and_then(|at| Some((at, parts.get(at)?))) {
                for rank in (0..self.world).filter(|rank| *rank != self.rank) {
                    let Some(place) = gives(rank) else { continue };
                    let values = self.read(first + at, rank, &(0..part.len()));
                    data[place.start + part.start..place.start + part.end].copy_from_slice(values);
                }
            }
            if step < parts.len() || step == 0 {
                self.step(mesh, call, step)?;
            }
        }
        Ok(())
    }
}

/// The chunks of `length` elements.
fn chunks<T>(length: usize) -> Vec<Range<usize>> {
    let most = SLOT_BYTES / size_of::<T>();
    (0..length.div_ceil(most)).map(|index| index * most..((index + 1) * most).min(length)).collect()
}

/// What the ranks tell each other to find the memory: rank 0's process, its descriptor, and what is written there.
pub(super) fn offer(world: usize) -> (Option<Memory>, [i64; 3]) {
    match Memory::create(bytes(world)) {
        Ok((memory, offer)) => (Some(memory), offer),
        Err(error) => {
            tracing::debug!(%error, "no shared memory: data goes through sockets");
            (None, [0, -1, 0])
        }
    }
}

/// Maps what rank 0 offered; `None` where this process cannot reach it.
pub(super) fn take(world: usize, offer: [i64; 3]) -> Option<Memory> {
    Memory::open(bytes(world), offer).inspect_err(|error| tracing::debug!(%error, "cannot map rank 0's memory")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_buffer_once() {
        let most = SLOT_BYTES / 8;
        for length in [0, 1, most, most + 1, 3 * most] {
            let covered: usize = chunks::<f64>(length).iter().map(ExactSizeIterator::len).sum();
            assert_eq!(covered, length);
        }
    }
}
