//! What is told of the ranks now and then: how far they are, what they wait in, and the spares. Nothing depends on it.

use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::{Others, Pulse, RankPulse};
use trainyard_proto::{pace, rendezvous};

use super::run::Launch;

/// How often. People and hang detection look a few times a second at most, and 512 launchers send to one coordinator.
const EVERY_MS: i64 = 500;
/// How often while the ranks are silent for long: those of other launchers are judged by that.
const SILENT_MS: i64 = 200;

impl Launch<'_> {
    /// When the next pulse is due: where there are other launchers or somebody to show it to, and while ranks run.
    pub(super) fn pulse_due_ms(&self) -> Option<i64> {
        let led = self.pod.rendezvous.is_some() || self.pod.meeting.is_some();
        let wanted = led && self.present.is_some() && !self.processes.is_empty();
        let is_news = wanted && self.hangs.is_silence_news(self.now_ms());
        wanted.then_some(self.pulsed_ms + if is_news { SILENT_MS } else { EVERY_MS })
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
        let still = self.hangs.is_still();
        let tempo = self.hangs.tempo(now_ms).map(Into::into);
        self.link.say(now_ms, Said::Pulse(Pulse { generation, ranks, spares, spare_memory_bytes, tempo, still }));
    }

    /// The ranks of other launchers are silent for long, or no longer.
    pub(super) fn hear_others(&mut self, others: &Others) {
        if self.present.as_ref().is_none_or(|present| present.part.generation != others.generation) {
            return;
        }
        let now_ms = self.now_ms();
        self.hangs.others(now_ms, others.silence.map(Into::into));
    }
}

fn window(window: pace::Window) -> rendezvous::Window {
    let pace::Window { number, looks, lock, net, steps, step_us, took_ms } = window;
    rendezvous::Window { number, looks, lock, net, steps, step_us, took_ms }
}
