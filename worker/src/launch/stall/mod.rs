//! Hangs: looks at the ranks when they have been silent for long, and tells who stands still, where, and who waits for it.
//!
//! What is a hang is decided by `trainyard_worker_core::stall`. Costs nothing while a rank shows progress, and a look a second
//! where none does.

mod proc;
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::unistd::Pid;
use trainyard_proto::pace::{self, Stragglers, Window};
use trainyard_proto::tempo::{Silence, Tempo};
use trainyard_worker_core::stall::pace::Pace;
use trainyard_worker_core::stall::{Change, Detector, Finding, Phase, Role, Sign, State, report};

use self::stack::Reading;
use super::LaunchError;
use super::choice::{choose, own};
use crate::c10d;

/// `report`, or `restart`, which ends the rank that is to blame.
const VARIABLE: &str = "TRAINYARD_ON_HANG";
const RESTART: &str = "restart";
/// What the flag and the variable may say.
pub(super) const WORDS: [&str; 2] = ["report", RESTART];

/// Whether the rank that is to blame is ended. The flag has the last word, before the variable.
pub(super) fn restarts(flag: Option<&str>) -> Result<bool, LaunchError> {
    Ok(choose(flag, VARIABLE, &WORDS, own)? == Some(RESTART))
}

/// What is to be done about ranks that stand still.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// For the user, in whole lines; empty when there is nothing to say.
    pub(super) text: String,
    /// Those who are to blame, and in what each of them hangs, if the job wants them ended.
    pub(super) end: Vec<(u32, String)>,
    /// Whether our ranks have begun to wait for ranks elsewhere, or to stand still while those do, or got on: others are judged
    /// by that.
    pub(super) is_news: bool,
}

/// The watch over the ranks of this launcher.
pub(super) struct Watch {
    host: String,
    restart: bool,
    detector: Option<Detector>,
    pace: Option<Pace>,
    /// Compared here where all ranks are.
    stragglers: Option<Stragglers>,
    pids: BTreeMap<u32, Pid>,
    reading: Option<Reading>,
    requests: Option<u64>,
    /// Port of the store where the ranks of this generation meet, until all of ours have.
    meets_at: Option<u16>,
}

/// What a pulse says of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulse {
    pub(super) step: Option<u64>,
    pub(super) silent_ms: i64,
    /// What it waits in, if it stands still.
    pub(super) waits_in: String,
    pub(super) in_collective: bool,
    pub(super) stalled: bool,
    /// Where its time goes.
    pub(super) window: Option<Window>,
}

impl Watch {
    /// `restart`: whether the rank that is to blame is ended.
    pub(super) fn new(host: String, restart: bool) -> Self {
        Self {
            host,
            restart,
            detector: None,
            pace: None,
            stragglers: None,
            pids: BTreeMap::new(),
            reading: None,
            requests: None,
            meets_at: None,
        }
    }

    /// A generation begins: these of its ranks are ours, they meet at that port of a store; `whole` if there are no others.
    pub(super) fn begin(&mut self, now_ms: i64, ranks: impl IntoIterator<Item = u32>, meets_at: u16, whole: bool) {
        self.meets_at = Some(meets_at);
        let ranks: Vec<u32> = ranks.into_iter().collect();
        self.detector = Some(Detector::new(now_ms, ranks.iter().copied(), whole));
        // One rank alone makes nobody wait.
        let alone = whole && ranks.len() < 2;
        self.pace = (!alone).then(|| Pace::new(now_ms, ranks.iter().copied(), whole));
        self.stragglers = whole.then(|| Stragglers::new(ranks));
        self.pids.clear();
        (self.reading, self.requests) = (None, None);
    }

    /// A rank's process runs.
    pub(super) fn started(&mut self, rank: u32, pid: Pid) {
        self.pids.insert(rank, pid);
    }

    /// A rank's process has ended, or is being ended.
    pub(super) fn ended(&mut self, rank: u32) {
        self.pids.remove(&rank);
        if let Some(detector) = &mut self.detector {
            detector.ended(rank);
        }
        if let Some(pace) = &mut self.pace {
            pace.ended(rank);
        }
    }

    /// A rank gets on.
    pub(super) fn sign(&mut self, now_ms: i64, rank: u32, sign: Sign) {
        if let Some(detector) = &mut self.detector {
            detector.sign(now_ms, rank, sign);
        }
        if let Some(pace) = &mut self.pace {
            pace.sign(now_ms, rank, sign);
        }
    }

    /// A rank is made to wait by us.
    pub(super) fn pause(&mut self, now_ms: i64, rank: u32) {
        if let Some(detector) = &mut self.detector {
            detector.pause(now_ms, rank);
        }
    }

    /// A rank says what it does.
    pub(super) fn phase(&mut self, now_ms: i64, rank: u32, phase: Phase) {
        if let Some(detector) = &mut self.detector {
            detector.phase(now_ms, rank, phase);
        }
        if let Some(pace) = &mut self.pace {
            pace.phase(now_ms, phase);
        }
    }

    /// To be polled for reading; then call [`Self::advance`].
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.reading.as_ref().and_then(Reading::readable)
    }

    /// When [`Self::advance`] wants to be called, if nothing happens before.
    pub(super) fn deadline(&self, now_ms: i64) -> Option<i64> {
        let detector = self.detector.as_ref()?;
        let due = match &self.reading {
            Some(reading) => Some(now_ms + reading.left_ms()),
            None => detector.deadline(),
        };
        let glance = self.pace.as_ref().and_then(Pace::deadline).filter(|_| !self.pids.is_empty());
        due.into_iter().chain(glance).min()
    }

    /// Looks, if it is time to; gives what there is to say and to do. `requests` counts what was asked of our store.
    pub(super) fn advance(&mut self, now_ms: i64, requests: Option<u64>) -> Verdict {
        let mut verdict = Verdict { text: self.glance(now_ms), ..Verdict::default() };
        if self.reading.is_none()
            && self.detector.as_ref().and_then(Detector::deadline).is_some_and(|due| due <= now_ms)
        {
            self.count_joined(now_ms);
        }
        let Some(detector) = &mut self.detector else { return verdict };
        if let Some(requests) = requests.filter(|requests| self.requests != Some(*requests)) {
            self.requests = Some(requests);
            detector.traffic(now_ms);
        }
        if let Some(waits) = self.reading.as_mut().and_then(Reading::advance) {
            self.reading = None;
            detector.answer(now_ms, waits);
        }
        if self.reading.is_some() || detector.deadline().is_none_or(|due| due > now_ms) {
            return verdict;
        }
        let looks = self.pids.iter().filter_map(|(rank, pid)| Some((*rank, proc::look(*pid)?))).collect();
        let before = (detector.waits(), detector.is_still());
        for change in detector.look(now_ms, &looks) {
            match change {
                Change::Moves(rank) => {
                    let _ = writeln!(verdict.text, "trainyard: rank {rank} on {} moves again", self.host);
                }
                Change::Suspect { ranks, within_ms } => {
                    let suspects = ranks.iter().filter_map(|rank| Some((*rank, *self.pids.get(rank)?))).collect();
                    self.reading = Some(Reading::begin(suspects, Duration::from_millis(within_ms.unsigned_abs())));
                }
                Change::Found(findings) => {
                    verdict.text.push_str(&report(&findings, &self.host));
                    verdict.end = to_end(self.restart, &findings);
                }
            }
        }
        let (waits, still) = (detector.waits(), detector.is_still());
        verdict.is_news = waits != before.0 || (still != before.1 && detector.hears());
        verdict
    }

    /// Looks who has come to where the ranks meet.
    fn count_joined(&mut self, now_ms: i64) {
        let (Some(port), Some(detector)) = (self.meets_at, &mut self.detector) else { return };
        let store = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let pids: Vec<u32> = self.pids.values().map(|pid| pid.as_raw().cast_unsigned()).collect();
        let joined = c10d::joined(&pids, store);
        let apart = self.pids.keys().zip(&joined).filter(|(_, joined)| !**joined).map(|(rank, _)| *rank);
        let apart: BTreeSet<u32> = apart.collect();
        if apart.is_empty() && !joined.is_empty() {
            self.meets_at = None;
        }
        // Where nobody is, nobody waits.
        let apart = if apart.len() < joined.len() { apart } else { BTreeSet::new() };
        detector.apart(now_ms, &apart);
    }

    /// Looks at what the first threads do, if it is time to; gives what there is to say of stragglers.
    fn glance(&mut self, now_ms: i64) -> String {
        let mut text = String::new();
        let (Some(pace), Some(detector)) = (&mut self.pace, &mut self.detector) else { return text };
        if pace.deadline().is_some_and(|due| due <= now_ms) {
            let mut doing = BTreeMap::new();
            for (rank, pid) in &self.pids {
                if let Some((state, does)) = proc::glance(*pid) {
                    detector.glance(now_ms, *rank, state);
                    doing.insert(*rank, does);
                }
            }
            pace.look(now_ms, &doing);
        }
        let Some(stragglers) = &mut self.stragglers else { return text };
        let windows: Vec<(u32, Window)> =
            self.pids.keys().filter_map(|rank| Some((*rank, pace.window(*rank)?))).collect();
        for (rank, window) in windows {
            for change in stragglers.take(now_ms, rank, window) {
                text.extend(self::change(stragglers, change, &self.host));
            }
        }
        text
    }

    /// What a rank that waits for ranks of other launchers hangs in, if the job wants those ended that hang.
    pub(super) fn deadlocked(&self, rank: u32) -> Option<String> {
        self.detector.as_ref().filter(|_| self.restart)?.standing(rank).map(place)
    }

    /// How those of our ranks get on that show progress, if any do.
    pub(super) fn tempo(&self, now_ms: i64) -> Option<Tempo> {
        self.detector.as_ref()?.tempo(now_ms)
    }

    /// Whether none of our ranks was seen to move lately.
    pub(super) fn is_still(&self) -> bool {
        self.detector.as_ref().is_some_and(Detector::is_still)
    }

    /// Whether those of other launchers may soon be judged by the silence of ours.
    pub(super) fn is_silence_news(&self, now_ms: i64) -> bool {
        self.detector.as_ref().is_some_and(|detector| detector.is_silence_news(now_ms))
    }

    /// The ranks of other launchers are silent for long, or no longer.
    pub(super) fn others(&mut self, now_ms: i64, silence: Option<Silence>) {
        if let Some(detector) = &mut self.detector {
            detector.others(now_ms, silence);
        }
        if let Some(pace) = &mut self.pace {
            pace.others(now_ms, silence);
        }
    }

    /// What a pulse says of a rank.
    pub(super) fn pulse(&self, now_ms: i64, rank: u32) -> Option<Pulse> {
        let detector = self.detector.as_ref()?;
        let (step, silent_ms) = detector.pulse(now_ms, rank)?;
        let finding = detector.standing(rank);
        Some(Pulse {
            step,
            silent_ms,
            waits_in: finding.map(place).unwrap_or_default(),
            in_collective: finding.is_some_and(|finding| finding.role == Role::Victim),
            stalled: finding.is_some(),
            window: self.pace.as_ref().and_then(|pace| pace.window(rank)),
        })
    }
}

fn change(stragglers: &Stragglers, change: pace::Change, host: &str) -> Option<String> {
    let words = match change {
        pace::Change::Slow(rank) => stragglers.slow().find(|(slow, _)| *slow == rank)?.1.words(rank, host),
        pace::Change::CaughtUp(rank) => pace::keeps_up(rank, host),
    };
    Some(format!("trainyard: {words}\n"))
}

/// Who is to be ended: those to blame; of a deadlock, the first.
fn to_end(restart: bool, findings: &[Finding]) -> Vec<(u32, String)> {
    if !restart {
        return Vec::new();
    }
    let culprits: Vec<&Finding> = findings.iter().filter(|finding| finding.role == Role::Culprit).collect();
    let chosen = if culprits.is_empty() { findings.iter().take(1).collect() } else { culprits };
    chosen.into_iter().map(|finding| (finding.rank, place(finding))).collect()
}

fn place(finding: &Finding) -> String {
    match finding.state {
        State::Stopped => format!("a stop by a signal, {}", finding.waits.place),
        State::Runs | State::Sleeps | State::Blocked => finding.waits.place.clone(),
    }
}

#[cfg(test)]
mod tests;
