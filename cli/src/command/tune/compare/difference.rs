//! Whether the best of experiments differ by more than luck.

use serde_json::{Value, json};
use trainyard_tuner::record::Record;
use trainyard_tuner_core::analysis::{self, Interval};

use crate::command::tune::number;
use crate::output::table::Table;

/// How far the best of two experiments are apart, by what their repeats told: the means, and Welch's test.
pub(super) struct Difference {
    one: String,
    other: String,
    interval: Interval,
    /// How likely it would be if there were none, with Holm's correction for how many pairs there are.
    chance: f64,
}

/// Of experiments that tried their best again, which takes one objective. One value of each says nothing about how far luck reaches.
pub(super) fn all(records: &[Record], metrics: usize) -> Vec<Difference> {
    if metrics != 1 {
        return Vec::new();
    }
    let told = |record: &Record| {
        let (best, repeated) = (record.best()?.number, record.repeated());
        let among = repeated.len();
        let own = repeated.into_iter().find(|(trial, ..)| trial.number == best)?;
        Some((record.name.clone(), own.1, among))
    };
    let told: Vec<(String, Vec<f64>, usize)> = records.iter().filter_map(told).collect();
    let mut found = Vec::new();
    for (at, (name, values, among)) in told.iter().enumerate() {
        for (other_name, other, others) in &told[at + 1..] {
            // Each was chosen from its candidates by the same repeats.
            if let Some((interval, chance)) = analysis::difference(values, other, among * others) {
                found.push(Difference { one: name.clone(), other: other_name.clone(), interval, chance });
            }
        }
    }
    holm(&mut found);
    found
}

/// Makes chances so much larger that in one of twenty commands a difference is found where there is none (Holm 1979).
fn holm(found: &mut [Difference]) {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|one, other| found[*one].chance.total_cmp(&found[*other].chance));
    let (count, mut least) = (order.len(), 0.0_f64);
    for (rank, at) in order.into_iter().enumerate() {
        least = least.max((found[at].chance * (count - rank) as f64).min(1.0));
        found[at].chance = least;
    }
}

pub(super) fn table(differences: &[Difference]) -> Table {
    let row = |one: &Difference| {
        let Interval { mean, low, high } = one.interval;
        let interval = format!("{} to {}", number::short(low), number::short(high));
        let chance = if one.chance < 1e-3 { "< 0.001".to_owned() } else { format!("{:.3}", one.chance) };
        vec![one.one.clone(), one.other.clone(), number::short(mean), interval, chance]
    };
    let mut table = Table::new(&["ONE", "OTHER", "APART", "95 % INTERVAL", "P"]);
    table.rows = differences.iter().map(row).collect();
    table
}

pub(super) fn document(differences: &[Difference]) -> Value {
    let one = |one: &Difference| {
        let Interval { mean, low, high } = one.interval;
        json!({"one": one.one, "other": one.other, "apart": mean, "low": low, "high": high, "p": one.chance})
    };
    differences.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_corrected_for_how_many_there_are() {
        let interval = Interval { mean: 1.0, low: 0.0, high: 2.0 };
        let one = |chance| Difference { one: String::new(), other: String::new(), interval, chance };
        let mut found = [0.04, 0.01, 0.03, 0.6].map(one);
        holm(&mut found);
        assert_eq!(found.map(|one| one.chance), [0.09, 0.04, 0.09, 0.6]);
    }
}
