//! How a change of `replicas` is shared out between the sets.

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};
use trainyard_proto::plan::Action;

use super::super::object::fence;
use super::super::replicaset::replicas;
use super::{DESIRED, MOST, Turn, rollout, sets};

fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

impl<'a> Turn<'a> {
    /// What each set is told of the Deployment's size, so that a change of it is noticed.
    pub(super) fn size_annotations(&self) -> Value {
        let (surge, _) = self.surge_and_unavailable();
        let wanted = self.wanted();
        json!({ (DESIRED): wanted.to_string(), (MOST): wanted.saturating_add(surge).to_string() })
    }

    /// Gives a set another size.
    pub(super) fn scale(&mut self, set: &ReplicaSet, to: i64) {
        if replicas(set) != to {
            self.resize(set, to);
        }
    }

    fn resize(&mut self, set: &ReplicaSet, to: i64) {
        let from = replicas(set);
        let mut patch = json!({ "metadata": { "annotations": self.size_annotations() } });
        if from != to {
            patch["spec"] = json!({ "replicas": to });
        }
        self.plan.actions.push(Action::Patch { object: sets::set_ref(set), fence: fence(&set.metadata), patch });
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let name = set.metadata.name.as_deref().unwrap_or_default();
            self.say("ScalingReplicaSet", format!("Scaled {way} replica set {name} from {from} to {to}"));
        }
    }

    /// All sets that have pods, oldest first and the new one last.
    fn peopled(&self) -> Vec<&'a ReplicaSet> {
        self.old.iter().copied().chain(self.new).filter(|set| replicas(set) > 0).collect()
    }

    /// Whether `replicas` of the Deployment is not what its sets were told last.
    pub(super) fn is_rescaled(&self) -> bool {
        let (wanted, paused) = (self.wanted(), self.spec.paused == Some(true));
        let peopled = self.peopled();
        // Nothing else than a change of scale moves the sets of a paused Deployment.
        let from_none = paused && peopled.is_empty() && wanted > 0 && (self.new.is_some() || !self.old.is_empty());
        from_none || peopled.iter().any(|set| number(set, DESIRED).map_or(paused, |told| told != wanted))
    }

    /// DP-4: sets get larger or smaller in proportion to what they are, so that a change of scale in the middle of a
    /// roll-out puts not all of its weight on a revision that may be broken.
    pub(super) fn rescale(&mut self) {
        let wanted = self.wanted();
        let all: Vec<&'a ReplicaSet> = self.old.iter().copied().chain(self.new).collect();
        let mut peopled = self.peopled();
        let only = if peopled.is_empty() { all.last() } else { peopled.first().filter(|_| peopled.len() == 1) };
        if let Some(set) = only {
            self.resize(set, wanted);
            return;
        }
        if self.new.is_some_and(|new| replicas(new) == wanted && rollout::available(new) == wanted) {
            for set in self.old.clone() {
                self.scale(set, 0);
            }
            return;
        }
        let (surge, _) = self.surge_and_unavailable();
        let most = if wanted == 0 { 0 } else { wanted.saturating_add(surge) };
        let missing = most - peopled.iter().map(|set| replicas(set)).sum::<i64>();
        // The largest first; of two alike, the newer one when there is to be more, else the older one.
        if missing > 0 {
            peopled.reverse();
        }
        peopled.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
        let mut left = missing;
        let mut sizes: Vec<i64> = Vec::new();
        for set in &peopled {
            let share = self.share_of(set, most).clamp(missing.min(0), missing.max(0));
            let share = if missing > 0 { share.min(left) } else { share.max(left) };
            left -= share;
            sizes.push(replicas(set) + share);
        }
        if let Some(largest) = sizes.first_mut() {
            *largest = (*largest + left).max(0);
        }
        for (set, size) in peopled.into_iter().zip(sizes) {
            self.resize(set, size);
        }
    }

    /// How many more pods a set would have in a Deployment of another size.
    fn share_of(&self, set: &ReplicaSet, most: i64) -> i64 {
        let have = replicas(set);
        let status = self.deployment.status.as_ref().and_then(|status| status.replicas).map(i64::from);
        let before = number(set, MOST).or(status).filter(|before| *before > 0);
        // Rounded to the nearest; 128 bits hold any product of two of these.
        before.map_or(0, |before| {
            let (have, most, before) = (i128::from(have), i128::from(most), i128::from(before));
            i64::try_from((2 * have * most + before) / (2 * before) - have).unwrap_or(0)
        })
    }
}
