//! `trainyard tune export`: an experiment's trials for other programs.

use std::io::{self, Write};

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use trainyard_tuner::record::{Record, Tried};
use trainyard_tuner_core::objective::Goal;

use super::{found, toml};
use crate::arg::Global;
use crate::error::CliError;
use crate::exit_code;
use crate::output::object::{self, Markup};
use crate::session;

/// Print all trials of an experiment with their parameters, values, times and states; or its best configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard tune export wine > wine.json
  trainyard tune export wine -o csv > wine.csv        a line for each trial, to be read by pandas or a spreadsheet
  trainyard tune export wine -o toml                  the best configuration alone, a line for each parameter")]
pub(crate) struct ExportArgs {
    /// The experiment
    #[arg(value_name = "NAME")]
    name: String,
    /// Print in this format
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    output: Kind,
}

/// The formats of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Everything, as JSON
    Json,
    /// Everything, as YAML
    Yaml,
    /// A line for each trial, with a head
    Csv,
    /// The best configuration
    Toml,
}

pub(crate) fn run(global: &Global, args: &ExportArgs) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let record = found::record(session, &args.name).await?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        match args.output {
            Kind::Json => object::print(&mut out, &document(&record), Markup::Json)?,
            Kind::Yaml => object::print(&mut out, &document(&record), Markup::Yaml)?,
            Kind::Csv => csv(&mut out, &record)?,
            Kind::Toml => {
                let best = record.best().ok_or_else(|| CliError::NotFound {
                    what: format!("a trial of {} that told its values", record.name),
                    hint: "`-o csv` shows what became of each trial".to_owned(),
                })?;
                write!(out, "{}", toml::lines(record.parameters(), &best.parameters))?;
            }
        }
        out.flush()?;
        Ok(exit_code::SUCCESS)
    })
}

fn document(record: &Record) -> Value {
    let objectives = record.definition.objectives.iter().map(|objective| {
        let goal = if objective.goal == Goal::Maximize { "maximize" } else { "minimize" };
        let mut one = json!({"metric": objective.name, "goal": goal});
        if let Some(target) = objective.target {
            one["target"] = json!(target);
        }
        one
    });
    let mut document = json!({
        "experiment": record.name,
        "phase": record.phase(),
        "message": record.status.message,
        "objectives": objectives.collect::<Value>(),
        "best": record.best().map(|trial| best(record, trial)),
    });
    if record.definition.objectives.len() > 1 {
        document["front"] = record.front().iter().map(|trial| trial.name.as_str()).collect();
    }
    document["trials"] = record.trials.iter().map(|trial| one(record, trial)).collect();
    document
}

/// The best trial, with its values as the experiment has them: the means of its repeats, if there are some.
fn best(record: &Record, trial: &Tried) -> Value {
    let told = record.status.best.as_ref().filter(|best| best.trial == trial.name);
    let values = told.map(|best| best.values.clone()).or_else(|| values(record, trial));
    let mut best = json!({"trial": trial.name, "values": values, "parameters": trial.parameters});
    if let Some(told) = told.filter(|best| best.repeats.is_some()) {
        best["repeats"] = json!(told.repeats);
        best["interval"] = json!(told.interval);
    }
    best
}

fn values(record: &Record, trial: &Tried) -> Option<Map<String, Value>> {
    let pairs = record.definition.objectives.iter().zip(trial.values.as_ref()?);
    Some(pairs.map(|(objective, value)| (objective.name.clone(), json!(value))).collect())
}

fn one(record: &Record, trial: &Tried) -> Value {
    json!({
        "number": trial.number,
        "name": trial.name,
        "state": trial.state.name(),
        "values": values(record, trial),
        "parameters": trial.parameters,
        "repeats": trial.repeats,
        "step": trial.step,
        "started": trial.started_ms.and_then(time),
        "ended": trial.ended_ms.and_then(time),
        "seconds": seconds(trial),
        "message": trial.message,
    })
}

fn time(ms: i64) -> Option<String> {
    Timestamp::from_millisecond(ms).ok().map(|time| time.to_string())
}

fn seconds(trial: &Tried) -> Option<f64> {
    Some((trial.ended_ms? - trial.started_ms?) as f64 / 1000.0)
}

/// A line for each trial. Columns have the paths that the same has in the other formats, so that no parameter is taken for a metric.
fn csv(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    let names: Vec<String> = record.parameters().map(str::to_owned).collect();
    let objectives = &record.definition.objectives;
    let mut head: Vec<String> = ["number", "name", "state"].map(str::to_owned).to_vec();
    head.extend(objectives.iter().map(|objective| format!("values.{}", objective.name)));
    head.extend(names.iter().map(|name| format!("parameters.{name}")));
    head.extend(["repeats", "step", "started", "ended", "seconds", "message"].map(str::to_owned));
    line(out, &head)?;
    for trial in &record.trials {
        let values = trial.values.as_deref().unwrap_or_default();
        let mut cells = vec![trial.number.to_string(), trial.name.clone(), trial.state.name().to_owned()];
        cells.extend(
            (0..objectives.len()).map(|at| values.get(at).map(|value| json!(value).to_string()).unwrap_or_default()),
        );
        cells.extend(names.iter().map(|name| trial.parameters.get(name).map(cell).unwrap_or_default()));
        cells.push(trial.repeats.map(|of| of.to_string()).unwrap_or_default());
        cells.push(trial.step.map(|step| step.to_string()).unwrap_or_default());
        cells.extend([trial.started_ms, trial.ended_ms].map(|ms| ms.and_then(time).unwrap_or_default()));
        cells.push(seconds(trial).map(|seconds| seconds.to_string()).unwrap_or_default());
        cells.push(trial.message.clone().unwrap_or_default());
        line(out, &cells)?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A line of RFC 4180.
fn line(out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    write!(out, "{}\r\n", cells.iter().map(quoted).collect::<Vec<_>>().join(","))
}
