//! From a container of a pod to what its shim is told.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Lifecycle, LifecycleHandler, Pod};
use trainyard_proto::quantity;
use trainyard_runtime::trace::ANNOTATION;
use trainyard_worker_core::pod::env::{EnvError, container_env, expand};
use trainyard_worker_core::pod::termination_grace_ms;
use trainyard_worker_core::pod::volume::stays_inside;

use super::config::ContainerMode;
use super::engine::{self, Environment, renumbered};
use super::folder::{PodFolder, PodRecord};
use super::image::{Client, ImageError};
use super::names::replace_names;
use super::probe::port_number;
use super::setup::{Surroundings, facts, gpu_limits};
use super::shared::Shared;
use crate::checkpoint;
use crate::launch::span::SPANS;
use crate::sandbox::cgroup::{ContainerCgroup, Limits};
use crate::sandbox::{Allowed, Mount, Sandbox, beneath};
use crate::shim::{EngineContainer, Hook, ShimSpec, User};

/// 64 MiB in the newest file and in three older ones: a chatty run keeps its last quarter of a gigabyte.
const LOG_MAX_BYTES: u64 = 64 << 20;
const LOG_KEEP: u32 = 3;

/// Marks every process of a run, so that strays can be found when its shim was killed.
pub(super) const RUN_MARK: &str = "TRAINYARD_RUN";

/// Why a run cannot be begun now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("volumeMount {mount}: {what}")]
    Mount { mount: String, what: String },
    #[error("the pod's files cannot be made: {0}")]
    Io(#[from] std::io::Error),
}

pub(super) struct Begin<'a> {
    pub(super) shared: &'a Shared,
    pub(super) folder: &'a PodFolder,
    pub(super) record: &'a PodRecord,
    pub(super) surroundings: &'a Surroundings,
    pub(super) container: &'a Container,
    pub(super) attempt: u32,
    pub(super) streak: u32,
    /// The container's span, while traces are exported.
    pub(super) span: Option<&'a str>,
}

impl Begin<'_> {
    /// The mark of this run.
    pub(super) fn mark(&self) -> String {
        run_mark(&self.record.pod, &self.container.name, self.attempt)
    }

    pub(super) async fn spec(&self) -> Result<ShimSpec, BeginError> {
        let (shared, container) = (self.shared, self.container);
        let pod_env =
            container_env(&self.record.pod, container, &self.surroundings.sources, &facts(shared, self.record))?;
        let lookup = |name: &str| pod_env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let words = container.command.iter().flatten().chain(container.args.iter().flatten());
        let argv: Vec<String> = words.map(|word| expand(word, &lookup)).collect();
        let mut mounts = self.mounts(&lookup)?;
        let message_file = self.message_file(&argv, &mut mounts)?;
        let mut spec = ShimSpec {
            container: container.name.clone(),
            attempt: self.attempt,
            streak: self.streak,
            state_file: self.folder.state_file(&container.name, self.attempt),
            log_file: self.folder.log_file(&container.name, self.attempt),
            log_max_bytes: LOG_MAX_BYTES,
            log_keep: LOG_KEEP,
            progress_file: self.folder.progress_file(&container.name),
            metrics_file: self.folder.metrics_file(&container.name),
            argv,
            env: self.env(&pod_env),
            dir: container.working_dir.clone().unwrap_or_default(),
            sandbox: None,
            cgroup: None,
            post_start: self.hook(|all| all.post_start.as_ref()),
            pre_stop: self.hook(|all| all.pre_stop.as_ref()),
            grace_ms: termination_grace_ms(&self.record.pod),
            engine: None,
            user: self.user(),
            message_file,
        };
        match &shared.config.mode {
            ContainerMode::Process => self.as_process(&mut spec, mounts).await?,
            ContainerMode::Engine { program } => self.as_container(&mut spec, mounts, program).await?,
        }
        Ok(spec)
    }

    async fn as_process(&self, spec: &mut ShimSpec, mounts: Vec<Mount>) -> Result<(), BeginError> {
        if spec.dir.is_empty() {
            spec.dir = self.default_dir();
        }
        spec.sandbox = self.sandbox(mounts, &spec.dir, &mut spec.argv, &mut spec.env).await?;
        if spec.argv.first().is_some_and(|program| program == "trainyard") {
            spec.argv[0] = self.shared.config.shim_program.to_string_lossy().into_owned();
        }
        spec.cgroup = self.cgroup();
        if !nix::unistd::geteuid().is_root() {
            spec.user = None;
        }
        Ok(())
    }

    async fn as_container(
        &self,
        spec: &mut ShimSpec,
        mut mounts: Vec<Mount>,
        program: &Path,
    ) -> Result<(), BeginError> {
        let (shared, container) = (self.shared, self.container);
        let image = container.image.as_deref().unwrap_or_default();
        let client = Client { program: &program.to_string_lossy(), env: &engine::client_env(&shared.base_env) };
        shared.images.ready(&client, image, container.image_pull_policy.as_deref().unwrap_or_default()).await?;
        let own = |target: &str, source: PathBuf| Mount {
            volume: "trainyard".to_owned(),
            source,
            sub_path: None,
            target: PathBuf::from(target),
            read_only: true,
        };
        mounts.push(own("/etc/hosts", shared.hosts_file(self.namespace())?));
        if spec.argv.iter().any(|word| word.contains("trainyard")) {
            mounts.push(own(engine::OWN_BINARY, shared.config.shim_program.clone()));
        }
        let limits = self.limits();
        let begins_with_ours = spec.argv.first().is_some_and(|program| program == "trainyard");
        let engine = EngineContainer {
            program: client.program.to_owned(),
            name: engine::name(&self.mark()),
            env: client.env.to_vec(),
            memory_limited: limits.memory_bytes.is_some(),
            start_hint: begins_with_ours.then(|| engine::OWN_BINARY_HINT.to_owned()),
        };
        let user = spec.user.take();
        let variables = Environment::of(&spec.env);
        let env_file = self.folder.env_file(&container.name, self.attempt);
        write_privately(&env_file, &variables.file)?;
        let (argv, env) = engine::run_argv(&engine::Run {
            container: &engine,
            home: &shared.config.home,
            image,
            command: container.command.as_deref().unwrap_or_default(),
            argv: &spec.argv,
            env: &variables,
            env_file: &env_file,
            mounts: &mounts,
            host_name: self.record.pod.metadata.name.as_deref().unwrap_or_default(),
            dir: Some(spec.dir.as_str()).filter(|dir| !dir.is_empty()),
            gpus: &self.record.gpus,
            limits,
            user: user.as_ref(),
            security: container.security_context.as_ref(),
        });
        (spec.argv, spec.env, spec.engine) = (argv, env, Some(engine));
        "/".clone_into(&mut spec.dir);
        Ok(())
    }

    fn user(&self) -> Option<User> {
        let pod = self.record.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        engine::user(pod, self.container.security_context.as_ref())
    }

    /// The file for the program's last words, mounted where the manifest has it. As processes share the machine's
    /// `/dev`, its default place there is only made for those who name it.
    fn message_file(&self, argv: &[String], mounts: &mut Vec<Mount>) -> Result<Option<PathBuf>, BeginError> {
        const DEFAULT: &str = "/dev/termination-log";
        let target = self.container.termination_message_path.as_deref().unwrap_or(DEFAULT);
        let process_mode = self.shared.config.mode == ContainerMode::Process;
        if process_mode && target == DEFAULT && !argv.iter().any(|word| word.contains(DEFAULT)) {
            return Ok(None);
        }
        let file = self.folder.container(&self.container.name).join(format!("{}.message", self.attempt));
        std::fs::write(&file, "")?;
        // Whoever the program runs as.
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        mounts.push(Mount {
            volume: "termination-log".to_owned(),
            source: file.clone(),
            sub_path: None,
            target: PathBuf::from(target),
            read_only: false,
        });
        Ok(Some(file))
    }

    fn namespace(&self) -> &str {
        self.record.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.record.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn default_dir(&self) -> String {
        let asked = self.annotation("trainyard.dev/working-dir").map(ToOwned::to_owned);
        asked.unwrap_or_else(|| self.shared.config.default_dir.to_string_lossy().into_owned())
    }

    /// The whole environment: what the machine gives, our defaults, the pod's own, what is not the pod's to choose.
    fn env(&self, pod_env: &[(String, String)]) -> Vec<(String, String)> {
        let process_mode = self.shared.config.mode == ContainerMode::Process;
        let meta = &self.record.pod.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        if process_mode {
            env.extend(self.shared.base_env.iter().cloned());
            env.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
        }
        // All pods share one machine and its loopback interface, whatever their host names say.
        for key in ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"] {
            env.entry(key.to_owned()).or_insert_with(|| "lo".to_owned());
        }
        env.entry("NCCL_HOSTID".to_owned()).or_insert_with(|| self.shared.config.node_name.clone());
        env.insert("HOSTNAME".to_owned(), name);
        if let Some(parent) = self.span.or_else(|| self.annotation(ANNOTATION)) {
            env.insert("TRACEPARENT".to_owned(), parent.to_owned());
        }
        if process_mode && self.span.is_some() {
            let file = self.folder.spans_file(&self.container.name, self.attempt);
            env.insert(SPANS.to_owned(), file.to_string_lossy().into_owned());
        }
        if process_mode && pod_env.iter().any(|(name, _)| name == checkpoint::PATH) {
            let file = self.folder.checkpoint_file(&self.container.name);
            env.insert(checkpoint::FILE.to_owned(), file.to_string_lossy().into_owned());
        }
        if let Some(wanted) = gpu_limits(&self.record.pod) {
            let list: Vec<String> = self.record.gpus.iter().map(ToString::to_string).collect();
            let list = if wanted == 0 { String::new() } else { list.join(",") };
            let visible = if process_mode || list.is_empty() { list.clone() } else { renumbered(&self.record.gpus) };
            env.insert("CUDA_VISIBLE_DEVICES".to_owned(), visible);
            env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), if list.is_empty() { "void".to_owned() } else { list });
        }
        env.extend(pod_env.iter().cloned());
        env.insert(RUN_MARK.to_owned(), self.mark());
        env.insert(crate::shim::aside::VARIABLE.to_owned(), "1".to_owned());
        env.insert("TRAINYARD_POD".to_owned(), meta.name.clone().unwrap_or_default());
        env.insert("TRAINYARD_POD_IP".to_owned(), self.record.ip.clone());
        if process_mode {
            let own = self.shared.config.home.join("bin").to_string_lossy().into_owned();
            let path = env.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
            *path = format!("{own}:{path}");
        }
        env.into_iter().collect()
    }

    fn mounts(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Mount>, BeginError> {
        let mut mounts = Vec::new();
        for mount in self.container.volume_mounts.iter().flatten() {
            let fail = |what: String| BeginError::Mount { mount: mount.mount_path.clone(), what };
            let Some((base, volume_read_only)) = self.surroundings.volumes.get(&mount.name) else {
                if mount.mount_path.starts_with("/var/run/secrets/kubernetes.io/") {
                    continue;
                }
                return Err(fail(format!("the pod has no volume \"{}\"", mount.name)));
            };
            // Shared memory of the machine stays shared: ranks in other pods exchange data through it.
            if mount.mount_path.trim_end_matches('/') == "/dev/shm" && base.starts_with("/dev/shm") {
                continue;
            }
            let sub_path =
                mount.sub_path_expr.as_ref().map(|text| expand(text, lookup)).or_else(|| mount.sub_path.clone());
            let sub_path = sub_path.filter(|path| !path.is_empty());
            if let Some(path) = sub_path.as_ref().filter(|path| !stays_inside(path)) {
                return Err(fail(format!("subPath {path:?} must be relative and must not contain '..'")));
            }
            let (source, sub_path) = self.part_of(base, sub_path).map_err(|error| fail(error.to_string()))?;
            if !mount.mount_path.starts_with('/') {
                return Err(fail("mountPath must be absolute".to_owned()));
            }
            mounts.push(Mount {
                volume: mount.name.clone(),
                source,
                sub_path,
                target: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only == Some(true) || *volume_read_only,
            });
        }
        Ok(mounts)
    }

    /// A part of a volume, made where it is missing, as the kubelet does. The shim opens it beneath the volume once more,
    /// as what lies there may change until then; an engine's client has only its path.
    fn part_of(&self, base: &Path, sub_path: Option<String>) -> std::io::Result<(PathBuf, Option<PathBuf>)> {
        let Some(sub_path) = sub_path.map(PathBuf::from) else { return Ok((base.to_owned(), None)) };
        let real = beneath::provide(base, &sub_path)?;
        match self.shared.config.mode {
            ContainerMode::Process => Ok((base.to_owned(), Some(sub_path))),
            ContainerMode::Engine { .. } => Ok((real, None)),
        }
    }

    /// A sandbox where the machine allows one; else names are replaced by addresses, as far as they are names.
    async fn sandbox(
        &self,
        mut mounts: Vec<Mount>,
        dir: &str,
        argv: &mut [String],
        env: &mut [(String, String)],
    ) -> Result<Option<Sandbox>, BeginError> {
        let user_namespace = match self.shared.allowed().await? {
            Allowed::Root => false,
            Allowed::User => true,
            Allowed::None(_) => {
                let table = self.shared.name_table(self.namespace());
                argv.iter_mut().for_each(|word| *word = replace_names(word, &table));
                let own = self.record.pod.metadata.name.as_deref().unwrap_or_default();
                for (key, value) in env.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "PATH" | "HOME" | "PWD")) {
                    // The pod's own name stays its name where it is told as one.
                    if !(value == own && matches!(key.as_str(), "HOSTNAME" | "TRAINYARD_POD" | "POD_NAME"))
                        && key != RUN_MARK
                    {
                        *value = replace_names(value, &table);
                    }
                }
                return Ok(None);
            }
        };
        mounts.push(Mount {
            volume: "etc-hosts".to_owned(),
            source: self.shared.hosts_file(self.namespace())?,
            sub_path: None,
            target: PathBuf::from("/etc/hosts"),
            read_only: true,
        });
        let spec = self.record.pod.spec.as_ref();
        let host_name = spec.and_then(|spec| spec.hostname.clone()).or_else(|| self.record.pod.metadata.name.clone());
        Ok(Some(Sandbox { user_namespace, scratch: self.folder.scratch(), dir: PathBuf::from(dir), host_name, mounts }))
    }

    fn limits(&self) -> Limits {
        let limits = self.container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = |name: &str| limits.and_then(|limits| limits.get(name));
        Limits {
            memory_bytes: limit("memory").and_then(|quantity| quantity::units(&quantity.0).ok()),
            cpu_milli: limit("cpu").and_then(|quantity| quantity::milli(&quantity.0).ok()),
        }
    }

    fn cgroup(&self) -> Option<ContainerCgroup> {
        let limits = self.limits();
        if limits.is_empty() {
            return None;
        }
        match self.shared.cgroups.create(&self.mark().replace('/', "-"), limits) {
            Ok(group) => Some(group),
            Err(error) => {
                self.shared.limits_not_enforced(&error.to_string());
                None
            }
        }
    }

    fn hook(&self, which: fn(&Lifecycle) -> Option<&LifecycleHandler>) -> Option<Hook> {
        let hook = which(self.container.lifecycle.as_ref()?)?;
        if let Some(exec) = &hook.exec {
            return Some(Hook::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = &hook.http_get {
            let host = http.host.clone().unwrap_or_else(|| self.record.ip.clone());
            let port = port_number(self.container, &http.port)?;
            return Some(Hook::Http { host, port, path: http.path.clone().unwrap_or_else(|| "/".to_owned()) });
        }
        hook.sleep.as_ref().map(|sleep| Hook::Sleep { seconds: sleep.seconds })
    }
}

/// Variables may be secrets.
fn write_privately(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// `<pod uid>/<container>/<run>`.
pub(super) fn run_mark(pod: &Pod, container: &str, attempt: u32) -> String {
    format!("{}/{container}/{attempt}", pod.metadata.uid.as_deref().unwrap_or_default())
}
