//! The best trials, tried again.
//!
//! Of many trials whose objective is noisy the best is a lucky one, and what it told is too good. So the best are tried again, what they
//! told before is forgotten, and the best of these is chosen by what the repeats told alone. That one is a little lucky again, among few:
//! its interval is wide enough for that (see [`interval`]).

use std::collections::BTreeMap;

use super::{Search, Stage, Stored};
use crate::analysis::{Interval, interval};
use crate::budget::Confirm;
use crate::space::Value;

/// A trial that tries another one's configuration again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Repeat {
    of: u64,
    stage: Stage,
}

/// The best trial by its repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Winner {
    /// The trial that was repeated.
    pub number: u64,
    /// How many repeats told their value.
    pub repeats: u64,
    /// The mean of what they told.
    pub mean: f64,
    /// Where the true mean is, if there are enough repeats to say.
    pub interval: Option<Interval>,
}

impl Search {
    /// Takes in a repeat as it is stored now.
    pub(super) fn observe_repeat(&mut self, number: u64, stored: Option<Stored>) {
        let repeat = stored.and_then(|stored| Some(Repeat { of: stored.repeats?, stage: stored.stage }));
        match repeat {
            Some(repeat) => {
                self.asked_repeats.remove(&number);
                self.repeats.insert(number, repeat);
            }
            None => {
                self.repeats.remove(&number);
            }
        }
    }

    /// What a trial tries that tries this one again: the same, with all of the resource.
    #[must_use]
    pub fn again(&self, of: u64) -> Option<BTreeMap<String, Value>> {
        let mut parameters = self.trials.get(&of)?.parameters.clone();
        if let Some(ladder) = self.experiment.ladder()
            && let Some((name, most)) = ladder.parameter().zip(ladder.value(ladder.resources().len().saturating_sub(1)))
        {
            parameters.insert(name.to_owned(), most);
        }
        Some(parameters)
    }

    /// The best trials by the first objective, the best first.
    fn ranked(&self, count: u64) -> Vec<u64> {
        let told = self.trials.iter().filter_map(|(number, stored)| match &stored.stage {
            // What was told with less of the resource is no measure of what is told with more.
            Stage::Succeeded(values) if self.rung(&stored.parameters) == self.front_rung => {
                self.losses(values).first().map(|loss| (*loss, *number))
            }
            Stage::Succeeded(_) | Stage::Running | Stage::Failed | Stage::Stopped(_) => None,
        });
        let mut told: Vec<(f64, u64)> = told.collect();
        told.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        told.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)).map(|(_, number)| number).collect()
    }

    /// Asks for the repeats that are lacking, each candidate's first one first. What was asked for stays so until it is stored.
    pub fn ask_repeats(&mut self, confirm: Confirm) {
        let candidates = self.ranked(confirm.candidates);
        self.asked_repeats.retain(|_, of| candidates.contains(of));
        for round in 1..=confirm.repeats {
            for of in &candidates {
                // One that was stopped told nothing, and is made up for.
                let made = self.repeats.values().filter(|repeat| repeat.of == *of);
                let made = made.filter(|repeat| !matches!(repeat.stage, Stage::Stopped(_))).count();
                let asked = self.asked_repeats.values().filter(|asked| *asked == of).count();
                let next = self.last().map_or(Some(0), |last| last.checked_add(1));
                if let Some(next) = next.filter(|_| ((made + asked) as u64) < round) {
                    self.asked_repeats.insert(next, *of);
                }
            }
        }
    }

    /// The repeats that were asked for and are not stored: their numbers, and those of the trials that they repeat.
    pub fn asked_repeats(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.asked_repeats.iter().map(|(number, of)| (*number, *of))
    }

    /// How many repeats have not ended, and how many have.
    #[must_use]
    pub fn repeats(&self) -> (u64, u64) {
        let running = self.repeats.values().filter(|repeat| repeat.stage == Stage::Running).count();
        (running as u64, (self.repeats.len() - running) as u64)
    }

    /// The best of the candidates by the mean of their repeats, once all of these have ended. One of whose repeats some failed is chosen
    /// only if there is no other.
    #[must_use]
    pub fn winner(&self, confirm: Confirm) -> Option<Winner> {
        if self.repeats.is_empty() {
            return None;
        }
        let candidates = self.ranked(confirm.candidates);
        let mut best: Option<((bool, f64), Winner)> = None;
        for number in &candidates {
            let (mut values, mut failed, mut made) = (Vec::new(), false, 0);
            for repeat in self.repeats.values().filter(|repeat| repeat.of == *number) {
                match &repeat.stage {
                    Stage::Running => return None,
                    Stage::Succeeded(told) => values.extend(told.first()),
                    Stage::Failed => failed = true,
                    Stage::Stopped(_) => continue,
                }
                made += 1;
            }
            if made < confirm.repeats {
                return None;
            }
            let repeats = values.len() as u64;
            if repeats == 0 {
                continue;
            }
            let interval = interval(&values, candidates.len());
            let mean =
                interval.map_or_else(|| values.iter().sum::<f64>() / values.len() as f64, |interval| interval.mean);
            let order = (failed, self.losses(&[mean]).first().copied().unwrap_or(mean));
            if best.as_ref().is_none_or(|(least, _)| order < *least) {
                best = Some((order, Winner { number: *number, repeats, mean, interval }));
            }
        }
        best.map(|(_, winner)| winner)
    }
}
