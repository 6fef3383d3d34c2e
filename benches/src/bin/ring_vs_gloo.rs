//! All-reduce of the same f32 buffers: the `Communicator` over TCP beside PyTorch's gloo, on one machine, in one run.
//! Both groups of processes live side by side; one measures while the other sleeps, and who goes first alternates.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use trainyard_benches::Error;
use trainyard_worker::comm::{CommError, Communicator, ReduceOp};

#[derive(Parser)]
struct Arguments {
    /// A Python with torch
    #[arg(long, default_value = "python")]
    python: PathBuf,
    /// The program that gloo's ranks run
    #[arg(long, default_value = "benches/gloo_all_reduce.py")]
    script: PathBuf,
    /// Numbers of ranks
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,6,8")]
    ranks: Vec<usize>,
    /// Bytes of the buffers
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1024,4096,16384,65536,262144,1048576,4194304,16777216,67108864"
    )]
    bytes: Vec<usize>,
    /// Turns of each at every point
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one turn lasts, about, in milliseconds
    #[arg(long, default_value_t = 150)]
    turn_ms: u64,
    /// Be one rank of ours: for the processes that this program starts
    #[arg(long, hide = true)]
    rank: bool,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.rank {
        return rank().map_err(|error| Error::Program { program: "our rank".to_owned(), why: error.to_string() });
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "| ranks | bytes | ours, µs | gloo, µs | ours / gloo | rounds in which ours was faster |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    let mut slower = 0;
    for &world in &arguments.ranks {
        let mut ours = Group::start(world, &|| {
            let mut command = Command::new(std::env::current_exe().unwrap_or_default());
            command.arg("--rank");
            command
        })?;
        let mut gloo = Group::start(world, &|| python(&arguments.python, &arguments.script))?;
        for &bytes in &arguments.bytes {
            let point = measure(&mut ours, &mut gloo, bytes, &arguments)?;
            slower += usize::from(point.ours > point.gloo);
            writeln!(
                out,
                "| {world} | {bytes} | {:.1} | {:.1} | {:.2} | {} of {} |",
                point.ours,
                point.gloo,
                point.ours / point.gloo,
                point.won,
                arguments.rounds
            )?;
            out.flush()?;
        }
        ours.end()?;
        gloo.end()?;
    }
    writeln!(out, "\npoints at which ours was slower: {slower}")?;
    Ok(())
}

fn python(interpreter: &Path, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script).env("GLOO_SOCKET_IFNAME", "lo").env("OMP_NUM_THREADS", "1");
    command
}

/// Medians over the rounds, in microseconds for one all-reduce.
struct Point {
    ours: f64,
    gloo: f64,
    won: usize,
}

fn measure(ours: &mut Group, gloo: &mut Group, bytes: usize, arguments: &Arguments) -> Result<Point, Error> {
    let turn = arguments.turn_ms as f64 * 1e3;
    let times = |trial: f64| ((turn / trial.max(1.0)) as usize).clamp(3, 5000);
    let (our_times, gloo_times) = (times(ours.turn(bytes, 5)?), times(gloo.turn(bytes, 5)?));
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        if round % 2 == 0 {
            us.push(ours.turn(bytes, our_times)?);
            them.push(gloo.turn(bytes, gloo_times)?);
        } else {
            them.push(gloo.turn(bytes, gloo_times)?);
            us.push(ours.turn(bytes, our_times)?);
        }
    }
    let won = us.iter().zip(&them).filter(|(one, other)| one < other).count();
    Ok(Point { ours: median(us), gloo: median(them), won })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The processes of one kind.
struct Group {
    ranks: Vec<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Group {
    fn start(world: usize, command: &dyn Fn() -> Command) -> Result<Self, Error> {
        // Free a moment ago; both kinds meet at rank 0's port.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut ranks = Vec::new();
        for rank in 0..world {
            let mut child = command()
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", world.to_string())
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", port.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (input, output) = (child.stdin.take(), child.stdout.take());
            let (Some(input), Some(output)) = (input, output) else {
                return Err(Error::Program { program: format!("rank {rank}"), why: "it has no pipes".to_owned() });
            };
            ranks.push((child, input, BufReader::new(output)));
        }
        let mut group = Self { ranks };
        group.hear()?;
        Ok(group)
    }

    /// Microseconds for one all-reduce of `bytes`, of the slowest rank.
    fn turn(&mut self, bytes: usize, times: usize) -> Result<f64, Error> {
        for (_, input, _) in &mut self.ranks {
            writeln!(input, "{bytes} {times}")?;
        }
        let told = self.hear()?;
        Ok(told.iter().filter_map(|line| line.trim().parse::<f64>().ok()).fold(0.0, f64::max))
    }

    fn hear(&mut self) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        for (rank, (_, _, output)) in self.ranks.iter_mut().enumerate() {
            let mut line = String::new();
            if output.read_line(&mut line)? == 0 {
                return Err(Error::Program { program: format!("rank {rank}"), why: "it ended early".to_owned() });
            }
            lines.push(line);
        }
        Ok(lines)
    }

    fn end(self) -> Result<(), Error> {
        for (mut child, input, _) in self.ranks {
            drop(input);
            child.wait()?;
        }
        Ok(())
    }
}

/// One rank of ours: the same steps as the script of the other kind.
fn rank() -> Result<(), CommError> {
    let mut comm = Communicator::from_env()?;
    let world = comm.world_size();
    println(&"ready".to_owned());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<usize>().ok());
        let (bytes, times) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(1));
        let mut data = vec![comm.rank() as f32 + 1.0; bytes / 4];
        comm.all_reduce(&mut data, ReduceOp::Sum)?;
        let sum = (world * (world + 1) / 2) as f32;
        assert!(data.iter().all(|value| *value == sum), "the sum of all ranks is {sum}");
        data.fill(0.0);
        comm.barrier()?;
        let began = Instant::now();
        for _ in 0..times {
            comm.all_reduce(&mut data, ReduceOp::Sum)?;
        }
        println(&micros(began.elapsed() / u32::try_from(times).unwrap_or(1)));
    }
    Ok(())
}

fn micros(duration: Duration) -> String {
    format!("{}", duration.as_secs_f64() * 1e6)
}

fn println(line: &String) {
    // Without a reader there is nobody to measure for.
    let _ = writeln!(std::io::stdout(), "{line}");
}
