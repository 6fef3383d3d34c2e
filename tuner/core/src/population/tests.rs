#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use super::*;
use crate::experiment::{AskError, Experiment, Outcome};
use crate::objective::{Goal, Objective, Take};
use crate::sampler::Random;
use crate::search::{Batch, Place, Search, Stage, Stored};
use crate::space::{Parameter, Scale, Space};

fn space() -> Space {
    let parameter = |name: &str, domain: Domain| Parameter { name: name.to_owned(), domain, when: None };
    let lr = Domain::Float { min: 0.0001, max: 0.02, scale: Scale::Linear, step: Some(0.0001) };
    let units = Domain::Int { min: 1, max: 64, scale: Scale::Linear, step: 1 };
    let depth = Domain::Ordinal([2, 4, 8, 16].map(Value::Int).to_vec());
    let kind = Domain::Categorical([1, 2].map(Value::Int).to_vec());
    let all = [("lr", lr), ("units", units), ("depth", depth), ("kind", kind)];
    Space::new(all.map(|(name, domain)| parameter(name, domain)).to_vec(), Vec::new()).unwrap()
}

fn experiment(settings: Settings) -> Experiment {
    let objective = Objective { name: "accuracy".to_owned(), goal: Goal::Maximize, target: None, take: Take::Best };
    Experiment::new(space(), vec![objective], 7, Box::new(Random)).with_population(settings)
}

fn five() -> Settings {
    Settings { members: 5, truncation: 0.4, resample: None }
}

/// What an experiment asks for next: number, generation, member, parent and learning rate.
fn next(experiment: &mut Experiment) -> (TrialId, Level, f64) {
    let trial = experiment.ask().unwrap();
    (trial.id, trial.level.unwrap(), trial.configuration.values()[0].as_ref().unwrap().number().unwrap())
}

fn end(experiment: &mut Experiment, id: TrialId, value: f64) {
    experiment.tell(id, Outcome::Values(vec![value])).unwrap();
}

/// Five trials of which the last ones are the best.
fn first_generation(experiment: &mut Experiment) -> Vec<f64> {
    let born: Vec<(TrialId, Level, f64)> = (0..5).map(|_| next(experiment)).collect();
    let expected: Vec<(u64, usize, Option<TrialId>)> = (0..5).map(|member| (member, 0, None)).collect();
    assert_eq!(born.iter().map(|(_, level, _)| (level.bracket, level.rung, level.root)).collect::<Vec<_>>(), expected);
    assert_eq!(experiment.ask().map(|trial| trial.id), Err(AskError::Training { members: 5 }));
    born.iter().for_each(|(id, ..)| end(experiment, *id, id.0 as f64));
    born.into_iter().map(|(_, _, rate)| rate).collect()
}

#[test]
fn who_is_behind_takes_over_from_who_is_ahead() {
    let mut experiment = experiment(five());
    let rates = first_generation(&mut experiment);
    assert_eq!(rates.iter().map(|rate| rate.to_bits()).collect::<BTreeSet<_>>().len(), 5, "all differ at first");
    for member in 0..5 {
        let (_, level, rate) = next(&mut experiment);
        let parent = level.root.unwrap().0;
        assert_eq!((level.bracket, level.rung), (member, 1));
        if member < 2 {
            assert!(parent >= 3, "of five, two give up for the two that are ahead, found {parent}");
            let off = (rate - rates[parent as usize]).abs();
            assert!(off > 0.00009 && off <= 0.2 * rates[parent as usize] + 0.0001, "{rate} {rates:?}");
        } else {
            assert_eq!((parent, rate), (member, rates[member as usize]), "who goes on keeps what it has");
        }
    }
}

#[test]
fn who_got_least_far_is_next_and_compared_with_those_who_got_as_far() {
    let mut experiment = experiment(five());
    first_generation(&mut experiment);
    let (second, ..) = next(&mut experiment);
    end(&mut experiment, second, 100.0);
    let others: Vec<Level> = (0..4).map(|_| next(&mut experiment).1).collect();
    assert_eq!(
        others.iter().map(|level| (level.bracket, level.rung)).collect::<Vec<_>>(),
        [(1, 1), (2, 1), (3, 1), (4, 1)]
    );
    assert!(others.iter().all(|level| level.root != Some(second)), "it had one generation more");
    assert_eq!(next(&mut experiment).1, Level { rung: 2, bracket: 0, root: Some(second) });
}

#[test]
fn who_failed_takes_over_or_begins_anew() {
    let mut experiment = experiment(five());
    let failed = Outcome::Failed { reason: "out of memory".to_owned() };
    let born: Vec<TrialId> = (0..5).map(|_| next(&mut experiment).0).collect();
    born.iter().for_each(|id| experiment.tell(*id, failed.clone()).unwrap());
    let (again, level, _) = next(&mut experiment);
    assert_eq!(level, Level { rung: 0, bracket: 0, root: None }, "there is nobody to go on from");
    end(&mut experiment, again, 0.5);
    let from = |member: u64| Level { rung: 1, bracket: member, root: Some(again) };
    let second: Vec<(TrialId, Level, f64)> = (0..5).map(|_| next(&mut experiment)).collect();
    assert_eq!(second.iter().map(|(_, level, _)| *level).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(from));
    experiment.tell(second[2].0, failed).unwrap();
    assert_eq!(next(&mut experiment).1, from(2), "of its own generation nobody has told anything");
}

#[test]
fn parameters_are_drawn_anew_as_often_as_is_said() {
    let off = |resample: Option<f64>| -> (usize, usize) {
        let mut experiment = experiment(Settings { members: 200, truncation: 0.5, resample });
        let born: Vec<(TrialId, _, f64)> = (0..200).map(|_| next(&mut experiment)).collect();
        born.iter().for_each(|(id, ..)| end(&mut experiment, *id, id.0 as f64));
        let taken: Vec<(f64, f64)> = (0..100)
            .map(|_| {
                let (_, level, rate) = next(&mut experiment);
                (rate, born[level.root.unwrap().0 as usize].2)
            })
            .collect();
        let near = taken.iter().filter(|(rate, parent)| (rate - parent).abs() <= 0.2 * parent + 0.00011).count();
        (taken.len(), near)
    };
    assert_eq!(off(None), (100, 100));
    let (_, near) = off(Some(1.0));
    assert!(near < 40, "{near} of 100 are near by chance");
    let (_, some) = off(Some(0.5));
    assert!((45..90).contains(&some), "{some}");
}

/// The number, parent and parameters of all trials of a search in which trials end in turn, as often as `renewed` says of which
/// number it is made anew from what is stored.
fn went(renewed: impl Fn(u64) -> bool) -> Vec<(u64, Option<u64>, BTreeMap<String, Value>)> {
    let mut search = Search::new(experiment(five()));
    let mut stored: BTreeMap<u64, Stored> = BTreeMap::new();
    let mut all = Vec::new();
    for number in 0..40_u64 {
        if renewed(number) {
            let learned = search.unsaid().to_vec();
            search = Search::new(experiment(five()));
            search.learned_before(learned);
            stored.iter().for_each(|(number, trial)| search.observe(*number, Some(trial.clone())));
        }
        search.ask(1, &mut || true).unwrap();
        let (asked, proposal) = search.asked().iter().next().map(|(asked, one)| (*asked, one.clone())).unwrap();
        assert_eq!(asked, number);
        all.push((number, proposal.place.continues, proposal.parameters.clone()));
        let mut trial = Stored {
            parameters: proposal.parameters,
            learned: proposal.learned,
            batch: Some(Batch { ..proposal.batch }),
            by: proposal.by,
            place: Place { ..proposal.place },
            reports: Vec::new(),
            repeats: None,
            stage: Stage::Running,
        };
        search.observe(number, Some(trial.clone()));
        trial.stage = Stage::Succeeded(vec![f64::from((number * 7 % 11) as u32)]);
        stored.insert(number, trial.clone());
        search.observe(number, Some(trial));
    }
    all
}

#[test]
fn a_search_that_is_made_anew_goes_on_the_same_way() {
    let whole = went(|_| false);
    assert_eq!(whole.iter().filter(|(_, parent, _)| parent.is_none()).count(), 5);
    assert!(whole.iter().any(|(number, parent, _)| parent.is_some_and(|parent| parent % 5 != number % 5)));
    assert_eq!(went(|number| number % 3 == 2), whole);
}

#[test]
fn a_population_learns_a_schedule_that_no_constant_is_as_good_as() {
    // What is left to learn shrinks by a rate that is best where it is a hundredth of what is left.
    let train = |left: f64, rate: f64| left * (1.0 - 0.2 * (-((rate / 0.02) / left).ln().powi(2)).exp());
    let constant = (1..=200).map(|at| (0..60).fold(1.0, |left, _| train(left, f64::from(at) * 0.0001)));
    let constant = constant.fold(f64::INFINITY, f64::min);
    let mut experiment = experiment(Settings { members: 20, truncation: 0.2, resample: None });
    let mut left: BTreeMap<TrialId, f64> = BTreeMap::new();
    for _ in 0..60 * 20 {
        let (id, level, rate) = next(&mut experiment);
        let now = train(level.root.map_or(1.0, |root| left[&root]), rate);
        left.insert(id, now);
        end(&mut experiment, id, 1.0 - now);
    }
    let found = left.values().copied().fold(f64::INFINITY, f64::min);
    assert!(found < constant, "{found} is left, and of the best constant {constant}");
}
