//! What an experiment is after.

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Lower ones.
    Minimize,
    /// Higher ones.
    Maximize,
}

/// A number that trials tell, and which way it should go.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The name of the metric.
    pub name: String,
    /// Which values are better.
    pub goal: Goal,
    /// The value at which the experiment has reached what it is after.
    pub target: Option<f64>,
    /// Which of the values that a trial tells counts.
    pub take: Take,
}

/// Which of the values that a trial tells on its way is its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Take {
    /// The last one.
    #[default]
    Last,
    /// The best one.
    Best,
}

impl Objective {
    /// The value as something to be made small.
    #[must_use]
    pub fn loss(&self, value: f64) -> f64 {
        match self.goal {
            Goal::Minimize => value,
            Goal::Maximize => -value,
        }
    }

    /// Whether the value is as good as the target.
    #[must_use]
    pub fn is_reached(&self, value: f64) -> bool {
        self.target.is_some_and(|target| self.loss(value) <= self.loss(target))
    }
}

/// What a trial told, one value for each objective, as losses.
#[must_use]
pub fn losses(objectives: &[Objective], values: &[f64]) -> Vec<f64> {
    objectives.iter().zip(values).map(|(objective, value)| objective.loss(*value)).collect()
}

/// Whether losses are nowhere higher than the others, and somewhere lower.
#[must_use]
pub fn dominates(one: &[f64], other: &[f64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one <= other) && one.iter().zip(other).any(|(one, other)| one < other)
}

/// A whole number in whose order losses are: that of [`f64::total_cmp`].
pub(crate) fn order(loss: f64) -> i64 {
    // Of negative numbers the other bits are turned round.
    let bits = loss.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// A number to six digits.
pub(crate) fn short(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e9).contains(&value.abs()) {
        return format!("{value:.5e}");
    }
    let whole = format!("{:.0}", value.abs()).len();
    let text = format!("{value:.*}", 6_usize.saturating_sub(whole));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_have_an_order() {
        let numbers = [f64::NEG_INFINITY, -1e300, -2.0, -1e-300, -0.0, 0.0, 1e-300, 1.0, 1.5, 1e300, f64::INFINITY];
        for (at, one) in numbers.iter().enumerate() {
            for (other_at, other) in numbers.iter().enumerate() {
                assert_eq!(order(*one).cmp(&order(*other)), at.cmp(&other_at), "{one} {other}");
            }
        }
    }
}
