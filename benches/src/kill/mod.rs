//! Killing ranks, launchers and control planes of a training that writes down what happens, under several launchers.

pub mod contender;
pub mod events;
pub mod fault;
pub mod plot;
pub mod run;
pub mod table;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch: the clock of the training's own log, on the same machine.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The middle one.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// How far into the time between two checkpoints the `number`th fault comes: spread evenly over all of it, or each would cost as many
/// steps as the one before.
#[must_use]
pub fn moment(number: usize, between: Duration) -> Duration {
    /// The golden ratio's: multiples of it leave no gap.
    const STRIDE: f64 = 0.618_033_988_749_895;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let number = number as f64;
    between.mul_f64((number * STRIDE).fract())
}

/// Waits until `probe` gives something, looking every few milliseconds; `None` when time is up.
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    const INTERVAL: Duration = Duration::from_millis(5);
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if std::time::Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_everywhere_between_two_checkpoints() {
        let between = Duration::from_secs(1);
        let mut tenths: Vec<u64> = (0..30).map(|number| moment(number, between).as_millis() as u64 / 100).collect();
        tenths.sort_unstable();
        tenths.dedup();
        assert_eq!(tenths, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
