//! What a trial tells while it runs.

use std::collections::BTreeSet;

use crate::history::{Report, some};
use crate::log::{Log, Told, number};
use crate::metric;
use crate::objective::{Objective, Take};
use crate::space::nearest;

/// So many names of other metrics are remembered.
const NAMES: usize = 64;
/// So many reports are kept; then every second one goes.
const REPORTS: usize = 4096;

/// What a trial has told so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    last: Vec<Option<f64>>,
    best: Vec<Option<f64>>,
    told: u64,
    reports: Vec<Report>,
    others: BTreeSet<String>,
    lines: u64,
    log: Log,
}

impl Observation {
    /// Nothing yet, of a trial with so many objectives.
    #[must_use]
    pub fn new(objectives: usize) -> Self {
        let none = vec![None; objectives];
        Self {
            last: none.clone(),
            best: none,
            told: 0,
            reports: Vec::new(),
            others: BTreeSet::new(),
            lines: 0,
            log: Log::default(),
        }
    }

    /// Takes in a line. Whether it told anything about the objectives. What a progress bar wrote before in the same line counts for
    /// itself.
    pub fn line(&mut self, line: &str, objectives: &[Objective]) -> bool {
        let mut is_told = false;
        for piece in line.split('\r').filter(|piece| !piece.is_empty()) {
            is_told |= self.piece(piece, objectives);
        }
        is_told
    }

    /// Takes in a line in which this was found, which is how systems of others tell metrics. Those that are `kept` go into the log.
    pub fn told(&mut self, told: Vec<Told>, kept: &[String], objectives: &[Objective], now_ms: i64) -> bool {
        if told.is_empty() {
            self.lines += 1;
        }
        let mut is_told = false;
        for one in told {
            let number = one.text.trim().parse::<f64>().is_err().then(|| number(&one.text).to_string());
            let text = serde_json::Value::from(number.as_deref().unwrap_or(&one.text));
            is_told |= self.piece(&serde_json::json!({ &one.name: text }).to_string(), objectives);
            if kept.contains(&one.name) {
                self.log.push(one, now_ms);
            }
        }
        is_told
    }

    /// The values that others found, as they were written.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn piece(&mut self, line: &str, objectives: &[Objective]) -> bool {
        self.lines += 1;
        let read = metric::read(line);
        let mut is_told = false;
        for (name, value) in read.values {
            let Some(at) = objectives.iter().position(|objective| objective.name == name) else {
                if self.others.len() < NAMES {
                    self.others.insert(name);
                }
                continue;
            };
            is_told = true;
            self.last[at] = Some(value);
            let is_better = |best: f64| objectives[at].loss(value) < objectives[at].loss(best);
            if value.is_finite() && self.best[at].is_none_or(is_better) {
                self.best[at] = Some(value);
            }
        }
        if is_told {
            self.told += 1;
            self.report(read.step.unwrap_or(self.told));
        }
        is_told
    }

    /// Values that are told in several lines of one step are one report.
    fn report(&mut self, step: u64) {
        let values: Option<Vec<f64>> = self.last.iter().copied().collect();
        let Some(values) = values.filter(|values| values.iter().all(|value| value.is_finite())) else { return };
        match self.reports.last_mut() {
            Some(last) if last.step >= step => *last = Report::new(last.step, values),
            _ => {
                // Before it comes, as long as the last one cannot change any more. That one is kept.
                if self.reports.len() == REPORTS {
                    self.reports = some(&self.reports, |at| at == 0 || at % 2 == 1);
                }
                self.reports.push(Report::new(step, values));
            }
        }
    }

    /// The values on the way, by step.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// The values of the objectives, as far as each was told; see [`Take`].
    #[must_use]
    pub fn values(&self, objectives: &[Objective]) -> Vec<Option<f64>> {
        let taken = objectives.iter().zip(self.last.iter().zip(&self.best));
        taken
            .map(|(objective, (last, best))| match objective.take {
                Take::Last => *last,
                // All that was told may have been no number.
                Take::Best => best.or(*last),
            })
            .collect()
    }

    /// Which objective has not been told, and what was told instead.
    #[must_use]
    pub fn missing(&self, objectives: &[Objective]) -> Option<String> {
        let at = self.last.iter().position(Option::is_none)?;
        let name = &objectives.get(at)?.name;
        if self.others.is_empty() {
            let lines = match self.lines {
                0 => "no line".to_owned(),
                1 => "1 line".to_owned(),
                lines => format!("{lines} lines"),
            };
            return Some(format!(
                "it told no metric: it wrote {lines}, and none like `{name}=0.5` or {{\"{name}\": 0.5}}"
            ));
        }
        let hint = nearest(name, self.others.iter().map(String::as_str));
        let hint = hint.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
        let others = self.others.iter().take(8).map(|other| format!("`{other}`")).collect::<Vec<_>>().join(", ");
        Some(format!("it told no `{name}`{hint}; it told {others}"))
    }

    /// Whether it told something, and nothing of some objective: then a name is probably wrong.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        !self.others.is_empty() && self.last.iter().any(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::summed;
    use crate::objective::Goal;

    fn objective(name: &str, goal: Goal, take: Take) -> Objective {
        Objective { name: name.to_owned(), goal, target: None, take }
    }

    #[test]
    fn the_last_or_the_best_value_counts() {
        let objectives = [objective("loss", Goal::Minimize, Take::Best), objective("acc", Goal::Maximize, Take::Last)];
        let mut seen = Observation::new(2);
        for line in
            ["epoch=1 loss=0.5 acc=0.1", "nothing", "epoch=2 loss=0.25", "epoch=2 acc=0.75", "epoch=3 loss=nan acc=0.5"]
        {
            seen.line(line, &objectives);
        }
        assert_eq!(seen.values(&objectives), [Some(0.25), Some(0.5)]);
        let reports = [Report::new(1, vec![0.5, 0.1]), Report::new(2, vec![0.25, 0.75])];
        assert_eq!(seen.reports(), reports, "a report has finite values only, and one of each step");
        assert_eq!(seen.missing(&objectives), None);
    }

    #[test]
    fn a_wrong_name_is_told_with_the_nearest_one() {
        let objectives = [objective("accuracy", Goal::Maximize, Take::Last)];
        let mut seen = Observation::new(1);
        assert!(!seen.is_doubtful());
        assert!(!seen.line("acuracy=0.5 loss=3", &objectives));
        assert!(seen.is_doubtful());
        let told = seen.missing(&objectives);
        assert_eq!(told.as_deref(), Some("it told no `accuracy` (did you mean `acuracy`?); it told `acuracy`, `loss`"));
        let mut silent = Observation::new(1);
        silent.line("hello", &objectives);
        assert!(silent.missing(&objectives).is_some_and(|told| told.contains("1 line, and none like `accuracy=0.5`")));
    }

    #[test]
    fn reports_are_thinned_out() {
        let objectives = [objective("loss", Goal::Minimize, Take::Last)];
        let mut seen = Observation::new(1);
        for step in 1..=10_000 {
            seen.line(&format!("step={step} loss={step}"), &objectives);
        }
        assert!(seen.reports().len() <= REPORTS);
        assert_eq!(seen.reports().last().map(|report| report.step), Some(10_000));
        assert_eq!(seen.reports().first().map(|report| report.step), Some(1));
        let so_far = summed(seen.reports()).last().map(|(_, so_far)| so_far);
        let of_all = so_far.map(|all| (all.reports, all.means[0].round(), all.lowest[0], all.highest[0]));
        assert_eq!(of_all, Some((10_000, 5_001.0, 1.0, 10_000.0)), "also what was not kept counts");
    }
}
