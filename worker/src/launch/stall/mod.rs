//! Hangs: looks at the ranks when they have been silent for long, and tells who stands still, where, and who waits for it.
//!
//! What is a hang is decided by `trainyard_worker_core::stall`. Costs nothing while there is progress.

mod proc;
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use nix::unistd::Pid;
use trainyard_worker_core::stall::{Change, Detector, Finding, Phase, Role, Sign, State, Waits, report};

use self::stack::Reading;
use crate::c10d;

/// `report`, or `restart`, which ends the rank that is to blame.
pub(super) const VARIABLE: &str = "TRAINYARD_ON_HANG";

/// What is to be done about ranks that stand still.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// For the user, in whole lines; empty when there is nothing to say.
    pub(super) text: String,
    /// Those who are to blame, and in what each of them hangs, if the job wants them ended.
    pub(super) end: Vec<(u32, String)>,
}
/// Between the reading of a stack and its judgement. A rank may have begun to move just before its stack was read, and is then
/// found in what it does now: its next line shows that.
const SIGN_MS: i64 = 200;

/// The watch over the ranks of this launcher.
pub(super) struct Watch {
    host: String,
    restart: bool,
    detector: Option<Detector>,
    pids: BTreeMap<u32, Pid>,
    reading: Option<Reading>,
    /// Stacks that were read, and when they are judged.
    read: Option<(i64, BTreeMap<u32, Waits>)>,
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
}

impl Watch {
    pub(super) fn new(host: String) -> Self {
        let restart = std::env::var(VARIABLE).is_ok_and(|value| value == "restart");
        Self {
            host,
            restart,
            detector: None,
            pids: BTreeMap::new(),
            reading: None,
            read: None,
            requests: None,
            meets_at: None,
        }
    }

    /// A generation begins: these of its ranks are ours, they meet at that port of a store; `whole` if there are no others.
    pub(super) fn begin(&mut self, now_ms: i64, ranks: impl IntoIterator<Item = u32>, meets_at: u16, whole: bool) {
        self.meets_at = Some(meets_at);
        self.detector = Some(Detector::new(now_ms, ranks, whole));
        self.pids.clear();
        (self.reading, self.read, self.requests) = (None, None, None);
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
    }

    /// A rank gets on.
    pub(super) fn sign(&mut self, now_ms: i64, rank: u32, sign: Sign) {
        if let Some(detector) = &mut self.detector {
            detector.sign(now_ms, rank, sign);
        }
    }

    /// A rank says what it does.
    pub(super) fn phase(&mut self, now_ms: i64, rank: u32, phase: Phase) {
        if let Some(detector) = &mut self.detector {
            detector.phase(now_ms, rank, phase);
        }
    }

    /// To be polled for reading; then call [`Self::advance`].
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.reading.as_ref().and_then(Reading::readable)
    }

    /// When [`Self::advance`] wants to be called, if nothing happens before.
    pub(super) fn deadline(&self, now_ms: i64) -> Option<i64> {
        match (&self.reading, &self.read) {
            (Some(reading), _) => Some(now_ms + reading.left_ms()),
            (None, Some((due, _))) => Some(*due),
            (None, None) => self.detector.as_ref().and_then(Detector::deadline),
        }
    }

    /// Looks, if it is time to; gives what there is to say and to do. `requests` counts what was asked of our store.
    pub(super) fn advance(&mut self, now_ms: i64, requests: Option<u64>) -> Verdict {
        let mut verdict = Verdict::default();
        if let Some(requests) = requests.filter(|requests| self.requests != Some(*requests))
            && let Some(detector) = &mut self.detector
        {
            self.requests = Some(requests);
            detector.traffic(now_ms);
        }
        if let Some(waits) = self.reading.as_mut().and_then(Reading::advance) {
            self.reading = None;
            self.read = Some((now_ms + SIGN_MS, waits));
        }
        if let Some((_, waits)) = self.read.take_if(|(due, _)| *due <= now_ms) {
            let findings = self.detector.as_mut().map(|detector| detector.judge(now_ms, &waits)).unwrap_or_default();
            verdict.text = report(&findings, &self.host);
            verdict.end = self.to_end(&findings);
        }
        let due = self.detector.as_ref().and_then(Detector::deadline).is_some_and(|due| due <= now_ms);
        if self.reading.is_some() || self.read.is_some() || !due {
            return verdict;
        }
        self.count_joined(now_ms);
        let looks = self.pids.iter().filter_map(|(rank, pid)| Some((*rank, proc::look(*pid)?))).collect();
        let changes = self.detector.as_mut().map(|detector| detector.look(now_ms, &looks)).unwrap_or_default();
        for change in changes {
            match change {
                Change::Moves(rank) => {
                    let _ = writeln!(verdict.text, "trainyard: rank {rank} on {} moves again", self.host);
                }
                Change::Suspect(ranks) => {
                    let suspects = ranks.iter().filter_map(|rank| Some((*rank, *self.pids.get(rank)?))).collect();
                    self.reading = Some(Reading::begin(suspects));
                }
            }
        }
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

    /// Who is to blame; of a deadlock, the first.
    fn to_end(&self, findings: &[Finding]) -> Vec<(u32, String)> {
        if !self.restart {
            return Vec::new();
        }
        let culprits: Vec<&Finding> = findings.iter().filter(|finding| finding.role == Role::Culprit).collect();
        let chosen = if culprits.is_empty() { findings.iter().take(1).collect() } else { culprits };
        chosen.into_iter().map(|finding| (finding.rank, place(finding))).collect()
    }

    /// What a pulse says of a rank.
    pub(super) fn pulse(&self, now_ms: i64, rank: u32) -> Option<Pulse> {
        let detector = self.detector.as_ref()?;
        let (step, silent_ms) = detector.pulse(now_ms, rank)?;
        let finding = detector.found().find(|finding| finding.rank == rank);
        Some(Pulse {
            step,
            silent_ms,
            waits_in: finding.map(place).unwrap_or_default(),
            in_collective: finding.is_some_and(|finding| finding.role == Role::Victim),
            stalled: finding.is_some(),
        })
    }
}

fn place(finding: &Finding) -> String {
    match finding.state {
        State::Stopped => format!("a stop by a signal, {}", finding.waits.place),
        State::Runs | State::Sleeps | State::Blocked => finding.waits.place.clone(),
    }
}

#[cfg(test)]
mod tests;
