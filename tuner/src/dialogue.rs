//! A dialogue in lines of JSON, by which any program can use a sampler.
//!
//! | line | answer |
//! |---|---|
//! | `{"ask": 2}` | `{"trials": [{"id": 0, "params": {"lr": 0.1}}, ...]}`; where fewer are left, with `"reason"` |
//! | `{"tell": {"id": 0, "values": [0.9]}}`; `null` for a trial that failed | none |
//! | `{"report": {"id": 0, "step": 3, "values": [0.7]}}` | `{"stop": false}` |
//! | `{"best": true}` | `{"trials": [{"id": 0, "params": {...}, "values": [0.9]}]}`: one, or the Pareto front |
//!
//! What cannot be taken is answered with `{"error": "..."}`, whatever the line was, and changes nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use trainyard_tuner_core::experiment::{Experiment, Outcome};
use trainyard_tuner_core::history::{State, Trial, TrialId};
use trainyard_tuner_core::space::Value;

use crate::definition::Definition;

/// At most so many trials are asked for at once.
const MOST: u64 = 100_000;

/// An experiment that is spoken to in lines.
pub struct Dialogue(Experiment);

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Ask(u64),
    Tell(Tell),
    Report(Report),
    Best(bool),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tell {
    id: u64,
    // Without this, a line without values would be a failed trial.
    #[serde(deserialize_with = "Option::deserialize")]
    values: Option<Vec<Json>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    id: u64,
    step: u64,
    values: Vec<Json>,
}

impl Dialogue {
    /// A dialogue about an experiment in which nothing has been tried.
    #[must_use]
    pub fn new(definition: &Definition) -> Self {
        Self(definition.experiment())
    }

    /// The answer to a line, if it has one.
    pub fn answer(&mut self, line: &str) -> Option<Json> {
        let read = serde_json::from_str(line).map_err(|error| {
            format!("expected {{\"ask\": n}}, {{\"tell\": ...}}, {{\"report\": ...}} or {{\"best\": true}}: {error}")
        });
        let answer = read.and_then(|line| match line {
            Line::Ask(count) => self.ask(count).map(Some),
            Line::Tell(tell) => self.tell(tell).map(|()| None),
            Line::Report(report) => self.report(&report).map(Some),
            Line::Best(true) => Ok(Some(self.best())),
            Line::Best(false) => Err("best is asked for with true".to_owned()),
        });
        answer.unwrap_or_else(|message| Some(json!({"error": message})))
    }

    fn ask(&mut self, count: u64) -> Result<Json, String> {
        if count > MOST {
            return Err(format!("at most {MOST} trials are asked for at once, not {count}"));
        }
        let mut trials = Vec::new();
        for _ in 0..count {
            match self.0.ask().map(|trial| trial.id) {
                Ok(id) => trials.extend(self.0.history().get(id).map(|trial| self.shown(trial))),
                Err(error) => return Ok(json!({"trials": trials, "reason": error.to_string()})),
            }
        }
        Ok(json!({"trials": trials}))
    }

    fn best(&self) -> Json {
        let trials: Vec<Json> = self.0.best().into_iter().map(|trial| self.shown(trial)).collect();
        json!({"trials": trials})
    }

    fn tell(&mut self, tell: Tell) -> Result<(), String> {
        let outcome = match tell.values {
            Some(values) => Outcome::Values(numbers(&values)?),
            None => Outcome::Failed { reason: "it was told to have failed".to_owned() },
        };
        self.0.tell(TrialId(tell.id), outcome).map_err(|error| error.to_string())
    }

    fn report(&mut self, report: &Report) -> Result<Json, String> {
        let values = numbers(&report.values)?;
        self.0.report(TrialId(report.id), report.step, values).map_err(|error| error.to_string())?;
        Ok(json!({"stop": false}))
    }

    fn shown(&self, trial: &Trial) -> Json {
        let named: BTreeMap<String, Value> = trial.configuration.named(self.0.space());
        let mut params = Map::new();
        for parameter in self.0.space().parameters() {
            if let Some(value) = named.get(&parameter.name) {
                params.insert(parameter.name.clone(), json!(value));
            }
        }
        let mut shown = json!({"id": trial.id.0, "params": params});
        if let State::Complete { values } = &trial.state {
            shown["values"] = json!(values);
        }
        shown
    }
}

/// Numbers of which some may be `"nan"` or infinite, as programs print them: JSON itself has no such numbers.
fn numbers(values: &[Json]) -> Result<Vec<f64>, String> {
    let number = |value: &Json| match value {
        Json::String(text) => text.parse().ok(),
        Json::Null => Some(f64::NAN),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => value.as_f64(),
    };
    let read = |value: &Json| number(value).ok_or_else(|| format!("expected a number, found {value}"));
    values.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
        objective = {metric = 'loss', goal = 'minimize'}
        algorithm = 'grid'
        [parameters]
        a = {type = 'int', min = 1, max = 2}
        b = {type = 'categorical', choices = ['x', 'y']}
    ";

    fn talk(dialogue: &mut Dialogue, line: &str) -> String {
        dialogue.answer(line).map(|answer| answer.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_program_can_search_by_lines() {
        let mut dialogue = Dialogue::new(&Definition::read(FILE).expect("it reads"));
        let asked: Json = dialogue.answer(r#"{"ask": 3}"#).expect("an answer");
        assert_eq!(asked["trials"].as_array().map(Vec::len), Some(3));
        assert_eq!((&asked["trials"][2]["id"], &asked["reason"]), (&json!(2), &Json::Null));
        assert_eq!(talk(&mut dialogue, r#"{"best": true}"#), r#"{"trials":[]}"#);
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 0, "values": [0.5]}}"#), "");
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 1, "values": null}}"#), "");
        assert_eq!(talk(&mut dialogue, r#"{"report": {"id": 2, "step": 1, "values": [0.1]}}"#), r#"{"stop":false}"#);
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 2, "values": ["nan"]}}"#), "", "a failure");
        let best: Json = dialogue.answer(r#"{"best": true}"#).expect("an answer");
        assert_eq!(best["trials"], json!([{"id": 0, "params": asked["trials"][0]["params"], "values": [0.5]}]));
        let rest: Json = dialogue.answer(r#"{"ask": 3}"#).expect("an answer");
        assert_eq!(rest["trials"].as_array().map(Vec::len), Some(1));
        assert_eq!(rest["reason"], "all 4 configurations that the space allows have been tried");
    }

    #[test]
    fn what_cannot_be_taken_is_told_and_changes_nothing() {
        let mut dialogue = Dialogue::new(&Definition::read(FILE).expect("it reads"));
        talk(&mut dialogue, r#"{"ask": 1}"#);
        for (line, part) in [
            ("nonsense", "expected {\"ask\": n}"),
            (r#"{"asc": 1}"#, "unknown variant `asc`"),
            (r#"{"ask": -1}"#, "invalid value"),
            (r#"{"best": false}"#, "asked for with true"),
            (r#"{"ask": 1000000000}"#, "at most 100000"),
            (r#"{"tell": {"id": 0}}"#, "missing field `values`"),
            (r#"{"tell": {"id": 9, "values": [1]}}"#, "there is no trial 9: 1 have been asked for"),
            (r#"{"tell": {"id": 0, "values": [1, 2]}}"#, "one for each objective (loss), found 2"),
            (r#"{"tell": {"id": 0, "values": [true]}}"#, "expected a number, found true"),
            (r#"{"report": {"id": 0, "step": 1, "values": ["inf"]}}"#, "found inf"),
        ] {
            let answer = dialogue.answer(line).expect(line);
            assert!(answer["error"].as_str().is_some_and(|error| error.contains(part)), "{line}: {answer}");
        }
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 0, "values": [1]}}"#), "");
    }
}
