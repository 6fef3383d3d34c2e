//! The rendezvous of a launcher that is alone: the coordinator's own machine, without the coordinator.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use trainyard_coordinator::rendezvous::convert;
use trainyard_coordinator_core::rendezvous::{
    Budget, Cause, Config, Generation, Input, MemberId, Output, Rendezvous, Spent,
};
use trainyard_proto::rendezvous::FromLauncher;
use trainyard_proto::rendezvous::from_launcher::Message;
use trainyard_worker::launch;
use trainyard_worker::launch::link::{Alone, Event, Link};

/// A module that is not there will not be there the next time, unless its file system was away for a moment.
const IMPORT_ERRORS: u32 = 3;

/// One launcher, one stream, and nobody to wait for.
struct InProcess {
    machine: Rendezvous,
    member: Option<MemberId>,
    events: VecDeque<Event>,
}

/// A line to a rendezvous in this process.
pub(crate) fn rendezvous(alone: Alone) -> Box<dyn Link> {
    let config = Config {
        least: 1,
        most: 1,
        join_ms: i64::MAX / 4,
        last_call_ms: 0,
        away_ms: 0,
        lost_ms: 0,
        return_ms: i64::MAX / 4,
        grow_ms: i64::MAX / 4,
        budget: Budget { total: Some(alone.max_restarts), ..budget() },
    };
    let spent = Spent { elsewhere: alone.restarts, ..Spent::default() };
    let machine = Rendezvous::new(config, Generation(alone.generation), spent, 0);
    Box::new(InProcess { machine, member: None, events: VecDeque::from([Event::Up]) })
}

/// What is borne where only the number of restarts was given.
pub(crate) fn budget() -> Budget {
    Budget { total: None, by_cause: [(Cause::ImportError, IMPORT_ERRORS)].into(), lowest_code: 0 }
}

impl InProcess {
    fn step(&mut self, now_ms: i64, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut outputs = Vec::new();
            self.machine.step(now_ms, input, &mut outputs);
            for output in outputs {
                if let Output::Reserve { to } = output {
                    // A number is safe from being given out again by the end of this process.
                    inputs.push_back(Input::Reserved { to });
                } else if let Some(order) = convert::told(&output).and_then(|(_, order)| order.message) {
                    self.events.push_back(Event::Order(order));
                }
            }
        }
    }
}

impl Link for InProcess {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn deadline(&self) -> Option<i64> {
        self.machine.deadline()
    }

    fn say(&mut self, now_ms: i64, message: Message) {
        let message = FromLauncher { message: Some(message) };
        let input = match self.member.clone() {
            None => convert::hello(message).map(|(member, hello)| {
                self.member = Some(member.clone());
                Some(Input::Joined { member, stream: 1, hello })
            }),
            Some(member) => convert::heard(&member, message).map(|heard| match heard {
                convert::Heard::Input(input) => Some(input),
                convert::Heard::Pulse(_) | convert::Heard::Saved(_) => None,
            }),
        };
        match input {
            Ok(Some(input)) => self.step(now_ms, input),
            Ok(None) => {}
            Err(nonsense) => launch::tell(format!("trainyard: the launcher misspoke: {nonsense}\n")),
        }
    }

    fn receive(&mut self, now_ms: i64) -> Option<Event> {
        if self.machine.deadline().is_some_and(|deadline| now_ms >= deadline) {
            self.step(now_ms, Input::Tick);
        }
        self.events.pop_front()
    }
}
