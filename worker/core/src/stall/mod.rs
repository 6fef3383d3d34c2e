//! Which ranks stand still, and for whom the others wait.
//!
//! The shell feeds signs of progress ([`Detector::sign`]) and, when [`Detector::deadline`] says so, what the ranks'
//! processes do ([`Detector::look`]). A rank is suspected when it was silent for much longer than its steps took, and
//! [`Change::Suspect`] asks for its stack; [`Detector::answer`] has it, and [`Change::Found`] the findings. Silence alone is
//! never enough:
//!
//! - H-1: a rank is found to stand still only if, since the silence began to be long, neither its CPU time nor its input
//!   and output advanced, or if it is stopped.
//! - H-2: a rank that waits in a collective is not to blame. It is found only beside one that is to blame, or when the
//!   whole world is here and all of it waits, which is a deadlock.
//! - H-3: while a rank says that it writes a checkpoint or evaluates, nothing of this launcher is found, but what is stopped.
//! - H-4: where no progress was ever seen, a rank is found only when it is stopped, or when others of its launcher have joined
//!   their generation for long ([`JOIN_MS`]) and it has not: then they wait for it.
//! - H-5: what waits for a disk, or in a function that writes a checkpoint, has a minute; what waits for a loader of data
//!   has one as long as the loader's processes wake up now and then; and so has one whose stack is not read in time.
//! - H-6: where a rank stood before and got on by itself, it has twice that time.
//! - H-7: where no rank of this launcher shows anything, those of others are asked ([`Detector::others`]): a rank is found only
//!   while the whole world stands still, and all launchers that do show progress say that their ranks wait in a collective.
//!   Nobody is blamed because somebody elsewhere computes, is late, or is not heard of.
//! - H-8: lines tell of progress once they have gone on for ten seconds, and no more when the rank has worked without them for
//!   three times as long as they ever went on, or paused. Before, and where they come in bursts, they do where the whole world is
//!   here and none of it moves, and the silence may be [`EARLY_MS`] then, or three times the longest that there was: what starts
//!   writes lines, and then waits for a download.
//! - H-9: a rank that was seen to work in the silence stands since then: what it has to stand is measured from there. A moment's
//!   work in the midst of a rest, as of a thread that samples the machine, is none, unless it stands elsewhere after it.
//! - H-10: who may wait for others, because nobody can read its stack, is not to blame unless the whole world is here, and none of
//!   it moves. Where others are elsewhere it counts as one that waits for them.
//!
//! The judgement is given when four fifths of the limit, the longest silence that is allowed, are over. The last fifth is for
//! a machine that is busy:
//!
//! | silence             | of 2 s | what                                                                      |
//! |---------------------|--------|---------------------------------------------------------------------------|
//! | 2/5 of the limit    | 0.8 s  | first look, then one every 0.25 s                                         |
//! | 4/5 less 0.4 s      | 1.2 s  | who has not moved since is asked for its stack                            |
//! | 4/5                 | 1.6 s  | last look, judgement; or 0.2 s after the answer, if that came late        |
//! | stopped by a signal | 1 s    | its stack is asked for; the judgement waits for it until 1.6 s            |

mod judge;
mod others;
pub mod pace;
pub mod python;
mod rank;
mod rhythm;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trainyard_proto::tempo::limit;
pub use trainyard_proto::tempo::{LEAST_MS, STEPS};

use self::others::Others;
use self::rank::Rank;
use self::rhythm::Rhythm;
pub use self::words::report;

/// How long a rank may come after the others of its launcher to where they meet, if it does nothing meanwhile: a limit like the
/// others, so that it is found after four fifths of it, which are 16 s.
pub const JOIN_MS: i64 = 20_000;
/// How long a silence may be, at least, after a few lines.
const EARLY_MS: i64 = 20_000;
/// How often processes are looked at while they are silent.
const LOOK_MS: i64 = 250;
/// How often they are looked at once they are known to stand still, to see them move again.
const LOOK_AGAIN_MS: i64 = 1_000;
/// How long traffic at the store, or lines, must have gone on, without a long gap, to tell of progress.
const STEADY_MS: i64 = 10_000;
/// How long a disk or a checkpoint may take without any movement that the system counts.
const PAUSE_MS: i64 = 60_000;
/// Stacks are asked for again at the earliest after this, if nothing was found.
const ASK_AGAIN_MS: i64 = 2_000;
/// For how long a rank must not have moved at all, at most: threads that sample the machine do so each ten seconds or more.
const STILL_MS: i64 = 5_000;
/// Between the reading of a stack and its judgement. A rank may have begun to move just before its stack was read, and is
/// then found in what it does now: its next line shows that.
const SETTLE_MS: i64 = 200;
/// How long before the judgement stacks are asked for: what reading them takes, and [`SETTLE_MS`].
const ASK_MS: i64 = 400;
/// How long a rank must have been stopped: programs that look into others stop them for a moment.
const STOPPED_MS: i64 = 1_000;
/// How long stacks may take to be read: some hundredths of a second are usual, on a busy machine some tenths.
const ANSWER_MS: i64 = 3_000;
/// The same where a rank is stopped, which says enough: at least, and as long as this after the stop was seen.
const ANSWER_STOPPED_MS: (i64, i64) = (200, 1_600);
/// Places where ranks stood and got on that are remembered: programs have a handful.
const PLACES: usize = 64;

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
    /// CPU time used so far, and time that was spent in wait for a CPU.
    pub cpu_ms: u64,
    /// Bytes read and written so far.
    pub io_bytes: u64,
    /// How often the processes that it started have woken up so far.
    pub wakes: u64,
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
    /// Whether it waits for a loader of data there.
    pub loader: bool,
    /// Whether its stack could have told more, and was not read in time.
    pub unread: bool,
    /// Its Python stack, innermost first, as far as it could be had.
    pub stack: Vec<String>,
}

/// What is to be done after a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// These do not move: find out what they wait in, within this time, and [`Detector::answer`].
    Suspect {
        /// Who.
        ranks: Vec<u32>,
        /// In milliseconds. What is not known by then is left out.
        within_ms: i64,
    },
    /// These stand still. Culprits first; each rank is found once.
    Found(Vec<Finding>),
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

/// Stacks that were read, and when they are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    due_ms: i64,
    waits: BTreeMap<u32, Waits>,
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
    /// Since when it goes on without a gap, and until when.
    steady: Option<(i64, i64)>,
    answer: Option<Answer>,
    /// How long ranks stood where before they got on.
    stood: BTreeMap<String, i64>,
    others: Option<Others>,
    /// Others are known to wait, and nobody has looked since.
    hurry: bool,
}

impl Detector {
    /// For ranks that have just been started; `whole` if there are none elsewhere.
    #[must_use]
    pub fn new(now_ms: i64, ranks: impl IntoIterator<Item = u32>, whole: bool) -> Self {
        let rank = Rank::default();
        Self {
            ranks: ranks.into_iter().map(|number| (number, rank.clone())).collect(),
            whole,
            began_ms: now_ms,
            looked_ms: now_ms,
            traffic: Rhythm::default(),
            steady: None,
            answer: None,
            stood: BTreeMap::new(),
            others: None,
            hurry: false,
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
        rank.life.beat_of_lines(now_ms);
        if rank.silence().is_some_and(|(since, _)| since == now_ms) {
            rank.still = None;
            rank.suspected_ms = None;
            rank.quiet = None;
        }
    }

    /// Somebody did something at the store.
    pub fn traffic(&mut self, now_ms: i64) {
        self.traffic.beat(now_ms);
        let since = self.steady.filter(|(_, last)| now_ms - last < LEAST_MS).map_or(now_ms, |(since, _)| since);
        self.steady = Some((since, now_ms));
    }

    /// The rhythm of the store, where that is one: ranks that meet say much there at once, and then nothing more.
    fn steady(&self) -> Option<(i64, i64)> {
        let (since, last) = self.steady?;
        self.traffic.silence().filter(|_| last - since >= STEADY_MS)
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
            rank.pause(now_ms);
        }
    }

    /// A rank is made to wait, by somebody who knows that: its silence begins now, and belongs to no step.
    pub fn pause(&mut self, now_ms: i64, rank: u32) {
        if let Some(rank) = self.ranks.get_mut(&rank) {
            rank.pause(now_ms);
        }
    }

    /// A rank has ended.
    pub fn ended(&mut self, rank: u32) {
        self.ranks.remove(&rank);
    }

    /// What the system says of the ranks' own processes, seen in passing: who is stopped need not be silent to be noticed.
    pub fn glance(&mut self, now_ms: i64, number: u32, state: State) {
        if let Some(rank) = self.ranks.get_mut(&number) {
            rank.note_stop(now_ms, state);
        }
    }

    /// When the processes should be looked at next; there is always such a time while there are ranks.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        if let Some(answer) = &self.answer {
            return (!self.ranks.is_empty()).then_some(answer.due_ms);
        }
        if self.hurry && !self.ranks.is_empty() {
            return Some(self.looked_ms);
        }
        self.ranks
            .values()
            .map(|rank| {
                let seen = self.looked_ms;
                if rank.found.is_some() {
                    return seen + LOOK_AGAIN_MS;
                }
                let stop = rank.stopped_ms.map(|_| seen + LOOK_MS);
                let next = self.patience(rank).map_or(seen + LOOK_AGAIN_MS, |(since, limit)| {
                    let first = since + limit / 5 * 2;
                    if seen < first {
                        // Who shows nothing is seen to work only by looks.
                        return if self.here(rank).is_some() { first } else { first.min(seen + LOOK_AGAIN_MS) };
                    }
                    // The looks that decide come in time; those between them only see that nothing moves.
                    let stands = self.stand(rank).map_or(since, |(stands, _)| stands);
                    let marks = [ask_ms(limit), limit / 5 * 4].map(|after| stands + after);
                    let mark = marks.into_iter().find(|mark| seen < *mark);
                    mark.map_or(seen + LOOK_MS, |mark| mark.min(seen + LOOK_MS))
                });
                stop.map_or(next, |stop| stop.min(next))
            })
            .min()
    }

    /// What the processes of the ranks do now. Ranks that are not in `looks` are not judged.
    pub fn look(&mut self, now_ms: i64, looks: &BTreeMap<u32, Look>) -> Vec<Change> {
        let mut changes = Vec::new();
        (self.looked_ms, self.hurry) = (now_ms, false);
        for (number, look) in looks {
            // Progress since it was found: steps may need less than what counts as movement.
            let since = self.ranks.get(number).and_then(|rank| self.patience(rank)).map(|(since, _)| since);
            let Some(rank) = self.ranks.get_mut(number) else { continue };
            rank.compare(now_ms, since, *look);
            let found_since = rank.found.as_ref().map(|found| found.since_ms);
            if look.state != State::Stopped && found_since.is_some_and(|found| since.is_some_and(|since| since > found))
            {
                rank.still = None;
            }
            if rank.still.is_none() {
                rank.suspected_ms = None;
                rank.quiet = None;
                if let Some(found) = rank.found.take() {
                    changes.push(Change::Moves(*number));
                    self.remember(now_ms, found);
                }
            }
        }
        if let Some(answer) = self.answer.take_if(|answer| answer.due_ms <= now_ms) {
            let findings = self.judge(now_ms, &answer.waits);
            changes.extend((!findings.is_empty()).then_some(Change::Found(findings)));
        }
        changes.extend(self.suspect(now_ms));
        changes
    }

    /// Asks for stacks, if there is a reason to.
    fn suspect(&mut self, now_ms: i64) -> Option<Change> {
        if self.answer.is_some() || !self.ranks.values().any(|rank| self.is_suspect(now_ms, rank)) {
            return None;
        }
        // Those who stand still beside it tell who waits for whom.
        let still = |rank: &Rank| rank.still.is_some();
        let ranks = self.ranks.iter().filter(|(_, rank)| still(rank)).map(|(number, _)| *number).collect();
        let stopped = self.ranks.values().filter(|rank| rank.found.is_none()).filter_map(|rank| rank.stopped_ms).min();
        let (least, after) = ANSWER_STOPPED_MS;
        let within_ms = stopped.map_or(ANSWER_MS, |since| (since + after - now_ms).max(least));
        for rank in self.ranks.values_mut().filter(|rank| still(rank)) {
            rank.suspected_ms = Some(now_ms);
        }
        Some(Change::Suspect { ranks, within_ms })
    }

    /// What the suspects wait in, as far as it could be found out. It is judged at the next deadline.
    pub fn answer(&mut self, now_ms: i64, waits: BTreeMap<u32, Waits>) {
        self.note_places(now_ms, &waits);
        self.forget_who_got_on();
        let asked = || self.ranks.values().filter(|rank| rank.suspected_ms.is_some());
        // A stop may have been too short for a judgement when silence was the reason to ask.
        let stopped = |rank: &Rank| rank.stopped_ms.filter(|_| rank.found.is_none());
        let stop = asked().filter_map(stopped).map(|since| since + STOPPED_MS).min();
        let due_ms = stop.map(|due| due.max(now_ms)).unwrap_or_else(|| {
            let all: Vec<i64> = asked().filter_map(|rank| self.due_ms(rank)).collect();
            // Those that are due at nearly the same time are judged together.
            let soon = all.iter().copied().filter(|due| *due <= now_ms + ASK_MS).max();
            (now_ms + SETTLE_MS).max(soon.or_else(|| all.into_iter().min()).unwrap_or(now_ms).min(now_ms + ANSWER_MS))
        });
        self.answer = asked().next().is_some().then_some(Answer { due_ms, waits });
    }

    /// Where they stand. Who stood elsewhere before, in the same silence, got on.
    fn note_places(&mut self, now_ms: i64, waits: &BTreeMap<u32, Waits>) {
        for (number, waits) in waits.iter().filter(|(_, waits)| !waits.stack.is_empty()) {
            let since = self.ranks.get(number).and_then(|rank| self.patience(rank)).map(|(since, _)| since);
            if let Some((rank, since)) = self.ranks.get_mut(number).zip(since) {
                rank.stands_in(now_ms, since, &waits.place);
            }
        }
    }

    /// A sign since its stack was asked for, a rank's own or that of those it works with, answers the question. To wait with
    /// it for the end of the next silence would keep the processes from being looked at until then.
    fn forget_who_got_on(&mut self) {
        let got_on = |rank: &Rank| {
            let asked_ms = rank.suspected_ms.filter(|_| rank.stopped_ms.is_none());
            asked_ms.zip(self.patience(rank)).is_some_and(|(asked_ms, (since, _))| since >= asked_ms)
        };
        let numbers: Vec<u32> = self.ranks.iter().filter(|(_, rank)| got_on(rank)).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(rank) = self.ranks.get_mut(&number) {
                rank.suspected_ms = None;
            }
        }
    }

    /// A rank got on by itself: what it stood in is a pause that this program makes.
    fn remember(&mut self, now_ms: i64, found: Finding) {
        if found.role == Role::Victim || found.state == State::Stopped || found.waits.place.is_empty() {
            return;
        }
        if self.stood.len() < PLACES || self.stood.contains_key(&found.waits.place) {
            let stood = now_ms - found.since_ms;
            let known = self.stood.entry(found.waits.place).or_default();
            *known = stood.max(*known);
        }
    }

    /// Whether there is a reason to ask for this rank's stack.
    fn is_suspect(&self, now_ms: i64, rank: &Rank) -> bool {
        let Some((still_since, _)) = rank.still.filter(|_| rank.found.is_none()) else { return false };
        let still_ms = now_ms - still_since;
        let stop = rank.stopped_ms.map(|since| since + STOPPED_MS);
        let Some(due_ms) = stop.or_else(|| Some(self.due_ms(rank)? - ASK_MS)) else { return false };
        // Before that it was asked because others were due.
        if let Some(at) = rank.suspected_ms.filter(|at| *at >= due_ms)
            && now_ms - at < ASK_AGAIN_MS.max(still_ms / 2)
            // What was a pause when it was asked about may have become too long for one.
            && !(at - still_since < PAUSE_MS && still_ms >= PAUSE_MS)
        {
            return false;
        }
        if rank.stopped_ms.is_some() {
            return now_ms >= due_ms;
        }
        let enough = now_ms >= due_ms && still_ms >= ASK_MS / 2;
        enough && !self.is_paused() && self.is_others_time(now_ms, rank, still_since)
    }

    fn is_paused(&self) -> bool {
        self.ranks.values().any(|rank| rank.phase != Phase::Train)
    }

    /// When a rank that does not move has been silent for long, and stood still for most of that time.
    fn due_ms(&self, rank: &Rank) -> Option<i64> {
        let ((since, limit), (still_since, _)) = self.stand(rank).zip(rank.still)?;
        Some((since + limit / 5 * 4).max(still_since + (limit / 10 * 3).min(STILL_MS)))
    }

    /// Whether all ranks of the world are here, and none of them was seen to move lately.
    fn stands_all(&self) -> bool {
        self.whole && self.none_moves()
    }

    fn none_moves(&self) -> bool {
        self.ranks.values().all(|rank| rank.still.is_some())
    }

    /// What was found and still holds.
    pub fn found(&self) -> impl Iterator<Item = &Finding> {
        self.ranks.values().filter_map(|rank| rank.found.as_ref())
    }

    /// What holds of a rank, also if nobody here is to blame for it.
    #[must_use]
    pub fn standing(&self, rank: u32) -> Option<&Finding> {
        let rank = self.ranks.get(&rank)?;
        rank.found.as_ref().or(rank.quiet.as_ref())
    }

    /// Steps done and silence of a rank, for a pulse.
    #[must_use]
    pub fn pulse(&self, now_ms: i64, rank: u32) -> Option<(Option<u64>, i64)> {
        let rank = self.ranks.get(&rank)?;
        let since = self.patience(rank).map_or(self.began_ms, |(since, _)| since);
        Some((rank.steps.last_step(), now_ms - since))
    }

    /// Since when a rank is silent, and how long it may be. A rank that says nothing itself (often only rank 0 does) is as
    /// silent as the others.
    fn patience(&self, rank: &Rank) -> Option<(i64, i64)> {
        if let Some(since) = rank.apart_ms.filter(|_| rank.is_apart()) {
            return Some((since, JOIN_MS));
        }
        let with_limit = |(since, usual): (i64, i64)| (since, limit(usual));
        let elsewhere = || self.others.and_then(|others| others.silence(self.looked_ms));
        let early = || self.stands_all().then(|| self.latest(Rank::early_lines)).flatten();
        let here = self.here(rank).map(with_limit).or_else(elsewhere).or_else(early);
        here.or_else(|| self.steady().map(with_limit))
    }

    /// Since when a rank may stand: since the last sign, or since it was last seen to work, and how long it may. Where others
    /// tell of their silence it was looked at too seldom to know the second.
    fn stand(&self, rank: &Rank) -> Option<(i64, i64)> {
        let (since, limit) = self.patience(rank)?;
        let is_told = !rank.is_apart() && self.here(rank).is_none() && self.hears();
        Some((if is_told { since } else { rank.stands_since(since) }, limit))
    }

    /// The last sign of this rank, or else of those beside it, and the usual time from one to the next. Its lines may have been
    /// those of a start: where others tell of steps, it has the time of a step.
    fn here(&self, rank: &Rank) -> Option<(i64, i64)> {
        let steps = || self.latest(|rank| rank.steps.silence());
        let lines = || {
            let (since, usual) = rank.steady_lines()?;
            Some((since, steps().map_or(usual, |(_, step)| usual.max(step))))
        };
        rank.steps.silence().or_else(lines).or_else(steps).or_else(|| self.latest(Rank::steady_lines))
    }

    fn latest(&self, silence: impl Fn(&Rank) -> Option<(i64, i64)>) -> Option<(i64, i64)> {
        self.ranks.values().filter_map(silence).max_by_key(|(since, _)| *since)
    }
}

/// After how much silence a stack is asked for: a little before it is judged.
fn ask_ms(limit: i64) -> i64 {
    limit / 5 * 4 - ASK_MS
}
