//! `trainyard install`: the objects that a cluster needs to run the operator.

use std::io::Write as _;

use serde_json::{Value, json};
use trainyard_coordinator_core::manifest::dialects;
use trainyard_coordinator_core::operator::install::{Options, objects};
use trainyard_coordinator_core::operator::queue;

use crate::api::{Api, FIELD_MANAGER};
use crate::arg::Global;
use crate::error::CliError;
use crate::output::object::{self, Markup};
use crate::resource::Discovery;
use crate::session::{self, Session};

/// Where the operator lives, if nobody says otherwise.
pub(crate) const NAMESPACE: &str = "trainyard-system";
/// How long a kind that was just defined may take to be served.
const SERVED: std::time::Duration = std::time::Duration::from_secs(30);
/// Where definitions of kinds are.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// Print, or apply, what a cluster needs to run the operator.
///
/// The kinds, a namespace, a service account with the rights that the operator uses and no others, a Deployment of several replicas, and the Service by which launchers reach
/// the one that leads. All of it is made from the program itself, so the rights are those of this version.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard install --image registry.example.com/trainyard:1                    print it
  trainyard install --image registry.example.com/trainyard:1 --apply --context prod
  trainyard install --image … --leave pytorchjobs.kubeflow.org                  keep Kubeflow's operator for that kind")]
pub(crate) struct Args {
    /// Image of this program that the cluster's nodes can pull
    #[arg(long, value_name = "IMAGE", default_value = concat!("trainyard:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Put the operator into this namespace
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    own_namespace: String,
    /// Run this many of it, of which one leads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=9))]
    replicas: u16,
    /// Define Kubeflow's kinds as well (PyTorchJob, TrainJob, and training runtimes), for a cluster that has none
    #[arg(long)]
    kubeflow: bool,
    /// Define queues as well (ClusterQueue, LocalQueue, Cohort, Topology, ResourceFlavor), for a cluster that has no Kueue
    #[arg(long, conflicts_with = "no_gangs")]
    queues: bool,
    /// Leave this kind to another operator, as PLURAL.GROUP (repeatable)
    #[arg(long, value_name = "KIND", value_parser = kind)]
    leave: Vec<String>,
    /// Leave the pods of a job to the cluster's scheduler one by one: the operator looks at no nodes then, and changes no pods
    #[arg(long)]
    no_gangs: bool,
    /// Bind the pods of jobs by the operator itself, where nothing else schedules on their nodes
    #[arg(long, conflicts_with = "no_gangs")]
    binds: bool,
    /// Leave experiments alone: the operator makes no jobs and reads no logs then
    #[arg(long)]
    no_experiments: bool,
    /// Apply it to the cluster of --context or --kubeconfig instead of printing it
    #[arg(long)]
    apply: bool,
    /// Print it in this form
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Markup,
}

/// A kind of jobs that can be left to others.
pub(crate) fn kind(text: &str) -> Result<String, String> {
    let known: Vec<String> =
        dialects().iter().map(|dialect| format!("{}.{}", dialect.info().plural, dialect.info().group)).collect();
    if known.iter().any(|kind| kind == text) {
        return Ok(text.to_owned());
    }
    Err(format!("one of {}", known.join(", ")))
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let objects = objects(&Options {
        namespace: args.own_namespace,
        image: args.image,
        replicas: args.replicas,
        kubeflow: args.kubeflow,
        left: args.leave.into_iter().collect(),
        gangs: !args.no_gangs,
        queues: args.queues,
        binds: args.binds,
        experiments: !args.no_experiments,
    });
    if !args.apply {
        return print(&objects, args.output);
    }
    if !session::wants_cluster(global) {
        return Err(CliError::Usage {
            message: "--apply needs to know the cluster".to_owned(),
            hint: "name it with --context or --kubeconfig; without --apply everything is printed".to_owned(),
        });
    }
    session::with(global, async |session| {
        if args.queues {
            is_without_kueue(session).await?;
        }
        for object in &objects {
            apply(session, object).await?;
        }
        Ok(0)
    })
}

/// Whoever has Kueue's Workload has Kueue, and its queues with it.
async fn is_without_kueue(session: &Session) -> Result<(), CliError> {
    if session.api.find(&format!("{DEFINITIONS}/workloads.{}", queue::GROUP)).await?.is_none() {
        return Ok(());
    }
    Err(CliError::Conflict {
        message: "this cluster has Kueue, whose queues are its own".to_owned(),
        hint: "leave out --queues; jobs that name a queue are left to Kueue".to_owned(),
    })
}

/// Whether an object of this name is there that somebody else looks after.
async fn is_of_others(session: &Session, object: &Value, name: &str) -> Result<bool, CliError> {
    if object["spec"]["group"] != queue::GROUP {
        return Ok(false);
    }
    let there = session.api.find(&format!("{DEFINITIONS}/{name}")).await?;
    Ok(there.is_some_and(|there| !queue::is_ours(&there)))
}

fn print(objects: &[Value], markup: Markup) -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    match markup {
        Markup::Json => {
            object::print(&mut out, &json!({"apiVersion": "v1", "kind": "List", "items": objects}), markup)?
        }
        Markup::Yaml => {
            for object in objects {
                writeln!(out, "---")?;
                object::print(&mut out, object, markup)?;
            }
        }
    }
    Ok(0)
}

async fn apply(session: &Session, object: &Value) -> Result<(), CliError> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    if is_of_others(session, object, name).await? {
        writeln!(std::io::stdout().lock(), "{kind} {name} is there already, and not ours: left as it is")?;
        return Ok(());
    }
    let discovery = Discovery::load(&session.api).await?;
    let resource = discovery.of(object).ok_or_else(|| CliError::NotFound {
        what: format!("{kind} ({}) on this cluster", text("/apiVersion")),
        hint: "it is older than what Trainyard is made for: Kubernetes 1.27 or later".to_owned(),
    })?;
    let path = resource.object(text("/metadata/namespace"), name);
    session.api.apply(&format!("{path}?fieldManager={FIELD_MANAGER}&force=true"), object).await?;
    if kind == "CustomResourceDefinition" {
        served(&session.api, &path, name).await?;
    }
    writeln!(std::io::stdout().lock(), "{kind} {name} applied")?;
    Ok(())
}

/// Waits until a kind that was defined is served: what comes next may be of it.
async fn served(api: &Api, path: &str, name: &str) -> Result<(), CliError> {
    let deadline = tokio::time::Instant::now() + SERVED;
    loop {
        let there = api.get(path).await?;
        let conditions = there.pointer("/status/conditions").and_then(Value::as_array);
        let is = |kind: &str| {
            conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
        };
        if is("Established")["status"] == "True" {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let why = is("NamesAccepted")["message"].as_str().unwrap_or("it does not say why").to_owned();
            return Err(CliError::Conflict {
                message: format!("the cluster does not serve {name}: {why}"),
                hint: "look at `kubectl describe crd` of it".to_owned(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kinds_of_jobs_can_be_left() {
        assert_eq!(kind("pytorchjobs.kubeflow.org").as_deref(), Ok("pytorchjobs.kubeflow.org"));
        assert!(kind("pods").unwrap_err().contains("trainjobs.trainer.kubeflow.org"));
    }
}
