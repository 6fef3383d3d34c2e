//! What each command says, and how it ends, without a control plane.

use crate::support::Place;

const JOB: &str = "\
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata:
  name: wine-ddp
spec:
  procsPerReplica: 4
  command: [trainyard, example, wine-ddp]
";

/// What `cargo insta` would do, without its macros' dependency on the test's folder.
macro_rules! says {
    ($place:expr, $args:expr) => {
        insta::assert_snapshot!($place.transcript($args));
    };
}

#[test]
fn help() {
    says!(Place::new(), &["--help"]);
}

#[test]
fn help_of_run() {
    says!(Place::new(), &["run", "--help"]);
}

#[test]
fn a_trace_is_replayed_and_a_wrong_one_is_refused_with_its_place() {
    const SIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/src/trace");
    let run = |words: &[&str]| Place::new().run(&[&["simulate", "--trace"], words].concat());
    let [jobs, pods, nodes] = ["small.csv", "small-pods.csv", "small-nodes.csv"].map(|file| format!("{SIM}/{file}"));
    let lines = |words: &[&str]| -> Vec<serde_json::Value> {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let reports = lines(&[&jobs, "--gpus", "32", "--policy", "easy,ours", "-o", "json"]);
    let of = |key: &str| reports.iter().map(|report| report[key].clone()).collect::<Vec<_>>();
    assert_eq!((of("policy"), of("jobs")), (vec!["easy".into(), "ours".into()], vec![300.into(), 300.into()]));
    let reports = lines(&[&pods, "--nodes", &nodes, "-o", "json"]);
    assert_eq!((&reports[0]["jobs"], &reports[0]["refused"]), (&298.into(), &2.into()));
    let filled =
        lines(&[&pods, "--nodes", &nodes, "--load", "130", "--packing", "fgd,ours", "--samples", "3", "-o", "json"]);
    assert_eq!(
        (filled.len(), &filled[0]["packing"], filled[1]["allocated"].as_array().map(Vec::len)),
        (2, &"fgd".into(), Some(3))
    );
    let refused = |words: &[&str], what: &str| {
        let output = run(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(what), "{told}");
    };
    refused(&[concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--gpus", "8"], "Cargo.toml:1:1: there is no column");
    refused(&[&jobs, "--nodes", &nodes], "`--gpus 320`");
    refused(&[&jobs], "`--gpus 320`");
    refused(&[&pods, "--gpus", "8"], "`--nodes nodes.csv`");
    refused(&[&pods, "--nodes", &pods], "small-pods.csv:1:1: there is no column `gpu`");
}

#[test]
fn no_arguments_show_the_help_and_are_an_error() {
    let output = Place::new().run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: trainyard"));
}

#[test]
fn an_unknown_flag_is_not_taken_for_the_command() {
    let says = |words: &[&str]| {
        let output = Place::new().run(words);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (words, unknown, nearest) in [
        (&["preflight", "--rank", "2"][..], "--rank", "--ranks"),
        (&["preflight", "--nproc", "2"], "--nproc", "-- --nproc"),
        (&["launch", "--nprocs", "2", "true"], "--nprocs", "--nproc"),
    ] {
        let (code, told) = says(words);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(&format!("unexpected argument '{unknown}' found")) && told.contains(nearest), "{told}");
    }
    // Flags behind the command are the command's.
    for words in [&["launch", "sh", "-c", "exit 7"][..], &["launch", "--nproc", "1", "--", "sh", "-c", "exit 7"]] {
        let (code, told) = says(words);
        assert_eq!(code, Some(7), "{told}");
    }
    let (code, told) = says(&["launch", "--", "--no-such-program"]);
    assert!(code == Some(127) && told.contains("--no-such-program"), "{told}");
}

#[test]
fn version() {
    says!(Place::new(), &["version"]);
}

#[test]
fn an_empty_home_has_no_jobs() {
    says!(Place::new(), &["get"]);
}

#[test]
fn a_valid_manifest() {
    let place = Place::new();
    place.write("job.yaml", JOB);
    says!(place, &["validate", "job.yaml"]);
}

#[test]
fn a_wrong_field() {
    let place = Place::new();
    place.write("job.yaml", &JOB.replace("procsPerReplica", "procsPerReplika"));
    says!(place, &["run", "job.yaml"]);
}

#[test]
fn everything_wrong_at_once() {
    let place = Place::new();
    place.write(
        "job.yaml",
        "\
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata:
  name: Wine_DDP
replicas: 3
spec:
  replcias: 1
  procsPerReplica: 4
  command: python train.py
  backoffLimit: \"three\"
  restartPolicy: Sometimes
---
apiVersion: kubeflow.org/v2
kind: PyTorchJob
metadata: {name: x}
---
apiVersion: kubeflow.org/v1
kind: PytorchJob
metadata: {name: x}
---
kind: ConfigMap
metadata: {name: x}
",
    );
    says!(place, &["validate", "job.yaml"]);
}

#[test]
fn a_pytorchjob_that_the_webhook_would_refuse() {
    let place = Place::new();
    place.write(
        "job.yaml",
        "\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: x}
spec:
  pytorchReplicaSpecs:
    Master:
      template:
        spec:
          containers:
            - name: main
              image: img
",
    );
    says!(place, &["validate", "job.yaml"]);
}

#[test]
fn broken_yaml() {
    let place = Place::new();
    place.write("job.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n\tname: x\n");
    says!(place, &["validate", "job.yaml"]);
}

#[test]
fn a_field_given_twice() {
    let place = Place::new();
    place.write("job.yaml", &format!("{JOB}  procsPerReplica: 8\n"));
    says!(place, &["validate", "job.yaml"]);
}

#[test]
fn an_empty_file() {
    let place = Place::new();
    place.write("job.yaml", "# nothing yet\n");
    says!(place, &["run", "job.yaml"]);
}

#[test]
fn a_missing_file() {
    says!(Place::new(), &["run", "absent.yaml"]);
}

#[test]
fn a_value_that_cannot_be_set() {
    let place = Place::new();
    place.write("job.yaml", JOB);
    says!(place, &["run", "job.yaml", "--set", "spec.command.first=x"]);
}

#[test]
fn a_dry_run_shows_the_plan() {
    let place = Place::new();
    place.write("job.yaml", JOB);
    let told = place.transcript(&["run", "job.yaml", "--dry-run", "--procs", "8"]);
    let node = trainyard_worker::agent::host_name();
    insta::assert_snapshot!(told.replace(&format!(" on node {node}"), " on node [NODE]"));
}

#[test]
fn detaching_needs_a_control_plane() {
    let place = Place::new();
    place.write("job.yaml", JOB);
    says!(place, &["run", "job.yaml", "--detach"]);
}

#[test]
fn a_kubeconfig_needs_a_control_plane() {
    says!(Place::new(), &["kubeconfig"]);
}

#[test]
fn objects_that_do_not_exist() {
    let place = Place::new();
    says!(place, &["logs", "absent"]);
    says!(place, &["delete", "pod", "absent"]);
    says!(place, &["explain", "absent"]);
    says!(place, &["get", "poods"]);
    says!(place, &["get", "pod", "absent"]);
}

#[test]
fn a_stored_job_is_listed_described_suspended_and_deleted_without_a_control_plane() {
    let place = Place::new();
    place.write(
        "job.yaml",
        &format!("{JOB}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{key: hidden}}\n"),
    );
    says!(place, &["apply", "job.yaml"]);
    says!(place, &["get"]);
    says!(place, &["get", "jobs", "-o", "name"]);
    says!(place, &["get", "wine-ddp", "-o", "yaml"]);
    says!(place, &["describe", "wine-ddp"]);
    says!(place, &["describe", "secret", "s"]);
    says!(place, &["explain", "wine-ddp"]);
    says!(place, &["suspend", "wine-ddp"]);
    says!(place, &["get", "tj"]);
    says!(place, &["resume", "wine-ddp"]);
    says!(place, &["logs", "wine-ddp"]);
    says!(place, &["delete", "wine-ddp"]);
    says!(place, &["get", "-A"]);
}

#[test]
fn fields_are_documented() {
    says!(Place::new(), &["explain", "trainingjob.spec.resources"]);
    says!(Place::new(), &["explain", "trainingjob.spec.resource"]);
}

#[test]
fn anything_but_loopback_is_refused_without_tls_and_a_token() {
    says!(Place::new(), &["up", "--listen", "0.0.0.0:0"]);
}

#[test]
fn completions_exist_for_three_shells() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef trainyard"), ("fish", "complete -c trainyard")] {
        let output = Place::new().run(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(script.contains(mark), "{shell}");
        assert!(script.contains("kubeconfig"), "{shell} completes commands");
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let output = Place::new().run(&["reference"]);
    let page = String::from_utf8_lossy(&output.stdout);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == page, "docs/cli.md is out of date: write it anew with `trainyard reference > docs/cli.md`");
}

#[test]
fn no_colour_reaches_a_pipe() {
    let place = Place::new();
    place.write("job.yaml", &JOB.replace("procsPerReplica", "x"));
    let output = place.run(&["validate", "job.yaml"]);
    assert!(!output.stderr.contains(&0x1b));
    let output = place.run(&["--color", "always", "validate", "job.yaml"]);
    assert!(output.stderr.contains(&0x1b));
}

#[test]
fn a_state_folder_that_cannot_be_made_has_a_hint() {
    let place = Place::new();
    let output = place.run(&["--home", "/dev/null/home", "get"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("Not a directory") && said.contains("--home or TRAINYARD_HOME"), "{said}");
}

#[test]
fn the_only_object_of_a_kind_needs_no_name() {
    let place = Place::new();
    let output = place.run(&["describe", "namespaces"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("which one?") && said.contains("namespaces"), "{said}");
    place.write("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: alone}\n");
    assert!(place.run(&["apply", "cm.yaml"]).status.success());
    let said = place.run(&["describe", "configmap"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("alone"), "{said:?}");
}

#[test]
fn torchruns_command_line_is_understood() {
    let place = Place::new();
    let run = |words: &[&str]| place.run(&[&["torchrun"], words].concat());
    let ranks = run(&["--nproc_per_node=2", "--no-python", "sh", "-c", "echo rank $RANK of $WORLD_SIZE"]);
    let out = String::from_utf8_lossy(&ranks.stdout).into_owned();
    assert!(out.contains("rank 0 of 2") && out.contains("rank 1 of 2"), "{ranks:?}");
    let effect = run(&["--monitor-interval", "5", "--no-python", "true"]);
    assert_eq!(
        String::from_utf8_lossy(&effect.stderr),
        "trainyard torchrun: no effect: --monitor-interval: deaths are seen at once\n"
    );
    let wrong = run(&["--nnodes", "x", "train.py"]);
    let words = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(words.starts_with("error: torchrun: --nnodes x is neither a number nor MIN:MAX"), "{words}");
    assert_eq!(wrong.status.code(), Some(2));
    let help = run(&["--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("--nproc-per-node VALUE"), "{help:?}");
}
