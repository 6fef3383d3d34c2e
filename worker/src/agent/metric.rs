//! Metric points out of the shims' files into the records, each exactly once: the offset of what was stored is kept, and
//! a batch that was stored but not noted as such is stored again, which changes nothing.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Deserialize;
use std::collections::BTreeMap;
use trainyard_runtime::records::{MetricPoint, Records};

use crate::shim::write_lightly;

/// Read at once: some ten thousand points, a fraction of a second to store.
const BATCH_BYTES: u64 = 1 << 20;

/// One line of the shim's file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    at_ms: i64,
    step: Option<u64>,
    epoch: Option<u64>,
    metrics: BTreeMap<String, f64>,
}

/// Whose points they are.
struct Source {
    job_uid: String,
    namespace: String,
    job: String,
    rank: u32,
}

/// Why points stay where they are for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    #[error(transparent)]
    Records(#[from] trainyard_runtime::records::RecordsError),
    #[error("the metrics file cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Stores what is new in a container's metrics file.
pub(super) async fn ingest(
    records: &Records,
    pod: &Pod,
    container: &Container,
    file: &Path,
) -> Result<(), IngestError> {
    let offset_file = file.with_extension("offset");
    let mut offset: u64 = fs::read_to_string(&offset_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let source = source(pod, container);
    loop {
        let batch = read_lines(file, offset)?;
        if batch.is_empty() {
            return Ok(());
        }
        let lines = batch.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let points: Vec<MetricPoint> = lines.flat_map(|line| points(&source, line)).collect();
        records.append_points(&points).await?;
        offset += batch.len() as u64;
        // Lost with the power, it makes some points be stored once more.
        write_lightly(&offset_file, offset.to_string().as_bytes())?;
    }
}

/// Whole lines from `offset` on.
fn read_lines(file: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(BATCH_BYTES).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(end);
    Ok(bytes)
}

fn points(source: &Source, line: Line) -> Vec<MetricPoint> {
    let step = line.step.or(line.epoch).and_then(|step| i64::try_from(step).ok()).unwrap_or(0);
    line.metrics
        .into_iter()
        .map(|(name, value)| MetricPoint {
            job_uid: source.job_uid.clone(),
            namespace: source.namespace.clone(),
            job: source.job.clone(),
            rank: source.rank,
            name,
            step,
            value,
            at_ms: line.at_ms,
        })
        .collect()
}

/// The job that owns the pod, or the pod itself; and the global rank whose lines the shim reads: the pod's first.
fn source(pod: &Pod, container: &Container) -> Source {
    let meta = &pod.metadata;
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let number = |name: &str| -> Option<u32> {
        let var = container.env.iter().flatten().find(|var| var.name == name)?;
        var.value.as_ref()?.parse().ok()
    };
    let rank = match (number("PET_NODE_RANK"), number("PET_NPROC_PER_NODE")) {
        (Some(node), Some(ranks)) => node.saturating_mul(ranks),
        (Some(node), None) => node,
        (None, _) => number("RANK").unwrap_or(0),
    };
    Source {
        job_uid: owner.map(|owner| owner.uid.clone()).or_else(|| meta.uid.clone()).unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        job: owner.map(|owner| owner.name.clone()).or_else(|| meta.name.clone()).unwrap_or_default(),
        rank,
    }
}
