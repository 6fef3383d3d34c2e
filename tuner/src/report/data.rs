//! What the page shows, as JSON.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use trainyard_tuner_core::analysis::{Analysis, Interval};
use trainyard_tuner_core::objective::{Goal, Objective};
use trainyard_tuner_core::space::{Dimension, Domain, Space};

use super::{axis, settings};
use crate::record::{Record, State, Tried, millis};

/// So many trials are drawn, and so many values of them in all; a browser shows more only slowly.
const TRIALS: usize = 2_000;
const VALUES: usize = 60_000;
/// So many objectives have an importance.
const OBJECTIVES: usize = 4;
/// Texts of trials are cut off after so many characters.
const LONGEST: usize = 200;

pub(super) fn of(record: &Record, made_ms: i64) -> Json {
    let (definition, status) = (&record.definition, &record.status);
    let shown = shown(record);
    let objectives: Vec<Json> = definition.objectives.iter().map(objective).collect();
    let dimensions: Vec<Dimension> = definition.space.dimensions().collect();
    let trials: Vec<Json> = shown.iter().map(|trial| of_trial(record, &dimensions, trial)).collect();
    let records = (0..definition.objectives.len()).map(|at| {
        let records = record.records(at).into_iter();
        let value = |trial: &Tried| trial.values.as_ref().map(|values| values[at]);
        records.map(|(trial, _)| json!([trial.number, value(trial)])).collect::<Json>()
    });
    let importance: Vec<Json> =
        (0..definition.objectives.len().min(OBJECTIVES)).map(|at| importance(record, at)).collect();
    let states = [State::Waiting, State::Running, State::Succeeded, State::Failed, State::Stopped].map(State::name);
    let count = |wanted: State| record.trials.iter().filter(|trial| trial.state == wanted).count();
    let counts = [State::Succeeded, State::Failed, State::Stopped, State::Running].map(count);
    json!({
        "name": record.name,
        "phase": record.phase(),
        "message": status.message,
        "made": made_ms,
        "start": status.start_time.as_ref().map(millis),
        "end": status.completion_time.as_ref().map(millis),
        "objectives": objectives,
        "parameters": (0..dimensions.len()).map(|at| parameter(&definition.space, at)).collect::<Json>(),
        "states": states,
        "counts": counts,
        "all": record.trials.len(),
        "trials": trials,
        "records": records.collect::<Json>(),
        "best": record.best().map(|best| best.number),
        "configuration": record.best().map(|best| configuration(record, best)),
        "repeated": repeated(record),
        "front": record.front().iter().map(|trial| json!(trial.number)).collect::<Json>(),
        "importance": importance,
        "settings": settings::lines(&record.spec).iter().map(|(path, text)| json!([path, text])).collect::<Json>(),
    })
}

/// The trials that are drawn, by number: where there are more than can be, the best, those that failed last, and of the others evenly.
fn shown(record: &Record) -> Vec<&Tried> {
    let all: Vec<&Tried> = record.trials.iter().collect();
    let most = TRIALS.min(VALUES / record.definition.space.parameters().len().max(1)).max(100);
    if all.len() <= most {
        return all;
    }
    let mut ranked: Vec<(&Tried, Vec<f64>)> = record.told().collect();
    ranked.sort_by(|one, other| {
        let order = one.1.iter().zip(&other.1).map(|(one, other)| one.total_cmp(other));
        order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then).then(one.0.number.cmp(&other.0.number))
    });
    let mut chosen: BTreeSet<u64> = ranked.iter().take(most / 4).map(|(trial, _)| trial.number).collect();
    chosen.extend(record.front().iter().take(most / 4).map(|trial| trial.number));
    chosen.extend(record.best().map(|trial| trial.number));
    chosen.extend(record.repeated().iter().map(|(trial, ..)| trial.number));
    let failed = all.iter().rev().filter(|trial| trial.state == State::Failed);
    chosen.extend(failed.take(most / 20).map(|trial| trial.number));
    let rest: Vec<u64> = all.iter().map(|trial| trial.number).filter(|number| !chosen.contains(number)).collect();
    let room = most.saturating_sub(chosen.len()).max(1);
    chosen.extend(rest.iter().step_by(rest.len().div_ceil(room).max(1)));
    all.into_iter().filter(|trial| chosen.contains(&trial.number)).collect()
}

fn objective(objective: &Objective) -> Json {
    json!({
        "name": objective.name,
        "maximize": objective.goal == Goal::Maximize,
        "target": objective.target,
    })
}

fn parameter(space: &Space, at: usize) -> Json {
    let parameter = &space.parameters()[at];
    let is_choice = matches!(parameter.domain, Domain::Categorical(_) | Domain::Ordinal(_));
    json!({
        "name": parameter.name,
        "choice": is_choice,
        "when": parameter.when.as_ref().map(ToString::to_string),
        "marks": axis::json(&axis::marks(space, at)),
    })
}

/// `[number, state, values, places, texts, start, end, repeats, message]`.
fn of_trial(record: &Record, dimensions: &[Dimension], trial: &Tried) -> Json {
    let point = record.point(trial);
    let places: Json = dimensions
        .iter()
        .enumerate()
        .map(|(at, dimension)| json!(point.as_ref().and_then(|point| axis::place(*dimension, point[at]))))
        .collect();
    let texts: Json = record.parameters().map(|name| json!(trial.parameters.get(name).map(text))).collect();
    let message = trial.message.as_ref().map(|message| message.chars().take(LONGEST).collect::<String>());
    let (state, times) = (trial.state as usize, (trial.started_ms, trial.ended_ms));
    json!([trial.number, state, trial.values, places, texts, times.0, times.1, trial.repeats, message])
}

fn text(value: &Json) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => axis::text(number),
        None => whole(value),
    }
}

fn whole(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.chars().take(LONGEST).collect())
}

/// The values of a trial to their last digit, as they are to be used.
fn configuration(record: &Record, trial: &Tried) -> Json {
    let pair = |name: &str| Some(json!([name, whole(trial.parameters.get(name)?)]));
    record.parameters().filter_map(pair).collect()
}

/// Trials that were tried again: `[number, values, mean, low, high]`.
fn repeated(record: &Record) -> Json {
    let all = record.repeated().into_iter();
    let ends = |interval: Option<Interval>| interval.map(|interval| [interval.mean, interval.low, interval.high]);
    all.map(|(trial, values, interval)| json!([trial.number, values, ends(interval)])).collect()
}

/// Shares, interplay, a curve for each parameter that is always used, and the surface of the two that matter most.
fn importance(record: &Record, at: usize) -> Json {
    let Some(analysis) = record.analysis(at) else { return Json::Null };
    let objective = &record.definition.objectives[at];
    // A loss is a value, or its opposite.
    let value = |loss: f64| objective.loss(loss);
    let parameters = record.definition.space.parameters();
    let is_always = |parameter: &usize| parameters[*parameter].when.is_none();
    let curve = |parameter: usize| -> Json {
        if !is_always(&parameter) {
            return Json::Null;
        }
        analysis.curve(parameter).into_iter().map(|loss| digits(value(loss))).collect()
    };
    let ranked = analysis.ranked();
    json!({
        "fit": digits(analysis.fit()),
        "ranked": ranked,
        "shares": analysis.shares().iter().map(|share| json!([digits(share.alone), digits(share.total)])).collect::<Json>(),
        "interplay": interplay(&analysis),
        "curves": (0..parameters.len()).map(curve).collect::<Json>(),
        "surface": surface(&analysis, &ranked, &is_always, &value),
    })
}

fn interplay(analysis: &Analysis) -> Json {
    let strong = analysis.interplay().into_iter().filter(|pair| pair.share >= 0.01).take(8);
    strong.map(|pair| json!([pair.parameters.0, pair.parameters.1, digits(pair.share)])).collect()
}

/// Of two that are always used where there are such: of others the mean is over much that does not use them.
fn surface(
    analysis: &Analysis,
    ranked: &[usize],
    is_always: &dyn Fn(&usize) -> bool,
    value: &dyn Fn(f64) -> f64,
) -> Json {
    let mut two: Vec<usize> = ranked.iter().copied().filter(is_always).take(2).collect();
    if two.len() < 2 {
        two = ranked.iter().copied().take(2).collect();
    }
    let [one, other] = two[..] else { return Json::Null };
    let rows = analysis.surface(one, other).into_iter();
    let rows: Json = rows.map(|row| row.into_iter().map(|loss| digits(value(loss))).collect::<Json>()).collect();
    json!({ "parameters": [one, other], "rows": rows })
}

/// To five digits.
fn digits(value: f64) -> Json {
    format!("{value:.4e}").parse::<f64>().ok().filter(|value| value.is_finite()).map_or(Json::Null, Json::from)
}
