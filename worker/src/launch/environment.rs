//! Who the ranks of this pod are, from the pod's environment, and what each rank is told: torchrun's variables.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_proto::rendezvous::{Hello, Member, Seat, Standing, World, standing};
use trainyard_proto::trainyard::MAX_PROCS_PER_REPLICA;
use trainyard_worker_core::collective_env;

use super::link::Meeting;
use super::{LaunchArgs, LaunchError, interface, store, torchrun};
use crate::host;

/// Which generation a rank belongs to.
const GENERATION: &str = "TRAINYARD_GENERATION";
/// Where the coordinator's rendezvous is: `unix:/path` or `http://host:port`.
pub(super) const RENDEZVOUS: &str = "TRAINYARD_RENDEZVOUS";

/// `true` in a pod of a job that has no rendezvous: the launcher may spend the job's restarts by itself.
const IN_PLACE: &str = "TRAINYARD_RESTART_IN_PLACE";
/// Seconds that the pod gets to end after a stop.
const STOP_GRACE: &str = "TRAINYARD_STOP_GRACE_SECONDS";
/// What Kubernetes gives a pod that says nothing else.
const DEFAULT_STOP_GRACE_SECONDS: u32 = 30;
/// How much earlier than the pod's grace ends the ranks are killed: by us, who report it, and not by somebody who does not.
const REPORT_MS: i64 = 2_000;

/// What a rank's environment has beside the launcher's.
pub(super) type Variables = Vec<(String, String)>;

/// What this pod was told before any rendezvous, and what does not change from one generation to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    /// Ranks in this pod.
    pub(super) nproc: usize,
    /// Pods, and this one's place among them, as the manifest has them.
    nnodes: usize,
    node_rank: usize,
    master_addr: String,
    /// The port that the user or the job chose; any where a pod is alone and nobody chose.
    master_port: Option<u16>,
    /// Where the other pods reach this one.
    address: String,
    run_id: String,
    /// Set when the user has not chosen one and several ranks share the machine, as torchrun does.
    omp_threads: bool,
    /// Made up here when the pod has none and is alone: it keeps other processes of this machine out.
    token: Option<String>,
    /// Whether PyTorch's ranks meet at a store of the first pod's launcher instead of rank 0's.
    agent_store: bool,
    /// How often the ranks were started again before this launcher began, and how often they may be.
    restarts: u32,
    max_restarts: u32,
    /// Whether this launcher may start them again by itself: a job without a rendezvous counts its restarts by its pods.
    in_place: bool,
    stop_grace_seconds: u32,
    /// The last generation before this launcher began.
    generation: u64,
    /// Where the coordinator's rendezvous is.
    pub(super) rendezvous: Option<String>,
    /// How this launcher meets others, where no coordinator leads them.
    pub(super) meeting: Option<Meeting>,
    /// A name of this pod that no other of the job has.
    uid: String,
    gpus: usize,
    preflight: bool,
}

/// This launcher's part of one generation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) generation: u64,
    /// To be given back to the rendezvous, which knows the world by it.
    pub(super) digest: u64,
    pub(super) restarts: u32,
    pub(super) seat: Seat,
    pub(super) nnodes: usize,
    pub(super) ranks: usize,
    pub(super) master: (String, u16),
    /// The network interface by which the other pods are reached, where it is known.
    pub(super) interface: Option<String>,
}

/// Where gloo, NCCL and tensorpipe are told their network interface.
const INTERFACES: [&str; 3] = ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"];

/// The interface towards the other pods of a world. Not asked for where somebody has chosen one.
fn interface(seats: &[Seat], seat: &Seat) -> Option<String> {
    if INTERFACES.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let others = seats.iter().filter(|other| other.node_rank != seat.node_rank && !other.address.is_empty());
    // The first pod of a fixed world knows only itself, at the address by which the others find it.
    interface::towards(others.map(|other| other.address.as_str())).or_else(|| interface::of(&seat.address))
}

impl Part {
    /// This pod's part of a world; none if it has no seat there.
    pub(super) fn of(world: &World, own: &Member) -> Option<Self> {
        let seat = world.seats.iter().find(|seat| seat.member.as_ref() == Some(own))?.clone();
        let first = world.seats.first()?;
        Some(Self {
            generation: world.generation,
            digest: world.digest,
            restarts: world.restarts,
            nnodes: world.seats.len(),
            ranks: world.seats.iter().map(|seat| seat.ranks as usize).sum(),
            master: (first.address.clone(), u16::try_from(first.port).unwrap_or_default()),
            interface: interface(&world.seats, &seat),
            seat,
        })
    }

    /// The rank of a local rank among all of the job.
    pub(super) fn rank(&self, local_rank: usize) -> usize {
        self.seat.first_rank as usize + local_rank
    }

    /// Whether the first rank is here, and with it the place where all meet.
    pub(super) fn is_master(&self) -> bool {
        self.seat.node_rank == 0
    }
}

impl Pod {
    /// Reads `PET_NNODES`, `PET_NODE_RANK`, `PET_MASTER_ADDR` and `PET_MASTER_PORT` (or `MASTER_ADDR` and
    /// `MASTER_PORT`). A pod that is alone needs none of them.
    pub(super) fn read(args: &LaunchArgs, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        // A coordinator decides who the nodes are: what the manifest says of them is only where it begins.
        let led = lookup(RENDEZVOUS).is_some();
        // From another machine it is called by its address: its name may not be known there yet.
        let remote = lookup(RENDEZVOUS).filter(|address| address.starts_with("http://"));
        let remote = remote.and_then(|_| lookup("TRAINYARD_POD_IP"));
        let nnodes = lookup("PET_NNODES").map_or(Ok(1), |text| nodes(&text, led))?;
        let node_rank = lookup("PET_NODE_RANK").map_or(Ok(0), |text| number("PET_NODE_RANK", &text))?;
        if nnodes == 0 || (node_rank >= nnodes && !led) {
            return Err(LaunchError::Environment(format!(
                "PET_NODE_RANK={node_rank} is not one of PET_NNODES={nnodes} nodes, counted from 0"
            )));
        }
        let either = |first: &str, second: &str| lookup(first).or_else(|| lookup(second));
        let own = || either("TRAINYARD_POD_IP", "POD_IP").unwrap_or_else(host::name);
        let master_addr = match either("PET_MASTER_ADDR", "MASTER_ADDR") {
            Some(address) => address,
            None if nnodes == 1 => Ipv4Addr::LOCALHOST.to_string(),
            None if led => own(),
            None => return Err(missing("PET_MASTER_ADDR", nnodes)),
        };
        let meeting = lookup(torchrun::MEETING).filter(|_| lookup(RENDEZVOUS).is_none()).map(|text| meeting(&text));
        let meeting = meeting.transpose()?;
        let master_port = match either("PET_MASTER_PORT", "MASTER_PORT") {
            Some(port) => Some(number("PET_MASTER_PORT", &port)?),
            None if nnodes == 1 || led || meeting.is_some() => None,
            None => return Err(missing("PET_MASTER_PORT", nnodes)),
        };
        let nproc = processes(&args.nproc, &lookup)?;
        let count = |name: &str, default| lookup(name).map_or(Ok(default), |text| number(name, &text));
        let restarts = count("TRAINYARD_RESTARTS", 0)?;
        Ok(Self {
            address: match remote {
                Some(address) => address,
                None if node_rank == 0 => master_addr.clone(),
                None => own(),
            },
            run_id: lookup("TRAINYARD_JOB").unwrap_or_else(|| "none".to_owned()),
            omp_threads: nproc > 1 && lookup("OMP_NUM_THREADS").is_none(),
            token: (nnodes == 1 && lookup("TRAINYARD_JOB_TOKEN").is_none()).then(token).flatten(),
            // A rank that is alone meets nobody.
            agent_store: nnodes * nproc > 1 && store::wanted(&args.command, lookup(store::VARIABLE).as_deref())?,
            restarts,
            max_restarts: match args.max_restarts {
                Some(more) => restarts.saturating_add(more),
                None => count("TRAINYARD_MAX_RESTARTS", 0)?,
            },
            in_place: args.max_restarts.is_some()
                || lookup("TRAINYARD_JOB").is_none()
                || lookup(IN_PLACE).is_some_and(|value| value == "true"),
            stop_grace_seconds: count(STOP_GRACE, DEFAULT_STOP_GRACE_SECONDS)?,
            generation: lookup(GENERATION).map_or(Ok(0), |text| number(GENERATION, &text))?,
            rendezvous: lookup(RENDEZVOUS),
            meeting,
            gpus: gpus(&lookup),
            preflight: lookup("TRAINYARD_PREFLIGHT").is_some_and(|value| value == "1"),
            uid: lookup("TRAINYARD_POD_UID").unwrap_or_else(|| format!("node-{node_rank}")),
            nproc,
            nnodes,
            node_rank,
            master_addr,
            master_port,
        })
    }

    /// This launcher, among all that there ever are in its job.
    pub(super) fn member(&self) -> Member {
        // A later launcher of the pod must have a higher number, whatever the machine's process numbers do.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Member { pod: self.uid.clone(), incarnation: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    /// What this launcher says of itself on a new line.
    pub(super) fn hello(&self, member: Member, port: u16, seen: u64, standing: standing::Standing) -> Hello {
        Hello {
            member: Some(member),
            index: self.meeting.as_ref().map_or_else(|| u32::try_from(self.node_rank).ok(), |meeting| meeting.index),
            address: self.address.clone(),
            port: port.into(),
            ranks: u32::try_from(self.nproc).unwrap_or(u32::MAX),
            seen,
            standing: Some(Standing { standing: Some(standing) }),
            host: host::name(),
        }
    }

    /// For a launcher that cannot decide by itself: the first failure is the end.
    pub(super) fn without_restarts(self) -> Self {
        Self { in_place: false, ..self }
    }

    /// Whether nobody may change this launcher's world: the first failure is the end.
    pub(super) fn is_fixed(&self) -> bool {
        self.rendezvous.is_none() && self.meeting.is_none() && (self.nnodes > 1 || self.budget() == 0)
    }

    /// Whether processes of this pod may hold memory of a GPU.
    pub(super) fn has_gpus(&self) -> bool {
        self.gpus > 0
    }

    /// Whether the machines and the links between them are looked at before the first generation.
    pub(super) fn checks_first(&self) -> bool {
        self.preflight
    }

    /// How often the ranks may be started again by this launcher, if it is to decide itself.
    pub(super) fn budget(&self) -> u32 {
        if self.in_place { self.max_restarts.saturating_sub(self.restarts) } else { 0 }
    }

    /// The last generation before this launcher began.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The places that all pods were told alike; `port` is where this one holds the store's, if it does.
    pub(super) fn fixed_seats(&self, member: &Member, port: u16) -> Vec<Seat> {
        let ranks = u32::try_from(self.nproc).unwrap_or(u32::MAX);
        let seat = |node: usize| Seat {
            member: (node == self.node_rank).then(|| member.clone()),
            node_rank: u32::try_from(node).unwrap_or(u32::MAX),
            first_rank: u32::try_from(node).unwrap_or(u32::MAX).saturating_mul(ranks),
            ranks,
            address: if node == 0 { self.master_addr.clone() } else { String::new() },
            port: if node == 0 { u32::from(self.master_port.unwrap_or(port)) } else { 0 },
        };
        (0..self.nnodes).map(seat).collect()
    }

    /// How often this job's ranks were started again before this launcher began.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// How often this job's ranks may be started again, over all.
    pub(super) fn max_restarts(&self) -> u32 {
        self.max_restarts
    }

    /// Where this pod's ranks, and the others', meet if it is the first: an address of this pod, and the first port.
    pub(super) fn meeting_place(&self) -> (String, Option<u16>) {
        (self.address.clone(), self.master_port.filter(|_| self.node_rank == 0))
    }

    /// Whether this launcher never hosts the place where the ranks meet.
    pub(super) fn only_visits(&self) -> bool {
        self.is_fixed() && self.node_rank > 0
    }

    /// Whether this pod's launcher hosts PyTorch's store when it has the first rank.
    pub(super) fn hosts_store(&self) -> bool {
        self.agent_store
    }

    /// How long the ranks may take to end after a stop from outside: a little less than the pod's grace.
    pub(super) fn stop_grace_ms(&self) -> i64 {
        let grace = i64::from(self.stop_grace_seconds) * 1000;
        (grace - REPORT_MS).max(grace / 2)
    }

    /// What a rank's environment has beside the pod's. `folder` is for debug files.
    pub(super) fn variables(&self, part: &Part, local_rank: usize, folder: Option<&str>) -> Variables {
        let rank = part.rank(local_rank).to_string();
        let world = part.ranks.to_string();
        let (master_addr, master_port) = &part.master;
        let mut variables = vec![
            ("RANK", rank.clone()),
            ("LOCAL_RANK", local_rank.to_string()),
            ("GROUP_RANK", part.seat.node_rank.to_string()),
            ("ROLE_RANK", rank),
            ("ROLE_NAME", "default".to_owned()),
            ("LOCAL_WORLD_SIZE", self.nproc.to_string()),
            ("WORLD_SIZE", world.clone()),
            ("GROUP_WORLD_SIZE", part.nnodes.to_string()),
            ("ROLE_WORLD_SIZE", world),
            ("MASTER_ADDR", master_addr.clone()),
            ("MASTER_PORT", master_port.to_string()),
            ("TORCHELASTIC_RESTART_COUNT", part.restarts.to_string()),
            ("TORCHELASTIC_MAX_RESTARTS", self.max_restarts.to_string()),
            ("TORCHELASTIC_RUN_ID", self.run_id.clone()),
            (GENERATION, part.generation.to_string()),
            (store::VARIABLE, if self.agent_store { "True" } else { "False" }.to_owned()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
        ];
        if std::env::var_os("TORCH_NCCL_ASYNC_ERROR_HANDLING").is_none() {
            variables.push(("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".to_owned()));
        }
        if self.omp_threads {
            variables.push(("OMP_NUM_THREADS", "1".to_owned()));
        }
        if let Some(token) = &self.token {
            variables.push(("TRAINYARD_JOB_TOKEN", token.clone()));
        }
        variables.extend(self.collective_variables(part, local_rank, folder, &variables));
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What NCCL and gloo should know, where neither the user nor `told` says it.
    fn collective_variables(
        &self,
        part: &Part,
        local_rank: usize,
        folder: Option<&str>,
        told: &[(&'static str, String)],
    ) -> Vec<(&'static str, String)> {
        let namespace = std::env::var("TRAINYARD_NAMESPACE").unwrap_or_default();
        let place = collective_env::Place {
            job: format!("{namespace}/{}", self.run_id),
            generation: part.generation,
            rank: part.rank(local_rank),
            gpus: self.gpus > 0,
            shares_gpus: (1..self.nproc).contains(&self.gpus),
            interface: part.interface.clone(),
            folder: folder.map(str::to_owned),
            ..collective_env::Place::default()
        };
        let known = |name: &str| told.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        collective_env::variables(&place, |name| known(name).or_else(|| std::env::var(name).ok()))
    }
}

/// `4`, or torchrun's `4:4`. A range needs somebody who decides the number: that is not this launcher.
fn nodes(text: &str, led: bool) -> Result<usize, LaunchError> {
    match text.split_once(':') {
        None => number("PET_NNODES", text),
        Some((least, most)) if led || least == most => number("PET_NNODES", most),
        Some(_) => Err(LaunchError::Environment(format!(
            "PET_NNODES={text} is a range; give one number, or start ranks that come and go with torchrun"
        ))),
    }
}

fn meeting(text: &str) -> Result<Meeting, LaunchError> {
    let wrong = |error| LaunchError::Environment(format!("{} is not understood: {error}", torchrun::MEETING));
    serde_json::from_str(text).map_err(wrong)
}

/// A number, `cpu`, `gpu` or `auto`.
fn processes(text: &str, lookup: &impl Fn(&str) -> Option<String>) -> Result<usize, LaunchError> {
    let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match text {
        "cpu" => Ok(cpus()),
        "gpu" => match gpus(lookup) {
            0 => Err(LaunchError::Environment("--nproc gpu, but this pod has no GPU; try --nproc cpu".to_owned())),
            count => Ok(count),
        },
        "auto" => Ok(match gpus(lookup) {
            0 => cpus(),
            count => count,
        }),
        _ => match text.parse::<u32>() {
            Ok(count @ 1..=MAX_PROCS_PER_REPLICA) => Ok(count as usize),
            Ok(_) | Err(_) => Err(LaunchError::Environment(format!(
                "--nproc {text} is not a number of processes; give 1 to {MAX_PROCS_PER_REPLICA}, `cpu`, `gpu` or `auto`"
            ))),
        },
    }
}

/// The GPUs that the pod may use: what it was given, else what the machine has.
fn gpus(lookup: &impl Fn(&str) -> Option<String>) -> usize {
    let given = lookup("CUDA_VISIBLE_DEVICES").or_else(|| lookup("NVIDIA_VISIBLE_DEVICES"));
    match given.as_deref() {
        Some("none" | "void" | "-1") => 0,
        Some(list) if list != "all" => list.split(',').filter(|device| !device.trim().is_empty()).count(),
        Some(_) | None => devices(),
    }
}

/// `/dev/nvidia0`, `/dev/nvidia1`, …
fn devices() -> usize {
    let Ok(entries) = std::fs::read_dir("/dev") else { return 0 };
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
}

/// 128 random bits in hex; none where the system has no randomness, which only weakens the guard.
fn token() -> Option<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).ok()?;
    Some(format!("{:032x}", u128::from_le_bytes(bytes)))
}

fn missing(name: &str, nnodes: usize) -> LaunchError {
    LaunchError::Environment(format!("{name} is not set, and with PET_NNODES={nnodes} the ranks need it to meet"))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, LaunchError> {
    text.trim().parse().map_err(|_| LaunchError::Environment(format!("{name}={text} is not a number in range")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn read(nproc: &str, pairs: &[(&str, &str)]) -> Result<Pod, String> {
        read_for("program", nproc, pairs)
    }

    fn read_for(command: &str, nproc: &str, pairs: &[(&str, &str)]) -> Result<Pod, String> {
        let lookup = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let command = command.split(' ').map(str::to_owned).collect();
        let args = LaunchArgs { nproc: nproc.to_owned(), command, ..LaunchArgs::default() };
        Pod::read(&args, lookup).map_err(|error| error.to_string())
    }

    /// This pod's part of the world that the manifest fixed.
    fn part(pod: &Pod) -> Part {
        let own = pod.member();
        let world = World { generation: 1, seats: pod.fixed_seats(&own, 4242), restarts: pod.restarts(), digest: 0 };
        Part::of(&world, &own).unwrap()
    }

    fn variable(pod: &Pod, local_rank: usize, name: &str) -> Option<String> {
        pod.variables(&part(pod), local_rank, None)
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    #[test]
    fn whom_a_coordinator_leads_needs_to_know_itself_only() {
        let pairs = [(RENDEZVOUS, "unix:/sock"), ("PET_NNODES", "1:4"), ("POD_IP", "10.0.0.7")];
        for node_rank in ["0", "3"] {
            let pod = read("1", &[pairs.as_slice(), &[("PET_NODE_RANK", node_rank)]].concat()).unwrap();
            let hello = pod.hello(pod.member(), 1, 0, standing::Standing::Idle(Default::default()));
            assert_eq!((hello.address.as_str(), hello.index), ("10.0.0.7", node_rank.parse().ok()));
        }
    }

    #[test]
    fn a_coordinator_on_another_machine_is_told_an_address_and_no_name() {
        let pairs = [("PET_NNODES", "2"), ("PET_MASTER_ADDR", "job-worker-0"), ("TRAINYARD_POD_IP", "10.0.0.7")];
        for (rendezvous, address) in [("http://operator:1", "10.0.0.7"), ("unix:/sock", "job-worker-0")] {
            let pod = read("1", &[pairs.as_slice(), &[(RENDEZVOUS, rendezvous)]].concat()).unwrap();
            let hello = pod.hello(pod.member(), 1, 0, standing::Standing::Idle(Default::default()));
            assert_eq!(hello.address, address);
        }
    }

    #[test]
    fn a_lone_pod_needs_nothing() {
        let world = read("4", &[]).unwrap();
        assert_eq!((world.nproc, part(&world).rank(3), world.master_addr.as_str()), (4, 3, "127.0.0.1"));
        assert_eq!(variable(&world, 0, "MASTER_PORT").as_deref(), Some("4242"));
        assert_eq!(variable(&world, 3, "WORLD_SIZE").as_deref(), Some("4"));
        assert_eq!(variable(&world, 3, "OMP_NUM_THREADS").as_deref(), Some("1"));
        assert_eq!(variable(&world, 0, "TRAINYARD_JOB_TOKEN").map(|token| token.len()), Some(32));
    }

    #[test]
    fn the_second_of_two_pods_counts_on() {
        let pod = [
            ("PET_NNODES", "2"),
            ("PET_NODE_RANK", "1"),
            ("PET_MASTER_ADDR", "job-master-0"),
            ("PET_MASTER_PORT", "23456"),
            ("OMP_NUM_THREADS", "8"),
            ("TRAINYARD_JOB_TOKEN", "uid"),
        ];
        let world = read("2", &pod).unwrap();
        assert_eq!(variable(&world, 1, "RANK").as_deref(), Some("3"));
        assert_eq!(variable(&world, 1, "LOCAL_RANK").as_deref(), Some("1"));
        assert_eq!(variable(&world, 1, "GROUP_RANK").as_deref(), Some("1"));
        assert_eq!(variable(&world, 1, "WORLD_SIZE").as_deref(), Some("4"));
        assert_eq!(variable(&world, 1, "MASTER_PORT").as_deref(), Some("23456"));
        assert_eq!(variable(&world, 1, "OMP_NUM_THREADS"), None, "the user's stays");
        assert_eq!(variable(&world, 1, "TRAINYARD_JOB_TOKEN"), None, "the job's stays");
    }

    #[test]
    fn the_first_pod_of_a_python_job_hosts_the_store() {
        let pod = |node: &str| {
            let pairs = [
                ("PET_NNODES", "2"),
                ("PET_NODE_RANK", node),
                ("PET_MASTER_ADDR", "localhost"),
                ("PET_MASTER_PORT", "1"),
            ];
            read_for("python train.py", "2", &pairs).unwrap()
        };
        assert!(pod("0").hosts_store() && part(&pod("0")).is_master());
        assert!(!part(&pod("1")).is_master());
        assert_eq!(variable(&pod("1"), 0, store::VARIABLE).as_deref(), Some("True"));
        let lone = read_for("python train.py", "1", &[]).unwrap();
        assert_eq!(variable(&lone, 0, store::VARIABLE).as_deref(), Some("False"));
    }

    #[test]
    fn ranks_end_a_little_before_the_pods_grace() {
        for (grace, expected) in [(None, 28_000), (Some("120"), 118_000), (Some("3"), 1_500), (Some("0"), 0)] {
            let pairs: Vec<(&str, &str)> = grace.map(|grace| (STOP_GRACE, grace)).into_iter().collect();
            assert_eq!(read("1", &pairs).unwrap().stop_grace_ms(), expected, "{grace:?}");
        }
    }

    #[test]
    fn ranks_know_how_often_they_were_started_again() {
        let told = |pairs: &[(&str, &str)]| {
            let world = read("1", pairs).unwrap();
            ["TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"].map(|name| variable(&world, 0, name).unwrap())
        };
        assert_eq!(told(&[]), ["0", "0"]);
        assert_eq!(told(&[("TRAINYARD_RESTARTS", "2"), ("TRAINYARD_MAX_RESTARTS", "3")]), ["2", "3"]);
    }

    #[test]
    fn restarts_in_place_are_what_is_left_of_the_budget() {
        let budget = |pairs: &[(&str, &str)]| read("1", pairs).unwrap().budget();
        let spent = [("TRAINYARD_RESTARTS", "2"), ("TRAINYARD_MAX_RESTARTS", "3")];
        assert_eq!(budget(&[]), 0);
        assert_eq!(budget(&spent), 1);
        let job = [spent[0], spent[1], ("TRAINYARD_JOB", "wine")];
        assert_eq!(budget(&job), 0, "the job starts new pods, and counts them");
        assert_eq!(budget(&[job[0], job[1], job[2], (IN_PLACE, "true")]), 1);
        assert_eq!(budget(&[("TRAINYARD_RESTARTS", "4"), ("TRAINYARD_MAX_RESTARTS", "3")]), 0);
    }

    #[test]
    fn faults_are_named() {
        let fault = |nproc, pairs: &[(&str, &str)]| read(nproc, pairs).unwrap_err();
        for nproc in ["0", "4097", "99999999999", "-1", "two"] {
            assert!(
                fault(nproc, &[]).contains(&format!("--nproc {nproc} is not a number of processes; give 1 to 4096"))
            );
        }
        assert!(fault("1", &[("PET_NNODES", "2")]).contains("PET_MASTER_ADDR is not set"));
        assert!(fault("1", &[("PET_NNODES", "1:4")]).contains("is a range"));
        let beyond = [("PET_NNODES", "2"), ("PET_NODE_RANK", "2")];
        assert!(fault("1", &beyond).contains("PET_NODE_RANK=2 is not one of PET_NNODES=2 nodes"));
        assert!(fault("gpu", &[("CUDA_VISIBLE_DEVICES", "-1")]).contains("no GPU"));
    }

    #[test]
    fn ranks_with_gpus_are_told_what_nccl_should_know() {
        let gpus = read("2", &[("CUDA_VISIBLE_DEVICES", "0,1")]).unwrap();
        let ras = |rank| variable(&gpus, rank, "NCCL_RAS_ADDR");
        assert!(ras(0).is_some() && ras(0) == ras(1), "{:?}", ras(0));
        let names: Vec<String> = gpus.variables(&part(&gpus), 0, None).into_iter().map(|(name, _)| name).collect();
        let told = names.iter().filter(|name| *name == "TORCH_NCCL_ASYNC_ERROR_HANDLING").count();
        assert_eq!(told, 1, "once: {names:?}");
        let none = read("2", &[("CUDA_VISIBLE_DEVICES", "-1")]).unwrap();
        assert_eq!(variable(&none, 0, "NCCL_RAS_ADDR"), None);
    }

    #[test]
    fn gpus_given_count() {
        assert_eq!(read("gpu", &[("CUDA_VISIBLE_DEVICES", "3,5")]).unwrap().nproc, 2);
        assert_eq!(read("auto", &[("CUDA_VISIBLE_DEVICES", "GPU-1")]).unwrap().nproc, 1);
    }
}
