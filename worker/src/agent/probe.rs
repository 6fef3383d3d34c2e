//! Startup, readiness and liveness probes.

use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::pidfd;
use crate::shim::{Beside, EngineContainer, run_beside};

/// Between two looks at whether a probe's command has ended, where nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Which probe spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// A probe's verdict, once it is sure.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) container: String,
    pub(super) attempt: u32,
    pub(super) kind: Kind,
    pub(super) good: bool,
    pub(super) why: String,
}

/// What a probe needs to know of its container.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) container: Container,
    pub(super) attempt: u32,
    pub(super) ip: String,
    pub(super) beside: Beside,
    pub(super) engine: Option<EngineContainer>,
    pub(super) shim_program: PathBuf,
}

/// The number behind a port that may be a name.
pub(super) fn port_number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

/// Runs all probes of a container until the task is aborted: the startup probe alone first, then the others.
pub(super) async fn run(target: Target, verdicts: mpsc::UnboundedSender<Verdict>) {
    let container = target.container.clone();
    if let Some(probe) = &container.startup_probe
        && !run_one(&target, Kind::Startup, probe, &verdicts).await
    {
        return;
    }
    let each = |kind, probe: Option<&Probe>| {
        let (target, verdicts, probe) = (target.clone(), verdicts.clone(), probe.cloned());
        async move {
            if let Some(probe) = probe {
                run_one(&target, kind, &probe, &verdicts).await;
            }
        }
    };
    tokio::join!(
        each(Kind::Readiness, container.readiness_probe.as_ref()),
        each(Kind::Liveness, container.liveness_probe.as_ref())
    );
}

/// Runs one probe; ends when a startup probe has passed (true), or a startup or liveness probe failed for good.
async fn run_one(target: &Target, kind: Kind, probe: &Probe, verdicts: &mpsc::UnboundedSender<Verdict>) -> bool {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
    };
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let needed_good = probe.success_threshold.unwrap_or(1).max(1);
    let needed_bad = probe.failure_threshold.unwrap_or(3).max(1);
    let (mut good_in_row, mut bad_in_row) = (0, 0);
    loop {
        let outcome = match tokio::time::timeout(timeout, check(target, probe)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
        };
        let good = outcome.is_ok();
        (good_in_row, bad_in_row) = if good { (good_in_row + 1, 0) } else { (0, bad_in_row + 1) };
        let sure = if good { good_in_row == needed_good } else { bad_in_row == needed_bad };
        if sure {
            let why = outcome.err().unwrap_or_default();
            let (container, attempt) = (target.container.name.clone(), target.attempt);
            if verdicts.send(Verdict { container, attempt, kind, good, why }).is_err() {
                return false;
            }
            match (kind, good) {
                (Kind::Startup, true) => return true,
                (Kind::Startup | Kind::Liveness, false) => return false,
                (Kind::Readiness, _) | (Kind::Liveness, true) => {}
            }
        }
        tokio::time::sleep(period).await;
    }
}

/// A probe's command: whoever drops it ends what it began, too.
struct Running(Child);

impl Running {
    async fn output(command: &mut Command) -> io::Result<Output> {
        let command = command.process_group(0).kill_on_drop(true);
        let mut running = Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        let (out, err) = (running.0.stdout.take(), running.0.stderr.take());
        let (_, stdout, stderr) = tokio::join!(running.over(), all_of(out), all_of(err));
        Ok(Output { status: running.0.wait().await?, stdout, stderr })
    }

    /// Waits for the command's end, and ends what it left in the background: that may hold the pipes open for ever.
    async fn over(&self) {
        while let Some(leader) = self.leader() {
            // Not collected yet: the number of the group is no other's.
            match waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => break,
            }
            pidfd::over(leader.as_raw()).await;
            // A kernel without pidfds.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.kill();
    }

    /// Known until it is waited for.
    fn leader(&self) -> Option<Pid> {
        self.0.id().map(|leader| Pid::from_raw(leader.cast_signed()))
    }

    fn kill(&self) {
        if let Some(leader) = self.leader() {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn all_of(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was said before it broke is told.
        let _ = pipe.read_to_end(&mut said).await;
    }
    said
}

async fn check(target: &Target, probe: &Probe) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let mut command: Command = match &target.engine {
            Some(engine) => engine.exec(&argv).into(),
            None => run_beside(&target.shim_program, &target.beside, &argv).map_err(|error| error.to_string())?.into(),
        };
        let output = Running::output(&mut command).await.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, said.trim().chars().take(512).collect::<String>()));
    }
    if let Some(http) = &probe.http_get {
        let port = port_number(&target.container, &http.port).ok_or("the port is unknown")?;
        let mut stream = connect(http.host.as_deref(), &target.ip, port).await?;
        if http.scheme.as_deref() == Some("HTTPS") {
            // Upstream does not verify the certificate either; that somebody answers is what can be told without TLS.
            return Ok(());
        }
        let mut request =
            format!("GET {} HTTP/1.1\r\nHost: {}:{port}\r\n", http.path.as_deref().unwrap_or("/"), target.ip);
        for header in http.http_headers.iter().flatten() {
            request.push_str(&header.name);
            request.push_str(": ");
            request.push_str(&header.value);
            request.push_str("\r\n");
        }
        request.push_str("User-Agent: kube-probe/trainyard\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut head = [0_u8; 12];
        stream.read_exact(&mut head).await.map_err(|error| error.to_string())?;
        let code = String::from_utf8_lossy(&head[9..12]).into_owned();
        return if matches!(head[9], b'2' | b'3') {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {code}"))
        };
    }
    let port = match (&probe.tcp_socket, &probe.grpc) {
        (Some(tcp), _) => port_number(&target.container, &tcp.port),
        (None, Some(grpc)) => u16::try_from(grpc.port).ok(),
        (None, None) => return Ok(()),
    };
    let host = probe.tcp_socket.as_ref().and_then(|tcp| tcp.host.as_deref());
    connect(host, &target.ip, port.ok_or("the port is unknown")?).await.map(drop)
}

/// The pod's own address first; a server that listens on 127.0.0.1 alone is found as well.
async fn connect(host: Option<&str>, ip: &str, port: u16) -> Result<TcpStream, String> {
    if let Some(host) = host {
        return TcpStream::connect((host, port)).await.map_err(|error| error.to_string());
    }
    match TcpStream::connect((ip, port)).await {
        Ok(stream) => Ok(stream),
        Err(error) => TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| format!("{ip}:{port}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_command_leaves_in_the_background_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $! ; exit 3"]);
        // The pipe that the sleeper holds open would be read for ever.
        let output = Running::output(&mut command).await.expect("it runs");
        assert_eq!(output.status.code(), Some(3));
        let sleeper: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
        while crate::shim::ProcessId::of(sleeper).is_some() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
