//! How pods move from the old sets to the new one.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::pod;
use super::super::replicaset::replicas;
use super::Turn;

fn exists(set: &ReplicaSet) -> i64 {
    set.status.as_ref().map_or(0, |status| status.replicas.into())
}

pub(super) fn available(set: &ReplicaSet) -> i64 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).into()
}

/// `25%` or `3` of `total`.
fn share(value: Option<&IntOrString>, total: i64, round_up: bool) -> i64 {
    match value {
        Some(IntOrString::Int(count)) => i64::from(*count),
        Some(IntOrString::String(text)) => percent(text.trim_end_matches('%').parse().unwrap_or(25), total, round_up),
        None => percent(25, total, round_up),
    }
}

fn percent(percent: i64, total: i64, round_up: bool) -> i64 {
    let product = total.saturating_mul(percent);
    if round_up { product.saturating_add(99) / 100 } else { product / 100 }
}

impl Turn<'_> {
    /// (maxSurge, maxUnavailable) in pods; never both none, for then nothing could ever move.
    pub(super) fn room(&self) -> (i64, i64) {
        let rolling = self.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let total = self.wanted();
        let surge = share(rolling.and_then(|rolling| rolling.max_surge.as_ref()), total, true);
        let unavailable = share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), total, false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(total)) }
    }

    /// DP-1.
    pub(super) fn roll(&mut self) {
        let (surge, unavailable) = self.room();
        let wanted = self.wanted();
        let old_pods: i64 = self.old.iter().map(|set| replicas(set).max(exists(set))).sum();
        let allowed = wanted.saturating_add(surge).saturating_sub(old_pods).clamp(0, wanted);
        let Some(new) = self.new else {
            self.create_new(allowed);
            return;
        };
        let have = replicas(new);
        if have > wanted {
            self.scale(new, wanted);
        } else if allowed > have {
            self.scale(new, allowed);
        }
        self.shrink_old(new, wanted - unavailable);
    }

    fn shrink_old(&mut self, new: &ReplicaSet, min_available: i64) {
        let old_replicas: i64 = self.old.iter().map(|set| replicas(set)).sum();
        if old_replicas == 0 {
            return;
        }
        // What the new set has promised but does not show yet must not be taken for granted.
        let new_missing = (replicas(new) - available(new)).max(0);
        let all: i64 = old_replicas + replicas(new);
        let mut budget = (all - min_available - new_missing).max(0);
        for set in self.old.clone() {
            let have = replicas(set);
            // Pods that are not available serve nobody: they go first, and cost nothing.
            let sick = (have - available(set)).clamp(0, budget);
            let mut left = have - sick;
            budget -= sick;
            let healthy_over = self.available_total(new) - min_available;
            let take = left.min(budget).min(healthy_over.max(0));
            left -= take;
            budget -= take;
            if left != have {
                self.scale(set, left);
                if take > 0 {
                    // One set at a time: what is available is known again only after this one has shrunk.
                    break;
                }
            }
        }
    }

    fn available_total(&self, new: &ReplicaSet) -> i64 {
        available(new) + self.old.iter().map(|set| available(set)).sum::<i64>()
    }

    /// DP-3.
    pub(super) fn recreate(&mut self) {
        let wanted = self.wanted();
        let mut old_gone = true;
        for set in self.old.clone() {
            old_gone &= replicas(set) == 0 && exists(set) == 0 && !self.has_pods(set);
            self.scale(set, 0);
        }
        match self.new {
            Some(new) if old_gone || replicas(new) > wanted => self.scale(new, wanted),
            Some(_) => {}
            None if old_gone => self.create_new(wanted),
            None => {}
        }
    }

    /// Pods of `set` that may still run, also those on their way out.
    fn has_pods(&self, set: &ReplicaSet) -> bool {
        let uid = set.metadata.uid.as_deref();
        self.pods.iter().any(|one| {
            let mut owners = one.metadata.owner_references.iter().flatten();
            !pod::succeeded(one) && !pod::failed(one) && owners.any(|owner| Some(owner.uid.as_str()) == uid)
        })
    }
}
