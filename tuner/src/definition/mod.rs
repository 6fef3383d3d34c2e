//! What the TOML file of an experiment means. All that is wrong with it is told at once, each with its place.

mod algorithm;
mod fidelity;
mod json;
mod parameter;
mod stopping;
mod table;
#[cfg(test)]
mod tests;
mod trial;

use std::ops::Range;

use serde_json::{Map, Value as Json};
use table::Table;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use trainyard_tuner_core::budget::Budget;
use trainyard_tuner_core::control::Setup;
use trainyard_tuner_core::experiment::Experiment;
use trainyard_tuner_core::expression::Expression;
use trainyard_tuner_core::fidelity::Ladder;
use trainyard_tuner_core::objective::{Goal, Objective, Take};
use trainyard_tuner_core::space::{Parameter, Space, SpaceError, Value, nearest};
use trainyard_tuner_core::stopping::{Rule, Stopping};

pub use algorithm::{Algorithm, Model};
pub use fidelity::Fidelity;
pub(crate) use trial::KINDS;
pub use trial::Trial;

/// An experiment as its file defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: Option<String>,
    /// What random numbers are made of.
    pub seed: u64,
    /// What it is after, at least one.
    pub objectives: Vec<Objective>,
    /// What is searched.
    pub space: Space,
    /// Who says what to try next.
    pub algorithm: Algorithm,
    /// What trials have more of the better they are.
    pub fidelity: Option<Fidelity>,
    /// When trials are ended early.
    pub stopping: Option<Stopping>,
    /// How much may be tried.
    pub budget: Budget,
    /// What a trial runs.
    pub trial: Option<Trial>,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct DefinitionError {
    /// The bytes of the file that it is about.
    pub span: Range<usize>,
    /// The path in the file, such as `parameters.lr.min`.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Definition {
    /// Reads the text of a file.
    pub fn read(text: &str) -> Result<Self, Vec<DefinitionError>> {
        let file = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            vec![DefinitionError { span, path: String::new(), message: error.message().to_owned(), hint: None }]
        })?;
        let mut errors = Vec::new();
        let read = Self::of_table(file.get_ref(), &mut errors);
        errors.sort_by_key(|error| error.span.start);
        match read {
            Some(definition) if errors.is_empty() => Ok(definition),
            _ => Err(errors),
        }
    }

    /// Reads what an experiment's object says, which has the keys of a file. Places are paths only.
    pub fn of_spec(spec: &Map<String, Json>) -> Result<Self, Vec<DefinitionError>> {
        let own = spec.iter().filter(|(name, _)| *name != "suspend");
        Self::read(&json::to_text(&own.map(|(name, value)| (name.clone(), value.clone())).collect()))
    }

    /// What the object of an experiment says: the keys of a file but for its name.
    ///
    /// # Errors
    /// When the text is no TOML.
    pub fn spec(text: &str) -> Result<Map<String, Json>, String> {
        let file = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
        let mut spec = json::of_table(file.get_ref());
        spec.shift_remove("name");
        Ok(spec)
    }

    /// The experiment in which nothing has been tried.
    #[must_use]
    pub fn experiment(&self) -> Experiment {
        let ladder = self.ladder();
        let sampler = self.algorithm.sampler(ladder);
        let experiment = Experiment::new(self.space.clone(), self.objectives.clone(), self.seed, sampler);
        if let Algorithm::Population(settings) = self.algorithm {
            return experiment.with_population(settings);
        }
        // Where the resource is how far a trial is, each runs until it is stopped.
        match ladder.filter(|ladder| ladder.parameter().is_some()).zip(self.algorithm.policy()) {
            Some((ladder, policy)) => experiment.with_ladder(ladder.clone(), policy),
            None => experiment,
        }
    }

    pub(crate) fn ladder(&self) -> Option<&Ladder> {
        self.fidelity.as_ref().map(|fidelity| &fidelity.ladder)
    }

    /// The same with another algorithm.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot search this.
    pub fn with_algorithm(self, name: &str) -> Result<Self, String> {
        let algorithm = Algorithm::named(name)?;
        algorithm.check(&self.space, &self.objectives, self.fidelity.is_some())?;
        Ok(Self { algorithm, ..self })
    }

    /// When trials are ended early.
    #[must_use]
    pub fn stopping(&self) -> Option<Stopping> {
        let halving = self.ladder().filter(|ladder| ladder.parameter().is_none()).map(|ladder| {
            let brackets = matches!(self.algorithm, Algorithm::Hyperband(_));
            Rule::Halving { ladder: ladder.clone(), brackets }
        });
        let mut stopping = match &self.stopping {
            Some(stopping) => stopping.clone(),
            None => Stopping { at: 0, objective: self.objectives.first()?.clone(), rules: Vec::new() },
        };
        stopping.rules.extend(halving);
        Some(stopping).filter(|stopping| !stopping.rules.is_empty())
    }

    /// The job of the first trial of an experiment of this name, if it says what a trial runs.
    #[must_use]
    pub fn first_job(&self, name: &str) -> Option<Json> {
        let setup = self.setup()?;
        let mut experiment = self.experiment();
        let mut values = experiment.ask().ok()?.configuration.named(&self.space);
        values.extend(self.ladder().and_then(|ladder| Some((ladder.parameter()?.to_owned(), ladder.value(0)?))));
        Some(setup.first_job(name, &self.space, &values))
    }

    /// What its controller goes by, if it says what a trial runs.
    #[must_use]
    pub fn setup(&self) -> Option<Setup> {
        let trial = self.trial.clone()?;
        Some(Setup {
            objectives: self.objectives.clone(),
            budget: self.budget,
            job: trial.job,
            keep: trial.keep,
            algorithm: self.algorithm.name().to_owned(),
            stopping: self.stopping(),
            checkpoints: self.fidelity.as_ref().map_or("checkpoints", |fidelity| &fidelity.checkpoints).to_owned(),
            has_population: matches!(self.algorithm, Algorithm::Population(_)),
        })
    }

    fn of_table(file: &DeTable<'_>, errors: &mut Vec<DefinitionError>) -> Option<Self> {
        // What the whole file lacks is told at its start.
        let mut top = Table::new(file, 0..0, "", errors);
        let name = top.text("name").map(|(name, _)| name.to_owned());
        let seed = match top.whole("seed") {
            Some(seed) if seed < 0 => {
                top.error("seed", top.span_of("seed"), format!("expected 0 or more, found {seed}"), None);
                None
            }
            seed => Some(seed.map_or(0, i64::unsigned_abs)),
        };
        let objectives = objectives(&mut top);
        let parameters = parameters(&mut top);
        let constraints = constraints(&mut top);
        let algorithm = algorithm::read(&mut top);
        let fidelity = fidelity::read(&mut top, parameters.as_deref());
        let stopping = stopping::read(&mut top, objectives.as_deref());
        let budget = trial::budget(&mut top);
        let resource = fidelity.iter().flatten().find_map(|fidelity| fidelity.ladder.parameter());
        let names = parameters.iter().flatten().map(|parameter| parameter.name.as_str()).chain(resource);
        let names: Option<Vec<&str>> = parameters.is_some().then(|| names.collect());
        let trial = trial::trial(&mut top, names.as_deref());
        let spans = Spans::new(&top);
        let space = match (parameters, constraints) {
            (Some(parameters), Some(constraints)) => match Space::new(parameters, constraints) {
                Ok(space) => Some(space),
                Err(wrong) => {
                    wrong.into_iter().for_each(|error| spans.tell(error, top.errors()));
                    None
                }
            },
            _ => None,
        };
        top.end();
        let (objectives, space, algorithm) = (objectives?, space?, algorithm?);
        let (budget, trial) = (budget?, trial?);
        let (fidelity, stopping) = (fidelity?, stopping?);
        let definition = Self { name, seed: seed?, objectives, space, algorithm, fidelity, stopping, budget, trial };
        let has_ladder = definition.fidelity.is_some();
        if let Err(message) = definition.algorithm.check(&definition.space, &definition.objectives, has_ladder) {
            errors.push(DefinitionError { span: spans.algorithm, path: "algorithm".to_owned(), message, hint: None });
        }
        if definition.objectives.len() > 1 && definition.budget.confirm.is_some() {
            let message = "trials of several objectives are not tried again: there is no best one".to_owned();
            errors.push(DefinitionError { span: spans.budget, path: "budget.repeats".to_owned(), message, hint: None });
        }
        Some(definition)
    }
}

fn objectives(top: &mut Table<'_, '_>) -> Option<Vec<Objective>> {
    let (one, several) = (top.get("objective"), top.get("objectives"));
    match (one, several) {
        (Some(_), Some(several)) => {
            let message = "an experiment has either [objective] or [[objectives]]".to_owned();
            top.error("objectives", several.span, message, None);
            None
        }
        (None, None) => {
            let expected = "say what is to be made better: [objective] with metric = \"loss\" and goal = \"minimize\"";
            top.missing("objective", expected);
            None
        }
        (Some(one), None) => match one.value.as_table() {
            Some(table) => objective(table, one.span, "objective", top.errors()).map(|objective| vec![objective]),
            None => top.wrong("objective", &one, "a table with metric and goal"),
        },
        (None, Some(several)) => {
            let Some(list) = several.value.as_array().filter(|list| !list.is_empty()) else {
                return top.wrong("objectives", &several, "a list of tables, each with metric and goal");
            };
            let read: Vec<Option<Objective>> = list
                .iter()
                .enumerate()
                .map(|(at, one)| {
                    let path = format!("objectives[{at}]");
                    match one.get_ref().as_table() {
                        Some(table) => objective(table, one.span(), &path, top.errors()),
                        None => top.wrong(&path, &found(one), "a table with metric and goal"),
                    }
                })
                .collect();
            let all: Vec<Objective> = read.into_iter().collect::<Option<_>>()?;
            let twice = all.iter().enumerate().find(|(at, one)| all[..*at].iter().any(|other| other.name == one.name));
            if let Some((at, one)) = twice {
                let message = format!("metric \"{}\" is in two objectives", one.name);
                top.error(&format!("objectives[{at}].metric"), list[at].span(), message, None);
                return None;
            }
            Some(all)
        }
    }
}

fn found<'file>(value: &'file Spanned<DeValue<'file>>) -> table::Found<'file> {
    table::Found { value: value.get_ref(), span: value.span() }
}

fn objective(
    file: &DeTable<'_>,
    span: Range<usize>,
    path: &str,
    errors: &mut Vec<DefinitionError>,
) -> Option<Objective> {
    let mut table = Table::new(file, span, path, errors);
    let name = table.text("metric").map(|(name, _)| name.to_owned());
    if name.is_none() && file.get("metric").is_none() {
        table.missing("metric", "the name under which trials tell their value");
    }
    let goal = match table.text("goal") {
        Some(("minimize" | "minimise", _)) => Some(Goal::Minimize),
        Some(("maximize" | "maximise", _)) => Some(Goal::Maximize),
        Some((other, span)) => {
            let hint = nearest(other, ["minimize", "maximize"]).map(|goal| format!("did you mean \"{goal}\"?"));
            table.error("goal", span, format!("expected \"minimize\" or \"maximize\", found \"{other}\""), hint);
            None
        }
        None => {
            if file.get("goal").is_none() {
                table.missing("goal", "\"minimize\" or \"maximize\"");
            }
            None
        }
    };
    let target = table.number("target");
    if let Some(target) = target.filter(|target| !target.is_finite()) {
        table.error("target", table.span_of("target"), format!("expected a finite number, found {target}"), None);
    }
    let take = match table.text("take") {
        Some(("last", _)) => Some(Take::Last),
        Some(("best", _)) => Some(Take::Best),
        Some((other, span)) => {
            table.error("take", span, format!("expected \"last\" or \"best\", found \"{other}\""), None);
            None
        }
        None => file.get("take").is_none().then(Take::default),
    };
    table.end();
    Some(Objective { name: name?, goal: goal?, target, take: take? })
}

fn parameters(top: &mut Table<'_, '_>) -> Option<Vec<Parameter>> {
    let Some(given) = top.get("parameters") else {
        let expected = "say what is to be chosen: [parameters.lr] with type = \"float\", min and max";
        top.missing("parameters", expected);
        return None;
    };
    let Some(table) = given.value.as_table().filter(|table| !table.is_empty()) else {
        return top.wrong("parameters", &given, "a table for each parameter, such as [parameters.lr]");
    };
    let read: Vec<Option<Parameter>> = table
        .iter()
        .map(|(name, one)| {
            let path = format!("parameters.{}", name.get_ref());
            match one.get_ref().as_table() {
                Some(table) => parameter::read(name.get_ref(), table, one.span(), &path, top.errors()),
                None => top.wrong(&path, &found(one), "a table with type and its values"),
            }
        })
        .collect();
    read.into_iter().collect()
}

fn constraints(top: &mut Table<'_, '_>) -> Option<Vec<Expression>> {
    let Some(given) = top.values("constraints") else {
        return top.get("constraints").is_none().then(Vec::new);
    };
    let mut read = Vec::new();
    let count = given.len();
    for (at, (value, span)) in given.into_iter().enumerate() {
        let path = format!("constraints[{at}]");
        match value {
            Value::Text(text) => match Expression::parse(&text) {
                Ok(expression) => read.push(expression),
                Err(error) => top.error(&path, within(&span, error.at), error.message, None),
            },
            other @ (Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
                let message = format!("expected a condition as a text, such as \"a + b < 1\", found {other}");
                top.error(&path, span, message, None);
            }
        }
    }
    (read.len() == count).then_some(read)
}

/// Where an expression's error is, in a quoted text without escapes.
fn within(span: &Range<usize>, at: usize) -> Range<usize> {
    let start = (span.start + 1 + at).min(span.end.saturating_sub(1)).max(span.start);
    start..start + 1
}

/// Where the things are that a space's errors are about.
struct Spans {
    parameters: Vec<(String, Range<usize>, Range<usize>)>,
    constraints: Vec<(String, Range<usize>)>,
    whole: Range<usize>,
    algorithm: Range<usize>,
    budget: Range<usize>,
}

impl Spans {
    fn new(top: &Table<'_, '_>) -> Self {
        let whole = top.span_of("parameters");
        let parameters = top.table("parameters").into_iter().flatten().map(|(name, one)| {
            let table = one.get_ref().as_table();
            let when = table.and_then(|table| table.get("when")).map_or_else(|| one.span(), Spanned::span);
            (name.get_ref().to_string(), one.span(), when)
        });
        let parameters = parameters.collect();
        let constraints = top.list("constraints").into_iter().flatten();
        let constraints = constraints.map(|one| (one.get_ref().as_str().unwrap_or_default().to_owned(), one.span()));
        let (algorithm, budget) = (top.span_of("algorithm"), top.span_of("budget"));
        Self { parameters, constraints: constraints.collect(), whole, algorithm, budget }
    }

    fn tell(&self, error: SpaceError, errors: &mut Vec<DefinitionError>) {
        let parameter = error.parameter.as_deref();
        let known = parameter.and_then(|name| self.parameters.iter().find(|(known, ..)| known == name));
        let (span, path) = match (known, error.at) {
            (Some((name, _, when)), Some(at)) => (within(when, at), format!("parameters.{name}.when")),
            (Some((name, span, _)), None) => (span.clone(), format!("parameters.{name}")),
            (None, at) => {
                let is_about = |(text, _): &&(String, Range<usize>)| error.message.contains(&format!("`{text}`"));
                match self.constraints.iter().position(|one| is_about(&one)) {
                    Some(index) => {
                        let span = within(&self.constraints[index].1, at.unwrap_or(0));
                        (span, format!("constraints[{index}]"))
                    }
                    None => (self.whole.clone(), "parameters".to_owned()),
                }
            }
        };
        errors.push(DefinitionError { span, path, message: error.message, hint: None });
    }
}
