//! What the trials of an experiment say together: which parameters matter, and how sure a result is.

mod forest;
mod importance;
mod interval;
#[cfg(test)]
mod tests;

pub use importance::{Analysis, Interplay, LEAST, Share};
pub use interval::{Interval, LEVEL, difference, interval};
