//! `trainyard simulate` on the live queue of a real `trainyard up`.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::Place;

/// A machine that builds and tests at the same time is slow; a test that hangs must still end.
const DEADLINE: Duration = Duration::from_secs(60);

/// `trainyard up`, ended with the test.
pub(crate) struct Up {
    pub(crate) place: Place,
    child: Child,
}

impl Up {
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let mut command = place.command(&["up", "--listen", "127.0.0.1:0"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
        let up = Self { place, child };
        up.eventually("a server that answers", || up.place.run(&["kubeconfig"]).status.success());
        up.eventually("a node", || !up.items("nodes").is_empty());
        up
    }

    pub(crate) fn eventually(&self, what: &str, probe: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !probe() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn items(&self, kind: &str) -> Vec<Value> {
        let output = self.place.run(&["get", kind, "-A", "-o", "json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// What is there, with its versions.
    fn versions(&self) -> Vec<String> {
        let kinds = ["nodes", "pods", "trainingjobs", "jobs.batch", "clusterqueues"];
        let all = kinds.iter().flat_map(|kind| self.items(kind));
        all.map(|object| format!("{}/{}", object["metadata"]["name"], object["metadata"]["resourceVersion"])).collect()
    }

    pub(crate) fn apply(&self, name: &str, text: &str) {
        let output = self.place.write(name, text).run(&["apply", name]);
        assert!(output.status.success(), "{output:?}");
    }

    fn simulate(&self, words: &[&str]) -> Value {
        let output = self.place.run(&[&["simulate", "-o", "json"], words].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.place.run(&["delete", "holder", "next", "--now"]);
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A job that asks for so many CPUs and runs for an hour at most.
pub(crate) fn job(name: &str, cpu: &str, more: &str) -> String {
    format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}}}\nspec:\n  \
         command: [sleep, '1000']\n  activeDeadlineSeconds: 3600\n  resources: {{requests: {{cpu: '{cpu}'}}}}\n{more}"
    )
}

fn gang<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let gangs = answer["gangs"].as_array().expect("gangs");
    gangs.iter().find(|gang| gang["name"] == name).unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// A machine whose CPUs a job uses for an hour, and another one that waits for them.
fn busy() -> (Up, String, String) {
    let up = Up::start();
    let node = up.items("nodes").remove(0);
    let name = node["metadata"]["name"].as_str().expect("a name").to_owned();
    let cpu = node["status"]["allocatable"]["cpu"].as_str().expect("an amount").to_owned();
    up.apply("holder.yaml", &job("holder", &cpu, ""));
    let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
    up.eventually("the first has its place", || up.items("pods").iter().any(has_node));
    up.apply("next.yaml", &job("next", &cpu, ""));
    let waits = |pod: &Value| pod["metadata"]["annotations"]["trainyard.dev/reservation"].is_string();
    up.eventually("the other has a promise", || up.items("pods").iter().any(waits));
    (up, name, cpu)
}

#[test]
fn the_live_queue_says_what_would_be_and_nothing_is_written() {
    let (up, node, cpu) = busy();
    let same = up.simulate(&[]);
    let next = gang(&same, "next");
    assert_eq!((&next["before"], next["shift"].as_str()), (&next["after"], Some("Same")), "{same}");
    assert_eq!((next["after"]["state"].as_str(), next["after"]["reserved"].as_bool()), (Some("Waits"), Some(true)));
    assert_eq!(same["before"], same["after"]);

    let more = up.simulate(&["--add-nodes", "1"]);
    let next = gang(&more, "next");
    assert_eq!((next["before"]["state"].as_str(), next["shift"].as_str()), (Some("Waits"), Some("Sooner")), "{more}");
    assert_eq!(next["after"]["nodes"]["new-2"], 1, "{more}");
    assert_eq!((&more["after"]["nodes"], &more["after"]["running"]), (&2.into(), &2.into()));

    up.place.write("extra.yaml", &job("extra", &cpu, "  priority: 5\n"));
    let jobs = up.simulate(&["--job", "extra.yaml", "--job", "extra.yaml"]);
    let start = |answer: &Value, name: &str, side: &str| gang(answer, name)[side]["estimate"]["expectedMs"].as_i64();
    assert_eq!(gang(&jobs, "extra")["shift"], "New", "{jobs}");
    assert_eq!(gang(&jobs, "extra-2")["after"]["state"], "Waits", "{jobs}");
    assert_eq!(start(&jobs, "next", "after"), start(&jobs, "next", "before"), "a promise is kept: {jobs}");
    assert!(start(&jobs, "extra", "after") > start(&jobs, "next", "after"), "{jobs}");

    up.place.write("last.yaml", &job("last", &cpu, ""));
    let dry = said(&up.place.run(&["run", "--dry-run", "last.yaml"]));
    assert!(dry.contains("; position 2 in its queue"), "who comes now stands behind who waits already: {dry}");

    let template = format!(
        "template:\n    metadata: {{labels: {{app: x}}}}\n    spec:\n      restartPolicy: POLICY\n      containers: \
         [{{name: c, image: i, command: [sleep, '9'], resources: {{requests: {{cpu: '{cpu}'}}}}}}]\n"
    );
    let batch = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: batch}}\nspec:\n  parallelism: 2\n  completions: 2\n  {template}"
    );
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  selector: {{matchLabels: {{app: x}}}}\n  {template}"
    );
    up.place.write("batch.yaml", &batch.replace("POLICY", "Never"));
    up.place.write("web.yaml", &deployment.replace("POLICY", "Always"));
    let others = up.simulate(&["--job", "batch.yaml", "--job", "web.yaml", "--add-nodes", "4"]);
    let starting = |name: &str| {
        let new = others["gangs"].as_array().into_iter().flatten().filter(|gang| gang["shift"] == "New");
        new.filter(|gang| gang["name"].as_str().is_some_and(|full| full.starts_with(name))).count()
    };
    assert_eq!((starting("batch-"), starting("web-")), (2, 3), "{others}");

    let drained = up.simulate(&["--drain", &node]);
    let holder = gang(&drained, "holder");
    assert_eq!(
        (holder["before"]["state"].as_str(), holder["after"]["code"].as_str()),
        (Some("Runs"), Some("NoMatchingNode"))
    );
    assert_eq!(drained["after"]["nodes"], 0);
    let text = up.place.run(&["simulate", "--remove-node", &node, "--add-nodes", "2:gpu=8"]);
    let told = said(&text);
    assert!(
        text.status.success() && told.contains(&format!("Suppose node {node} is gone, 1 pod waits again")),
        "{told}"
    );
    assert!(told.contains(&format!("Suppose 2 nodes like {node} join, with nvidia.com/gpu=8")), "{told}");
    assert!(told.contains("THEN") && told.contains("mean wait") && !told.contains("note:"), "{told}");
    // The server's own controllers write now and then; one that wrote with every look would never be found without.
    up.eventually("looks by which nothing is written", || {
        let before = up.versions();
        up.simulate(&["--add-nodes", "1", "--job", "extra.yaml"]);
        up.simulate(&["--drain", &node]);
        before == up.versions()
    });
}

#[test]
fn a_quota_that_is_only_supposed_and_what_makes_no_sense() {
    let up = Up::start();
    let queues = "apiVersion: kueue.x-k8s.io/v1beta1\nkind: ClusterQueue\nmetadata: {name: team}\nspec:\n  resourceGroups:\n    - \
                  coveredResources: [cpu]\n      flavors: [{name: default, resources: [{name: cpu, nominalQuota: '0'}]}]\n---\n\
                  apiVersion: kueue.x-k8s.io/v1beta1\nkind: LocalQueue\nmetadata: {name: q, namespace: default}\nspec: {clusterQueue: team}\n";
    up.apply("queues.yaml", queues);
    up.apply("next.yaml", &job("next", "1", "  queue: q\n"));
    let waits = || up.simulate(&[])["gangs"].as_array().is_some_and(|gangs| !gangs.is_empty());
    up.eventually("it waits", waits);
    let raised = up.simulate(&["--quota", "team:cpu=1"]);
    let next = gang(&raised, "next");
    assert_eq!(
        (next["before"]["code"].as_str(), next["after"]["state"].as_str()),
        (Some("AboveQuota"), Some("Starts")),
        "{raised}"
    );

    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        let output = up.place.run(&[&["simulate"], words].concat());
        let told = said(&output);
        assert!(
            output.status.code() == Some(code) && parts.iter().all(|part| told.contains(part)),
            "{words:?}: {told}"
        );
    };
    refused(&["--drain", "none"], 2, &["there is no node \"none\" (there are: ", "trainyard get nodes"]);
    refused(&["--quota", "none:cpu=1"], 2, &["there is no ClusterQueue \"none\" (there are: team)"]);
    refused(&["--add-nodes", "1:like=none"], 2, &["there is no node \"none\""]);
    refused(&["--add-nodes", "2:cpus=1"], 2, &["--add-nodes", "`cpus` is none of like, label, gpu, cpu"]);
    refused(&["--job", "absent.yaml"], 2, &["cannot read absent.yaml"]);
    refused(&["--job", "queues.yaml"], 2, &["there is no job in queues.yaml"]);
    refused(&["--job", "next.yaml"], 5, &["TrainingJob next is in the queue already"]);
    let stopped = job("stopped", "1", "  suspend: true\n");
    up.place.write("stopped.yaml", &stopped);
    refused(&["--job", "stopped.yaml"], 2, &["TrainingJob stopped would have no pods: "]);
    refused(&["--seeds", "3", "--drain", "x"], 2, &["cannot be used with"]);
    refused(&["--trace", "x", "--add-nodes", "1"], 2, &["cannot be used with"]);
}
