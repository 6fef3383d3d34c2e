//! A container's place in its job's trace: the start by the agent, its run, and the ranks in it.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use trainyard_runtime::trace::{self, Finished};
use trainyard_worker_core::pod::Ending;

use crate::launch::span::RankSpan;
use crate::shim::RunState;

/// The span of a container's run, told when it has ended.
pub(super) struct ContainerSpan {
    this: String,
    parent: String,
    name: String,
    pod: String,
}

impl ContainerSpan {
    /// The span of the start, to be worked in, and what the run will be; the latter only while traces are exported.
    pub(super) fn begin(pod: &Pod, container: &str) -> (tracing::Span, Option<Self>) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let start = tracing::info_span!("start", pod = name, container, otel.name = format!("start pod {name}"));
        trace::adopt(&start, trace::of(&pod.metadata).as_deref());
        let run = trace::of_span(&start).and_then(|parent| {
            Some(Self { this: trace::child_of(&parent)?, parent, name: format!("container {container}"), pod: name })
        });
        (start, run)
    }

    /// W3C `traceparent`, for the container's environment.
    pub(super) fn this(&self) -> &str {
        &self.this
    }

    /// Tells of the run and of the ranks that its launcher wrote down.
    pub(super) fn end(self, run: &RunState, ending: &Ending, ranks: &Path) {
        for line in std::fs::read_to_string(ranks).unwrap_or_default().lines() {
            // A container may write anything there; what is no rank of this container is not told.
            let Ok(rank) = serde_json::from_str::<RankSpan>(line) else { continue };
            if rank.parent == self.this {
                trace::record(Finished {
                    this: &rank.this,
                    parent: &rank.parent,
                    name: format!("rank {}", rank.rank),
                    start_ms: rank.start_ms,
                    end_ms: rank.end_ms,
                    failure: failure(rank.code),
                    attributes: vec![("rank", rank.rank.to_string()), ("exit_code", rank.code.to_string())],
                });
            }
        }
        trace::record(Finished {
            this: &self.this,
            parent: &self.parent,
            name: self.name,
            start_ms: run.started_ms.unwrap_or(ending.finished_ms),
            end_ms: ending.finished_ms,
            failure: failure(ending.exit_code),
            attributes: vec![("pod", self.pod), ("exit_code", ending.exit_code.to_string())],
        });
    }
}

fn failure(code: i32) -> Option<String> {
    (code != 0).then(|| format!("exit code {code}"))
}
