//! Ports for the stores of generations to come: held from before they are announced, so that nobody else can take them.

use std::io;
use std::net::TcpListener;

use super::LaunchError;
use super::environment::Pod;
use super::store;

/// Held ports. Each is announced; the order that names one takes it, and frees the others.
pub(super) struct Ports {
    address: String,
    /// The one that the pod's environment names, for the first generation.
    declared: Option<u16>,
    /// Whether others were told the declared one, too, by the manifest and not by us.
    insist: bool,
    /// Whether the port is for a store of ours; else for a rank, which must find it free.
    hosts: bool,
    /// Nobody ever calls here.
    idle: bool,
    held: Vec<(u16, TcpListener)>,
}

impl Ports {
    pub(super) fn new(pod: &Pod) -> Self {
        let (address, declared) = pod.meeting_place();
        let (insist, hosts, idle) = (pod.is_fixed(), pod.hosts_store(), pod.only_visits());
        Self { address, declared, insist, hosts, idle, held: Vec::new() }
    }

    /// Holds one more port.
    pub(super) fn hold(&mut self) -> Result<u16, LaunchError> {
        if self.idle {
            return Ok(0);
        }
        if let Some(port) = self.declared.filter(|_| self.insist && !self.hosts) {
            return Ok(port);
        }
        let failed = |address: &str, port, source| LaunchError::Store { address: format!("{address}:{port}"), source };
        let listener = match self.declared.take() {
            Some(port) if self.insist => {
                store::listen(&self.address, port).map_err(|source| failed(&self.address, port, source))?
            }
            Some(port) => store::bind(&self.address, port)
                .or_else(|_| store::bind(&self.address, 0))
                .map_err(|source| failed(&self.address, port, source))?,
            None => store::bind(&self.address, 0).map_err(|source| failed(&self.address, 0, source))?,
        };
        let port = local_port(&listener).map_err(|source| failed(&self.address, 0, source))?;
        self.held.push((port, listener));
        Ok(port)
    }

    /// An order was obeyed: gives the listener of the port that it names, for our store, and frees the others.
    pub(super) fn take(&mut self, port: u16) -> Result<TcpListener, LaunchError> {
        let held = std::mem::take(&mut self.held);
        let failed = |source| LaunchError::Store { address: format!("{}:{port}", self.address), source };
        match held.into_iter().find(|(own, _)| *own == port) {
            Some((_, listener)) => Ok(listener),
            None => store::bind(&self.address, port).map_err(failed),
        }
    }

    /// An order was obeyed that needs no port of ours, or only for a rank: frees them all.
    pub(super) fn free(&mut self) {
        self.held.clear();
    }
}

fn local_port(listener: &TcpListener) -> io::Result<u16> {
    Ok(listener.local_addr()?.port())
}
