use super::*;
use crate::objective::{Goal, Take};

fn stopping(goal: Goal, rule: Rule) -> Stopping {
    let objective = Objective { name: "score".to_owned(), goal, target: None, take: Take::Last };
    Stopping { at: 0, objective, rules: vec![rule] }
}

fn reports(values: &[f64]) -> Vec<Report> {
    values.iter().zip(1..).map(|(value, step)| Report::new(step, vec![*value])).collect()
}

fn told(judge: &mut Judge, trial: u64, values: &[f64]) -> Option<String> {
    judge.judge(trial, &reports(values)).map(|verdict| match verdict {
        Verdict::Hopeless(why) | Verdict::Settled(why) => why,
    })
}

fn percentile(percentile: f64, against: Against) -> Rule {
    Rule::Percentile { percentile, against, start: 2, trials: 3 }
}

#[test]
fn a_trial_that_is_worse_than_the_median_is_hopeless() {
    let mut judge = Judge::new(stopping(Goal::Maximize, percentile(50.0, Against::Average)));
    for (trial, values) in [[0.2, 0.4, 0.9], [0.4, 0.6, 0.7], [0.5, 0.7, 0.8]].iter().enumerate() {
        assert_eq!(told(&mut judge, 9, &[0.0, 0.0]), None, "too few have ended");
        judge.ended(trial as u64, true, &reports(values));
    }
    // At step 2 the averages are 0.3, 0.5 and 0.6.
    assert_eq!(told(&mut judge, 9, &[0.0]), None, "too early");
    assert_eq!(told(&mut judge, 9, &[0.0, 0.5]), None);
    let why = "by step 2 it had score=0.49 at best, and the median of 3 trials' averages is score=0.5";
    assert_eq!(told(&mut judge, 9, &[0.49, 0.3]).as_deref(), Some(why));
    // One that was stopped, or still runs, is nothing to compare with.
    judge.ended(3, false, &reports(&[0.0, 0.0, 0.0]));
    assert_eq!(told(&mut judge, 4, &[0.0, 0.6]), None);
    assert_eq!(told(&mut judge, 9, &[0.49, 0.3]).as_deref(), Some(why));
    judge.forget(0);
    assert_eq!(told(&mut judge, 9, &[0.49, 0.3]), None, "two are too few");
}

#[test]
fn percentiles_are_of_what_is_compared_with() {
    let curves = [[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [2.0, 4.0], [1.0, 5.0]];
    let limit = |share, against, value: f64| {
        let mut judge = Judge::new(stopping(Goal::Minimize, percentile(share, against)));
        curves.iter().zip(0..).for_each(|(values, trial)| judge.ended(trial, true, &reports(values)));
        told(&mut judge, 9, &[9.0, value]).is_some()
    };
    // The last values are 1 to 5, the best ones 1, 2, 3, 2, 1, and all averages 3.
    for (share, against, most) in [
        (25.0, Against::Last, 2.0),
        (50.0, Against::Last, 3.0),
        (50.0, Against::Best, 2.0),
        (25.0, Against::Average, 3.0),
    ] {
        assert!(!limit(share, against, most), "{share} {against:?}");
        assert!(limit(share, against, most + 0.01), "{share} {against:?}");
    }
}

#[test]
fn a_value_beyond_a_threshold_is_hopeless_whichever_way_is_better() {
    let rule = Rule::Threshold { lower: Some(0.1), upper: Some(0.9), start: 2 };
    let mut judge = Judge::new(stopping(Goal::Maximize, rule));
    assert_eq!(told(&mut judge, 0, &[0.0]), None, "too early");
    assert_eq!(told(&mut judge, 0, &[0.0, 0.5]), None);
    let below = told(&mut judge, 0, &[0.5, 0.05]);
    assert_eq!(below.as_deref(), Some("at step 2 it had score=0.05, which is below 0.1"));
    let above = told(&mut judge, 0, &[0.5, 0.95]);
    assert_eq!(above.as_deref(), Some("at step 2 it had score=0.95, which is above 0.9"));
}

#[test]
fn what_has_not_become_better_for_long_is_settled() {
    let mut judge = Judge::new(stopping(Goal::Minimize, Rule::Patience { steps: 3, least: 0.1, start: 0 }));
    assert_eq!(told(&mut judge, 0, &[1.0, 0.5, 0.45, 0.55]), None);
    let why = judge.judge(0, &reports(&[1.0, 0.5, 0.45, 0.55, 0.41]));
    let expected = "it has not become better than score=0.5 of step 2 for 3 steps".to_owned();
    assert_eq!(why, Some(Verdict::Settled(expected)), "by a tenth");
    assert_eq!(told(&mut judge, 0, &[1.0, 0.5, 0.45, 0.55, 0.39]), None);
}

#[test]
fn folds_are_compared_pair_by_pair_with_the_best_trial() {
    let mut judge = Judge::new(stopping(Goal::Maximize, Rule::Wilcoxon { p: 0.1, start: 2 }));
    let best = [0.9, 0.5, 0.8, 0.7, 0.6];
    assert_eq!(told(&mut judge, 9, &[0.0, 0.0, 0.0, 0.0]), None, "nothing to compare with");
    judge.ended(0, true, &reports(&best));
    judge.ended(1, true, &reports(&[0.1; 5]));
    let worse: Vec<f64> = best.iter().map(|value| value - 0.02).collect();
    assert_eq!(told(&mut judge, 9, &worse[..3]), None, "one in eight is too likely");
    let why = told(&mut judge, 9, &worse[..4]);
    assert_eq!(why.as_deref(), Some("it is worse than the best trial at 4 of 4 steps, by chance only with p=0.0625"));
    let mut better = worse.clone();
    better[0] = 2.0;
    assert_eq!(told(&mut judge, 9, &better), None, "better on the whole");
}

#[test]
fn a_trial_that_is_not_among_the_best_of_its_rung_is_hopeless() {
    let ladder = Ladder::new(None, 1.0, 9.0, 3.0).unwrap_or_else(|error| panic!("{error}"));
    let mut judge = Judge::new(stopping(Goal::Minimize, Rule::Halving { ladder, brackets: false }));
    assert_eq!(told(&mut judge, 0, &[0.5]), None, "nobody else is there");
    assert_eq!(told(&mut judge, 1, &[0.4]), None, "the best so far");
    let why = told(&mut judge, 2, &[0.45]);
    assert_eq!(why.as_deref(), Some("at step 1 it had score=0.45, number 2 of 3 trials, of which 1 may go on"));
    // What was allowed to pass a rung is not judged there again, but at the next.
    assert_eq!(told(&mut judge, 0, &[0.5, 0.5]), None);
    assert_eq!(told(&mut judge, 1, &[0.4, 0.4, 0.3]), None);
    let why = told(&mut judge, 0, &[0.5, 0.5, 0.4]);
    assert_eq!(why.as_deref(), Some("at step 3 it had score=0.4, number 2 of 2 trials, of which 1 may go on"));
    assert_eq!(told(&mut judge, 1, &[0.4, 0.4, 0.3, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]), None, "the last rung is the end");
}

#[test]
fn trials_of_other_brackets_are_judged_later() {
    let ladder = Ladder::new(None, 1.0, 9.0, 3.0).unwrap_or_else(|error| panic!("{error}"));
    let rule = Rule::Halving { ladder, brackets: true };
    let mut judge = Judge::new(stopping(Goal::Minimize, rule));
    assert_eq!(told(&mut judge, 0, &[0.1]), None);
    // The ninth trial begins a bracket whose first rung is at step 3.
    assert_eq!(told(&mut judge, 9, &[0.9, 0.9, 0.9]), None);
    assert!(told(&mut judge, 1, &[0.9]).is_some());
    assert!(told(&mut judge, 10, &[0.0, 0.0, 0.95]).is_some());
    assert_eq!(told(&mut judge, 14, &[1.0; 9]), None, "and a last one that runs to the end");
}

#[test]
fn a_curve_that_goes_nowhere_is_hopeless() {
    let mut judge = Judge::new(stopping(Goal::Minimize, Rule::Curve { p: 0.05, start: 5, trials: 2 }));
    let curve = |last: f64, steps: u32| (1..=steps).map(|step| last + 0.5 / f64::from(step)).collect::<Vec<f64>>();
    judge.ended(0, true, &reports(&curve(0.1, 50)));
    assert_eq!(told(&mut judge, 9, &curve(0.4, 12)), None, "too few have ended");
    judge.ended(1, true, &reports(&curve(0.2, 50)));
    assert_eq!(told(&mut judge, 9, &curve(0.4, 4)), None, "too early");
    assert_eq!(told(&mut judge, 9, &curve(0.05, 12)), None, "worse than the best so far, and going below");
    let why = told(&mut judge, 9, &curve(0.4, 12)).unwrap_or_default();
    assert!(why.starts_with("by step 50 it comes to about score=0.4"), "{why}");
    assert!(why.contains("and to score=0.11 of the best trial with p="), "{why}");
}

#[test]
fn of_many_reports_a_hundred_are_stored() {
    let many: Vec<f64> = (0..1_001).map(f64::from).collect();
    let kept = thinned(&reports(&many));
    let steps: Vec<u64> = kept.iter().map(|report| report.step).collect();
    assert_eq!((steps.len(), steps[0], steps[1], steps[99]), (100, 1, 11, 1_001));
    assert_eq!(thinned(&reports(&many[..100])).len(), 100);
}

#[test]
fn what_is_not_stored_of_many_reports_counts_in_means_and_best_values() {
    // The best value comes once, where no report is kept; the values of those that are kept are no fair sample.
    let mut many = vec![0.5; 1_001];
    many[5] = 0.1;
    (0..=100).for_each(|at| many[at * 10] = 0.9);
    let all = Curve::new(&reports(&many), 0, &stopping(Goal::Minimize, percentile(50.0, Against::Best)).objective);
    for goal in [Goal::Minimize, Goal::Maximize] {
        let objective = stopping(goal, percentile(50.0, Against::Best)).objective;
        let signed: Vec<f64> = many.iter().map(|value| objective.loss(*value)).collect();
        let kept = Curve::new(&thinned(&thinned(&reports(&signed))), 0, &objective);
        let (last, of_all) = (kept.last().copied(), all.last().copied());
        let numbers =
            |point: Option<curve::Point>| point.map(|point| (point.step, point.best, (point.mean * 1e9).round()));
        assert_eq!(numbers(last), numbers(of_all), "{goal:?}");
        assert_eq!(numbers(last).map(|(_, best, _)| best), Some(0.1));
    }
}

/// A process that ends and another that is shown what is stored.
#[test]
fn who_has_passed_a_rung_is_not_judged_there_again_after_a_restart() {
    let ladder = Ladder::new(None, 1.0, 9.0, 3.0).unwrap_or_else(|error| panic!("{error}"));
    let stopping = stopping(Goal::Minimize, Rule::Halving { ladder, brackets: false });
    let mut judge = Judge::new(stopping.clone());
    assert_eq!(told(&mut judge, 0, &[0.5, 0.5]), None);
    assert_eq!(told(&mut judge, 1, &[0.4]), None);
    let kept = |values: &[f64]| stopping.to_keep(&reports(values));
    assert_eq!(kept(&[0.5, 0.5]), reports(&[0.5]), "of one that runs, those at rungs");
    assert_eq!(kept(&[0.5, 0.6, 0.7, 0.8]).iter().map(|report| report.step).collect::<Vec<_>>(), [1, 3]);
    let mut again = Judge::new(stopping.clone());
    again.running(0, &kept(&[0.5, 0.5]));
    again.running(1, &kept(&[0.4]));
    for judge in [&mut judge, &mut again] {
        assert_eq!(told(judge, 0, &[0.5, 0.5]), None, "it has passed");
        let why = told(judge, 2, &[0.45]);
        let expected = "at step 1 it had score=0.45, number 2 of 3 trials, of which 1 may go on";
        assert_eq!(why.as_deref(), Some(expected), "those that run count");
    }
}
