//! The defaults that Kubernetes writes into its own kinds when they are created.

use serde_json::{Map, Value, json};

use super::Kind;

/// Fills absent fields of a kind of Kubernetes itself.
pub(super) fn fill(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    match (kind.group, kind.kind) {
        ("", "Pod") => each(map, "spec", |spec| {
            pod_spec(spec);
            // Only in pods: a template keeps what its writer said.
            let on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
            for list in ["initContainers", "containers"] {
                each(spec, list, |container| {
                    each(container, "resources", requests_from_limits);
                    each(container, "ports", |port| host_port(port, on_host));
                });
            }
        }),
        ("", "Service") => {
            set(map, "spec", json!({}));
            each(map, "spec", service_spec);
        }
        ("", "Secret") => set(map, "type", json!("Opaque")),
        ("", "Namespace") => namespace(map),
        ("", "Node") => {}
        ("scheduling.k8s.io", "PriorityClass") if map.get("globalDefault") == Some(&Value::Bool(false)) => {
            map.remove("globalDefault");
            set(map, "preemptionPolicy", json!("PreemptLowerPriority"));
        }
        ("", "Event") => {
            set(map, "reportingComponent", json!(""));
            set(map, "reportingInstance", json!(""));
        }
        ("", "PersistentVolumeClaim") => {
            each(map, "spec", |spec| set(spec, "volumeMode", json!("Filesystem")));
            phase(map, "Pending");
        }
        ("", "PersistentVolume") => {
            each(map, "spec", |spec| {
                set(spec, "volumeMode", json!("Filesystem"));
                set(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
            });
            phase(map, "Pending");
        }
        ("batch", "Job") => {
            job_labels(map);
            set(map, "spec", json!({}));
            each(map, "spec", job_spec);
        }
        ("apps", "Deployment") => each(map, "spec", deployment_spec),
        ("apps", "ReplicaSet") => each(map, "spec", |spec| {
            set(spec, "replicas", json!(1));
            set(spec, "template", json!({}));
            template(spec);
        }),
        ("scheduling.k8s.io", "PriorityClass") => set(map, "preemptionPolicy", json!("PreemptLowerPriority")),
        ("storage.k8s.io", "StorageClass") => {
            set(map, "reclaimPolicy", json!("Delete"));
            set(map, "volumeBindingMode", json!("Immediate"));
        }
        _ => {}
    }
}

/// Sets a field that is absent or null.
fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value);
    }
}

/// Runs over the object at `key`, or over each object in the list at `key`.
fn each(map: &mut Map<String, Value>, key: &str, mut fill: impl FnMut(&mut Map<String, Value>)) {
    match map.get_mut(key) {
        Some(Value::Object(inner)) => fill(inner),
        Some(Value::Array(items)) => items.iter_mut().filter_map(Value::as_object_mut).for_each(fill),
        _ => {}
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn phase(map: &mut Map<String, Value>, phase: &str) {
    set(map, "status", json!({}));
    each(map, "status", |status| set(status, "phase", json!(phase)));
}

fn namespace(map: &mut Map<String, Value>) {
    each(map, "metadata", |metadata| {
        // Whatever its writer says of it.
        if let Some(name) =
            metadata.get("name").filter(|name| name.as_str().is_some_and(|name| !name.is_empty())).cloned()
        {
            set(metadata, "labels", json!({}));
            each(metadata, "labels", |labels| {
                drop(labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone()))
            });
        }
    });
    set(map, "spec", json!({}));
    each(map, "spec", |spec| set(spec, "finalizers", json!(["kubernetes"])));
    phase(map, "Active");
}

fn template(spec: &mut Map<String, Value>) {
    each(spec, "template", |template| each(template, "spec", pod_spec));
}

/// Defaults of a pod, as in `SetDefaults_PodSpec`.
fn pod_spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    // A negative one means the shortest there is.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
    }
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    account(spec);
    each(spec, "initContainers", container);
    each(spec, "containers", container);
    each(spec, "volumes", volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`: readers of either find it.
fn account(spec: &mut Map<String, Value>) {
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        if let Some(name) = spec.get(from).filter(|name| name.as_str().is_some_and(|name| !name.is_empty())).cloned() {
            spec.insert(to.to_owned(), name);
        }
    }
}

/// On the host's network a container's port is the host's.
fn host_port(port: &mut Map<String, Value>, on_host: bool) {
    if let Some(number) = port.get("containerPort").filter(|_| on_host).cloned() {
        set(port, "hostPort", number);
    }
}

/// What names a field of its own pod.
fn field_of_pod(source: &mut Map<String, Value>) {
    each(source, "fieldRef", |field| set(field, "apiVersion", json!("v1")));
    each(source, "resourceFieldRef", |field| set(field, "divisor", json!("0")));
}

fn container(container: &mut Map<String, Value>) {
    let image = text(container, "image");
    let tag = image.rsplit('/').next().unwrap_or(image);
    // A digest, or a tag other than latest, does not change under one's feet; nor does what cannot be an image.
    let pinned = tag.contains('@')
        || tag.split_once(':').is_some_and(|(_, tag)| tag != "latest")
        || tag.contains(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-:".contains(c)))
        || image.contains(char::is_whitespace);
    set(container, "imagePullPolicy", json!(if pinned { "IfNotPresent" } else { "Always" }));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    set(container, "resources", json!({}));
    each(container, "ports", |port| set(port, "protocol", json!("TCP")));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        each(container, probe, |probe| {
            set(probe, "timeoutSeconds", json!(1));
            set(probe, "periodSeconds", json!(10));
            set(probe, "successThreshold", json!(1));
            set(probe, "failureThreshold", json!(3));
            each(probe, "grpc", |grpc| set(grpc, "service", json!("")));
            each(probe, "httpGet", |get| {
                set(get, "path", json!("/"));
                set(get, "scheme", json!("HTTP"));
            });
        });
    }
    each(container, "env", |env| {
        each(env, "valueFrom", field_of_pod);
    });
}

/// A limit without a request is also the request.
fn requests_from_limits(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty()).cloned()
    else {
        return;
    };
    set(resources, "requests", json!({}));
    each(resources, "requests", |requests| {
        for (name, amount) in &limits {
            set(requests, name, amount.clone());
        }
    });
}

fn volume(volume: &mut Map<String, Value>) {
    const MODE: i32 = 0o644;
    if volume.keys().all(|key| key == "name") {
        set(volume, "emptyDir", json!({}));
    }
    for kind in ["configMap", "secret", "projected", "downwardAPI"] {
        each(volume, kind, |source| set(source, "defaultMode", json!(MODE)));
    }
    each(volume, "downwardAPI", |source| each(source, "items", field_of_pod));
    each(volume, "projected", |projected| {
        each(projected, "sources", |source| each(source, "downwardAPI", |api| each(api, "items", field_of_pod)));
    });
    each(volume, "hostPath", |path| set(path, "type", json!("")));
}

fn service_spec(spec: &mut Map<String, Value>) {
    set(spec, "sessionAffinity", json!("None"));
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => {
            const SECONDS: u32 = 3 * 3_600;
            set(spec, "sessionAffinityConfig", json!({}));
            each(spec, "sessionAffinityConfig", |config| {
                set(config, "clientIP", json!({}));
                each(config, "clientIP", |client| set(client, "timeoutSeconds", json!(SECONDS)));
            });
        }
        _ => {}
    }
    set(spec, "type", json!("ClusterIP"));
    if text(spec, "type") != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    each(spec, "ports", |port| {
        set(port, "protocol", json!("TCP"));
        if let Some(number) = port.get("port").cloned() {
            set(port, "targetPort", number);
        }
    });
}

/// A job without labels has those of its pods.
fn job_labels(job: &mut Map<String, Value>) {
    let labels = job.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    let none = |labels: &Value| labels.is_null() || labels.as_object().is_some_and(Map::is_empty);
    if let (Some(labels), Some(Value::Object(metadata))) = (labels, job.get_mut("metadata"))
        && metadata.get("labels").is_none_or(none)
    {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    set(spec, "template", json!({}));
    each(spec, "template", |template| set(template, "spec", json!({})));
    if spec.get("completions").is_none_or(Value::is_null) && spec.get("parallelism").is_none_or(Value::is_null) {
        set(spec, "completions", json!(1));
    }
    set(spec, "parallelism", json!(1));
    let indexed = spec.get("backoffLimitPerIndex").is_some_and(|limit| !limit.is_null());
    set(spec, "backoffLimit", json!(if indexed { i32::MAX } else { 6 }));
    set(spec, "completionMode", json!("NonIndexed"));
    set(spec, "suspend", json!(false));
    set(spec, "manualSelector", json!(false));
    let replacement = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(spec, "podReplacementPolicy", json!(replacement));
    each(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |rule| each(rule, "onPodConditions", |pattern| set(pattern, "status", json!("True"))));
    });
    template(spec);
}

fn deployment_spec(spec: &mut Map<String, Value>) {
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
    set(spec, "template", json!({}));
    set(spec, "strategy", json!({}));
    each(spec, "strategy", |strategy| {
        set(strategy, "type", json!("RollingUpdate"));
        if text(strategy, "type") == "RollingUpdate" {
            set(strategy, "rollingUpdate", json!({}));
            each(strategy, "rollingUpdate", |update| {
                set(update, "maxUnavailable", json!("25%"));
                set(update, "maxSurge", json!("25%"));
            });
        }
    });
    template(spec);
}
