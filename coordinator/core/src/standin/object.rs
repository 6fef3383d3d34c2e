//! What all three stand-ins write in the same way: names, owners, times, patches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, EventSeverity, Fence, ObjectRef};

use crate::fnv;

/// Letters and digits that spell no words; the same set that Kubernetes takes its name suffixes from.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `len` safe characters for `hash`.
pub(super) fn suffix(mut hash: u64, len: usize) -> String {
    let base = SAFE.len() as u64;
    (0..len)
        .map(|_| {
            let digit = usize::try_from(hash % base).unwrap_or(0);
            hash /= base;
            char::from(SAFE[digit])
        })
        .collect()
}

/// As much of a prefix as goes into a name: 63 characters is the limit of a pod's host name, and the prefix gives way,
/// never the suffix.
pub(super) fn cut(prefix: &str) -> &str {
    let end = prefix.char_indices().nth(57).map_or(prefix.len(), |(at, _)| at);
    &prefix[..end]
}

/// A name that is not `taken`, decided by `seed` alone: `<prefix>-<5 characters>`.
pub(super) fn fresh_name(prefix: &str, seed: &[&str], taken: &dyn Fn(&str) -> bool) -> String {
    let mut salt = 0_u32;
    loop {
        let salted = salt.to_string();
        let parts: Vec<&str> = seed.iter().copied().chain([salted.as_str()]).collect();
        let name = format!("{}-{}", cut(prefix), suffix(fnv::texts(&parts), 5));
        if !taken(&name) {
            return name;
        }
        salt += 1;
    }
}

pub(super) fn time(now_ms: i64) -> String {
    jiff::Timestamp::from_second(now_ms.div_euclid(1000)).map(|at| at.to_string()).unwrap_or_default()
}

pub(super) fn ms(time: &Time) -> i64 {
    time.0.as_millisecond()
}

pub(super) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(super) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

pub(super) fn object_ref(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: name(meta).to_owned(),
    }
}

pub(super) fn fence(meta: &ObjectMeta) -> Fence {
    Fence { uid: meta.uid.clone(), resource_version: None }
}

/// Insist on exactly the version that was looked at: for counters, where a lost update would be a wrong count.
pub(super) fn exact_fence(meta: &ObjectMeta) -> Fence {
    Fence { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }
}

pub(super) fn owner(object: &ObjectRef, meta: &ObjectMeta) -> Value {
    json!([{
        "apiVersion": object.api_version, "kind": object.kind, "name": object.name, "uid": uid(meta),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

pub(super) fn event(
    regarding: &ObjectRef,
    meta: &ObjectMeta,
    severity: EventSeverity,
    reason: &str,
    message: String,
) -> Action {
    Action::Event {
        regarding: regarding.clone(),
        uid: uid(meta).to_owned(),
        severity,
        reason: reason.to_owned(),
        message,
    }
}

/// Any Kubernetes type as JSON. They are plain data with string keys, which cannot fail to serialise.
pub(super) fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Set condition `kind`, keeping its transition time while its status stays. `time_fields` are the stamps that its
/// type has besides (`lastProbeTime` for Jobs, `lastUpdateTime` for Deployments).
pub(super) fn set_condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    extra_time: &str,
    now_ms: i64,
) {
    let status = if status { "True" } else { "False" };
    let now = time(now_ms);
    let mut fresh = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now,
    });
    fresh[extra_time] = fresh["lastTransitionTime"].clone();
    let Some(known) = conditions.iter_mut().find(|condition| condition["type"] == kind) else {
        conditions.push(fresh);
        return;
    };
    if known["status"] == status && known["reason"] == reason && known["message"] == message {
        return;
    }
    if known["status"] == status {
        fresh["lastTransitionTime"] = known["lastTransitionTime"].clone();
    }
    *known = fresh;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_fit_and_avoid_the_taken_ones() {
        let free = |_: &str| false;
        let name = fresh_name(&"x".repeat(80), &["uid", "0"], &free);
        assert_eq!(name.len(), 63);
        assert_eq!(name, fresh_name(&"x".repeat(80), &["uid", "0"], &free));
        let other = fresh_name(&"x".repeat(80), &["uid", "0"], &|taken| taken == name);
        assert_ne!(name, other);
    }
}
