//! Leader election over a Lease, as a pure machine.
//!
//! | who | when | does |
//! |---|---|---|
//! | candidate | there is no Lease | creates it |
//! | candidate | nobody holds it, or it has not changed for the time that it promises | writes its own name into that very version |
//! | leader | each time it is asked | writes a new time into the version that it wrote last |
//! | leader | no such write was answered for [`Terms::renew_ms`] since it was *sent* | leads no more, for good |
//!
//! Two clocks are never compared: a candidate counts from when it first saw a version, on its own clock, and a leader from when
//! it sent the write that made that version, which was earlier. So the leader has stopped [`Terms::lease_ms`] −
//! [`Terms::renew_ms`] before anybody else may begin, if their clocks go at the same rate.
//!
//! Invariant E-1: at no moment do two elections hold.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

/// What all processes of one operator agree on, and the name of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// This process. No other process, and no later one of the same pod, may have the same.
    pub identity: String,
    /// How long others leave a Lease alone that does not change.
    pub lease_ms: i64,
    /// How long a leader acts after the last write that it knows of.
    pub renew_ms: i64,
    /// How often it is looked at and written.
    pub retry_ms: i64,
}

/// Why terms cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a lease of {lease_ms} ms, renewed within {renew_ms} ms and every {retry_ms} ms, protects nothing: each must be longer than the next"
)]
pub struct BadTerms {
    lease_ms: i64,
    renew_ms: i64,
    retry_ms: i64,
}

impl Terms {
    /// Whether a leader stops before others may begin, and has a second try before it stops.
    ///
    /// # Errors
    /// When it has not.
    pub fn check(&self) -> Result<(), BadTerms> {
        let Self { lease_ms, renew_ms, retry_ms, .. } = *self;
        let whole_seconds = lease_ms % 1000 == 0;
        if whole_seconds && lease_ms > renew_ms && renew_ms > retry_ms && retry_ms > 0 {
            return Ok(());
        }
        Err(BadTerms { lease_ms, renew_ms, retry_ms })
    }
}

/// The Lease, as it was read.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    lease: Lease,
    /// When this version was seen first.
    since_ms: i64,
}

/// A write to try.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// POST; somebody else may be first.
    Create(Lease),
    /// PUT of the version that was looked at; somebody else may be first.
    Update(Lease),
}

/// One process's view of the election. All times but those called wall are of one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Election {
    terms: Terms,
    seen: Option<Seen>,
    /// Until when this process acts; absent while it does not lead.
    until_ms: Option<i64>,
    /// It led, and leads no more.
    over: bool,
}

impl Election {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self { terms, seen: None, until_ms: None, over: false }
    }

    /// The terms.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes in what the cluster has.
    pub fn observe(&mut self, lease: Option<Lease>, now_ms: i64) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let same = match (&self.seen, &lease) {
            (Some(seen), Some(lease)) => version(&seen.lease) == version(lease),
            (_, None) | (None, Some(_)) => false,
        };
        if !same {
            self.seen = lease.map(|lease| Seen { lease, since_ms: now_ms });
        }
        let others = self.holder().is_some_and(|holder| holder != self.terms.identity);
        if self.until_ms.is_some() && others {
            self.lose();
        }
    }

    /// Who holds the Lease, as far as it is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// The write that is due, if any.
    #[must_use]
    pub fn claim(&self, now_ms: i64, wall_ms: i64) -> Option<Claim> {
        if self.over {
            return None;
        }
        let Some(seen) = &self.seen else {
            // Whoever led must not take a Lease away from under itself: it was deleted, and the next one is made anew.
            return Some(Claim::Create(self.taken(None, wall_ms)));
        };
        let leads = self.holds(now_ms) && self.holder() == Some(self.terms.identity.as_str());
        let free = self.holder().is_none() || now_ms > seen.since_ms.saturating_add(self.promised_ms(&seen.lease));
        (leads || free).then(|| Claim::Update(self.taken(Some(&seen.lease), wall_ms)))
    }

    /// What a Lease promises to its holder: at least what these terms do, since they may have been changed.
    fn promised_ms(&self, lease: &Lease) -> i64 {
        let written = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        i64::from(written).saturating_mul(1000).max(self.terms.lease_ms)
    }

    fn taken(&self, before: Option<&Lease>, wall_ms: i64) -> Lease {
        let now = wall(wall_ms);
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renewal = spec.holder_identity.as_deref() == Some(self.terms.identity.as_str());
        let number = spec.lease_transitions.unwrap_or(0);
        Lease {
            metadata: before.map_or_else(
                || ObjectMeta {
                    name: Some(self.terms.name.clone()),
                    namespace: Some(self.terms.namespace.clone()),
                    ..ObjectMeta::default()
                },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.terms.identity.clone()),
                lease_duration_seconds: i32::try_from(self.terms.lease_ms / 1000).ok(),
                acquire_time: if renewal { spec.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(match before {
                    Some(_) if !renewal => number.saturating_add(1),
                    Some(_) | None => number,
                }),
                ..spec
            }),
        }
    }

    /// A write of ours, sent at `sent_ms`, was answered with this.
    pub fn wrote(&mut self, lease: Lease, sent_ms: i64, now_ms: i64) {
        self.observe(Some(lease), now_ms);
        let until = sent_ms.saturating_add(self.terms.renew_ms);
        // An answer that came too late: others may have begun, though this write says that they have not.
        if self.over || self.until_ms.is_some_and(|known| now_ms >= known) {
            self.lose();
        } else if now_ms < until {
            self.until_ms = Some(until);
        }
    }

    /// Until when this process may act. `None`: it may not.
    #[must_use]
    pub const fn until_ms(&self) -> Option<i64> {
        self.until_ms
    }

    /// Whether this process may act.
    #[must_use]
    pub fn holds(&self, now_ms: i64) -> bool {
        self.until_ms.is_some_and(|until| now_ms < until)
    }

    /// Whether it led and may act no more. It never leads again: the process that finds this ends.
    pub fn is_over(&mut self, now_ms: i64) -> bool {
        if self.until_ms.is_some_and(|until| now_ms >= until) {
            self.lose();
        }
        self.over
    }

    fn lose(&mut self) {
        (self.until_ms, self.over) = (None, true);
    }

    /// Leads no more from now on. Gives the write by which others hear of it at once; without it they wait.
    pub fn release(&mut self, now_ms: i64, wall_ms: i64) -> Option<Lease> {
        let held = self.holds(now_ms);
        self.lose();
        let seen = self.seen.as_ref().filter(|_| held)?;
        let spec = seen.lease.spec.clone().unwrap_or_default();
        Some(Lease {
            metadata: seen.lease.metadata.clone(),
            spec: Some(LeaseSpec { holder_identity: None, renew_time: wall(wall_ms), ..spec }),
        })
    }
}

fn wall(ms: i64) -> Option<MicroTime> {
    jiff::Timestamp::from_millisecond(ms).ok().map(MicroTime)
}

#[cfg(test)]
mod tests;
