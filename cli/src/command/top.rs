//! `trainyard top`.

mod process;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::arg::Global;
use crate::error::CliError;
use crate::job;
use crate::output::style;
use crate::output::table::Table;
use crate::session::{self, Place, Session};
use process::{Sample, Snapshot};

/// CPU shares are measured over this time: long enough for a hundred clock ticks on two busy cores.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often a live view is drawn.
const PERIOD: Duration = Duration::from_secs(2);

/// Show the CPU and memory that nodes and ranks use.
///
/// On this machine the numbers are read from /proc at this moment, for each rank with its children. On a cluster they come from its metrics server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard top               nodes and ranks of the namespace
  trainyard top wine-ddp      only one job
  trainyard top -w            live")]
pub(crate) struct Args {
    /// Only this job
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Draw again every two seconds, until stopped
    #[arg(short, long)]
    watch: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        loop {
            let tables = match &session.place {
                Place::Cluster(_) => of_cluster(session, &args).await?,
                Place::Server { home, .. } | Place::InProcess { home } => of_machine(session, &args, home).await?,
            };
            print(&mut anstream::stdout().lock(), &tables, args.watch)?;
            if !args.watch {
                return Ok(0);
            }
            tokio::time::sleep(PERIOD).await;
        }
    })
}

fn print(out: &mut dyn Write, tables: &[Table], live: bool) -> io::Result<()> {
    if live && io::stdout().is_terminal() {
        // Home, and clear to the end of the screen.
        write!(out, "\x1b[H\x1b[J")?;
    }
    for (index, table) in tables.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        if table.rows.is_empty() {
            let dim = style::DIM;
            writeln!(out, "{dim}no pod is running{dim:#}")?;
        } else {
            table.print(out, true)?;
        }
    }
    out.flush()
}

async fn pods(session: &Session, args: &Args) -> Result<Vec<Value>, CliError> {
    let path = if args.all_namespaces {
        "/api/v1/pods".to_owned()
    } else {
        format!("/api/v1/namespaces/{}/pods", session.namespace)
    };
    let list = session.api.get(&path).await?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.into_iter().filter(|pod| args.name.as_ref().is_none_or(|name| belongs(pod, name))).collect())
}

fn belongs(pod: &Value, name: &str) -> bool {
    let labels = &pod["metadata"]["labels"];
    let keys = ["training.kubeflow.org/job-name", "batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name"];
    pod["metadata"]["name"] == name || keys.iter().any(|key| labels[key] == name)
}

async fn of_machine(session: &Session, args: &Args, home: &Path) -> Result<Vec<Table>, CliError> {
    let pods: BTreeMap<String, Value> = pods(session, args)
        .await?
        .into_iter()
        .filter_map(|pod| Some((pod["metadata"]["uid"].as_str()?.to_owned(), pod)))
        .collect();
    let before = Snapshot::take(home);
    tokio::time::sleep(INTERVAL).await;
    let after = Snapshot::take(home);
    let shown: Vec<Sample> =
        after.since(&before).into_iter().filter(|sample| pods.contains_key(&sample.pod_uid)).collect();

    let machine = after.machine_since(&before);
    let mut nodes = Table::new(&["NODE", "CPU", "CPU%", "MEMORY", "MEMORY%", "PODS"]);
    let running = shown.iter().map(|sample| &sample.pod_uid).collect::<std::collections::BTreeSet<_>>().len();
    nodes.rows.push(vec![
        trainyard_worker::agent::host_name(),
        format!("{:.2}/{}", machine.cores_used, machine.cores),
        format!("{:.0}%", 100.0 * machine.cores_used / machine.cores.max(1.0)),
        format!("{}/{}", bytes(machine.memory_used), bytes(machine.memory)),
        format!("{}%", 100 * machine.memory_used / machine.memory.max(1)),
        running.to_string(),
    ]);

    let mut ranks = Table::new(&["POD", "RANK", "PID", "CPU%", "MEMORY", "THREADS", "COMMAND"]);
    for sample in shown {
        let pod = &pods[&sample.pod_uid];
        let rank = sample.rank.clone().or_else(|| job::PodRanks::of(pod).single().map(|rank| rank.to_string()));
        ranks.rows.push(vec![
            pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            rank.unwrap_or_else(|| "-".to_owned()),
            sample.pid.to_string(),
            format!("{:.0}%", sample.cpu_share * 100.0),
            bytes(sample.memory),
            sample.threads.to_string(),
            sample.command,
        ]);
    }
    Ok(vec![nodes, ranks])
}

async fn of_cluster(session: &Session, args: &Args) -> Result<Vec<Table>, CliError> {
    let root = "/apis/metrics.k8s.io/v1beta1";
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let nodes = match session.api.get(&format!("{root}/nodes")).await {
        Ok(nodes) => nodes,
        Err(error) => match error.code() {
            Some(404 | 503) => {
                return Err(CliError::Unreachable {
                    message: "the cluster does not measure CPU and memory: it serves no metrics.k8s.io".to_owned(),
                    hint: "ask its administrator to install metrics-server; `trainyard get pods -o wide` shows where pods run"
                        .to_owned(),
                });
            }
            // Nodes are for administrators; one's own pods are not.
            Some(403) => Value::Null,
            Some(_) | None => return Err(error.into()),
        },
    };
    let mut table = Table::new(&["NODE", "CPU", "MEMORY"]);
    for node in nodes["items"].as_array().into_iter().flatten() {
        table.rows.push(vec![
            text(&node["metadata"]["name"]),
            text(&node["usage"]["cpu"]),
            text(&node["usage"]["memory"]),
        ]);
    }
    let wanted: Vec<String> = pods(session, args).await?.iter().map(|pod| text(&pod["metadata"]["name"])).collect();
    let path = if args.all_namespaces {
        format!("{root}/pods")
    } else {
        format!("{root}/namespaces/{}/pods", session.namespace)
    };
    let metrics = session.api.get(&path).await?;
    let mut pods = Table::new(&["POD", "CONTAINER", "CPU", "MEMORY"]);
    for pod in metrics["items"].as_array().into_iter().flatten() {
        let name = text(&pod["metadata"]["name"]);
        for container in pod["containers"].as_array().into_iter().flatten().filter(|_| wanted.contains(&name)) {
            let usage = &container["usage"];
            pods.rows.push(vec![name.clone(), text(&container["name"]), text(&usage["cpu"]), text(&usage["memory"])]);
        }
    }
    Ok(if nodes.is_null() { vec![pods] } else { vec![table, pods] })
}

/// `512Ki`, `3.2Mi`, `1.5Gi`.
fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size on the screen")]
    let mut value = count as f64 / 1024.0;
    for unit in ["Ki", "Mi", "Gi"] {
        if value < 1000.0 {
            return if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}Ti")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(512 * 1024), "512Ki");
        assert_eq!(bytes(3_355_443), "3.2Mi");
        assert_eq!(bytes(16 << 30), "16Gi");
    }
}
