//! The invariants of the module's documentation, derived anew.

use std::collections::BTreeSet;

use super::{Phase, Rendezvous, World};

impl Rendezvous {
    /// Re-derives the invariants.
    ///
    /// # Errors
    /// The label and the words of the first one that does not hold.
    pub fn check(&self) -> Result<(), String> {
        if let Phase::Running { world, ready, finished, .. } = &self.phase {
            self.check_world(world)?;
            if world.generation > self.fence.last() {
                return Err(format!(
                    "R-2: generation {:?} runs, the last was {:?}",
                    world.generation,
                    self.fence.last()
                ));
            }
            if let Some(other) = ready.iter().chain(finished).find(|id| world.seat_of(id).is_none()) {
                return Err(format!("R-3: {other:?} is ready or finished without a seat"));
            }
        }
        self.check_places()?;
        if let Some(total) = self.config.budget.total
            && self.restarts > total.max(self.adopted_restarts())
        {
            return Err(format!("R-5: {} restarts, {total} allowed", self.restarts));
        }
        Ok(())
    }

    /// Restarts that another coordinator allowed.
    fn adopted_restarts(&self) -> u32 {
        self.restarts.saturating_sub(self.spent.values().sum())
    }

    pub(super) fn check_world(&self, world: &World) -> Result<(), String> {
        let count = u32::try_from(world.seats.len()).unwrap_or(u32::MAX);
        let members: BTreeSet<_> = world.seats.iter().map(|seat| &seat.member).collect();
        if count == 0 || count > self.widest || members.len() != world.seats.len() {
            return Err(format!("R-1: {count} seats for {} members", members.len()));
        }
        let mut next: u32 = 0;
        for (node_rank, seat) in (0..).zip(&world.seats) {
            if seat.node_rank != node_rank || seat.first_rank != next {
                return Err(format!("R-1: seat {seat:?} where node rank {node_rank} from rank {next} was due"));
            }
            next = next.checked_add(seat.ranks).ok_or("R-1: more ranks than can be counted")?;
        }
        Ok(())
    }

    fn check_places(&self) -> Result<(), String> {
        let pods: BTreeSet<&str> = self.members.keys().map(|id| id.pod.as_str()).collect();
        if pods.len() != self.members.len() {
            return Err("R-4: a pod has two members".to_owned());
        }
        let mut indexes = BTreeSet::new();
        let doubled =
            self.members.values().filter_map(|member| member.hello.index).find(|index| !indexes.insert(*index));
        doubled.map_or(Ok(()), |index| Err(format!("R-4: index {index} has two members")))
    }
}
