//! The election in motion: looks at the Lease, writes it, and opens and shuts the fence.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainyard_coordinator_core::operator::election::{Claim, Election};
use trainyard_runtime::driver::now_ms;

use super::fence::{Fence, uptime_ms};

/// Tries that a leader has before its time is over, if none is answered.
const TRIES: i64 = 3;

/// How this process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The Lease was not read yet.
    Unknown,
    /// Somebody else leads, or nobody yet.
    Waits(Option<String>),
    /// This process.
    Leads,
    /// It led, and may not any more.
    Over,
}

pub(super) struct Campaign {
    pub(super) leases: Api<Lease>,
    pub(super) election: Election,
    pub(super) fence: Fence,
    pub(super) standing: watch::Sender<Standing>,
}

impl Campaign {
    /// Runs until the lead is lost, or until `stop`: then the Lease is given back.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let terms = self.election.terms().clone();
        let pause = Duration::from_millis(u64::try_from(terms.retry_ms).unwrap_or(1));
        let limit = Duration::from_millis(u64::try_from(terms.renew_ms / TRIES).unwrap_or(1));
        let mut looks = true;
        while !stop.is_cancelled() {
            match tokio::time::timeout(limit, self.turn(looks)).await {
                Ok(Ok(())) => looks = false,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease could not be read or written");
                    looks = true;
                }
                Err(_) => {
                    tracing::warn!(?limit, "the API server does not answer about the lease");
                    looks = true;
                }
            }
            if !self.tell() {
                return;
            }
            tokio::select! { () = tokio::time::sleep(self.pause(pause)) => {}, () = stop.cancelled() => {} }
        }
        self.give_back(limit).await;
    }

    /// Not longer than it may lead: its end is to be noticed when it comes.
    fn pause(&self, usual: Duration) -> Duration {
        self.fence.remaining().map_or(usual, |left| left.min(usual))
    }

    /// Opens or shuts the fence, and tells how things stand. Answers whether there is anything left to do.
    fn tell(&mut self) -> bool {
        let over = self.election.is_over(uptime_ms());
        self.fence.set(self.election.until_ms());
        let standing = match (over, self.election.until_ms()) {
            (true, _) => Standing::Over,
            (false, Some(_)) => Standing::Leads,
            (false, None) if self.is_unknown() => Standing::Unknown,
            (false, None) => Standing::Waits(self.election.holder().map(str::to_owned)),
        };
        self.standing.send_if_modified(|known| {
            let news = *known != standing;
            *known = standing;
            news
        });
        !over
    }

    /// A process that has never been answered knows nothing.
    fn is_unknown(&self) -> bool {
        *self.standing.borrow() == Standing::Unknown && self.election.holder().is_none()
    }

    async fn turn(&mut self, looks: bool) -> Result<(), kube::Error> {
        let leads = self.election.holds(uptime_ms());
        if looks || !leads {
            self.look().await?;
        }
        let sent_ms = uptime_ms();
        let answer = match self.election.claim(sent_ms, now_ms()) {
            None => return Ok(()),
            Some(Claim::Create(lease)) => self.leases.create(&PostParams::default(), &lease).await,
            Some(Claim::Update(lease)) => {
                let name = self.election.terms().name.clone();
                self.leases.replace(&name, &PostParams::default(), &lease).await
            }
        };
        match answer {
            Ok(lease) => {
                self.election.wrote(lease, sent_ms, uptime_ms());
                Ok(())
            }
            // Somebody else was first, or has changed it: what is there now says the rest.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.look().await,
            Err(error) => Err(error),
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let name = self.election.terms().name.clone();
        let lease = self.leases.get_opt(&name).await?;
        self.election.observe(lease, uptime_ms());
        Ok(())
    }

    async fn give_back(mut self, limit: Duration) {
        let lease = self.election.release(uptime_ms(), now_ms());
        self.fence.set(None);
        self.standing.send_replace(Standing::Over);
        let Some(lease) = lease else { return };
        let name = self.election.terms().name.clone();
        let params = PostParams::default();
        match tokio::time::timeout(limit, self.leases.replace(&name, &params, &lease)).await {
            Ok(Ok(_)) => tracing::info!("gave the lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back; others wait until it is over"),
            Err(_) => tracing::warn!("the lease could not be given back in time; others wait until it is over"),
        }
    }
}
