//! Changes to a manifest from the command line: `--set`, `--procs`, `--replicas`, `--name`, `--env`, `--spares`, `--on-hang`.

use std::path::Path;

use serde_json::{Value, json};

use super::{Document, path, yaml};
use crate::error::CliError;

/// What the command line changes. Names and ranks apply to the job of the manifest, not to its config maps.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Edits {
    /// Change a field of the job, for instance spec.procsPerReplica=8 (repeatable; the value is read as YAML)
    #[arg(long = "set", value_name = "PATH=VALUE", help_heading = "Change the manifest")]
    pub(crate) set: Vec<String>,
    /// Run this many ranks in each replica: a number, or auto, cpu, gpu
    #[arg(long, value_name = "N", help_heading = "Change the manifest")]
    pub(crate) procs: Option<String>,
    /// Run this many replicas (of workers, where the kind knows a master)
    #[arg(long, value_name = "N", help_heading = "Change the manifest")]
    pub(crate) replicas: Option<u32>,
    /// Give the job another name
    #[arg(long, value_name = "NAME", help_heading = "Change the manifest")]
    pub(crate) name: Option<String>,
    /// Set an environment variable in all ranks (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", help_heading = "Change the manifest")]
    pub(crate) env: Vec<String>,
    /// Keep Python interpreters ready to take a failed rank's place: auto or off
    #[arg(long, value_name = "WHEN", value_parser = ["auto", "off"], help_heading = "Change the manifest")]
    pub(crate) spares: Option<String>,
    /// What to do about a rank that stands still: report it, or restart the ranks, which counts as a failure
    #[arg(long, value_name = "WHAT", value_parser = ["report", "restart"], help_heading = "Change the manifest")]
    pub(crate) on_hang: Option<String>,
}

impl Edits {
    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
            && self.procs.is_none()
            && self.replicas.is_none()
            && self.name.is_none()
            && self.env.is_empty()
            && self.spares.is_none()
            && self.on_hang.is_none()
    }

    /// Changes a job.
    pub(crate) fn apply(&self, document: &mut Document) -> Result<(), CliError> {
        let kind = document.kind().to_owned();
        let root = &mut document.value;
        if let Some(name) = &self.name {
            put(root, "metadata.name", Value::from(name.as_str()), "--name")?;
        }
        if let Some(procs) = &self.procs {
            let number = yaml::plain(procs);
            match kind.as_str() {
                "TrainingJob" => put(root, "spec.procsPerReplica", number, "--procs")?,
                "PyTorchJob" => put(root, "spec.nprocPerNode", Value::from(procs.as_str()), "--procs")?,
                "TrainJob" => put(root, "spec.trainer.numProcPerNode", number, "--procs")?,
                _ => return Err(unsupported("--procs", &kind)),
            }
        }
        if let Some(replicas) = self.replicas {
            let path = replicas_path(&kind, root).ok_or_else(|| unsupported("--replicas", &kind))?;
            put(root, &path, Value::from(replicas), "--replicas")?;
        }
        for pair in &self.env {
            let (key, value) = split(pair, "--env", "KEY=VALUE")?;
            set_env(&kind, root, key, value)?;
        }
        let recovery = [
            (&self.spares, "spares", "TRAINYARD_SPARES", "--spares"),
            (&self.on_hang, "onHang", "TRAINYARD_ON_HANG", "--on-hang"),
        ];
        for (word, field, variable, flag) in recovery {
            let Some(word) = word else { continue };
            if kind == "TrainingJob" {
                put(root, &format!("spec.recovery.{field}"), Value::from(word.as_str()), flag)?;
            } else {
                set_env(&kind, root, variable, word)?;
            }
        }
        for pair in &self.set {
            let (path, value) = split(pair, "--set", "PATH=VALUE")?;
            put(root, path, parsed(value), "--set")?;
        }
        Ok(())
    }
}

fn parsed(text: &str) -> Value {
    // Flow collections are worth reading (`--set spec.command=[python,train.py]`); all else is one scalar.
    if text.starts_with(['[', '{']) {
        let source = super::Source { name: "--set".to_owned(), text: text.to_owned(), folder: None };
        let (nodes, diagnostics) = yaml::documents(&source);
        if let (Some(node), true) = (nodes.into_iter().next(), diagnostics.is_empty()) {
            return node.flatten().0;
        }
    }
    yaml::plain(text)
}

fn split<'a>(pair: &'a str, flag: &str, form: &str) -> Result<(&'a str, &'a str), CliError> {
    pair.split_once('=').filter(|(left, _)| !left.is_empty()).ok_or_else(|| CliError::Usage {
        message: format!("`{flag} {pair}` has no value"),
        hint: format!("write {flag} {form}"),
    })
}

fn put(root: &mut Value, path: &str, value: Value, flag: &str) -> Result<(), CliError> {
    path::set(root, path, value).map_err(|why| CliError::Usage {
        message: format!("{flag} cannot set `{path}`: {why}"),
        hint: "give the path as in the manifest, for instance spec.procsPerReplica=8".to_owned(),
    })
}

fn unsupported(flag: &str, kind: &str) -> CliError {
    CliError::Usage {
        message: format!("{flag} does not know where a {kind} has that"),
        hint: "use --set PATH=VALUE with the path in the manifest".to_owned(),
    }
}

fn replicas_path(kind: &str, root: &Value) -> Option<String> {
    match kind {
        "TrainingJob" | "Deployment" => Some("spec.replicas".to_owned()),
        "TrainJob" => Some("spec.trainer.numNodes".to_owned()),
        "Job" => Some("spec.parallelism".to_owned()),
        _ => {
            let specs = replica_specs(root)?;
            Some(format!("spec.{specs}.Worker.replicas"))
        }
    }
}

/// `pytorchReplicaSpecs` and its like.
fn replica_specs(root: &Value) -> Option<String> {
    root["spec"].as_object()?.keys().find(|key| key.ends_with("ReplicaSpecs")).cloned()
}

fn set_env(kind: &str, root: &mut Value, key: &str, value: &str) -> Result<(), CliError> {
    if kind == "TrainingJob" || kind == "TrainJob" {
        let owner = if kind == "TrainingJob" { &mut root["spec"] } else { &mut root["spec"]["trainer"] };
        if owner["env"].is_array() || kind == "TrainJob" {
            push_env(&mut owner["env"], key, value);
        } else {
            owner["env"][key] = Value::from(value);
        }
        return Ok(());
    }
    let mut done = false;
    for_each_pod_spec(root, &mut |spec| {
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            push_env(&mut container["env"], key, value);
            done = true;
        }
    });
    if done { Ok(()) } else { Err(unsupported("--env", kind)) }
}

fn push_env(list: &mut Value, key: &str, value: &str) {
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.retain(|entry| entry["name"] != key);
        list.push(json!({"name": key, "value": value}));
    }
}

/// Visits every pod spec of a job of a foreign kind.
pub(crate) fn for_each_pod_spec(root: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    if let Some(specs) = replica_specs(root) {
        for (_, role) in root["spec"][&specs].as_object_mut().into_iter().flatten() {
            if let Some(spec) = role.get_mut("template").and_then(|t| t.get_mut("spec")) {
                visit(spec);
            }
        }
    } else if let Some(spec) = root.get_mut("spec").and_then(|s| s.get_mut("template")).and_then(|t| t.get_mut("spec"))
    {
        visit(spec);
    }
}

/// Relative commands work from the folder where `trainyard run` was called, unless the manifest says otherwise.
pub(crate) fn fill_working_dir(document: &mut Document, folder: &str) {
    let kind = document.kind().to_owned();
    let root = &mut document.value;
    match kind.as_str() {
        "TrainingJob" => {
            let spec = &mut root["spec"];
            match spec["workingDir"].as_str() {
                None if spec.is_object() => spec["workingDir"] = Value::from(folder),
                Some(given) if !given.starts_with('/') => spec["workingDir"] = Value::from(absolute(folder, given)),
                Some(_) | None => {}
            }
        }
        // A runtime decides where a TrainJob works.
        "TrainJob" => {}
        _ => for_each_pod_spec(root, &mut |spec| {
            for list in ["initContainers", "containers"] {
                for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if container["workingDir"].is_null() {
                        container["workingDir"] = Value::from(folder);
                    }
                }
            }
        }),
    }
}

/// Whether a job's program or its arguments name a file that is beside the manifest but not here.
pub(crate) fn needs_folder(job: &Value, here: &Path, beside: &Path) -> bool {
    let mut words = Vec::new();
    let mut collect = |holder: &Value| {
        for key in ["command", "args"] {
            words.extend(holder[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        }
    };
    collect(&job["spec"]);
    let mut copy = job.clone();
    for_each_pod_spec(&mut copy, &mut |spec| {
        spec["containers"].as_array().into_iter().flatten().for_each(&mut collect);
    });
    // Options and values are no files; what has a dot or a slash may be one.
    let relative = |word: &&String| !word.starts_with(['/', '-']) && word.contains(['.', '/']);
    words.iter().filter(relative).any(|word| !here.join(word).exists() && beside.join(word).is_file())
}

fn absolute(folder: &str, given: &str) -> String {
    let joined = Path::new(folder).join(given);
    // `.` and `./x` read better without the dot in `get -o yaml`.
    joined.components().collect::<std::path::PathBuf>().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(value: Value) -> Document {
        let source = super::super::Source { name: "t".to_owned(), text: String::new(), folder: None };
        Document { source: source.into(), value, spans: Default::default() }
    }

    #[test]
    fn ranks_names_and_environment_go_where_each_kind_has_them() {
        let edits = Edits {
            set: vec!["spec.command=[a, b]".to_owned(), "spec.backoffLimit=3".to_owned()],
            procs: Some("8".to_owned()),
            replicas: Some(2),
            name: Some("other".to_owned()),
            env: vec!["K=v=w".to_owned()],
            spares: Some("off".to_owned()),
            on_hang: Some("restart".to_owned()),
        };
        let mut job = document(json!({"kind": "TrainingJob", "spec": {}}));
        edits.apply(&mut job).unwrap();
        assert_eq!(
            job.value,
            json!({"kind": "TrainingJob", "metadata": {"name": "other"}, "spec": {
                "procsPerReplica": 8, "replicas": 2, "env": {"K": "v=w"}, "command": ["a", "b"], "backoffLimit": 3,
                "recovery": {"spares": "off", "onHang": "restart"}}})
        );
        let role = json!({"template": {"spec": {"containers": [{"name": "pytorch"}]}}});
        let mut job = document(json!({"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Master": role}}}));
        Edits { set: vec![], ..edits }.apply(&mut job).unwrap();
        assert_eq!(job.value["spec"]["nprocPerNode"], "8");
        let specs = &job.value["spec"]["pytorchReplicaSpecs"];
        assert_eq!(specs["Worker"]["replicas"], 2);
        let env = &specs["Master"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["value"], "v=w");
        assert_eq!(env[1], json!({"name": "TRAINYARD_SPARES", "value": "off"}));
        assert_eq!(env[2], json!({"name": "TRAINYARD_ON_HANG", "value": "restart"}));
    }

    #[test]
    fn a_relative_working_dir_is_below_the_callers_folder() {
        let mut job = document(json!({"kind": "TrainingJob", "spec": {"workingDir": "./x"}}));
        fill_working_dir(&mut job, "/home/me");
        assert_eq!(job.value["spec"]["workingDir"], "/home/me/x");
        let mut job = document(json!({"kind": "TrainingJob", "spec": {}}));
        fill_working_dir(&mut job, "/home/me");
        assert_eq!(job.value["spec"]["workingDir"], "/home/me");
    }
}
