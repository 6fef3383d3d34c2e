//! The collectives, and which algorithm each takes.
//!
//! On one machine data goes through memory (see `shared`). Else over connections (see `exchange`): where each rank has one
//! to every other, short buffers travel straight to whom they are for: whole, in one step, or in segments, in two. Long
//! buffers and large worlds move one way around the ring.
//!
//! Around the ring an all-reduce of `n` ranks cuts the buffer into `n` segments. In the first half (reduce-scatter) each
//! segment travels `n − 1` hops and gathers every rank's values; in the second (all-gather) the finished segments travel
//! on to everybody. Each rank sends `2 (n − 1) / n` of the buffer, whatever `n` is, which is the least possible. The
//! order of additions is given by the segment's number alone.

use std::ops::Range;

use super::call::{Call, Operation};
use super::element::{self, Element, Number, ReduceOp};
use super::exchange::{Incoming, Outgoing, exchange};
use super::mesh::Mesh;
use super::shared::{self, Shared};
use super::{CommError, Communicator};
use crate::nccl::{DeviceBuffer, Group, NcclError};

/// Up to this many bytes, over all other ranks together, an all-reduce sends whole buffers in one step: the system calls
/// and wake-ups of a second step cost more than the copies.
const WHOLE_BYTES: usize = 64 * 1024;
/// Up to this many bytes data goes straight to whom it is for; longer buffers go around, where one connection on each side
/// stays busy and its buffers warm.
const DIRECT_BYTES: usize = 256 * 1024;
/// From this many bytes on the way to a GPU and back pays, where there are GPUs.
const GPU_BYTES: usize = 1 << 20;
/// Up to this many bytes, over all other ranks together, a broadcast goes straight from the root to everybody.
const FAN_OUT_BYTES: usize = 256 * 1024;
/// The part of `length` elements that segment `index` of `count` covers; lengths differ by one at most.
pub(super) fn segment(length: usize, count: usize, index: usize) -> Range<usize> {
    let (quotient, remainder) = (length / count, length % count);
    let start = index * quotient + index.min(remainder);
    start..start + quotient + usize::from(index < remainder)
}

/// A rank's place in a call: which algorithm, and how.
struct Pass<'mesh> {
    mesh: &'mesh mut Mesh,
    shared: Option<&'mesh mut Shared>,
    call: Call,
}

impl Pass<'_> {
    /// A piece to every other rank, the next one first. `bytes` says which part of the buffer.
    fn outgoing(&self, bytes: impl Fn(usize) -> Range<usize>) -> Vec<Outgoing> {
        let (rank, world) = (self.mesh.rank, self.mesh.world());
        let peers = (1..world).map(|step| (rank + step) % world);
        peers.map(|peer| Outgoing { peer, range: bytes(peer), first: true, after: None }).collect()
    }

    /// A piece from every other rank, the previous one first: the mirror of `outgoing`.
    fn incoming(&self, bytes: impl Fn(usize) -> Range<usize>) -> Vec<Incoming> {
        let (rank, world) = (self.mesh.rank, self.mesh.world());
        let peers = (1..world).rev().map(|step| (rank + step) % world);
        peers.map(|peer| Incoming { peer, range: bytes(peer), first: true, reduce: false }).collect()
    }

    fn all_reduce<T: Number>(self, data: &mut [T], op: ReduceOp) -> Result<(), CommError> {
        let world = self.mesh.world();
        if let Some(shared) = self.shared {
            let combine = |ours: &mut [T], theirs: &[T]| reduce(ours, theirs, op);
            return shared.all_reduce(self.mesh, self.call, data, combine, |sum| finish(sum, op, world));
        }
        if !self.mesh.is_full() || size_of_val(data) > DIRECT_BYTES {
            return self.reduce_around(data, op, true);
        }
        if size_of_val(data) * (world - 1) <= WHOLE_BYTES {
            return self.all_reduce_whole(data, op);
        }
        self.reduce_directly(data, op, true)
    }

    /// Everybody's whole buffer to everybody; then each rank does the same additions.
    fn all_reduce_whole<T: Number>(self, data: &mut [T], op: ReduceOp) -> Result<(), CommError> {
        let (rank, world, length) = (self.mesh.rank, self.mesh.world(), data.len());
        let mut all = vec![T::default(); length * world];
        all[rank * length..][..length].copy_from_slice(data);
        self.gather_directly(&mut all)?;
        data.copy_from_slice(&all[..length]);
        for other in 1..world {
            reduce(data, &all[other * length..][..length], op);
        }
        finish(data, op, world);
        Ok(())
    }

    /// After this, segment `rank` of `data` is reduced over all ranks, and with `gather` the others are too.
    fn reduce_directly<T: Number>(self, data: &mut [T], op: ReduceOp, gather: bool) -> Result<(), CommError> {
        let (world, length) = (self.mesh.world(), data.len());
        let own = span::<T>(length, world, self.mesh.rank);
        let mut outgoing = self.outgoing(|peer| span::<T>(length, world, peer));
        let mut incoming = self.incoming(|_| own.clone());
        incoming.iter_mut().for_each(|piece| piece.reduce = true);
        if gather {
            // As far as the last of the others' values have been added.
            let after = incoming.len().checked_sub(1);
            let finished = self.outgoing(|_| own.clone()).into_iter();
            outgoing.extend(finished.map(|piece| Outgoing { first: false, after, ..piece }));
            let others = self.incoming(|peer| span::<T>(length, world, peer)).into_iter();
            incoming.extend(others.map(|piece| Incoming { first: false, ..piece }));
        }
        self.reduce_pieces(data, op, (&outgoing, &incoming))
    }

    fn reduce_pieces<T: Number>(
        self,
        data: &mut [T],
        op: ReduceOp,
        pieces: (&[Outgoing], &[Incoming]),
    ) -> Result<(), CommError> {
        let world = self.mesh.world();
        exchange(self.mesh, self.call, data, pieces, |ours, theirs, last| {
            reduce(ours, theirs, op);
            if last {
                finish(ours, op, world);
            }
        })
    }

    /// As `reduce_directly`, around the ring.
    fn reduce_around<T: Number>(self, data: &mut [T], op: ReduceOp, gather: bool) -> Result<(), CommError> {
        let (rank, world, length) = (self.mesh.rank, self.mesh.world(), data.len());
        let hops = world - 1;
        // What leaves first ends, after all the others, at the rank before.
        let segment = |hop: usize| span::<T>(length, world, (rank + 2 * world - 1 - hop) % world);
        let all = if gather { 2 * hops } else { hops };
        let (outgoing, incoming) = ring(self.mesh.neighbours(), all, segment, |hop| hop < hops);
        self.reduce_pieces(data, op, (&outgoing, &incoming))
    }

    fn gather_directly<T: Element>(self, data: &mut [T]) -> Result<(), CommError> {
        let (world, length) = (self.mesh.world(), data.len());
        let own = span::<T>(length, world, self.mesh.rank);
        let outgoing = self.outgoing(|_| own.clone());
        let incoming = self.incoming(|peer| span::<T>(length, world, peer));
        self.pass_on(data, &outgoing, &incoming)
    }

    /// Moves pieces without adding any.
    fn pass_on<T: Element>(
        self,
        data: &mut [T],
        outgoing: &[Outgoing],
        incoming: &[Incoming],
    ) -> Result<(), CommError> {
        exchange(self.mesh, self.call, data, (outgoing, incoming), |_, _, _| {})
    }

    fn reduce_scatter<T: Number>(self, data: &mut [T], op: ReduceOp) -> Result<(), CommError> {
        if self.shared.is_some() {
            return self.all_reduce(data, op);
        }
        if self.mesh.is_full() && size_of_val(data) <= DIRECT_BYTES {
            return self.reduce_directly(data, op, false);
        }
        self.reduce_around(data, op, false)
    }

    /// Each rank's segment of `data` to every other; all segments are of one length.
    fn all_gather<T: Element>(self, data: &mut [T]) -> Result<(), CommError> {
        if let Some(shared) = self.shared {
            let (world, length) = (self.mesh.world(), data.len());
            let place = |rank| Some(segment(length, world, rank));
            return shared.pass(self.mesh, self.call, data, length / world, place);
        }
        if self.mesh.is_full() && size_of_val(data) <= DIRECT_BYTES {
            return self.gather_directly(data);
        }
        let (rank, world, length) = (self.mesh.rank, self.mesh.world(), data.len());
        let segment_of = |hop: usize| span::<T>(length, world, (rank + 2 * world - hop) % world);
        let (outgoing, incoming) = ring(self.mesh.neighbours(), world - 1, segment_of, |_| false);
        self.pass_on(data, &outgoing, &incoming)
    }

    fn broadcast<T: Element>(self, data: &mut [T], root: usize) -> Result<(), CommError> {
        let (rank, world, bytes) = (self.mesh.rank, self.mesh.world(), size_of_val(data));
        if let Some(shared) = self.shared {
            let length = data.len();
            return shared.pass(self.mesh, self.call, data, length, |rank| (rank == root).then_some(0..length));
        }
        if !self.mesh.is_full() || bytes * (world - 1) > FAN_OUT_BYTES {
            // From the root rightwards, bytes going on as they come. Everybody hears what everybody calls.
            let (right, left) = self.mesh.neighbours();
            let (receives, sends) = (rank != root, right != root);
            let part = |any: bool| if any { 0..bytes } else { 0..0 };
            let after = receives.then_some(0);
            let outgoing = Outgoing { peer: right, range: part(sends), first: true, after };
            let incoming = Incoming { peer: left, range: part(receives), first: true, reduce: false };
            return self.pass_on(data, &[outgoing], &[incoming]);
        }
        let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
        if rank == root {
            outgoing = self.outgoing(|_| 0..bytes);
        } else {
            incoming.push(Incoming { peer: root, range: 0..bytes, first: true, reduce: false });
        }
        self.pass_on(data, &outgoing, &incoming)
    }

    /// Everybody hears from everybody that it has come.
    fn barrier(self) -> Result<(), CommError> {
        if let Some(shared) = self.shared {
            return shared.pass::<u8>(self.mesh, self.call, &mut [], 0, |_| None);
        }
        if self.mesh.is_full() {
            return self.gather_directly::<u8>(&mut []);
        }
        // A byte that goes on only after one came, once for each other rank: the last comes when all have started.
        let (outgoing, incoming) = ring(self.mesh.neighbours(), self.mesh.world() - 1, |_| 0..1, |_| false);
        self.pass_on(&mut [0_u8], &outgoing, &incoming)
    }
}

/// The bytes of segment `index`.
fn span<T>(length: usize, count: usize, index: usize) -> Range<usize> {
    let Range { start, end } = segment(length, count, index);
    start * size_of::<T>()..end * size_of::<T>()
}

/// `hops` pieces to the right, each but the first as it came from the left the hop before. `segment` says which bytes leave
/// at a hop, `reduce` at which hops what comes is added.
fn ring(
    (right, left): (usize, usize),
    hops: usize,
    segment: impl Fn(usize) -> Range<usize>,
    reduce: impl Fn(usize) -> bool,
) -> (Vec<Outgoing>, Vec<Incoming>) {
    let outgoing = |hop: usize| {
        let after = hop.checked_sub(1);
        Outgoing { peer: right, range: segment(hop), first: hop == 0, after }
    };
    // What comes at a hop leaves at the next.
    let incoming = |hop: usize| Incoming { peer: left, range: segment(hop + 1), first: hop == 0, reduce: reduce(hop) };
    ((0..hops).map(outgoing).collect(), (0..hops).map(incoming).collect())
}

fn reduce<T: Number>(into: &mut [T], arrived: &[T], op: ReduceOp) {
    // One loop per operation, so that each is vectorised.
    let mut combine =
        |op| into.iter_mut().zip(arrived).for_each(|(ours, theirs)| *ours = T::combine(op, *theirs, *ours));
    match op {
        ReduceOp::Sum | ReduceOp::Mean => combine(ReduceOp::Sum),
        ReduceOp::Min => combine(ReduceOp::Min),
        ReduceOp::Max => combine(ReduceOp::Max),
    }
}

/// What is left to do with a sum of all ranks' values.
fn finish<T: Number>(data: &mut [T], op: ReduceOp, world: usize) {
    if op == ReduceOp::Mean {
        for value in data {
            *value = value.divide(world);
        }
    }
}

fn over_gpus(group: &mut Group, data: &mut [f32], op: ReduceOp) -> Result<(), CommError> {
    let failed = |error: NcclError| {
        if error == NcclError::Interrupted {
            return CommError::Interrupted;
        }
        CommError::Io { peer: "the other ranks' GPUs".to_owned(), reason: error.to_string() }
    };
    let mut buffer = DeviceBuffer::new(group.device(), data.len()).map_err(failed)?;
    buffer.upload(data).map_err(failed)?;
    group.all_reduce(&mut buffer, op).map_err(failed)?;
    buffer.download(data).map_err(failed)
}

/// Maps memory that all ranks share, if all of them can; else `None` on every rank.
pub(super) fn share(mesh: &mut Mesh) -> Result<Option<Shared>, CommError> {
    let call = |sequence, reduce, length| Call {
        sequence,
        operation: Operation::Share,
        element: element::code::<i64>(),
        reduce,
        root: 0,
        length,
    };
    let (rank, world) = (mesh.rank, mesh.world());
    let (mut memory, mut offer) = if rank == 0 { shared::offer(world) } else { (None, [0; 3]) };
    Pass { mesh, shared: None, call: call(0, 0, 3) }.broadcast(&mut offer, 0)?;
    if rank != 0 {
        memory = shared::take(world, offer);
    }
    let mut all_have_it = [i64::from(memory.is_some())];
    Pass { mesh, shared: None, call: call(1, ReduceOp::Min.code(), 1) }.all_reduce(&mut all_have_it, ReduceOp::Min)?;
    Ok(memory.filter(|_| all_have_it == [1]).map(|mut memory| {
        memory.close();
        Shared::new(memory, rank, world)
    }))
}

impl Communicator {
    /// Replaces `data` on every rank by the element-wise reduction over all ranks. All ranks must call it with the
    /// same length, type and operation.
    ///
    /// The result is the same bit for bit on every rank and in every run of the same world size.
    ///
    /// # Errors
    /// See [`CommError`]; `data` then holds partial results.
    pub fn all_reduce<T: Number>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), CommError> {
        let length = data.len();
        if size_of_val(data) >= GPU_BYTES
            && self.gpus.is_some()
            && let Some(data) = element::as_f32(data)
        {
            return self.reduce_over_gpus(data, op);
        }
        self.call::<T>(Operation::AllReduce, op.code(), 0, length, |pass| pass.all_reduce(data, op))
    }

    fn reduce_over_gpus(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CommError> {
        // The others may call something else, or with another length: that is told as always, before NCCL would hang.
        self.call::<f32>(Operation::AllReduce, op.code(), 0, data.len(), |pass| pass.barrier())?;
        let Some(group) = &mut self.gpus else { return Ok(()) };
        let result = over_gpus(group, data, op);
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    /// Replaces `data` on every rank by rank `root`'s. All ranks must call it with the same length, type and root.
    ///
    /// # Errors
    /// See [`CommError`]; [`CommError::Options`] for a root that does not exist.
    pub fn broadcast<T: Element>(&mut self, data: &mut [T], root: usize) -> Result<(), CommError> {
        if root >= self.world_size {
            return Err(CommError::Options(format!("there is no rank {root} among {} to send from", self.world_size)));
        }
        let length = data.len();
        self.call::<T>(Operation::Broadcast, 0, root, length, |pass| pass.broadcast(data, root))
    }

    /// Every rank's `input`, one after another in rank order: `world_size × input.len()` elements. All ranks must give
    /// the same length.
    ///
    /// # Errors
    /// See [`CommError`].
    pub fn all_gather<T: Element>(&mut self, input: &[T]) -> Result<Vec<T>, CommError> {
        let mut all = vec![T::default(); input.len() * self.world_size];
        all[self.rank * input.len()..][..input.len()].copy_from_slice(input);
        self.call::<T>(Operation::AllGather, 0, 0, input.len(), |pass| pass.all_gather(&mut all))?;
        Ok(all)
    }

    /// This rank's share of the element-wise reduction over all ranks: elements `rank × n .. (rank + 1) × n` with
    /// `n = input.len() / world_size`.
    ///
    /// # Errors
    /// See [`CommError`]; [`CommError::Options`] when the length is not a multiple of the world size.
    pub fn reduce_scatter<T: Number>(&mut self, input: &[T], op: ReduceOp) -> Result<Vec<T>, CommError> {
        if !input.len().is_multiple_of(self.world_size) {
            let (length, world) = (input.len(), self.world_size);
            return Err(CommError::Options(format!("{length} elements cannot be shared evenly by {world} ranks")));
        }
        let mut data = input.to_vec();
        self.call::<T>(Operation::ReduceScatter, op.code(), 0, input.len(), |pass| pass.reduce_scatter(&mut data, op))?;
        Ok(data[segment(input.len(), self.world_size, self.rank)].to_vec())
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// See [`CommError`].
    pub fn barrier(&mut self) -> Result<(), CommError> {
        self.call::<u8>(Operation::Barrier, 0, 0, 0, |pass| pass.barrier())
    }

    /// Runs one collective: alone it is nothing to do, and the first error is the last.
    fn call<T: Element>(
        &mut self,
        operation: Operation,
        reduce: u8,
        root: usize,
        length: usize,
        body: impl FnOnce(Pass<'_>) -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        self.sequence += 1;
        let Some(mesh) = &mut self.mesh else { return Ok(()) };
        let call = Call {
            sequence: self.sequence,
            operation,
            element: element::code::<T>(),
            reduce,
            root: u32::try_from(root).unwrap_or(u32::MAX),
            length: length as u64,
        };
        let result = body(Pass { mesh, shared: self.shared.as_mut(), call });
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_the_buffer_once() {
        for length in [0, 1, 5, 8, 17] {
            for count in 1..9 {
                let covered: Vec<usize> = (0..count).flat_map(|index| segment(length, count, index)).collect();
                assert_eq!(covered, (0..length).collect::<Vec<_>>(), "{length} in {count}");
            }
        }
    }
}
