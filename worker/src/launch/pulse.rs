//! What is told of the ranks now and then: how far they are, what they wait in, and the spares. Nothing depends on it.

use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::{Pulse, RankPulse};
use trainyard_proto::{pace, rendezvous};

use super::run::Launch;

/// How often. People and hang detection look a few times a second at most, and 512 launchers send to one coordinator.
const EVERY_MS: i64 = 500;

impl Launch<'_> {
    /// When the next pulse is due: where there are other launchers or somebody to show it to, and while ranks run.
    pub(super) fn pulse_due_ms(&self) -> Option<i64> {
        let led = self.pod.rendezvous.is_some() || self.pod.meeting.is_some();
        let wanted = led && self.present.is_some() && !self.processes.is_empty();
        wanted.then_some(self.pulsed_ms + EVERY_MS)
    }

    /// Tells what the ranks do, if it is time.
    pub(super) fn beat(&mut self) {
        let now_ms = self.now_ms();
        let Some(part) = self.present.as_ref().map(|present| &present.part) else { return };
        if self.pulse_due_ms().is_none_or(|due| now_ms < due) {
            return;
        }
        let pulse = |local_rank| {
            let rank = u32::try_from(part.rank(local_rank)).ok()?;
            let pulse = self.hangs.pulse(now_ms, rank)?;
            Some(RankPulse {
                rank,
                step: pulse.step,
                silent_ms: u64::try_from(pulse.silent_ms).unwrap_or_default(),
                waits_in: pulse.waits_in,
                in_collective: pulse.in_collective,
                stalled: pulse.stalled,
                window: pulse.window.map(window),
            })
        };
        let ranks = (0..self.pod.nproc).filter_map(pulse).collect();
        let generation = part.generation;
        self.pulsed_ms = now_ms;
        let (spares, spare_memory_bytes) = self.warm.as_mut().map_or((0, 0), |warm| (warm.spares(), warm.memory()));
        let spares = u32::try_from(spares).unwrap_or(u32::MAX);
        self.link.say(now_ms, Said::Pulse(Pulse { generation, ranks, spares, spare_memory_bytes }));
    }
}

fn window(window: pace::Window) -> rendezvous::Window {
    let pace::Window { number, looks, lock, net, steps, step_us, took_ms } = window;
    rendezvous::Window { number, looks, lock, net, steps, step_us, took_ms }
}
