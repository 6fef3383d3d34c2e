//! Every order of events, exhaustively, for two launchers and few faults.

use std::collections::BTreeMap;

use stateright::{Checker as _, Model, Property};

use super::config;
use super::fleet::{Event, Fleet};

/// How often each fault may strike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Faults {
    breaks: u8,
    fails: u8,
    replaces: u8,
    crashes: u8,
    waits: u8,
}

impl Faults {
    /// What is left after the event; `None` where it is one too many.
    fn after(&self, event: Event) -> Option<Self> {
        let mut left = self.clone();
        let count = match event {
            Event::Break(_) => &mut left.breaks,
            Event::Fail(_) => &mut left.fails,
            Event::Replace(_) => &mut left.replaces,
            Event::Crash => &mut left.crashes,
            Event::Wait => &mut left.waits,
            Event::Up(_) | Event::Down(_) | Event::Connect(_) | Event::Finish(_) | Event::Record => return Some(left),
        };
        *count = count.checked_sub(1)?;
        Some(left)
    }
}

type State = (Fleet, Faults);

struct World {
    least: u32,
    launchers: u32,
    faults: Faults,
}

impl Model for World {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<Self::State> {
        vec![(Fleet::new(config(self.least, self.launchers), self.launchers), self.faults.clone())]
    }

    fn actions(&self, (fleet, faults): &Self::State, actions: &mut Vec<Event>) {
        let each = (0..self.launchers as usize).flat_map(|at| {
            [Event::Up(at), Event::Down(at), Event::Connect(at), Event::Break(at), Event::Fail(at), Event::Replace(at)]
        });
        let all = each.chain([Event::Record, Event::Crash, Event::Wait]);
        actions.extend(all.filter(|event| fleet.can(*event) && faults.after(*event).is_some()));
    }

    fn next_state(&self, (fleet, faults): &Self::State, event: Event) -> Option<Self::State> {
        let faults = faults.after(event)?;
        let mut fleet = fleet.clone();
        fleet.step(event);
        Some((fleet, faults))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("R-1 to R-6", |_, (fleet, _): &State| fleet.broken.is_none()),
            Property::always("one process per rank and generation", |_, (fleet, _): &State| {
                fleet.look_at_ranks().is_ok()
            }),
            Property::always("calm brings them together", |_, (fleet, _): &State| {
                let mut fleet = fleet.clone();
                fleet.calm();
                fleet.broken.is_none() && fleet.is_settled()
            }),
            Property::sometimes("a world is adopted", |_, (fleet, faults): &State| {
                fleet.is_settled() && faults.crashes == 0
            }),
            Property::sometimes("a failure is recovered from", |_, (fleet, faults): &State| {
                fleet.is_settled() && faults.fails == 0 && fleet.outcome().is_none()
            }),
        ]
    }
}

fn check(least: u32, faults: Faults) -> BTreeMap<&'static str, Vec<Event>> {
    let world = World { least, launchers: 2, faults };
    let checker = world.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    let found = checker.discoveries();
    ["R-1 to R-6", "one process per rank and generation", "calm brings them together"]
        .into_iter()
        .filter_map(|name| found.get(name).map(|path| (name, path.clone().into_actions())))
        .chain(
            ["a world is adopted", "a failure is recovered from"]
                .into_iter()
                .filter(|name| !found.contains_key(name))
                .map(|name| (name, Vec::new())),
        )
        .collect()
}

#[test]
fn two_launchers_that_need_each_other_survive_every_order_of_a_crash_and_a_failure() {
    let faults = Faults { breaks: 1, fails: 1, replaces: 0, crashes: 1, waits: 0 };
    assert_eq!(check(2, faults), BTreeMap::new());
}

#[test]
fn two_elastic_launchers_survive_every_order_of_a_failure_and_a_new_pod() {
    let faults = Faults { breaks: 0, fails: 1, replaces: 1, crashes: 0, waits: 1 };
    assert_eq!(check(1, faults), BTreeMap::new());
}
