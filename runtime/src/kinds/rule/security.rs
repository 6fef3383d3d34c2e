//! Rules of what pods may do on their node, and of devices that they claim.

use std::collections::BTreeSet;

use serde_json::Value;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::is_subdomain;
use trainyard_runtime_core::store::SUBDOMAIN_TEXT;

use super::pod::text;
use super::{Causes, list};

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_CHARS: usize = 253;
const SYSCTL_TEXT: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

impl Causes {
    /// A pod's security context, behind its ids.
    pub(super) fn pod_security(&mut self, context: &Value, path: &str) {
        let mut names = BTreeSet::new();
        for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
            let (at, name) = (format!("{path}.sysctls[{index}].name"), text(sysctl, "name"));
            if name.is_empty() {
                self.required(at);
            } else if !is_sysctl(name) {
                self.invalid(at, &sysctl["name"], SYSCTL_TEXT);
            } else if names.contains(name) {
                self.duplicate(at, name);
            }
            names.insert(name);
        }
        let policies = ["Always", "OnRootMismatch"];
        self.one_of(context.get("fsGroupChangePolicy"), format!("{path}.fsGroupChangePolicy"), &policies);
        self.profiles(context, path);
    }

    /// `seccompProfile` and `appArmorProfile`, of a pod or of a container.
    pub(super) fn profiles(&mut self, context: &Value, path: &str) {
        for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
            let (profile, at) = (&context[field], format!("{path}.{field}"));
            if !profile.is_object() {
                continue;
            }
            let (kind, file) = (text(profile, "type"), format!("{at}.localhostProfile"));
            let local = &profile["localhostProfile"];
            if kind.is_empty() {
                self.needs(&format!("{at}.type"), &format!("type is required when {field} is set"));
            }
            self.one_of(profile.get("type"), format!("{at}.type"), &PROFILES);
            match (kind, local.as_str()) {
                ("Localhost", None) => self.needs(&file, &format!("must be set when {name} type is Localhost")),
                ("Localhost", Some(path)) if name == "seccomp" => {
                    if path.starts_with('/') {
                        self.invalid(file.as_str(), local, "must be a relative path");
                    }
                    if path.split('/').any(|step| step == "..") {
                        self.invalid(file, local, "must not contain '..'");
                    }
                }
                ("Localhost", Some(path)) => {
                    if path.trim() != path {
                        self.invalid(file, local, "must not be padded with whitespace");
                    } else if path.is_empty() {
                        self.needs(&file, "must be set when AppArmor type is Localhost");
                    }
                }
                (_, Some(_)) if name == "seccomp" || PROFILES.contains(&kind) => {
                    let shown = if name == "seccomp" { profile } else { local };
                    self.invalid(file, shown, &format!("can only be set when {name} type is Localhost"));
                }
                _ => {}
            }
        }
    }

    /// Claims of devices that a pod has, and what its containers use of them.
    pub(super) fn claims(&mut self, spec: &Value, path: &str) {
        let mut names = BTreeSet::new();
        for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
            let (at, name) = (format!("{path}.resourceClaims[{index}]"), text(claim, "name"));
            if name.is_empty() {
                self.required(format!("{at}.name"));
            } else if !names.insert(name) {
                self.duplicate(format!("{at}.name"), name);
            } else {
                self.label_text(&claim["name"], format!("{at}.name"));
            }
            let fields = ["resourceClaimName", "resourceClaimTemplateName"];
            let why = match fields.iter().filter(|field| !claim[**field].is_null()).count() {
                0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
                1 => None,
                _ => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            };
            if let Some(why) = why {
                self.invalid(at.as_str(), claim, why);
            }
            for field in fields.iter().filter(|field| claim[**field].as_str().is_some_and(|name| !is_subdomain(name))) {
                self.invalid(format!("{at}.{field}"), &claim[*field], SUBDOMAIN_TEXT);
            }
        }
        for field in ["containers", "initContainers"] {
            for (index, container) in list(spec, field).iter().enumerate() {
                self.used_claims(container, &names, &format!("{path}.{field}[{index}].resources.claims"));
            }
        }
    }

    fn used_claims(&mut self, container: &Value, names: &BTreeSet<&str>, path: &str) {
        let mut seen = BTreeSet::new();
        for (index, claim) in list(&container["resources"], "claims").iter().enumerate() {
            let (at, name) = (format!("{path}[{index}]"), text(claim, "name"));
            if name.is_empty() {
                self.required(at);
                continue;
            }
            if !seen.insert((name, text(claim, "request"))) {
                self.duplicate(at.clone(), name);
            }
            if !names.contains(name) {
                let there: Vec<&str> = names.iter().copied().collect();
                let which =
                    if there.is_empty() { " which is empty".to_owned() } else { format!(": {}", there.join(", ")) };
                let message =
                    format!("Not found: {name:?}: must be one of the names in pod.spec.resourceClaims{which}");
                self.add(CauseReason::NotFound, at, message);
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| {
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || c == '-' || c == '_')
    };
    name.len() <= SYSCTL_CHARS && name.split(['.', '/']).all(segment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(check: impl FnOnce(&mut Causes)) -> Vec<String> {
        let mut causes = Causes(Vec::new());
        check(&mut causes);
        causes.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_profile_of_the_node_is_named_and_no_other() {
        let context = |context: Value| told(|causes| causes.pod_security(&context, "c"));
        assert_eq!(context(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}})), [""; 0]);
        assert_eq!(context(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), [""; 0]);
        assert_eq!(
            context(json!({"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {}})),
            [
                "c.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                "c.appArmorProfile.type: Required value: type is required when appArmorProfile is set",
            ]
        );
        assert_eq!(
            context(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/a/../b"}})),
            [
                "c.seccompProfile.localhostProfile: Invalid value: \"/a/../b\": must be a relative path",
                "c.seccompProfile.localhostProfile: Invalid value: \"/a/../b\": must not contain '..'",
            ]
        );
        let unlike = context(json!({"appArmorProfile": {"type": "Unconfined", "localhostProfile": "x"}}));
        assert_eq!(
            unlike,
            [
                "c.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is Localhost"
            ]
        );
    }

    #[test]
    fn settings_of_the_kernel_have_names() {
        assert!(["kernel.shm_rmid_forced", "net/ipv4/ip_forward", "a"].iter().all(|name| is_sysctl(name)));
        assert!(["", ".a", "a..b", "A", "a-"].iter().all(|name| !is_sysctl(name)));
        let twice =
            told(|causes| causes.pod_security(&json!({"sysctls": [{"name": "a"}, {"name": "a"}, {"name": "A"}]}), "c"));
        assert_eq!(twice[0], "c.sysctls[1].name: Duplicate value: \"a\"");
        assert!(twice[1].starts_with("c.sysctls[2].name: Invalid value: \"A\": must have at most 253"), "{twice:?}");
    }

    #[test]
    fn containers_use_claims_that_their_pod_has() {
        let claims = |spec: Value| told(|causes| causes.claims(&spec, "spec"));
        let used = json!([{"name": "a", "resources": {"claims": [{"name": "gpu"}]}}]);
        let pod = |claims: Value| json!({"resourceClaims": claims, "containers": used});
        assert_eq!(claims(pod(json!([{"name": "gpu", "resourceClaimName": "one"}]))), [""; 0]);
        let at = "spec.containers[0].resources.claims[0]: Not found: \"gpu\": must be one of the names in pod.spec.resourceClaims";
        assert_eq!(claims(pod(json!([]))), [format!("{at} which is empty")]);
        let other = claims(pod(json!([{"name": "other"}])));
        assert_eq!(
            other[0],
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"other\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
        );
        assert_eq!(other[1], format!("{at}: other"));
    }
}
