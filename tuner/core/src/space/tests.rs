use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::stream::Purpose;

fn float(name: &str, min: f64, max: f64, scale: Scale) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Float { min, max, scale, step: None }, when: None }
}

fn int(name: &str, min: i64, max: i64) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Int { min, max, scale: Scale::Linear, step: 1 }, when: None }
}

fn texts(choices: &[&str]) -> Vec<Value> {
    choices.iter().map(|choice| Value::Text((*choice).to_owned())).collect()
}

fn choice(name: &str, choices: &[&str]) -> Parameter {
    Parameter { name: name.to_owned(), domain: Domain::Categorical(texts(choices)), when: None }
}

fn when(mut parameter: Parameter, condition: &str) -> Parameter {
    parameter.when = Some(Expression::parse(condition).expect("it parses"));
    parameter
}

/// Two optimisers with parameters of their own, one of them with a condition on the other's.
fn tree() -> Space {
    let parameters = vec![
        when(float("momentum", 0.0, 1.0, Scale::Linear), "nesterov"),
        choice("optimizer", &["sgd", "adam"]),
        when(
            Parameter {
                name: "nesterov".to_owned(),
                domain: Domain::Categorical(vec![Value::Bool(false), Value::Bool(true)]),
                when: None,
            },
            "optimizer == 'sgd'",
        ),
        when(float("beta", 0.9, 0.999, Scale::Logit), "optimizer == 'adam'"),
        float("lr", 1e-5, 1.0, Scale::Log),
    ];
    let constraint = Expression::parse("momentum + lr < 1.2").expect("it parses");
    Space::new(parameters, vec![constraint]).expect("a space")
}

fn stream(trial: u64) -> Stream {
    Stream::new(1, trial, Purpose::Prior, 0)
}

#[test]
fn only_what_is_used_has_a_value() {
    let space = tree();
    let mut seen = BTreeSet::new();
    for trial in 0..200 {
        let configuration = space.draw(&mut stream(trial)).expect("one");
        let names: Vec<String> = configuration.named(&space).into_keys().collect();
        let named = configuration.named(&space);
        if let Some(momentum) = named.get("momentum").and_then(Value::number) {
            assert!(momentum + named["lr"].number().expect("a number") < 1.2);
        }
        seen.insert(names.join(" "));
        let point = space.point(&configuration);
        assert_eq!(space.key(&space.configuration(&point)), space.key(&configuration), "there and back");
    }
    let all = ["beta lr optimizer", "lr momentum nesterov optimizer", "lr nesterov optimizer"];
    assert_eq!(seen, BTreeSet::from(all.map(str::to_owned)));
}

#[test]
fn what_a_point_leaves_open_is_the_middle() {
    let space = tree();
    let nothing = [f64::NAN; 5];
    let named = space.configuration(&nothing).named(&space);
    assert_eq!(named["optimizer"], Value::Text("sgd".to_owned()));
    assert!((named["lr"].number().expect("a number") - 10_f64.powf(-2.5)).abs() < 1e-9, "{named:?}");
    let short = space.configuration(&[]);
    assert_eq!(space.key(&short), space.key(&space.configuration(&nothing)));
}

#[test]
fn a_finite_space_can_be_counted_and_walked() {
    let parameters = vec![
        int("layers", 1, 4),
        choice("kind", &["a", "b", "c"]),
        when(
            Parameter {
                name: "size".to_owned(),
                domain: Domain::Ordinal(vec![Value::Int(16), Value::Int(32)]),
                when: None,
            },
            "kind == 'b'",
        ),
        Parameter {
            name: "drop".to_owned(),
            domain: Domain::Float { min: 0.0, max: 0.5, scale: Scale::Linear, step: Some(0.25) },
            when: None,
        },
    ];
    let space = Space::new(parameters, vec![]).expect("a space");
    assert_eq!(space.size(), Some(4 * 3 * 2 * 3));
    let walked: BTreeSet<Key> = (0..72).map(|at| space.key(&space.numbered(at))).collect();
    assert_eq!(walked.len(), 4 * (1 + 1 + 2) * 3, "those that differ in what is not used are one");
    let drawn: BTreeSet<Key> =
        (0..2_000).map(|trial| space.key(&space.draw(&mut stream(trial)).expect("one"))).collect();
    assert_eq!(drawn, walked);
    assert_eq!(tree().size(), None);
}

#[test]
fn what_is_given_by_name_is_checked() {
    let space = tree();
    let read = |json: &str| space.read(&serde_json::from_str(json).expect("json"));
    let good = read(r#"{"optimizer": "sgd", "nesterov": true, "momentum": 1, "lr": 0.1, "beta": 7}"#).expect("good");
    assert_eq!(
        serde_json::to_string(&good.named(&space)).expect("json"),
        r#"{"lr":0.1,"momentum":1.0,"nesterov":true,"optimizer":"sgd"}"#
    );
    for (json, parts) in [
        (
            r#"{"optimizer": "sgdm", "lr": 0.1}"#,
            vec!["parameter `optimizer`: `sgdm` is none of sgd, adam (did you mean `sgd`?)"],
        ),
        (
            r#"{"optimizer": "adam", "lr": 2}"#,
            vec!["parameter `beta`: it has no value", "parameter `lr`: 2 is not from 0.00001 to 1"],
        ),
        (
            r#"{"optimiser": "adam", "lr": "x"}"#,
            vec![
                "parameter `optimiser`: there is no such parameter (did you mean `optimizer`?)",
                "`optimizer`: it has no value",
                "expected a number, found `x`",
            ],
        ),
        (
            r#"{"optimizer": "sgd", "nesterov": true, "momentum": 0.9, "lr": 0.5}"#,
            vec!["the constraint `momentum + lr < 1.2` does not hold"],
        ),
    ] {
        let errors = read(json).expect_err(json);
        assert_eq!(errors.len(), parts.len(), "{json}: {errors:?}");
        for (error, part) in errors.iter().zip(parts) {
            assert!(error.to_string().contains(part), "{json}: {error}");
        }
    }
}

#[test]
fn a_space_that_makes_no_sense_is_told_whole() {
    let with_step = |min: f64, max: f64, step: f64| Domain::Float { min, max, scale: Scale::Linear, step: Some(step) };
    let normal =
        |mean: f64, sd: f64| Domain::Float { min: 0.0, max: 1.0, scale: Scale::Normal { mean, sd }, step: None };
    for (domain, part) in [
        (Domain::Float { min: 1.0, max: 0.0, scale: Scale::Linear, step: None }, "min 1 is above max 0"),
        (Domain::Float { min: f64::NAN, max: 0.0, scale: Scale::Linear, step: None }, "min NaN"),
        (Domain::Float { min: 0.0, max: 1.0, scale: Scale::Log, step: None }, "min is above 0 on a log scale"),
        (Domain::Float { min: 0.0, max: 0.5, scale: Scale::Logit, step: None }, "between 0 and 1"),
        (Domain::Float { min: 0.0, max: f64::INFINITY, scale: Scale::Linear, step: None }, "finite"),
        (Domain::Float { min: f64::MIN, max: f64::MAX, scale: Scale::Linear, step: None }, "too wide"),
        (with_step(0.0, 1.0, 0.0), "step 0 is not above 0"),
        (with_step(0.0, 1.0, 1e-18), "too small"),
        (normal(0.5, 0.0), "sd is above 0"),
        (normal(100.0, 1.0), "more than 8 standard deviations"),
        (Domain::Int { min: 0, max: 9, scale: Scale::Linear, step: 0 }, "step 0 is not at least 1"),
        (Domain::Int { min: 0, max: i64::MAX, scale: Scale::Linear, step: 1 }, "whole numbers go from"),
        (Domain::Categorical(vec![]), "choices are empty"),
        (Domain::Ordinal(vec![Value::Int(1), Value::Int(1)]), "`1` is among the choices twice"),
        (Domain::Categorical(vec![Value::Int(1), Value::Text("a".to_owned())]), "one kind"),
    ] {
        let parameter = Parameter { name: "x".to_owned(), domain, when: None };
        let errors = Space::new(vec![parameter], vec![]).expect_err(part);
        assert!(errors.len() == 1 && errors[0].to_string().contains(part), "{part}: {errors:?}");
    }
    let parameters = vec![
        when(int("a", 1, 2), "b > 1"),
        when(int("b", 1, 2), "a > 1"),
        int("a", 1, 2),
        when(int("c", 1, 2), "opt == 'x'"),
        choice("option", &["x"]),
    ];
    let constraint = Expression::parse("option == 'y' or a > 1").expect("it parses");
    let told: Vec<String> =
        Space::new(parameters.clone(), vec![constraint]).expect_err("wrong").iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "parameter `a`: there are two of this name",
            "parameter `c`: its condition `opt == 'x'`: there is no parameter `opt`",
            "the constraint `option == 'y' or a > 1`: `option` can never be this: `y` is none of x (did you mean `x`?)",
        ]
    );
    let circle = Space::new(parameters[..2].to_vec(), vec![]).expect_err("wrong");
    assert_eq!(circle[0].to_string(), "whether a, b are used depends on each other in a circle");
}

#[test]
fn constraints_that_leave_nothing_are_noticed() {
    let never = Expression::parse("a > 5").expect("it parses");
    let space = Space::new(vec![int("a", 1, 4)], vec![never]).expect("a space");
    assert_eq!(space.draw(&mut stream(0)), None);
}

#[test]
fn values_are_written_as_programs_read_them() {
    for (value, text) in [
        (Value::Float(0.001), "0.001"),
        (Value::Float(1e-5), "1e-5"),
        (Value::Float(1.0), "1"),
        (Value::Float(0.0), "0"),
        (Value::Float(123_456_789.5), "123456789.5"),
        (Value::Float(1e22), "1e22"),
        (Value::Float(0.1 + 0.2), "0.30000000000000004"),
        (Value::Int(-3), "-3"),
        (Value::Bool(true), "true"),
        (Value::Text("sgd".to_owned()), "sgd"),
    ] {
        assert_eq!(value.to_string(), text);
    }
}

proptest! {
    #[test]
    fn a_point_and_its_configuration_agree(min in -1e6..1e6_f64, width in 0.0..1e6_f64, step in prop::option::of(1e-3..1e3_f64), at in 0.0..1.0_f64) {
        let domain = Domain::Float { min, max: min + width, scale: Scale::Linear, step };
        let space = Space::new(vec![Parameter { name: "x".to_owned(), domain, when: None }], vec![]).expect("it is there");
        let configuration = space.configuration(&[at]);
        let value = configuration.values()[0].as_ref().and_then(Value::number).expect("it is there");
        prop_assert!(value >= min && value <= min + width);
        let again = space.configuration(&space.point(&configuration)).values()[0].as_ref().and_then(Value::number).expect("it is there");
        prop_assert!((again - value).abs() <= 1e-9 * (1.0 + value.abs()), "{} {}", again, value);
    }
}
