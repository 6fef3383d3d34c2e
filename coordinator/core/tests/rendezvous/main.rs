//! The rendezvous under everything that can happen to launchers, streams and coordinators.

mod fleet;
mod model;

use fleet::Fleet;
use proptest::prelude::*;
use trainyard_coordinator_core::rendezvous::{Budget, Config, Outcome};

/// What can happen next. Numbers are positions among what is there, so that any number means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The first message of this launcher's stream to the coordinator arrives.
    Up(usize),
    /// The first message of this launcher's stream from the coordinator arrives.
    Down(usize),
    /// The launcher's stream breaks; what was under way in it is lost. The coordinator hears of it.
    Break(usize),
    /// The launcher opens a stream.
    Connect(usize),
    /// A rank of this launcher fails.
    Fail(usize),
    /// All ranks of this launcher end well.
    Finish(usize),
    /// The launcher's pod is killed, the coordinator is told, and a new pod takes its place.
    Replace(usize),
    /// The durable record is written, and the coordinator hears so.
    Record,
    /// The coordinator is killed, and another one starts.
    Crash,
    /// The same, but the other one starts so late that launchers whose ranks have ended well may have given up.
    Absence,
    /// This launcher, whose ranks have ended well, has waited for a coordinator for long enough: it ends, well.
    GiveUp(usize),
    /// The coordinator hears that this launcher's pod ended well.
    Done(usize),
    /// Time passes.
    Wait,
}

fn config(least: u32, most: u32) -> Config {
    Config {
        least,
        most,
        join_ms: 600_000,
        last_call_ms: 1_000,
        away_ms: 10_000,
        return_ms: 30_000,
        lost_ms: 60_000,
        grow_ms: 1_000,
        budget: Budget::default(),
    }
}

fn event(launchers: usize) -> impl Strategy<Value = Event> {
    let at = 0..launchers;
    prop_oneof![
        8 => at.clone().prop_map(Event::Up),
        8 => at.clone().prop_map(Event::Down),
        6 => at.clone().prop_map(Event::Connect),
        2 => at.clone().prop_map(Event::Break),
        2 => at.clone().prop_map(Event::Fail),
        1 => at.clone().prop_map(Event::Finish),
        1 => at.clone().prop_map(Event::Replace),
        3 => at.clone().prop_map(Event::Done),
        2 => at.prop_map(Event::GiveUp),
        4 => Just(Event::Record),
        1 => Just(Event::Crash),
        1 => Just(Event::Absence),
        2 => Just(Event::Wait),
    ]
}

proptest! {
    // `PROPTEST_CASES` asks for more.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(300)))]

    #[test]
    fn no_number_names_two_worlds_and_calm_brings_them_together(
        meet in any::<bool>(),
        (least, most, events) in (1_u32..4, 0_u32..3)
            .prop_flat_map(|(least, more)| {
                let most = least + more;
                (Just(least), Just(most), prop::collection::vec(event(most as usize), 0..150))
            })
    ) {
        let fleet = Fleet::new(config(least, most), most);
        let mut fleet = if meet { fleet } else { fleet.of_strangers() };
        for event in events {
            if fleet.can(event) {
                fleet.step(event);
                prop_assert_eq!(&fleet.broken, &None);
                prop_assert_eq!(fleet.look_at_ranks(), Ok(()));
            }
        }
        fleet.calm();
        prop_assert_eq!(&fleet.broken, &None);
        prop_assert!(fleet.is_settled(), "{}", fleet.describe());
        prop_assert!(!fleet.owes(), "{}", fleet.describe());
        fleet.finish();
        prop_assert_eq!(&fleet.broken, &None);
        prop_assert!(fleet.has_ended(), "{}", fleet.describe());
    }
}

/// A launcher whose ranks end while the coordinator, which was just started, still waits for the other launcher.
#[test]
fn an_end_that_is_told_before_the_generation_is_adopted_counts() {
    let mut fleet = Fleet::new(config(2, 2), 2);
    fleet.calm();
    fleet.step(Event::Crash);
    for event in [Event::Connect(0), Event::Up(0), Event::Finish(0), Event::Up(0), Event::Finish(1)] {
        if fleet.can(event) {
            fleet.step(event);
        }
    }
    fleet.calm();
    assert_eq!(fleet.broken, None);
    assert!(fleet.all_released(), "{}", fleet.describe());
}

/// A launcher that was given up has run a generation of one well, unheard, and another one runs the next, also alone, when the
/// coordinator is killed.
fn older_and_newer() -> Fleet {
    let mut fleet = Fleet::new(config(1, 3), 3).of_strangers();
    fleet.follow(&[
        Event::Connect(0),
        Event::Up(0),
        Event::Record,
        Event::Wait,
        Event::Down(0),
        Event::Connect(1),
        Event::Finish(0),
        // It has had its time to tell that its ranks have started.
        Event::Wait,
        Event::Up(1),
        Event::Down(1),
        Event::Crash,
    ]);
    assert_eq!(fleet.generations(), 2);
    fleet
}

#[test]
fn an_older_generation_of_few_that_has_ended_does_not_end_the_job_of_a_newer_one() {
    let mut fleet = older_and_newer();
    fleet.calm();
    assert_eq!(fleet.broken, None);
    assert_eq!(fleet.outcome(), None);
    assert!(fleet.is_settled(), "{}", fleet.describe());
}

#[test]
fn a_generation_of_few_that_has_ended_ends_the_job_when_the_others_have_had_their_time() {
    let mut fleet = older_and_newer();
    fleet.step(Event::Connect(0));
    fleet.step(Event::Up(0));
    assert_eq!(fleet.outcome(), None);
    fleet.step(Event::Wait);
    assert_eq!(fleet.outcome(), Some(&Outcome::Succeeded));
    fleet.calm();
    assert_eq!(fleet.broken, None);
    assert!(fleet.all_released(), "{}", fleet.describe());
}

/// Somebody tells of a newer generation and is lost again: the older one, of which all is there, is over all the same.
#[test]
fn an_older_generation_of_few_is_over_once_a_newer_one_was_heard_of() {
    let mut fleet = Fleet::new(config(1, 3), 3).of_strangers();
    fleet.follow(&[
        Event::Connect(2),
        Event::Up(2),
        Event::Record,
        Event::Wait,
        Event::Down(2),
        Event::Connect(1),
        Event::Connect(0),
        Event::Up(1),
        Event::Up(0),
        // It grows: the order reaches two of three.
        Event::Wait,
        Event::Down(0),
        Event::Down(1),
        Event::Crash,
        Event::Connect(0),
        Event::Finish(2),
        Event::Up(0),
        Event::Break(0),
        Event::Connect(2),
        Event::Up(2),
        Event::Wait,
    ]);
    assert_eq!(fleet.broken, None);
    assert_eq!(fleet.outcome(), None);
    fleet.calm();
    assert!(fleet.is_settled(), "{}", fleet.describe());
}

/// A pod ended well by itself, and nobody knows that it had never got the order of the generation that another one runs: that one
/// goes on, and whoever came too late for it waits for its end.
#[test]
fn who_ended_well_without_the_last_order_counts_as_ended_in_it() {
    let mut fleet = Fleet::new(config(1, 3), 3).of_strangers();
    fleet.follow(&[
        Event::Connect(1),
        Event::Up(1),
        Event::Record,
        Event::Wait,
        Event::Down(1),
        Event::Connect(2),
        Event::Up(2),
        Event::Up(1),
        Event::Wait,
        Event::Finish(1),
        Event::Down(2),
        Event::Absence,
        Event::GiveUp(1),
    ]);
    fleet.calm();
    assert_eq!((fleet.broken.clone(), fleet.has_adopted()), (None, Some(false)));
    assert!(fleet.is_settled(), "{}", fleet.describe());
    fleet.finish();
    assert_eq!(fleet.outcome(), Some(&Outcome::Succeeded));
}
