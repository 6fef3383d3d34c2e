//! The address on which the launchers in the pods of a cluster come in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};

/// After an accept that failed for want of descriptors or memory: they do not come back at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where launchers are taken in, and how they find that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What launchers are told: `http://host:port`.
    pub address: String,
}

/// A listener for launchers.
#[derive(Debug)]
pub(crate) struct Tcp {
    listener: TcpListener,
}

impl Tcp {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Connections of anybody: tokens are looked at later.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<TcpStream>> {
        futures::stream::unfold(self.listener, |listener| async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        // Somebody waits for each order.
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%peer, %error, "a launcher hung up at once");
                        }
                        return Some((Ok(stream), listener));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a launcher's connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        })
    }
}
