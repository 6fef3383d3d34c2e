//! The algorithms that say what to try next.
//!
//! A sampler is a function of the experiment's seed, the number of the trial and the history; what it keeps besides is only there to be
//! quick, and a new one that is shown the same history goes on the same way, bit for bit.

mod auto;
pub mod bohb;
pub mod cmaes;
pub mod evolve;
pub mod gp;
mod grid;
mod quasi;
mod random;
pub mod tpe;

use crate::history::{History, State, Trial, TrialId};
use crate::objective::{self, Objective};
use crate::space::{Point, Space};
use crate::stream::{Purpose, Stream};

pub use auto::Auto;
pub use bohb::Bohb;
pub use cmaes::CmaEs;
pub use evolve::Evolve;
pub use gp::Gp;
pub use grid::Grid;
pub use quasi::Quasi;
pub(crate) use quasi::scrambled;
pub use random::Random;
pub use tpe::Tpe;

/// What a sampler knows when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Context<'experiment> {
    /// What is searched.
    pub space: &'experiment Space,
    /// What it is after.
    pub objectives: &'experiment [Objective],
    /// What was tried.
    pub history: &'experiment History,
    /// The seed of the experiment.
    pub seed: u64,
    /// The trial that is to begin.
    pub trial: TrialId,
    /// How many suggestions for this trial were of no use: they had been tried before, or broke a constraint.
    pub attempt: u64,
}

impl Context<'_> {
    /// The random numbers of this suggestion for a purpose.
    #[must_use]
    pub fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.seed, self.trial.0, purpose, self.attempt)
    }
}

/// An algorithm that says what to try next.
pub trait Sampler: Send {
    /// A point that may lie between the values of its parameters, may have coordinates that are not used, and may break constraints: the
    /// experiment takes the nearest configuration, and asks again if that is of no use. `None` stands for any that is left of a finite
    /// space.
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point>;

    /// Which of its parts the last suggestion is from, where it has several that are judged by what came of theirs.
    fn author(&self) -> Option<&'static str> {
        None
    }
}

/// What a trial that has ended told, as losses in the order of the objectives; also one that was stopped early.
fn losses(context: &Context<'_>, trial: &Trial) -> Option<Vec<f64>> {
    let (State::Complete { values } | State::Stopped { values }) = &trial.state else { return None };
    (values.len() == context.objectives.len()).then(|| objective::losses(context.objectives, values))
}
