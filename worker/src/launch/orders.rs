//! What goes over the line: orders in, reports out.

use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::release::Outcome;
use trainyard_proto::rendezvous::standing::Standing as Stands;
use trainyard_proto::rendezvous::to_launcher::Message as Order;
use trainyard_proto::rendezvous::{self as wire, Cause, Failed, Failure, Finished, Holds, Ready, Release, World};
use trainyard_worker_core::supervisor::{Exit, Input, Report, Standing, Stop, Verdict};

use super::environment::Part;
use super::link::Event;
use super::report::{self, Spares};
use super::run::Launch;
use super::warm::Warm;
use super::{LaunchError, console};

impl Launch<'_> {
    /// Takes in all that the line brings, and what is answered to that.
    pub(super) fn hear_link(&mut self) -> Result<(), LaunchError> {
        while let Some(event) = self.link.receive(self.now_ms()) {
            if matches!(event, Event::Answered | Event::Order(_)) {
                self.tell(Input::Link { up: true })?;
            }
            match event {
                Event::Up => self.greet()?,
                Event::Answered => {}
                Event::Down => self.tell(Input::Link { up: false })?,
                Event::Order(Order::Form(world)) => self.form(&world)?,
                Event::Order(Order::Halt(halt)) => {
                    self.note_trouble();
                    self.tell(Input::Halt { generation: halt.generation })?;
                }
                Event::Order(Order::Deadlock(deadlock)) => self.break_deadlock(deadlock)?,
                Event::Order(Order::Others(others)) => self.hear_others(&others),
                Event::Order(Order::Release(release)) => self.release(release)?,
            }
        }
        Ok(())
    }

    /// The first words on a line. Its port is a new one each time: the last may have been named in an order that was lost.
    fn greet(&mut self) -> Result<(), LaunchError> {
        let port = match self.unannounced.take() {
            Some(port) => port,
            None => self.ports.hold()?,
        };
        let (seen, standing) = (self.supervisor.seen(), self.standing());
        let hello = self.pod.hello(self.member.clone(), port, seen, standing);
        self.link.say(self.now_ms(), Said::Hello(hello));
        self.saves.forget();
        self.hear_saves()
    }

    fn standing(&self) -> Stands {
        let part = |generation: u64| {
            let present = self.present.as_ref().map(|present| &present.part);
            let part = self.order.as_ref().into_iter().chain(present).find(|part| part.generation == generation)?;
            Some(wire::Part {
                generation,
                digest: part.digest,
                restarts: part.restarts,
                seat: Some(part.seat.clone()),
                pods: u32::try_from(part.nnodes).unwrap_or(0),
                ranks: u32::try_from(part.ranks).unwrap_or(0),
            })
        };
        let idle = Stands::Idle(wire::Idle {});
        match self.supervisor.standing() {
            Standing::Idle => idle,
            Standing::Running { generation } => part(generation).map_or(idle, Stands::Running),
            Standing::Finished { generation } => part(generation).map_or(idle, Stands::Finished),
            Standing::Failed { generation, .. } => Stands::Failed(Failed { generation, failure: self.failure.clone() }),
        }
    }

    fn form(&mut self, world: &World) -> Result<(), LaunchError> {
        let generation = world.generation;
        if generation <= self.supervisor.seen() {
            return Ok(());
        }
        self.note_trouble();
        if let Some(text) = self.borne.take() {
            console::tell(text);
        }
        self.order = Part::of(world, &self.member);
        self.tell(Input::Form { generation, seated: self.order.is_some() })
    }

    fn release(&mut self, release: Release) -> Result<(), LaunchError> {
        let verdict = match release.outcome {
            Some(Outcome::Succeeded(_)) => Verdict::Succeeded,
            Some(Outcome::Failed(failure)) => {
                let code = failure.code;
                self.verdict = Some(failure);
                Verdict::Failed { code }
            }
            Some(Outcome::Stopped(_)) | None => Verdict::Stopped,
        };
        match verdict {
            Verdict::Stopped => self.stop(Input::Release(verdict)),
            Verdict::Succeeded | Verdict::Failed { .. } => self.tell(Input::Release(verdict)),
        }
    }

    /// Ends the ranks because somebody wants that; not in the middle of a checkpoint, if they do not see to that themselves.
    pub(super) fn stop(&mut self, stop: Input) -> Result<(), LaunchError> {
        let cut_off = self.processes.values().any(|running| running.process.ends_by(Stop::Terminate));
        let now_ms = self.now_ms();
        let stop = if cut_off { self.saves.hold(stop, now_ms, self.pod.stop_grace_ms()) } else { Some(stop) };
        stop.map_or(Ok(()), |stop| self.tell(stop))
    }

    /// What is new of checkpoints.
    pub(super) fn hear_saves(&mut self) -> Result<(), LaunchError> {
        self.tell_saved();
        self.saves.due(self.now_ms()).map_or(Ok(()), |stop| self.tell(stop))
    }

    /// Tells of the newest checkpoint, if that was not told.
    pub(super) fn tell_saved(&mut self) {
        if let Some(saved) = self.saves.news() {
            self.link.say(self.now_ms(), Said::Saved(saved));
        }
    }

    fn note_trouble(&mut self) {
        if self.present.is_some() {
            let now_ms = self.now_ms();
            self.trouble_ms.get_or_insert(now_ms);
        }
    }

    /// Holds the port of the generation after the present one, and says so.
    pub(super) fn announce(&mut self) -> Result<(), LaunchError> {
        if self.pod.is_fixed() {
            return Ok(());
        }
        let port = self.ports.hold()?;
        let message = Holds { port: port.into(), seen: self.supervisor.seen() };
        self.link.say(self.now_ms(), Said::Holds(message));
        Ok(())
    }

    /// Passes a report on, and tells the user what it means for them.
    pub(super) fn report(&mut self, report: Report) {
        let message = match report {
            Report::Ready { generation } => {
                self.prepare_spares();
                self.say_again();
                let is_first = self.present.as_ref().is_some_and(|present| present.part.is_master());
                self.saves.begin(is_first);
                Said::Ready(Ready { generation })
            }
            Report::Failed { generation, local_rank, exit } => {
                self.note_trouble();
                self.saves.look();
                let failure = self.to_blame(local_rank, exit);
                let first = self.present.as_ref().map_or(0, |present| present.part.rank(0));
                let blamed = failure.rank.map_or(local_rank, |rank| (rank as usize).saturating_sub(first));
                self.borne = Some(report::borne(generation, &failure, self.tail(blamed)));
                self.failure = Some(failure.clone());
                Said::Failed(Failed { generation, failure: Some(failure) })
            }
            Report::Finished { generation } => {
                let alone = self.present.as_ref().is_some_and(|present| present.part.ranks == self.pod.nproc);
                self.saves.finish(alone);
                self.tell_saved();
                Said::Finished(Finished { generation })
            }
        };
        self.link.say(self.now_ms(), message);
    }

    /// The failure of the generation in which this rank was the first to end badly.
    fn to_blame(&self, local_rank: usize, exit: Exit) -> Failure {
        let hangs = self.hung.get(&local_rank);
        if let Some(candidate) = self.blame().filter(|_| hangs.is_none()) {
            return report::failure(&candidate);
        }
        // Given up while it runs: there is no end to judge yet.
        let rank = self.present.as_ref().map_or(local_rank, |present| present.part.rank(local_rank));
        let message = match hangs {
            Some(place) => format!("it hangs in {place}"),
            None => format!("it stands still (exit code {})", exit.code()),
        };
        let rank = u32::try_from(rank).ok();
        Failure { rank, cause: Cause::Hang.into(), code: exit.code(), message, secondary: false }
    }

    /// The failure that was told followed from that of a rank which has ended since.
    pub(super) fn amend(&mut self) {
        let Some(generation) = self.present.as_ref().map(|present| present.part.generation) else { return };
        if self.failure.as_ref().is_none_or(|told| !told.secondary) {
            return;
        }
        let Some(candidate) = self.blame().filter(|candidate| !candidate.cause.secondary) else { return };
        let failure = report::failure(&candidate);
        self.failure = Some(failure.clone());
        self.link.say(self.now_ms(), Said::Failed(Failed { generation, failure: Some(failure) }));
    }

    fn say_again(&mut self) {
        let Some((since_ms, present)) = self.trouble_ms.take().zip(self.present.as_ref()) else { return };
        let part = &present.part;
        let restart = (part.restarts, self.pod.max_restarts());
        let why = self.warm.as_ref().and_then(Warm::trouble);
        let spares = Spares { used: self.promoted, why };
        let took_ms = self.now_ms() - since_ms;
        console::tell(report::again(part.generation, self.pod.nproc, restart, took_ms, &spares));
    }
}
