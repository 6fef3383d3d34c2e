//! The line to those who decide which generation runs: a rendezvous. The launcher obeys it wherever it is.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::release::Outcome;
use trainyard_proto::rendezvous::to_launcher::Message as Order;
use trainyard_proto::rendezvous::{Release, Seat, Succeeded, World};

use super::grpc::{Job, Remote};

/// What the line brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is up, for the first time or again: say Hello first. Whether anybody listens is not known yet.
    Up,
    /// Who is asked for is at its other end. An order says so as well.
    Answered,
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

/// Who makes the line of a launcher that no coordinator leads.
#[derive(Clone, Copy, Debug)]
pub struct Without {
    /// Of one that is alone and may start its ranks again.
    pub alone: fn(Alone) -> Box<dyn Link>,
    /// Of one that meets others; or why that cannot be.
    pub meet: fn(Meeting) -> Result<Box<dyn Link>, String>,
}

/// A line to a rendezvous elsewhere. `address` is `unix:/path` or `http://host:port`; the rest is what it asks for.
///
/// # Errors
/// When the address is none, or the system has no more threads.
pub fn call(address: &str, namespace: &str, name: &str, token: &str) -> Result<Box<dyn Link>, String> {
    let job = Job { namespace: namespace.to_owned(), name: name.to_owned(), token: token.to_owned() };
    match Remote::call(address, job) {
        Ok(line) => Ok(Box::new(line)),
        Err(error) => Err(error.to_string()),
    }
}

/// How launchers meet that were started by hand, one on each node: what `trainyard torchrun` hands over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// Where the rendezvous is.
    pub host: String,
    /// Its port there.
    pub port: u16,
    /// Whether this launcher hosts it; `None`: if the address is its own.
    pub is_host: Option<bool>,
    /// The name of the job, which all launchers of it were told.
    pub id: String,
    /// This launcher's place, where the user fixed it.
    pub index: Option<u32>,
    /// Launchers without which nothing runs.
    pub least: u32,
    /// Launchers at most.
    pub most: u32,
    /// How often the ranks may be started again.
    pub max_restarts: u32,
    /// How long `least` are awaited.
    pub join_ms: i64,
    /// How long more are awaited then.
    pub last_call_ms: i64,
    /// How long one that cannot be reached counts as running.
    pub away_ms: i64,
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
