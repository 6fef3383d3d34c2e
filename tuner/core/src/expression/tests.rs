use std::collections::BTreeMap;

use super::*;
use crate::space::nearest;

fn values(given: &[(&str, Value)]) -> BTreeMap<String, Value> {
    given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn holds(text: &str, given: &[(&str, Value)]) -> Option<bool> {
    let given = values(given);
    Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&|name| given.get(name))
}

#[test]
fn operators_hold_as_tightly_as_in_python() {
    let given = [("a", Value::Int(2)), ("b", Value::Float(0.5)), ("t", Value::Text("x y".to_owned()))];
    for (text, expected) in [
        ("1 + 2 * 3 == 7", true),
        ("(1 + 2) * 3 == 9", true),
        ("2 ** 3 ** 2 == 512", true),
        ("-2 ** 2 == -4", true),
        ("2 ** -1 == b", true),
        ("not a == 3 and b < 1", true),
        ("a > 3 or a == 2 and b == 0.5", true),
        ("!(a > 1 && b > 0)", false),
        ("a in [1, 2, 3]", true),
        ("a not in [1, 2.0, 3]", false),
        ("t == 'x y'", true),
        (r#"t != "x\" y""#, true),
        ("7 % 3 == 1 and -7 % 3 == 2", true),
        ("max(a, b, 3) - min(a, b) == 2.5", true),
        ("log(exp(a)) > 1.999 and sqrt(4) == a", true),
        ("`a` == 1_0 / 5", true),
        ("a == 2.0 and .5 == b and 5e-1 == b", true),
        ("true != False", true),
    ] {
        assert_eq!(holds(text, &given), Some(expected), "{text}");
    }
}

#[test]
fn what_has_no_value_decides_nothing() {
    let given = [("a", Value::Int(2))];
    for (text, expected) in [
        ("missing == 1", None),
        ("not missing == 1", None),
        ("missing == 1 or a == 2", Some(true)),
        ("a == 2 or missing == 1", Some(true)),
        ("missing == 1 and a == 3", Some(false)),
        ("missing == 1 and a == 2", None),
        ("a / 0 > 1", None),
        ("log(-a) > 0 or true", Some(true)),
        ("a in [missing]", None),
    ] {
        assert_eq!(holds(text, &given), expected, "{text}");
    }
}

#[test]
fn what_does_not_read_is_told_with_its_place() {
    for (text, at, part) in [
        ("", 0, "expected a value or a parameter, found the end"),
        ("a = 1", 2, "to compare write =="),
        ("a == ", 5, "found the end"),
        ("a == 1 b", 7, "expected an operator or the end, found `b`"),
        ("(a == 1", 7, "expected `)`, found the end"),
        ("a == 'x", 5, "has no end"),
        ("a == 1.2.3", 5, "`1.2.3` is no number"),
        ("1 < a < 3", 6, "cannot be chained"),
        ("squrt(a) > 1", 0, "there is no function `squrt` (did you mean `sqrt`?)"),
        ("sqrt(a, 2) > 1", 0, "`sqrt` takes one value, 2 given"),
        ("a in [1 2]", 8, "expected `,` or `]`, found `2`"),
        ("a and and", 6, "found `and`"),
        ("ä § 1", 3, "`§` is no part"),
    ] {
        let error = Expression::parse(text).expect_err(text);
        assert!(error.at == at && error.message.contains(part), "{text}: {error:?}");
    }
    let deep = "(".repeat(100_000);
    assert!(Expression::parse(&deep).expect_err("deep").message.contains("64 deep"));
    let deep = "not ".repeat(100_000);
    assert!(Expression::parse(&deep).expect_err("deep").message.contains("64 deep"));
}

struct Names;

impl Scope for Names {
    fn kind(&self, name: &str) -> Result<Kind, String> {
        match name {
            "lr" => Ok(Kind::Number),
            "optimizer" => Ok(Kind::Text),
            "nesterov" => Ok(Kind::Truth),
            _ => {
                let hint = nearest(name, ["lr", "optimizer", "nesterov"]);
                Err(format!(
                    "there is no parameter `{name}`{}",
                    hint.map_or_else(String::new, |hint| format!(": {hint}?"))
                ))
            }
        }
    }

    fn excludes(&self, name: &str, value: &Value) -> Option<String> {
        (name == "optimizer" && *value != Value::Text("sgd".to_owned())).then(|| format!("`{value}` is no choice"))
    }
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    let check = |text: &str| Expression::parse(text).expect("it is there").check(&Names);
    for good in ["lr < 0.1", "nesterov", "optimizer == 'sgd' and not nesterov", "optimizer in ['sgd']", "abs(-lr) > 0"]
    {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (text, at, part) in [
        ("lr", 0, "true or false, found a number"),
        ("optimizr == 'sgd'", 0, "there is no parameter `optimizr`: optimizer?"),
        ("lr == 'x'", 6, "cannot compare a number with a text"),
        ("optimizer == 'adam'", 13, "`adam` is no choice"),
        ("'adam' == optimizer", 0, "`adam` is no choice"),
        ("optimizer in ['sgd', 'adam']", 21, "`adam` is no choice"),
        ("optimizer < 'sgd'", 0, "`<` takes a number, found a text"),
        ("not lr", 4, "`not` takes true or false, found a number"),
        ("lr + nesterov > 1", 5, "`+` takes a number"),
        ("lr in 3", 6, "expected a list"),
        ("[lr] == lr", 0, "only stand after `in`"),
        ("abs(nesterov) > 1", 4, "a function takes a number"),
    ] {
        let error = check(text).expect_err(text);
        assert!(error.at == at && error.message.contains(part), "{text}: {error:?}");
    }
    assert_eq!(
        Expression::parse("a.b + `c-d` > max(e, 1)").expect("it is there").names(),
        BTreeSet::from(["a.b", "c-d", "e"])
    );
}
