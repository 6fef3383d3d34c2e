//! Functions whose shares of variance are known.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::f64::consts::PI;

use super::*;
use crate::expression::Expression;
use crate::space::{Domain, Parameter, Scale, Space, Value};
use crate::stream::{Purpose, Stream};

fn float(name: &str, min: f64, max: f64) -> Parameter {
    let domain = Domain::Float { min, max, scale: Scale::Linear, step: None };
    Parameter { name: name.to_owned(), domain, when: None }
}

/// An analysis of so many random configurations, with their losses by value.
fn analysis(parameters: Vec<Parameter>, count: usize, loss: impl Fn(&[Option<Value>]) -> f64) -> Analysis {
    let space = Space::new(parameters, Vec::new()).unwrap();
    let mut stream = Stream::new(5, 0, Purpose::Prior, 0);
    let drawn: Vec<_> = (0..count).map(|_| space.draw(&mut stream).unwrap()).collect();
    let points: Vec<(Vec<f64>, f64)> = drawn.iter().map(|one| (space.point(one), loss(one.values()))).collect();
    let points: Vec<(&[f64], f64)> = points.iter().map(|(point, loss)| (point.as_slice(), *loss)).collect();
    Analysis::of(&space, &points, 1).unwrap()
}

fn numbers(values: &[Option<Value>]) -> Vec<f64> {
    values.iter().map(|value| value.as_ref().and_then(Value::number).unwrap_or(f64::NAN)).collect()
}

fn near(found: f64, known: f64, tolerance: f64) -> bool {
    (found - known).abs() <= tolerance
}

#[test]
fn the_shares_of_ishigamis_function() {
    let parameters = ["a", "b", "c"].map(|name| float(name, -PI, PI)).to_vec();
    let ishigami = |values: &[Option<Value>]| {
        let x = numbers(values);
        x[0].sin() + 7.0 * x[1].sin().powi(2) + 0.1 * x[2].powi(4) * x[0].sin()
    };
    let analysis = analysis(parameters, 1_000, ishigami);
    for (share, (alone, total)) in analysis.shares().iter().zip([(0.3139, 0.5576), (0.4424, 0.4424), (0.0, 0.2437)]) {
        assert!(near(share.alone, alone, 0.06) && near(share.total, total, 0.06), "{:?}", analysis.shares());
    }
    let interplay = analysis.interplay();
    assert_eq!(interplay[0].parameters, (0, 2));
    assert!(near(interplay[0].share, 0.2437, 0.06) && interplay[1].share < 0.05, "{interplay:?}");
    assert!(analysis.fit() > 0.85, "{}", analysis.fit());
}

#[test]
fn few_trials_tell_what_matters_from_what_does_not() {
    // The variances of the parts are 16, 4 and 1 twelfths, and 0.
    let parameters = ["a", "b", "c", "d", "e"].map(|name| float(name, 0.0, 1.0)).to_vec();
    let analysis = analysis(parameters, 60, |values| {
        let x = numbers(values);
        4.0 * x[0] - 2.0 * x[1] + x[2]
    });
    let shares = analysis.shares();
    assert_eq!(analysis.ranked()[..2], [0, 1]);
    assert!(near(shares[0].alone, 16.0 / 21.0, 0.15), "{shares:?}");
    assert!(shares[3].total < 0.1 && shares[4].total < 0.1, "{shares:?}");
}

#[test]
fn parameters_that_are_not_always_used_have_the_share_that_is_due_to_them() {
    // Half of the time `kind` is "a" and the loss is 3 x; else it is 1 + y, where y has no name for the other half.
    let mut x = float("x", 0.0, 1.0);
    x.when = Some(Expression::parse("kind == 'a'").unwrap());
    let mut y = float("y", 0.0, 1.0);
    y.when = Some(Expression::parse("kind == 'b'").unwrap());
    let kinds = ["a", "b"].map(|kind| Value::Text(kind.to_owned())).to_vec();
    let kind = Parameter { name: "kind".to_owned(), domain: Domain::Categorical(kinds), when: None };
    let analysis = analysis(vec![kind, x, y], 600, |values| {
        let numbers = numbers(values);
        if numbers[1].is_nan() { 1.0 + numbers[2] } else { 3.0 * numbers[1] }
    });
    // The loss is (1 - k) 3 x + k (1 + y) with k 0 or 1, which has the variance 0.5 (9 / 12 + 1 / 12) as both have the mean 1.5. Of it
    // x alone makes 9 / 12 / 4, y 1 / 12 / 4, and k nothing; the rest is the interplay of x and y with k.
    let (variance, shares) = (10.0 / 24.0, analysis.shares());
    let known = [(0.0, 10.0 / 48.0), (9.0 / 48.0, 9.0 / 24.0), (1.0 / 48.0, 1.0 / 24.0)];
    for (share, (alone, total)) in shares.iter().zip(known) {
        assert!(near(share.alone, alone / variance, 0.05) && near(share.total, total / variance, 0.05), "{shares:?}");
    }
}

#[test]
fn whole_numbers_and_categories_are_weighed_by_cell() {
    let int = Domain::Int { min: 1, max: 4, scale: Scale::Linear, step: 1 };
    let depth = Parameter { name: "depth".to_owned(), domain: int, when: None };
    let kinds = Domain::Categorical((0..5).map(Value::Int).collect());
    let kind = Parameter { name: "kind".to_owned(), domain: kinds, when: None };
    let analysis = analysis(vec![depth, kind], 400, |values| {
        let x = numbers(values);
        x[0] + if x[1] == 3.0 { 5.0 } else { 0.0 }
    });
    // The variances are 15 / 12 and 25 * 4 / 25.
    let (shares, sum) = (analysis.shares(), 1.25 + 4.0);
    assert!(near(shares[0].alone, 1.25 / sum, 0.01) && near(shares[1].alone, 4.0 / sum, 0.01), "{shares:?}");
    let curve = analysis.curve(1);
    assert_eq!(curve.len(), 5);
    assert!((0..5).all(|at| near(curve[at], if at == 3 { 7.5 } else { 2.5 }, 0.3)), "{curve:?}");
    assert_eq!((analysis.surface(0, 1).len(), analysis.surface(0, 1)[0].len()), (4, 5));
}

#[test]
fn it_is_the_same_for_the_same_trials_and_never_breaks() {
    let space = Space::new(vec![float("x", 0.0, 1.0), float("y", 0.0, 1.0)], Vec::new()).unwrap();
    let mut stream = Stream::new(9, 0, Purpose::Prior, 0);
    let points: Vec<Vec<f64>> = (0..40).map(|_| vec![stream.uniform(), stream.uniform()]).collect();
    let of = |loss: &dyn Fn(&[f64]) -> f64| {
        let points: Vec<(&[f64], f64)> = points.iter().map(|point| (point.as_slice(), loss(point))).collect();
        Analysis::of(&space, &points, 1)
    };
    let shares = |loss: &dyn Fn(&[f64]) -> f64| of(loss).map(|analysis| analysis.shares().to_vec());
    assert_eq!(shares(&|point| point[0]), shares(&|point| point[0]));
    assert_eq!(shares(&|_| 3.0), None, "what is always the same depends on nothing");
    assert!(Analysis::of(&space, &[(&[0.5, 0.5], 1.0)], 1).is_none());
    for huge in [&(|point: &[f64]| point[0] * 1e308) as &dyn Fn(&[f64]) -> f64, &|point| 1e-300 * point[0]] {
        let shares = shares(huge).unwrap();
        assert!(shares.iter().all(|share| share.alone.is_finite() && share.total.is_finite()), "{shares:?}");
    }
    assert_eq!(shares(&|point| if point[0] > 0.5 { f64::MAX } else { f64::MIN }), None);
    // One that diverged does not hide what the others say.
    let shares = shares(&|point| if point[1] > 0.97 { 1e12 } else { point[0] }).unwrap();
    assert!(shares[0].total > shares[1].total, "{shares:?}");
}
