//! Hyperband: brackets of successive halving that begin with many configurations at a low rung, with fewer at the next, and so on, round
//! and round.
//!
//! The best share of a rung goes on when all of it have ended. Whoever has nothing to do meanwhile begins the next bracket.

use super::{Next, Schedule};
use crate::history::Level;

pub(super) fn next(schedule: &mut Schedule, is_closed: bool) -> Option<Next> {
    let sizes = schedule.ladder.bracket_sizes();
    let last = schedule.rungs.last_key_value().map_or(0, |((bracket, _), _)| *bracket);
    let mut is_first = true;
    for bracket in schedule.first_open..=last.saturating_add(1) {
        if bracket > last && is_closed {
            break;
        }
        let first = (bracket % sizes.len() as u64) as usize;
        match in_bracket(schedule, bracket, first, sizes[first], is_closed) {
            Turn::Next(next) => return Some(next),
            Turn::Waits => is_first = false,
            // What is closed may open again: then the bracket is not full.
            Turn::Done if is_first && !is_closed => schedule.first_open = bracket + 1,
            Turn::Done => {}
        }
    }
    None
}

enum Turn {
    Next(Next),
    /// For trials that run.
    Waits,
    Done,
}

fn in_bracket(schedule: &Schedule, bracket: u64, first: usize, size: u64, is_closed: bool) -> Turn {
    let at = schedule.rung(bracket, first);
    let mut wanted = size as usize;
    if at.begun < wanted && !is_closed {
        return Turn::Next(Next::New(Level { rung: first, bracket, root: None }));
    }
    wanted = wanted.min(at.begun);
    for rung in first + 1..schedule.ladder.resources().len() {
        let below = schedule.rung(bracket, rung - 1);
        if below.ended < wanted {
            return Turn::Waits;
        }
        // The best of all is seen with all, also where fewer began than a bracket has.
        let share = ((wanted as f64 / schedule.ladder.eta()).floor() as usize).max(1).min(below.ranked.len());
        if schedule.rung(bracket, rung).begun < share
            && let Some(root) = below.best(share)
        {
            return Turn::Next(Next::Promoted(root, Level { rung, bracket, root: Some(root) }));
        }
        wanted = share;
    }
    Turn::Done
}
