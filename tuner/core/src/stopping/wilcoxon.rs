//! Wilcoxon's signed-rank test.

use statrs::function::erf::erfc;

/// Up to so many differences the distribution is counted out, with ties as they are; above, it is taken as normal.
const COUNTED: usize = 50;

/// How likely differences with ranks that speak so much for being positive would be, were they as likely to be negative. Zeros have ranks,
/// the lowest, and count for neither side (Pratt, 1959).
pub(super) fn greater(differences: &[f64]) -> f64 {
    let ranks = doubled_ranks(differences);
    let positive: u64 = ranks.iter().filter(|(difference, _)| *difference > 0.0).map(|(_, rank)| rank).sum();
    let free: Vec<u64> = ranks.iter().filter(|(difference, _)| *difference != 0.0).map(|(_, rank)| *rank).collect();
    if free.is_empty() {
        return 1.0;
    }
    if free.len() <= COUNTED { counted(&free, positive) } else { normal(&free, positive) }
}

/// Each difference with twice its rank by size, so that the ranks of ties are whole.
fn doubled_ranks(differences: &[f64]) -> Vec<(f64, u64)> {
    let mut sorted = differences.to_vec();
    sorted.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    let mut ranks = Vec::with_capacity(sorted.len());
    let mut from = 0;
    while from < sorted.len() {
        let tied = sorted[from..].iter().take_while(|other| other.abs() == sorted[from].abs()).count();
        // The ranks from+1 to from+tied, in the middle.
        let rank = (2 * from + tied + 1) as u64;
        ranks.extend(sorted[from..from + tied].iter().map(|difference| (*difference, rank)));
        from += tied;
    }
    ranks
}

/// The share of all choices of signs in which the positive ranks sum up to at least so much.
fn counted(ranks: &[u64], sum: u64) -> f64 {
    let total: u64 = ranks.iter().sum();
    let mut ways = vec![0.0; total as usize + 1];
    ways[0] = 1.0;
    let mut most = 0;
    for rank in ranks {
        let rank = *rank as usize;
        most += rank;
        for at in (rank..=most).rev() {
            ways[at] += ways[at - rank];
        }
    }
    let all = 2.0_f64.powi(i32::try_from(ranks.len()).unwrap_or(i32::MAX));
    ways[(sum as usize).min(ways.len())..].iter().sum::<f64>() / all
}

fn normal(ranks: &[u64], sum: u64) -> f64 {
    let mean = ranks.iter().sum::<u64>() as f64 / 2.0;
    let variance = ranks.iter().map(|rank| (*rank as f64).powi(2)).sum::<f64>() / 4.0;
    0.5 * erfc((sum as f64 - mean) / (2.0 * variance).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_samples_are_counted_out() {
        let close = |differences: &[f64], expected: f64| {
            let found = greater(differences);
            assert!((found - expected).abs() < 1e-12, "{differences:?}: {found}, not {expected}");
        };
        close(&[1.0, 2.0, 3.0, 4.0, 5.0], 1.0 / 32.0);
        close(&[-1.0, -2.0, -3.0], 1.0);
        // The sums of 5 and 6 that can be reached of 1, 2 and 3: {2,3} and {1,2,3}.
        close(&[-1.0, 2.0, 3.0], 2.0 / 8.0);
        // Ties have the middle rank, 1.5 each: of 8 sums of {1.5, 1.5, 3}, those of at least 4.5 are three.
        close(&[1.0, -1.0, 2.0], 3.0 / 8.0);
        // A zero takes the lowest rank and counts for neither side: 2 and 3 remain.
        close(&[0.0, 1.0, 2.0], 1.0 / 4.0);
        close(&[0.0, 0.0], 1.0);
        close(&[], 1.0);
    }

    #[test]
    fn large_samples_are_about_the_same() {
        let differences: Vec<f64> =
            (1..=50).map(|at| if at % 3 == 0 { -f64::from(at) } else { f64::from(at) }).collect();
        let ranks: Vec<u64> = (1..=50).map(|rank| 4 * rank).collect();
        let positive: u64 = (1..=50).filter(|at| at % 3 != 0).map(|rank| 4 * rank).sum();
        let (exact, about) = (greater(&differences), normal(&ranks, positive));
        assert!((exact - about).abs() < 2e-3, "{exact} {about}");
        assert!(exact < 0.05);
    }
}
