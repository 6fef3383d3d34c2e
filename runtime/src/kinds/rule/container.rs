//! Rules of containers.

use serde_json::Value;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::key_problems;

use super::pod::{amounts, text};
use super::{Causes, amount, list};

const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// Ways to probe a container, in the order in which a second one is found.
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
/// What an environment variable can hold of its pod, beside labels and annotations.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
    'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

impl Causes {
    /// All containers of a pod's spec at `path`.
    pub(super) fn containers(&mut self, spec: &Value, path: &str, volumes: &[&str]) {
        let regular = list(spec, "containers");
        let same = |one: &Value, other: &Value| one["name"] == other["name"] && !text(one, "name").is_empty();
        for (index, container) in regular.iter().enumerate() {
            let at = format!("{path}.containers[{index}]");
            self.container(container, &at, volumes);
            if regular.iter().take(index).any(|before| same(container, before)) {
                self.duplicate(format!("{at}.name"), text(container, "name"));
            }
            self.alive(container, &at);
        }
        self.host_ports(regular, &format!("{path}.containers"));
        let init = list(spec, "initContainers");
        for (index, container) in init.iter().enumerate() {
            let at = format!("{path}.initContainers[{index}]");
            self.container(container, &at, volumes);
            if regular.iter().chain(init.iter().take(index)).any(|before| same(container, before)) {
                self.duplicate(format!("{at}.name"), text(container, "name"));
            }
            if container["restartPolicy"] == "Always" {
                self.alive(container, &at);
                continue;
            }
            for field in ["lifecycle"].into_iter().chain(PROBES).filter(|field| !container[*field].is_null()) {
                self.forbidden(format!("{at}.{field}"), NOT_FOR_INIT);
            }
        }
    }

    /// A port of the host is one container's.
    fn host_ports(&mut self, containers: &[Value], path: &str) {
        let mut taken: Vec<String> = Vec::new();
        for (index, container) in containers.iter().enumerate() {
            for (nth, port) in list(container, "ports").iter().enumerate() {
                let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
                let one = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
                if taken.contains(&one) {
                    self.duplicate(format!("{path}[{index}].ports[{nth}].hostPort"), &one);
                }
                taken.push(one);
            }
        }
    }

    /// Upstream demands an image; processes need none.
    fn container(&mut self, container: &Value, path: &str, volumes: &[&str]) {
        self.label(container, path);
        let policies = ["File", "FallbackToLogsOnError"];
        self.one_of(container.get("terminationMessagePolicy"), format!("{path}.terminationMessagePolicy"), &policies);
        self.container_ports(container, &format!("{path}.ports"));
        for (index, env) in list(container, "env").iter().enumerate() {
            self.env(env, &format!("{path}.env[{index}]"));
        }
        self.env_from(container, &format!("{path}.envFrom"));
        self.mounts(container, &format!("{path}.volumeMounts"), volumes);
        self.one_of(
            container.get("imagePullPolicy"),
            format!("{path}.imagePullPolicy"),
            &["Always", "IfNotPresent", "Never"],
        );
        self.resources(container, &format!("{path}.resources"));
        self.ids(&container["securityContext"], &["runAsUser", "runAsGroup"], &format!("{path}.securityContext"));
        self.profiles(&container["securityContext"], &format!("{path}.securityContext"));
    }

    /// What keeps a container alive, and how it ends.
    fn alive(&mut self, container: &Value, path: &str) {
        for field in ["postStart", "preStop"] {
            let handler = &container["lifecycle"][field];
            if !handler.is_null() {
                self.handler(handler, &format!("{path}.lifecycle.{field}"));
            }
        }
        for field in PROBES.into_iter().filter(|field| !container[*field].is_null()) {
            self.probe(&container[field], &format!("{path}.{field}"), field);
        }
    }

    fn probe(&mut self, probe: &Value, path: &str, kind: &str) {
        self.handler(probe, path);
        let counts = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
        for field in counts {
            self.not_negative_at(path, probe, field);
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        let field = format!("{path}.terminationGracePeriodSeconds");
        if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
            self.invalid(field.as_str(), grace, "must be greater than 0");
        }
        if kind == "readinessProbe" {
            if !grace.is_null() {
                self.invalid(field, grace, "must not be set for readinessProbes");
            }
        } else if probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
            self.invalid(format!("{path}.successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }

    fn handler(&mut self, handler: &Value, path: &str) {
        let mut found = false;
        for kind in HANDLERS.into_iter().filter(|kind| !handler[*kind].is_null()) {
            let (value, at) = (&handler[kind], format!("{path}.{kind}"));
            if found {
                self.forbidden(at, "may not specify more than 1 handler type");
                continue;
            }
            found = true;
            match kind {
                "exec" if list(value, "command").is_empty() => self.required(format!("{at}.command")),
                "httpGet" => {
                    if text(value, "path").is_empty() {
                        self.required(format!("{at}.path"));
                    }
                    self.port_or_name(&value["port"], format!("{at}.port"));
                    self.one_of(value.get("scheme"), format!("{at}.scheme"), &["HTTP", "HTTPS"]);
                }
                "tcpSocket" => self.port_or_name(&value["port"], format!("{at}.port")),
                "grpc" => self.port(Some(&Value::from(value["port"].as_i64().unwrap_or(0))), format!("{at}.port")),
                _ => {}
            }
        }
        if !found {
            let message = "Required value: must specify a handler type".to_owned();
            self.add(CauseReason::Required, path.to_owned(), message);
        }
    }

    fn port_or_name(&mut self, port: &Value, field: String) {
        match port.as_str() {
            Some(name) => self.all(&field, port, &name_problems(name)),
            None => self.port(Some(&Value::from(port.as_i64().unwrap_or(0))), field),
        }
    }

    fn container_ports(&mut self, container: &Value, path: &str) {
        let ports = list(container, "ports");
        for (index, port) in ports.iter().enumerate() {
            let (at, name) = (format!("{path}[{index}]"), text(port, "name"));
            if !name.is_empty() {
                let problems = name_problems(name);
                if problems.is_empty() && ports.iter().take(index).any(|before| before["name"] == name) {
                    self.duplicate(format!("{at}.name"), name);
                }
                self.all(&format!("{at}.name"), &port["name"], &problems);
            }
            match port["containerPort"].as_i64().unwrap_or(0) {
                0 => self.required(format!("{at}.containerPort")),
                _ => self.port(port.get("containerPort"), format!("{at}.containerPort")),
            }
            if port["hostPort"].as_i64().unwrap_or(0) != 0 {
                self.port(port.get("hostPort"), format!("{at}.hostPort"));
            }
            self.one_of(port.get("protocol"), format!("{at}.protocol"), &["SCTP", "TCP", "UDP"]);
        }
    }

    fn env(&mut self, env: &Value, path: &str) {
        let name = text(env, "name");
        if name.is_empty() {
            self.required(format!("{path}.name"));
        }
        if name.contains('=') || !name.chars().all(|c| matches!(c, ' '..='~')) {
            let why =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            self.invalid(format!("{path}.name"), &env["name"], why);
        }
        let Some(from) = env["valueFrom"].as_object() else { return };
        let at = format!("{path}.valueFrom");
        let field = &env["valueFrom"]["fieldRef"];
        if !field.is_null() {
            self.field_ref(field, &format!("{at}.fieldRef.fieldPath"));
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let source = &env["valueFrom"][kind];
            if source.is_null() {
                continue;
            }
            for part in ["name", "key"].into_iter().filter(|part| text(source, part).is_empty()) {
                self.required(format!("{at}.{kind}.{part}"));
            }
            let key = text(source, "key");
            if !key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                self.invalid(format!("{at}.{kind}.key"), &source["key"], KEY_TEXT);
            }
        }
        let sources = from.values().filter(|source| !source.is_null()).count();
        let nothing = Value::from("");
        if sources == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            self.invalid(at, &nothing, why);
        } else if !text(env, "value").is_empty() {
            self.invalid(at, &nothing, "may not be specified when `value` is not empty");
        } else if sources > 1 {
            self.invalid(at, &nothing, "may not have more than one field specified at a time");
        }
    }

    fn field_ref(&mut self, source: &Value, at: &str) {
        let path = text(source, "fieldPath");
        let keyed = ["metadata.labels", "metadata.annotations"].iter().any(|of| path.starts_with(of));
        if path.is_empty() {
            self.required(at);
        } else if !keyed && !FIELDS.contains(&path) {
            let why = format!("error converting fieldPath: field label not supported: {path}");
            self.invalid(at, &source["fieldPath"], &why);
        }
    }

    fn env_from(&mut self, container: &Value, path: &str) {
        for (index, from) in list(container, "envFrom").iter().enumerate() {
            let kinds: Vec<&str> =
                ["configMapRef", "secretRef"].into_iter().filter(|kind| !from[*kind].is_null()).collect();
            for kind in kinds.iter().filter(|kind| text(&from[**kind], "name").is_empty()) {
                self.required(format!("{path}[{index}].{kind}.name"));
            }
            let why = match kinds.len() {
                0 => "must specify one of: `configMapRef` or `secretRef`",
                1 => continue,
                _ => "may not have more than one field specified at a time",
            };
            self.invalid(path, &Value::from(""), why);
        }
    }

    fn mounts(&mut self, container: &Value, path: &str, volumes: &[&str]) {
        let mounts = list(container, "volumeMounts");
        for (index, mount) in mounts.iter().enumerate() {
            let (at, name) = (format!("{path}[{index}]"), text(mount, "name"));
            if name.is_empty() {
                self.required(format!("{at}.name"));
            }
            if !volumes.contains(&name) {
                self.add(CauseReason::NotFound, format!("{at}.name"), format!("Not found: {name:?}"));
            }
            if text(mount, "mountPath").is_empty() {
                self.required(format!("{at}.mountPath"));
            }
            if mounts.iter().take(index).any(|before| text(before, "mountPath") == text(mount, "mountPath")) {
                self.invalid(format!("{at}.mountPath"), &mount["mountPath"], "must be unique");
            }
            for field in ["subPath", "subPathExpr"] {
                let part = text(mount, field);
                if part.starts_with('/') {
                    self.invalid(format!("{path}.{field}"), &mount[field], "must be a relative path");
                }
                if part.split('/').any(|step| step == "..") {
                    self.invalid(format!("{path}.{field}"), &mount[field], "must not contain '..'");
                }
            }
        }
    }

    fn resources(&mut self, container: &Value, path: &str) {
        for field in ["limits", "requests"] {
            for (name, value) in amounts(container, field).into_iter().flatten() {
                self.resource(name, value, &format!("{path}.{field}[{name}]"));
                if field == "requests" {
                    self.request(name, value, amounts(container, "limits").and_then(|limits| limits.get(name)), path);
                }
            }
        }
    }

    /// The name and the amount of a resource.
    fn resource(&mut self, name: &str, value: &Value, at: &str) {
        let said = Value::from(name);
        self.all(at, &said, &key_problems(name));
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if !name.contains('/') && !standard {
            self.invalid(at, &said, "must be a standard resource type or fully qualified");
            self.invalid(at, &said, "must be a standard resource for containers");
        }
        let Some(quantity) = amount(value) else { return };
        if quantity.is_negative() {
            self.invalid(at, &Value::from(shown(value)), "must be greater than or equal to 0");
        }
        if !is_native(name) && quantity.milli().is_ok_and(|milli| milli % 1000 != 0) {
            self.invalid(at, &Value::from(shown(value)), "must be an integer");
        }
    }

    /// What is asked for fits under what is allowed; of devices it is the same.
    fn request(&mut self, name: &str, request: &Value, limit: Option<&Value>, path: &str) {
        let exact = !is_native(name);
        let Some(limit) = limit else {
            if exact {
                let message = "Required value: Limit must be set for non overcommitable resources".to_owned();
                self.add(CauseReason::Required, format!("{path}.limits"), message);
            }
            return;
        };
        let (Some(wanted), Some(most)) = (amount(request), amount(limit)) else { return };
        let how = match (exact && wanted != most, wanted > most) {
            (true, _) => "equal to",
            (false, true) => "less than or equal to",
            (false, false) => return,
        };
        let why = format!("must be {how} {name} limit of {}", shown(limit));
        self.invalid(format!("{path}.requests"), &Value::from(shown(request)), &why);
    }
}

/// Whether a resource is one of Kubernetes' own, of which a node gives out more than it has.
fn is_native(name: &str) -> bool {
    name.split_once('/').is_none_or(|(domain, _)| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"))
        && !name.starts_with("hugepages-")
}

/// An amount as it is written.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is wrong with the name of a port.
fn name_problems(name: &str) -> Vec<String> {
    const CHARS: usize = 15;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let problems = [
        (name.len() > CHARS, "must be no more than 15 characters"),
        (
            !name.chars().all(legal) || name.is_empty(),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (!name.contains(|c: char| c.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    problems.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text.to_owned()).collect()
}
