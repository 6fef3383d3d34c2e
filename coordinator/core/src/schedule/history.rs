//! What queues used in the past.

use super::view::Amounts;

/// Usage with a half-life: what counts now, after `elapsed_ms` in which `used` was used.
///
/// A queue that uses 10 GPUs for a long time comes near to 10; `half_life_ms` after it stopped, it is at 5.
#[must_use]
pub fn decay(history: &[i64], used: &[i64], elapsed_ms: i64, half_life_ms: i64) -> Amounts {
    let kept = if half_life_ms <= 0 { 0.0 } else { (-(elapsed_ms.max(0) as f64) / half_life_ms as f64).exp2() };
    let len = history.len().max(used.len());
    let at = |amounts: &[i64], at: usize| amounts.get(at).copied().unwrap_or(0) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "a mean of two amounts")]
    let mean = |resource: usize| (at(history, resource) * kept + at(used, resource) * (1.0 - kept)).round() as i64;
    (0..len).map(mean).collect()
}
