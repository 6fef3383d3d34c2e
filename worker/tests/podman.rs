//! Containers by podman, over the embedded server. Where podman is missing or does not work the tests say that they were
//! skipped; with `TRAINYARD_REQUIRE_PODMAN=1` they fail instead.
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, Service};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use trainyard_runtime::embedded::{Embedded, Options};
use trainyard_worker::agent::{Agent, AgentConfig, ContainerMode, Containers, Handle};
use trainyard_worker::shim::RunState;

mod support;
use support::eventually;

const SHIM: &str = env!("CARGO_BIN_EXE_trainyard-shim");
const IMAGE: &str = "localhost/trainyard-test:1";

/// A machine of tests may be a container itself, without the right to raise limits: podman then has to leave them alone.
const SETTINGS: &str =
    "[containers]\ndefault_ulimits=[]\n[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";

struct World {
    home: tempfile::TempDir,
    settings: PathBuf,
    server: Embedded,
    agent: Option<Handle>,
}

fn podman(settings: &Path, args: &[&str]) -> Output {
    Command::new("podman").args(args).env("CONTAINERS_CONF", settings).output().unwrap()
}

/// The image of all tests here; that of an earlier run goes, unless a container still has it.
fn image(settings: &Path, at: &Path) -> Result<(), String> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    let make = || {
        podman(settings, &["rmi", IMAGE]);
        make_image(settings, at)
    };
    MADE.get_or_init(make).clone()
}

/// The image is as small as can be: a shell, an entrypoint and a command.
fn make_image(settings: &Path, at: &Path) -> Result<(), String> {
    let root = at.join("rootfs");
    for folder in ["bin", "etc", "tmp", "app"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    std::fs::copy(busybox.ok_or("busybox-static is not installed")?, root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "echo", "sleep", "env", "pwd", "id", "hostname", "true", "test", "touch", "head", "tr"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    let tar = at.join("rootfs.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(packed.success());
    let entrypoint = r#"ENTRYPOINT ["/bin/echo","entrypoint"]"#;
    let made = podman(
        settings,
        &[
            "import",
            "--change",
            entrypoint,
            "--change",
            r#"CMD ["default"]"#,
            "--change",
            "WORKDIR /app",
            tar.to_str().unwrap(),
            IMAGE,
        ],
    );
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let tried = podman(settings, &["run", "--rm", "--network", "host", IMAGE]);
    if tried.stdout == b"entrypoint default\n" {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&tried.stderr).into_owned())
    }
}

impl World {
    /// Nothing where podman cannot be used; loudly.
    async fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let settings = home.path().join("containers.conf");
        std::fs::write(&settings, SETTINGS).unwrap();
        let usable = ContainerMode::choose(Containers::Podman)
            .map_err(|error| error.to_string())
            .and_then(|_| image(&settings, &home.path().join("image")));
        if let Err(why) = usable {
            assert!(std::env::var_os("TRAINYARD_REQUIRE_PODMAN").is_none(), "podman is required: {why}");
            // Past the test runner, which keeps what passing tests print to itself.
            let mut err = std::io::stderr();
            let _ = writeln!(err, "\n!!! SKIPPED: podman cannot be used here, so nothing of it is tested: {why}\n");
            return None;
        }
        let server = Embedded::open(Options::new(home.path())).await.unwrap();
        let mut world = Self { home, settings, server, agent: None };
        world.start_agent().await;
        Some(world)
    }

    async fn start_agent(&mut self) {
        let mut config = AgentConfig::for_home(self.home.path());
        config.mode = ContainerMode::choose(Containers::Podman).unwrap();
        config.shim_program = PathBuf::from(SHIM);
        config.node_name = "node".into();
        config.backoff_base_ms = 50;
        config.base_env.retain(|(key, _)| key != "CONTAINERS_CONF");
        config.base_env.push(("CONTAINERS_CONF".into(), self.settings.to_string_lossy().into_owned()));
        self.agent = Some(Agent::start(self.server.client(), config).await.unwrap());
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.server.client(), "default")
    }

    async fn pod(&self, name: &str, container: Value) -> Pod {
        let mut container = container;
        container["name"] = json!("main");
        container["image"] = container.get("image").cloned().unwrap_or(json!(IMAGE));
        let spec = json!({"nodeName": "node", "restartPolicy": "Never", "terminationGracePeriodSeconds": 3,
            "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container]});
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    async fn sh(&self, name: &str, script: &str) -> Pod {
        self.pod(name, json!({"command": ["sh", "-c", script]})).await
    }

    async fn until<T>(&self, name: &str, what: &str, check: impl Fn(&Pod) -> Option<T>) -> T {
        let look = async || {
            let pod = self.pods().get_opt(name).await.unwrap().ok_or_else(Box::default)?;
            check(&pod).map_or_else(|| Err(Box::new(pod.status.clone())), |found| Ok(Some(found)))
        };
        eventually(&format!("{name}: {what}"), look).await
    }

    async fn ended(&self, name: &str) -> ContainerStateTerminated {
        self.until(name, "its end", |pod| {
            let status = pod.status.as_ref()?;
            matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")).then_some(())?;
            status.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.clone()
        })
        .await
    }

    async fn until_gone(&self, name: &str) {
        eventually(&format!("{name} goes"), async || match self.pods().get_opt(name).await.unwrap() {
            None => Ok(Some(())),
            Some(pod) => Err(Box::new(pod.status)),
        })
        .await;
    }

    fn log(&self, pod: &Pod) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap();
        let path = self.home.path().join(format!("pods/{uid}/containers/main/0.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    async fn until_said(&self, pod: &Pod, text: &str) {
        let look = async || {
            let log = self.log(pod);
            if log.contains(text) { Ok(Some(())) } else { Err(log) }
        };
        eventually(&format!("{text:?} is said"), look).await;
    }

    /// The containers of this home that podman still knows.
    fn containers(&self) -> Vec<String> {
        let filter = format!("label=dev.trainyard.home={}", self.home.path().display());
        let listed = podman(&self.settings, &["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
        String::from_utf8_lossy(&listed.stdout).lines().map(ToOwned::to_owned).collect()
    }

    async fn until_no_container(&self) {
        self.until_containers(&[]).await;
    }

    async fn until_containers(&self, wanted: &[String]) {
        let look = async || {
            let there = self.containers();
            if there == wanted { Ok(Some(())) } else { Err(there) }
        };
        eventually("only these containers are left", look).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in self.containers() {
            podman(&self.settings, &["rm", "--force", "--time", "0", &name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_give_what_the_manifest_leaves_open() {
    let Some(world) = World::new().await else { return };
    let defaults = world.pod("defaults", json!({})).await;
    let args = world.pod("args", json!({"args": ["$(WHO)"], "env": [{"name": "WHO", "value": "me"}]})).await;
    let script = "until test -e /data/hook; do sleep 0.05; done; pwd; hostname; echo $PATH; echo $SECRET; cat /data/file; echo out >> /data/file; echo bye > /dev/termination-log; exit 7";
    let all = world
        .pod(
            "all",
            json!({"command": ["sh"], "args": ["-c", script], "workingDir": "/tmp",
            "env": [{"name": "PATH", "value": "/bin:/opt/x"}, {"name": "SECRET", "value": "a\nb"}],
            "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hook > /data/hook"]}}}, "volumeMounts": [{"name": "v", "mountPath": "/data"}],
            "securityContext": {"runAsUser": 4711}}),
        )
        .await;
    let user = world.pod("user", json!({"command": ["id", "-u"], "securityContext": {"runAsUser": 4711}})).await;
    assert_eq!(world.ended("defaults").await.exit_code, 0);
    assert_eq!(world.log(&defaults), "entrypoint default\n");
    world.ended("args").await;
    assert_eq!(world.log(&args), "entrypoint me\n");
    let end = world.ended("all").await;
    assert_eq!((end.exit_code, end.message.as_deref()), (7, Some("bye\n")));
    let log = world.log(&all);
    assert!(log.starts_with("/tmp\nall\n/bin:/opt/x\na b\n"), "{log}");
    let volume = world.home.path().join(format!("pods/{}/volumes/v/file", all.metadata.uid.as_deref().unwrap()));
    assert_eq!(std::fs::read_to_string(volume).unwrap(), "out\n");
    world.ended("user").await;
    assert_eq!(world.log(&user), "4711\n");
    // What podman would obey is the container's alone.
    let told = json!([{"name": "STORAGE_DRIVER", "value": "nonesuch"}, {"name": "JSON", "value": "{\"a\": 'b\\n'}"},
        {"name": "LINE", "value": "x=y #z $B"}, {"name": "EMPTY", "value": ""}]);
    let script = "echo \"$STORAGE_DRIVER|$JSON|$LINE|${EMPTY-unset}\"";
    let told = world.pod("told", json!({"command": ["sh", "-c", script], "env": told})).await;
    world.ended("told").await;
    assert_eq!(world.log(&told), "nonesuch|{\"a\": 'b\\n'}|x=y #z $B|\n");
    world.until_no_container().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why() {
    let Some(world) = World::new().await else { return };
    world.pod("nothing", json!({"command": ["nonesuch"]})).await;
    world.pod("ours", json!({"command": ["trainyard", "launch", "--", "true"]})).await;
    world.pod("absent", json!({"image": "localhost/absent:1", "imagePullPolicy": "Never"})).await;
    world.pod("unpullable", json!({"image": "127.0.0.1:1/absent:1"})).await;
    let end = world.ended("nothing").await;
    assert_eq!((end.exit_code, end.reason.as_deref()), (127, Some("StartError")));
    assert!(end.message.unwrap().contains("nonesuch"));
    let end = world.ended("ours").await;
    assert!(end.message.as_deref().unwrap().contains("needs glibc"), "{end:?}");
    world.pod("imageless", json!({"image": "", "command": ["true"]})).await;
    let refused =
        world.until("imageless", "refused", |pod| pod.status.clone().filter(|status| status.reason.is_some())).await;
    assert_eq!((refused.phase.as_deref(), refused.reason.as_deref()), (Some("Failed"), Some("ImageRequired")));
    assert!(refused.message.unwrap().contains("--containers none"));
    for (name, reason) in [("absent", "ErrImageNeverPull"), ("unpullable", "ErrImagePull")] {
        world
            .until(name, reason, |pod| {
                let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.clone()?;
                (state.waiting?.reason.as_deref() == Some(reason)).then_some(())
            })
            .await;
        // A stop does not wait for an image.
        world.pods().delete(name, &DeleteParams::default()).await.unwrap();
        world.until_gone(name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_end_a_container() {
    let Some(world) = World::new().await else { return };
    let eat = "x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo survived";
    let limits = json!({"limits": {"memory": "32Mi", "cpu": "500m"}});
    world.pod("hungry", json!({"command": ["sh", "-c", eat], "resources": limits})).await;
    let end = world.ended("hungry").await;
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("OOMKilled")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_gentle_first_and_leaves_nothing() {
    let Some(world) = World::new().await else { return };
    let polite = json!({"command": ["sh", "-c", "trap 'echo told after $(cat /data/hook); exit 0' TERM; echo up; while :; do sleep 0.1; done"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /data/hook"]}}},
        "volumeMounts": [{"name": "v", "mountPath": "/data"}]});
    let polite = world.pod("polite", polite).await;
    let deaf = world.sh("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done").await;
    world.until_said(&polite, "up").await;
    world.until_said(&deaf, "up").await;
    let log = world.home.path().join(format!("pods/{}/containers/main/0.log", polite.metadata.uid.as_deref().unwrap()));
    // The folder goes with the pod: links keep what is to be looked at.
    let kept = world.home.path().join("kept.log");
    std::fs::hard_link(log, &kept).unwrap();
    world.pods().delete("polite", &DeleteParams::default()).await.unwrap();
    world.until_gone("polite").await;
    assert!(std::fs::read_to_string(kept).unwrap().contains("told after hook"));
    world.pods().delete("deaf", &DeleteParams::default()).await.unwrap();
    world.until_gone("deaf").await;
    world.until_no_container().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_run_inside_and_names_lead_to_pods() {
    let Some(world) = World::new().await else { return };
    let probed = json!({"command": ["sh", "-c", "echo up; while :; do sleep 0.1; done"],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/app/ready"]}, "periodSeconds": 1, "timeoutSeconds": 10}});
    let pod = world.pod("probed", probed).await;
    world.until_said(&pod, "up").await;
    let name = world.containers().first().cloned().unwrap();
    assert!(podman(&world.settings, &["exec", &name, "touch", "/app/ready"]).status.success());
    let ready = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(pod.status.clone()?.pod_ip?)
    };
    let ip = world.until("probed", "ready", ready).await;
    let service = json!({"metadata": {"name": "svc"}, "spec": {"clusterIP": "None", "selector": {"app": "probed"}}});
    let services: Api<Service> = Api::namespaced(world.server.client(), "default");
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let client = world.sh("client", "while :; do cat /etc/hosts; sleep 0.2; done").await;
    world.until_said(&client, " svc.default.svc.cluster.local").await;
    let line = world.log(&client);
    assert!(line.lines().any(|line| line.starts_with(&ip) && line.contains(" svc ")), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_the_agent_and_not_their_pods() {
    let Some(mut world) = World::new().await else { return };
    let script = "trap 'exit 0' TERM; echo up; while ! test -e /tmp/go; do sleep 0.1; done; exit 9";
    let stays = world.sh("stays", script).await;
    let orphan = world.sh("orphan", script).await;
    let lost = world.sh("lost", script).await;
    for pod in [&stays, &orphan, &lost] {
        world.until_said(pod, "up").await;
    }
    let name = |pod: &Pod| format!("trainyard-{}-main-0", pod.metadata.uid.as_deref().unwrap());
    let state = |pod: &Pod| {
        let uid = pod.metadata.uid.as_deref().unwrap();
        RunState::read(&world.home.path().join(format!("pods/{uid}/state/main.0.json"))).unwrap()
    };
    let shims = [state(&orphan).shim.pid, state(&lost).shim.pid];
    world.agent.take().unwrap().shutdown().await;
    for shim in shims {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    // As after a disk was restored from a backup: podman knows a container of a pod that nobody else knows.
    let gone = world.home.path().join(format!("pods/{}", orphan.metadata.uid.as_deref().unwrap()));
    std::fs::remove_dir_all(gone).unwrap();
    world.pods().delete("orphan", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.start_agent().await;
    let end = world.ended("lost").await;
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    world.until_containers(&[name(&stays)]).await;
    assert!(podman(&world.settings, &["exec", &name(&stays), "touch", "/tmp/go"]).status.success());
    assert_eq!(world.ended("stays").await.exit_code, 9);
    world.until_no_container().await;
}
