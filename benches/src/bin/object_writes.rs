//! Durable object writes per second and watch delivery, ours beside a real kube-apiserver on etcd, in the same run.
//!
//! Each of `--writers` connections creates `ConfigMaps` of about 1 KiB one after the other; one watch per server
//! receives them. A write counts when its answer has arrived. Watch delivery is the time from the answer of a write
//! to the arrival of its event (0 when the event was first). Rounds alternate between the servers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot};
use trainyard_benches::Error;
use trainyard_benches::http::{Connection, Endpoint};
use trainyard_benches::samples::Samples;
use trainyard_benches::server::{Server, resident_bytes};

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// Folder with `etcd` and `kube-apiserver` (tests/tools/kubernetes etcd kube-apiserver); left out: only ours
    #[arg(long)]
    kubernetes: Option<PathBuf>,
    /// Connections that write at the same time
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// Seconds of each round
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds per server
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the servers keep their data; must be on the disk that is meant
    #[arg(long)]
    folder: Option<PathBuf>,
}

struct Round {
    writes: usize,
    seconds: f64,
    write: Samples,
    delivery: Samples,
    missing: usize,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let folder = match &arguments.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let mut servers = vec![Server::trainyard(&arguments.trainyard, &folder.path().join("home")).await?];
    if let Some(bin) = &arguments.kubernetes {
        servers.push(Server::kubernetes(bin, &folder.path().join("kubernetes"), &[]).await?);
    }
    let mut out = format!(
        "{} writers, {} s a round, ConfigMaps of 1 KiB, {} CPUs\n\n\
         | server | writers | writes/s | write p50 / p99 / max ms | watch delivery p50 / p99 / max ms | events missing | memory MiB |\n\
         |---|---|---|---|---|---|---|\n",
        arguments.writers,
        arguments.seconds,
        std::thread::available_parallelism()?,
    );
    for writers in [arguments.writers, 1] {
        for round in 0..arguments.rounds {
            for server in &servers {
                let prefix = format!("w{writers}-r{round}");
                let measured = measure(&server.endpoint, &prefix, writers, arguments.seconds).await?;
                let memory: u64 = server.pids().into_iter().map(|pid| resident_bytes(pid).unwrap_or(0)).sum();
                #[expect(clippy::cast_precision_loss)]
                let (rate, mib) = (measured.writes as f64 / measured.seconds, memory as f64 / 1048576.0);
                let _ = writeln!(
                    out,
                    "| {} | {writers} | {rate:.0} | {} | {} | {} | {mib:.0} |",
                    server.name,
                    measured.write.line(),
                    measured.delivery.line(),
                    measured.missing,
                );
            }
        }
    }
    std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())?;
    Ok(())
}

async fn measure(endpoint: &Endpoint, prefix: &str, writers: usize, seconds: u64) -> Result<Round, Error> {
    let arrivals = Arc::new(Mutex::new(HashMap::new()));
    let (watching, is_watching) = oneshot::channel();
    let watch = tokio::spawn(watch(endpoint.clone(), arrivals.clone(), watching));
    let _ = is_watching.await;
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> =
        (0..writers).map(|n| tokio::spawn(write_until(endpoint.clone(), format!("{prefix}-{n}"), until))).collect();
    let (mut write, mut answers) = (Samples::default(), Vec::new());
    for task in tasks {
        let (latency, acknowledged) = task.await.map_err(|e| Error::Request(e.to_string()))??;
        write.extend(latency);
        answers.extend(acknowledged);
    }
    let elapsed = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await; // the last events may still be on their way
    watch.abort();
    let arrivals = arrivals.lock().await;
    let (mut delivery, mut missing) = (Samples::default(), 0);
    for (name, answered) in &answers {
        match arrivals.get(name) {
            Some(arrived) => delivery.push(arrived.saturating_duration_since(*answered)),
            None => missing += 1,
        }
    }
    Ok(Round { writes: answers.len(), seconds: elapsed, write, delivery, missing })
}

type Acknowledged = Vec<(String, Instant)>;

async fn write_until(endpoint: Endpoint, prefix: String, until: Instant) -> Result<(Samples, Acknowledged), Error> {
    let mut connection = Connection::open(&endpoint).await?;
    let (mut latency, mut answers) = (Samples::default(), Vec::new());
    let filler = "x".repeat(1024);
    for n in 0.. {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        let name = format!("{prefix}-{n}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": filler}});
        let path = "/api/v1/namespaces/default/configmaps";
        connection.call(Method::POST, path, body.to_string().into()).await?;
        let answered = Instant::now();
        latency.push(answered - sent);
        answers.push((name, answered));
    }
    Ok((latency, answers))
}

async fn watch(
    endpoint: Endpoint,
    arrivals: Arc<Mutex<HashMap<String, Instant>>>,
    watching: oneshot::Sender<()>,
) -> Result<(), Error> {
    let mut connection = Connection::open(&endpoint).await?;
    let list = "/api/v1/namespaces/default/configmaps?limit=1";
    let page: Value = serde_json::from_slice(&connection.call(Method::GET, list, Bytes::new()).await?)
        .map_err(|e| Error::Request(e.to_string()))?;
    let version = page["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let path = format!("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={version}");
    let mut body = connection.send(Method::GET, &path, Bytes::new()).await?.into_body();
    let _ = watching.send(());
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::Request(e.to_string()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        pending.extend_from_slice(data);
        let arrived = Instant::now();
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if let Some(name) = event_name(&line) {
                arrivals.lock().await.insert(name, arrived);
            }
        }
    }
    Ok(())
}

/// The first `"name":"…"` after `"metadata"`: cheaper than parsing, so that the measuring does not become the load.
fn event_name(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?;
    let rest = text.split_once("\"metadata\":{")?.1;
    let rest = rest.split_once("\"name\":\"")?.1;
    Some(rest.split('"').next()?.to_owned())
}
