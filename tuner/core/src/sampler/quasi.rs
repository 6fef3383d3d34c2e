//! A low-discrepancy sequence: points that leave smaller holes than random ones.

use super::{Context, Sampler};
use crate::space::{Dimension, Point};
use crate::stream::{Purpose, Stream};

/// The Sobol sequence with Owen's scrambling (Burley, "Practical Hash-based Owen Scrambling", JCGT 2020). The experiment's seed scrambles
/// it.
///
/// Parameters beyond the 256th, trials beyond the 65,536th and suggestions that were of no use get another scrambling.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quasi;

const POINTS: u64 = 1 << 16;
const DIMENSIONS: usize = 256;

impl Sampler for Quasi {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        Some(point(context, context.trial.0))
    }
}

/// The point at a place of the experiment's sequence.
pub(super) fn point(context: &Context<'_>, index: u64) -> Point {
    let block = index / POINTS;
    let index = (index % POINTS) as u32;
    // A suggestion that was of no use is not made again, but one of another sequence in its place.
    let scramble = |part: usize| {
        let key = block << 32 | part as u64;
        Stream::new(context.seed, key, Purpose::Scramble, context.attempt).bits() as u32
    };
    scrambled(context.space.dimensions(), index, &scramble)
}

/// The point at a place of the sequence with this scrambling, of which there is one for each part of the dimensions.
pub(crate) fn scrambled(
    dimensions: impl Iterator<Item = Dimension>,
    index: u32,
    scramble: &dyn Fn(usize) -> u32,
) -> Point {
    let mut known = None;
    let coordinate = |(at, dimension): (usize, Dimension)| {
        let (part, place) = (at / DIMENSIONS, (at % DIMENSIONS) as u32);
        let scramble = match known {
            Some((known, scramble)) if known == part => scramble,
            _ => scramble(part),
        };
        known = Some((part, scramble));
        let uniform = f64::from(sobol_burley::sample(index, place, scramble));
        match dimension {
            Dimension::Continuous | Dimension::Cells(_) => uniform,
            Dimension::Categories(count) => (uniform * count as f64).floor().min(count as f64 - 1.0),
        }
    };
    dimensions.enumerate().map(coordinate).collect()
}
