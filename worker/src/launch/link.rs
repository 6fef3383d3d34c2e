//! The line to those who decide which generation runs: a rendezvous. The launcher obeys it wherever it is.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::release::Outcome;
use trainyard_proto::rendezvous::to_launcher::Message as Order;
use trainyard_proto::rendezvous::{Release, Seat, Succeeded, World};

/// What the line brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is up, for the first time or again: say Hello first.
    Up,
    /// It is down; it comes back by itself. What is said meanwhile is lost, which the next Hello makes up for.
    Down,
    /// An order.
    Order(Order),
}

/// A line to a rendezvous. It never ends: one that breaks is made again.
///
/// Times are milliseconds since the launcher began.
pub trait Link {
    /// Readable when [`Link::receive`] may have something; `None` for a line whose answers are there at once.
    fn readable(&self) -> Option<BorrowedFd<'_>>;

    /// When it wants [`Link::receive`] to be called, if nothing happens before.
    fn deadline(&self) -> Option<i64>;

    /// Says something. Never waits.
    fn say(&mut self, now_ms: i64, message: Said);

    /// The next thing that happened, if any. Never waits.
    fn receive(&mut self, now_ms: i64) -> Option<Event>;
}

/// What a rendezvous within the launcher must know: see `launch::main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// The last generation that was given out before this launcher began.
    pub generation: u64,
    /// How often the job's ranks were started again before.
    pub restarts: u32,
    /// How often they may be, over all.
    pub max_restarts: u32,
}

/// A world that the manifest fixed: one generation, whose first failure is the job's. What a job without a coordinator
/// and without restarts needs.
pub(super) struct Fixed {
    world: World,
    said: VecDeque<Event>,
}

impl Fixed {
    /// All launchers are told the same places by their environments.
    pub(super) fn new(generation: u64, restarts: u32, seats: Vec<Seat>) -> Self {
        let world = World { generation, seats, restarts, digest: 0 };
        Self { world, said: VecDeque::from([Event::Up]) }
    }
}

impl Link for Fixed {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn deadline(&self) -> Option<i64> {
        None
    }

    fn say(&mut self, _now_ms: i64, message: Said) {
        let answer = match message {
            Said::Hello(_) => Order::Form(self.world.clone()),
            Said::Failed(failed) => Order::Release(Release { outcome: failed.failure.map(Outcome::Failed) }),
            Said::Finished(_) => Order::Release(Release { outcome: Some(Outcome::Succeeded(Succeeded {})) }),
            Said::Holds(_) | Said::Ready(_) | Said::Pulse(_) | Said::Saved(_) => return,
        };
        self.said.push_back(Event::Order(answer));
    }

    fn receive(&mut self, _now_ms: i64) -> Option<Event> {
        self.said.pop_front()
    }
}
