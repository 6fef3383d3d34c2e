//! Why pods on a cluster are where they are. There others decide; what they wrote down is read, not guessed.

use serde_json::Value;
use trainyard_proto::plan::{ObjectRef, Reason};

use crate::follow::failure;
use crate::follow::stream::statuses;
use crate::job;
use crate::target::Found;

/// All that holds an object up, by its own status and that of its pods.
pub(super) fn reasons(found: &Found, pods: &[Value]) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = pods.iter().filter_map(of_pod).collect();
    if found.resource.is_job()
        && job::end(&found.object).is_none()
        && pods.is_empty()
        && let Some(message) = job::unattended(&found.resource, &found.object)
    {
        let hint = "ask the cluster's administrator which operator looks after this kind".to_owned();
        let api_version = found.resource.api_version();
        reasons.push(reason(&found.object, &api_version, &found.resource.kind, "NoController", message, Some(hint)));
    }
    // Before it has pods, a job of ours says itself what it waits for.
    let status = &found.object["status"];
    if let Some(message) = status["message"].as_str().filter(|_| pods.is_empty() && status["phase"] == "Pending") {
        let (object, version) = (&found.object, found.resource.api_version());
        reasons.push(reason(object, &version, &found.resource.kind, "WaitsForPlace", message.to_owned(), None));
    }
    reasons
}

fn reason(object: &Value, api_version: &str, kind: &str, code: &str, message: String, hint: Option<String>) -> Reason {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    Reason {
        subject: ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: text("namespace"),
            name: text("name"),
        },
        code: code.to_owned(),
        message,
        hint,
    }
}

fn of_pod(pod: &Value) -> Option<Reason> {
    let say = |code: &str, message: String, hint: Option<String>| Some(reason(pod, "v1", "Pod", code, message, hint));
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    if let Some(condition) = condition(pod, "PodScheduled").filter(|condition| condition["status"] == "False") {
        let message = text(&condition["message"]);
        let hint = placement(&message).map(str::to_owned);
        return say(condition["reason"].as_str().unwrap_or("Unschedulable"), message, hint);
    }
    for status in statuses(pod) {
        let container = status["name"].as_str().unwrap_or_default();
        let waiting = &status["state"]["waiting"];
        if let Some(code) = waiting["reason"].as_str().filter(|code| *code != "PodInitializing") {
            let image = status["image"].as_str().unwrap_or_default();
            let message = match (text(&waiting["message"]), code) {
                (message, _) if !message.is_empty() => format!("container `{container}`: {message}"),
                (_, "ContainerCreating") => {
                    format!("container `{container}`: its image, volumes and network are being set up")
                }
                (..) => format!("container `{container}` waits ({code}, image {image})"),
            };
            return say(code, message, cure(code, image, pod));
        }
        let terminated = &status["state"]["terminated"];
        if let Some(exit) = terminated["exitCode"].as_i64().filter(|code| *code != 0) {
            let code = terminated["reason"].as_str().unwrap_or("Error");
            let words = match text(&terminated["message"]) {
                words if words.is_empty() => String::new(),
                words => format!(": {words}"),
            };
            let message = format!("container `{container}` ended with {}{words}", failure::describe_code(exit));
            return say(code, message, failure::cure(exit, code).map(str::to_owned));
        }
    }
    // Evicted, preempted, lost with its node: the pod's own words.
    let of_pod = text(&pod["status"]["message"]);
    if let Some(code) = pod["status"]["reason"].as_str() {
        return say(code, if of_pod.is_empty() { "the pod was ended by the cluster".to_owned() } else { of_pod }, None);
    }
    let silent = pod["status"]["phase"] == "Pending" && statuses(pod).next().is_none();
    match pod["spec"]["nodeName"].as_str() {
        None if silent => {
            let by = pod["spec"]["schedulerName"].as_str().unwrap_or("default-scheduler");
            let message = format!("no scheduler has looked at the pod yet; it asks for `{by}`");
            say("NotScheduled", message, Some("is that scheduler installed and running?".to_owned()))
        }
        Some(node) if silent => {
            let hint = format!("`trainyard describe node {node}` tells whether that node is ready");
            say("NotStarted", format!("node {node} has not begun with the pod yet"), Some(hint))
        }
        Some(_) | None => None,
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// What to do about the scheduler's sentence.
fn placement(message: &str) -> Option<&'static str> {
    let table = [
        ("scheduling gates", "a controller holds it back until the whole job has room; its own status says why"),
        (
            "Insufficient",
            "ask for less (resources.requests), or wait until other pods end; `trainyard describe node` shows what nodes have",
        ),
        (
            "untolerated taint",
            "nodes are reserved or not ready: add the toleration that the taint names, if you may use them",
        ),
        (
            "node affinity/selector",
            "no node has the labels that nodeSelector or affinity ask for; `trainyard get nodes -o wide`",
        ),
        ("no nodes available", "the cluster has no node at the moment; wait for one, or ask its administrator"),
        ("persistentvolumeclaim", "create the claim that the pod names, or correct its name"),
        (
            "unbound immediate PersistentVolumeClaims",
            "the claim has no volume yet; `trainyard describe pvc NAME` tells why",
        ),
        ("Too many pods", "the nodes hold as many pods as they may; wait until others end"),
    ];
    table.into_iter().find(|(words, _)| message.contains(words)).map(|(_, hint)| hint)
}

/// What to do about a container that waits.
fn cure(code: &str, image: &str, pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match code {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(format!("check the name and tag of `{image}`, and that the cluster may pull it (imagePullSecrets)"))
        }
        "CreateContainerConfigError" => {
            Some("a ConfigMap or Secret that the container names is missing: create it, or correct its name".to_owned())
        }
        "CrashLoopBackOff" => Some(format!("see why it ended with `trainyard logs pod/{name} --previous`")),
        "RunContainerError" | "CreateContainerError" => {
            Some("the image cannot run like this: check the command and its paths".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code_and_hint(status: Value) -> (String, String) {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "node1"}, "status": status});
        of_pod(&pod).map(|reason| (reason.code, reason.hint.unwrap_or_default())).unwrap_or_default()
    }

    #[test]
    fn the_schedulers_own_words_are_kept_with_what_to_do() {
        let words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available.";
        let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]}});
        let reason = of_pod(&pod).unwrap();
        assert_eq!((reason.code.as_str(), reason.message.as_str()), ("Unschedulable", words));
        assert!(reason.hint.unwrap().contains("ask for less"));
    }

    #[test]
    fn waiting_and_ended_containers() {
        let waiting = |reason: &str| {
            json!({"phase": "Pending", "containerStatuses": [
            {"name": "c", "image": "reg/x:1", "state": {"waiting": {"reason": reason}}}]})
        };
        let (code, hint) = code_and_hint(waiting("ImagePullBackOff"));
        assert!(code == "ImagePullBackOff" && hint.contains("reg/x:1"), "{hint}");
        assert_eq!(code_and_hint(waiting("ContainerCreating")).0, "ContainerCreating");
        let ended = json!({"phase": "Failed", "containerStatuses": [
            {"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
        let (code, hint) = code_and_hint(ended);
        assert!(code == "OOMKilled" && hint.contains("memory"), "{hint}");
        assert_eq!(code_and_hint(json!({"phase": "Pending"})).0, "NotStarted");
        assert_eq!(code_and_hint(json!({"phase": "Running"})).0, "");
    }
}
