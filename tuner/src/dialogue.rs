//! A dialogue in lines of JSON, by which any program can use a sampler.
//!
//! | line | answer |
//! |---|---|
//! | `{"ask": 2}` | `{"trials": [{"id": 0, "params": {"lr": 0.1}}, ...]}`; where fewer are left, with `"reason"` |
//! | `{"add": {"params": {"lr": 0.1}}}` | `{"trials": [{"id": 1, "params": {"lr": 0.1}}]}`: a trial that somebody else suggested |
//! | `{"tell": {"id": 0, "values": [0.9]}}`; `null` for a trial that failed | none |
//! | `{"report": {"id": 0, "step": 3, "values": [0.7]}}` | `{"stop": false}`, or `{"stop": true, "reason": "..."}`: what is told next of it is no result |
//! | `{"best": true}` | `{"trials": [{"id": 0, "params": {...}, "values": [0.9]}]}`: one, or the Pareto front |
//!
//! What cannot be taken is answered with `{"error": "..."}`, whatever the line was, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use trainyard_tuner_core::experiment::{Experiment, Outcome};
use trainyard_tuner_core::history::{State, Trial, TrialId};
use trainyard_tuner_core::space::Value;
use trainyard_tuner_core::stopping::{Judge, Verdict, thinned};

use crate::definition::Definition;

/// At most so many trials are asked for at once.
const MOST: u64 = 100_000;

/// An experiment that is spoken to in lines.
pub struct Dialogue {
    experiment: Experiment,
    judge: Option<Judge>,
    /// Trials that were to be stopped when they last reported.
    hopeless: BTreeSet<TrialId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Ask(u64),
    Add(Add),
    Tell(Tell),
    Report(Report),
    Best(bool),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    params: BTreeMap<String, Value>,
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
        let judge = definition.stopping().map(Judge::new);
        Self { experiment: definition.experiment(), judge, hopeless: BTreeSet::new() }
    }

    /// The answer to a line, if it has one.
    pub fn answer(&mut self, line: &str) -> Option<Json> {
        let read = serde_json::from_str(line).map_err(|error| {
            format!("expected {{\"ask\": n}}, {{\"add\": ...}}, {{\"tell\": ...}}, {{\"report\": ...}} or {{\"best\": true}}: {error}")
        });
        let answer = read.and_then(|line| match line {
            Line::Ask(count) => self.ask(count).map(Some),
            Line::Add(add) => self.add(&add.params).map(Some),
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
            match self.experiment.ask().map(|trial| trial.id) {
                Ok(id) => trials.extend(self.experiment.history().get(id).map(|trial| self.shown(trial))),
                Err(error) => return Ok(json!({"trials": trials, "reason": error.to_string()})),
            }
        }
        Ok(json!({"trials": trials}))
    }

    fn add(&mut self, params: &BTreeMap<String, Value>) -> Result<Json, String> {
        if self.experiment.ladder().is_some() {
            return Err("trials of others cannot be taken in where a [fidelity] says how far each one goes".to_owned());
        }
        let configuration = self
            .experiment
            .space()
            .read(params)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let id = self.experiment.begin(configuration, None).id;
        let trials: Vec<Json> = self.experiment.history().get(id).map(|trial| self.shown(trial)).into_iter().collect();
        Ok(json!({"trials": trials}))
    }

    fn best(&self) -> Json {
        let trials: Vec<Json> = self.experiment.best().into_iter().map(|trial| self.shown(trial)).collect();
        json!({"trials": trials})
    }

    fn tell(&mut self, tell: Tell) -> Result<(), String> {
        let id = TrialId(tell.id);
        let outcome = match tell.values.as_deref().map(numbers).transpose()? {
            Some(_) if self.hopeless.contains(&id) => Outcome::Stopped,
            Some(values) => Outcome::Values(values),
            None => Outcome::Failed { reason: "it was told to have failed".to_owned() },
        };
        self.experiment.tell(id, outcome).map_err(|error| error.to_string())?;
        if let (Some(judge), Some(trial)) = (&mut self.judge, self.experiment.history().get(id)) {
            judge.ended(id.0, matches!(trial.state, State::Complete { .. }), &thinned(&trial.reports));
        }
        Ok(())
    }

    fn report(&mut self, report: &Report) -> Result<Json, String> {
        let values = numbers(&report.values)?;
        let id = TrialId(report.id);
        self.experiment.report(id, report.step, values).map_err(|error| error.to_string())?;
        let reports = self.experiment.history().get(id).map(|trial| trial.reports.as_slice()).unwrap_or_default();
        let verdict = self.judge.as_mut().and_then(|judge| judge.judge(id.0, reports));
        // One that goes on nevertheless may come to better.
        self.hopeless.remove(&id);
        Ok(match verdict {
            None => json!({"stop": false}),
            Some(Verdict::Settled(reason)) => json!({"stop": true, "reason": reason}),
            Some(Verdict::Hopeless(reason)) => {
                self.hopeless.insert(id);
                json!({"stop": true, "reason": reason})
            }
        })
    }

    fn shown(&self, trial: &Trial) -> Json {
        let named: BTreeMap<String, Value> = trial.configuration.named(self.experiment.space());
        let mut params = Map::new();
        for parameter in self.experiment.space().parameters() {
            if let Some(value) = named.get(&parameter.name) {
                params.insert(parameter.name.clone(), json!(value));
            }
        }
        if let Some((ladder, level)) = self.experiment.ladder().zip(trial.level)
            && let (Some(name), Some(value)) = (ladder.parameter(), ladder.value(level.rung))
        {
            params.insert(name.to_owned(), json!(value));
        }
        let mut shown = json!({"id": trial.id.0, "params": params});
        if let Some(first) = trial.level.and_then(|level| level.root) {
            shown["continues"] = json!(first.0);
        }
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
    fn trials_of_others_are_taken_in_and_not_suggested_again() {
        let mut dialogue = Dialogue::new(&Definition::read(FILE).expect("it reads"));
        let added = talk(&mut dialogue, r#"{"add": {"params": {"a": 2, "b": "y"}}}"#);
        assert_eq!(added, r#"{"trials":[{"id":0,"params":{"a":2,"b":"y"}}]}"#);
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 0, "values": [0.5]}}"#), "");
        let rest: Json = dialogue.answer(r#"{"ask": 9}"#).expect("an answer");
        assert_eq!(rest["trials"].as_array().map(Vec::len), Some(3));
        let wrong = talk(&mut dialogue, r#"{"add": {"params": {"a": 3, "c": 1}}}"#);
        assert!(wrong.contains("no such parameter") && wrong.contains("it has no value"), "{wrong}");
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

    #[test]
    fn a_program_is_told_to_stop_a_trial_and_what_it_told_is_no_result() {
        let file = FILE.replace("algorithm = 'grid'", "stopping = {rule = 'median', trials = 2}");
        let mut dialogue = Dialogue::new(&Definition::read(&file).expect("it reads"));
        talk(&mut dialogue, r#"{"ask": 4}"#);
        for (id, values) in [(0, [0.4, 0.2]), (1, [0.6, 0.4])] {
            for (step, value) in values.iter().enumerate() {
                let line = json!({"report": {"id": id, "step": step, "values": [value]}}).to_string();
                assert_eq!(talk(&mut dialogue, &line), r#"{"stop":false}"#);
            }
            talk(&mut dialogue, &json!({"tell": {"id": id, "values": [values[1]]}}).to_string());
        }
        let why = "by step 0 it had loss=0.6 at best, and the median of 2 trials' averages is loss=0.5";
        let answer = dialogue.answer(r#"{"report": {"id": 2, "step": 0, "values": [0.6]}}"#);
        assert_eq!(answer, Some(json!({"stop": true, "reason": why})));
        assert_eq!(talk(&mut dialogue, r#"{"tell": {"id": 2, "values": [0.0]}}"#), "");
        assert_eq!(dialogue.answer(r#"{"best": true}"#).expect("an answer")["trials"][0]["id"], 0, "it was stopped");
        // One that goes on nevertheless and becomes better has a result.
        talk(&mut dialogue, r#"{"report": {"id": 3, "step": 0, "values": [0.6]}}"#);
        assert_eq!(talk(&mut dialogue, r#"{"report": {"id": 3, "step": 1, "values": [0.1]}}"#), r#"{"stop":false}"#);
        talk(&mut dialogue, r#"{"tell": {"id": 3, "values": [0.1]}}"#);
        assert_eq!(dialogue.answer(r#"{"best": true}"#).expect("an answer")["trials"][0]["id"], 3);
    }

    #[test]
    fn a_program_is_told_which_configuration_goes_on_and_how_far() {
        let file = FILE.replace("'grid'", "'asha'") + "\n[fidelity]\nparameter = 'epochs'\nmin = 1\nmax = 9";
        let mut dialogue = Dialogue::new(&Definition::read(&file).expect("it reads"));
        let first: Json = dialogue.answer(r#"{"ask": 3}"#).expect("an answer");
        for (id, value) in [(0, 0.5), (1, 0.25), (2, 0.75)] {
            assert_eq!(first["trials"][id]["params"]["epochs"], 1);
            talk(&mut dialogue, &json!({"tell": {"id": id, "values": [value]}}).to_string());
        }
        let next = dialogue.answer(r#"{"ask": 1}"#).expect("an answer")["trials"][0].clone();
        assert_eq!((&next["continues"], &next["params"]["epochs"]), (&json!(1), &json!(3)));
        assert_eq!(next["params"]["a"], first["trials"][1]["params"]["a"]);
    }
}
