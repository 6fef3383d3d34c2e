//! Katib's `pbt`: trials that go on from each other's checkpoints, which are on a volume of their experiment.
//!
//! Each trial has a folder of its own there, `<experiment>/<trial>`, in which it finds what the trial left that it goes on from.

use serde_json::{Value as Json, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::answer::owner;
use super::state::Shown;
use super::view::{foreign, text};

/// Katib's name of the algorithm.
pub(super) const PBT: &str = "pbt";
/// The setting that says where trials have the folder.
pub(super) const FOLDER: &str = "suggestion_trial_dir";
/// Labels of trials.
const GENERATION: &str = "pbt.suggestion.katib.kubeflow.org/generation";
const PARENT: &str = "pbt.suggestion.katib.kubeflow.org/parent";
/// The volume in the pods of trials.
const VOLUME: &str = "suggestion-volume";
/// Where the folder of the trial is that another one goes on from.
const BEFORE: &str = "/var/run/trainyard/parent";
/// How much is asked for on a cluster; where claims are folders it says nothing.
const SIZE: &str = "5Gi";
/// Takes over a folder: `sh -c INHERIT sh FROM TO`. A pod that is tried again begins there again, and not where it broke off.
const INHERIT: &str = r#"from=$1; to=$2
rm -rf "$to"/..?* "$to"/.[!.]* "$to"/*
cp -R "$from"/. "$to"/"#;

/// The labels of a trial that goes on from the trial of this number, if from any.
pub(super) fn labels(parent: Option<u64>, trials: &[Shown<'_>]) -> Json {
    let parent = parent.and_then(|parent| trials.iter().find(|trial| trial.number == parent));
    let before = parent.and_then(|parent| parent.foreign.pointer("/spec/labels")?.get(GENERATION)?.as_str());
    let generation = before.and_then(|before| before.parse::<u64>().ok()).map_or(0, |before| before + 1);
    let mut labels = json!({GENERATION: generation.to_string()});
    if let Some(parent) = parent {
        labels[PARENT] = json!(parent.name);
    }
    labels
}

/// Where a trial has its checkpoints.
pub(super) struct Checkpoints<'view> {
    experiment: Json,
    folder: String,
    trial: &'view str,
    parent: Option<&'view str>,
}

impl<'view> Checkpoints<'view> {
    /// Those of a trial of an experiment as it is viewed, if it has some.
    pub(super) fn of(experiment: Option<&Json>, trial: &'view Json) -> Option<Self> {
        let experiment = foreign(experiment?);
        let algorithm = experiment.pointer("/spec/algorithm")?;
        let settings = algorithm.get("algorithmSettings")?.as_array()?;
        let folder = settings.iter().find(|setting| text(setting, "/name") == FOLDER)?;
        let folder = text(folder, "/value").trim_end_matches('/').to_owned();
        let parent = trial.pointer("/spec/labels").and_then(|labels| labels.get(PARENT)).and_then(Json::as_str);
        let is_pbt = text(algorithm, "/algorithmName") == PBT;
        is_pbt.then(|| Self { folder, trial: text(trial, "/metadata/name"), parent, experiment })
    }

    fn claim_name(&self) -> String {
        format!("{}-{PBT}", text(&self.experiment, "/metadata/name"))
    }

    /// The creation of the volume, which changes nothing where it is there.
    pub(super) fn claim(&self) -> Action {
        let (name, namespace) = (self.claim_name(), text(&self.experiment, "/metadata/namespace"));
        let object = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "PersistentVolumeClaim".to_owned(),
            namespace: namespace.to_owned(),
            name: name.clone(),
        };
        let body = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner(&self.experiment)]},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": SIZE}}},
        });
        Action::Create { object, body }
    }

    /// Gives a pod the folder, at the container of this index.
    pub(super) fn mount(&self, pod: &mut Json, container: usize) {
        let experiment = text(&self.experiment, "/metadata/name").to_owned();
        let of = |trial: &str| format!("{experiment}/{trial}");
        let own = json!({"name": VOLUME, "mountPath": self.folder, "subPath": of(self.trial)});
        let claim = json!({"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim_name()}});
        push(&mut pod["spec"]["volumes"], claim);
        let Some(primary) = pod.pointer_mut(&format!("/spec/containers/{container}")) else { return };
        push(&mut primary["volumeMounts"], own.clone());
        let Some(parent) = self.parent else { return };
        let before = json!({"name": VOLUME, "mountPath": BEFORE, "subPath": of(parent), "readOnly": true});
        let mut first = json!({
            "name": "inherit-checkpoint", "image": primary.get("image"),
            "command": ["sh", "-c", INHERIT, "sh", BEFORE, self.folder], "volumeMounts": [before, own],
        });
        for field in ["imagePullPolicy", "securityContext"] {
            first[field] = primary.get(field).cloned().unwrap_or(Json::Null);
        }
        if let Some(first) = first.as_object_mut() {
            first.retain(|_, value| !value.is_null());
        }
        // Before what the user's own may look at.
        let others = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        pod["spec"]["initContainers"] = std::iter::once(first).chain(others).collect();
    }
}

fn push(list: &mut Json, item: Json) {
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().into_iter().for_each(|list| list.push(item.clone()));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    fn shown(number: u64, foreign: &Json) -> Shown<'_> {
        Shown { number, name: text(foreign, "/metadata/name"), foreign }
    }

    fn trial(name: &str, labels: &Json) -> Json {
        json!({"metadata": {"name": name}, "spec": {"labels": labels}})
    }

    #[test]
    fn trials_say_whom_they_go_on_from() {
        let first = trial("e-0", &labels(None, &[]));
        assert_eq!(first["spec"]["labels"], json!({GENERATION: "0"}));
        let second = labels(Some(0), &[shown(0, &first)]);
        assert_eq!(second, json!({GENERATION: "1", PARENT: "e-0"}));
        let second = trial("e-7", &second);
        let all = [shown(0, &first), shown(7, &second)];
        assert_eq!(labels(Some(7), &all), json!({GENERATION: "2", PARENT: "e-7"}));
    }

    #[test]
    fn a_pod_finds_what_its_parent_left() {
        let setting = json!({"name": FOLDER, "value": "/ckpt/"});
        let spec = json!({"algorithm": {"algorithmName": PBT, "algorithmSettings": [setting]}});
        let metadata = json!({"name": "e", "namespace": "n", "uid": "u"});
        let experiment = json!({"kind": "Experiment", "metadata": metadata, "foreign": {"spec": spec}});
        let pod = || json!({"spec": {"containers": [{"name": "side"}, {"name": "main", "image": "i"}]}});
        let mounted = |trial: &Json| {
            let mut pod = pod();
            Checkpoints::of(Some(&experiment), trial).unwrap().mount(&mut pod, 1);
            pod["spec"].take()
        };
        let first = mounted(&trial("e-0", &json!({GENERATION: "0"})));
        let own = |trial: &str| json!({"name": VOLUME, "mountPath": "/ckpt", "subPath": format!("e/{trial}")});
        assert_eq!(first["containers"][1]["volumeMounts"], json!([own("e-0")]));
        assert_eq!(first["volumes"], json!([{"name": VOLUME, "persistentVolumeClaim": {"claimName": "e-pbt"}}]));
        assert_eq!(first.get("initContainers"), None, "there is nothing to take over");
        let child = trial("e-3", &json!({GENERATION: "1", PARENT: "e-0"}));
        let second = mounted(&child);
        assert_eq!(second["containers"][1]["volumeMounts"], json!([own("e-3")]));
        let inherit = &second["initContainers"][0];
        assert_eq!((text(inherit, "/image"), &inherit["volumeMounts"][1]), ("i", &own("e-3")));
        assert_eq!(text(inherit, "/volumeMounts/0/subPath"), "e/e-0");
        let claim = Checkpoints::of(Some(&experiment), &child).unwrap().claim();
        assert_eq!((claim.subject().name.as_str(), claim.subject().namespace.as_str()), ("e-pbt", "n"));
        let mut other = experiment.clone();
        other["foreign"]["spec"]["algorithm"]["algorithmName"] = json!("random");
        assert!(Checkpoints::of(Some(&other), &child).is_none());
    }
}
