//! The registry of kinds: found by every name, and with schemas that agree with Kubernetes.

use serde_json::json;
use trainyard_runtime::kinds::registry;
use trainyard_runtime_core::schema::{ListType, Schema, Shape, Strategy, unknown_fields, validate};

fn at<'a>(schema: &'a Schema, path: &[&str]) -> &'a Schema {
    path.iter().fold(schema, |schema, step| {
        let holder = if let Shape::List(list) = &schema.shape { &list.items } else { schema };
        holder.field(step).unwrap_or_else(|| panic!("no field {step}"))
    })
}

#[test]
fn a_kind_is_found_by_every_name_it_has() {
    let registry = registry();
    for word in ["po", "pod", "pods", "Pod", "PODS", "pods.v1."] {
        assert_eq!(registry.find(word).map(|kind| kind.kind), Some("Pod"), "{word}");
    }
    for word in ["pytorchjob", "pytorchjobs.kubeflow.org", "pytorchjobs.v1.kubeflow.org"] {
        assert_eq!(registry.find(word).map(|kind| kind.kind), Some("PyTorchJob"), "{word}");
    }
    assert_eq!(registry.find("ev").map(|kind| kind.group), Some(""));
    assert_eq!(registry.find("events.events.k8s.io").map(|kind| kind.group), Some("events.k8s.io"));
    assert!(registry.find("replicationcontrollers").is_none());
    assert!(registry.by_api_version("batch/v1", "Job").is_some());
    assert!(registry.by_resource("", "v1", "jobs").is_none());
}

#[test]
fn names_are_unique() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in registry().iter() {
        assert!(seen.insert((kind.group, kind.version, kind.plural)), "{} twice", kind.plural);
        assert!(kind.columns.iter().any(|column| column.format == "name"), "{} has no name column", kind.kind);
    }
}

#[test]
fn every_schema_builds_and_knows_the_object_itself() {
    for kind in registry().iter() {
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x", "labels": {"a": "b"}}});
        assert_eq!(unknown_fields(kind.schema(), &object), [], "{}", kind.kind);
        let wrong =
            json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x", "lables": {}}});
        let unknown = unknown_fields(kind.schema(), &wrong);
        if kind.kind != "CustomResourceDefinition" {
            assert_eq!(unknown.first().map(|field| field.path.as_str()), Some("metadata.lables"), "{}", kind.kind);
            assert_eq!(unknown.first().and_then(|field| field.suggestion.as_deref()), Some("labels"));
        }
    }
}

/// A kind of which the schemas know nothing takes anything: those that are meant to, and no other one.
#[test]
fn kinds_without_a_schema_are_known_ones() {
    let open = registry().iter().filter(|kind| {
        trainyard_proto::schema::of(&kind.api_version(), kind.kind).is_none() && kind.group != "kueue.x-k8s.io"
    });
    let open: Vec<&str> = open.map(|kind| kind.kind).collect();
    assert_eq!(open, ["CustomResourceDefinition", "JobSet"]);
}

#[test]
fn lists_of_pods_have_their_keys() {
    let pod = registry().find("pod").expect("pods are served").schema();
    let Shape::List(containers) = &at(pod, &["spec", "containers"]).shape else { panic!("a list") };
    assert_eq!(containers.list_type, ListType::Map(["name".into()].into()));
    assert_eq!(containers.strategy, Strategy::MergeKey("name".into()));
    let Shape::List(ports) = &at(pod, &["spec", "containers", "ports"]).shape else { panic!("a list") };
    assert_eq!(ports.list_type, ListType::Map(["containerPort".into(), "protocol".into()].into()));
    let Shape::List(tolerations) = &at(pod, &["spec", "tolerations"]).shape else { panic!("a list") };
    assert_eq!(tolerations.list_type, ListType::Atomic);
    let Shape::List(finalizers) = &at(pod, &["metadata", "finalizers"]).shape else { panic!("a list") };
    assert_eq!((&finalizers.list_type, &finalizers.strategy), (&ListType::Set, &Strategy::Union));
    let Shape::Object(selector) = &at(pod, &["spec", "nodeSelector"]).shape else { panic!("a map") };
    assert!(selector.atomic);
}

#[test]
fn wrong_pods_are_refused_with_the_path() {
    let pod = registry().find("pod").expect("pods are served");
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"restartPolicy": 3, "containers": [
        {"image": "a", "imagee": "b", "resources": {"requests": {"cpu": "much"}}},
        {"name": "b", "ports": [{"containerPort": "http"}], "env": [{"name": "A"}, {"name": "A"}], "volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a"}]}]}});
    let causes: Vec<String> = pod.validate(&wrong).iter().map(ToString::to_string).collect();
    assert_eq!(
        causes,
        [
            "spec.restartPolicy: Invalid value: \"integer\": spec.restartPolicy in body must be of type string: \"integer\"",
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"much\": quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            "spec.containers[1].ports[0].containerPort: Invalid value: \"string\": spec.containers[1].ports[0].containerPort in body must be \
             of type integer: \"string\"",
        ]
    );
    let mut typed = wrong.clone();
    typed["spec"]["restartPolicy"] = json!("Never");
    typed["spec"]["containers"][0]["resources"] = json!({"requests": {"nvidia.com/gpu": "1"}});
    typed["spec"]["containers"][1]["ports"] = json!([{"containerPort": 0}]);
    let causes: Vec<String> = pod.validate(&typed).iter().map(ToString::to_string).collect();
    assert_eq!(
        causes,
        [
            "spec.containers[0].name: Required value",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            "spec.containers[1].ports[0].containerPort: Required value",
            "spec.containers[1].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[1].volumeMounts[1].name: Not found: \"w\"",
            "spec.containers[1].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ]
    );
    assert_eq!(unknown_fields(pod.schema(), &wrong)[0].to_string(), "unknown field \"spec.containers[0].imagee\"");
}

#[test]
fn a_pod_gets_the_defaults_of_kubernetes() {
    let pod = registry().find("pod").expect("pods are served");
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [
        {"name": "a", "image": "r.io:5000/a", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}, {"name": "b", "image": "b:1"}],
        "volumes": [{"name": "v"}]}});
    pod.apply_defaults(&mut object);
    assert_eq!(object["spec"]["restartPolicy"], "Always");
    assert_eq!(object["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(object["spec"]["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(object["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(object["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
    assert_eq!(object["spec"]["volumes"][0]["emptyDir"], json!({}));
    assert!(validate(pod.schema(), &object).is_empty());
    let once = object.clone();
    pod.apply_defaults(&mut object);
    assert_eq!(object, once, "defaults are written once");
}

#[test]
fn wrong_jobs_are_refused_with_the_path() {
    let job = registry().find("pytorchjob").expect("PyTorchJobs are served");
    let wrong = json!({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "x"}, "spec": {"pytorchReplicaSpec": {},
        "pytorchReplicaSpecs": {"Worker": {"replicas": "two", "restartPolicy": "Sometimes", "template": {"spec": {"containers": [{"nam": "a"}]}}}}}});
    let causes: Vec<String> = job.validate(&wrong).iter().map(ToString::to_string).collect();
    assert_eq!(
        causes,
        [
            "spec.pytorchReplicaSpecs.Worker.replicas: Invalid value: \"string\": spec.pytorchReplicaSpecs.Worker.replicas in body must be of \
             type integer: \"string\"",
            "spec.pytorchReplicaSpecs.Worker.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \
             \"Never\", \"ExitCode\"",
            "spec.pytorchReplicaSpecs.Worker.template.spec.containers[0].name: Required value",
            ".spec.pytorchReplicaSpecs.Worker.replicas: Invalid value: 0: .spec.pytorchReplicaSpecs.Worker.replicas accessor error: two \
             is of the type string, expected int64",
        ]
    );
    let unknown: Vec<String> = unknown_fields(job.schema(), &wrong).iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "unknown field \"spec.pytorchReplicaSpec\"",
            "unknown field \"spec.pytorchReplicaSpecs[Worker].template.spec.containers[0].nam\"",
        ]
    );
    assert_eq!(unknown_fields(job.schema(), &wrong)[0].suggestion.as_deref(), Some("pytorchReplicaSpecs"));
}

#[test]
fn a_training_job_takes_its_short_forms() {
    let job = registry().find("tj").expect("TrainingJobs are served");
    let object = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "x"}, "spec": {
        "procsPerReplica": "auto", "command": ["a"], "env": {"A": 1}, "resources": {"cpu": 0.5, "memory": "1Gi"}, "priority": 3}});
    assert_eq!(job.validate(&object), []);
    assert_eq!(unknown_fields(job.schema(), &object), []);
    let wrong = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "x"}, "spec": {"replicas": 0, "procsPerReplica": 1.5}});
    let fields: Vec<String> = job.validate(&wrong).into_iter().map(|cause| cause.field).collect();
    assert_eq!(fields, ["spec.replicas", "spec.procsPerReplica"]);
}

#[test]
fn rules_beyond_the_schema_are_those_of_kubernetes() {
    let causes = |name: &str, mut object: serde_json::Value| -> Vec<String> {
        let kind = registry().find(name).expect("a kind");
        kind.apply_defaults(&mut object);
        kind.validate(&object).iter().map(ToString::to_string).collect()
    };
    let resources = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}});
    let container =
        json!({"name": "a", "image": "x", "resources": resources, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    assert_eq!(
        causes(
            "pod",
            json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Sometimes", "containers": [container, {"name": "b"}]}})
        ),
        [
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1500m",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ]
    );
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
         with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    assert_eq!(
        causes(
            "pod",
            json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"name": ""}], "containers": [{"name": "../../a"}]}})
        ),
        [
            "spec.volumes[0].name: Required value".to_owned(),
            format!("spec.containers[0].name: Invalid value: \"../../a\": {label}"),
        ]
    );
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let deployment = |replicas: i32, selector: serde_json::Value| json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": selector, "template": template}});
    assert_eq!(causes("deploy", deployment(1, json!({"matchLabels": {"a": "b"}}))), [""; 0]);
    assert_eq!(
        causes("deploy", deployment(-1, json!({}))),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ]
    );
    assert_eq!(
        causes("deploy", deployment(1, json!({"matchLabels": {"a": "c"}}))),
        ["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"]
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": template}});
    let required = "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
    assert_eq!(
        causes("job", json!({"metadata": {"name": "j"}, "spec": {}})),
        ["spec.template.spec.containers: Required value", required]
    );
    assert_eq!(causes("job", job), [required]);
}

#[test]
fn selectors_of_deployments_and_templates_of_jobs_do_not_change() {
    let deployment = registry().find("deploy").expect("a kind");
    let of = |label: &str| json!({"spec": {"selector": {"matchLabels": {"a": label}}}});
    assert_eq!(deployment.validate_update(&of("b"), &of("b")), []);
    let causes = deployment.validate_update(&of("b"), &of("c"));
    assert_eq!(
        causes[0].to_string(),
        "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"
    );
    let job = registry().by_api_version("batch/v1", "Job").expect("a kind");
    let of = |image: &str, suspend: bool| json!({"spec": {"suspend": suspend, "template": {"spec": {"containers": [{"image": image}]}}}});
    assert_eq!(job.validate_update(&of("a", false), &of("b", false)).len(), 1);
    assert_eq!(job.validate_update(&of("a", true), &of("b", false)).len(), 1);
    // Where it goes may be settled until it starts.
    let mut placed = of("a", true);
    placed["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(job.validate_update(&of("a", true), &placed), []);
    assert_eq!(job.validate_update(&of("a", false), &placed).len(), 1);
}
