//! Who brings pods to nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use http::Method;
use serde_json::{Value, json};

use super::nodes::{GANG, Kubelets, Progress};
use super::plane::{Cost, Plane};
use super::{Shape, spread};
use crate::Error;
use crate::http::Connection;
use crate::samples::Samples;

/// Where pods are created.
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Where jobs are.
const JOBS: &str = "/apis/trainyard.dev/v1alpha1/namespaces/default/trainingjobs";
/// Jobs that are created at the same time.
const SUBMITTERS: usize = 16;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// A loop that creates each pod and binds it: nobody can write less.
    Limit,
    /// The operator; the cluster's scheduler binds what it lets go
    Ours,
    /// The operator, which binds by itself
    OursBinds,
    /// The cluster's own scheduler, one pod at a time
    Default,
}

/// What all measurements share.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Our program.
    pub trainyard: &'a Path,
    /// Folder of the cluster's programs.
    pub bin: &'a Path,
    /// Nodes.
    pub nodes: usize,
    /// Connections of the loop that creates pods.
    pub wide: usize,
    /// Longest time of one measurement.
    pub limit: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// Who.
    pub contender: Contender,
    /// What.
    pub shape: Shape,
    /// What became of the pods.
    pub progress: Progress,
    /// From the first request until the last pod was bound.
    pub elapsed: Duration,
    /// From the first request until each gang was bound whole.
    pub gangs: Samples,
    /// What it cost.
    pub cost: Cost,
}

impl Outcome {
    /// Pods that got a node in a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.progress.bound as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl Contender {
    /// As the tables say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "create and bind in a loop (the limit)",
            Self::Ours => "ours, gates lifted, kube-scheduler binds",
            Self::OursBinds => "ours, the operator binds",
            Self::Default => "kube-scheduler, pod by pod",
        }
    }

    /// Measures it on a control plane of its own in `folder`.
    ///
    /// # Errors
    /// When a program does not start, or refuses what it is asked.
    pub async fn measure(self, setting: Setting<'_>, shape: Shape, folder: &Path) -> Result<Outcome, Error> {
        let mut plane = Plane::start(setting.bin, folder, setting.nodes).await?;
        match self {
            Self::Limit => {}
            Self::Ours => {
                plane.scheduler().await?;
                plane.operator(setting.trainyard, &[]).await?;
            }
            Self::OursBinds => plane.operator(setting.trainyard, &["--binds".to_owned()]).await?,
            Self::Default => plane.scheduler().await?,
        }
        let kubelets = Kubelets::start(plane.endpoint()).await?;
        plane.settle().await?;
        let before = plane.cost().await?;
        let start = Instant::now();
        match self {
            Self::Limit => loop_of_calls(&plane, setting, shape, true).await?,
            Self::Default => loop_of_calls(&plane, setting, shape, false).await?,
            Self::Ours | Self::OursBinds => submit(&plane, shape).await?,
        }
        let progress = kubelets.bound(shape.total(), start, setting.limit).await?;
        let elapsed = progress.last.map_or(setting.limit, |last| last.saturating_duration_since(start));
        let cost = plane.cost().await?.since(&before);
        let gangs = kubelets.complete(shape.pods, start);
        Ok(Outcome { contender: self, shape, progress, elapsed, gangs, cost })
    }
}

/// The number of connections, of those given, with which the loop of create and bind is fastest; each is tried with `pods`.
///
/// # Errors
/// As measuring.
pub async fn widest(setting: Setting<'_>, pods: usize, tries: &[usize], folder: &Path) -> Result<(usize, f64), Error> {
    let plane = Plane::start(setting.bin, folder, setting.nodes).await?;
    let kubelets = Kubelets::start(plane.endpoint()).await?;
    let (mut best, mut there) = ((setting.wide, 0.0), 0);
    for wide in tries {
        let start = Instant::now();
        spread(plane.endpoint(), *wide, there..there + pods, async |connection, at| {
            create_and_bind(connection, "warm", at, setting.nodes, true).await
        })
        .await?;
        there += pods;
        kubelets.bound(there, start, setting.limit).await?;
        #[expect(clippy::cast_precision_loss)]
        let rate = pods as f64 / start.elapsed().as_secs_f64();
        if rate > best.1 {
            best = (*wide, rate);
        }
    }
    Ok(best)
}

async fn loop_of_calls(plane: &Plane, setting: Setting<'_>, shape: Shape, binds: bool) -> Result<(), Error> {
    spread(plane.endpoint(), setting.wide, 0..shape.total(), async |connection, at| {
        let gang = format!("gang-{}", at / shape.pods);
        create_and_bind(connection, &gang, at, setting.nodes, binds).await
    })
    .await
}

async fn create_and_bind(
    connection: &mut Connection,
    gang: &str,
    at: usize,
    nodes: usize,
    binds: bool,
) -> Result<(), Error> {
    let name = format!("{gang}-{at}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {GANG: gang}},
        "spec": template(),
    });
    connection.call(Method::POST, PODS, pod.to_string().into()).await?;
    if !binds {
        return Ok(());
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": format!("node-{:04}", at % nodes)},
    });
    connection.call(Method::POST, &format!("{PODS}/{name}/binding"), binding.to_string().into()).await.map(drop)
}

/// What every pod is, whoever makes it.
fn template() -> Value {
    json!({"containers": [{
        "name": "trainer", "image": "any", "command": ["sleep", "1000"],
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
    }]})
}

async fn submit(plane: &Plane, shape: Shape) -> Result<(), Error> {
    spread(plane.endpoint(), SUBMITTERS, 0..shape.gangs, async |connection, at| {
        let name = format!("gang-{at}");
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
            "spec": {
                "replicas": shape.pods, "image": "any", "command": ["sleep", "1000"],
                "template": {"metadata": {"labels": {GANG: name}}, "spec": template()},
            },
        });
        connection.call(Method::POST, JOBS, job.to_string().into()).await.map(drop)
    })
    .await
}
