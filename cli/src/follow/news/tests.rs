use serde_json::{Value, json};

use super::*;
use crate::resource::Resource;
use crate::target::Found;

fn scene(kind: &str, group: &str, spec: Value) -> Scene {
    let resource = Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        short_names: Vec::new(),
        namespaced: true,
    };
    Scene::new(Found { resource, object: json!({"metadata": {"name": "job", "uid": "j"}, "spec": spec}) })
}

fn pod(name: &str, phase: &str, status: Value) -> Value {
    let mut status = status;
    status["name"] = json!("c");
    json!({"metadata": {"name": format!("job-{name}"), "uid": name}, "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
        "status": {"phase": phase, "containerStatuses": [status]}})
}

fn running() -> Value {
    json!({"restartCount": 0, "state": {"running": {}}})
}

fn lines(notes: Vec<Note>) -> Vec<String> {
    notes
        .into_iter()
        .flat_map(|note| std::iter::once(format!("{} {}", note.word, note.text)).chain(note.more))
        .collect()
}

#[test]
fn a_crash_loop_is_told_at_each_restart_with_last_words_and_once_how_to_bound_it() {
    let roles = json!({"pytorchReplicaSpecs": {"Master": {"replicas": 1}, "Worker": {"replicas": 1}}});
    let mut scene = scene("PyTorchJob", "kubeflow.org", roles);
    let (mut news, words) = (News::new(None, true), Words::default());
    let crashed = |restarts: i64, state: Value| {
        let run = restarts - i64::from(state["running"].is_object());
        let ended = json!({"exitCode": 1, "containerID": run, "message": "ModuleNotFoundError: cloudpickle"});
        pod(
            "worker-0",
            "Running",
            json!({"restartCount": restarts, "state": state, "lastState": {"terminated": ended}}),
        )
    };
    let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed"}});
    scene.see_pod(pod("master-0", "Running", running()));
    scene.see_pod(pod("worker-0", "Running", running()));
    assert_eq!(lines(news.of_scene(&scene, &words, false)), ["Running 2/2 ranks"]);
    scene.see_pod(crashed(1, json!({"running": {}})));
    assert_eq!(
        lines(news.of_scene(&scene, &words, false)),
        [
            "Restarting job-worker-0 ended with exit code 1: restart 1 of this pod",
            "  | ModuleNotFoundError: cloudpickle",
            "hint: nothing bounds the restarts; with `spec.runPolicy.backoffLimit: 3` the job fails after three of them",
        ]
    );
    scene.see_pod(crashed(1, waiting()));
    assert_eq!(
        lines(news.of_scene(&scene, &words, false)),
        [
            "Restarting job-worker-0 ended with exit code 1: restart 2 of this pod, in 10s",
            "  | ModuleNotFoundError: cloudpickle",
        ]
    );
    assert_eq!(news.phase().detail(), "1 of 2 pods waits to be started again");
    assert_eq!(lines(news.of_scene(&scene, &words, false)), [""; 0], "each is told once");
    let event = json!({"involvedObject": {"uid": "worker-0"}, "type": "Warning", "reason": "BackOff",
        "message": "container c ended with exit code 1 after 2 restarts"});
    assert_eq!(news.of_event(&event, &scene), None, "and not by an event again");
}

#[test]
fn the_restart_of_a_gang_is_told_once() {
    let mut scene = scene("TrainingJob", "trainyard.dev", json!({"restartPolicy": "OnFailure"}));
    let (mut news, words) = (News::new(None, true), Words::default());
    scene.see_pod(pod("worker-0", "Running", running()));
    assert_eq!(lines(news.of_scene(&scene, &words, false)), ["Running 1/1 ranks"]);
    let ended = json!({"exitCode": 7, "message": "trainyard: rank 0 failed first: exit code 7\ntrainyard: its last words:\n  | oh"});
    scene.see_pod(pod("worker-0", "Failed", json!({"state": {"terminated": ended}})));
    let mut job = scene.found.object.clone();
    let message = "TrainingJob job is restarting (restart 1 of 3): rank 0 (pod job-worker-0) failed first: exit code 7";
    job["status"] = json!({"phase": "Restarting", "restarts": 1, "message": message});
    scene.see_job(job.clone());
    assert_eq!(
        lines(news.of_scene(&scene, &words, false)),
        [
            "Restarting all ranks (restart 1 of 3): rank 0 (pod job-worker-0) failed first: exit code 7",
            "its last words:",
            "  | oh"
        ]
    );
    assert_eq!(lines(news.of_scene(&scene, &words, false)), [""; 0]);
    // The next one is over before anybody looks.
    let again =
        "TrainingJob job is running again: generation 3 of 1 ranks, 41 ms after rank 0 was ended by signal SIGKILL";
    let condition = json!({"type": "Running", "status": "True", "message": again});
    job["status"] = json!({"phase": "Running", "restarts": 2, "conditions": [condition]});
    scene.see_job(job);
    scene.see_pod(pod("worker-0", "Running", running()));
    assert_eq!(
        lines(news.of_scene(&scene, &words, false)),
        ["Restarting all ranks (restart 2): rank 0 was ended by signal SIGKILL", "Running 1/1 ranks"]
    );
}

#[test]
fn ranks_that_finish_one_after_the_other_are_told_once_and_as_finished() {
    let mut scene = scene("TrainingJob", "trainyard.dev", json!({"replicas": 3}));
    let (mut news, words) = (News::new(Some(2), true), Words::default());
    for name in ["a", "b", "c"] {
        scene.see_pod(pod(name, "Running", running()));
    }
    let told = lines(news.of_scene(&scene, &words, false));
    assert_eq!(told[0], "Running 3/3 ranks");
    assert!(told[1].starts_with("3 ranks share the 2 CPUs"), "{told:?}");
    let over = |name| pod(name, "Succeeded", json!({"state": {"terminated": {"exitCode": 0}}}));
    scene.see_pod(over("a"));
    assert_eq!(lines(news.of_scene(&scene, &words, false)), ["Running 2 ranks, 1 of 3 has finished"]);
    scene.see_pod(over("b"));
    assert_eq!(lines(news.of_scene(&scene, &words, false)), [""; 0]);
    assert_eq!(news.phase().detail(), "1 rank, 2 of 3 have finished");
}
