//! What the ranks did, for the job's trace. The launcher speaks to no collector itself: it writes a line per rank, and
//! the node agent passes them on when the container has ended.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use trainyard_runtime::trace::child_of;
use trainyard_worker_core::supervisor::ProcessId;

/// Names the file; set by the node agent while traces are exported.
pub(crate) const SPANS: &str = "TRAINYARD_SPANS";
/// W3C trace context: what the launcher was started under.
const PARENT: &str = "TRACEPARENT";

/// One rank that has ended.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RankSpan {
    pub(crate) this: String,
    pub(crate) parent: String,
    pub(crate) rank: usize,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// What a shell would say: 128 + n for signal n.
    pub(crate) code: i32,
}

/// Spans of the ranks of this pod, if anybody wants them.
pub(super) struct Spans {
    wanted: Option<(PathBuf, String)>,
    open: BTreeMap<ProcessId, (String, i64)>,
}

impl Spans {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os(SPANS).map(PathBuf::from).zip(std::env::var(PARENT).ok());
        Self { wanted, open: BTreeMap::new() }
    }

    /// A rank is about to be started: what its environment says of the trace.
    pub(super) fn begin(&mut self, process: ProcessId) -> Option<(&'static str, String)> {
        let (_, parent) = self.wanted.as_ref()?;
        let this = child_of(parent)?;
        self.open.insert(process, (this.clone(), now_ms()));
        Some((PARENT, this))
    }

    /// A rank has ended.
    pub(super) fn end(&mut self, process: ProcessId, rank: usize, code: i32) {
        let Some((file, parent)) = &self.wanted else { return };
        let Some((this, start_ms)) = self.open.remove(&process) else { return };
        let span = RankSpan { this, parent: parent.clone(), rank, start_ms, end_ms: now_ms(), code };
        let Ok(line) = serde_json::to_string(&span) else { return };
        // A trace that misses a rank is no reason to trouble the job.
        let _ = OpenOptions::new().create(true).append(true).open(file).and_then(|mut file| writeln!(file, "{line}"));
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
