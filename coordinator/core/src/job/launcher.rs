//! Our program in pods whose image does not have it: an init container puts it into a folder that the pod's containers share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, PodSpec, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trainyard_proto::told;

/// The volume, and the init container.
const NAME: &str = "trainyard-launcher";
/// Where containers see it.
const FOLDER: &str = "/.trainyard";
/// What a command that is ours begins with.
const PROGRAM: &str = "trainyard";
/// What of it takes its variables apart, if it is told them as one.
const LAUNCHERS: [&str; 2] = ["launch", "torchrun"];
/// Where the operator's image has the program.
const IN_IMAGE: &str = "/trainyard";

/// What a launcher assumes where it is not told otherwise, and its ranks read from nobody but the launcher.
const ASSUMED: [(&str, &str); 4] = [
    ("TRAINYARD_GENERATION", "0"),
    ("TRAINYARD_RESTARTS", "0"),
    ("TRAINYARD_MAX_RESTARTS", "0"),
    ("TRAINYARD_STOP_GRACE_SECONDS", "30"),
];

/// Whether a container runs our launcher, which assumes of this variable what it says, and nothing else of the container is about it.
pub(super) fn assumes(container: &Container, variable: &EnvVar) -> bool {
    let launches = verb(container) == Some("launch");
    let known = (variable.name.as_str(), variable.value.as_deref().unwrap_or_default());
    launches && ASSUMED.contains(&known) && container.env_from.is_none() && !mentions(container, &variable.name)
}

/// What of our program a container runs.
fn verb(container: &Container) -> Option<&str> {
    let (program, rest) = container.command.as_deref()?.split_first()?;
    rest.first().filter(|_| program == PROGRAM).map(String::as_str)
}

/// What a container is told, as few variables as can be: our launcher takes apart what it is told as one, for itself and for its ranks.
/// A variable stays by itself where Kubernetes has to know it, and where something else of the container is about it.
pub(super) fn pack(container: &Container, env: Vec<EnvVar>) -> Vec<EnvVar> {
    // What runs beside the launcher would have to take them apart, too.
    let alone = container.lifecycle.is_none()
        && container.liveness_probe.is_none()
        && container.readiness_probe.is_none()
        && container.startup_probe.is_none();
    if !alone || !verb(container).is_some_and(|verb| LAUNCHERS.contains(&verb)) {
        return env;
    }
    let is_packed =
        |variable: &EnvVar| variable.value.as_deref().is_some_and(told::fits) && !mentions(container, &variable.name);
    let (packed, mut kept): (Vec<EnvVar>, Vec<EnvVar>) = env.into_iter().partition(is_packed);
    let pairs = packed.iter().map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default()));
    let value = told::pack(pairs);
    if !packed.is_empty() {
        kept.insert(0, EnvVar { name: told::VARIABLE.to_owned(), value: Some(value), value_from: None });
    }
    kept
}

/// Whether a container's own variables, its command or its arguments name a variable.
fn mentions(container: &Container, name: &str) -> bool {
    let texts = container.command.iter().chain(&container.args).flatten();
    let env = container.env.iter().flatten();
    let mut values = texts.chain(env.clone().filter_map(|variable| variable.value.as_ref()));
    env.clone().any(|variable| variable.name == name) || values.any(|text| text.contains(name))
}

/// Brings the program to every container of a pod that runs it.
pub(super) fn bring(spec: &mut PodSpec, image: &str) {
    let is_ours = |container: &&mut Container| {
        container.command.as_ref().and_then(|command| command.first()).is_some_and(|program| program == PROGRAM)
    };
    let mount = VolumeMount { name: NAME.to_owned(), mount_path: FOLDER.to_owned(), ..VolumeMount::default() };
    let mut like = None;
    for container in spec.containers.iter_mut().filter(is_ours) {
        if let Some(program) = container.command.as_mut().and_then(|command| command.first_mut()) {
            *program = format!("{FOLDER}/{PROGRAM}");
        }
        container.volume_mounts.get_or_insert_default().push(VolumeMount { read_only: Some(true), ..mount.clone() });
        like.get_or_insert_with(|| container.clone());
    }
    let Some(like) = like else { return };
    let volumes = spec.volumes.get_or_insert_default();
    volumes.push(Volume {
        name: NAME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    let init = Container {
        name: NAME.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some([IN_IMAGE, "init", FOLDER].map(str::to_owned).to_vec()),
        volume_mounts: Some(vec![mount]),
        resources: like.resources.as_ref().map(of_init),
        security_context: like.security_context,
        ..Container::default()
    };
    spec.init_containers.get_or_insert_default().insert(0, init);
}

/// The CPUs and the memory of the container that follows: so the pod needs no more than it did, its class of service stays, and a
/// namespace that insists on amounts has them. No GPU.
fn of_init(main: &ResourceRequirements) -> ResourceRequirements {
    let few = |all: &Option<BTreeMap<String, Quantity>>| {
        let kept = all.iter().flatten().filter(|(name, _)| ["cpu", "memory"].contains(&name.as_str()));
        let kept: BTreeMap<String, Quantity> = kept.map(|(name, amount)| (name.clone(), amount.clone())).collect();
        (!kept.is_empty()).then_some(kept)
    };
    ResourceRequirements { requests: few(&main.requests), limits: few(&main.limits), claims: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_containers_that_run_our_program_get_it() {
        let mut spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "theirs", "image": "a"}],
            "containers": [
                {"name": "trainer", "image": "user", "command": ["trainyard", "launch", "--", "python"],
                 "resources": {"limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}}},
                {"name": "sidecar", "image": "other", "command": ["sleep", "1"]},
            ],
        }))
        .unwrap();
        bring(&mut spec, "operator:1");
        let inits = spec.init_containers.unwrap();
        let names: Vec<&str> = inits.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, [NAME, "theirs"], "ours is the first, since theirs may take long");
        assert_eq!(inits[0].command.as_deref().unwrap(), ["/trainyard", "init", "/.trainyard"]);
        let limits = inits[0].resources.clone().unwrap().limits.unwrap();
        assert_eq!(limits.keys().collect::<Vec<_>>(), ["cpu", "memory"], "a GPU would be held twice");
        assert_eq!(spec.containers[0].command.as_ref().unwrap()[0], "/.trainyard/trainyard");
        assert_eq!(spec.containers[0].volume_mounts.as_ref().unwrap().len(), 1);
        assert_eq!(spec.containers[1].volume_mounts, None);
        assert_eq!(spec.volumes.unwrap().len(), 1);
    }

    #[test]
    fn a_launcher_is_not_told_what_it_assumes() {
        let variable =
            |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
        let none = variable("TRAINYARD_RESTARTS", "0");
        let container = |more: serde_json::Value| -> Container {
            let mut whole = json!({"name": "c", "command": ["trainyard", "launch", "--", "sh", "-c", "train"]});
            whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(whole).unwrap()
        };
        assert!(assumes(&container(json!({})), &none));
        assert!(!assumes(&container(json!({})), &variable("TRAINYARD_RESTARTS", "1")));
        assert!(!assumes(&container(json!({})), &variable("TRAINYARD_JOB", "0")));
        let others = [
            json!({"command": ["python", "train.py"]}),
            json!({"command": ["trainyard", "preflight"]}),
            json!({"args": ["echo $TRAINYARD_RESTARTS"]}),
            json!({"env": [{"name": "TRAINYARD_RESTARTS", "value": "7"}]}),
            json!({"env": [{"name": "TRY", "value": "$(TRAINYARD_RESTARTS)"}]}),
            json!({"envFrom": [{"configMapRef": {"name": "more"}}]}),
        ];
        for other in others {
            assert!(!assumes(&container(other.clone()), &none), "{other}");
        }
    }

    #[test]
    fn a_launcher_is_told_as_one_variable_what_nobody_else_has_to_know() {
        let text =
            |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
        let uid: EnvVar =
            serde_json::from_value(json!({"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}))
                .unwrap();
        let all = [text("RANK", "3"), uid.clone(), text("SIZE", "8"), text("FOLDER", "/data/$(UID)")];
        let told = |more: serde_json::Value| {
            let mut whole = json!({"name": "c", "command": ["trainyard", "launch", "--", "train"]});
            whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let container: Container = serde_json::from_value(whole).unwrap();
            let env = pack(&container, all.to_vec());
            env.iter().map(|variable| variable.name.clone()).collect::<Vec<_>>().join(" ")
        };
        let container: Container =
            serde_json::from_value(json!({"name": "c", "command": ["trainyard", "launch", "--", "train"]})).unwrap();
        let env = pack(&container, all.to_vec());
        assert_eq!(env[0].name, told::VARIABLE);
        assert_eq!(told::unpack(env[0].value.as_deref().unwrap()).collect::<Vec<_>>(), [("RANK", "3"), ("SIZE", "8")]);
        assert_eq!(env[1..], [uid, text("FOLDER", "/data/$(UID)")]);
        assert_eq!(told(json!({"command": ["trainyard", "torchrun", "train.py"]})), "TRAINYARD_TOLD UID FOLDER");
        assert_eq!(told(json!({"args": ["--rank", "$(RANK)"]})), "TRAINYARD_TOLD RANK UID FOLDER");
        assert_eq!(told(json!({"env": [{"name": "SIZE", "value": "7"}]})), "TRAINYARD_TOLD UID SIZE FOLDER");
        let probe = json!({"exec": {"command": ["sh", "-c", "check"]}});
        for other in [
            json!({"command": ["python", "train.py"]}),
            json!({"command": ["trainyard", "preflight"]}),
            json!({"livenessProbe": probe}),
            json!({"readinessProbe": probe}),
            json!({"startupProbe": probe}),
            json!({"lifecycle": {"preStop": probe}}),
        ] {
            assert_eq!(told(other.clone()), "RANK UID SIZE FOLDER", "{other}");
        }
    }

    #[test]
    fn a_pod_without_it_stays_as_it_is() {
        let before: PodSpec =
            serde_json::from_value(json!({"containers": [{"name": "c", "command": ["python"]}]})).unwrap();
        let mut spec = before.clone();
        bring(&mut spec, "operator:1");
        assert_eq!(spec, before);
    }
}
