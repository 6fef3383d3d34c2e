//! The columns of Alibaba's OpenB trace: `cluster-trace-gpu-v2023`.
//!
//! Nodes: `sn,cpu_milli,memory_mib,gpu,model`. Pods:
//! `name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,…,creation_time,deletion_time,scheduled_time`, times in
//! seconds. A pod with `num_gpu` 1 uses `gpu_milli` thousandths of one GPU; `gpu_spec` are the models it may run on,
//! separated by `|`.

use trainyard_coordinator_core::schedule::pack::{Ask, Room, WHOLE_MILLI};

use super::Job;
use super::table::{Table, TraceError};

const NODES: &str = "cpu_milli, memory_mib, gpu and model";
const PODS: &str = "cpu_milli, memory_mib, num_gpu, gpu_milli, creation_time, deletion_time and scheduled_time";
/// GPUs of a node, at most: more would be a mistake.
const GPUS: u64 = 64;

/// A node of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What it has: GPUs; and processors in thousandths, and memory in MiB.
    pub room: Room,
    /// The model of its GPUs.
    pub model: String,
}

/// A pod of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// When it came and for how long it ran; a pod that never started ran for no time.
    pub job: Job,
    /// What it asks for.
    pub ask: Ask,
    /// Models of GPUs it may use; any, if there are none.
    pub models: Vec<String>,
    /// Whether it ever started in the trace.
    pub started: bool,
}

impl Pod {
    /// Whether it may be on a node.
    #[must_use]
    pub fn may(&self, host: &Host) -> bool {
        self.models.is_empty() || self.models.contains(&host.model)
    }
}

/// Reads nodes.
///
/// # Errors
/// A column is missing, or a value is not of its kind.
pub fn hosts(text: &str) -> Result<Vec<Host>, TraceError> {
    let table = Table::new(text);
    let column = |name| table.column(name, NODES);
    let (cpu, memory, gpu, model) = (column("cpu_milli")?, column("memory_mib")?, column("gpu")?, column("model")?);
    let most = u64::from(u32::MAX);
    let host = |row: super::table::Row<'_>| {
        let gpus: usize = row.whole(gpu, GPUS)?;
        let amounts = vec![row.whole(cpu, most)?, row.whole(memory, most)?];
        Ok(Host { room: Room { devices: vec![WHOLE_MILLI; gpus], amounts }, model: row.text(model).to_owned() })
    };
    table.rows().map(host).collect()
}

/// Whether these are columns of pods.
pub(super) fn are_pods(table: &Table<'_>) -> bool {
    table.find("gpu_milli").is_some()
}

/// Reads pods, in the order in which they came.
pub(super) fn pods(table: &Table<'_>) -> Result<Vec<Pod>, TraceError> {
    let column = |name| table.column(name, PODS);
    let (cpu, memory) = (column("cpu_milli")?, column("memory_mib")?);
    let (num, milli, spec) = (column("num_gpu")?, column("gpu_milli")?, table.find("gpu_spec"));
    let (created, deleted, scheduled) = (column("creation_time")?, column("deletion_time")?, column("scheduled_time")?);
    let most = u64::from(u32::MAX);
    let mut pods = Vec::new();
    for row in table.rows() {
        let devices: u32 = row.whole(num, GPUS)?;
        let share_milli: u32 = row.whole(milli, u64::from(WHOLE_MILLI))?;
        if devices > 1 && share_milli != WHOLE_MILLI || devices == 1 && share_milli == 0 {
            return Err(row.wrong(milli, "1000 where `num_gpu` is above 1, and not 0 where it is 1"));
        }
        let second = |column| Ok::<i64, TraceError>(row.whole::<i64>(column, most)? * 1_000);
        let submit_ms = second(created)?;
        let started = !row.text(scheduled).is_empty();
        let run_ms = if started { second(deleted)? - second(scheduled)? } else { 0 };
        if run_ms < 0 {
            return Err(row.wrong(deleted, "not before `scheduled_time`"));
        }
        let models = spec.map_or("", |spec| row.text(spec)).split('|').filter(|model| !model.is_empty());
        pods.push(Pod {
            job: Job { submit_ms, run_ms: run_ms.max(1), gpus: devices, owner: 0 },
            ask: Ask { devices, share_milli, amounts: vec![row.whole(cpu, most)?, row.whole(memory, most)?] },
            models: models.map(str::to_owned).collect(),
            started,
        });
    }
    pods.sort_by_key(|pod| pod.job.submit_ms);
    Ok(pods)
}
