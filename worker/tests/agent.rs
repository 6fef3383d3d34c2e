//! The node agent over the embedded server: pods as users see them.
#![expect(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use trainyard_worker::agent::{ContainerMode, kept_pods};

mod support;
#[path = "support/world.rs"]
mod world;
use support::eventually;
use world::{World, condition, exit_code, gone, main_status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_to_its_end() {
    let world = World::new().await;
    let pod = world.sh("p", "Never", "echo hello from $HOSTNAME; echo step=1/2 loss=0.5").await;
    let ended = world.phase("p", "Succeeded").await;
    assert_eq!(exit_code(&ended), Some(0));
    assert_eq!(condition(&ended, "Ready"), "False");
    assert_eq!(condition(&ended, "Initialized"), "True");
    assert_eq!(world.log(&pod, 0), "hello from p\nstep=1/2 loss=0.5\n");
    let progress = ended.metadata.annotations.unwrap().remove("trainyard.dev/progress").unwrap();
    let progress: Value = serde_json::from_str(&progress).unwrap();
    assert_eq!((progress["step"].as_i64(), progress["totalSteps"].as_i64()), (Some(1), Some(2)));
    let records = trainyard_runtime::records::Records::open(&world.home.path().join("records.db")).await.unwrap();
    let query =
        trainyard_runtime::records::PointQuery { job_uid: pod.metadata.uid.clone().unwrap(), ..Default::default() };
    let points = records.points(&query).await.unwrap();
    assert_eq!(
        points.iter().map(|point| (point.name.as_str(), point.step, point.value)).collect::<Vec<_>>(),
        [("loss", 1, 0.5)]
    );
    world.event("ImageIgnored").await;
    let node = Api::<Node>::all(world.server.client()).get("node").await.unwrap();
    let status = node.status.unwrap();
    assert!(status.allocatable.unwrap().contains_key("cpu"));
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_and_restarted_as_the_policy_says() {
    let world = World::new().await;
    world.sh("never", "Never", "exit 3").await;
    let pod = world.sh("again", "OnFailure", "echo run; [ -f $0.marker ] || exit 1").await;
    world
        .pod(
            "missing",
            json!({"restartPolicy": "Never", "containers": [{"name": "main", "command": ["no-such-program"]}]}),
        )
        .await;
    let failed = world.phase("never", "Failed").await;
    assert_eq!(exit_code(&failed), Some(3));
    let missing = world.phase("missing", "Failed").await;
    let terminated = main_status(&missing).state.unwrap().terminated.unwrap();
    assert_eq!(terminated.exit_code, 127);
    assert!(terminated.message.unwrap().contains("in no folder of PATH"));
    let looping =
        world.until("again", "restarts", |pod| (main_status(pod).restart_count >= 3).then(|| pod.clone())).await;
    assert_eq!(main_status(&looping).last_state.unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(looping.status.unwrap().phase.as_deref(), Some("Running"));
    // Logs of older runs go: only that of the run before the wait is sure to be there.
    let waiting = |pod: &Pod| {
        let status = main_status(pod);
        (status.state?.waiting?.reason? == "CrashLoopBackOff").then_some(status.restart_count)
    };
    let run = world.until("again", "a wait", waiting).await;
    assert_eq!(world.log(&pod, run.try_into().unwrap()), "run\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_gets_its_grace_and_goes() {
    let world = World::new().await;
    let pod =
        world.sh("p", "Always", "trap 'echo bye > $OUT; exit 0' TERM; echo ready; while :; do sleep 0.01; done").await;
    world.phase("p", "Running").await;
    world.until("p", "ready", |_| world.log(&pod, 0).contains("ready").then_some(())).await;
    let uid = pod.metadata.uid.clone().unwrap();
    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    world.until_gone("p").await;
    // One order, one event: not one for each time the task looked.
    assert_eq!(world.event("Killing").await.count, Some(1));
    let folder = world.home.path().join("pods").join(&uid);
    eventually("its folder goes", async || gone(!folder.exists())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_loses_nothing() {
    let mut world = World::new().await;
    let gate = world.home.path().join("gate");
    let wait = format!("i=0; while [ ! -e {} ]; do i=$((i+1)); sleep 0.01; done", gate.display());
    let pod = world.sh("survivor", "Never", &format!("echo before; {wait}; echo after; exit 5")).await;
    let other = world.sh("removed", "Always", "echo up; exec sleep 1000").await;
    for name in ["survivor", "removed"] {
        world.phase(name, "Running").await;
    }
    world.stop_agent().await;
    // While nobody watches one ends, and the other's object is taken away.
    std::fs::write(&gate, "").unwrap();
    world.pods().delete("removed", &DeleteParams::default().grace_period(0)).await.unwrap();
    let state = world.home.path().join(format!("pods/{}/state/main.0.json", other.metadata.uid.clone().unwrap()));
    let running = trainyard_worker::shim::RunState::read(&state).unwrap();
    world.start_agent().await;
    let ended = world.phase("survivor", "Failed").await;
    assert_eq!(exit_code(&ended), Some(5));
    assert_eq!(main_status(&ended).restart_count, 0);
    assert_eq!(world.log(&pod, 0), "before\nafter\n");
    eventually("a removed pod ends", async || gone(!running.process.unwrap().is_alive() && !state.exists())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_goes_on_under_an_agent_that_would_refuse_it() {
    let mut world = World::new().await;
    let gate = world.home.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; echo after", gate.display());
    let container = json!({"name": "main", "command": ["sh", "-c", script]});
    let pod = world.pod("imageless", json!({"restartPolicy": "Never", "containers": [container]})).await;
    world.phase("imageless", "Running").await;
    world.stop_agent().await;
    world.start_agent_with(ContainerMode::Engine { program: "/bin/false".into() }).await;
    world.event("ImageRequired").await;
    std::fs::write(&gate, "").unwrap();
    let ended = world.phase("imageless", "Succeeded").await;
    assert_eq!(exit_code(&ended), Some(0));
    assert_eq!(world.log(&pod, 0), "after\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_come_first_and_in_order() {
    let world = World::new().await;
    let step = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", script], "volumeMounts": [{"name": "work", "mountPath": "/trainyard-work"}]});
    let pod = world
        .pod(
            "p",
            json!({"restartPolicy": "Never", "volumes": [{"name": "work", "emptyDir": {}}],
                   "initContainers": [step("one", "echo one >> /trainyard-work/f"), step("two", "echo two >> /trainyard-work/f")],
                   "containers": [step("main", "cat /trainyard-work/f")]}),
        )
        .await;
    let ended = world.phase("p", "Succeeded").await;
    assert_eq!(world.log(&pod, 0), "one\ntwo\n", "{:?}", ended.status);
    assert!(!std::path::Path::new("/trainyard-work").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_variables_come_from_the_api() {
    let world = World::new().await;
    world.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"greeting": "hello"}})).await;
    world
        .create::<k8s_openapi::api::core::v1::Secret>(
            json!({"metadata": {"name": "s"}, "stringData": {"key": "hidden"}}),
        )
        .await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                       "resources": {"requests": {"storage": "1Gi"}}}});
    world.create::<PersistentVolumeClaim>(claim).await;
    let script = "cat /ty/m/greeting; echo; cat /ty/s/key; echo; echo $GREETING $WHO; echo kept > /ty/data/f; stat -c %a /ty/s/key; \
                  (echo x > /ty/m/new) 2>/dev/null || echo read-only";
    let pod = world
        .pod(
            "p",
            json!({"restartPolicy": "Never",
                "volumes": [{"name": "m", "configMap": {"name": "m"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
                            {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
                "containers": [{"name": "main", "command": ["sh", "-c", script],
                    "env": [{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "greeting"}}},
                            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "WHO", "value": "from $(NAME)"}],
                    "volumeMounts": [{"name": "m", "mountPath": "/ty/m"}, {"name": "s", "mountPath": "/ty/s"},
                                     {"name": "d", "mountPath": "/ty/data", "subPath": "sub"}]}]}),
        )
        .await;
    let ended = world.phase("p", "Succeeded").await;
    assert_eq!(world.log(&pod, 0), "hello\nhidden\nhello from p\n400\nread-only\n", "{:?}", ended.status);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.server.client(), "default");
    let claim = claims.get("data").await.unwrap();
    assert_eq!(std::fs::read_to_string(world.claim_folder(&claim).join("sub/f")).unwrap(), "kept\n");
    assert_eq!(claim.status.unwrap().phase.as_deref(), Some("Bound"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_and_waited_for() {
    let world = World::new().await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "main", "command": ["sh", "-c", "echo $A"], "env": env}]});
    let pod = world.pod("p", spec).await;
    let message = world
        .until("p", "the reason", |pod| {
            let waiting = main_status(pod).state?.waiting?;
            (waiting.reason.as_deref() == Some("CreateContainerConfigError")).then_some(waiting.message?)
        })
        .await;
    assert!(message.contains("configmap \"late\" not found"), "{message}");
    world.create::<ConfigMap>(json!({"metadata": {"name": "late"}, "data": {"k": "here"}})).await;
    world.phase("p", "Succeeded").await;
    assert_eq!(world.log(&pod, 0), "here\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_run_is_refused_with_the_reason() {
    let world = World::new().await;
    world.pod("entrypoint", json!({"containers": [{"name": "main", "image": "busybox"}]})).await;
    let spec = json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
                      "containers": [{"name": "main", "command": ["true"]}]});
    world.pod("nfs", spec).await;
    for (name, reason, text) in [
        ("entrypoint", "CommandRequired", "has no command"),
        ("nfs", "VolumeNotAvailable", "nfs volumes are not available"),
    ] {
        let status = world.phase(name, "Failed").await.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some(reason));
        assert!(status.message.unwrap().contains(text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_stay_while_they_are_used_and_take_their_folders_along() {
    let mut world = World::new().await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.server.client(), "default");
    for name in ["used", "idle", "kept"] {
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        world.create::<PersistentVolumeClaim>(claim).await;
        let container = json!({"name": "main", "command": ["sleep", if name == "used" { "1000" } else { "0" }],
            "volumeMounts": [{"name": "v", "mountPath": "/data"}]});
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": name}});
        world.pod(name, json!({"restartPolicy": "Never", "volumes": [volume], "containers": [container]})).await;
    }
    world.phase("used", "Running").await;
    world.phase("idle", "Succeeded").await;
    world.phase("kept", "Succeeded").await;
    let folder = async |name: &str| world.claim_folder(&claims.get(name).await.unwrap());
    let (used, idle, kept) = (folder("used").await, folder("idle").await, folder("kept").await);
    std::fs::write(used.join("data"), "").unwrap();
    claims.delete("used", &DeleteParams::default()).await.unwrap();
    let until_gone = async |name: &str| {
        eventually(&format!("claim {name} goes"), async || gone(claims.get_opt(name).await.unwrap().is_none())).await;
    };
    let until_removed = async |path: &std::path::Path| {
        eventually(&format!("{} goes", path.display()), async || gone(!path.exists())).await;
    };
    // A claim that nobody uses goes at once: what the agent did for it shows that the other was looked at, too.
    claims.delete("idle", &DeleteParams::default()).await.unwrap();
    until_gone("idle").await;
    until_removed(&idle).await;
    assert!(claims.get("used").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(used.join("data").exists());
    world.pods().delete("used", &DeleteParams::default().grace_period(1)).await.unwrap();
    until_gone("used").await;
    until_removed(&used).await;
    // Nobody is there to see this one go.
    world.stop_agent().await;
    let free = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    claims.patch("kept", &kube::api::PatchParams::default(), &free).await.unwrap();
    claims.delete("kept", &DeleteParams::default()).await.unwrap();
    assert!(kept.exists());
    world.start_agent().await;
    until_removed(&kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_honoured_by_root_and_last_words_read() {
    let world = World::new().await;
    let container = json!({"name": "main", "command": ["sh", "-c", "echo $(id -u) $(id -g) $(id -G); echo sizes > /tmp/words/last; exit 3"],
        "workingDir": "/", "terminationMessagePath": "/tmp/words/last", "securityContext": {"runAsUser": 4711}});
    let spec = json!({"restartPolicy": "Never", "securityContext": {"runAsGroup": 4712, "supplementalGroups": [4713]},
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "containers": [container]});
    let pod = world.pod("p", spec).await;
    let ended = main_status(&world.phase("p", "Failed").await).state.unwrap().terminated.unwrap();
    assert!(world.event("SizeLimitNotEnforced").await.message.unwrap().contains("sizeLimit"));
    if !nix::unistd::geteuid().is_root() {
        assert!(world.event("SecurityContextIgnored").await.message.unwrap().contains("only root"));
        return;
    }
    assert_eq!(world.log(&pod, 0), "4711 4712 4712 4713\n");
    assert_eq!((ended.exit_code, ended.message.as_deref()), (3, Some("sizes\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_for_the_user_and_the_group_of_the_pod() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be others");
        return;
    }
    let world = World::new().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "hidden\n", "other": "x"}});
    world.create::<k8s_openapi::api::core::v1::Secret>(secret).await;
    let plain = json!({"name": "plain", "secret": {"secretName": "s"}});
    let items = json!([{"key": "key", "path": "a/own", "mode": 0o600}, {"key": "other", "path": "default"}]);
    let strict = json!({"name": "strict", "secret": {"secretName": "s", "defaultMode": 0o400, "items": items}});
    let mounts = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"name": name, "mountPath": format!("/ty/{name}")})).collect()
    };
    let script = "cat /ty/plain/key; stat -c '%a %g' /ty/plain/key";
    let container = json!({"name": "main", "command": ["sh", "-c", script], "workingDir": "/", "volumeMounts": mounts(&["plain"]),
        "securityContext": {"runAsUser": 4711, "runAsGroup": 4711}});
    let user =
        world.pod("user", json!({"restartPolicy": "Never", "volumes": [plain], "containers": [container]})).await;
    world.phase("user", "Succeeded").await;
    assert_eq!(world.log(&user, 0), "hidden\n644 0\n");
    let script = "cat /ty/strict/a/own; cd /ty/strict; stat -c '%a %g' a/own default; stat -c %A a | cut -c5-7; \
                  echo x > /ty/scratch/f && stat -c %g /ty/scratch/f";
    let container = json!({"name": "main", "command": ["sh", "-c", script], "workingDir": "/",
        "volumeMounts": mounts(&["strict", "scratch"]), "securityContext": {"runAsUser": 4711, "runAsGroup": 4711}});
    let spec = json!({"restartPolicy": "Never", "securityContext": {"fsGroup": 4720},
        "volumes": [strict, {"name": "scratch", "emptyDir": {}}], "containers": [container]});
    let group = world.pod("group", spec).await;
    world.phase("group", "Succeeded").await;
    assert_eq!(world.log(&group, 0), "hidden\n640 4720\n440 4720\nr-s\n4720\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_given_to_its_group_before_its_pod_runs_and_not_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root gives files to any group");
        return;
    }
    let mut world = World::new().await;
    let container = |name: &str, script: &str| {
        let mounts = json!([{"name": "scratch", "mountPath": "/ty/scratch"}]);
        json!({"name": name, "command": ["sh", "-c", script], "workingDir": "/", "volumeMounts": mounts})
    };
    let private =
        "cd /ty/scratch; echo x > f; chmod 600 f; echo made; while [ ! -e gate ]; do sleep 0.01; done; stat -c %a f";
    let mut late = container("late", "touch /ty/scratch/gate");
    late["env"] = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "x"}}}]);
    let spec = json!({"restartPolicy": "Never", "securityContext": {"fsGroup": 4720},
        "volumes": [{"name": "scratch", "emptyDir": {}}], "containers": [container("main", private), late]});
    let pod = world.pod("private", spec).await;
    eventually("the file is made", async || gone(world.log(&pod, 0) == "made\n")).await;
    world.stop_agent().await;
    world.start_agent().await;
    let later = json!({"metadata": {"name": "later"}, "data": {"x": "1"}});
    world.create::<ConfigMap>(later).await;
    // The surroundings of the other container were made anew under the first.
    world.phase("private", "Succeeded").await;
    assert_eq!(world.log(&pod, 0), "made\n600\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_found_by_name() {
    let world = World::new().await;
    let spec = json!({"clusterIP": "None", "selector": {"app": "server"}, "ports": [{"port": 80}]});
    world.create::<Service>(json!({"metadata": {"name": "svc"}, "spec": spec})).await;
    world.sh("server", "Always", "exec sleep 1000").await;
    let server = world.phase("server", "Running").await;
    let ip = server.status.unwrap().pod_ip.unwrap();
    let pod =
        world.sh("client", "Never", "getent hosts svc.default.svc.cluster.local; getent hosts svc; hostname").await;
    world.phase("client", "Succeeded").await;
    let log = world.log(&pod, 0);
    assert_eq!(log.lines().filter(|line| line.starts_with(&ip)).count(), 2, "{log}");
    assert!(log.ends_with("client\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_probes_act() {
    let world = World::new().await;
    let container = json!({"name": "main", "command": ["sleep", "1000"]});
    world.pod("late", json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [container]})).await;
    let probed = json!({"name": "main", "command": ["sh", "-c", "trap 'exit 0' TERM; touch $TRAINYARD_FILE/live; while :; do sleep 0.05; done"],
        "env": [{"name": "TRAINYARD_FILE", "value": world.home.path()}],
        "readinessProbe": {"exec": {"command": ["sh", "-c", "test -e $TRAINYARD_FILE/ready"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["sh", "-c", "test -e $TRAINYARD_FILE/live"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}});
    world.pod("probed", json!({"containers": [probed]})).await;
    let running = world.phase("probed", "Running").await;
    assert_eq!(condition(&running, "Ready"), "False");
    std::fs::write(world.home.path().join("ready"), "").unwrap();
    world.until("probed", "ready", |pod| (condition(pod, "Ready") == "True").then_some(())).await;
    std::fs::remove_file(world.home.path().join("live")).unwrap();
    world.until("probed", "a restart", |pod| (main_status(pod).restart_count >= 1).then_some(())).await;
    let late = world.phase("late", "Failed").await;
    assert_eq!(late.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_is_noticed_and_leaves_nothing() {
    let world = World::new().await;
    let pod = world.sh("p", "Never", "setsid sleep 1000 & echo $!; wait").await;
    world.phase("p", "Running").await;
    let stray: i32 = world.until("p", "the stray", |_| world.log(&pod, 0).trim().parse().ok()).await;
    let state = world.home.path().join(format!("pods/{}/state/main.0.json", pod.metadata.uid.clone().unwrap()));
    let run = trainyard_worker::shim::RunState::read(&state).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.shim.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = world.phase("p", "Failed").await;
    let terminated = main_status(&ended).state.unwrap().terminated.unwrap();
    assert_eq!((terminated.exit_code, terminated.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert!(trainyard_worker::shim::ProcessId::of(stray).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_a_jobs_pod_outlive_it_as_long_as_the_job_is_there() {
    let world = World::new().await;
    let job: kube::api::ApiResource =
        kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk("trainyard.dev", "v1alpha1", "TrainingJob"));
    let jobs: Api<kube::api::DynamicObject> = Api::namespaced_with(world.server.client(), "default", &job);
    let body = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "job"},
        "spec": {"command": ["true"]}});
    let job = jobs.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    let uid = job.metadata.uid.unwrap();
    let owner = json!([{"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "name": "job", "uid": uid, "controller": true}]);
    let spec = json!({"nodeName": "node", "restartPolicy": "Never",
        "containers": [{"name": "main", "command": ["echo", "last words"]}]});
    let pod = json!({"metadata": {"name": "p", "ownerReferences": owner}, "spec": spec});
    let pod = world.create::<Pod>(pod).await;
    world.phase("p", "Succeeded").await;
    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    let folder = world.home.path().join("pods").join(pod.metadata.uid.unwrap());
    eventually("its folder goes", async || gone(!folder.exists())).await;
    let kept = kept_pods(world.home.path(), &uid);
    let texts: Vec<String> = kept[0].lines("main", false).into_iter().map(|(_, text)| text).collect();
    assert_eq!((kept.len(), texts), (1, vec!["last words".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_in_memory_has_its_size_and_goes_with_the_pod() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return;
    }
    let world = World::new().await;
    let script = "stat -f -c %T /memory; head -c 2000000 /dev/zero > /memory/x || echo full; rm /memory/x; echo shared > /memory/y";
    let first = json!({"name": "first", "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/memory"}]});
    let main = json!({"name": "main", "command": ["sh", "-c", "cat /memory/y; stat -f -c %T /memory"],
        "volumeMounts": [{"name": "v", "mountPath": "/memory"}]});
    let volume = json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    let pod = world
        .pod(
            "p",
            json!({"restartPolicy": "Never", "volumes": [volume], "initContainers": [first], "containers": [main]}),
        )
        .await;
    world.phase("p", "Succeeded").await;
    let home = world.home.path().join("pods").join(pod.metadata.uid.as_deref().unwrap());
    let init = std::fs::read_to_string(home.join("containers/first/0.log")).unwrap();
    assert!(init.contains("tmpfs") && init.contains("full"), "{init}");
    assert_eq!(world.log(&pod, 0), "shared\ntmpfs\n");
    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    eventually("its folder goes, and the mount with it", async || gone(!home.exists())).await;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(home.to_str().unwrap()), "{mounts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_pod_has_no_gpus_though_its_object_stays() {
    let mut world = World::with_gpus(vec![0]).await;
    let with_gpu = |script: &str| {
        let limits = json!({"limits": {"nvidia.com/gpu": 1}});
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "command": ["sh", "-c", script], "resources": limits}]})
    };
    world.pod("first", with_gpu("true")).await;
    world.phase("first", "Succeeded").await;
    let second = world.pod("second", with_gpu("echo $CUDA_VISIBLE_DEVICES; exit 1")).await;
    world.phase("second", "Failed").await;
    assert_eq!(world.log(&second, 0), "0\n");
    world.stop_agent().await;
    world.start_agent().await;
    world.pod("third", with_gpu("echo up; exec sleep 1000")).await;
    world.phase("third", "Running").await;
    // What runs has its own.
    world.pod("fourth", with_gpu("true")).await;
    assert!(world.event("FailedMount").await.message.unwrap().contains("waits for 1 free GPUs"));
    world.pods().delete("third", &DeleteParams::default()).await.unwrap();
    world.phase("fourth", "Succeeded").await;
}

/// What a probe or a hook says of itself, in the order of `id -u`, `id -g`, `id -G`, and the first of its cgroups.
const WHO: &str = "echo $(id -u) $(id -g) $(id -G); cat /proc/self/cgroup";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_hooks_are_who_the_container_is() {
    let world = World::new().await;
    let say = |file: &str| json!({"exec": {"command": ["sh", "-c", format!("({WHO}) > /words/{file}.new && mv /words/{file}.new /words/{file}")]}});
    let script = format!("({WHO}) > /words/main; trap 'exit 0' TERM; while :; do sleep 0.05; done");
    let container = json!({"name": "main", "command": ["sh", "-c", script], "workingDir": "/",
        "securityContext": {"runAsUser": 4711}, "volumeMounts": [{"name": "words", "mountPath": "/words"}],
        "resources": {"limits": {"memory": "256Mi"}},
        "readinessProbe": say("probe"), "lifecycle": {"postStart": say("start"), "preStop": say("hook")}});
    let words = world.home.path().join("words");
    std::fs::create_dir(&words).unwrap();
    std::fs::set_permissions(&words, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let spec = json!({"securityContext": {"runAsGroup": 4712, "supplementalGroups": [4713]}, "terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "words", "hostPath": {"path": words}}], "containers": [container]});
    world.pod("p", spec).await;
    world.until("p", "ready", |pod| (condition(pod, "Ready") == "True").then_some(())).await;
    eventually("its first hook has run", async || gone(words.join("start").exists())).await;
    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    world.until_gone("p").await;
    let said = |file: &str| std::fs::read_to_string(words.join(file)).unwrap();
    let main = said("main");
    assert!(!nix::unistd::geteuid().is_root() || main.starts_with("4711 4712 4712 4713\n"), "{main}");
    for other in ["probe", "start", "hook"] {
        assert_eq!(said(other), main, "{other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_end_with_their_run() {
    let world = World::new().await;
    // Each probe is two processes, one of them in a session of its own, and stays until it is ended.
    let command = "setsid sleep 4242$RUN & sleep 4242$RUN; true";
    let probe = json!({"exec": {"command": ["sh", "-c", command]}, "timeoutSeconds": 1000});
    let script = "i=$(cat runs 2>/dev/null || echo 0); echo $((i+1)) > runs; while [ $i -lt 3 ] && ! [ -e go$i ]; do sleep 0.02; done; exit 1";
    let container = json!({"name": "main", "command": ["sh", "-c", script], "workingDir": world.home.path(), "readinessProbe": probe,
        "env": [{"name": "RUN", "value": "7"}]});
    world.pod("p", json!({"restartPolicy": "OnFailure", "containers": [container]})).await;
    let probes = || sleepers(&world, "42427");
    for run in 0..3 {
        eventually("its probe runs", async || gone(probes() == 2)).await;
        std::fs::write(world.home.path().join(format!("go{run}")), "").unwrap();
        world.until("p", "a restart", |pod| (main_status(pod).restart_count > run).then_some(())).await;
    }
    eventually("no probe is left of a run that ended", async || gone(probes() <= 2)).await;
    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    world.until_gone("p").await;
    eventually("no probe is left", async || gone(probes() == 0)).await;
}

/// Processes of this world's pods that sleep for so long.
fn sleepers(world: &World, seconds: &str) -> usize {
    let home = world.home.path().to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    all.filter(|pid| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cmdline") == format!("sleep\0{seconds}\0")
            && read("environ").contains("TRAINYARD_POD=p\0")
            && read("environ").contains(home)
    })
    .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_of_a_run_that_ended_unseen_are_ended_by_the_next_agent() {
    let mut world = World::new().await;
    let command = "setsid sleep 42428 & sleep 42428; true";
    let probe = json!({"exec": {"command": ["sh", "-c", command]}, "timeoutSeconds": 1000});
    let container = json!({"name": "main", "command": ["sh", "-c", "while ! [ -e go ]; do sleep 0.02; done"],
        "workingDir": world.home.path(), "readinessProbe": probe});
    let pod = world.pod("p", json!({"restartPolicy": "Never", "containers": [container]})).await;
    eventually("its probe runs", async || gone(sleepers(&world, "42428") == 2)).await;
    world.stop_agent().await;
    std::fs::write(world.home.path().join("go"), "").unwrap();
    let state = world.home.path().join(format!("pods/{}/state/main.0.json", pod.metadata.uid.clone().unwrap()));
    let ended = || trainyard_worker::shim::RunState::read(&state).is_ok_and(|run| run.ending.is_some());
    eventually("it ends", async || gone(ended())).await;
    world.start_agent().await;
    eventually("no probe is left", async || gone(sleepers(&world, "42428") == 0)).await;
    world.phase("p", "Succeeded").await;
}
