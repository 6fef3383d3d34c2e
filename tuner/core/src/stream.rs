//! Random numbers that can be made again: each stream is keyed by the experiment's seed, the trial and what it is for, so that a number
//! depends neither on what was drawn for other trials nor on the process that draws it.
//!
//! Uniforms, choices and normals are defined here and not by a library, so that a newer library changes no experiment.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use statrs::function::erf::erfc_inv;

/// What a stream is for. The numbers are part of the stream's key and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Purpose {
    /// Points drawn from the space itself.
    Prior = 1,
    /// The scrambling of a low-discrepancy sequence.
    Scramble = 2,
    /// The order in which a grid is walked.
    Order = 3,
    /// The candidates of a model.
    Candidate = 4,
    /// Where a search begins anew.
    Restart = 5,
    /// Which of several ways is taken.
    Choice = 6,
    /// What is made of trials that have ended; nothing that is suggested depends on it.
    Analysis = 16,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of a trial for a purpose. A draw that had to be made again has a higher `attempt`.
    #[must_use]
    pub fn new(seed: u64, trial: u64, purpose: Purpose, attempt: u64) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, trial, purpose as u64, attempt]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in 0..`count`, without bias; 0 where `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        // Lemire, "Fast random integer generation in an interval" (2019): what would favour some numbers is drawn again.
        let mut product = u128::from(self.bits()) * u128::from(count);
        if (product as u64) < count {
            let unfair = count.wrapping_neg() % count;
            while (product as u64) < unfair {
                product = u128::from(self.bits()) * u128::from(count);
            }
        }
        (product >> 64) as u64
    }

    /// Standard normal, by the inverse of its distribution.
    pub fn normal(&mut self) -> f64 {
        let uniform = self.uniform() + 0.5 / (1_u64 << 53) as f64;
        -std::f64::consts::SQRT_2 * erfc_inv(2.0 * uniform)
    }

    /// The index of a weight, with a probability in proportion to it. The weights are not negative; where all are zero, the last one.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_key() {
        let draw = |seed, trial, purpose, attempt| Stream::new(seed, trial, purpose, attempt).bits();
        let keys = [
            draw(1, 1, Purpose::Prior, 0),
            draw(2, 1, Purpose::Prior, 0),
            draw(1, 2, Purpose::Prior, 0),
            draw(1, 1, Purpose::Candidate, 0),
            draw(1, 1, Purpose::Prior, 1),
        ];
        assert_eq!(keys[0], draw(1, 1, Purpose::Prior, 0));
        assert_eq!(std::collections::BTreeSet::from(keys).len(), keys.len());
        assert_eq!(keys[0], 7_265_308_578_580_508_706, "kept experiments go on with the same numbers");
    }

    #[test]
    fn the_distributions_are_what_they_say() {
        let mut stream = Stream::new(7, 0, Purpose::Prior, 0);
        let normals: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[stream.below(3) as usize] += 1);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[stream.weighted(&[1.0, 0.0, 3.0])] += 1);
        assert!(counts[1] == 0 && (7_100..7_900).contains(&counts[0]), "{counts:?}");
        assert_eq!((stream.below(0), stream.below(1), stream.weighted(&[0.0, 0.0])), (0, 0, 1));
    }
}
