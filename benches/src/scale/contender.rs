//! Who brings pods to nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::load::{self, Pods};
use super::nodes::{Kubelets, Progress};
use super::plane::{Cost, Plane};
use super::{Shape, spread};
use crate::Error;
use crate::samples::Samples;

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
    /// The cluster's own scheduler, gangs as PodGroups: from Kubernetes 1.37 on
    Native,
    /// Volcano's scheduler, gangs as its PodGroups
    Volcano,
    /// Kueue, gangs as Jobs, with the cluster's own controllers and scheduler
    Kueue,
}

/// What the cluster's own scheduler has to be told so that pods of a group wait for each other.
const GATE: &[&str] = &["--feature-gates", "GenericWorkload=true"];
const SERVED: &[&str] =
    &["--feature-gates", "GenericWorkload=true", "--runtime-config", "scheduling.k8s.io/v1beta1=true"];

/// What all measurements share.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Our program.
    pub trainyard: &'a Path,
    /// Folder of the cluster's programs.
    pub bin: &'a Path,
    /// Folder of other schedulers.
    pub others: Option<&'a Path>,
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
            Self::Native => "kube-scheduler, PodGroups",
            Self::Volcano => "Volcano, PodGroups",
            Self::Kueue => "Kueue, Jobs; kube-scheduler binds",
        }
    }

    /// Whether nothing is needed for it but a Kubernetes, whichever.
    #[must_use]
    pub fn is_everywhere(self) -> bool {
        match self {
            Self::Limit | Self::Ours | Self::OursBinds | Self::Default => true,
            Self::Native | Self::Volcano | Self::Kueue => false,
        }
    }

    /// Measures it on a control plane of its own in `folder`.
    ///
    /// # Errors
    /// When a program does not start, or refuses what it is asked.
    pub async fn measure(self, setting: Setting<'_>, shape: Shape, folder: &Path) -> Result<Outcome, Error> {
        let flags = if self == Self::Native { SERVED } else { &[] };
        let mut plane = Plane::start(setting.bin, folder, setting.nodes, flags).await?;
        self.prepare(&mut plane, setting).await?;
        let kubelets = Kubelets::start(plane.endpoint()).await?;
        plane.settle().await?;
        let before = plane.cost().await?;
        let start = Instant::now();
        match self {
            Self::Limit => load::pods(&plane, setting, shape, Pods::Bound).await?,
            Self::Default => load::pods(&plane, setting, shape, Pods::Alone).await?,
            Self::Native => {
                load::groups(&plane, shape).await?;
                load::pods(&plane, setting, shape, Pods::Grouped).await?;
            }
            Self::Volcano => {
                load::volcano_groups(&plane, shape).await?;
                load::pods(&plane, setting, shape, Pods::Volcano).await?;
            }
            Self::Kueue => load::batch_jobs(&plane, shape).await?,
            Self::Ours | Self::OursBinds => load::training_jobs(&plane, shape).await?,
        }
        let progress = kubelets.bound(shape.total(), start, setting.limit).await?;
        let elapsed = progress.last.map_or(setting.limit, |last| last.saturating_duration_since(start));
        let cost = plane.cost().await?.since(&before);
        let gangs = kubelets.complete(shape.pods, start);
        Ok(Outcome { contender: self, shape, progress, elapsed, gangs, cost })
    }

    /// Starts the programs that decide.
    async fn prepare(self, plane: &mut Plane, setting: Setting<'_>) -> Result<(), Error> {
        let others = || {
            setting.others.ok_or_else(|| Error::Program {
                program: self.name().to_owned(),
                why: "name the folder of other schedulers: --others".to_owned(),
            })
        };
        match self {
            Self::Limit => Ok(()),
            Self::Ours => {
                plane.scheduler(&[]).await?;
                plane.operator(setting.trainyard, &[]).await
            }
            Self::OursBinds => plane.operator(setting.trainyard, &["--binds".to_owned()]).await,
            Self::Default => plane.scheduler(&[]).await,
            Self::Native => plane.scheduler(GATE).await,
            Self::Volcano => plane.volcano(others()?).await,
            Self::Kueue => {
                plane.scheduler(&[]).await?;
                plane.job_controller().await?;
                plane.kueue(others()?).await
            }
        }
    }
}

/// The number of connections, of those given, with which the loop of create and bind is fastest; each is tried with `pods`.
///
/// # Errors
/// As measuring.
pub async fn widest(setting: Setting<'_>, pods: usize, tries: &[usize], folder: &Path) -> Result<(usize, f64), Error> {
    let plane = Plane::start(setting.bin, folder, setting.nodes, &[]).await?;
    let kubelets = Kubelets::start(plane.endpoint()).await?;
    let (mut best, mut there) = ((setting.wide, 0.0), 0);
    for wide in tries {
        let start = Instant::now();
        spread(plane.endpoint(), *wide, there..there + pods, async |connection, at| {
            load::create_and_bind(connection, "warm", at, setting.nodes, Pods::Bound).await
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
