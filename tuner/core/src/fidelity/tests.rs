#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::experiment::{AskError, Experiment, Outcome};
use crate::history::Trial;
use crate::objective::{Goal, Take};
use crate::sampler::{Bohb, Random, Sampler, bohb};
use crate::space::{Domain, Parameter, Scale, Space};

fn ladder(max: f64) -> Ladder {
    Ladder::new(Some("epochs".to_owned()), 1.0, max, 3.0).unwrap()
}

fn space(step: Option<f64>) -> Space {
    let x = Parameter {
        name: "x".to_owned(),
        domain: Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step },
        when: None,
    };
    Space::new(vec![x], Vec::new()).unwrap()
}

fn loss() -> Vec<Objective> {
    vec![Objective { name: "loss".to_owned(), goal: Goal::Minimize, target: None, take: Take::Last }]
}

fn sampler(with_model: bool) -> Box<dyn Sampler> {
    if with_model { Box::new(Bohb::new(bohb::Settings::default(), ladder(9.0))) } else { Box::new(Random) }
}

fn experiment(policy: Policy, with_model: bool, step: Option<f64>) -> Experiment {
    Experiment::new(space(step), loss(), 5, sampler(with_model)).with_ladder(ladder(9.0), policy)
}

/// The middle is the best, and seen the better the more a trial may use.
fn value(trial: &Trial) -> f64 {
    let level = trial.level.unwrap();
    (trial.point[0] - 0.5).abs() + 1.0 / (level.rung + 1) as f64
}

fn rung(trial: &Trial) -> usize {
    trial.level.unwrap().rung
}

#[test]
fn the_rungs_end_at_the_most_and_begin_at_about_the_least() {
    let of = |min, max, eta| Ladder::new(None, min, max, eta).unwrap().resources().to_vec();
    assert_eq!(of(1.0, 81.0, 3.0), [1.0, 3.0, 9.0, 27.0, 81.0]);
    assert_eq!(of(1.0, 100.0, 3.0), [1.0, 4.0, 11.0, 33.0, 100.0]);
    assert_eq!(of(0.125, 1.0, 2.0), [0.125, 0.25, 0.5, 1.0]);
    assert_eq!(of(2.0, 5.0, 2.0), [3.0, 5.0]);
    let wrong = |min, max, eta| Ladder::new(None, min, max, eta).unwrap_err();
    assert_eq!(wrong(1.0, 2.0, 3.0), "from 1 to 2 there is no step by a factor of 3");
    assert_eq!(wrong(0.0, 2.0, 3.0), "expected a resource above 0, found 0");
    assert_eq!(wrong(1.0, 2.0, 1.0), "expected an eta above 1, found 1");
}

#[test]
fn brackets_have_the_sizes_of_hyperband() {
    // Table 1 of the paper has 81, 27, 9, 6 and 5; the sizes of its text are those of its program: ceil((s + 1) eta^s' / (s' + 1)).
    assert_eq!(ladder(81.0).bracket_sizes(), [81, 34, 15, 8, 5]);
    let ladder = ladder(9.0);
    assert_eq!(ladder.bracket_sizes(), [9, 5, 3]);
    let firsts: Vec<usize> = (0..18).map(|trial| ladder.bracket_of(trial)).collect();
    assert_eq!(firsts, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 0]);
}

/// Runs an experiment with so many at the same time, of which the one that began first ends first.
fn run(experiment: Experiment, trials: usize, parallel: usize) -> Experiment {
    run_with(experiment, trials, parallel, &value)
}

fn run_with(mut experiment: Experiment, trials: usize, parallel: usize, value: &dyn Fn(&Trial) -> f64) -> Experiment {
    let mut running = std::collections::VecDeque::new();
    for _ in 0..trials {
        if running.len() == parallel {
            let id = running.pop_front().unwrap();
            let value = value(experiment.history().get(id).unwrap());
            experiment.tell(id, Outcome::Values(vec![value])).unwrap();
        }
        match experiment.ask() {
            Ok(trial) => running.push_back(trial.id),
            Err(error) => {
                assert!(matches!(error, AskError::Exhausted { .. }), "{error}");
                let Some(id) = running.pop_front() else { break };
                let value = value(experiment.history().get(id).unwrap());
                experiment.tell(id, Outcome::Values(vec![value])).unwrap();
            }
        }
    }
    experiment
}

#[test]
fn whoever_is_among_the_best_of_a_rung_goes_on_at_once() {
    let experiment = run(experiment(Policy::Asha, false, None), 60, 1);
    let trials = experiment.history().trials();
    let root = |trial: &Trial| trial.level.unwrap().root.unwrap_or(trial.id);
    for (at, trial) in trials.iter().enumerate() {
        // By the definition: of those that were at a rung before, the best third.
        let expected = (0..2).rev().find_map(|rung| {
            let mut ranked: Vec<(f64, TrialId)> =
                trials[..at].iter().filter(|one| self::rung(one) == rung).map(|one| (value(one), root(one))).collect();
            ranked.sort_by(|one, other| one.0.total_cmp(&other.0));
            let third = ranked.len() / 3;
            let gone = |id: &TrialId| trials[..at].iter().any(|one| self::rung(one) == rung + 1 && root(one) == *id);
            ranked[..third].iter().map(|(_, id)| *id).find(|id| !gone(id)).map(|id| (rung + 1, id))
        });
        assert_eq!((rung(trial), root(trial)), expected.unwrap_or((0, trial.id)), "trial {at}");
        assert_eq!(trial.configuration, trials[root(trial).0 as usize].configuration);
    }
    let at = |wanted: usize| trials.iter().filter(|trial| rung(trial) == wanted).count();
    assert!(at(0) >= 36 && at(1) >= 12 && at(2) >= 4, "{} {} {}", at(0), at(1), at(2));
}

#[test]
fn a_rung_of_hyperband_is_waited_for_and_the_next_bracket_begins_meanwhile() {
    let mut experiment = experiment(Policy::Hyperband, false, None);
    let asked: Vec<TrialId> = (0..14).map(|_| experiment.ask().unwrap().id).collect();
    let levels: Vec<(u64, usize)> = experiment
        .history()
        .trials()
        .iter()
        .map(|trial| trial.level.map(|level| (level.bracket, level.rung)).unwrap())
        .collect();
    assert_eq!(levels[..9], [(0, 0); 9]);
    assert_eq!(levels[9..], [(1, 1); 5], "nobody waits");
    for id in &asked[..8] {
        let value = value(experiment.history().get(*id).unwrap());
        experiment.tell(*id, Outcome::Values(vec![value])).unwrap();
    }
    assert_eq!(experiment.ask().unwrap().level, Some(Level { rung: 2, bracket: 2, root: None }));
    experiment.tell(asked[8], Outcome::Failed { reason: "it broke".to_owned() }).unwrap();
    let mut losses: Vec<(f64, TrialId)> =
        asked[..8].iter().map(|id| (value(experiment.history().get(*id).unwrap()), *id)).collect();
    losses.sort_by(|one, other| one.0.total_cmp(&other.0));
    for (_, best) in &losses[..3] {
        assert_eq!(experiment.ask().unwrap().level, Some(Level { rung: 1, bracket: 0, root: Some(*best) }));
    }
    assert_eq!(experiment.ask().unwrap().level.map(|level| level.bracket), Some(2), "three have gone on");
}

#[test]
fn the_best_of_a_space_of_which_all_was_tried_gets_to_the_top() {
    for policy in [Policy::Asha, Policy::Hyperband] {
        // Of eleven configurations no bracket is full.
        let experiment = run(experiment(policy, false, Some(0.1)), 60, 2);
        let trials = experiment.history().trials();
        let top: Vec<&Trial> = trials.iter().filter(|trial| rung(trial) == 2).collect();
        assert!(top.iter().any(|trial| trial.point[0] > 0.45 && trial.point[0] < 0.55), "{policy:?}");
        assert_eq!(trials.iter().filter(|trial| trial.level.unwrap().root.is_none()).count(), 11);
        assert_eq!(rung(experiment.best()[0]), 2, "the best had the most");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_experiment_that_is_shown_its_history_goes_on_the_same_way(
        is_asha in any::<bool>(),
        with_model in any::<bool>(),
        rounds in prop::collection::vec((1_usize..4, any::<prop::sample::Index>(), 0_u8..8), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let policy = if is_asha { Policy::Asha } else { Policy::Hyperband };
        let mut first = experiment(policy, with_model, None);
        let cut = cut.index(rounds.len());
        let mut again = None;
        let mut running: BTreeMap<TrialId, ()> = BTreeMap::new();
        for (at, (count, which, how)) in rounds.into_iter().enumerate() {
            if at == cut {
                let mut other = experiment(policy, with_model, None);
                for trial in first.history().trials() {
                    other.begin(trial.configuration.clone(), trial.level);
                }
                for id in first.history().ended() {
                    let outcome = match &first.history().get(*id).unwrap().state {
                        State::Complete { values } => Outcome::Values(values.clone()),
                        State::Failed { .. } | State::Running | State::Stopped { .. } => Outcome::Failed { reason: "it broke".to_owned() },
                    };
                    other.tell(*id, outcome).unwrap();
                }
                again = Some(other);
            }
            for _ in 0..count {
                let asked = first.ask().unwrap().clone();
                running.insert(asked.id, ());
                if let Some(again) = &mut again {
                    prop_assert_eq!(again.ask().unwrap(), &asked);
                }
            }
            let ids: Vec<TrialId> = running.keys().copied().collect();
            let id = ids[which.index(ids.len())];
            running.remove(&id);
            let outcome = if how == 0 { Outcome::Failed { reason: "it broke".to_owned() } } else { Outcome::Values(vec![value(first.history().get(id).unwrap())]) };
            first.tell(id, outcome.clone()).unwrap();
            if let Some(again) = &mut again {
                again.tell(id, outcome).unwrap();
            }
        }
        // No configuration is twice at a rung, and none goes on that was not told of.
        let mut seen = BTreeSet::new();
        for trial in first.history().trials() {
            let level = trial.level.unwrap();
            prop_assert!(seen.insert((level.root.unwrap_or(trial.id), level.rung)));
            prop_assert!(level.root.is_none_or(|root| seen.contains(&(root, level.rung - 1))));
        }
    }
}

#[test]
fn the_model_learns_from_the_highest_rung_of_which_enough_is_known() {
    // How far from the best the configurations are that are begun after the first sixty, where the lowest rung sees little.
    let distance = |sampler: Box<dyn Sampler>| {
        let float = |at: usize| Parameter {
            name: format!("x{at}"),
            domain: Domain::Float { min: 0.0, max: 1.0, scale: Scale::Linear, step: None },
            when: None,
        };
        let space = Space::new((0..4).map(float).collect(), Vec::new()).unwrap();
        let experiment = Experiment::new(space, loss(), 5, sampler).with_ladder(ladder(9.0), Policy::Asha);
        let far = |trial: &Trial| trial.point.iter().map(|x| (x - 0.3).powi(2)).sum::<f64>();
        let experiment = run_with(experiment, 240, 4, &|trial| {
            let blur = (trial.id.0 as f64 * 12.9898).sin().abs() / (1 << (2 * rung(trial))) as f64;
            far(trial) + 0.4 * blur
        });
        let new = experiment.history().trials().iter().filter(|trial| trial.level.unwrap().root.is_none()).skip(60);
        let all: Vec<f64> = new.map(far).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let model = Bohb::new(bohb::Settings::default(), ladder(9.0));
    let (with, without) = (distance(Box::new(model)), distance(Box::new(Random)));
    assert!(with < 0.7 * without, "{with} {without}");
}
