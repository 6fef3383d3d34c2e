//! Label and field selectors: parsing and matching.

mod field;
mod label;
pub(crate) mod name;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelOperator, LabelRequirement, LabelSelector};
pub use name::{is_dns_label, is_subdomain, key_problems, value_problems};

use thiserror::Error;

use crate::store::Object;

/// A selector that cannot be read: 400 `BadRequest`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct SelectorError {
    /// What is wrong and where.
    pub message: String,
}

/// Both selectors of a list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
}

impl Selector {
    /// Parses both; empty texts select everything.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, SelectorError> {
        Ok(Self { labels: LabelSelector::parse(labels)?, fields: FieldSelector::parse(fields)? })
    }

    /// Whether both hold of the object.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        // Everything matches without being looked into, which may mean parsing it.
        self.is_everything() || self.labels.matches(|key| object.label(key)) && self.fields.matches(object.value())
    }

    /// Whether every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.requirements.is_empty() && self.fields.requirements.is_empty()
    }
}
