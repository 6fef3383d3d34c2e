//! Asynchronous successive halving: whoever is among the best share of its rung goes on, the higher rungs first; where nobody is, a new
//! configuration begins.

use super::{Next, Schedule};
use crate::history::Level;

pub(super) fn next(schedule: &Schedule, is_closed: bool) -> Option<Next> {
    let top = schedule.ladder.resources().len() - 1;
    for rung in (0..top).rev() {
        let at = schedule.rung(0, rung);
        let share = (at.ended as f64 / schedule.ladder.eta()).floor() as usize;
        // The last ones of a space of which all was tried: the best has to get to the top.
        let share = if is_closed && at.begun == at.ended { share.max(1) } else { share };
        if let Some(root) = at.best(share) {
            return Some(Next::Promoted(root, Level { rung: rung + 1, bracket: 0, root: Some(root) }));
        }
    }
    (!is_closed).then_some(Next::New(Level { rung: 0, bracket: 0, root: None }))
}
