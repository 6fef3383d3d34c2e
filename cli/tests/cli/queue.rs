//! `trainyard queue` and the queues of a real `trainyard up`.

use serde_json::{Value, json};

use crate::simulate::{Up, job, said};
use crate::support::Place;

/// A queue with a tenth of a CPU of each of two flavors, which are of any node; the pods of the second get a toleration.
const QUEUES: &str = "\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: team}
spec:
  cohortName: all
  resourceGroups:
    - coveredResources: [cpu]
      flavors:
        - {name: one, resources: [{name: cpu, nominalQuota: 100m}]}
        - {name: two, resources: [{name: cpu, nominalQuota: 100m}]}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: q, namespace: default}
spec: {clusterQueue: team}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: two}
spec:
  nodeTaints: [{key: cheap, value: 'yes', effect: NoSchedule}]
  tolerations: [{key: cheap, operator: Exists}]
";

fn pod_of<'a>(pods: &'a [Value], job: &str) -> Option<&'a Value> {
    pods.iter().find(|pod| pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(job)))
}

#[test]
fn quota_is_of_flavors_and_each_job_is_given_one() {
    let up = Up::start();
    up.apply("queues.yaml", QUEUES);
    let runs = |name: &str| {
        let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
        up.apply(&format!("{name}.yaml"), &job(name, "100m", "  queue: q\n"));
        up.eventually("it has its place", || pod_of(&up.items("pods"), name).is_some_and(has_node));
    };
    runs("holder");
    runs("next");
    let pods = up.items("pods");
    let given =
        |name: &str| pod_of(&pods, name).expect("its pod")["metadata"]["annotations"]["trainyard.dev/flavors"].clone();
    assert_eq!([given("holder"), given("next")], ["cpu=one", "cpu=two"]);
    let tolerations = |name: &str| pod_of(&pods, name).expect("its pod")["spec"]["tolerations"].clone();
    let wanted = json!({"key": "cheap", "operator": "Exists"});
    let has = |name: &str| tolerations(name).as_array().is_some_and(|all| all.contains(&wanted));
    assert_eq!((has("holder"), has("next")), (false, true));

    let told = said(&up.place.run(&["explain", "next"]));
    assert!(told.contains("Its pods were given cpu=two"), "{told}");

    up.apply("third.yaml", &job("third", "100m", "  queue: q\n"));
    let explained = || said(&up.place.run(&["explain", "third"]));
    up.eventually("it is told which quota it lacks", || explained().contains("of flavor one"));
    let told = said(&up.place.run(&["queue"]));
    for flavor in ["one", "two"] {
        assert!(told.contains(&format!("0.1 CPUs of flavor {flavor}")), "{told}");
    }
    assert!(told.contains("QuotaUsed"), "{told}");
    let _ = up.place.run(&["delete", "third", "--now"]);
}

#[test]
fn queues_are_served_in_both_of_their_versions() {
    let up = Up::start();
    up.apply("queues.yaml", QUEUES);
    let shown = || {
        let output = up.place.run(&["get", "clusterqueue", "team", "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    };
    let newer = shown();
    assert_eq!([&newer["apiVersion"], &newer["spec"]["cohortName"]], ["kueue.x-k8s.io/v1beta2", "all"]);
    // What is written in the older version is read in the newer, by its names, and used.
    let older = QUEUES.replace("v1beta2", "v1beta1").replace("cohortName: all", "cohort: some");
    up.apply("older.yaml", &older);
    let changed = shown();
    assert_eq!([&changed["apiVersion"], &changed["spec"]["cohortName"]], ["kueue.x-k8s.io/v1beta2", "some"]);
    assert_eq!((&changed["spec"]["cohort"], &changed["metadata"]["uid"]), (&Value::Null, &newer["metadata"]["uid"]));
    let cohort = || {
        let told = said(&up.place.run(&["queue"]));
        told.lines().any(|line| line.starts_with("team") && line.contains("some"))
    };
    up.eventually("the queue is in its cohort", cohort);
}

/// Of jobs whose names begin alike, and of one of the same name elsewhere, a dry run says nothing.
#[test]
fn a_dry_run_tells_of_its_own_job_alone() {
    let up = Up::start();
    up.apply("queues.yaml", QUEUES);
    let elsewhere = "apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere}\n---\n\
        apiVersion: kueue.x-k8s.io/v1beta2\nkind: LocalQueue\nmetadata: {name: q, namespace: elsewhere}\nspec: {clusterQueue: team}\n";
    up.apply("elsewhere.yaml", elsewhere);
    let waits = |name: &str, namespace: &str| {
        let text = job(name, "100m", "  queue: q\n").replace("{name:", &format!("{{namespace: {namespace}, name:"));
        up.apply("one.yaml", &text);
    };
    let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
    for name in ["holder", "next"] {
        waits(name, "default");
        up.eventually("it has its place", || pod_of(&up.items("pods"), name).is_some_and(has_node));
    }
    for (name, namespace) in [("p-2", "default"), ("p2", "default"), ("p", "elsewhere")] {
        waits(name, namespace);
    }
    up.eventually("all of them wait", || up.items("pods").len() == 5);
    up.place.write("p.yaml", &job("p", "100m", "  queue: q\n"));
    let told = said(&up.place.run(&["run", "--dry-run", "p.yaml"]));
    assert_eq!(told.lines().filter(|line| line.starts_with("QuotaUsed: ")).count(), 1, "{told}");
    assert!(told.contains("; position 4 in its queue"), "{told}");
    for (name, namespace) in [("p-2", "default"), ("p2", "default"), ("p", "elsewhere")] {
        let _ = up.place.run(&["delete", name, "-n", namespace, "--now"]);
    }
}

#[test]
fn a_dry_run_says_where_a_job_would_start_before_anything_ever_ran() {
    let place = Place::new();
    place.write("one.yaml", &job("one", "100m", ""));
    let told = said(&place.run(&["run", "--dry-run", "one.yaml"]));
    assert!(told.contains("  start one-worker-0 on node ") && !told.contains("WaitsForPlace"), "{told}");
    place.write("large.yaml", &job("large", "100000", ""));
    let told = said(&place.run(&["run", "--dry-run", "large.yaml"]));
    assert!(told.contains("TooLarge: "), "{told}");
}

/// What a dry run says of a cluster is of its live state, and it leaves nothing there.
#[test]
fn a_dry_run_on_a_cluster_plans_against_what_runs_there() {
    let up = Up::start();
    let config = up.place.run(&["kubeconfig"]);
    up.place.write("config.yaml", &String::from_utf8_lossy(&config.stdout));
    let node = up.items("nodes").remove(0);
    let cpu = node["status"]["allocatable"]["cpu"].as_str().expect("an amount").to_owned();
    up.place.write("all.yaml", &job("all", &cpu, "  image: x\n"));
    let dry = || said(&up.place.run(&["run", "--dry-run", "--kubeconfig", "config.yaml", "all.yaml"]));
    let told = dry();
    assert!(told.contains("is valid") && told.contains("  start all-worker-0 on node "), "{told}");
    up.apply("holder.yaml", &job("holder", "100m", ""));
    let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
    up.eventually("it has its place", || up.items("pods").iter().any(has_node));
    let told = dry();
    assert!(told.contains("InsufficientResources: ") && told.contains("It would start in "), "{told}");
    assert!(up.items("trainingjobs").len() == 1, "a dry run keeps nothing");
}
