//! What the planner of our own answers, in Katib's words.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use trainyard_proto::katib::{API_VERSION, EXPERIMENT, ExperimentSpec, NamedValue, ParameterSpec, TRIAL};
use trainyard_proto::plan::{Action, Fence, ObjectRef, Plan};
use trainyard_proto::tuning;

use super::collector::{Collector, Source};
use super::nas::Nas;
use super::population::{self, Checkpoints};
use super::state::Shown;
use super::view::{change_templates, foreign, kept, text, unguarded};
use super::{BEGINNING, CONTAINER, state, suggestion, template};
use crate::log::Log;
use crate::space::Value;

/// Lines that the file of a trial's metrics has begin so in its output.
pub(super) const RELAYED: &str = "[metrics] ";
/// Parts of event files begin so in the output of a trial.
pub(super) const EVENTS: &str = "[events] ";
/// Runs a command, and shows the lines of a file in its output: `sh -c RELAY sh FILE COMMAND...`.
const RELAY: &str = r#"file=$1; shift
mkdir -p "$(dirname "$file")"; : >>"$file"; rm -f "$file.relay"; mkfifo "$file.relay"
tail -n +1 -f "$file" >"$file.relay" 2>/dev/null & tail=$!
sed -u '/^\[metrics end\]$/q; s/^/[metrics] /' <"$file.relay" & sed=$!
"$@" & child=$!
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"; code=$?
if [ -n "$told" ]; then wait "$child"; code=$?; fi
printf '\n[metrics end]\n' >>"$file"
wait "$sed"; kill "$tail" 2>/dev/null
exit "$code""#;
/// The same for event files below a folder, of which parts are shown as `[events] OFFSET BASE64 FILE`. A part is so short that a line
/// is written at once, in one piece (`PIPE_BUF`).
const RELAY_EVENTS: &str = r#"folder=$1; shift
marks="$folder/.relay-$$"; mkdir -p "$marks"
show() {
find "$folder" -type f -name '*tfevents*' 2>/dev/null | sort | while IFS= read -r file; do
mark="$marks/$(printf %s "$file" | cksum | cut -d' ' -f1)"
at=$(cat "$mark" 2>/dev/null || echo 0); size=$(wc -c <"$file") || continue
while [ "$at" -lt "$size" ]; do
count=$((size - at)); [ "$count" -le 2400 ] || count=2400
printf '[events] %s %s %s\n' "$at" "$(tail -c +$((at + 1)) "$file" | head -c "$count" | base64 | tr -d '\n')" "$file"
at=$((at + count))
done
echo "$at" >"$mark"
done
}
"$@" & child=$!
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM INT
(ended=; trap 'ended=1' TERM; while [ -z "$ended" ]; do show; sleep 1 >/dev/null 2>&1 & wait "$!"; done) & shower=$!
wait "$child"; code=$?
if [ -n "$told" ]; then wait "$child"; code=$?; fi
kill -TERM "$shower" 2>/dev/null; wait "$shower"; show; rm -rf "$marks"
exit "$code""#;

/// What is done about an experiment, as it is viewed, whose trials are these, in their order.
#[must_use]
pub fn experiment(viewed: &Json, trials: &[Shown<'_>], known: Option<&Json>, plan: Plan, now_ms: i64) -> Plan {
    if viewed.pointer("/metadata/deletionTimestamp").is_some() {
        return plan;
    }
    let object = &foreign(viewed);
    let spec: ExperimentSpec =
        object.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok()).unwrap_or_default();
    let mut own = kept(viewed);
    let mut actions = Vec::new();
    for action in plan.actions {
        match action {
            Action::PatchStatus { object: of, patch, .. } if of.kind == "Experiment" => {
                merge(&mut own, &patch["status"]);
            }
            Action::Create { object: of, body } if of.kind == "Trial" => {
                actions.push(made(object, &spec, &body, trials))
            }
            other @ (Action::Create { .. }
            | Action::Delete { .. }
            | Action::Patch { .. }
            | Action::PatchStatus { .. }
            | Action::Bind { .. }
            | Action::Event { .. }) => actions.push(other),
        }
    }
    let phase = text(&own, "/phase").to_owned();
    actions.extend(patched(object, &state::experiment(object, &spec, own, trials, now_ms)));
    if !phase.is_empty() && (known.is_some() || !trials.is_empty()) {
        actions.extend(suggestion::actions(object, &spec, trials, known, &phase, now_ms));
    }
    Plan { actions, ..plan }
}

/// What is done about a trial, as it is viewed.
#[must_use]
pub fn trial(
    viewed: &Json,
    experiment: Option<&Json>,
    job: Option<&Json>,
    collector: Option<&Collector>,
    log: Option<&Log>,
    plan: Plan,
    now_ms: i64,
) -> Plan {
    if viewed.pointer("/metadata/deletionTimestamp").is_some() {
        return plan;
    }
    let object = &foreign(viewed);
    let mut own = kept(viewed);
    let mut actions = Vec::new();
    for action in plan.actions {
        match action {
            Action::PatchStatus { object: of, patch, .. } if of.kind == "Trial" => merge(&mut own, &patch["status"]),
            Action::Create { object: of, body } => {
                let checkpoints = Checkpoints::of(experiment, object);
                actions.extend(checkpoints.as_ref().map(Checkpoints::claim));
                let body = dressed(object, &unguarded(&body), collector, checkpoints.as_ref());
                actions.push(Action::Create { object: of, body });
            }
            other @ (Action::Delete { .. }
            | Action::Patch { .. }
            | Action::PatchStatus { .. }
            | Action::Bind { .. }
            | Action::Event { .. }) => actions.push(other),
        }
    }
    let conditions = job.and_then(|job| job.pointer("/status/conditions")).and_then(Json::as_array);
    let mut conditions = conditions.into_iter().flatten().filter(|condition| text(condition, "/status") == "True");
    let facts = state::TrialFacts {
        is_killed: experiment.is_some_and(|one| matches!(text(one, "/status/phase"), "Succeeded" | "Failed")),
        has_run: conditions.any(|condition| matches!(text(condition, "/type"), "Complete" | "Succeeded")),
        log,
        names: collector.map(Collector::names).unwrap_or_default(),
    };
    actions.extend(patched(object, &state::trial(object, own, &facts, now_ms)));
    Plan { actions, ..plan }
}

/// A reference to the object that controls another one.
pub(super) fn owner(object: &Json) -> Json {
    json!({
        "apiVersion": text(object, "/apiVersion"), "kind": text(object, "/kind"), "name": text(object, "/metadata/name"),
        "uid": text(object, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
    })
}

/// The patch that makes an object's status this one, if it is another.
pub(super) fn patched(object: &Json, wanted: &impl Serialize) -> Option<Action> {
    let wanted = serde_json::to_value(wanted).ok()?;
    let known = object.get("status").cloned().unwrap_or_else(|| json!({}));
    let patch = difference(&known, &wanted)?;
    let reference = ObjectRef {
        api_version: text(object, "/apiVersion").to_owned(),
        kind: text(object, "/kind").to_owned(),
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: text(object, "/metadata/name").to_owned(),
    };
    let uid = object.pointer("/metadata/uid").and_then(Json::as_str).map(str::to_owned);
    let fence = Fence { uid, resource_version: None };
    Some(Action::PatchStatus { object: reference, fence, patch: json!({ "status": patch }) })
}

/// The merge patch that makes one value another.
fn difference(old: &Json, new: &Json) -> Option<Json> {
    let (Json::Object(old), Json::Object(entries)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, entry) in entries {
        match old.get(name) {
            Some(known) => patch.extend(difference(known, entry).map(|change| (name.clone(), change))),
            None => {
                patch.insert(name.clone(), entry.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !entries.contains_key(*name)) {
        patch.insert(name.clone(), Json::Null);
    }
    (!patch.is_empty()).then_some(Json::Object(patch))
}

fn merge(value: &mut Json, patch: &Json) {
    let Json::Object(entries) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Some(table) = value.as_object_mut() else { return };
    for (name, entry) in entries {
        if entry.is_null() {
            table.shift_remove(name);
        } else {
            merge(table.entry(name).or_insert(Json::Null), entry);
        }
    }
}

/// The creation of a trial, of which our planner says number and parameters.
fn made(experiment: &Json, spec: &ExperimentSpec, body: &Json, trials: &[Shown<'_>]) -> Action {
    let (name, namespace) = (text(body, "/metadata/name"), text(body, "/metadata/namespace"));
    let value = |name: &str| {
        let value = body.pointer("/spec/parameters")?.get(name)?;
        serde_json::from_value::<Value>(value.clone()).ok().map(|value| value.to_string())
    };
    let named =
        |parameter: &ParameterSpec| Some(NamedValue { name: parameter.name.clone(), value: value(&parameter.name)? });
    let assignments: Vec<NamedValue> = match Nas::of(spec) {
        Some(nas) => nas.assignments(spec, &value).unwrap_or_default(),
        None => spec.parameters.iter().filter_map(named).collect(),
    };
    let given = spec.trial_template.clone().unwrap_or_default();
    let parameters = given.trial_parameters.unwrap_or_default();
    let run = given.trial_spec.unwrap_or_default();
    let mut run = template::filled(&run, &parameters, &assignments, name, namespace);
    if !run["metadata"].is_object() {
        run["metadata"] = json!({});
    }
    run["metadata"]["name"] = json!(name);
    run["metadata"]["namespace"] = json!(namespace);
    let is_pbt = spec.algorithm.as_ref().is_some_and(|algorithm| algorithm.algorithm_name == population::PBT);
    let parent = body.pointer("/spec/continues").and_then(Json::as_u64);
    let given_labels = if is_pbt { population::labels(parent, trials) } else { Json::Null };
    let mut labels = json!({EXPERIMENT: text(experiment, "/metadata/name")});
    if is_pbt {
        merge(&mut labels, &given_labels);
    }
    let fields = [
        ("objective", json!(spec.objective)),
        ("parameterAssignments", json!(assignments)),
        ("runSpec", run),
        ("retainRun", json!(given.retain)),
        ("metricsCollector", json!(spec.metrics_collector_spec)),
        ("primaryPodLabels", json!(given.primary_pod_labels)),
        ("primaryContainerName", json!(given.primary_container_name)),
        ("successCondition", json!(given.success_condition)),
        ("failureCondition", json!(given.failure_condition)),
        ("labels", given_labels),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    let trial: Map<String, Json> = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    let body = json!({
        "apiVersion": API_VERSION, "kind": "Trial",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels,
            "annotations": {BEGINNING: body["spec"].to_string()}, "ownerReferences": [owner(experiment)],
        },
        "spec": trial,
    });
    let object = ObjectRef {
        api_version: API_VERSION.to_owned(),
        kind: "Trial".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Action::Create { object, body }
}

/// The job of a trial, with what Katib puts on it in place of what our own have.
fn dressed(trial: &Json, body: &Json, collector: Option<&Collector>, checkpoints: Option<&Checkpoints<'_>>) -> Json {
    let mut job = body.clone();
    let name = text(trial, "/metadata/name");
    let labels = [(EXPERIMENT, text(trial, "/metadata/labels/katib.kubeflow.org~1experiment")), (TRIAL, name)];
    label(&mut job["metadata"], &labels);
    if text(&job, "/kind") == "TrainJob" {
        relabel(&mut job["spec"]["labels"], &labels);
        // Its pods are made by its runtime.
        if job["spec"]["trainer"].is_object() {
            variable(&mut job["spec"]["trainer"], "KATIB_TRIAL_NAME", name);
        }
    }
    let primary = text(trial, "/spec/primaryContainerName");
    change_templates(&mut job["spec"], &mut |pod| {
        label(&mut pod["metadata"], &labels);
        let containers = pod.pointer("/spec/containers").and_then(Json::as_array).into_iter().flatten();
        let at = containers.into_iter().position(|one| text(one, "/name") == primary).unwrap_or(0);
        let Some(container) = pod.pointer_mut(&format!("/spec/containers/{at}")) else { return };
        variable(container, "KATIB_TRIAL_NAME", name);
        let container_name = text(container, "/name").to_owned();
        let mounted = collector.and_then(|collector| relay(container, collector.source()));
        pod["metadata"]["annotations"][CONTAINER] = json!(container_name);
        checkpoints.into_iter().for_each(|checkpoints| checkpoints.mount(pod, at));
        if mounted.is_some() {
            let volumes = &mut pod["spec"]["volumes"];
            if !volumes.is_array() {
                *volumes = json!([]);
            }
            volumes.as_array_mut().into_iter().for_each(|all| all.push(json!({"name": VOLUME, "emptyDir": {}})));
        }
    });
    job
}

/// The volume for a file of metrics.
const VOLUME: &str = "metrics-volume";

fn label(metadata: &mut Json, labels: &[(&str, &str)]) {
    if !metadata.is_object() {
        *metadata = json!({});
    }
    relabel(&mut metadata["labels"], labels);
}

fn relabel(all: &mut Json, labels: &[(&str, &str)]) {
    if !all.is_object() {
        *all = json!({});
    }
    for (name, value) in labels {
        all[*name] = json!(value);
    }
    if let Some(all) = all.as_object_mut() {
        // These are for trials of our own.
        all.shift_remove(tuning::EXPERIMENT);
        all.shift_remove(tuning::TRIAL);
    }
}

fn variable(container: &mut Json, name: &str, value: &str) {
    let env = &mut container["env"];
    if !env.is_array() {
        *env = json!([]);
    }
    if let Some(env) = env.as_array_mut().filter(|env| !env.iter().any(|one| text(one, "/name") == name)) {
        env.push(json!({"name": name, "value": value}));
    }
}

/// Has a container show metrics that it writes into files. `Some` if these need a volume. Without a command nothing can be done.
fn relay(container: &mut Json, source: &Source) -> Option<()> {
    let (script, path, folder) = match source {
        Source::Output | Source::Pushed => return None,
        Source::File(file) => (RELAY, file, file.rsplit_once('/').map_or("/", |(folder, _)| folder)),
        Source::Events(folder) => (RELAY_EVENTS, folder, folder.as_str()),
    };
    let words = |name: &str| container.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    let command = words("command");
    if command.is_empty() {
        return None;
    }
    let mut relayed = vec![json!("sh"), json!("-c"), json!(script), json!("sh"), json!(path)];
    relayed.extend(command);
    container["command"] = Json::Array(relayed);
    let mounts = container.get("volumeMounts").and_then(Json::as_array).into_iter().flatten();
    let is_mounted = mounts.into_iter().any(|mount| {
        let at = text(mount, "/mountPath").trim_end_matches('/');
        !at.is_empty() && (folder == at || folder.starts_with(&format!("{at}/")))
    });
    if is_mounted || folder.is_empty() {
        return None;
    }
    if !container["volumeMounts"].is_array() {
        container["volumeMounts"] = json!([]);
    }
    let mount = json!({"name": VOLUME, "mountPath": folder});
    container["volumeMounts"].as_array_mut().map(|mounts| mounts.push(mount))
}
