//! The shim, run as the agent runs it: exit codes, logs, stops, orphans, mounts.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use trainyard_worker::sandbox::cgroup::{Cgroups, ContainerCgroup, Limits};
use trainyard_worker::sandbox::{Mount, Sandbox};
use trainyard_worker::shim::{Beside, Hook, RunState, ShimSpec, launch, order_stop, run_beside};
use trainyard_worker_core::pod::Ending;

mod support;
use support::until;

const SHIM: &str = env!("CARGO_BIN_EXE_trainyard-shim");

struct Case {
    folder: tempfile::TempDir,
    spec: ShimSpec,
}

impl Case {
    fn new(argv: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let spec = ShimSpec {
            container: "main".into(),
            attempt: 0,
            streak: 0,
            state_file: path("main.0.json"),
            log_file: path("0.log"),
            log_max_bytes: 1 << 20,
            log_keep: 2,
            progress_file: path("progress.json"),
            metrics_file: path("metrics.jsonl"),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()), ("NAME".into(), "value".into())],
            dir: folder.path().to_str().unwrap().to_owned(),
            sandbox: None,
            cgroup: None,
            post_start: None,
            pre_stop: None,
            grace_ms: 30_000,
            engine: None,
            user: None,
            message_file: None,
        };
        Self { folder, spec }
    }

    fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    fn launch(&self) {
        let mut launched = launch(Path::new(SHIM), &self.spec).unwrap();
        std::thread::spawn(move || launched.child.wait());
    }

    fn state(&self) -> Option<RunState> {
        RunState::read(&self.spec.state_file).ok()
    }

    fn running(&self) -> RunState {
        until("it runs", || self.state().filter(|state| state.process.is_some()))
    }

    fn ended(&self) -> Ending {
        until("it ends", || self.state().and_then(|state| state.ending))
    }

    fn run(&self) -> Ending {
        self.launch();
        self.ended()
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.spec.log_file).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn alive(pid: i32) -> bool {
    trainyard_worker::shim::ProcessId::of(pid).is_some()
}

#[test]
fn the_exit_code_and_every_line_are_kept() {
    let case = Case::sh("echo out; echo err >&2; echo $NAME; printf unfinished; exit 3");
    let ending = case.run();
    assert_eq!((ending.exit_code, ending.signal, ending.reason.as_str()), (3, None, "Error"));
    let mut log = case.log();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout F value", "stdout P unfinished"]);
    assert!(ending.message.contains("unfinished"), "{}", ending.message);
}

#[test]
fn lines_that_found_no_room_are_counted() {
    let case = Case::sh("echo one; echo two; exit 0");
    std::os::unix::fs::symlink("/dev/full", &case.spec.log_file).unwrap();
    let ending = case.run();
    assert_eq!((ending.exit_code, ending.lost_log_lines), (0, 2));
}

#[test]
fn a_signal_is_told_as_kubernetes_tells_it() {
    let ending = Case::sh("kill -SEGV $$").run();
    assert_eq!((ending.exit_code, ending.signal), (139, Some(11)));
}

#[test]
fn failures_to_start_say_what_to_do() {
    let ending = Case::new(&["no-such-program"]).run();
    assert_eq!((ending.exit_code, ending.reason.as_str()), (127, "StartError"));
    assert!(ending.message.contains("is in no folder of PATH"), "{}", ending.message);

    let mut case = Case::new(&["./script"]);
    std::fs::write(case.file("script"), "#!/bin/sh\n").unwrap();
    let ending = case.run();
    assert_eq!(ending.exit_code, 126);
    assert!(ending.message.contains("chmod +x"), "{}", ending.message);

    case = Case::new(&["true"]);
    case.spec.dir = "/no/such/folder".into();
    let ending = case.run();
    assert_eq!(ending.exit_code, 128);
    assert!(ending.message.contains("workingDir \"/no/such/folder\""), "{}", ending.message);
}

#[test]
fn one_run_is_never_run_twice() {
    let case = Case::sh("echo once >> ran; sleep 0.2");
    case.launch();
    case.launch();
    case.launch();
    case.ended();
    assert_eq!(std::fs::read_to_string(case.file("ran")).unwrap(), "once\n");
}

#[test]
fn nothing_is_left_behind() {
    // A grandchild in a session of its own, deaf to everything polite.
    let case = Case::sh(
        "setsid sh -c 'trap \"\" TERM HUP; echo $$ > orphan; sleep 1000' & while ! [ -s orphan ]; do sleep 0.01; done; exit 0",
    );
    let ending = case.run();
    assert_eq!(ending.exit_code, 0);
    let orphan: i32 = std::fs::read_to_string(case.file("orphan")).unwrap().trim().parse().unwrap();
    assert!(!alive(orphan));
    let shim = case.state().unwrap().shim;
    until("the shim ends", || (!shim.is_alive()).then_some(()));
}

#[test]
fn a_stop_terminates_first() {
    let case = Case::sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    case.launch();
    until("it is ready", || case.log().contains(&"stdout F ready".to_owned()).then_some(()));
    order_stop(&case.state().unwrap(), 10_000).unwrap();
    assert_eq!(case.ended().exit_code, 7);
    assert!(case.log().contains(&"stdout F bye".to_owned()));
}

#[test]
fn a_stop_kills_when_the_grace_is_over() {
    let case = Case::sh("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    case.launch();
    until("it is ready", || case.log().contains(&"stdout F ready".to_owned()).then_some(()));
    order_stop(&case.state().unwrap(), 60_000).unwrap();
    until("the order is noted", || case.state().unwrap().stop_deadline_ms);
    // A second order with less grace wins.
    order_stop(&case.state().unwrap(), 50).unwrap();
    let ending = case.ended();
    assert_eq!((ending.exit_code, ending.signal), (137, Some(9)));
}

#[test]
fn a_post_start_hook_runs_beside_the_program_and_ends_it_when_it_fails() {
    let hook = |script: &str| Some(Hook::Exec(["sh", "-c", script].map(ToOwned::to_owned).to_vec()));
    let mut case = Case::sh("until [ -e hooked ]; do sleep 0.01; done; cat hooked");
    case.spec.post_start = hook("echo $NAME > new; mv new hooked");
    let ending = case.run();
    assert_eq!((ending.exit_code, case.log()), (0, vec!["stdout F value".to_owned()]));
    let mut case = Case::sh("exec sleep 1000");
    case.spec.post_start = hook("exit 4");
    let ending = case.run();
    assert_eq!(ending.signal, Some(15));
    assert!(ending.message.contains("the postStart hook failed with exit code 4"), "{}", ending.message);
    // It has its pod's grace, and no more.
    let mut case = Case::sh("trap '' TERM; touch ready; while :; do sleep 0.01; done");
    case.spec.post_start = hook("until [ -e ready ]; do sleep 0.01; done; exit 4");
    case.spec.grace_ms = 0;
    assert_eq!(case.run().signal, Some(9));
    let state = case.state().unwrap();
    let ending = state.ending.unwrap();
    assert!(state.stop_deadline_ms.unwrap() <= ending.finished_ms, "{ending:?}");
}

#[test]
fn the_pre_stop_hook_comes_before_the_signal() {
    let mut case = Case::sh("trap 'cat hooked; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    case.spec.pre_stop = Some(Hook::Exec(vec!["sh".into(), "-c".into(), "echo hooked $NAME > hooked".into()]));
    case.launch();
    until("it is ready", || case.log().contains(&"stdout F ready".to_owned()).then_some(()));
    order_stop(&case.state().unwrap(), 10_000).unwrap();
    assert_eq!(case.ended().exit_code, 0);
    assert!(case.log().contains(&"stdout F hooked value".to_owned()), "{:?}", case.log());
}

#[test]
fn a_command_beside_a_program_whose_cgroup_it_may_not_join_runs() {
    let case = Case::sh("exec sleep 1000");
    case.launch();
    let state = case.running();
    // What nobody may write, not even root.
    std::os::unix::fs::symlink("/proc/sys/kernel/ostype", case.file("cgroup.procs")).unwrap();
    let cgroup = ContainerCgroup { folders: vec![case.folder.path().to_owned()], oom_file: None };
    assert_eq!(cgroup.join().unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let beside = Beside { process: state.process.unwrap(), user: None, cgroup: Some(cgroup) };
    let argv = ["sh", "-c", "echo $NAME"].map(ToOwned::to_owned);
    let output = run_beside(Path::new(SHIM), &beside, &argv).unwrap().output().unwrap();
    order_stop(&state, 0).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "value\n", "{output:?}");
}

#[test]
fn a_killed_shim_takes_its_program_along() {
    let case = Case::sh("echo ready; exec sleep 1000");
    case.launch();
    let state = case.running();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(state.shim.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let program = state.process.unwrap();
    until("the program ends", || (!program.is_alive()).then_some(()));
    assert!(!case.state().unwrap().is_watched());
}

#[test]
fn progress_and_metrics_are_found_in_the_output() {
    let case = Case::sh("echo step=1/4 loss=0.5; echo '{\"step\":2,\"loss\":0.25}'; echo nothing");
    case.run();
    let progress: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.file("progress.json")).unwrap()).unwrap();
    assert_eq!((progress["step"].as_u64(), progress["totalSteps"].as_u64()), (Some(2), Some(4)));
    assert_eq!(progress["metrics"]["loss"], 0.25);
    assert_eq!(std::fs::read_to_string(case.file("metrics.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn an_end_outlasts_a_missing_folder() {
    let case = Case::sh("echo ready; sleep 0.1");
    case.launch();
    let state = case.running();
    std::fs::remove_dir_all(case.folder.path()).unwrap();
    until("the shim ends", || (!state.shim.is_alive()).then_some(()));
}

/// Tests of mounts need a right that not every machine gives.
fn namespaces() -> Option<bool> {
    let output = std::process::Command::new(SHIM).args(["shim", "check-namespaces"]).output().unwrap();
    match String::from_utf8(output.stdout).unwrap().trim() {
        "root" => Some(false),
        "user" => Some(true),
        why => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn with_mounts(case: &mut Case, user_namespace: bool, mounts: Vec<(PathBuf, &str, bool)>) {
    let scratch = case.file("root");
    std::fs::create_dir(&scratch).unwrap();
    let mounts = mounts
        .into_iter()
        .map(|(source, target, read_only)| Mount {
            volume: "v".into(),
            source,
            sub_path: None,
            target: target.into(),
            read_only,
        })
        .collect();
    case.spec.sandbox = Some(Sandbox {
        user_namespace,
        scratch,
        dir: PathBuf::from(&case.spec.dir),
        host_name: Some("pod-0".into()),
        mounts,
    });
}

#[test]
fn volumes_are_where_the_manifest_says() {
    let Some(user) = namespaces() else { return };
    for user_namespace in [user, true] {
        let mut case = Case::sh(
            "cat /trainyard-test/data/in; echo made > /trainyard-test/data/out; cat /etc/hosts; hostname; \
             (echo x > /etc/trainyard-test/deep/ro/f) 2>/dev/null || echo refused; ls /etc/passwd; touch /etc/beside 2>/dev/null || echo sealed",
        );
        let data = case.file("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("in"), "content\n").unwrap();
        let hosts = case.file("hosts");
        std::fs::write(&hosts, "127.1.2.3 pod-0\n").unwrap();
        let ro = case.file("ro");
        std::fs::create_dir(&ro).unwrap();
        with_mounts(
            &mut case,
            user_namespace,
            vec![
                (hosts, "/etc/hosts", true),
                (data.clone(), "/trainyard-test/data", false),
                (ro, "/etc/trainyard-test/deep/ro", true),
            ],
        );
        let ending = case.run();
        assert_eq!(
            case.log(),
            [
                "stdout F content",
                "stdout F 127.1.2.3 pod-0",
                "stdout F pod-0",
                "stdout F refused",
                "stdout F /etc/passwd",
                "stdout F sealed"
            ],
            "{}",
            ending.message
        );
        assert_eq!(std::fs::read_to_string(data.join("out")).unwrap(), "made\n");
        assert!(!Path::new("/trainyard-test").exists() && !Path::new("/etc/trainyard-test").exists());
        assert!(!Path::new("/etc/beside").exists());
    }
}

#[test]
fn the_working_directory_and_the_volumes_stay_writable_around_what_is_mounted_in_them() {
    let Some(user) = namespaces() else { return };
    for user_namespace in [user, true] {
        let mut case = Case::sh(
            "cat in/deep/file in/conf; echo kept > beside; cat /trainyard-test/in/file; echo kept > /trainyard-test/beside",
        );
        let (inner, volume, outside) = (case.file("inner"), case.file("volume"), case.file("outside"));
        for folder in [&inner, &volume, &outside] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(inner.join("file"), "content\n").unwrap();
        // The working directory is the containers' as well.
        std::os::unix::fs::symlink(&outside, case.file("link")).unwrap();
        let own = |path: &str| case.file(path).to_str().unwrap().to_owned();
        let (deep, conf, link) = (own("in/deep"), own("in/conf"), own("link/new"));
        let mounts = vec![
            (inner.clone(), deep.as_str(), false),
            (inner.join("file"), conf.as_str(), true),
            (inner.clone(), link.as_str(), false),
            (volume.clone(), "/trainyard-test", false),
            (inner.clone(), "/trainyard-test/in", false),
        ];
        with_mounts(&mut case, user_namespace, mounts);
        let ending = case.run();
        assert_eq!(case.log(), ["stdout F content"; 3], "{}", ending.message);
        assert_eq!(ending.exit_code, 0);
        for folder in [case.folder.path(), volume.as_path()] {
            assert_eq!(std::fs::read_to_string(folder.join("beside")).unwrap(), "kept\n");
        }
        assert!(!Path::new("/trainyard-test").exists() && !outside.join("new").exists());
    }
}

#[test]
fn a_part_of_a_volume_that_a_link_leads_out_of_is_not_mounted() {
    let Some(user_namespace) = namespaces() else { return };
    let mut case = Case::sh("cat /trainyard-test/f");
    let (data, outside) = (case.file("data"), case.file("outside"));
    for folder in [&data, &outside] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("f"), "").unwrap();
    }
    // The agent saw a folder there; a container of the pod has put a link in its place since.
    std::os::unix::fs::symlink("../outside", data.join("part")).unwrap();
    with_mounts(&mut case, user_namespace, vec![(data, "/trainyard-test", false)]);
    case.spec.sandbox.as_mut().unwrap().mounts[0].sub_path = Some("part".into());
    let ending = case.run();
    assert_eq!(ending.reason, "StartError");
    assert!(ending.message.contains("subPath part leads out of its volume"), "{}", ending.message);
}

#[test]
fn a_mount_that_cannot_be_is_named() {
    let Some(user_namespace) = namespaces() else { return };
    let mut case = Case::sh("true");
    let source = case.file("data");
    std::fs::create_dir(&source).unwrap();
    with_mounts(&mut case, user_namespace, vec![(source, "/etc/passwd", false)]);
    let ending = case.run();
    assert_eq!(ending.reason, "StartError");
    assert!(ending.message.contains("volume \"v\" at /etc/passwd: a file is in the way"), "{}", ending.message);
}

#[test]
fn too_much_memory_is_told_as_such() {
    let cgroups = Cgroups::detect();
    let name = format!("test-{}", std::process::id());
    let Ok(group) = cgroups.create(&name, Limits { memory_bytes: Some(32 << 20), cpu_milli: Some(1_000) }) else {
        eprintln!("skipped: {cgroups:?}");
        return;
    };
    let mut case = Case::sh("head -c 200000000 /dev/zero | tail -c 150000000 | wc -c; exit 1");
    case.spec.cgroup = Some(group.clone());
    let ending = case.run();
    assert_eq!(ending.reason, "OOMKilled");
    assert!(group.folders.iter().all(|folder| !folder.exists()));
}
