//! The socket on which launchers of this machine come in: its owner's alone.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use futures::Stream;
use tokio::net::{UnixListener, UnixStream};

/// After an accept that failed for want of descriptors or memory: they do not come back at once.
const ACCEPT_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// A socket that only its owner can open, and the owner.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    owner: u32,
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
        Ok(Self { listener, owner })
    }

    /// Connections of processes of the same user.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<UnixStream>> {
        futures::stream::unfold(self, |socket| async move {
            loop {
                match socket.listener.accept().await {
                    Ok((stream, _)) if socket.is_ours(&stream) => return Some((Ok(stream), socket)),
                    Ok(_) => tracing::warn!("a process of another user tried to join a rendezvous"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a launcher's connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        })
    }

    fn is_ours(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner)
    }
}
