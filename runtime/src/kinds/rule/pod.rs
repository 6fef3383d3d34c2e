//! Rules of pods, and of the templates of pods.

use std::net::IpAddr;

use serde_json::{Map, Value};
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::{is_subdomain, key_problems, value_problems};
use trainyard_runtime_core::store::SUBDOMAIN_TEXT;

use super::{Causes, LABEL_TEXT, amount, is_dns_label, list};

/// Sources of volumes, in the order in which a second one is found.
const VOLUME_SOURCES: [&str; 12] = [
    "emptyDir",
    "hostPath",
    "secret",
    "nfs",
    "iscsi",
    "persistentVolumeClaim",
    "downwardAPI",
    "fc",
    "configMap",
    "projected",
    "csi",
    "ephemeral",
];
const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Text of a field; empty where there is none.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

impl Causes {
    /// A pod's spec at `path`.
    pub(super) fn pod(&mut self, spec: &Value, path: &str, policies: &[&str]) {
        let volumes = self.volumes(spec, &format!("{path}.volumes"));
        self.claims(spec, path);
        if list(spec, "containers").is_empty() {
            self.required(format!("{path}.containers"));
        }
        self.containers(spec, path, &volumes);
        self.one_of(spec.get("restartPolicy"), format!("{path}.restartPolicy"), policies);
        self.one_of(spec.get("dnsPolicy"), format!("{path}.dnsPolicy"), &DNS_POLICIES);
        for (key, value) in spec["nodeSelector"].as_object().into_iter().flatten() {
            let at = format!("{path}.nodeSelector");
            self.all(&at, &Value::from(key.as_str()), &key_problems(key));
            self.all(&at, value, &value_problems(value.as_str().unwrap_or_default()));
        }
        self.ids(&spec["securityContext"], &["fsGroup", "runAsUser", "runAsGroup"], &format!("{path}.securityContext"));
        self.pod_security(&spec["securityContext"], &format!("{path}.securityContext"));
        self.affinity(&spec["affinity"], &format!("{path}.affinity"));
        self.gates(spec, &format!("{path}.schedulingGates"));
        self.spread(spec, &format!("{path}.topologySpreadConstraints"));
        for field in ["serviceAccountName", "nodeName"] {
            self.subdomain(&spec[field], format!("{path}.{field}"));
        }
        if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
        {
            let why = "must be between 1 and 2147483647, inclusive";
            self.invalid(format!("{path}.activeDeadlineSeconds"), &seconds.into(), why);
        }
        for field in ["hostname", "subdomain"] {
            self.label_text(&spec[field], format!("{path}.{field}"));
        }
        self.tolerations(spec, &format!("{path}.tolerations"));
        for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
            let at = format!("{path}.hostAliases[{index}]");
            if text(alias, "ip").parse::<IpAddr>().is_err() {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                self.invalid(format!("{at}.ip"), &Value::from(text(alias, "ip")), why);
            }
            for (nth, name) in list(alias, "hostnames").iter().enumerate() {
                self.subdomain(name, format!("{at}.hostnames[{nth}]"));
            }
        }
    }

    /// What only pods are asked, and not their templates.
    pub(super) fn pod_only(&mut self, spec: &Value) {
        for field in ["containers", "initContainers"] {
            for (index, container) in list(spec, field).iter().enumerate() {
                let image = text(container, "image");
                if image.trim() != image {
                    let why = "must not have leading or trailing whitespace";
                    self.invalid(format!("spec.{field}[{index}].image"), &container["image"], why);
                }
            }
        }
    }

    /// One cause for each problem of a value.
    pub(super) fn all(&mut self, field: &str, value: &Value, problems: &[String]) {
        for problem in problems {
            self.invalid(field, value, problem);
        }
    }

    fn subdomain(&mut self, value: &Value, field: String) {
        if value.as_str().is_some_and(|name| !name.is_empty() && !is_subdomain(name)) {
            self.invalid(field, value, SUBDOMAIN_TEXT);
        }
    }

    /// A DNS label, where there is a text.
    pub(super) fn label_text(&mut self, value: &Value, field: String) {
        const CHARS: usize = 63;
        let name = value.as_str().unwrap_or_default();
        if name.len() > CHARS {
            self.invalid(field.as_str(), value, "must be no more than 63 characters");
        }
        if !name.is_empty() && !is_dns_label(name) {
            self.invalid(field, value, LABEL_TEXT);
        }
    }

    /// Containers and volumes give their names to folders of the node agent, so these must be plain.
    pub(super) fn label(&mut self, named: &Value, path: &str) {
        if text(named, "name").is_empty() {
            self.required(format!("{path}.name"));
        }
        self.label_text(&named["name"], format!("{path}.name"));
    }

    pub(super) fn ids(&mut self, context: &Value, fields: &[&str], path: &str) {
        for field in fields {
            if let Some(id) = context[*field].as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
                self.invalid(format!("{path}.{field}"), &id.into(), "must be between 0 and 2147483647, inclusive");
            }
        }
    }

    /// Checks volumes, and says the names of those that can be mounted.
    fn volumes<'v>(&mut self, spec: &'v Value, path: &str) -> Vec<&'v str> {
        let mut names = Vec::new();
        for (index, volume) in list(spec, "volumes").iter().enumerate() {
            let (at, before) = (format!("{path}[{index}]"), self.0.len());
            self.volume_source(volume, &at);
            self.label(volume, &at);
            let name = text(volume, "name");
            if names.contains(&name) && !name.is_empty() {
                self.duplicate(format!("{at}.name"), name);
            }
            if self.0.len() == before {
                names.push(name);
            }
        }
        names
    }

    pub(super) fn duplicate(&mut self, field: String, value: &str) {
        self.add(CauseReason::Duplicate, field, format!("Duplicate value: {value:?}"));
    }

    pub(super) fn forbidden(&mut self, field: String, why: &str) {
        self.add(CauseReason::Forbidden, field, format!("Forbidden: {why}"));
    }

    fn volume_source(&mut self, volume: &Value, at: &str) {
        let mut found = false;
        for source in VOLUME_SOURCES.into_iter().filter(|source| !volume[*source].is_null()) {
            if found {
                self.forbidden(format!("{at}.{source}"), "may not specify more than 1 volume type");
                continue;
            }
            found = true;
            let (value, path) = (&volume[source], format!("{at}.{source}"));
            match source {
                "emptyDir" if amount(&value["sizeLimit"]).is_some_and(|size| size.is_negative()) => {
                    self.forbidden(format!("{path}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
                }
                "hostPath" if text(value, "path").is_empty() => self.required(format!("{path}.path")),
                "hostPath" => {
                    if text(value, "path").split('/').any(|part| part == "..") {
                        self.invalid(format!("{path}.path"), &value["path"], "must not contain '..'");
                    }
                    self.one_of(value.get("type"), format!("{path}.type"), &HOST_PATHS);
                }
                "secret" if text(value, "secretName").is_empty() => self.required(format!("{path}.secretName")),
                "persistentVolumeClaim" if text(value, "claimName").is_empty() => {
                    self.required(format!("{path}.claimName"));
                }
                "configMap" if text(value, "name").is_empty() => self.required(format!("{path}.name")),
                "ephemeral" if value["volumeClaimTemplate"].is_null() => {
                    self.required(format!("{path}.volumeClaimTemplate"));
                }
                _ => {}
            }
        }
    }

    fn gates(&mut self, spec: &Value, path: &str) {
        let gates = list(spec, "schedulingGates");
        for (index, gate) in gates.iter().enumerate() {
            let at = format!("{path}[{index}]");
            self.all(&at, &gate["name"], &key_problems(text(gate, "name")));
            if gates.iter().take(index).any(|before| before["name"] == gate["name"]) {
                self.duplicate(at, text(gate, "name"));
            }
        }
    }

    fn spread(&mut self, spec: &Value, path: &str) {
        for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
            let at = format!("{path}[{index}]");
            if constraint["maxSkew"].as_i64().unwrap_or(0) <= 0 {
                self.invalid(format!("{at}.maxSkew"), &constraint["maxSkew"], "must be greater than zero");
            }
            if text(constraint, "topologyKey").is_empty() {
                let message = "Required value: can not be empty".to_owned();
                self.add(CauseReason::Required, format!("{at}.topologyKey"), message);
            }
            let ways = ["DoNotSchedule", "ScheduleAnyway"];
            self.one_of(constraint.get("whenUnsatisfiable"), format!("{at}.whenUnsatisfiable"), &ways);
        }
    }

    fn tolerations(&mut self, spec: &Value, path: &str) {
        for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
            let at = format!("{path}[{index}]");
            let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
            let said = |field: &str| Value::from(text(toleration, field));
            if !key.is_empty() {
                self.all(&format!("{at}.key"), &said("key"), &key_problems(key));
            }
            if key.is_empty() && operator != "Exists" {
                let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                self.invalid(format!("{at}.operator"), &said("operator"), why);
            }
            if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
                let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
                self.invalid(format!("{at}.effect"), &said("effect"), why);
            }
            match operator {
                "Equal" | "" => {
                    let problems = value_problems(text(toleration, "value"));
                    if !problems.is_empty() {
                        self.invalid(format!("{at}.operator"), &said("value"), &problems.join(";"));
                    }
                }
                "Exists" if !text(toleration, "value").is_empty() => {
                    let why = "value must be empty when `operator` is 'Exists'";
                    self.invalid(format!("{at}.operator"), &said("value"), why);
                }
                "Exists" => {}
                _ => self.one_of(toleration.get("operator"), format!("{at}.operator"), &["Equal", "Exists"]),
            }
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            self.one_of(toleration.get("effect"), format!("{at}.effect"), &effects);
        }
    }

    fn affinity(&mut self, affinity: &Value, path: &str) {
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
        let node = &affinity["nodeAffinity"];
        if let Some(required) = node.get(REQUIRED).filter(|required| required.is_object()) {
            let at = format!("{path}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
            if list(required, "nodeSelectorTerms").is_empty() {
                let message = "Required value: must have at least one node selector term".to_owned();
                self.add(CauseReason::Required, at.clone(), message);
            }
            for (index, term) in list(required, "nodeSelectorTerms").iter().enumerate() {
                self.node_term(term, &format!("{at}[{index}]"), true);
            }
        }
        for (index, term) in list(node, PREFERRED).iter().enumerate() {
            let at = format!("{path}.nodeAffinity.{PREFERRED}[{index}]");
            self.weight(term, &at);
            self.node_term(&term["preference"], &format!("{at}.preference"), false);
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            for (index, term) in list(&affinity[kind], REQUIRED).iter().enumerate() {
                self.pod_term(term, &format!("{path}.{kind}.{REQUIRED}[{index}]"));
            }
            for (index, term) in list(&affinity[kind], PREFERRED).iter().enumerate() {
                let at = format!("{path}.{kind}.{PREFERRED}[{index}]");
                self.weight(term, &at);
                self.pod_term(&term["podAffinityTerm"], &format!("{at}.podAffinityTerm"));
            }
        }
    }

    fn weight(&mut self, term: &Value, at: &str) {
        if !term["weight"].as_i64().is_some_and(|weight| (1..=100).contains(&weight)) {
            let weight = term["weight"].as_i64().unwrap_or(0);
            self.invalid(format!("{at}.weight"), &weight.into(), "must be in the range 1-100");
        }
    }

    fn pod_term(&mut self, term: &Value, at: &str) {
        let key = text(term, "topologyKey");
        if key.is_empty() {
            let message = "Required value: can not be empty".to_owned();
            self.add(CauseReason::Required, format!("{at}.topologyKey"), message);
        }
        self.all(&format!("{at}.topologyKey"), &Value::from(key), &key_problems(key));
    }

    fn node_term(&mut self, term: &Value, at: &str, strict: bool) {
        for (index, wanted) in list(term, "matchExpressions").iter().enumerate() {
            let at = format!("{at}.matchExpressions[{index}]");
            let values = list(wanted, "values");
            let mut missing = |message: &str| {
                self.add(CauseReason::Required, format!("{at}.values"), format!("Required value: {message}"));
            };
            match text(wanted, "operator") {
                "In" | "NotIn" if values.is_empty() => missing("must be specified when `operator` is 'In' or 'NotIn'"),
                "Gt" | "Lt" if values.len() != 1 => {
                    missing("must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    self.forbidden(format!("{at}.values"), why);
                }
                "In" | "NotIn" | "Gt" | "Lt" | "Exists" | "DoesNotExist" => {}
                other => self.invalid(format!("{at}.operator"), &other.into(), "not a valid selector operator"),
            }
            self.all(&format!("{at}.key"), &Value::from(text(wanted, "key")), &key_problems(text(wanted, "key")));
            for (nth, value) in values.iter().enumerate().filter(|_| strict) {
                let problems = value_problems(value.as_str().unwrap_or_default());
                self.all(&format!("{at}.values[{nth}]"), value, &problems);
            }
        }
    }
}

/// The entries of a map of amounts.
pub(super) fn amounts<'v>(container: &'v Value, field: &str) -> Option<&'v Map<String, Value>> {
    container["resources"][field].as_object()
}
