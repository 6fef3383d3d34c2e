//! One choice of values for the parameters of a space.

use std::collections::BTreeMap;

use super::{Space, Value};

/// A configuration as samplers see it; see [`Space`].
pub type Point = Vec<f64>;

/// What identifies a configuration among those of its space.
pub type Key = Vec<Option<u64>>;

/// A value for each parameter of a space that is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    values: Vec<Option<Value>>,
}

impl Configuration {
    pub(super) fn new(values: Vec<Option<Value>>) -> Self {
        Self { values }
    }

    /// The values, in the order of the space's parameters; `None` for a parameter that is not used.
    #[must_use]
    pub fn values(&self) -> &[Option<Value>] {
        &self.values
    }

    /// The values by name, without the parameters that are not used.
    #[must_use]
    pub fn named(&self, space: &Space) -> BTreeMap<String, Value> {
        let pairs = space.parameters().iter().zip(&self.values);
        pairs.filter_map(|(parameter, value)| Some((parameter.name.clone(), value.clone()?))).collect()
    }
}
