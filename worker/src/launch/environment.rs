//! Who the ranks of this pod are, from the pod's environment, and what each rank is told: torchrun's variables.

use std::net::{Ipv4Addr, TcpListener};

use super::{LaunchError, store};

/// Seconds that the pod gets to end after a stop.
const STOP_GRACE: &str = "TRAINYARD_STOP_GRACE_SECONDS";
/// What Kubernetes gives a pod that says nothing else.
const DEFAULT_STOP_GRACE_SECONDS: u32 = 30;
/// How much earlier than the pod's grace ends the ranks are killed: by us, who report it, and not by somebody who does not.
const REPORT_MS: i64 = 2_000;

/// The place of this pod's ranks among all ranks of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct World {
    /// Ranks in this pod.
    pub(super) nproc: usize,
    nnodes: usize,
    node_rank: usize,
    master_addr: String,
    master_port: u16,
    run_id: String,
    /// Set when the user has not chosen one and several ranks share the machine, as torchrun does.
    omp_threads: bool,
    /// Made up here when the pod has none and is alone: it keeps other processes of this machine out.
    token: Option<String>,
    /// Whether PyTorch's ranks meet at a store of the first pod's launcher instead of rank 0's.
    agent_store: bool,
    /// How often the ranks were started again, and how often they may be.
    restarts: u32,
    max_restarts: u32,
    stop_grace_seconds: u32,
}

impl World {
    /// Reads `PET_NNODES`, `PET_NODE_RANK`, `PET_MASTER_ADDR` and `PET_MASTER_PORT` (or `MASTER_ADDR` and
    /// `MASTER_PORT`). A pod that is alone needs none of them.
    pub(super) fn read(
        nproc: &str,
        command: &[String],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, LaunchError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let nnodes = lookup("PET_NNODES").map_or(Ok(1), |text| nodes(&text))?;
        let node_rank = lookup("PET_NODE_RANK").map_or(Ok(0), |text| number("PET_NODE_RANK", &text))?;
        if nnodes == 0 || node_rank >= nnodes {
            return Err(LaunchError::Environment(format!(
                "PET_NODE_RANK={node_rank} is not one of PET_NNODES={nnodes} nodes, counted from 0"
            )));
        }
        let either = |first: &str, second: &str| lookup(first).or_else(|| lookup(second));
        let master_addr = match either("PET_MASTER_ADDR", "MASTER_ADDR") {
            Some(address) => address,
            None if nnodes == 1 => Ipv4Addr::LOCALHOST.to_string(),
            None => return Err(missing("PET_MASTER_ADDR", nnodes)),
        };
        let master_port = match either("PET_MASTER_PORT", "MASTER_PORT") {
            Some(port) => number("PET_MASTER_PORT", &port)?,
            None if nnodes == 1 => free_port()?,
            None => return Err(missing("PET_MASTER_PORT", nnodes)),
        };
        let nproc = processes(nproc, &lookup)?;
        let run_id = lookup("TRAINYARD_JOB").unwrap_or_else(|| "none".to_owned());
        let omp_threads = nproc > 1 && lookup("OMP_NUM_THREADS").is_none();
        let token = (nnodes == 1 && lookup("TRAINYARD_JOB_TOKEN").is_none()).then(token).flatten();
        // A rank that is alone meets nobody.
        let agent_store = nnodes * nproc > 1 && store::wanted(command, lookup(store::VARIABLE).as_deref())?;
        let count = |name: &str, default| lookup(name).map_or(Ok(default), |text| number(name, &text));
        Ok(Self {
            restarts: count("TRAINYARD_RESTARTS", 0)?,
            max_restarts: count("TRAINYARD_MAX_RESTARTS", 0)?,
            stop_grace_seconds: count(STOP_GRACE, DEFAULT_STOP_GRACE_SECONDS)?,
            nproc,
            nnodes,
            node_rank,
            master_addr,
            master_port,
            run_id,
            omp_threads,
            token,
            agent_store,
        })
    }

    /// The rank of a local rank among all of the job.
    pub(super) fn rank(&self, local_rank: usize) -> usize {
        self.node_rank * self.nproc + local_rank
    }

    /// Whether this pod's launcher hosts the store.
    pub(super) fn hosts_store(&self) -> bool {
        self.agent_store && self.node_rank == 0
    }

    /// How long the ranks may take to end after a stop from outside: a little less than the pod's grace.
    pub(super) fn stop_grace_ms(&self) -> i64 {
        let grace = i64::from(self.stop_grace_seconds) * 1000;
        (grace - REPORT_MS).max(grace / 2)
    }

    /// Where the ranks meet.
    pub(super) fn master(&self) -> (&str, u16) {
        (&self.master_addr, self.master_port)
    }

    /// What a rank's environment has beside the pod's.
    pub(super) fn variables(&self, local_rank: usize) -> Vec<(&'static str, String)> {
        let rank = self.rank(local_rank).to_string();
        let world = (self.nnodes * self.nproc).to_string();
        let mut variables = vec![
            ("RANK", rank.clone()),
            ("LOCAL_RANK", local_rank.to_string()),
            ("GROUP_RANK", self.node_rank.to_string()),
            ("ROLE_RANK", rank),
            ("ROLE_NAME", "default".to_owned()),
            ("LOCAL_WORLD_SIZE", self.nproc.to_string()),
            ("WORLD_SIZE", world.clone()),
            ("GROUP_WORLD_SIZE", self.nnodes.to_string()),
            ("ROLE_WORLD_SIZE", world),
            ("MASTER_ADDR", self.master_addr.clone()),
            ("MASTER_PORT", self.master_port.to_string()),
            ("TORCHELASTIC_RESTART_COUNT", self.restarts.to_string()),
            ("TORCHELASTIC_MAX_RESTARTS", self.max_restarts.to_string()),
            ("TORCHELASTIC_RUN_ID", self.run_id.clone()),
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
        variables
    }
}

/// `4`, or torchrun's `4:4`. A range needs somebody who decides the number, which this launcher is not.
fn nodes(text: &str) -> Result<usize, LaunchError> {
    match text.split_once(':') {
        None => number("PET_NNODES", text),
        Some((least, most)) if least == most => number("PET_NNODES", least),
        Some(_) => Err(LaunchError::Environment(format!(
            "PET_NNODES={text} is a range; give one number, or start ranks that come and go with torchrun"
        ))),
    }
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
        _ => match text.parse() {
            Ok(count) if count > 0 => Ok(count),
            Ok(_) | Err(_) => Err(LaunchError::Environment(format!(
                "--nproc {text} is not a number of processes; give 1 or more, `cpu`, `gpu` or `auto`"
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

/// A port that was free a moment ago. Ranks on one machine meet there; a pod among others is told its port.
fn free_port() -> Result<u16, LaunchError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| LaunchError::System { doing: "find a free port", source })
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

    fn read(nproc: &str, pairs: &[(&str, &str)]) -> Result<World, String> {
        let lookup = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        World::read(nproc, &["program".to_owned()], lookup).map_err(|error| error.to_string())
    }

    fn variable(world: &World, local_rank: usize, name: &str) -> Option<String> {
        world.variables(local_rank).into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    #[test]
    fn a_lone_pod_needs_nothing() {
        let world = read("4", &[]).unwrap();
        assert_eq!((world.nproc, world.rank(3), world.master_addr.as_str()), (4, 3, "127.0.0.1"));
        assert_ne!(world.master_port, 0);
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
        let python = ["python".to_owned(), "train.py".to_owned()];
        let pod = |nproc, node: &str| {
            let pairs = [
                ("PET_NNODES", "2"),
                ("PET_NODE_RANK", node),
                ("PET_MASTER_ADDR", "localhost"),
                ("PET_MASTER_PORT", "1"),
            ];
            let lookup = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
            World::read(nproc, &python, lookup).unwrap()
        };
        assert!(pod("2", "0").hosts_store());
        assert!(!pod("2", "1").hosts_store());
        assert_eq!(variable(&pod("2", "1"), 0, store::VARIABLE).as_deref(), Some("True"));
        let lone = World::read("1", &python, |_| None).unwrap();
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
    fn faults_are_named() {
        let fault = |nproc, pairs: &[(&str, &str)]| read(nproc, pairs).unwrap_err();
        assert!(fault("0", &[]).contains("--nproc 0 is not a number of processes"));
        assert!(fault("1", &[("PET_NNODES", "2")]).contains("PET_MASTER_ADDR is not set"));
        assert!(fault("1", &[("PET_NNODES", "1:4")]).contains("is a range"));
        let beyond = [("PET_NNODES", "2"), ("PET_NODE_RANK", "2")];
        assert!(fault("1", &beyond).contains("PET_NODE_RANK=2 is not one of PET_NNODES=2 nodes"));
        assert!(fault("gpu", &[("CUDA_VISIBLE_DEVICES", "-1")]).contains("no GPU"));
    }

    #[test]
    fn gpus_given_count() {
        assert_eq!(read("gpu", &[("CUDA_VISIBLE_DEVICES", "3,5")]).unwrap().nproc, 2);
        assert_eq!(read("auto", &[("CUDA_VISIBLE_DEVICES", "GPU-1")]).unwrap().nproc, 1);
    }
}
