//! Starting what is measured: `trainyard up`, and a real kube-apiserver on a real etcd beside it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::Error;
use crate::http::{Connection, Endpoint};

/// A peer that has not become ready by then is not going to.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Programs that run for the time of a measurement and are killed at its end.
#[derive(Debug)]
pub struct Server {
    /// What to call it in a table.
    pub name: String,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// From the start of the process to the first good answer of `/readyz`.
    pub ready_after: Duration,
    children: Vec<Child>,
}

impl Server {
    /// Process ids, the server's own last.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Starts `binary up` on `home`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn trainyard(binary: &Path, home: &Path) -> Result<Self, Error> {
        let endpoint = Endpoint { address: format!("127.0.0.1:{}", free_port()?), token: None, tls: false };
        let log = home.with_extension("log");
        let started = Instant::now();
        let mut command = Command::new(binary);
        command.args(["up", "--listen", &endpoint.address]).env("TRAINYARD_HOME", home);
        let child = spawn(command, &log)?;
        Self::ready("trainyard", endpoint, vec![child], started, &log).await
    }

    /// Starts `etcd` and `kube-apiserver` from `bin`, with their data in `folder`, and more flags for the latter.
    ///
    /// # Errors
    /// When they do not become ready.
    pub async fn kubernetes(bin: &Path, folder: &Path, flags: &[&str]) -> Result<Self, Error> {
        fs::create_dir_all(folder)?;
        let (client, peer) = (free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client}");
        let mut etcd = Command::new(bin.join("etcd"));
        etcd.args(["--data-dir", &folder.join("etcd").display().to_string()])
            .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--log-level", "error"]);
        let started = Instant::now();
        let etcd = spawn(etcd, &folder.join("etcd.log"))?;
        let key = signing_key(folder)?;
        fs::write(folder.join("tokens"), "bench,bench,bench,system:masters\n")?;
        let port = free_port()?;
        let log = folder.join("apiserver.log");
        let mut api = Command::new(bin.join("kube-apiserver"));
        api.args(["--etcd-servers", &etcd_url, "--secure-port", &port.to_string(), "--bind-address", "127.0.0.1"])
            .args(["--cert-dir", &folder.join("certs").display().to_string()])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!("--token-auth-file={}", folder.join("tokens").display()))
            .args(["--authorization-mode", "AlwaysAllow"])
            .args(["--disable-admission-plugins", "ServiceAccount,TaintNodesByCondition"])
            .args(["--service-cluster-ip-range", "10.96.0.0/16"])
            .args(flags);
        let api = spawn(api, &log)?;
        let endpoint = Endpoint { address: format!("127.0.0.1:{port}"), token: Some("bench".to_owned()), tls: true };
        Self::ready("kube-apiserver + etcd", endpoint, vec![etcd, api], started, &log).await
    }

    async fn ready(
        name: &str,
        endpoint: Endpoint,
        children: Vec<Child>,
        started: Instant,
        log: &Path,
    ) -> Result<Self, Error> {
        let mut server = Self { name: name.to_owned(), endpoint, ready_after: Duration::ZERO, children };
        loop {
            if let Ok(mut connection) = Connection::open(&server.endpoint).await
                && connection.call(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                server.ready_after = started.elapsed();
                return Ok(server);
            }
            let ended = server.children.iter_mut().any(|c| matches!(c.try_wait(), Ok(Some(_))));
            if ended || started.elapsed() > READY_WITHIN {
                let text = fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                let why = format!("not ready; its log ends with: {}", tail.join(" | "));
                return Err(Error::Program { program: name.to_owned(), why });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Resident memory of a process and of all its descendants, in bytes.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn resident_bytes(pid: u32) -> Result<u64, Error> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or_default();
    Ok(kib * 1024)
}

pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Child, Error> {
    let log = File::create(log)?;
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| Error::Program { program, why: format!("cannot start: {error}") })
}

fn signing_key(folder: &Path) -> Result<PathBuf, Error> {
    let key = folder.join("service-account.key");
    let done = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output()?;
    if done.status.success() {
        Ok(key)
    } else {
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        Err(Error::Program { program: "openssl".to_owned(), why })
    }
}

pub(crate) fn free_port() -> Result<u16, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
