//! When trials are ended early.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use trainyard_tuner_core::objective::Objective;
use trainyard_tuner_core::space::nearest;
use trainyard_tuner_core::stopping::{Against, Rule, Stopping};

use super::algorithm::range;
use super::found;
use super::table::Table;

const RULES: [&str; 6] = ["median", "percentile", "threshold", "patience", "wilcoxon", "curve"];
const AGAINST: [&str; 3] = ["average", "best", "last"];
const EXPECTED: &str = "the name of a rule, a table with rule and its settings, or a list of such tables";

/// The rules of `stopping`, if there are any; the outer `None` stands for some that are wrong.
pub(super) fn read(top: &mut Table<'_, '_>, objectives: Option<&[Objective]>) -> Option<Option<Stopping>> {
    let Some(given) = top.get("stopping") else { return Some(None) };
    let mut metric = None;
    let rules: Option<Vec<Rule>> = match given.value {
        DeValue::String(name) => {
            named(name).map(|rule| vec![rule]).or_else(|| unknown(top, "stopping", name, given.span.clone()))
        }
        DeValue::Table(file) => one(top, file, given.span.clone(), "stopping", &mut metric).map(|rule| vec![rule]),
        DeValue::Array(list) if !list.is_empty() => {
            let read = list.iter().enumerate().map(|(at, member)| {
                let path = format!("stopping[{at}]");
                match member.get_ref().as_table() {
                    Some(file) => one(top, file, member.span(), &path, &mut metric),
                    None => top.wrong(&path, &found(member), "a table with rule and its settings"),
                }
            });
            read.collect::<Vec<_>>().into_iter().collect()
        }
        DeValue::Array(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            top.wrong("stopping", &given, EXPECTED)
        }
    };
    let (rules, objectives) = (rules?, objectives?);
    let names = || objectives.iter().map(|objective| objective.name.as_str());
    let at = match (metric, objectives) {
        (None, [_]) => Some(0),
        (None, _) => {
            let message =
                format!("say which metric is looked at, with metric: {}", names().collect::<Vec<_>>().join(", "));
            top.error("stopping", given.span, message, None);
            None
        }
        (Some((name, span)), _) => {
            let at = names().position(|known| known == name);
            if at.is_none() {
                let hint = nearest(&name, names()).map(|near| format!("did you mean \"{near}\"?"));
                top.error("stopping.metric", span, format!("no objective has the metric \"{name}\""), hint);
            }
            at
        }
    };
    Some(Some(Stopping { at: at?, objective: objectives.get(at?)?.clone(), rules }))
}

fn unknown<Nothing>(top: &mut Table<'_, '_>, path: &str, name: &str, span: Range<usize>) -> Option<Nothing> {
    let hint = nearest(name, RULES).map(|rule| format!("did you mean \"{rule}\"?"));
    top.error(path, span, format!("there is no rule \"{name}\"; there are {}", RULES.join(", ")), hint);
    None
}

/// A rule with its settings as they are by default. A threshold has none.
fn named(name: &str) -> Option<Rule> {
    let percentile = |percentile| Rule::Percentile { percentile, against: Against::Average, start: 0, trials: 5 };
    match name {
        "median" => Some(percentile(50.0)),
        "percentile" => Some(percentile(25.0)),
        "patience" => Some(Rule::Patience { steps: 10, least: 0.0, start: 0 }),
        "wilcoxon" => Some(Rule::Wilcoxon { p: 0.1, start: 2 }),
        "curve" => Some(Rule::Curve { p: 0.05, start: 5, trials: 5 }),
        _ => None,
    }
}

fn one(
    top: &mut Table<'_, '_>,
    file: &DeTable<'_>,
    span: Range<usize>,
    path: &str,
    metric: &mut Option<(String, Range<usize>)>,
) -> Option<Rule> {
    let mut table = Table::new(file, span, path, top.errors());
    let Some((name, name_span)) = table.text("rule") else {
        if file.get("rule").is_none() {
            table.missing("rule", &format!("one of {}", RULES.join(", ")));
        }
        return None;
    };
    let rule = match (name, named(name)) {
        ("threshold", _) => threshold(&mut table),
        (_, Some(rule)) => settings(&mut table, name, rule),
        (_, None) => return unknown(&mut table, "rule", name, name_span),
    };
    if let Some((name, span)) = table.text("metric") {
        *metric = Some((name.to_owned(), span));
    }
    table.end();
    rule
}

fn start(table: &mut Table<'_, '_>, is_good: &mut bool) -> Option<f64> {
    range(table, "start", 0.0, 9e15, is_good)
}

fn threshold(table: &mut Table<'_, '_>) -> Option<Rule> {
    let mut is_good = true;
    let (lower, upper) = (table.number("lower"), table.number("upper"));
    if table.get("lower").is_none() && table.get("upper").is_none() {
        table.missing("lower", "the least value that is of use, or `upper`, the most");
        is_good = false;
    }
    is_good &= lower.is_some() || table.get("lower").is_none();
    is_good &= upper.is_some() || table.get("upper").is_none();
    let start = start(table, &mut is_good).unwrap_or(0.0) as u64;
    is_good.then_some(Rule::Threshold { lower, upper, start })
}

fn settings(table: &mut Table<'_, '_>, name: &str, mut rule: Rule) -> Option<Rule> {
    let mut is_good = true;
    let first = start(table, &mut is_good);
    match &mut rule {
        Rule::Percentile { percentile, against, start, trials } => {
            if name == "percentile" {
                *percentile = range(table, "percentile", 0.0, 100.0, &mut is_good).unwrap_or(*percentile);
            }
            *start = first.map_or(*start, |first| first as u64);
            *trials = range(table, "trials", 1.0, 1e6, &mut is_good).map_or(*trials, |trials| trials as usize);
            match table.text("against") {
                None => is_good &= table.get("against").is_none(),
                Some(("average", _)) => *against = Against::Average,
                Some(("best", _)) => *against = Against::Best,
                Some(("last", _)) => *against = Against::Last,
                Some((other, span)) => {
                    let hint = nearest(other, AGAINST).map(|known| format!("did you mean \"{known}\"?"));
                    let message = format!("expected one of {}, found \"{other}\"", AGAINST.join(", "));
                    table.error("against", span, message, hint);
                    is_good = false;
                }
            }
        }
        Rule::Patience { steps, least, start } => {
            *start = first.map_or(*start, |first| first as u64);
            *steps = range(table, "steps", 1.0, 9e15, &mut is_good).map_or(*steps, |steps| steps as u64);
            *least = range(table, "least", 0.0, f64::MAX, &mut is_good).unwrap_or(*least);
        }
        Rule::Wilcoxon { p, start } => {
            *start = first.map_or(*start, |first| first as usize);
            *p = range(table, "p", 1e-12, 0.5, &mut is_good).unwrap_or(*p);
        }
        Rule::Curve { p, start, trials } => {
            *start = first.map_or(*start, |first| first as usize);
            *p = range(table, "p", 1e-12, 0.5, &mut is_good).unwrap_or(*p);
            *trials = range(table, "trials", 1.0, 1e6, &mut is_good).map_or(*trials, |trials| trials as usize);
        }
        Rule::Threshold { .. } | Rule::Halving { .. } => {}
    }
    is_good.then_some(rule)
}
