//! The sockets on which launchers of this machine come in: one that is its owner's alone, and an open one.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use futures::{Stream, StreamExt as _};
use tokio::net::{UnixListener, UnixStream};
use trainyard_coordinator_core::fnv;

/// After an accept that failed for want of descriptors or memory: they do not come back at once.
const ACCEPT_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// A socket that only its owner can open, the owner, and a socket for everybody, if it could be had.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    owner: u32,
    open: Option<UnixListener>,
}

/// The name of the open socket that belongs to the one at `path`: `trainyard-<user>-<number>`.
pub(super) fn open_name(path: &Path) -> String {
    // The folder is there before the socket, and is of the same user.
    let owner = path.parent().and_then(|folder| std::fs::metadata(folder).ok()).map_or(0, |folder| folder.uid());
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let number = fnv::texts(&[&whole.to_string_lossy()]);
    format!("trainyard-{owner}-{number:016x}")
}

impl Socket {
    /// Listens at `path`, in place of whatever was there. Nobody else can open it at any moment: it gets its name when it has
    /// its mode.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&fresh)?.uid();
        std::fs::rename(&fresh, path)?;
        let open = open(path)
            .inspect_err(|error| tracing::warn!(%error, "launchers of other users and in containers cannot come in"));
        Ok(Self { listener, owner, open: open.ok() })
    }

    /// Whether launchers of other users can come in.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Connections of processes of the same user, and of others where they may come in: their tokens are looked at later.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<UnixStream>> {
        let open = self.open.map(|listener| connections(listener, None));
        let open = futures::stream::iter(open).flatten();
        futures::stream::select(connections(self.listener, Some(self.owner)), open)
    }
}

fn open(path: &Path) -> io::Result<UnixListener> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(open_name(path))?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Connections of processes of a user, or of any.
fn connections(listener: UnixListener, owner: Option<u32>) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold((listener, owner), |(listener, owner)| async move {
        let may =
            |stream: &UnixStream| owner.is_none_or(|owner| stream.peer_cred().is_ok_and(|peer| peer.uid() == owner));
        loop {
            match listener.accept().await {
                Ok((stream, _)) if may(&stream) => return Some((Ok(stream), (listener, owner))),
                Ok(_) => tracing::warn!("a process of another user tried to join a rendezvous"),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a launcher's connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    })
}
