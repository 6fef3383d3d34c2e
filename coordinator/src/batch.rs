//! The shell of the stand-in for `batch/v1` Job.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use trainyard_coordinator_core::standin::job::{View, plan, pod_prefix};
use trainyard_proto::plan::Plan;
use trainyard_runtime::driver::{Controller, Key};

use crate::cluster::{Cluster, owner, traceparent};

pub(crate) fn controller(cluster: &Cluster) -> Controller {
    let queue = cluster.queue("batch/v1", "Job");
    if let Some(embedded) = &cluster.embedded {
        Cluster::wake_self(&embedded.jobs, &queue);
        cluster.wake_owners(&embedded.jobs);
    }
    let (planning, tracing) = (cluster.clone(), cluster.clone());
    Controller {
        name: "jobs",
        plan: Arc::new(move |key, now_ms| decide(&planning, key, now_ms)),
        trace: Arc::new(move |key, action| {
            if action.is_some() {
                return None;
            }
            traceparent(&tracing.embedded.as_ref()?.jobs.get(key)?.metadata)
        }),
        target: cluster.target("jobs"),
        queue,
    }
}

fn decide(cluster: &Cluster, key: &Key, now_ms: i64) -> Option<Plan> {
    let job = cluster.embedded.as_ref()?.jobs.get(key);
    // By name, not by uid: a Job that is gone may have left pods that still wait to be counted.
    let all = cluster.pods.named(&key.namespace, pod_prefix(&key.name));
    let pods: Vec<&Pod> = all
        .iter()
        .filter(|pod| {
            owner(&pod.metadata)
                .is_some_and(|((api_version, kind), of)| api_version == "batch/v1" && kind == "Job" && of == *key)
        })
        .map(Arc::as_ref)
        .collect();
    if job.is_none() && pods.is_empty() {
        return None;
    }
    Some(plan(&View { job: job.as_deref(), pods }, now_ms))
}
