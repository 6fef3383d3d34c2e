//! A multilayer perceptron with ReLU, one logit at the end, and its gradient, on plain slices.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// Sums are kept in this many lanes, so that the compiler can use the processor's vectors although the order of
/// additions is fixed.
const LANES: usize = 8;

/// The network. All parameters lie in one vector, so that a gradient is one all-reduce.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Neurons per layer: inputs, hidden layers, 1.
    pub sizes: Vec<usize>,
    /// For each layer its weights, `inputs × outputs` row by row, then its biases.
    pub parameters: Vec<f32>,
}

/// Memory for one forward and backward pass, reused from step to step.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What each layer gave for the current sample.
    activations: Vec<Vec<f32>>,
    /// The loss's slope at the current layer and at the one before.
    slopes: [Vec<f32>; 2],
}

impl Model {
    /// He-initialised from `seed`.
    pub fn new(sizes: Vec<usize>, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = Vec::new();
        for layer in sizes.windows(2) {
            let bound = (6.0 / layer[0] as f32).sqrt();
            parameters.extend((0..layer[0] * layer[1]).map(|_| (random.random::<f32>() * 2.0 - 1.0) * bound));
            parameters.extend((0..layer[1]).map(|_| 0.0));
        }
        Self { sizes, parameters }
    }

    /// The logit for one sample; above 0 means good.
    pub fn logit(&self, sample: &[f32], scratch: &mut Scratch) -> f32 {
        scratch.activations.resize_with(self.sizes.len(), Vec::new);
        scratch.activations[0].clear();
        scratch.activations[0].extend_from_slice(sample);
        let mut offset = 0;
        for layer in 1..self.sizes.len() {
            let (inputs, outputs) = (self.sizes[layer - 1], self.sizes[layer]);
            let (weights, rest) = self.parameters[offset..].split_at(inputs * outputs);
            offset += inputs * outputs + outputs;
            let (before, after) = scratch.activations.split_at_mut(layer);
            let after = &mut after[0];
            after.clear();
            after.extend_from_slice(&rest[..outputs]);
            for (value, row) in before[layer - 1].iter().zip(weights.chunks_exact(outputs)) {
                // After a ReLU about half of the values are zero.
                if *value != 0.0 {
                    add_scaled(after, row, *value);
                }
            }
            if layer + 1 < self.sizes.len() {
                after.iter_mut().for_each(|value| *value = value.max(0.0));
            }
        }
        scratch.activations[self.sizes.len() - 1][0]
    }

    /// Adds `weight` times the gradient of the cross entropy of one sample to `gradient`; gives the cross entropy.
    pub fn backward(
        &self,
        sample: &[f32],
        label: f32,
        weight: f32,
        gradient: &mut [f32],
        scratch: &mut Scratch,
    ) -> f32 {
        let logit = self.logit(sample, scratch);
        let Scratch { activations, slopes: [slope, below] } = scratch;
        slope.clear();
        slope.push((sigmoid(logit) - label) * weight);
        let mut end = self.parameters.len();
        for layer in (1..self.sizes.len()).rev() {
            let (inputs, outputs) = (self.sizes[layer - 1], self.sizes[layer]);
            let start = end - inputs * outputs - outputs;
            let (weights, biases) = gradient[start..end].split_at_mut(inputs * outputs);
            add_scaled(biases, slope, 1.0);
            below.clear();
            below.resize(inputs, 0.0);
            let rows = weights.chunks_exact_mut(outputs).zip(self.parameters[start..].chunks_exact(outputs));
            for ((value, below), (gradient, weights)) in activations[layer - 1].iter().zip(&mut *below).zip(rows) {
                // A neuron that is off passes nothing back and needs no gradient; inputs are never needed.
                if *value != 0.0 {
                    add_scaled(gradient, slope, *value);
                    if layer > 1 {
                        *below = dot(weights, slope);
                    }
                }
            }
            std::mem::swap(slope, below);
            end = start;
        }
        // log(1 + e^x) − y x, written so that it cannot overflow.
        logit.max(0.0) - logit * label + (-logit.abs()).exp().ln_1p()
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// `into += values × scale`.
fn add_scaled(into: &mut [f32], values: &[f32], scale: f32) {
    for (into, value) in into.iter_mut().zip(values) {
        *into += value * scale;
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Stochastic gradient descent with momentum and weight decay.
#[derive(Debug)]
pub struct Optimizer {
    velocity: Vec<f32>,
    momentum: f32,
    decay: f32,
}

impl Optimizer {
    /// For a model of so many parameters.
    pub fn new(parameters: usize, momentum: f32, decay: f32) -> Self {
        Self { velocity: vec![0.0; parameters], momentum, decay }
    }

    /// What the last steps left, which the next one goes on from.
    pub fn velocity(&mut self) -> &mut [f32] {
        &mut self.velocity
    }

    /// One step downhill.
    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32], rate: f32) {
        for ((parameter, velocity), slope) in parameters.iter_mut().zip(&mut self.velocity).zip(gradient) {
            *velocity = self.momentum * *velocity + slope + self.decay * *parameter;
            *parameter -= rate * *velocity;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let model = Model::new(vec![3, 5, 4, 1], 7);
        let (sample, label) = ([0.3, -1.2, 0.8], 1.0);
        let mut scratch = Scratch::default();
        let mut gradient = vec![0.0; model.parameters.len()];
        model.backward(&sample, label, 1.0, &mut gradient, &mut scratch);
        for index in 0..model.parameters.len() {
            let loss_at = |shift: f32| {
                let mut moved = model.clone();
                moved.parameters[index] += shift;
                let mut unused = vec![0.0; gradient.len()];
                f64::from(moved.backward(&sample, label, 1.0, &mut unused, &mut Scratch::default()))
            };
            let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[index])).abs() < 2e-3, "{index}: {slope} and {}", gradient[index]);
        }
    }
}
