//! Life of the embedded control plane's ground: a home folder, the store in it, the API over it, sockets in front of it.
//!
//! One process owns a home at a time (`server.lock`); `server.json` tells other commands where the running server is.

mod home;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::auth::{TokenFileError, Tokens, User};
use crate::metrics::Metrics;
pub use crate::server::guest::Guest;
use crate::server::listen::{self, Front};
use crate::server::{self, Api, Caller, limit};
use crate::store::{self, Store, StoreError};
use crate::tls::{self, TlsError};
use crate::{gc, kinds, quota, task};

/// What to open, and how to guard it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state folder.
    pub home: PathBuf,
    /// Tokens and their roles; see `auth::token`. Needed to listen anywhere but on loopback. Where it is given, every
    /// request over a socket has to show a token (the one in `server.json` counts).
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

impl ServerInfo {
    /// Whether its process is over, as far as can be seen from here. A child that it was about to start when it was killed
    /// holds the lock of the home for some moments more, until it runs its own program.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // The state follows the name, which is in parentheses and may hold some itself.
        stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
    }
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
    /// The store in it cannot be used.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The first objects could not be written.
    #[error("cannot write the first objects")]
    Seed(#[from] StoreError),
    /// The token file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// Others would not find the server.
    #[error("cannot write server.json into the state folder")]
    Announce {
        /// What the system said.
        source: std::io::Error,
    },
}

/// An open home with the API over it.
pub struct Embedded {
    options: Options,
    api: Arc<Api>,
    router: Router,
    tls: Option<TlsAcceptor>,
    owner_token: String,
    tasks: TaskTracker,
    /// Locked for as long as this lives.
    _lock: File,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("home", &self.options.home).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the home: takes its lock, opens the store, sees that the first namespaces exist.
    ///
    /// # Errors
    /// When another process has the home, or something in it (or the token file, or the TLS files) cannot be used.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let lock = home::take(&options.home)?;
        let mut tokens = match &options.token_file {
            Some(path) => Tokens::load(path)?,
            None => Tokens::default(),
        };
        let owner_token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        tokens.insert(&owner_token, User::owner());
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let rules = server::rules(kinds::registry());
        let place = store::Options::new(options.home.join("store.db"), rules);
        let store = Store::open(store::Options { put_aside: store::put_aside(), ..place }).await?;
        server::seed(&store).await?;
        // Both end with the store.
        drop(gc::spawn(store.clone()));
        quota::spawn(store.clone());
        let api = Arc::new(Api::new(store, options.home.clone(), Metrics::new(), tokens, options.token_file.is_some()));
        let router = server::router(Arc::clone(&api));
        Ok(Self { options, api, router, tls, owner_token, tasks: TaskTracker::new(), _lock: lock })
    }

    /// A client that needs no socket: the same router, in process, with every right.
    pub fn client(&self) -> kube::Client {
        let router = self.router.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(Caller::Internal);
            let agent = || HeaderValue::from_static("trainyard");
            parts.headers.entry(header::USER_AGENT).or_insert_with(agent);
            router.clone().oneshot(http::Request::from_parts(parts, Body::new(body)))
        });
        kube::Client::new(service, "default")
    }

    /// The store behind the API.
    pub fn store(&self) -> &Store {
        &self.api.store
    }

    /// The registry behind `/metrics`.
    pub fn metrics(&self) -> &Metrics {
        &self.api.registry
    }

    /// The state folder.
    pub fn home(&self) -> &Path {
        &self.options.home
    }

    /// Listens on `address` (port 0 picks one), writes `server.json`, and serves in the background until [`Self::shutdown`].
    ///
    /// # Errors
    /// When the address is not loopback and TLS or a token file is missing, or when it cannot be bound.
    pub async fn serve(&self, address: SocketAddr) -> Result<ServerInfo, ServeError> {
        if !address.ip().to_canonical().is_loopback() {
            let missing = match (&self.options.tls, &self.options.token_file) {
                (None, None) => Some("TLS (a certificate and its key) and a token file"),
                (None, Some(_)) => Some("TLS (a certificate and its key)"),
                (Some(_), None) => Some("a token file"),
                (Some(_), Some(_)) => None,
            };
            if let Some(missing) = missing {
                return Err(ServeError::Unprotected { address, missing });
            }
        }
        let bind = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let bound = listener.local_addr().map_err(bind)?;
        let front = Front {
            router: self.router.clone(),
            tls: self.tls.clone(),
            stopping: self.api.stopping.clone(),
            tasks: self.tasks.clone(),
        };
        let info = ServerInfo {
            pid: std::process::id(),
            url: self.url(bound),
            token: Some(self.owner_token.clone()),
            ca_file: self.options.tls.as_ref().map(|files| absolute(&files.cert)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // Before the first request is answered: whoever reaches the server also finds it by its home.
        home::announce(&self.options.home, &info).map_err(|source| ServeError::Announce { source })?;
        let listener = Arc::new(listener);
        self.tasks.spawn(task::kept("listener", "nobody can connect to the API", move || {
            listen::accept(Arc::clone(&listener), front.clone())
        }));
        tracing::info!(url = info.url, "the API is served");
        Ok(info)
    }

    fn url(&self, bound: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let reachable = match bound.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        format!("{scheme}://{}", SocketAddr::new(reachable, bound.port()))
    }

    /// Answers at the address of the API for another part from now on.
    pub fn admit(&self, guest: Guest) {
        self.api.admit(guest);
    }

    /// Ends watches, lets requests in flight finish, flushes the store and gives the home back.
    pub async fn shutdown(self) {
        home::withdraw(&self.options.home);
        self.api.stopping.cancel();
        self.tasks.close();
        // Connections give up by themselves after their own limit; this one is for what hangs all the same.
        if tokio::time::timeout(limit::DRAIN * 2, self.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.api.store.close().await;
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The server that owns `home` now, if one does and listens. A stale file of a dead server is not one.
pub fn running(home: &Path) -> Option<ServerInfo> {
    home::running(home)
}

/// A client for a server found by [`running`].
///
/// # Errors
/// When its certificate cannot be read.
pub fn connect(server: &ServerInfo) -> Result<kube::Client, ConnectError> {
    let uri = server.url.parse().map_err(|_| ConnectError::Url { url: server.url.clone() })?;
    let mut config = kube::Config::new(uri);
    // A watch is silent for as long as nothing happens.
    config.read_timeout = None;
    if let Some(token) = &server.token {
        config.auth_info.token = Some(token.clone().into());
    }
    // This server's certificate and no other: reading all that the system trusts would take longer than a request.
    let certificates = server.ca_file.as_deref().map(tls::certificates).transpose()?.unwrap_or_default();
    config.root_cert = Some(certificates.iter().map(|certificate| certificate.to_vec()).collect());
    Ok(kube::Client::try_from(config)?)
}

/// Why there is no client for a running server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// `server.json` is not of this program.
    #[error("\"{url}\" in server.json is no address")]
    Url {
        /// What it says.
        url: String,
    },
    /// The certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client cannot be made.
    #[error("cannot make a client for the server")]
    Client(#[from] kube::Error),
}
