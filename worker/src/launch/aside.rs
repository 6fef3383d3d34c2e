//! What ranks tell with `trainyard.step()`, handed on to the shim that keeps the container's progress and metrics: as lines on
//! standard output that are no output. Only where a shim asks for them, which does not put them into the log.

use super::console::{self, Channel};
use super::notes::Step;
use crate::shim::aside;

/// The way to the shim, if there is one.
pub(super) struct Aside {
    open: bool,
    /// Whose steps are told: the lowest rank's that tells any, as with lines of output that only the first rank prints.
    rank: Option<u32>,
}

impl Aside {
    pub(super) fn open() -> Self {
        Self { open: std::env::var_os(aside::VARIABLE).is_some(), rank: None }
    }

    /// A generation begins.
    pub(super) fn begin(&mut self) {
        self.rank = None;
    }

    /// A rank has told of a step.
    pub(super) fn step(&mut self, rank: u32, step: &Step) {
        if !self.open || self.rank.is_some_and(|first| first < rank) {
            return;
        }
        self.rank = Some(rank);
        console::put_own(Channel::Out, line(step).into_bytes());
    }
}

fn line(step: &Step) -> String {
    let numbers = step.metrics.iter().filter(|(name, _)| *name != "step");
    let mut all: serde_json::Map<String, serde_json::Value> =
        numbers.map(|(name, value)| (name.clone(), serde_json::json!(value))).collect();
    all.insert("step".to_owned(), step.step.into());
    format!("{}{}\n", aside::MARK, serde_json::Value::Object(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_that_the_shim_understands() {
        let metrics = [("loss".to_owned(), 0.5), ("step".to_owned(), 7.0)].into();
        let line = line(&Step { step: 120, metrics });
        let sample = aside::text(line.trim_end().as_bytes()).and_then(trainyard_worker_core::progress::parse);
        let sample = sample.expect("progress");
        assert_eq!((sample.step, sample.metrics.get("loss")), (Some(120), Some(&0.5)));
        assert_eq!(aside::text(b"step=3"), None);
    }
}
