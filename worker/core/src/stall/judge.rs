//! The judgement on ranks whose stacks were read: who is to blame, who waits for whom, and what is only a pause.

use std::collections::BTreeMap;

use super::rank::Rank;
use super::{Detector, Finding, LEAST_MS, PAUSE_MS, Role, State, Waits};

impl Detector {
    /// Who is to blame, and who waits for them.
    pub(super) fn judge(&mut self, now_ms: i64, waits: &BTreeMap<u32, Waits>) -> Vec<Finding> {
        let a_stop = self.ranks.values().any(|rank| rank.is_stopped_for(now_ms));
        let paused = self.is_paused();
        let someone_apart = self.ranks.values().any(Rank::is_apart);
        let mut findings = Vec::new();
        for (number, rank) in &self.ranks {
            let (Some((still_since, _)), Some((_, look)), Some(_)) = (rank.still, rank.look, rank.suspected_ms) else {
                continue;
            };
            let mut waits = waits.get(number).cloned().unwrap_or_default();
            let (stopped, apart) = (rank.is_stopped_for(now_ms), rank.is_apart());
            // Beside a stopped rank, one whose stack is not known waits for it, most likely; and those that have joined do for
            // those that have not.
            let there = waits.collective || (a_stop && waits.stack.is_empty()) || (someone_apart && !apart);
            // Who cannot be read may wait for others, too: for those here, or elsewhere.
            let unknown = waits.stack.is_empty() && !there && !stopped && !apart;
            if unknown && self.whole && !self.stands_all() {
                continue;
            }
            let victim = (there && !stopped) || (unknown && !self.whole);
            let role = if victim { Role::Victim } else { Role::Culprit };
            // A sign since its stack was asked for, its own or that of those it works with, answers the question.
            let long = (a_stop && victim) || (!paused && self.is_long(now_ms, rank, still_since));
            if !stopped && (!long || self.is_pause(now_ms, rank, &waits)) {
                continue;
            }
            if apart {
                waits.place = format!("{} before it joined the others", waits.place).trim_start().to_owned();
            }
            let usual_ms = rank.silence().map(|(_, usual)| usual);
            let since_ms = self.patience(rank).map_or(still_since, |(since, _)| since);
            let silent_ms = now_ms - since_ms;
            findings.push(Finding { rank: *number, role, state: look.state, since_ms, silent_ms, usual_ms, waits });
        }
        self.take(findings)
    }

    /// Whether a rank that does not move is silent for long.
    fn is_long(&self, now_ms: i64, rank: &Rank, still_since: i64) -> bool {
        self.due_ms(rank).is_some_and(|due_ms| now_ms >= due_ms) && self.is_others_time(now_ms, rank, still_since)
    }

    /// Whether a rank stands still as programs that get on do, too.
    fn is_pause(&self, now_ms: i64, rank: &Rank, waits: &Waits) -> bool {
        let (Some((still_since, _)), Some((_, now))) = (rank.still, rank.look) else { return false };
        let still_ms = now_ms - still_since;
        let loads = waits.loader && rank.woke_ms.is_some_and(|at| now_ms - at < LEAST_MS);
        let slow = now.state == State::Blocked || waits.checkpoint || loads || waits.unread;
        let silent_ms = self.patience(rank).map_or(still_ms, |(since, _)| now_ms - since);
        let known = self.stood.get(&waits.place).is_some_and(|stood| silent_ms < stood.saturating_mul(2));
        (slow && still_ms < PAUSE_MS) || (known && !waits.collective)
    }

    /// Keeps the findings that hold, and answers those that are news.
    fn take(&mut self, mut findings: Vec<Finding>) -> Vec<Finding> {
        let culprit = |finding: &Finding| finding.role == Role::Culprit;
        let blamed = findings.iter().any(culprit);
        let known = self.found().any(culprit);
        let deadlock = self.whole && findings.len() == self.ranks.len();
        findings.sort_by_key(|finding| (finding.role, finding.rank));
        if !blamed && !deadlock {
            if known || !self.whole {
                for finding in findings {
                    if let Some(rank) = self.ranks.get_mut(&finding.rank) {
                        rank.quiet.get_or_insert(finding);
                    }
                }
            }
            return Vec::new();
        }
        let all = findings.clone();
        findings.retain(|finding| {
            let Some(rank) = self.ranks.get_mut(&finding.rank) else { return false };
            rank.quiet = None;
            rank.found.replace(finding.clone()).is_none()
        });
        match (blamed, findings.is_empty()) {
            // A deadlock is told as a whole.
            (false, false) => all,
            // Who waits again for what was said before is no news.
            (true, _) if !findings.iter().any(culprit) => Vec::new(),
            (true | false, _) => findings,
        }
    }
}
