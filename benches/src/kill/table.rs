//! The matrix as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::contender::Contender;
use super::fault::Fault;
use super::median;
use super::run::Outcome;

/// All runs of each pair.
pub type Matrix = BTreeMap<(Fault, Contender), Vec<Outcome>>;

/// One pair in figures: medians over its runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// How many runs.
    pub runs: usize,
    /// How many went on.
    pub recovered: usize,
    /// Seconds.
    pub detection: Option<f64>,
    /// Seconds.
    pub recovery: Option<f64>,
    /// Seconds.
    pub step_again: Option<f64>,
    /// Steps.
    pub lost_steps: Option<f64>,
    /// A share.
    pub goodput: Option<f64>,
    /// Whether any run had another loss.
    pub other_loss: bool,
    /// What went wrong in the first run that did not go on.
    pub trouble: Option<String>,
}

impl Cell {
    /// Sums the runs of one pair up.
    #[must_use]
    pub fn of(runs: &[Outcome]) -> Self {
        let all = |value: &dyn Fn(&Outcome) -> Option<f64>| median(&runs.iter().filter_map(value).collect::<Vec<_>>());
        #[expect(clippy::cast_precision_loss, reason = "a few hundred steps")]
        let lost = |run: &Outcome| run.recovery.map(|_| run.lost_steps as f64);
        Self {
            runs: runs.len(),
            recovered: runs.iter().filter(|run| run.recovery.is_some()).count(),
            detection: all(&|run| run.detection),
            recovery: all(&|run| run.recovery),
            step_again: all(&|run| run.step_again),
            lost_steps: all(&lost),
            goodput: all(&|run| run.goodput),
            other_loss: runs.iter().any(|run| run.same_loss == Some(false)),
            trouble: runs.iter().find_map(|run| run.trouble.clone()),
        }
    }
}

/// The page's tables: one for each fault.
#[must_use]
pub fn markdown(matrix: &Matrix) -> String {
    let mut text = String::new();
    let mut last = None;
    for ((fault, contender), runs) in matrix {
        if last != Some(*fault) {
            last = Some(*fault);
            let _ = writeln!(text, "\n### {}\n", sentence(fault.words()));
            text.push_str("| launcher | went on | detection | recovery | first step | lost steps | goodput | |\n|---|---|---|---|---|---|---|---|\n");
        }
        let cell = Cell::of(runs);
        let other = if cell.other_loss { "another loss curve" } else { "" };
        let _ = writeln!(
            text,
            "| {} | {} of {} | {} | {} | {} | {} | {} | {} |",
            contender.words(),
            cell.recovered,
            cell.runs,
            seconds(cell.detection),
            if fault.spares_the_ranks() && cell.recovery == Some(0.0) {
                "not needed".to_owned()
            } else {
                seconds(cell.recovery)
            },
            seconds(cell.step_again),
            cell.lost_steps.map_or("–".to_owned(), |steps| format!("{steps:.0}")),
            cell.goodput.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
            [other, cell.trouble.as_deref().unwrap_or_default()]
                .iter()
                .filter(|words| !words.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join("; "),
        );
    }
    text
}

/// What is promised of a rank's death, and whether these runs kept it.
#[must_use]
pub fn promises(matrix: &Matrix) -> String {
    let recovery = |fault, contender| Cell::of(matrix.get(&(fault, contender))?).recovery;
    let verdict = |kept| if kept { "kept" } else { "NOT KEPT" };
    let mut rows = String::new();
    for fault in [Fault::Sigkill, Fault::Sigsegv, Fault::Exit1, Fault::Exit143] {
        let peers = [Contender::Torchrun, Contender::TorchrunOwnStore].map(|peer| recovery(fault, peer));
        let Some(best) = peers.into_iter().flatten().min_by(f64::total_cmp) else { continue };
        if let Some(ours) = recovery(fault, Contender::Trainyard) {
            let times = best / ours;
            let words = format!(
                "torchrun's best takes {} and ours {}: {times:.1} times",
                seconds(Some(best)),
                seconds(Some(ours))
            );
            let _ = writeln!(
                rows,
                "| {}: at least 20 times as fast | {words} | {} |",
                fault.words(),
                verdict(times >= 20.0)
            );
        }
        if let Some(cold) = recovery(fault, Contender::TrainyardCold) {
            let words = format!("{} and {}", seconds(Some(best)), seconds(Some(cold)));
            let _ =
                writeln!(rows, "| {}: without spares no slower | {words} | {} |", fault.words(), verdict(cold <= best));
        }
    }
    if rows.is_empty() { rows } else { format!("\n### Promises\n\n| promise | measured | |\n|---|---|---|\n{rows}") }
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value < 1.0 => format!("{:.0} ms", value * 1e3),
        Some(value) => format!("{value:.2} s"),
    }
}

fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_is_not_kept_is_told() {
        let took = |recovery| vec![Outcome { recovery: Some(recovery), ..Outcome::default() }];
        let mut matrix = Matrix::from([
            ((Fault::Sigkill, Contender::Torchrun), took(2.0)),
            ((Fault::Sigkill, Contender::TorchrunOwnStore), took(3.0)),
            ((Fault::Sigkill, Contender::Trainyard), took(0.1)),
            ((Fault::Sigkill, Contender::TrainyardCold), took(2.1)),
        ]);
        let text = promises(&matrix);
        assert!(text.contains("takes 2.00 s and ours 100 ms: 20.0 times | kept |"), "{text}");
        assert!(text.contains("without spares no slower | 2.00 s and 2.10 s | NOT KEPT |"), "{text}");
        matrix.retain(|(_, contender), _| contender.is_ours());
        assert_eq!(promises(&matrix), "", "there is nobody to compare with");
    }

    #[test]
    fn a_table_has_medians_and_says_what_did_not_go_on() {
        let good = |recovery| Outcome {
            detection: Some(0.004),
            recovery: Some(recovery),
            step_again: Some(recovery + 0.1),
            lost_steps: 3,
            goodput: Some(0.97),
            same_loss: Some(true),
            trouble: None,
        };
        let bad = Outcome { trouble: Some("not recovered within 60 s".to_owned()), ..Outcome::default() };
        let matrix = Matrix::from([
            ((Fault::Sigkill, Contender::Trainyard), vec![good(0.2), good(0.4), good(0.3)]),
            ((Fault::Sigkill, Contender::Torchrun), vec![good(6.8), bad]),
        ]);
        let text = markdown(&matrix);
        assert!(text.contains("| trainyard | 3 of 3 | 4 ms | 300 ms | 400 ms | 3 | 97 % |  |"), "{text}");
        assert!(
            text.contains("| torchrun | 1 of 2 | 4 ms | 6.80 s | 6.90 s | 3 | 97 % | not recovered within 60 s |"),
            "{text}"
        );
    }
}
