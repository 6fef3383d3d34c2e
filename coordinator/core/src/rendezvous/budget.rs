//! How many failures a job bears.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::Cause;

/// Restarts by cause, and over all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Restarts at most, whatever the causes; `None`: no bound.
    pub total: Option<u32>,
    /// Restarts at most for one cause; a cause that is not here has only the total.
    pub by_cause: BTreeMap<Cause, u32>,
}

impl Budget {
    /// Whether a job that has restarted `restarts` times, `spent` of them for this cause, may do so again.
    #[must_use]
    pub fn allows(&self, cause: Cause, spent: u32, restarts: u32) -> bool {
        self.total.is_none_or(|total| restarts < total) && self.by_cause.get(&cause).is_none_or(|most| spent < *most)
    }
}
