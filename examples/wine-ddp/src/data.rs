//! The red-wine quality data of Cortez et al. (2009): 11 chemical measurements of a wine and its quality by taste.

use std::collections::BTreeSet;

use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// Measurements per wine.
pub const FEATURES: usize = 11;
/// A wine of this quality (0 to 10) or more counts as good.
pub const GOOD: usize = 6;
/// One wine in this many is kept for the test.
const TEST_SHARE: usize = 5;

/// Wines with their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// `FEATURES` numbers per wine, one wine after another.
    pub features: Vec<f32>,
    /// 1 for a good wine, else 0.
    pub labels: Vec<f32>,
}

impl Samples {
    /// How many wines.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The measurements of one wine.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.features[index * FEATURES..][..FEATURES]
    }

    /// How often the more frequent label occurs: the accuracy of always saying the same.
    pub fn majority(&self) -> f64 {
        let good = self.labels.iter().filter(|label| **label > 0.5).count();
        good.max(self.len() - good) as f64 / self.len().max(1) as f64
    }
}

/// What the training needs, the same on every rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// For training.
    pub train: Samples,
    /// Never looked at before the end.
    pub test: Samples,
    /// Of the training set; both sets are shifted by it.
    pub mean: Vec<f32>,
    /// Of the training set; both sets are divided by it.
    pub deviation: Vec<f32>,
}

/// Reads, removes repeated wines, splits by `seed`, and standardises by the training set.
///
/// The data has 1,599 rows of which 240 repeat another: left in, they would be in both sets, and the test would reward
/// memory.
///
/// With `validate` the test wines are left out altogether, and a fifth of the others stands in for them: what is chosen
/// by looking at it is not chosen by looking at the test.
pub fn load(seed: u64, validate: bool) -> Data {
    let dataset = linfa_datasets::winequality();
    let mut seen = BTreeSet::new();
    let mut wines: Vec<(Vec<f32>, f32)> = Vec::new();
    for (row, quality) in dataset.records.rows().into_iter().zip(dataset.targets.iter()) {
        let row: Vec<f32> = row.iter().map(|value| *value as f32).collect();
        if seen.insert(row.iter().map(|value| value.to_bits()).collect::<Vec<u32>>()) {
            wines.push((row, if *quality >= GOOD { 1.0 } else { 0.0 }));
        }
    }
    wines.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut test = wines.split_off(wines.len() - wines.len() / TEST_SHARE);
    if validate {
        test = wines.split_off(wines.len() - wines.len() / TEST_SHARE);
    }
    let (mean, deviation) = moments(&wines);
    let scaled = |wines: Vec<(Vec<f32>, f32)>| {
        let mut samples = Samples::default();
        for (row, label) in wines {
            let scales = mean.iter().zip(&deviation);
            samples
                .features
                .extend(row.iter().zip(scales).map(|(value, (mean, deviation))| (value - mean) / deviation));
            samples.labels.push(label);
        }
        samples
    };
    Data { train: scaled(wines), test: scaled(test), mean: mean.clone(), deviation: deviation.clone() }
}

fn moments(wines: &[(Vec<f32>, f32)]) -> (Vec<f32>, Vec<f32>) {
    let count = wines.len() as f64;
    (0..FEATURES)
        .map(|feature| {
            let column = || wines.iter().map(|(row, _)| f64::from(row[feature]));
            let mean = column().sum::<f64>() / count;
            let variance = column().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            (mean as f32, variance.sqrt() as f32)
        })
        .unzip()
}

/// The order of the training set in one epoch, the same on every rank: shuffled by seed and epoch, and filled up from
/// its beginning so that it is whole batches of `global_batch`, as PyTorch's `DistributedSampler` fills up.
pub fn epoch_order(samples: usize, global_batch: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(1 + epoch as u64);
    order.shuffle(&mut random);
    let whole = samples.div_ceil(global_batch) * global_batch;
    (0..whole).map(|index| order[index % samples]).collect()
}

/// A rank's part of one global batch: every `world_size`-th sample. All parts have one size.
pub fn share(batch: &[usize], rank: usize, world_size: usize) -> impl Iterator<Item = usize> + '_ {
    batch.iter().copied().skip(rank).step_by(world_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wine_is_in_both_sets() {
        let data = load(1, false);
        assert_eq!((data.train.len(), data.test.len()), (1088, 271));
        let bits = |samples: &Samples, index| samples.row(index).iter().map(|value| value.to_bits()).collect();
        let known: BTreeSet<Vec<u32>> = (0..data.train.len()).map(|index| bits(&data.train, index)).collect();
        assert!((0..data.test.len()).all(|index| !known.contains(&bits(&data.test, index))));
        assert_eq!(load(1, false), data, "the split depends on the seed only");
        assert_ne!(load(2, false).test, data.test);
    }

    #[test]
    fn validation_never_sees_a_test_wine() {
        let (whole, part) = (load(1, false), load(1, true));
        assert_eq!((part.train.len(), part.test.len()), (871, 217));
        // Standardised differently, so compared in the units of the measurements.
        let rows = |samples: &Samples, data: &Data| -> BTreeSet<Vec<i64>> {
            let row = |index| {
                let scales = data.mean.iter().zip(&data.deviation);
                let raw = samples.row(index).iter().zip(scales).map(|(value, (mean, dev))| value * dev + mean);
                raw.map(|value| (f64::from(value) * 1e4).round() as i64).collect()
            };
            (0..samples.len()).map(row).collect()
        };
        let tested = rows(&whole.test, &whole);
        assert!(rows(&part.test, &part).is_disjoint(&tested) && rows(&part.train, &part).is_disjoint(&tested));
    }

    #[test]
    fn the_training_set_is_standardised() {
        let train = load(1, false).train;
        for feature in 0..FEATURES {
            let values: Vec<f64> = (0..train.len()).map(|index| f64::from(train.row(index)[feature])).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "feature {feature}: {mean} ± {variance}");
        }
    }

    #[test]
    fn every_world_sees_the_same_global_batches() {
        let order = epoch_order(10, 8, 3, 0);
        assert_eq!(order.len(), 16);
        assert_eq!(order[10..], order[..6], "filled up from the beginning");
        let mut covered = order[..10].to_vec();
        covered.sort_unstable();
        assert_eq!(covered, (0..10).collect::<Vec<_>>());
        assert_ne!(order, epoch_order(10, 8, 3, 1), "another epoch, another order");
        for world_size in [1, 2, 4, 8] {
            let mut union: Vec<usize> = (0..world_size).flat_map(|rank| share(&order[..8], rank, world_size)).collect();
            let mut batch = order[..8].to_vec();
            union.sort_unstable();
            batch.sort_unstable();
            assert_eq!(union, batch);
            assert!((0..world_size).all(|rank| share(&order[..8], rank, world_size).count() == 8 / world_size));
        }
    }
}
