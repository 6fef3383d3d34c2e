//! Other gang schedulers, as `tests/tools/schedulers` builds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::Method;
use serde_json::{Value, json};

use super::plane::Plane;
use crate::Error;
use crate::http::{Connection, Endpoint};
use crate::server::free_port;

/// The queue in which Jobs wait for Kueue.
pub(super) const QUEUE: &str = "bench";
/// Where Kueue's kinds are.
const KUEUE: &str = "/apis/kueue.x-k8s.io/v1beta2";
/// As `tests/tools/schedulers` says it.
const KUEUE_NAMESPACE: &str = "kueue-system";

/// The queue of groups that name none, which the scheduler makes.
const VOLCANO_QUEUE: &str = "/apis/scheduling.volcano.sh/v1beta1/queues/default";

fn is_served(definition: &Value) -> bool {
    let mut conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Established" && one["status"] == "True")
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Request(error.to_string())
}

impl Plane {
    /// Defines the kinds of all manifests in a folder.
    async fn define(&self, folder: &Path) -> Result<(), Error> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.sort();
        let mut connection = Connection::open(self.endpoint()).await?;
        for file in files {
            let definition: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?).map_err(failed)?;
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            connection.call(Method::POST, path, definition.to_string().into()).await?;
            let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.is(&mut connection, &format!("{path}/{name}"), is_served).await?;
        }
        Ok(())
    }

    /// Waits until an object is there and as it should be.
    async fn is(&self, connection: &mut Connection, path: &str, wanted: fn(&Value) -> bool) -> Result<Value, Error> {
        loop {
            if let Ok(answer) = connection.call(Method::GET, path, bytes::Bytes::new()).await {
                let object: Value = serde_json::from_slice(&answer).map_err(failed)?;
                if wanted(&object) {
                    return Ok(object);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Starts Volcano's scheduler as it comes, without a limit of requests, and opens its queue, which its controllers would do.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) async fn volcano(&mut self, others: &Path) -> Result<(), Error> {
        self.define(&others.join("volcano")).await?;
        let (health, metrics) = (free_port()?, free_port()?);
        let mut command = Command::new(others.join("volcano-scheduler"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--leader-elect=false", "--kube-api-qps", "10000", "--kube-api-burst", "20000"])
            .args(["--enable-healthz", "--healthz-address", &format!("127.0.0.1:{health}")])
            .args(["--listen-address", &format!("127.0.0.1:{metrics}")]);
        let door = Endpoint { address: format!("127.0.0.1:{health}"), token: None, tls: false };
        self.run("volcano", command, &door, "/healthz").await?;
        let mut connection = Connection::open(self.endpoint()).await?;
        let mut queue = self.is(&mut connection, VOLCANO_QUEUE, |queue| queue["metadata"]["name"] == "default").await?;
        queue["status"]["state"] = json!("Open");
        connection.call(Method::PUT, &format!("{VOLCANO_QUEUE}/status"), queue.to_string().into()).await.map(drop)
    }

    /// Starts the cluster's own controller of Jobs, without a limit of requests.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) async fn job_controller(&mut self) -> Result<(), Error> {
        let port = free_port()?;
        let mut command = Command::new(self.bin().join("kube-controller-manager"));
        command
            .args([
                "--controllers",
                "job-controller",
                "--leader-elect=false",
                "--use-service-account-credentials=false",
            ])
            .args(["--kube-api-qps", "10000", "--kube-api-burst", "20000"])
            .args(["--bind-address", "127.0.0.1", "--secure-port", &port.to_string()]);
        for what in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            command.arg(what).arg(&self.kubeconfig);
        }
        let door = Endpoint { address: format!("127.0.0.1:{port}"), token: None, tls: true };
        self.run("kube-controller-manager", command, &door, "/healthz").await
    }

    /// Starts Kueue with its own settings, but without webhooks and without a limit of requests, and makes a queue that takes everything.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) async fn kueue(&mut self, others: &Path) -> Result<(), Error> {
        self.define(&others.join("kueue-kinds")).await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUEUE_NAMESPACE}});
        let mut connection = Connection::open(self.endpoint()).await?;
        connection.call(Method::POST, "/api/v1/namespaces", namespace.to_string().into()).await?;
        let (health, hooks) = (free_port()?, free_port()?);
        let config = json!({
            "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration",
            "namespace": KUEUE_NAMESPACE,
            "health": {"healthProbeBindAddress": format!("127.0.0.1:{health}")},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": hooks, "host": "127.0.0.1", "certDir": others.join("certs")},
            "leaderElection": {"leaderElect": false},
            "internalCertManagement": {"enable": false},
            "controller": {"groupKindConcurrency": {
                "Job.batch": 5, "Pod": 5, "Workload.kueue.x-k8s.io": 10, "LocalQueue.kueue.x-k8s.io": 5,
                "Cohort.kueue.x-k8s.io": 1, "ClusterQueue.kueue.x-k8s.io": 5, "ResourceFlavor.kueue.x-k8s.io": 1,
            }},
            "clientConnection": {"qps": 10_000, "burst": 20_000},
            "integrations": {"frameworks": ["batch/job"]},
        });
        let file = self.folder().join("kueue.json");
        fs::write(&file, config.to_string())?;
        let mut command = Command::new(others.join("kueue"));
        command.arg("--config").arg(&file).arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--feature-gates", "VisibilityOnDemand=false"]);
        let door = Endpoint { address: format!("127.0.0.1:{health}"), token: None, tls: false };
        self.run("kueue", command, &door, "/readyz").await?;
        self.queue(&mut connection).await
    }

    async fn queue(&self, connection: &mut Connection) -> Result<(), Error> {
        let api = "kueue.x-k8s.io/v1beta2";
        let resource = json!({"name": "cpu", "nominalQuota": "1000000"});
        for (path, object) in [
            ("resourceflavors", json!({"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": "any"}})),
            (
                "clusterqueues",
                json!({"apiVersion": api, "kind": "ClusterQueue", "metadata": {"name": QUEUE}, "spec": {
                    "namespaceSelector": {},
                    "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [{"name": "any", "resources": [resource]}]}],
                }}),
            ),
            (
                "namespaces/default/localqueues",
                json!({"apiVersion": api, "kind": "LocalQueue", "metadata": {"name": QUEUE},
                       "spec": {"clusterQueue": QUEUE}}),
            ),
        ] {
            connection.call(Method::POST, &format!("{KUEUE}/{path}"), object.to_string().into()).await?;
        }
        Ok(())
    }
}
