//! Whether PyTorch's ranks meet at a store of ours, and where it listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::LaunchError;

/// torch's variable: `True` tells the ranks that somebody else hosts the store at `MASTER_ADDR:MASTER_PORT`.
pub(super) const VARIABLE: &str = "TORCHELASTIC_USE_AGENT_STORE";
/// How long the port is waited for: an earlier incarnation may still be dying.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// Python modules that are launchers themselves, and host the store for their own ranks at the same port.
const LAUNCHERS: [&str; 5] = [
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
];

/// The user's word if there is one; else whether the command is a Python program, which under torchrun would find the
/// same. Every pod of a job decides alike, because all have one command.
pub(super) fn wanted(command: &[String], chosen: Option<&str>) -> Result<bool, LaunchError> {
    match chosen {
        None => Ok(is_python_program(command)),
        Some("True") => Ok(true),
        Some("False") => Ok(false),
        Some(other) => Err(LaunchError::Environment(format!(
            "{VARIABLE}={other} is neither True (the launcher hosts PyTorch's store) nor False (rank 0 does)"
        ))),
    }
}

fn is_python_program(command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    let name = program.rsplit('/').next().unwrap_or(program);
    let version = name.strip_prefix("python").unwrap_or("-");
    let python = version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let module = arguments.iter().position(|argument| argument == "-m").and_then(|at| arguments.get(at + 1));
    python && !module.is_some_and(|module| LAUNCHERS.contains(&module.as_str()))
}

/// Binds a port that the ranks were told by others; waits for it if it is still taken.
pub(super) fn listen(address: &str, port: u16) -> io::Result<TcpListener> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match bind(address, port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(RETRY);
            }
            bound => return bound,
        }
    }
}

/// Binds the address that the ranks call; port 0 is any. A service's address is not ours to bind: then any will do.
pub(super) fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let found: Vec<SocketAddr> = (address, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    let chosen = found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().unwrap_or(anywhere);
    let bound = TcpListener::bind(chosen);
    if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable) {
        return TcpListener::bind(anywhere);
    }
    bound
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn decide(line: &str, chosen: Option<&str>) -> bool {
        let command: Vec<String> = line.split(' ').map(str::to_owned).collect();
        wanted(&command, chosen).unwrap()
    }

    #[test]
    fn python_programs_get_the_store_and_launchers_do_not() {
        assert!(decide("python train.py", None));
        assert!(decide("/venv/bin/python3.11 -u -m package.train", None));
        assert!(!decide("python -m torch.distributed.run train.py", None));
        assert!(!decide("python-wrapper train.py", None));
        assert!(!decide("trainyard example wine-ddp", None));
        assert!(!decide("sh -c python", None));
    }

    #[test]
    fn the_user_has_the_last_word() {
        assert!(!decide("python train.py", Some("False")));
        assert!(decide("sh -c python", Some("True")));
        let error = wanted(&["python".to_owned()], Some("yes")).unwrap_err();
        assert!(error.to_string().contains("is neither True"));
    }
}
