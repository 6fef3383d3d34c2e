//! What was measured, as Markdown.

use std::fmt::Write as _;

use super::contender::{Contender, Outcome};
use super::plane::Cost;

/// The head of the table.
pub const HEAD: &str = "\
| gangs × pods | who | bound | pods/s | of the limit | gangs complete after: p50 / p99 / max, s | processor s: all | of which ours or the scheduler's | writes per pod |
|---|---|---|---|---|---|---|---|---|
";

/// One row; `limit`: pods that the loop of create and bind brought to a node in a second, in the same run.
#[must_use]
pub fn row(outcome: &Outcome, limit: Option<f64>) -> String {
    let share = limit.map_or_else(String::new, |limit| format!("{:.0} %", 100.0 * outcome.rate() / limit));
    let seconds = |quantile: f64| outcome.gangs.quantile(quantile).as_secs_f64();
    let total = outcome.shape.total();
    let bound = if outcome.progress.bound < total {
        format!("{} of {total}", outcome.progress.bound)
    } else {
        total.to_string()
    };
    let taken_back = match outcome.progress.removed {
        0 => String::new(),
        removed => format!(", {removed} removed"),
    };
    let (all, own) = processor(&outcome.cost);
    format!(
        "| {} × {} | {} | {bound}{taken_back} | {:.0} | {share} | {:.2} / {:.2} / {:.2} | {all:.1} | {own:.1} | {:.2} |\n",
        outcome.shape.gangs,
        outcome.shape.pods,
        outcome.contender.name(),
        outcome.rate(),
        seconds(0.5),
        seconds(0.99),
        seconds(1.0),
        per_pod(&outcome.cost, total),
    )
}

/// Processor seconds of all but this program, and of whoever decides.
fn processor(cost: &Cost) -> (f64, f64) {
    let sum = |which: &dyn Fn(&str) -> bool| -> f64 {
        cost.cpu
            .iter()
            .filter(|(name, _)| which(name))
            .map(|(_, spent)| spent.as_secs_f64())
            .fold(0.0, |sum, one| sum + one)
    };
    (sum(&|name| name != "this program"), sum(&|name| !matches!(name, "this program" | "etcd" | "kube-apiserver")))
}

/// Without what the simulated kubelets write, which is the same for everybody.
fn per_pod(cost: &Cost, pods: usize) -> f64 {
    let writes: u64 = cost.writes.iter().filter(|(name, _)| *name != "PATCH pods/status").map(|(_, count)| count).sum();
    #[expect(clippy::cast_precision_loss)]
    let per_pod = writes as f64 / pods.max(1) as f64;
    per_pod
}

/// Writes by kind, and processor time by program.
#[must_use]
pub fn details(outcome: &Outcome) -> String {
    let mut text = format!("{} × {}, {}: ", outcome.shape.gangs, outcome.shape.pods, outcome.contender.name());
    let cpu: Vec<String> =
        outcome.cost.cpu.iter().map(|(name, spent)| format!("{name} {:.1} s", spent.as_secs_f64())).collect();
    let writes: Vec<String> = outcome.cost.writes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let running = outcome.progress.running;
    let _ = writeln!(text, "{}; {}; {running} pods were running at the end", cpu.join(", "), writes.join(", "));
    text
}

/// The limit's rate among these, for a shape.
#[must_use]
pub fn limit_of(outcomes: &[Outcome], of: &Outcome) -> Option<f64> {
    let is_limit = |one: &&Outcome| one.contender == Contender::Limit && one.shape == of.shape;
    outcomes.iter().find(is_limit).map(Outcome::rate)
}
