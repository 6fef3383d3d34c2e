//! Golden manifests: what good ones become, and what is said about wrong ones.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, and reads files"
)]

mod world;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainyard_coordinator_core::manifest;
use trainyard_coordinator_core::view::Config;
use trainyard_proto::plan::Action;
use world::World;

const RUNTIME: &str = "
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata: {name: torch-distributed}
spec:
  mlPolicy: {numNodes: 1, torch: {}}
  template:
    spec:
      replicatedJobs:
        - name: node
          template:
            spec:
              template:
                spec:
                  containers: [{name: node, image: pytorch, env: [{name: A, value: '1'}, {name: B, value: '1'}]}]
";

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn own(folder: &str) -> Vec<PathBuf> {
    let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(folder));
    assert!(!files.is_empty(), "there are inputs in {folder}");
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Every object that the first plan creates.
fn created(text: &str, config: Config) -> Vec<Value> {
    let mut world = World::new(text);
    world.related.push(world::yaml(RUNTIME));
    world.config = config;
    let plan = world.plan();
    let bodies = plan
        .actions
        .into_iter()
        .filter_map(|action| if let Action::Create { body, .. } = action { Some(body) } else { None });
    bodies.map(without_hash).collect()
}

/// The hash says nothing to a reader, and changes with every field.
fn without_hash(mut object: Value) -> Value {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove("trainyard.dev/template-hash");
    }
    object
}

#[test]
fn good_manifests_become_these_objects() {
    for path in own("good") {
        let text = std::fs::read_to_string(&path).unwrap();
        let ours = world::yaml(&text)["kind"] == json!("TrainingJob");
        let config = if ours { Config::embedded() } else { Config::cluster() };
        let created = created(&text, config);
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_yaml_snapshot!(stem(&path), created);
        });
    }
}

#[test]
fn wrong_manifests_are_told_all_that_is_wrong() {
    for path in own("wrong") {
        let job = world::yaml(&std::fs::read_to_string(&path).unwrap());
        let diagnostics = manifest::lower(&job, &[world::yaml(RUNTIME)], &Config::embedded()).unwrap_err();
        let text: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("wrong-{}", stem(&path)), text.join("\n"));
        });
    }
}

#[test]
fn in_embedded_mode_the_ranks_meet_on_a_port_of_the_job() {
    let text =
        std::fs::read_to_string(own("good").into_iter().find(|path| stem(path) == "pytorch-distributed").unwrap())
            .unwrap();
    let objects = created(&text, Config::embedded());
    let pods: Vec<&Value> = objects.iter().filter(|object| object["kind"] == json!("Pod")).collect();
    let port = |pod: &Value| {
        let env = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter().find(|variable| variable["name"] == json!("MASTER_PORT")).unwrap()["value"].clone()
    };
    let number: u16 = port(pods[0]).as_str().unwrap().parse().unwrap();
    assert!((20_000..30_000).contains(&number));
    assert!(pods.iter().all(|pod| port(pod) == port(pods[0])));
    assert_eq!(pods[0]["spec"]["containers"][0]["ports"][0]["containerPort"], json!(number));
    assert!(pods.iter().all(|pod| pod["spec"].get("initContainers").is_none()), "names resolve at once");
    assert!(pods.iter().all(|pod| pod["spec"]["schedulingGates"] == json!([{"name": "trainyard.dev/gang"}])));
}

/// The folder of upstream manifests beside the repository, where there is one.
fn shared() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let candidates = [
        std::env::var_os("TRAINYARD_SHARED_DATA").map(PathBuf::from),
        Some(workspace.join("../shared/data")),
        Some(workspace.join("../../shared/data")),
    ];
    candidates.into_iter().flatten().find(|path| path.is_dir())
}

#[test]
fn manifests_of_others_run_as_they_are() {
    let Some(shared) = shared() else {
        eprintln!("no manifests beside the repository; set TRAINYARD_SHARED_DATA to their folder");
        return;
    };
    let runtimes: Vec<Value> =
        files(&shared.join("manifests/trainer-runtimes")).iter().flat_map(|path| documents(path)).collect();
    let mut seen = 0;
    for folder in ["seeds", "manifests/training-operator", "manifests/trainer"] {
        for path in files(&shared.join(folder)) {
            let mut runtimes = runtimes.clone();
            runtimes.extend(documents(&path));
            for job in documents(&path).into_iter().filter(|document| manifest::dialect_of(document).is_some()) {
                let model = manifest::lower(&job, &runtimes, &Config::embedded());
                let model = match model {
                    Ok(model) => model,
                    // Initializers are not run yet; that is said, and nothing else is wrong.
                    Err(diagnostics) => {
                        let said =
                            diagnostics.iter().all(|diagnostic| diagnostic.message.contains("cannot be run here"));
                        assert!(said, "{}: {diagnostics:?}", path.display());
                        continue;
                    }
                };
                assert!(model.size() > 0 && model.leader().is_some(), "{}", path.display());
                let mut world = World::new(&serde_json::to_string(&job).unwrap());
                world.related.clone_from(&runtimes);
                world.plan();
                let expected = if model.policy.suspend { 0 } else { model.size() };
                assert_eq!(world.pods.len(), expected, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "only {seen} jobs found in {}", shared.display());
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let parts =
        text.split("\n---").map(|part| part.trim_start_matches(['-', '\n'])).filter(|part| !part.trim().is_empty());
    parts.filter_map(|part| serde_saphyr::from_str::<Value>(part).ok()).filter(Value::is_object).collect()
}

/// What the launchers of a job are told: per pod the command and the variables that are not upstream's, and the terms of the
/// rendezvous.
fn told(job: &Value) -> Value {
    let config = Config { rendezvous: Some("unix:/home/rendezvous.sock".to_owned()), ..Config::embedded() };
    let model = manifest::lower(job, &[world::yaml(RUNTIME)], &config).unwrap();
    let pods: Vec<Value> = model
        .replicas()
        .map(|(role, replica)| {
            let pod = role.template.spec.as_ref().unwrap();
            let main = pod.containers.iter().find(|container| container.name == role.main_container).unwrap();
            let env: Vec<Value> = replica.env.iter().map(|variable| json!([variable.name, variable.value])).collect();
            json!({
                "name": replica.name, "restartPolicy": pod.restart_policy, "command": main.command, "args": main.args,
                "env": main.env, "told": env,
            })
        })
        .collect();
    json!({
        "pods": pods,
        "rendezvous": model.rendezvous,
        "minAvailable": model.policy.min_available,
        "success": model.success,
        "notes": model.notes,
        "warnings": model.warnings,
    })
}

#[test]
fn launchers_are_told_where_and_on_what_terms_they_meet() {
    for path in own("meeting") {
        let job = world::yaml(&std::fs::read_to_string(&path).unwrap());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_yaml_snapshot!(format!("meeting-{}", stem(&path)), told(&job));
        });
    }
}
