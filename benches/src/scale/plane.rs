//! A control plane for one measurement, the programs that act on it, and what they cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::nodes;
use crate::Error;
use crate::http::{Connection, Endpoint};
use crate::server::{Server, free_port, spawn};

/// A program that has not become ready by then is not going to.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How long the API server is given to become quiet, and how often that is looked at.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
const SETTLE_LOOK: Duration = Duration::from_secs(2);

/// etcd and kube-apiserver with simulated nodes.
#[derive(Debug)]
pub struct Plane {
    server: Server,
    folder: PathBuf,
    bin: PathBuf,
    /// A kubeconfig of a user who may do everything.
    pub kubeconfig: PathBuf,
    others: Vec<(&'static str, Child)>,
}

impl Plane {
    /// Starts everything anew in `folder`, with more flags for the API server.
    ///
    /// # Errors
    /// When a program does not become ready.
    pub async fn start(bin: &Path, folder: &Path, nodes: usize, flags: &[&str]) -> Result<Self, Error> {
        let server = Server::kubernetes(bin, folder, flags).await?;
        let kubeconfig = folder.join("kubeconfig");
        let endpoint = &server.endpoint;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {
                "server": format!("https://{}", endpoint.address), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "bench", "user": {"token": endpoint.token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        fs::write(&kubeconfig, config.to_string())?;
        nodes::create(endpoint, nodes).await?;
        Ok(Self { server, folder: folder.to_owned(), bin: bin.to_owned(), kubeconfig, others: Vec::new() })
    }

    /// Where its API is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the cluster's programs are.
    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Starts the cluster's own scheduler, without a limit of requests, and with more flags.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn scheduler(&mut self, flags: &[&str]) -> Result<(), Error> {
        let port = free_port()?;
        let file = self.folder.join("scheduler.json");
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": self.kubeconfig, "qps": 10_000, "burst": 20_000},
            "leaderElection": {"leaderElect": false},
        });
        fs::write(&file, config.to_string())?;
        let mut command = Command::new(self.bin.join("kube-scheduler"));
        command
            .arg("--config")
            .arg(&file)
            .args(["--bind-address", "127.0.0.1", "--secure-port", &port.to_string()])
            .args(flags);
        for what in ["--authentication-kubeconfig", "--authorization-kubeconfig"] {
            command.arg(what).arg(&self.kubeconfig);
        }
        let door = Endpoint { address: format!("127.0.0.1:{port}"), token: None, tls: true };
        self.run("kube-scheduler", command, &door, "/healthz").await
    }

    /// Installs what the operator needs, and starts it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn operator(&mut self, trainyard: &Path, flags: &[String]) -> Result<(), Error> {
        let mut install = Command::new(trainyard);
        install.args(["install", "--apply", "--image", "none", "--kubeconfig"]).arg(&self.kubeconfig);
        let done = install.output()?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(Error::Program { program: "trainyard install".to_owned(), why });
        }
        let (health, door) = (free_port()?, free_port()?);
        let mut command = Command::new(trainyard);
        command
            .arg("operator")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--health-listen", &format!("127.0.0.1:{health}")])
            .args(["--rendezvous-listen", &format!("127.0.0.1:{door}")])
            .args(["--rendezvous-address", &format!("http://127.0.0.1:{door}")])
            // On a machine that is busy a gang of ten thousand takes longer than a minute.
            .args(["--gang-seconds", "3600"])
            // Nor is there another operator that could lead where this one is held up.
            .args(["--lease-seconds", "3600", "--renew-seconds", "3000"])
            .args(flags);
        let door = Endpoint { address: format!("127.0.0.1:{health}"), token: None, tls: false };
        self.run("operator", command, &door, "/readyz").await
    }

    /// Starts a program, and waits until it answers there.
    pub(super) async fn run(
        &mut self,
        name: &'static str,
        command: Command,
        door: &Endpoint,
        path: &str,
    ) -> Result<(), Error> {
        let log = self.folder.join(format!("{name}.log"));
        self.others.push((name, spawn(command, &log)?));
        let started = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::open(door).await
                && connection.call(Method::GET, path, Bytes::new()).await.is_ok()
            {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                let why = format!("not ready; its log ends with: {}", tail.join(" | "));
                return Err(Error::Program { program: name.to_owned(), why });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the API server has nothing to do of its own: after kinds were defined it works on their description for a while.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn settle(&self) -> Result<(), Error> {
        let Some(server) = self.server.pids().pop() else { return Ok(()) };
        let started = Instant::now();
        let mut before = processor_time(server)?;
        while started.elapsed() < SETTLE_WITHIN {
            tokio::time::sleep(SETTLE_LOOK).await;
            let spent = processor_time(server)?;
            if spent.saturating_sub(before) * 10 < SETTLE_LOOK {
                break;
            }
            before = spent;
        }
        Ok(())
    }

    /// What everything has cost so far.
    ///
    /// # Errors
    /// When the API server does not tell its counters.
    pub async fn cost(&self) -> Result<Cost, Error> {
        let mut cpu = BTreeMap::new();
        for (name, pid) in ["etcd", "kube-apiserver"].into_iter().zip(self.server.pids()) {
            cpu.insert(name, processor_time(pid)?);
        }
        for (name, child) in &self.others {
            cpu.insert(*name, processor_time(child.id())?);
        }
        cpu.insert("this program", processor_time(std::process::id())?);
        let mut connection = Connection::open(self.endpoint()).await?;
        let page = connection.call(Method::GET, "/metrics", Bytes::new()).await?;
        Ok(Cost { cpu, writes: writes(&String::from_utf8_lossy(&page)) })
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for (_, child) in self.others.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Processor time by program, and writes by kind.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Processor time of each program.
    pub cpu: BTreeMap<&'static str, Duration>,
    /// Requests that were answered with success: `POST pods/binding`.
    pub writes: BTreeMap<String, u64>,
}

impl Cost {
    /// What was spent since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (name, spent) in &mut self.cpu {
            *spent = spent.saturating_sub(before.cpu.get(name).copied().unwrap_or_default());
        }
        for (name, count) in &mut self.writes {
            *count -= before.writes.get(name).copied().unwrap_or_default();
        }
        self.writes.retain(|_, count| *count > 0);
        self
    }
}

/// User and system time of a process.
pub(crate) fn processor_time(pid: u32) -> Result<Duration, Error> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel's clock tick as user space sees it is a hundredth of a second on every Linux that we know.
    Ok(Duration::from_millis(ticks * 10))
}

/// Writes by verb and resource, from the page of the API server's counters.
fn writes(page: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in page.lines() {
        let Some((labels, value)) =
            line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let from = labels.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
            from.split('"').next().unwrap_or_default()
        };
        let (verb, resource, below) = (label(",verb"), label(",resource"), label(",subresource"));
        if matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE") && label("code").starts_with('2') {
            let slash = if below.is_empty() { "" } else { "/" };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = value.parse::<f64>().unwrap_or_default() as u64;
            *found.entry(format!("{verb} {resource}{slash}{below}")).or_default() += count;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_verb_and_resource() {
        let page = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"binding\",verb=\"POST\",version=\"v1\"} 7
apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 3
apiserver_request_total{code=\"409\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 9
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1
";
        let before = Cost { writes: BTreeMap::from([("POST pods".to_owned(), 1)]), ..Cost::default() };
        let spent = Cost { writes: writes(page), ..Cost::default() }.since(&before);
        let expected = [("POST pods", 2), ("POST pods/binding", 7)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(spent.writes, BTreeMap::from(expected));
    }
}
