#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::fidelity::{Ladder, Policy};
use crate::objective::{Goal, Take};
use crate::sampler::{Auto, CmaEs, Context, Random, Sampler, Tpe, cmaes, tpe};
use crate::space::{Domain, Parameter, Point, Scale, Space};

fn search(seed: u64) -> Search {
    search_with(seed, None)
}

fn search_with(seed: u64, policy: Option<Policy>) -> Search {
    let sampler = Box::new(Tpe::new(tpe::Settings { startup: 3, ..tpe::Settings::default() }));
    search_by(sampler, seed, policy, None)
}

fn search_by(sampler: Box<dyn Sampler>, seed: u64, policy: Option<Policy>, step: Option<f64>) -> Search {
    let float = |name: &str| Parameter {
        name: name.to_owned(),
        domain: Domain::Float { min: -1.0, max: 1.0, scale: Scale::Linear, step },
        when: None,
    };
    let space = Space::new(vec![float("x"), float("y")], Vec::new()).unwrap();
    let loss = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
    let experiment = Experiment::new(space, vec![loss], seed, sampler);
    let ladder = Ladder::new(Some("epochs".to_owned()), 1.0, 9.0, 3.0).unwrap();
    Search::new(match policy {
        Some(policy) => experiment.with_ladder(ladder, policy),
        None => experiment,
    })
}

fn of(proposal: &Proposal, stage: Stage) -> Stored {
    let Proposal { parameters, learned, batch, by, place } = proposal.clone();
    Stored { parameters, learned, batch: Some(batch), by, place, reports: Vec::new(), repeats: None, stage }
}

fn loss(parameters: &BTreeMap<String, Value>) -> f64 {
    parameters.values().filter_map(Value::number).map(|number| number * number).sum()
}

/// Stores all that was asked for.
fn store(searches: &mut [Search], stored: &mut BTreeMap<u64, Stored>) {
    let asked: Vec<_> = searches[0].asked().clone().into_iter().collect();
    for (number, proposal) in asked {
        stored.insert(number, of(&proposal, Stage::Running));
        searches.iter_mut().for_each(|search| search.observe(number, stored.get(&number).cloned()));
    }
}

fn end(searches: &mut [Search], stored: &mut BTreeMap<u64, Stored>, number: u64, how: u8) {
    let trial = stored.get_mut(&number).unwrap();
    let value = loss(&trial.parameters);
    trial.stage = match how {
        0 => Stage::Failed,
        1 => Stage::Stopped(Some((1, vec![value]))),
        _ => Stage::Succeeded(vec![value]),
    };
    searches.iter_mut().for_each(|search| search.observe(number, Some(trial.clone())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_search_read_anew_goes_on_the_same_way(
        seed in 0_u64..50,
        policy in prop::sample::select(vec![None, Some(Policy::Asha), Some(Policy::Hyperband)]),
        rounds in prop::collection::vec((1_usize..5, any::<prop::sample::Index>(), 0_u8..6), 1..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut searches = vec![search_with(seed, policy)];
        let mut stored = BTreeMap::new();
        let cut = cut.index(rounds.len());
        for (at, (count, which, how)) in rounds.into_iter().enumerate() {
            if at == cut {
                // What was asked for and not stored is lost with the process, and is asked for again.
                let mut again = search_with(seed, policy);
                let known: Vec<_> = stored.clone().into_iter().rev().collect();
                known.into_iter().for_each(|(number, trial)| again.observe(number, Some(trial)));
                searches.push(again);
            }
            searches.iter_mut().for_each(|search| search.ask(count, &mut || true).unwrap());
            prop_assert!(searches.iter().all(|search| search.asked() == searches[0].asked()));
            store(&mut searches, &mut stored);
            let running: Vec<u64> =
                stored.iter().filter(|(_, trial)| trial.stage == Stage::Running).map(|(number, _)| *number).collect();
            end(&mut searches, &mut stored, running[which.index(running.len())], how);
        }
        searches.iter_mut().for_each(|search| search.ask(9, &mut || true).unwrap());
        prop_assert_eq!(searches[0].asked(), searches[1].asked());
        prop_assert_eq!(searches[0].counts(), searches[1].counts());
        prop_assert_eq!(searches[0].best(), searches[1].best());
    }
}

fn sampler(which: u8) -> Box<dyn Sampler> {
    match which {
        0 => Box::<Auto>::default(),
        1 => Box::new(CmaEs::new(cmaes::Settings { population: Some(4), ..cmaes::Settings::default() })),
        _ => Box::new(Tpe::new(tpe::Settings { startup: 3, ..tpe::Settings::default() })),
    }
}

/// What a search that is shown these trials asks for, and what it has asked for before of those that are not stored.
fn shown(mut search: Search, stored: &BTreeMap<u64, Stored>) -> Search {
    stored.iter().rev().for_each(|(number, trial)| search.observe(*number, Some(trial.clone())));
    search
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A process dies in the middle of each batch. As long as one of a batch was stored, the others are what they were; where none was, what
    /// is known is the same as before.
    #[test]
    fn what_was_lost_of_a_batch_is_asked_for_again(
        which in 0_u8..3,
        policy in prop::sample::select(vec![None, Some(Policy::Asha), Some(Policy::Hyperband)]),
        step in prop::sample::select(vec![None, Some(0.5)]),
        rounds in prop::collection::vec((1_usize..7, any::<u8>(), prop::collection::vec((any::<prop::sample::Index>(), 0_u8..6), 0..5)), 1..14),
    ) {
        // Of a ladder the model is another one.
        let which = if policy.is_some() { 2 } else { which };
        let make = || search_by(sampler(which), 7, policy, step);
        let mut whole = vec![make()];
        let mut stored = BTreeMap::new();
        for (count, survives, ends) in rounds {
            let before = whole[0].unsaid().to_vec();
            // Of a finite space nothing may be left.
            let asked = whole[0].ask(count, &mut || true);
            let proposals = whole[0].asked().clone();
            let has_survived = |number: &u64| survives >> (*number % 8) & 1 == 1;
            let some: BTreeMap<u64, Stored> = proposals
                .iter()
                .filter(|(number, _)| has_survived(number))
                .map(|(number, one)| (*number, of(one, Stage::Running)))
                .collect();
            // What only the experiment's status says, where nothing could be asked for.
            let mut again = shown(make(), &stored.clone().into_iter().chain(some.clone()).collect());
            again.learned_before(before);
            let asked_again = again.ask(count, &mut || true);
            let lacking = proposals.into_iter().filter(|(number, _)| !has_survived(number));
            let expected: BTreeMap<u64, Proposal> = lacking.collect();
            if some.is_empty() {
                prop_assert_eq!(asked, asked_again);
            }
            if !expected.is_empty() {
                prop_assert_eq!(again.asked(), &expected);
            }
            store(&mut whole, &mut stored);
            for (end_of, how) in ends {
                let running: Vec<u64> =
                    stored.iter().filter(|(_, trial)| trial.stage == Stage::Running).map(|(number, _)| *number).collect();
                if !running.is_empty() {
                    end(&mut whole, &mut stored, running[end_of.index(running.len())], how);
                }
                // Where nothing is left the ends are told one by one, and no trial says so before one can be asked for again.
                let _ = step.map(|_| whole[0].ask(1, &mut || true));
                store(&mut whole, &mut stored);
            }
        }
        let mut again = shown(make(), &stored);
        again.learned_before(whole[0].unsaid().to_vec());
        let asked = [whole[0].ask(3, &mut || true), again.ask(3, &mut || true)];
        prop_assert_eq!(&asked[0], &asked[1]);
        prop_assert_eq!(whole[0].asked(), again.asked());
    }
}

#[test]
fn the_order_in_which_ends_were_told_is_kept_where_nothing_could_be_asked_for() {
    // A space of four configurations: those that have been tried may go on when enough have ended.
    let make = || search_by(Box::new(Random), 1, Some(Policy::Asha), Some(2.0));
    let (mut searches, mut stored) = (vec![make()], BTreeMap::new());
    assert!(searches[0].ask(9, &mut || true).is_err());
    store(&mut searches, &mut stored);
    assert_eq!(stored.len(), 4);
    // Of four at the lowest rung one may go on when three have ended.
    for number in [3, 0] {
        end(&mut searches, &mut stored, number, 0);
        assert!(searches[0].ask(1, &mut || true).is_err());
    }
    end(&mut searches, &mut stored, 1, 9);
    // Another process knows that from the experiment's status.
    assert_eq!(searches[0].unsaid(), [3, 0]);
    let mut again = shown(make(), &stored);
    again.learned_before(vec![3, 0]);
    searches.push(again);
    for search in &mut searches {
        search.ask(1, &mut || true).unwrap();
        let learned: Vec<&Vec<u64>> = search.asked().values().map(|proposal| &proposal.learned).collect();
        assert_eq!(learned, [&vec![3, 0, 1]]);
        assert!(search.unsaid().is_empty());
    }
    assert_eq!(searches[0].asked(), searches[1].asked());
}

/// Counts how often it is asked.
struct Counted(Arc<AtomicUsize>);

impl Sampler for Counted {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Random.suggest(context)
    }
}

#[test]
fn trials_are_taken_up_without_asking_for_them_again() {
    let counted = || {
        let count = Arc::default();
        (search_by(Box::new(Counted(Arc::clone(&count))), 1, None, None), count)
    };
    let (first, _) = counted();
    let (mut searches, mut stored) = (vec![first], BTreeMap::new());
    for _ in 0..100 {
        searches[0].ask(8, &mut || true).unwrap();
        store(&mut searches, &mut stored);
        let running: Vec<u64> = stored.keys().copied().rev().take(8).collect();
        running.into_iter().for_each(|number| end(&mut searches, &mut stored, number, 9));
    }
    searches[0].ask(8, &mut || true).unwrap();
    let expected = searches[0].asked().clone();
    let (again, count) = counted();
    let mut again = shown(again, &stored);
    again.ask(8, &mut || true).unwrap();
    assert_eq!(again.asked(), &expected);
    assert_eq!(count.load(Ordering::Relaxed), 8, "of 800 trials none is suggested again");
    // One that was not stored is suggested again, alone.
    let last: Vec<(u64, Stored)> = expected.iter().map(|(number, one)| (*number, of(one, Stage::Running))).collect();
    stored.extend(last.into_iter().filter(|(number, _)| *number != 805));
    let (again, count) = counted();
    let mut again = shown(again, &stored);
    again.ask(8, &mut || true).unwrap();
    assert_eq!(again.asked().keys().collect::<Vec<_>>(), [&805]);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_trial_that_was_deleted_does_not_come_again() {
    let (mut searches, mut stored) = (vec![search(3)], BTreeMap::new());
    searches[0].ask(3, &mut || true).unwrap();
    store(&mut searches, &mut stored);
    stored.remove(&1);
    searches[0].observe(1, None);
    searches[0].ask(1, &mut || true).unwrap();
    store(&mut searches, &mut stored);
    assert_eq!(stored[&3].learned, [1]);
    let mut again = shown(search(3), &stored);
    searches[0].ask(1, &mut || true).unwrap();
    again.ask(1, &mut || true).unwrap();
    assert_eq!(again.asked(), searches[0].asked());
    assert_eq!(again.asked().keys().collect::<Vec<_>>(), [&4]);
}

#[test]
fn the_best_is_the_first_of_the_lowest() {
    let mut searches = [search(0)];
    let mut stored = BTreeMap::new();
    searches[0].ask(4, &mut || true).unwrap();
    store(&mut searches, &mut stored);
    let [mut search] = searches;
    for (number, value) in [(3, 1.0), (1, 0.5), (2, 0.5)] {
        let trial = Stored { stage: Stage::Succeeded(vec![value]), ..stored[&number].clone() };
        search.observe(number, Some(trial));
    }
    assert_eq!(search.best(), Some(1));
    assert_eq!(search.counts(), Counts { started: 4, running: 1, succeeded: 3, failed: 0, stopped: 0 });
    search.observe(1, None);
    assert_eq!(search.best(), Some(2), "one that was deleted is not the best");
}
