//! Container engines: podman and docker, driven by their command line.
//!
//! The engine's client runs under the shim like any program; it hands signals on, and its output is the container's.
//! The shim takes the container away when the client has ended, in whatever way; what a dead shim leaves is taken away
//! by the agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};

use super::config::{ContainerMode, Containers, EngineError};
use super::shared::Shared;
use crate::sandbox::Mount;
use crate::sandbox::cgroup::Limits;
use crate::shim::{EngineContainer, User};

/// Where a container finds our own binary.
pub(super) const OWN_BINARY: &str = "/usr/local/bin/trainyard";
/// What a container must have for it.
pub(super) const OWN_BINARY_HINT: &str = "the binary of trainyard that is mounted into the container needs glibc and libgcc_s; \
    an image FROM scratch or of Alpine has neither: take one based on Debian, Ubuntu, Fedora or the like, as those of PyTorch are";
/// Marks the containers of a state folder.
const HOME_LABEL: &str = "dev.trainyard.home";
/// Pods' uids are UUIDs.
const UID_LENGTH: usize = 36;

/// One run of a container.
pub(super) struct Run<'a> {
    pub(super) container: &'a EngineContainer,
    pub(super) home: &'a Path,
    pub(super) image: &'a str,
    /// As in the manifest: says whether the entrypoint is replaced.
    pub(super) command: &'a [String],
    /// Command and arguments, expanded.
    pub(super) argv: &'a [String],
    pub(super) env: &'a Environment,
    /// Where what is told by file is.
    pub(super) env_file: &'a Path,
    pub(super) mounts: &'a [Mount],
    pub(super) host_name: &'a str,
    pub(super) dir: Option<&'a str>,
    pub(super) gpus: &'a [u32],
    pub(super) limits: Limits,
    pub(super) user: Option<&'a User>,
    pub(super) security: Option<&'a SecurityContext>,
}

/// A container's variables, by how its engine is told them. The engine's client runs as we do: a variable of the pod that
/// the client, its loader or its libraries obey must not be one of its own. Values stay out of the process list, too.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    /// Lines of a file, one variable each.
    pub(super) file: String,
    /// What no line can hold, handed on through the client's own environment, where it means nothing.
    by_name: Vec<(String, String)>,
    /// What neither can hold.
    by_value: Vec<(String, String)>,
}

impl Environment {
    pub(super) fn of(variables: &[(String, String)]) -> Self {
        let mut env = Self::default();
        for (key, value) in variables {
            if is_line(key, value) {
                env.file.extend([key, "=", value, "\n"]);
            } else if obeyed_by_clients(key) {
                env.by_value.push((key.clone(), value.clone()));
            } else {
                env.by_name.push((key.clone(), value.clone()));
            }
        }
        env
    }
}

/// Clients read such files in chunks of 64 KiB, the terminator included, and fail at longer lines.
const LINE_MAX: usize = 60 << 10;

/// Whether all clients of all versions read the same from a line: some take quotes and backslashes for their own.
fn is_line(key: &str, value: &str) -> bool {
    let plain = |text: &str| !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '\\' | '`'));
    let name = !key.is_empty() && !key.starts_with('#') && !key.contains(char::is_whitespace);
    name && plain(key) && plain(value) && value.trim() == value && key.len() + value.len() < LINE_MAX
}

/// What Go, the loader and the C library look at, and the engines' own.
fn obeyed_by_clients(key: &str) -> bool {
    const PREFIXES: &[&str] =
        &["LD_", "GO", "GLIBC_", "MALLOC_", "LC_", "SSL_", "PODMAN_", "BUILDAH_", "_", "LISTEN_", "NOTIFY_", "SUDO_"];
    const NAMES: &[&str] =
        &["LANG", "LANGUAGE", "LOCPATH", "RES_OPTIONS", "HOSTALIASES", "LOCALDOMAIN", "USER", "TERM"];
    for_clients(key) || NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// The command that runs the container in the foreground, and the environment of the client.
pub(super) fn run_argv(run: &Run<'_>) -> (Vec<String>, Vec<(String, String)>) {
    let mut argv: Vec<String> = vec![run.container.program.clone(), "run".into()];
    let mut option = |name: &str, value: &str| {
        argv.push(name.to_owned());
        if !value.is_empty() {
            argv.push(value.to_owned());
        }
    };
    option("--name", &run.container.name);
    option("--label", &format!("{HOME_LABEL}={}", run.home.display()));
    // All pods share the machine's network, as in process mode: one set of addresses and names for both.
    option("--network", "host");
    option("--ipc", "host");
    option("--hostname", run.host_name);
    // The image was seen to be there.
    option("--pull", "never");
    for mount in run.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        option("--volume", &format!("{}:{}:{mode}", mount.source.display(), mount.target.display()));
    }
    let mut client = run.container.env.clone();
    option("--env-file", &run.env_file.display().to_string());
    for (key, value) in &run.env.by_name {
        option("--env", key);
        client.push((key.clone(), value.clone()));
    }
    for (key, value) in &run.env.by_value {
        option("--env", &format!("{key}={value}"));
    }
    if let Some(dir) = run.dir {
        option("--workdir", dir);
    }
    if let Some(bytes) = run.limits.memory_bytes {
        option("--memory", &bytes.to_string());
    }
    if let Some(milli) = run.limits.cpu_milli {
        option("--cpus", &format!("{}.{:03}", milli / 1_000, milli % 1_000));
    }
    gpu_options(run, &mut option);
    security_options(run, &mut option);
    let mut rest = run.argv;
    if !run.command.is_empty()
        && let Some((program, args)) = run.argv.split_first()
    {
        option("--entrypoint", if program == "trainyard" { OWN_BINARY } else { program });
        rest = args;
    }
    argv.push(run.image.to_owned());
    argv.extend(rest.iter().cloned());
    (argv, client)
}

fn gpu_options(run: &Run<'_>, option: &mut impl FnMut(&str, &str)) {
    if run.gpus.is_empty() {
        return;
    }
    if is_podman(&run.container.program) {
        run.gpus.iter().for_each(|gpu| option("--device", &format!("nvidia.com/gpu={gpu}")));
    } else {
        let list: Vec<String> = run.gpus.iter().map(ToString::to_string).collect();
        option("--gpus", &format!("\"device={}\"", list.join(",")));
    }
}

fn security_options(run: &Run<'_>, option: &mut impl FnMut(&str, &str)) {
    if let Some(user) = run.user {
        let id = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
        match (user.uid, user.gid) {
            (None, None) => {}
            (Some(_), None) => option("--user", &id(user.uid)),
            // A group alone is one for the image's user, whom only the engine knows: root is the usual one.
            (_, Some(_)) => option("--user", &format!("{}:{}", user.uid.unwrap_or(0), id(user.gid))),
        }
        user.groups.iter().for_each(|group| option("--group-add", &group.to_string()));
    }
    let Some(security) = run.security else { return };
    if security.privileged == Some(true) {
        option("--privileged=true", "");
    }
    if security.read_only_root_filesystem == Some(true) {
        option("--read-only=true", "");
    }
    if security.allow_privilege_escalation == Some(false) {
        option("--security-opt", "no-new-privileges");
    }
    let capabilities = security.capabilities.as_ref();
    for name in capabilities.and_then(|all| all.drop.as_ref()).into_iter().flatten() {
        option("--cap-drop", name);
    }
    for name in capabilities.and_then(|all| all.add.as_ref()).into_iter().flatten() {
        option("--cap-add", name);
    }
}

/// Whom a container's manifest wants it to run as.
pub(super) fn user(pod: Option<&PodSecurityContext>, container: Option<&SecurityContext>) -> Option<User> {
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let uid = id(container.and_then(|own| own.run_as_user).or_else(|| pod.and_then(|pod| pod.run_as_user)));
    let gid = id(container.and_then(|own| own.run_as_group).or_else(|| pod.and_then(|pod| pod.run_as_group)));
    let further = pod.and_then(|pod| pod.supplemental_groups.as_ref()).into_iter().flatten().copied();
    let groups: Vec<u32> =
        further.chain(pod.and_then(|pod| pod.fs_group)).filter_map(|group| id(Some(group))).collect();
    (uid.is_some() || gid.is_some() || !groups.is_empty()).then_some(User { uid, gid, groups })
}

fn is_podman(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().starts_with("podman"))
}

/// The part of the machine's environment that the client needs to find its configuration and its server.
pub(super) fn client_env(base: &[(String, String)]) -> Vec<(String, String)> {
    base.iter().filter(|(key, _)| for_clients(key)).cloned().collect()
}

fn for_clients(key: &str) -> bool {
    const NAMES: &[&str] = &["PATH", "HOME", "TMPDIR", "REGISTRY_AUTH_FILE", "DBUS_SESSION_BUS_ADDRESS"];
    const PREFIXES: &[&str] = &["CONTAINERS_", "CONTAINER_", "DOCKER_", "STORAGE_", "XDG_"];
    let is_proxy = key.to_ascii_lowercase().ends_with("_proxy");
    NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix)) || is_proxy
}

/// Finds the engine that was asked for.
pub(super) fn choose(asked: Containers) -> Result<ContainerMode, EngineError> {
    let engine = |name: &'static str| usable(name).map(|program| ContainerMode::Engine { program });
    match asked {
        Containers::None => Ok(ContainerMode::Process),
        Containers::Podman => engine("podman"),
        Containers::Docker => engine("docker"),
        Containers::Auto => Ok(engine("podman").or_else(|_| engine("docker")).unwrap_or(ContainerMode::Process)),
    }
}

/// An engine that is on the PATH and answers.
fn usable(name: &'static str) -> Result<PathBuf, EngineError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or(EngineError::Missing { name })?;
    let answer = Command::new(&program).args(["ps", "--quiet"]).stdin(Stdio::null()).output();
    let said = match answer {
        Ok(output) if output.status.success() => return Ok(program),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(EngineError::Unusable { name, said })
}

/// Takes away containers of this state folder whose pods are gone: what a crash of the machine or of the engine left.
pub(super) fn sweep(shared: &Shared) {
    let ContainerMode::Engine { program } = &shared.config.mode else { return };
    let call = |args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(client_env(&shared.base_env)).stdin(Stdio::null());
        command.output().ok().filter(|output| output.status.success())
    };
    let filter = format!("label={HOME_LABEL}={}", shared.config.home.display());
    let Some(listed) = call(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]) else { return };
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let Some(uid) = pod_of(name) else { continue };
        if !shared.config.home.join("pods").join(uid).exists() {
            call(&["kill", "--signal", "KILL", name]);
            call(&["rm", "--force", "--volumes", name]);
        }
    }
}

/// One name for each run: `trainyard-<pod uid>-<container>-<run>`.
pub(super) fn name(mark: &str) -> String {
    format!("trainyard-{}", mark.replace('/', "-"))
}

fn pod_of(name: &str) -> Option<&str> {
    name.strip_prefix("trainyard-")?.get(..UID_LENGTH)
}

/// CUDA numbers what a container sees from 0.
pub(super) fn renumbered(gpus: &[u32]) -> String {
    (0..gpus.len()).map(|index| index.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn argv(command: &[&str], args: &[&str]) -> Vec<String> {
        run_with(command, args, &[("SECRET", "hidden")]).0
    }

    fn run_with(command: &[&str], args: &[&str], env: &[(&str, &str)]) -> (Vec<String>, Vec<(String, String)>) {
        let env: Vec<_> = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let command = own(command);
        let all: Vec<String> = command.iter().cloned().chain(own(args)).collect();
        let mounts = [Mount {
            volume: "v".into(),
            source: PathBuf::from("/h/v"),
            sub_path: None,
            target: PathBuf::from("/data"),
            read_only: true,
        }];
        let container = EngineContainer {
            program: "/usr/bin/podman".into(),
            name: "trainyard-u-c-0".into(),
            env: vec![("PATH".into(), "/usr/bin".into())],
            memory_limited: true,
            start_hint: None,
        };
        run_argv(&Run {
            container: &container,
            home: Path::new("/h"),
            image: "pytorch:1",
            command: &command,
            argv: &all,
            env: &Environment::of(&env),
            env_file: Path::new("/h/env"),
            mounts: &mounts,
            host_name: "pod",
            dir: Some("/work"),
            gpus: &[0, 2],
            limits: Limits { memory_bytes: Some(1_024), cpu_milli: Some(1_500) },
            user: Some(&User { uid: Some(1_000), gid: None, groups: vec![7] }),
            security: None,
        })
    }

    #[test]
    fn the_command_replaces_the_entrypoint() {
        let line = argv(&["python", "-u"], &["train.py"]).join(" ");
        assert!(line.ends_with("--entrypoint python pytorch:1 -u train.py"), "{line}");
        assert!(line.contains("--volume /h/v:/data:ro") && line.contains("--device nvidia.com/gpu=2"), "{line}");
    }

    #[test]
    fn arguments_alone_leave_the_entrypoint() {
        let line = argv(&[], &["--epochs", "3"]).join(" ");
        assert!(line.ends_with("pytorch:1 --epochs 3") && !line.contains("--entrypoint"), "{line}");
    }

    #[test]
    fn variables_of_a_pod_are_neither_its_clients_nor_in_the_process_list() {
        let obeyed = ["LD_PRELOAD", "PATH", "HTTPS_PROXY", "DOCKER_HOST", "CONTAINERS_CONF", "GODEBUG", "HOME"];
        let mut env: Vec<(&str, &str)> = obeyed.iter().map(|key| (*key, "hidden")).collect();
        env.extend([("JSON", "{\"hidden\": 1}"), ("PEM", "hidden\nlines")]);
        let (argv, client) = run_with(&[], &[], &env);
        let line = argv.join(" ");
        assert!(line.contains("--env-file /h/env") && line.contains("--env PEM"), "{line}");
        assert!(!line.contains("hidden"), "{line}");
        let own = |key: &str| {
            client.iter().filter(|(own, _)| own == key).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(
            (own("PATH"), own("PEM"), own("JSON")),
            (vec!["/usr/bin"], vec!["hidden\nlines"], vec!["{\"hidden\": 1}"])
        );
        assert_eq!(client.len(), 3, "{client:?}");
    }

    #[test]
    fn what_a_line_cannot_hold_is_told_otherwise() {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>();
        let env =
            Environment::of(&own(&[("A", "x=y #z $B"), ("B", " padded"), ("#C", "c"), ("PATH", "a\nb"), ("E", "")]));
        assert_eq!(env.file, "A=x=y #z $B\nE=\n");
        assert_eq!((env.by_name, env.by_value), (own(&[("B", " padded"), ("#C", "c")]), own(&[("PATH", "a\nb")])));
        let long = "x".repeat(LINE_MAX);
        assert_eq!(Environment::of(&own(&[("LONG", &long)])).by_name, own(&[("LONG", &long)]));
    }

    #[test]
    fn containers_are_named_after_their_pods() {
        let uid = "05b1e8f9-483f-426e-be44-396ebffc6ffa";
        assert_eq!(pod_of(&name(&format!("{uid}/main/3"))), Some(uid));
        assert_eq!((pod_of("trainyard-x"), pod_of("postgres")), (None, None));
    }

    #[test]
    fn limits_and_users_are_handed_on() {
        let line = argv(&[], &[]).join(" ");
        assert!(line.contains("--memory 1024 --cpus 1.500") && line.contains("--user 1000 --group-add 7"), "{line}");
    }
}
