//! What a training is made of at any moment, shared by ranks that meet: at the start, and after a failure.

use trainyard_worker::comm::{CommError, Communicator};

use crate::Trainer;

impl Trainer<'_> {
    /// Takes over what the rank that is furthest has: another one may have lost its process, or the last step's result.
    /// At the start that is rank 0's weights; the seed alone would do on equal machines.
    pub(crate) fn meet(&mut self, comm: &mut Communicator) -> Result<(), CommError> {
        let kept = self.metrics.as_ref().map_or(0, |(_, lines)| lines.len());
        let own = [whole(self.step), whole(self.global_batch), whole(kept)];
        let all = comm.all_gather(&own)?;
        // The first of several.
        let furthest = all.chunks_exact(own.len()).enumerate().max_by_key(|(rank, of)| (of[0], usize::MAX - rank));
        let Some((root, &[step, global_batch, kept])) = furthest else { return Ok(()) };
        comm.broadcast(&mut self.model.parameters, root)?;
        comm.broadcast(self.optimizer.velocity(), root)?;
        comm.broadcast(std::slice::from_mut(&mut self.loss), root)?;
        if let Some((_, lines)) = &mut self.metrics {
            lines.resize(size(kept), 0);
            comm.broadcast(lines, root)?;
        }
        self.step = size(step);
        self.resize(size(global_batch), comm.world_size());
        self.from = self.step;
        Ok(())
    }

    /// So many ranks may need another global batch than before; then the epoch that was begun begins anew.
    fn resize(&mut self, before: usize, world_size: usize) {
        let epochs = if before == 0 { 0 } else { self.step / self.data.train.len().div_ceil(before) };
        self.global_batch = self.args.batch.div_ceil(world_size) * world_size;
        self.steps = self.args.epochs * self.batches();
        if before != self.global_batch {
            self.step = epochs * self.batches();
        }
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}
