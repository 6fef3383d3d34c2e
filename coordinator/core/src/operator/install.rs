//! The objects by which the operator is installed. Every rule in them comes from [`access::rights`], every definition from the
//! types of the kinds.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::access::{self, Reach, Right, Verb};
use super::{crd, queue};

/// The name of everything that is there once: Lease, Deployment, ServiceAccount, roles.
pub const NAME: &str = "trainyard-operator";
/// The Service behind which whoever leads serves the rendezvous of launchers, and its one EndpointSlice.
pub const RENDEZVOUS: &str = "trainyard-rendezvous";
/// Where launchers are taken in.
pub const RENDEZVOUS_PORT: u16 = 6391;
/// Where health and metrics are asked for.
pub const HEALTH_PORT: u16 = 8390;
/// Nobody: the operator writes no file.
const USER: i64 = 65_532;

/// What is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the operator lives.
    pub namespace: String,
    /// Its image, which is also the one that launchers are taken from.
    pub image: String,
    /// How many of it run; one of them leads.
    pub replicas: u16,
    /// Whether Kubeflow's kinds are defined as well, for a cluster that has none.
    pub kubeflow: bool,
    /// Kinds that are left to others: `pytorchjobs.kubeflow.org`.
    pub left: BTreeSet<String>,
    /// Whether pods of a job wait until there is room for all of them.
    pub gangs: bool,
    /// Whether Kueue's kinds of queues are defined as well, for a cluster that has no Kueue.
    pub queues: bool,
    /// Whether the operator binds them by itself.
    pub binds: bool,
    /// Whether it runs experiments.
    pub experiments: bool,
}

/// How launchers call the rendezvous of an operator in this namespace.
#[must_use]
pub fn rendezvous_address(namespace: &str) -> String {
    format!("http://{RENDEZVOUS}.{namespace}.svc:{RENDEZVOUS_PORT}")
}

/// Everything, in the order in which it has to be created.
#[must_use]
pub fn objects(options: &Options) -> Vec<Value> {
    let rights = access::rights(&options.left, access::Gangs::of(options.gangs, options.binds), options.experiments);
    let mut all = crd::definitions(options.kubeflow);
    if options.queues {
        all.extend(queue::definitions());
    }
    all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": options.namespace}}));
    all.push(named("v1", "ServiceAccount", Some(&options.namespace), json!({})));
    all.extend(roles(options, &rights));
    all.push(user_role());
    all.push(service(options));
    all.push(deployment(options));
    all.push(disruption_budget(options));
    all
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "trainyard"})
}

fn named(api_version: &str, kind: &str, namespace: Option<&str>, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": NAME, "labels": labels()}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        object.extend(rest);
    }
    object
}

fn roles(options: &Options, rights: &[Right]) -> Vec<Value> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let version = format!("{GROUP}/v1");
    let everywhere: Vec<Value> =
        rights.iter().filter(|right| right.reach == Reach::Everywhere).map(|right| rule(right, &right.verbs)).collect();
    let own: Vec<Value> = rights.iter().flat_map(own_rules).collect();
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": options.namespace}]);
    let reference = |kind: &str| json!({"apiGroup": GROUP, "kind": kind, "name": NAME});
    let bound = |kind: &str| json!({"roleRef": reference(kind), "subjects": subjects});
    let place = Some(options.namespace.as_str());
    vec![
        named(&version, "ClusterRole", None, json!({ "rules": everywhere })),
        named(&version, "ClusterRoleBinding", None, bound("ClusterRole")),
        named(&version, "Role", place, json!({ "rules": own })),
        named(&version, "RoleBinding", place, bound("Role")),
    ]
}

fn rule(right: &Right, verbs: &BTreeSet<Verb>) -> Value {
    let verbs: Vec<&str> = verbs.iter().map(|verb| verb.name()).collect();
    json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": verbs})
}

/// What is to be made has no name yet: that verb gets a rule of its own.
fn own_rules(right: &Right) -> Vec<Value> {
    let Reach::Own(name) = right.reach else { return Vec::new() };
    let (create, others): (BTreeSet<Verb>, BTreeSet<Verb>) =
        right.verbs.iter().partition(|verb| **verb == Verb::Create);
    let mut of_name = rule(right, &others);
    of_name["resourceNames"] = json!([name]);
    let mut rules = vec![of_name];
    if !create.is_empty() {
        rules.push(rule(right, &create));
    }
    rules
}

/// Lets those who may edit a namespace do so with its TrainingJobs and experiments, and take trials away.
fn user_role() -> Value {
    let mut role = named(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        None,
        json!({"rules": [
            {
                "apiGroups": ["trainyard.dev"], "resources": ["trainingjobs", "experiments"],
                "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
            },
            // An experiment that is gone on with after its end has its status taken back.
            {"apiGroups": ["trainyard.dev"], "resources": ["experiments/status"], "verbs": ["patch"]},
            {"apiGroups": ["trainyard.dev"], "resources": ["trials"], "verbs": ["get", "list", "watch", "delete"]},
        ]}),
    );
    role["metadata"]["name"] = json!("trainyard-edit");
    for of in ["admin", "edit"] {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] = json!("true");
    }
    role
}

/// No selector: whoever leads writes itself into its EndpointSlice. No address of its own: its name is that of the leader.
fn service(options: &Options) -> Value {
    let mut service = named(
        "v1",
        "Service",
        Some(&options.namespace),
        json!({"spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": RENDEZVOUS_PORT}]}}),
    );
    service["metadata"]["name"] = json!(RENDEZVOUS);
    service
}

/// The EndpointSlice that says where the leader is.
#[must_use]
pub fn leader_slice(namespace: &str, address: &str, port: u16, pod: Option<&str>) -> Value {
    let mut endpoint = json!({"addresses": [address], "conditions": {"ready": true}});
    if let Some(pod) = pod {
        endpoint["targetRef"] = json!({"kind": "Pod", "name": pod, "namespace": namespace});
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": RENDEZVOUS,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": RENDEZVOUS,
                "endpointslice.kubernetes.io/managed-by": "trainyard.dev",
            },
        },
        "addressType": if address.contains(':') { "IPv6" } else { "IPv4" },
        "endpoints": [endpoint],
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
    })
}

fn deployment(options: &Options) -> Value {
    let selector = json!({"app.kubernetes.io/name": NAME});
    // What there is to follow is asked for when an operator begins to lead, so those that run are replaced.
    let annotations = if options.queues { json!({"trainyard.dev/queues": queue::GROUP}) } else { json!({}) };
    named(
        "apps/v1",
        "Deployment",
        Some(&options.namespace),
        json!({"spec": {
            "replicas": options.replicas,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels(), "annotations": annotations},
                "spec": {
                    "serviceAccountName": NAME,
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    // Not on one node, if there are several: it may be the one that is lost.
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": selector},
                    }],
                    "containers": [container(options)],
                },
            },
        }}),
    )
}

fn container(options: &Options) -> Value {
    let mut args = vec!["operator".to_owned(), "--log-format".to_owned(), "json".to_owned()];
    args.extend(options.left.iter().flat_map(|kind| ["--leave".to_owned(), kind.clone()]));
    args.extend((!options.gangs).then(|| "--no-gangs".to_owned()));
    args.extend(options.binds.then(|| "--binds".to_owned()));
    args.extend((!options.experiments).then(|| "--no-experiments".to_owned()));
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "health"}, "periodSeconds": 5});
    json!({
        "name": "operator",
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IP", "status.podIP"),
            {"name": "TRAINYARD_IMAGE", "value": options.image},
        ],
        "ports": [
            {"name": "health", "containerPort": HEALTH_PORT},
            {"name": "grpc", "containerPort": RENDEZVOUS_PORT},
        ],
        "livenessProbe": probe("/livez"),
        "readinessProbe": probe("/readyz"),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
    })
}

fn disruption_budget(options: &Options) -> Value {
    let selector = json!({"matchLabels": {"app.kubernetes.io/name": NAME}});
    let place = Some(options.namespace.as_str());
    named("policy/v1", "PodDisruptionBudget", place, json!({"spec": {"maxUnavailable": 1, "selector": selector}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            namespace: "trainyard-system".to_owned(),
            image: "example.com/trainyard:1".to_owned(),
            replicas: 2,
            kubeflow: false,
            left: BTreeSet::new(),
            gangs: false,
            queues: false,
            binds: false,
            experiments: false,
        }
    }

    fn find(all: &[Value], kind: &str, name: &str) -> Value {
        let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        all.iter().find(is).cloned().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    fn no_rule_has_more_than_the_list() {
        let all = objects(&options());
        let (cluster, own) = (find(&all, "ClusterRole", NAME), find(&all, "Role", NAME));
        for rule in cluster["rules"].as_array().unwrap().iter().chain(own["rules"].as_array().unwrap()) {
            for list in ["apiGroups", "resources", "verbs"] {
                assert!(!rule[list].as_array().unwrap().contains(&json!("*")), "{rule}");
            }
        }
        let resources: BTreeSet<&str> =
            cluster["rules"].as_array().unwrap().iter().filter_map(|rule| rule["resources"][0].as_str()).collect();
        for never in ["secrets", "leases", "endpointslices", "nodes", "namespaces", "customresourcedefinitions"] {
            assert!(!resources.contains(never), "{never}");
        }
        let lease = &own["rules"][0];
        assert_eq!((&lease["resources"][0], &lease["resourceNames"][0]), (&json!("leases"), &json!(NAME)));
        assert_eq!(own["rules"][1]["verbs"], json!(["create"]), "an object that is not there yet has no name");
    }

    #[test]
    fn every_namespaced_object_is_in_the_namespace_that_is_made_first() {
        let all = objects(&options());
        let place = all.iter().position(|object| object["kind"] == "Namespace").unwrap();
        for (at, object) in all.iter().enumerate() {
            let namespaced = object["metadata"]["namespace"].is_string();
            assert!(!namespaced || at > place, "{object}");
        }
        assert_eq!(find(&all, "Deployment", NAME)["spec"]["replicas"], json!(2));
        assert_eq!(find(&all, "Service", RENDEZVOUS)["spec"]["clusterIP"], json!("None"));
    }

    #[test]
    fn kinds_that_are_left_are_told_to_the_operator() {
        let left = BTreeSet::from(["pytorchjobs.kubeflow.org".to_owned()]);
        let all = objects(&Options { left, ..options() });
        let args = find(&all, "Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        assert_eq!(
            args,
            json!([
                "operator",
                "--log-format",
                "json",
                "--leave",
                "pytorchjobs.kubeflow.org",
                "--no-gangs",
                "--no-experiments"
            ])
        );
        let all = objects(&Options { gangs: true, binds: true, experiments: true, ..options() });
        let args = find(&all, "Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        assert_eq!(args, json!(["operator", "--log-format", "json", "--binds"]));
    }
}
