//! Every order of events, exhaustively, for few launchers and few faults.
//!
//! A state is a whole fleet and the faults that may still strike. What is under way in each stream arrives at any time, and so
//! does the word that a pod has ended well; ranks fail or end well, streams break, pods are replaced, coordinators are killed,
//! are back at once or after a long time, and time passes, each as often as the checked world allows. From each state that
//! can be reached it is followed, too, what becomes of it if nothing fails any more.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use stateright::{Checker as _, Expectation, HasDiscoveries, Model, Property};
use trainyard_coordinator_core::rendezvous::{Budget, Cause, Config, Outcome};

use super::fleet::Fleet;
use super::{Event, config};

/// How often each fault may strike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Faults {
    breaks: u8,
    fails: u8,
    finishes: u8,
    replaces: u8,
    crashes: u8,
    absences: u8,
    waits: u8,
}

impl Faults {
    /// What is left after the event; `None` where it is one too many.
    fn after(&self, event: Event) -> Option<Self> {
        let mut left = self.clone();
        let count = match event {
            Event::Break(_) => &mut left.breaks,
            Event::Fail(_) => &mut left.fails,
            Event::Finish(_) => &mut left.finishes,
            Event::Replace(_) => &mut left.replaces,
            Event::Crash => &mut left.crashes,
            Event::Absence => &mut left.absences,
            Event::Wait => &mut left.waits,
            Event::Up(_) | Event::Down(_) | Event::Connect(_) | Event::GiveUp(_) | Event::Done(_) | Event::Record => {
                return Some(left);
            }
        };
        *count = count.checked_sub(1)?;
        Some(left)
    }
}

type State = (Fleet, Faults);

/// What must be reached by some order of events, so that the check is not of a world in which nothing happens.
const ADOPTED: &str = "a world is adopted";
const ADOPTED_WITHOUT: &str = "a world is adopted without a member that has ended";
const RECOVERED: &str = "a failure is recovered from";
const SUCCEEDED: &str = "a job succeeds";
const NOT_BORNE: &str = "a failure is not borne";

struct World {
    config: Config,
    launchers: u32,
    /// Whether all ranks run already.
    runs: bool,
    faults: Faults,
    reaches: &'static [&'static str],
    /// Fleets of which it is known that calm brings them to a good end.
    fine: Mutex<BTreeSet<u64>>,
}

impl World {
    fn new(least: u32, launchers: u32, faults: Faults, reaches: &'static [&'static str]) -> Self {
        let (config, fine) = (config(least, launchers), Mutex::default());
        Self { config, launchers, runs: false, faults, reaches, fine }
    }

    fn running(self) -> Self {
        Self { runs: true, ..self }
    }

    fn bearing(self, budget: Budget) -> Self {
        Self { config: Config { budget, ..self.config }, ..self }
    }

    fn fine(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.fine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a fleet if nothing fails any more: all come together, whoever ran on through a crash is adopted, and when
    /// all ranks have ended well so has the job.
    fn calm(&self, fleet: &Fleet) -> Result<(), &'static str> {
        let mut passed = vec![number(fleet)];
        if self.fine().contains(&passed[0]) {
            return Ok(());
        }
        let mut fleet = fleet.clone();
        while passed.len() < 1000
            && let Some(event) = fleet.next_of_calm()
        {
            fleet.step(event);
            let now = number(&fleet);
            let mut fine = self.fine();
            if fine.contains(&now) {
                fine.extend(passed);
                return Ok(());
            }
            passed.push(now);
        }
        if fleet.broken.is_some() {
            return Err("what follows is broken");
        }
        if !fleet.is_settled() {
            return Err("they do not come together");
        }
        if fleet.owes() {
            return Err("what ran through the crash is not adopted");
        }
        fleet.finish();
        if fleet.broken.is_some() || !fleet.has_ended() {
            return Err("the job does not end well");
        }
        self.fine().extend(passed);
        Ok(())
    }

    /// Of a job of a fixed size whose coordinator lives on: each generation but the first is for a failure.
    fn is_within_budget(&self, fleet: &Fleet) -> bool {
        let budget = &self.config.budget;
        let signals = budget.by_cause.get(&Cause::Signal).zip(budget.by_cause.get(&Cause::NodeLost));
        let most = [budget.total, signals.map(|(signal, lost)| signal + lost)].into_iter().flatten().min();
        most.is_none_or(|most| fleet.generations() <= 1 + most as usize)
    }

    /// What is wrong with a state, in words.
    fn words(&self, fleet: &Fleet) -> String {
        let calm = self.calm(fleet).err().map(str::to_owned);
        let ranks = fleet.look_at_ranks().err();
        fleet.broken.clone().or(ranks).or(calm).unwrap_or_else(|| "more generations than the budget allows".to_owned())
    }
}

/// Of all that it is: two that share it are the same.
fn number(fleet: &Fleet) -> u64 {
    let mut hasher = DefaultHasher::new();
    fleet.hash(&mut hasher);
    hasher.finish()
}

impl Model for World {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<Self::State> {
        let mut fleet = Fleet::new(self.config.clone(), self.launchers);
        if self.runs {
            fleet.calm();
        }
        vec![(fleet, self.faults.clone())]
    }

    fn actions(&self, (fleet, faults): &Self::State, actions: &mut Vec<Event>) {
        let each = (0..self.launchers as usize).flat_map(|at| {
            [
                Event::Up(at),
                Event::Down(at),
                Event::Connect(at),
                Event::Break(at),
                Event::Fail(at),
                Event::Finish(at),
                Event::Replace(at),
                Event::GiveUp(at),
                Event::Done(at),
            ]
        });
        let all = each.chain([Event::Record, Event::Crash, Event::Absence, Event::Wait]);
        actions.extend(all.filter(|event| fleet.can(*event) && faults.after(*event).is_some()));
    }

    fn next_state(&self, (fleet, faults): &Self::State, event: Event) -> Option<Self::State> {
        let faults = faults.after(event)?;
        let mut fleet = fleet.clone();
        fleet.step(event);
        Some((fleet, faults))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = [
            Property::always("nothing is broken", |_, (fleet, _): &State| fleet.broken.is_none()),
            Property::always("one process per rank and generation", |_, (fleet, _): &State| {
                fleet.look_at_ranks().is_ok()
            }),
            Property::always("calm brings all to a good end", |model: &Self, (fleet, _): &State| {
                model.calm(fleet).is_ok()
            }),
            Property::always("no more is borne than the budget allows", |model: &Self, (fleet, _): &State| {
                model.is_within_budget(fleet)
            }),
        ];
        let sometimes = [
            Property::sometimes(ADOPTED, |_, (fleet, _): &State| fleet.has_adopted().is_some()),
            Property::sometimes(ADOPTED_WITHOUT, |_, (fleet, _): &State| fleet.has_adopted() == Some(true)),
            Property::sometimes(RECOVERED, |_, (fleet, faults): &State| {
                fleet.is_settled() && faults.fails == 0 && fleet.outcome().is_none() && !fleet.all_released()
            }),
            Property::sometimes(SUCCEEDED, |_, (fleet, _): &State| fleet.outcome() == Some(&Outcome::Succeeded)),
            Property::sometimes(NOT_BORNE, |_, (fleet, _): &State| matches!(fleet.outcome(), Some(Outcome::Failed(_)))),
        ];
        always
            .into_iter()
            .chain(sometimes.into_iter().filter(|property| self.reaches.contains(&property.name)))
            .collect()
    }
}

/// The properties that do not hold: with what is wrong and the events that lead there, or with nothing where something is never
/// reached.
fn check(world: World) -> BTreeMap<&'static str, Option<(String, Vec<Event>)>> {
    let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    let found = checker.discoveries();
    let mut broken = BTreeMap::new();
    for Property { name, expectation, .. } in checker.model().properties() {
        match (expectation, found.get(name)) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let words = checker.model().words(&path.last_state().0);
                broken.insert(name, Some((words, path.clone().into_actions())));
            }
            (Expectation::Sometimes, None) => {
                broken.insert(name, None);
            }
            (Expectation::Always | Expectation::Eventually, None) | (Expectation::Sometimes, Some(_)) => {}
        }
    }
    broken
}

#[test]
fn two_launchers_that_need_each_other_survive_every_order_of_a_crash_and_a_failure() {
    let faults = Faults { breaks: 1, fails: 1, crashes: 1, ..Faults::default() };
    assert_eq!(check(World::new(2, 2, faults, &[ADOPTED, RECOVERED])), BTreeMap::new());
}

#[test]
fn two_elastic_launchers_survive_every_order_of_a_failure_and_a_new_pod() {
    let faults = Faults { fails: 1, replaces: 1, waits: 1, ..Faults::default() };
    assert_eq!(check(World::new(1, 2, faults, &[RECOVERED])), BTreeMap::new());
}

#[test]
fn two_launchers_that_need_each_other_end_well_in_every_order_around_a_crash_and_a_new_pod() {
    let faults = Faults { finishes: 2, crashes: 1, replaces: 1, ..Faults::default() };
    let world = World::new(2, 2, faults, &[ADOPTED, SUCCEEDED]);
    assert_eq!(check(world.running()), BTreeMap::new());
}

#[test]
fn two_launchers_that_need_each_other_end_well_in_every_order_around_a_long_absence() {
    for faults in [
        Faults { finishes: 2, absences: 1, fails: 1, ..Faults::default() },
        Faults { finishes: 2, absences: 1, replaces: 1, ..Faults::default() },
        Faults { finishes: 2, absences: 1, crashes: 1, ..Faults::default() },
    ] {
        let world = World::new(2, 2, faults, &[ADOPTED, ADOPTED_WITHOUT, SUCCEEDED]);
        assert_eq!(check(world.running()), BTreeMap::new());
    }
}

#[test]
fn three_elastic_launchers_end_well_in_every_order_around_a_long_absence() {
    let faults = Faults { finishes: 2, absences: 1, waits: 1, ..Faults::default() };
    let world = World::new(1, 3, faults, &[ADOPTED, ADOPTED_WITHOUT]);
    assert_eq!(check(world.running()), BTreeMap::new());
}

#[test]
fn no_order_of_new_pods_around_a_long_absence_takes_a_part_of_an_elastic_generation_for_all_of_it() {
    let faults = Faults { finishes: 2, absences: 1, replaces: 1, waits: 1, ..Faults::default() };
    let world = World::new(1, 2, faults, &[ADOPTED, ADOPTED_WITHOUT, SUCCEEDED]);
    assert_eq!(check(world.running()), BTreeMap::new());
}

#[test]
fn a_member_that_is_given_up_is_replaced_in_every_order() {
    let faults = Faults { breaks: 1, waits: 2, finishes: 1, ..Faults::default() };
    assert_eq!(check(World::new(2, 2, faults, &[]).running()), BTreeMap::new());
}

#[test]
fn a_member_that_is_given_up_after_a_crash_is_replaced_in_every_order() {
    for least in [1, 2] {
        let faults = Faults { crashes: 1, waits: 2, finishes: 1, ..Faults::default() };
        assert_eq!(check(World::new(least, 2, faults, &[ADOPTED]).running()), BTreeMap::new());
    }
}

#[test]
fn no_order_of_failures_gets_more_than_the_budget() {
    let faults = Faults { fails: 2, replaces: 1, ..Faults::default() };
    for (total, by_cause) in [(Some(1), vec![]), (None, vec![(Cause::Signal, 1), (Cause::NodeLost, 0)])] {
        let budget = Budget { total, by_cause: by_cause.into_iter().collect(), lowest_code: 0 };
        let world = World::new(2, 2, faults.clone(), &[NOT_BORNE]).bearing(budget);
        assert_eq!(check(world.running()), BTreeMap::new());
    }
}

#[test]
#[ignore = "1.4 million states take minutes: for changes to the rendezvous, `cargo test -p trainyard-coordinator-core --test rendezvous -- --ignored`"]
fn more_faults_at_once_are_survived_in_every_order() {
    let of_two = [
        Faults { breaks: 1, fails: 1, replaces: 1, crashes: 1, ..Faults::default() },
        Faults { fails: 1, crashes: 2, waits: 1, ..Faults::default() },
        Faults { finishes: 2, fails: 1, absences: 1, waits: 1, ..Faults::default() },
        Faults { finishes: 2, breaks: 1, crashes: 1, absences: 1, waits: 1, ..Faults::default() },
        Faults { finishes: 2, fails: 1, replaces: 1, absences: 1, ..Faults::default() },
    ];
    for faults in of_two {
        for least in [1, 2] {
            eprint!("{least} of 2, {faults:?}: ");
            assert_eq!(check(World::new(least, 2, faults.clone(), &[ADOPTED]).running()), BTreeMap::new());
        }
    }
    for least in [1, 2, 3] {
        let faults = Faults { finishes: 3, absences: 1, waits: 1, ..Faults::default() };
        eprint!("{least} of 3, {faults:?}: ");
        assert_eq!(check(World::new(least, 3, faults, &[ADOPTED_WITHOUT]).running()), BTreeMap::new());
    }
}
