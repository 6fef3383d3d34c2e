//! How long thousands of ranks take to pass a barrier at the store: the one that `trainyard launch` hosts beside torch's
//! own server, in turns, with the same simulated clients on real sockets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_benches::store::Crowd;

/// Hosts torch's server until it is killed.
const TORCH: &str = "
import sys, torch.distributed as dist
store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
print(f'port={store.port}', flush=True)
sys.stdin.read()";
/// One of the launcher's ranks tells the port; both stay.
const RANK: &str = "[ $RANK = 1 ] || echo port=$MASTER_PORT; exec sleep infinity";

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary (or trainyard-launch, which is its launcher alone)
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// A Python with torch; without it our server is measured alone
    #[arg(long)]
    python: Option<PathBuf>,
    /// Clients
    #[arg(long, default_value_t = 4096)]
    clients: usize,
    /// Repetitions of each
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// A server of the store in a process of its own.
struct Host {
    child: Child,
    address: SocketAddr,
}

impl Host {
    fn start(mut command: Command) -> Result<Self, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |why: String| Error::Program { program: program.clone(), why };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let port = line.split("port=").nth(1).and_then(|port| port.trim().parse::<u16>().ok());
        let port = port.ok_or_else(|| failed(format!("it said {line:?} instead of its port")))?;
        Ok(Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    fn ours(trainyard: &PathBuf) -> Result<Self, Error> {
        let mut command = Command::new(trainyard);
        // The launcher alone has no subcommands.
        if !trainyard.ends_with("trainyard-launch") {
            command.arg("launch");
        }
        command.args(["--nproc", "2", "--", "sh", "-c", RANK]).env("TORCHELASTIC_USE_AGENT_STORE", "True");
        Self::start(command)
    }

    fn torch(python: &PathBuf) -> Result<Self, Error> {
        let mut command = Command::new(python);
        command.args(["-c", TORCH]);
        Self::start(command)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was measured of one server.
#[derive(Default)]
struct Times {
    connect: Samples,
    store_based: Samples,
    barrier: Samples,
}

impl Times {
    fn measure(&mut self, host: &Host, clients: usize, warm: bool) -> Result<(), Error> {
        let (mut crowd, connect) = Crowd::connect(host.address, clients)?;
        let (store_based, barrier) = (crowd.store_based_barrier()?, crowd.barrier()?);
        if !warm {
            self.connect.push(connect);
            self.store_based.push(store_based);
            self.barrier.push(barrier);
        }
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let system = |error: nix::errno::Errno| Error::Io(error.into());
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(system)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(system)?;
    let ours = Host::ours(&arguments.trainyard)?;
    let theirs = arguments.python.as_ref().map(Host::torch).transpose()?;
    let (mut our_times, mut their_times) = (Times::default(), Times::default());
    for round in 0..=arguments.rounds {
        // The first one warms up; who goes first changes from round to round.
        let warm = round == 0;
        if round % 2 == 0 {
            our_times.measure(&ours, arguments.clients, warm)?;
        }
        if let Some(theirs) = &theirs {
            their_times.measure(theirs, arguments.clients, warm)?;
        }
        if round % 2 == 1 {
            our_times.measure(&ours, arguments.clients, warm)?;
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| {} clients, ms: p50 / p99 / max | `trainyard launch` | torch's TCPStore | limit |",
        arguments.clients
    )?;
    writeln!(out, "|---|---|---|---|")?;
    for (name, ours, theirs, limit) in [
        ("store-based barrier (add, add, wait)", &our_times.store_based, &their_times.store_based, "500"),
        ("BARRIER", &our_times.barrier, &their_times.barrier, "500"),
        ("connect, greet and ping, one after the other", &our_times.connect, &their_times.connect, ""),
    ] {
        let theirs = if theirs.is_empty() { "not measured".to_owned() } else { theirs.line() };
        writeln!(out, "| {name} | {} | {theirs} | {limit} |", ours.line())?;
    }
    Ok(())
}
