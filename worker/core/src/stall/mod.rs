//! Which ranks stand still, and for whom the others wait.
//!
//! The shell feeds signs of progress ([`Detector::sign`]) and, when [`Detector::deadline`] says so, what the ranks'
//! processes do ([`Detector::look`]). A rank is suspected when it was silent for much longer than its steps took, and
//! [`Change::Suspect`] asks for its stack; [`Detector::judge`] then gives the findings. Silence alone is never enough:
//!
//! - H-1: a rank is found to stand still only if, since the silence began to be long, neither its CPU time nor its input
//!   and output advanced, or if it is stopped.
//! - H-2: a rank that waits in a collective is not to blame. It is found only beside one that is to blame, or when the
//!   whole world is here and all of it waits, which is a deadlock.
//! - H-3: while a rank says that it writes a checkpoint or evaluates, nothing of this launcher is found, but what is stopped.
//! - H-4: where no progress was ever seen, a rank is found only when it is stopped, or when others of its launcher have joined
//!   their generation for long ([`JOIN_MS`]) and it has not: then they wait for it.
//! - H-5: what waits for a disk, or in a function that writes a checkpoint, has a minute.

pub mod python;
mod rhythm;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::rhythm::Rhythm;
pub use self::words::report;

/// Silence is not long before this, however short the steps are.
pub const LEAST_MS: i64 = 2_000;
/// How long a rank may come after the others of its launcher to where they meet, if it does nothing meanwhile.
pub const JOIN_MS: i64 = 10_000;
/// How many usual steps of silence are long.
pub const STEPS: i64 = 3;
/// How often processes are looked at while they are silent.
const LOOK_MS: i64 = 250;
/// How often they are looked at once they are known to stand still, to see them move again.
const LOOK_AGAIN_MS: i64 = 1_000;
/// A process moves if it uses more than this part of a CPU: what waits for others is well below, what computes above.
const CPU_PERCENT: i64 = 2;
/// CPU time is counted in steps of 10 ms: one of them is no movement.
const CPU_TICK_MS: i64 = 10;
/// Or if it reads and writes more than this: more than heartbeats, less than any loading of data.
const BYTES_PER_SECOND: i64 = 16 * 1024;
const BYTES: i64 = 4 * 1024;
/// How long a disk or a checkpoint may take without any movement that the system counts.
const PAUSE_MS: i64 = 60_000;
/// Stacks are asked for again at the earliest after this, if nothing was found.
const ASK_AGAIN_MS: i64 = 2_000;

/// A sign that a rank gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sign {
    /// It says how many steps it has done.
    Step(u64),
    /// It wrote a line, or did something at the store.
    Life,
}

/// What a rank says that it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Steps.
    #[default]
    Train,
    /// It writes a checkpoint.
    Checkpoint,
    /// It evaluates.
    Evaluate,
}

/// What the system says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It runs, or would if it had a CPU.
    Runs,
    /// It waits for something that may come.
    Sleeps,
    /// It waits for a disk or a device and cannot be disturbed (D).
    Blocked,
    /// It was stopped by a signal or a debugger (T).
    Stopped,
}

/// A process, and those that it started, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// Of the rank's own process.
    pub state: State,
    /// CPU time used so far.
    pub cpu_ms: u64,
    /// Bytes read and written so far.
    pub io_bytes: u64,
}

/// What a rank waits in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// In words: a function and its place, or a system call.
    pub place: String,
    /// Whether it waits for other ranks there.
    pub collective: bool,
    /// Whether it writes a checkpoint there.
    pub checkpoint: bool,
    /// Its Python stack, innermost first, as far as it could be had.
    pub stack: Vec<String>,
}

/// What is to be done after a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// These do not move: find out what they wait in, and [`Detector::judge`].
    Suspect(Vec<u32>),
    /// This rank, which was found to stand still, moves again.
    Moves(u32),
}

/// Why a rank stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The others wait for it.
    Culprit,
    /// It waits for others.
    Victim,
}

/// A rank that stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Which, among all.
    pub rank: u32,
    /// Whether it is to blame.
    pub role: Role,
    /// What the system says of it.
    pub state: State,
    /// When the last sign of progress was.
    pub since_ms: i64,
    /// How long it has been silent.
    pub silent_ms: i64,
    /// What its steps usually took, where that is known.
    pub usual_ms: Option<i64>,
    /// What it waits in.
    pub waits: Waits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rank {
    /// Of the steps that it tells, and of all signs.
    steps: Rhythm,
    life: Rhythm,
    phase: Phase,
    /// What was seen last, and when.
    look: Option<(i64, Look)>,
    /// Since when nothing has moved, and what was seen then; `None` when the last look saw movement, or there was none.
    still: Option<(i64, Look)>,
    /// When a stack was asked for in this silence.
    suspected_ms: Option<i64>,
    /// Since when others have joined their generation, and this one has not.
    apart_ms: Option<i64>,
    found: Option<Finding>,
}

/// The ranks of one generation in one launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detector {
    ranks: BTreeMap<u32, Rank>,
    /// Whether all ranks of the world are here.
    whole: bool,
    began_ms: i64,
    looked_ms: i64,
    /// What goes on at the store: the last resort where no rank says anything.
    traffic: Rhythm,
}

impl Detector {
    /// For ranks that have just been started; `whole` if there are none elsewhere.
    #[must_use]
    pub fn new(now_ms: i64, ranks: impl IntoIterator<Item = u32>, whole: bool) -> Self {
        let rank = Rank {
            steps: Rhythm::default(),
            life: Rhythm::default(),
            phase: Phase::Train,
            look: None,
            still: None,
            suspected_ms: None,
            apart_ms: None,
            found: None,
        };
        Self {
            ranks: ranks.into_iter().map(|number| (number, rank.clone())).collect(),
            whole,
            began_ms: now_ms,
            looked_ms: now_ms,
            traffic: Rhythm::default(),
        }
    }

    /// A rank gets on.
    pub fn sign(&mut self, now_ms: i64, rank: u32, sign: Sign) {
        let Some(rank) = self.ranks.get_mut(&rank) else { return };
        match sign {
            Sign::Step(step) => {
                if !rank.steps.count(now_ms, step) {
                    return;
                }
            }
            Sign::Life => {}
        }
        rank.life.beat(now_ms);
        if rank.silence().is_some_and(|(since, _)| since == now_ms) {
            rank.still = None;
            rank.suspected_ms = None;
        }
    }

    /// Somebody did something at the store.
    pub fn traffic(&mut self, now_ms: i64) {
        self.traffic.beat(now_ms);
    }

    /// Which ranks have not joined their generation, while others of this launcher have.
    pub fn apart(&mut self, now_ms: i64, apart: &BTreeSet<u32>) {
        for (number, rank) in &mut self.ranks {
            rank.apart_ms = apart.contains(number).then(|| rank.apart_ms.unwrap_or(now_ms));
        }
    }

    /// A rank says what it does now.
    pub fn phase(&mut self, now_ms: i64, rank: u32, phase: Phase) {
        if let Some(rank) = self.ranks.get_mut(&rank) {
            rank.phase = phase;
            // The pause belongs to no step.
            rank.steps.pause(now_ms);
            rank.life.pause(now_ms);
            rank.still = None;
            rank.suspected_ms = None;
        }
    }

    /// A rank has ended.
    pub fn ended(&mut self, rank: u32) {
        self.ranks.remove(&rank);
    }

    /// When the processes should be looked at next; there is always such a time while there are ranks.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        self.ranks
            .values()
            .map(|rank| {
                let seen = self.looked_ms;
                let Some((since, limit)) = self.patience(rank) else { return seen + LOOK_AGAIN_MS };
                let first = since + limit / 5 * 2;
                if rank.found.is_some() {
                    seen + LOOK_AGAIN_MS
                } else if seen < first {
                    first
                } else {
                    seen + LOOK_MS
                }
            })
            .min()
    }

    /// What the processes of the ranks do now. Ranks that are not in `looks` are not judged.
    pub fn look(&mut self, now_ms: i64, looks: &BTreeMap<u32, Look>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.looked_ms = now_ms;
        for (number, look) in looks {
            // Progress since it was found: steps may need less than what counts as movement.
            let since = self.ranks.get(number).and_then(|rank| self.patience(rank)).map(|(since, _)| since);
            let Some(rank) = self.ranks.get_mut(number) else { continue };
            rank.compare(now_ms, *look);
            let found_since = rank.found.as_ref().map(|found| found.since_ms);
            if look.state != State::Stopped && found_since.is_some_and(|found| since.is_some_and(|since| since > found))
            {
                rank.still = None;
            }
            if rank.still.is_none() {
                rank.suspected_ms = None;
                if rank.found.take().is_some() {
                    changes.push(Change::Moves(*number));
                }
            }
        }
        if self.ranks.values().any(|rank| self.is_suspect(now_ms, rank)) {
            // Those who stand still beside it tell who waits for whom.
            let still = |rank: &Rank| rank.still.is_some();
            let suspects = self.ranks.iter().filter(|(_, rank)| still(rank)).map(|(number, _)| *number).collect();
            for rank in self.ranks.values_mut().filter(|rank| still(rank)) {
                rank.suspected_ms = Some(now_ms);
            }
            changes.push(Change::Suspect(suspects));
        }
        changes
    }

    /// Whether there is a reason to ask for this rank's stack.
    fn is_suspect(&self, now_ms: i64, rank: &Rank) -> bool {
        let Some((still_since, look)) = rank.still.filter(|_| rank.found.is_none()) else { return false };
        let still_ms = now_ms - still_since;
        if let Some(at) = rank.suspected_ms
            && now_ms - at < ASK_AGAIN_MS.max(still_ms / 2)
        {
            return false;
        }
        // The stack takes a moment: it is asked for a little before the silence is long.
        if look.state == State::Stopped {
            return still_ms >= LEAST_MS / 5 * 4;
        }
        let paused = self.ranks.values().any(|rank| rank.phase != Phase::Train);
        let enough = |(_, limit): (i64, i64)| still_ms >= limit / 5 * 2;
        !paused && self.is_long(now_ms, rank) && self.patience(rank).is_some_and(enough)
    }

    /// Whether a rank is silent for long, or is about to be.
    fn is_long(&self, now_ms: i64, rank: &Rank) -> bool {
        self.patience(rank).is_some_and(|(since, limit)| now_ms - since >= limit / 5 * 4)
    }

    /// What the suspects wait in: who is to blame, and who waits for them. Culprits first. Each rank is found once.
    pub fn judge(&mut self, now_ms: i64, waits: &BTreeMap<u32, Waits>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (number, rank) in &self.ranks {
            let (Some((still_since, _)), Some((_, look)), Some(_)) = (rank.still, rank.look, rank.suspected_ms) else {
                continue;
            };
            let mut waits = waits.get(number).cloned().unwrap_or_default();
            let stopped = look.state == State::Stopped;
            if !stopped && !self.is_long(now_ms, rank) {
                // There was a sign since its stack was asked for, its own or that of those it works with.
                continue;
            }
            let pause = (look.state == State::Blocked || waits.checkpoint) && now_ms - still_since < PAUSE_MS;
            if pause && !stopped {
                continue;
            }
            let is_waited_for = rank.is_apart();
            let waits_there = waits.collective || (!is_waited_for && self.ranks.values().any(Rank::is_apart));
            let role = if waits_there && !stopped { Role::Victim } else { Role::Culprit };
            if is_waited_for {
                waits.place = format!("{} before it joined the others", waits.place).trim_start().to_owned();
            }
            let usual_ms = rank.silence().map(|(_, usual)| usual);
            let since_ms = self.patience(rank).map_or(still_since, |(since, _)| since);
            let silent_ms = now_ms - since_ms;
            findings.push(Finding { rank: *number, role, state: look.state, since_ms, silent_ms, usual_ms, waits });
        }
        let blamed = findings.iter().any(|finding| finding.role == Role::Culprit);
        let deadlock = self.whole && findings.len() == self.ranks.len();
        if !blamed && !deadlock {
            return Vec::new();
        }
        findings.sort_by_key(|finding| (finding.role, finding.rank));
        findings.retain(|finding| {
            let Some(rank) = self.ranks.get_mut(&finding.rank) else { return false };
            rank.found.replace(finding.clone()).is_none()
        });
        findings
    }

    /// What was found and still holds.
    pub fn found(&self) -> impl Iterator<Item = &Finding> {
        self.ranks.values().filter_map(|rank| rank.found.as_ref())
    }

    /// Steps done and silence of a rank, for a pulse.
    #[must_use]
    pub fn pulse(&self, now_ms: i64, rank: u32) -> Option<(Option<u64>, i64)> {
        let rank = self.ranks.get(&rank)?;
        let since = self.patience(rank).map_or(self.began_ms, |(since, _)| since);
        Some((rank.steps.last_step(), now_ms - since))
    }

    /// Since when a rank is silent, and how long it may be. A rank that says nothing itself (often only rank 0 does) is
    /// as silent as the others.
    fn patience(&self, rank: &Rank) -> Option<(i64, i64)> {
        let loudest = || self.ranks.values().filter_map(Rank::silence).max_by_key(|(since, _)| *since);
        if let Some(since) = rank.apart_ms.filter(|_| rank.is_apart()) {
            return Some((since, JOIN_MS));
        }
        let (since, usual) = rank.silence().or_else(loudest).or_else(|| self.traffic.silence())?;
        Some((since, usual.saturating_mul(STEPS).max(LEAST_MS)))
    }
}

impl Rank {
    /// The rhythm that tells most: of its steps where it tells them, because programs that hang may still write lines.
    fn silence(&self) -> Option<(i64, i64)> {
        self.steps.silence().or_else(|| self.life.silence())
    }

    /// Whether others wait for it to join them. One that is heard of is judged by that.
    fn is_apart(&self) -> bool {
        self.apart_ms.is_some() && self.silence().is_none()
    }

    fn compare(&mut self, now_ms: i64, look: Look) {
        let before = self.look.replace((now_ms, look));
        let still = look.state == State::Stopped
            || (look.state != State::Runs
                && [before, self.still].into_iter().flatten().all(|past| !moved(past, now_ms, look)));
        let stopped = look.state == State::Stopped && before.is_none_or(|(_, before)| before.state != State::Stopped);
        if stopped {
            // What it did before the stop is no part of it.
            self.still = Some((now_ms, look));
        } else if !still {
            self.still = None;
        } else if self.still.is_none() {
            // Before the first look nothing is known.
            self.still = before;
        }
    }
}

/// Whether more was done since a look than what waits does.
fn moved((at, before): (i64, Look), now_ms: i64, look: Look) -> bool {
    let ms = (now_ms - at).max(0);
    let spent = |now: u64, then: u64| i64::try_from(now.saturating_sub(then)).unwrap_or(i64::MAX);
    spent(look.cpu_ms, before.cpu_ms) > (ms.saturating_mul(CPU_PERCENT) / 100).max(CPU_TICK_MS)
        || spent(look.io_bytes, before.io_bytes) > BYTES.saturating_add(ms.saturating_mul(BYTES_PER_SECOND) / 1_000)
}
