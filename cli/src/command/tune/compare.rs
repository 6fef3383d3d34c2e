//! `trainyard tune compare`: experiments beside each other.

mod difference;
mod spaces;

use std::io::{self, Write};

use serde_json::{Value, json};
use trainyard_tuner::record::{Record, State, millis};
use trainyard_tuner_core::objective::{Goal, Objective, dominates};

use super::{found, number};
use crate::arg::Global;
use crate::command::queue::or_dash;
use crate::error::CliError;
use crate::exit_code;
use crate::output::duration;
use crate::output::object::{self, Markup};
use crate::output::table::Table;
use crate::session;

/// Show experiments beside each other: their best values, what each lacked to the best of all after so many trials, and how far they
/// search the same.
///
/// They are compared in the metrics that all of them have, with the same goal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard tune compare wine-tpe wine-gp wine-random
  trainyard tune compare wine-tpe wine-gp -o json")]
pub(crate) struct CompareArgs {
    /// The experiments
    #[arg(value_name = "NAME", required = true, num_args = 2..)]
    names: Vec<String>,
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
}

pub(crate) fn run(global: &Global, args: &CompareArgs) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let mut records = Vec::new();
        for name in &args.names {
            records.push(found::record(session, name).await?);
        }
        let metrics = metrics(&records)?;
        let mut out = io::stdout().lock();
        match args.output {
            Some(markup) => object::print(&mut out, &document(&records, &metrics), markup)?,
            None => print(&mut out, &records, &metrics)?,
        }
        Ok(exit_code::SUCCESS)
    })
}

/// A metric that all have, with its place in each.
struct Metric {
    objective: Objective,
    places: Vec<usize>,
}

fn metrics(records: &[Record]) -> Result<Vec<Metric>, CliError> {
    let place = |record: &Record, wanted: &Objective| {
        record.definition.objectives.iter().position(|one| one.name == wanted.name && one.goal == wanted.goal)
    };
    let first = records.first().map_or(&[] as &[Objective], |record| &record.definition.objectives);
    let metrics: Vec<Metric> = first
        .iter()
        .filter_map(|objective| {
            let places = records.iter().map(|record| place(record, objective)).collect::<Option<_>>()?;
            Some(Metric { objective: objective.clone(), places })
        })
        .collect();
    if !metrics.is_empty() {
        return Ok(metrics);
    }
    let after = |record: &Record| {
        let all = record.definition.objectives.iter().map(|one| format!("{} ({})", one.name, goal(one)));
        format!("{} is after {}", record.name, all.collect::<Vec<_>>().join(", "))
    };
    Err(CliError::Usage {
        message: format!(
            "the experiments have no metric with the same goal in common: {}",
            records.iter().map(after).collect::<Vec<_>>().join("; ")
        ),
        hint: "compare experiments that are after the same".to_owned(),
    })
}

fn goal(objective: &Objective) -> &'static str {
    if objective.goal == Goal::Maximize { "maximize" } else { "minimize" }
}

/// The least loss after each so many trials, by number: a trial that told nothing is a trial, too. `None` before any told something, and
/// after the last one.
fn progress(record: &Record, place: usize, after: &[u64]) -> Vec<Option<f64>> {
    let records = record.records(place);
    let last = searched(record);
    let best = |count: u64| records.iter().rev().find(|(trial, _)| trial.number < count).map(|(_, loss)| *loss);
    after.iter().map(|count| if *count > last { None } else { best(*count) }).collect()
}

/// One more than the number of the last trial that is no repeat.
fn searched(record: &Record) -> u64 {
    record.trials.iter().rev().find(|trial| trial.repeats.is_none()).map_or(0, |trial| trial.number + 1)
}

/// 1, 2, 5, 10, 20, 50, ... and the numbers of trials that there are.
fn steps(records: &[Record]) -> Vec<u64> {
    let ends: Vec<u64> = records.iter().map(searched).filter(|count| *count > 0).collect();
    let most = ends.iter().copied().max().unwrap_or(0);
    let decades = std::iter::successors(Some(1_u64), |power| power.checked_mul(10));
    let round = decades.take_while(|power| *power <= most).flat_map(|power| [1, 2, 5].map(|times| times * power));
    let mut steps: Vec<u64> = round.filter(|step| *step <= most).chain(ends).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// The least loss of all.
fn least(records: &[Record], metric: &Metric) -> Option<f64> {
    let best = |(record, place): (&Record, &usize)| record.records(*place).last().map(|(_, loss)| *loss);
    records.iter().zip(&metric.places).filter_map(best).min_by(f64::total_cmp)
}

fn seconds(record: &Record) -> Option<f64> {
    let (start, end) = (record.status.start_time.as_ref()?, record.status.completion_time.as_ref()?);
    Some((millis(end) - millis(start)) as f64 / 1000.0)
}

fn failed(record: &Record) -> usize {
    record.trials.iter().filter(|trial| trial.state == State::Failed && trial.repeats.is_none()).count()
}

fn algorithm(record: &Record) -> String {
    let given = record.spec.get("algorithm");
    let name = given.and_then(|given| given.as_str().or_else(|| given["name"].as_str()));
    name.or(record.status.algorithm.as_deref()).unwrap_or("default").to_owned()
}

fn print(out: &mut dyn Write, records: &[Record], metrics: &[Metric]) -> io::Result<()> {
    overview(records, metrics).print(out, true)?;
    for metric in metrics {
        let Some(least) = least(records, metric) else { continue };
        let best = number::short(metric.objective.loss(least));
        writeln!(out, "\nWhat {} lacked to {best}, the best of all, after so many trials:", metric.objective.name)?;
        regret(records, metric, least).print(out, true)?;
    }
    let differences = difference::all(records, metrics.len());
    if !differences.is_empty() {
        writeln!(out, "\nHow far the best are apart, by their repeats:")?;
        difference::table(&differences).print(out, true)?;
    }
    if metrics.len() > 1 {
        writeln!(out, "\nHow much of a Pareto front (column) is beaten by another experiment (row):")?;
        coverage(records, metrics).print(out, true)?;
    }
    writeln!(out, "\nWhat is searched:")?;
    spaces::table(records).print(out, true)
}

fn overview(records: &[Record], metrics: &[Metric]) -> Table {
    let mut head = ["NAME", "PHASE", "ALGORITHM", "TRIALS", "FAILED"].map(str::to_owned).to_vec();
    head.extend(metrics.iter().map(|metric| format!("BEST {}", metric.objective.name)));
    head.extend(["OF TRIAL", "TIME"].map(str::to_owned));
    let row = |(at, record): (usize, &Record)| {
        let mut row = vec![record.name.clone(), record.phase().to_owned(), algorithm(record)];
        row.extend([record.trials.len().to_string(), failed(record).to_string()]);
        let best = |metric: &Metric| record.found(metric.places[at]).map(|(trial, loss)| (trial.number, loss));
        let shown = |metric: &Metric| best(metric).map(|(_, loss)| number::short(metric.objective.loss(loss)));
        row.extend(metrics.iter().map(|metric| or_dash(&shown(metric).unwrap_or_default())));
        let trials: Vec<String> = metrics.iter().filter_map(best).map(|(number, _)| number.to_string()).collect();
        row.push(or_dash(&trials.join(", ")));
        row.push(seconds(record).map_or_else(|| "-".to_owned(), duration::span));
        row
    };
    Table { head, rows: records.iter().enumerate().map(row).collect() }
}

fn regret(records: &[Record], metric: &Metric, least: f64) -> Table {
    let steps = steps(records);
    let head = std::iter::once("NAME".to_owned()).chain(steps.iter().map(ToString::to_string)).collect();
    let row = |(record, place): (&Record, &usize)| {
        let lacks = progress(record, *place, &steps).into_iter();
        let lacks = lacks.map(|loss| loss.map_or_else(|| "-".to_owned(), |loss| number::short(loss - least)));
        std::iter::once(record.name.clone()).chain(lacks).collect()
    };
    Table { head, rows: records.iter().zip(&metric.places).map(row).collect() }
}

/// The losses of a front in the metrics that all have.
fn front(record: &Record, metrics: &[Metric], at: usize) -> Vec<Vec<f64>> {
    let losses = |metric: &Metric, values: &[f64]| Some(metric.objective.loss(*values.get(metric.places[at])?));
    let told = record.front().into_iter().filter_map(|trial| {
        metrics.iter().map(|metric| losses(metric, trial.values.as_deref()?)).collect::<Option<Vec<f64>>>()
    });
    told.collect()
}

/// The part of the second front that the first one beats (Zitzler and Thiele 1998).
fn beaten(one: &[Vec<f64>], other: &[Vec<f64>]) -> Option<f64> {
    let is_beaten = |losses: &&Vec<f64>| one.iter().any(|better| dominates(better, losses));
    (!other.is_empty()).then(|| other.iter().filter(is_beaten).count() as f64 / other.len() as f64)
}

fn coverage(records: &[Record], metrics: &[Metric]) -> Table {
    let head = std::iter::once(String::new()).chain(records.iter().map(|record| record.name.clone())).collect();
    let fronts: Vec<_> = records.iter().enumerate().map(|(at, record)| front(record, metrics, at)).collect();
    let row = |(at, record): (usize, &Record)| {
        let cell = |(other, front): (usize, &Vec<Vec<f64>>)| match beaten(&fronts[at], front) {
            Some(part) if other != at => format!("{:.0} %", part * 100.0),
            Some(_) | None => "-".to_owned(),
        };
        std::iter::once(record.name.clone()).chain(fronts.iter().enumerate().map(cell)).collect()
    };
    Table { head, rows: records.iter().enumerate().map(row).collect() }
}

fn document(records: &[Record], metrics: &[Metric]) -> Value {
    let after = steps(records);
    let metric = |metric: &Metric| {
        let least = least(records, metric);
        let one = |(record, place): (&Record, &usize)| {
            let best = record.found(*place).map(|(trial, loss)| {
                json!({"trial": trial.name, "value": metric.objective.loss(loss), "parameters": trial.parameters})
            });
            let lacks = progress(record, *place, &after).into_iter();
            let lacks = lacks.map(|loss| loss.zip(least).map(|(loss, least)| loss - least));
            json!({"name": record.name, "best": best, "regret": lacks.collect::<Vec<_>>()})
        };
        json!({
            "metric": metric.objective.name,
            "goal": goal(&metric.objective),
            "best": least.map(|least| metric.objective.loss(least)),
            "experiments": records.iter().zip(&metric.places).map(one).collect::<Value>(),
        })
    };
    let experiment = |record: &Record| {
        json!({
            "name": record.name, "phase": record.phase(), "algorithm": algorithm(record), "trials": record.trials.len(),
            "failed": failed(record), "seconds": seconds(record),
        })
    };
    json!({
        "experiments": records.iter().map(experiment).collect::<Value>(),
        "afterTrials": after,
        "metrics": metrics.iter().map(metric).collect::<Value>(),
        "differences": difference::document(&difference::all(records, metrics.len())),
        "parameters": spaces::document(records),
    })
}
