//! Making a pod's surroundings: what it refers to is fetched, its volumes get their folders.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::api::Api;
use trainyard_proto::quantity;
use trainyard_proto::refusal::Refusal;
use trainyard_worker_core::pod::Setup;
use trainyard_worker_core::pod::env::{NodeFacts, Sources};
use trainyard_worker_core::pod::volume::{VolumeFile, VolumePlan, references, volume_plan};

use super::claim;
use super::config::ContainerMode;
use super::folder::{PodFolder, PodRecord};
use super::memory;
use super::ownership::Ownership;
use super::shared::Shared;
use crate::sandbox::Allowed;
use crate::shim::{boot_id, now_ms};

/// What is missing may be created any moment; two seconds are soon enough for people and cheap enough for the API.
const RETRY_MS: i64 = 2_000;

/// A pod's surroundings, ready for its containers.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    pub(super) sources: Sources,
    /// Volume → folder or file, and whether it may not be written.
    pub(super) volumes: BTreeMap<String, (PathBuf, bool)>,
}

/// Why there are none.
pub(super) enum Unready {
    Waiting(String),
    Refused { reason: &'static str, message: String },
}

impl Unready {
    pub(super) fn into_setup(self) -> Setup {
        match self {
            Self::Waiting(message) => Setup::Waiting { message, retry_at_ms: now_ms() + RETRY_MS },
            Self::Refused { reason, message } => Setup::Refused { reason: reason.to_owned(), message },
        }
    }
}

pub(super) fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// The facts that fields of this pod resolve to.
pub(super) fn facts(shared: &Shared, record: &PodRecord) -> NodeFacts {
    NodeFacts {
        node_name: shared.config.node_name.clone(),
        host_ip: shared.host_ip().to_owned(),
        pod_ip: record.ip.clone(),
        allocatable_cpu_milli: shared.capacity.cpu_milli,
        allocatable_memory_bytes: shared.capacity.memory_bytes,
    }
}

/// Makes everything the pod needs before its first container. Doing it again changes nothing.
pub(super) async fn make(shared: &Shared, folder: &PodFolder, record: &mut PodRecord) -> Result<Surroundings, Unready> {
    let pod = record.pod.clone();
    refuse_what_cannot_run(shared, &pod)?;
    let gpus = gpus_wanted(&pod);
    if gpus > 0 {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        record.gpus = shared.gpus.assign(uid, gpus).ok_or_else(|| {
            Unready::Waiting(format!(
                "waits for {gpus} free GPUs; the node has {}, the others are in use",
                shared.gpus.count()
            ))
        })?;
    }
    let names: Vec<&str> = all_containers(&pod).map(|container| container.name.as_str()).collect();
    folder.create(&names).map_err(|error| Unready::Waiting(format!("the pod's folder cannot be made: {error}")))?;
    let unwritten = |error| Unready::Waiting(format!("the pod's record cannot be written: {error}"));
    // Before anything is made in it: a folder without a record is taken for one that nothing is known of.
    folder.renew_record(record).map_err(unwritten)?;
    let sources = fetch(shared, &pod).await?;
    let volumes = volumes(shared, folder, record, &sources).await?;
    if shared.config.mode == ContainerMode::Process
        && let Allowed::None(why) = allowed(shared).await?
    {
        refuse_mounts(&pod, &volumes, why)?;
    }
    folder.renew_record(record).map_err(unwritten)?;
    Ok(Surroundings { sources, volumes })
}

/// Where it is not known yet the pod waits: an answer that nobody gave refuses no pod.
async fn allowed(shared: &Shared) -> Result<&Allowed, Unready> {
    shared.allowed().await.map_err(|error| Unready::Waiting(error.to_string()))
}

fn refuse_what_cannot_run(shared: &Shared, pod: &Pod) -> Result<(), Unready> {
    let process_mode = shared.config.mode == ContainerMode::Process;
    for container in all_containers(pod) {
        if !process_mode {
            if container.image.as_ref().is_none_or(String::is_empty) {
                return Err(Unready::Refused {
                    reason: Refusal::ImageRequired.reason(),
                    message: format!(
                        "container \"{}\" has no image: this node runs containers with a container engine; set `image` in the manifest, or start trainyard with --containers none, which runs commands as processes of this machine",
                        container.name
                    ),
                });
            }
            continue;
        }
        if container.command.as_ref().is_none_or(Vec::is_empty) {
            return Err(Unready::Refused {
                reason: Refusal::CommandRequired.reason(),
                message: format!(
                    "container \"{}\" has no command: containers run as processes of this machine, so the entrypoint of image {:?} is not known; set `command` in the manifest, or start trainyard with --containers podman (or docker)",
                    container.name,
                    container.image.as_deref().unwrap_or_default()
                ),
            });
        }
    }
    Ok(())
}

/// GPUs that the pod asks for; limits count, as for all extended resources.
pub(super) fn gpus_wanted(pod: &Pod) -> usize {
    gpu_limits(pod).unwrap_or(0)
}

/// Nothing where the pod does not speak of GPUs at all.
pub(super) fn gpu_limits(pod: &Pod) -> Option<usize> {
    let spec = pod.spec.as_ref()?;
    let limits = spec.containers.iter().filter_map(|container| {
        let resources = container.resources.as_ref()?;
        let list = |list: Option<&BTreeMap<String, _>>| list.and_then(|list| list.get("nvidia.com/gpu")).cloned();
        let quantity: k8s_openapi::apimachinery::pkg::api::resource::Quantity =
            list(resources.limits.as_ref()).or_else(|| list(resources.requests.as_ref()))?;
        usize::try_from(quantity::units(&quantity.0).ok()?).ok()
    });
    let counts: Vec<usize> = limits.collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

async fn fetch(shared: &Shared, pod: &Pod) -> Result<Sources, Unready> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let wanted = references(pod);
    let fail = |error: kube::Error| Unready::Waiting(format!("the API did not answer: {error}"));
    let mut sources = Sources::default();
    let maps: Api<ConfigMap> = Api::namespaced(shared.client.clone(), namespace);
    for name in wanted.config_maps {
        if let Some(map) = maps.get_opt(&name).await.map_err(fail)? {
            let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
            sources.config_maps.insert(name, text.chain(binary).collect());
        }
    }
    let secrets: Api<Secret> = Api::namespaced(shared.client.clone(), namespace);
    for name in wanted.secrets {
        if let Some(secret) = secrets.get_opt(&name).await.map_err(fail)? {
            let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            let data = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0));
            sources.secrets.insert(name, text.chain(data).collect());
        }
    }
    Ok(sources)
}

async fn volumes(
    shared: &Shared,
    folder: &PodFolder,
    record: &mut PodRecord,
    sources: &Sources,
) -> Result<BTreeMap<String, (PathBuf, bool)>, Unready> {
    let pod = record.pod.clone();
    let facts = facts(shared, record);
    // Memory is empty after another boot, and nothing runs.
    let boot = boot_id();
    let mut made = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let plan = volume_plan(&pod, volume, sources, &facts).map_err(|error| match error.may_heal() {
            true => Unready::Waiting(error.to_string()),
            false => Unready::Refused { reason: Refusal::VolumeNotAvailable.reason(), message: error.to_string() },
        })?;
        // Files are written anew each time, and given each time.
        let once = !matches!(plan, VolumePlan::Files(_));
        let ownership = Ownership::of(&pod).filter(|_| !matches!(plan, VolumePlan::Host { .. }));
        let at = folder.volume(&volume.name);
        let broken = |error: io::Error| Unready::Waiting(format!("volume \"{}\" cannot be made: {error}", volume.name));
        let place = match plan {
            VolumePlan::Empty { in_memory } => {
                let limit = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref());
                let own =
                    in_memory && !is_shared_memory(&pod, &volume.name) && *allowed(shared).await? == Allowed::Root;
                if limit.is_some() && !own {
                    shared.size_limit_not_enforced();
                }
                let place = if own {
                    let bytes = limit.and_then(|limit| quantity::units(&limit.0).ok());
                    fs::create_dir_all(&at).and_then(|()| memory::mount_at(&at, bytes)).map(|()| at)
                } else {
                    empty(&at, in_memory, &pod, &volume.name, record)
                };
                (place.map_err(broken)?, false)
            }
            VolumePlan::Files(files) => (write_files(&at, &files).map(|()| at).map_err(broken)?, true),
            VolumePlan::Host { path, kind } => (host_path(&volume.name, &path, &kind)?, false),
            VolumePlan::Claim { name, read_only } => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let bound = claim::bind(&shared.client, &shared.config.home, namespace, &name).await;
                let bound = bound.map_err(|error| Unready::Waiting(format!("volume \"{}\": {error}", volume.name)))?;
                let path = bound.ok_or_else(|| {
                    Unready::Waiting(format!(
                        "volume \"{}\": persistentvolumeclaim \"{name}\" not found in namespace {namespace}; create it",
                        volume.name
                    ))
                })?;
                (path, read_only)
            }
        };
        if let Some(ownership) = ownership
            && !(once && record.given.get(&place.0) == Some(&boot))
        {
            ownership.give(&place.0, place.1).await.map_err(broken)?;
            record.given.insert(place.0.clone(), boot.clone());
        }
        made.insert(volume.name.clone(), place);
    }
    Ok(made)
}

/// Whether a volume is only there to make `/dev/shm` larger. It stays that of the machine: ranks in other pods exchange
/// data through it.
fn is_shared_memory(pod: &Pod, volume: &str) -> bool {
    let mut mounts = all_containers(pod)
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .filter(|mount| mount.name == volume)
        .peekable();
    mounts.peek().is_some() && mounts.all(|mount| mount.mount_path.trim_end_matches('/') == "/dev/shm")
}

/// A folder on the disk, or one in the machine's shared memory: a tmpfs that needs no right to mount.
fn empty(at: &Path, in_memory: bool, pod: &Pod, volume: &str, record: &mut PodRecord) -> io::Result<PathBuf> {
    let place = if in_memory && Path::new("/dev/shm").is_dir() {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        PathBuf::from(format!("/dev/shm/trainyard-{uid}-{volume}"))
    } else {
        at.to_owned()
    };
    match fs::DirBuilder::new().mode(0o777).create(&place) {
        Ok(()) => fs::set_permissions(&place, fs::Permissions::from_mode(0o777))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if place != at && !record.outside.contains(&place) {
        record.outside.push(place.clone());
    }
    Ok(place)
}

fn write_files(at: &Path, files: &[VolumeFile]) -> io::Result<()> {
    // Whoever the container runs as gets in, whatever our own umask is.
    let make_folder = |path: &Path| {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    make_folder(at)?;
    for file in files {
        let path = at.join(&file.path);
        let folders = path.ancestors().skip(1).take_while(|folder| *folder != at);
        for folder in folders.collect::<Vec<_>>().into_iter().rev() {
            make_folder(folder)?;
        }
        // A read-only file of an earlier round cannot be opened for writing by its owner.
        let _ = fs::remove_file(&path);
        let mut handle = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut handle, &file.content)?;
        handle.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

fn host_path(volume: &str, path: &str, kind: &str) -> Result<PathBuf, Unready> {
    let at = PathBuf::from(path);
    let fail = |what: &str| Unready::Waiting(format!("volume \"{volume}\": hostPath {path} {what}"));
    match kind {
        "DirectoryOrCreate" if !at.exists() => {
            fs::create_dir_all(&at).map_err(|error| fail(&format!("cannot be made: {error}")))?;
        }
        "FileOrCreate" if !at.exists() => {
            fs::File::create(&at).map_err(|error| fail(&format!("cannot be made: {error}")))?;
        }
        _ => {}
    }
    let Ok(found) = fs::metadata(&at) else {
        return Err(fail("does not exist on this machine; create it, or use type DirectoryOrCreate"));
    };
    let file_type = found.file_type();
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => file_type.is_dir(),
        "File" | "FileOrCreate" => file_type.is_file(),
        "Socket" => file_type.is_socket(),
        "CharDevice" => file_type.is_char_device(),
        "BlockDevice" => file_type.is_block_device(),
        _ => true,
    };
    if fits { Ok(at) } else { Err(fail(&format!("is no {kind}"))) }
}

/// Without namespaces only a mount of a path onto itself can be had.
fn refuse_mounts(pod: &Pod, volumes: &BTreeMap<String, (PathBuf, bool)>, why: &str) -> Result<(), Unready> {
    for container in all_containers(pod) {
        for mount in container.volume_mounts.iter().flatten() {
            let source =
                volumes.get(&mount.name).map(|(path, _)| path.join(mount.sub_path.as_deref().unwrap_or_default()));
            if source.as_deref() != Some(Path::new(&mount.mount_path)) && mount.mount_path != "/dev/shm" {
                return Err(Unready::Refused {
                    reason: Refusal::VolumeNotMountable.reason(),
                    message: format!(
                        "volume \"{}\" cannot be put at {} in container \"{}\": {why}; or use a hostPath volume mounted at its own path",
                        mount.name, mount.mount_path, container.name
                    ),
                });
            }
        }
    }
    Ok(())
}
