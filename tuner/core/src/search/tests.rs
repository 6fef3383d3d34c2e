#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;

use super::*;
use crate::fidelity::{Ladder, Policy};
use crate::objective::{Goal, Take};
use crate::sampler::{Tpe, tpe};
use crate::space::{Domain, Parameter, Scale, Space};

fn search(seed: u64) -> Search {
    search_with(seed, None)
}

fn search_with(seed: u64, policy: Option<Policy>) -> Search {
    let float = |name: &str| Parameter {
        name: name.to_owned(),
        domain: Domain::Float { min: -1.0, max: 1.0, scale: Scale::Linear, step: None },
        when: None,
    };
    let space = Space::new(vec![float("x"), float("y")], Vec::new()).unwrap();
    let loss = Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last };
    let sampler = Box::new(Tpe::new(tpe::Settings { startup: 3, ..tpe::Settings::default() }));
    let experiment = Experiment::new(space, vec![loss], seed, sampler);
    let ladder = Ladder::new(Some("epochs".to_owned()), 1.0, 9.0, 3.0).unwrap();
    Search::new(match policy {
        Some(policy) => experiment.with_ladder(ladder, policy),
        None => experiment,
    })
}

fn of(proposal: &Proposal, stage: Stage) -> Stored {
    let Proposal { parameters, learned, place } = proposal.clone();
    Stored { parameters, learned, place, reports: Vec::new(), repeats: None, stage }
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
