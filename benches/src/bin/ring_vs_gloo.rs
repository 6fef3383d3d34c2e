//! All-reduce of the same f32 buffers on one machine, in one run: the `Communicator` over sockets, as between machines, and
//! over memory, beside PyTorch's gloo. The groups of processes live side by side; one measures while the others sleep, and
//! who goes first alternates.

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
    #[arg(long, value_delimiter = ',', default_value = "1024,4096,65536,1048576,4194304,16777216,67108864")]
    bytes: Vec<usize>,
    /// Turns of each at every point
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one turn lasts, about, in milliseconds
    #[arg(long, default_value_t = 60)]
    turn_ms: u64,
    /// Write the page with what was measured here, for instance docs/figures/ring-vs-gloo.md
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Be one rank of ours: for the processes that this program starts
    #[arg(long, hide = true)]
    rank: bool,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.rank {
        return rank().map_err(|error| Error::Program { program: "our rank".to_owned(), why: error.to_string() });
    }
    let before = load();
    let mut table = Table::begin(arguments.rounds)?;
    for &world in &arguments.ranks {
        let own = |memory: &'static str| {
            move || {
                let mut command = Command::new(std::env::current_exe().unwrap_or_default());
                command.arg("--rank").env("TRAINYARD_SHARED_MEMORY", memory);
                command
            }
        };
        let gloo = Group::start(world, &|| python(&arguments.python, &arguments.script))?;
        let mut groups = [gloo, Group::start(world, &own("0"))?, Group::start(world, &own("1"))?];
        for &bytes in &arguments.bytes {
            table.add(world, bytes, &measure(&mut groups, bytes, &arguments)?)?;
        }
        groups.into_iter().try_for_each(Group::end)?;
    }
    let verdict = table.verdict();
    writeln!(std::io::stdout(), "\n{verdict}")?;
    if let Some(page) = &arguments.page {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let conditions = format!(
            "Taken on {cores} cores; the load was {before} before. {} rounds of about {} ms.",
            arguments.rounds, arguments.turn_ms
        );
        std::fs::write(page, format!("{ABOUT}\n{conditions}\n\n{}\n{verdict}\n\n{AFTER}", table.text))?;
    }
    Ok(())
}

/// The page, up to its figures.
const ABOUT: &str = "\
# All-reduce beside gloo

The Rust `Communicator` and PyTorch's gloo (2.13, one thread a rank) sum the same `f32` buffers on one machine, in one
run. The groups of processes live side by side; one measures while the others sleep, and who goes first alternates. Each
figure is the median over the rounds of the slowest rank's time for one all-reduce. *Sockets* is what ranks on several
machines use, here over loopback, as gloo does; *memory* is what the communicator takes by itself on one machine.

```
cargo run --release -p trainyard-benches --bin ring_vs_gloo -- --python PYTHON_WITH_TORCH --page docs/figures/ring-vs-gloo.md
```
";

/// What is to be said about them.
const AFTER: &str = "\
Why sockets are no slower: an all-reduce is one flow in each direction. What comes is added in portions that fit the
second-level cache and sent on at once, so a rank sleeps only when it has nothing to add and nothing to send: a few times
in a long all-reduce, where gloo hands segments from thread to thread over a hundred times. Between ranks of one
machine the connections use Reno (a pacing congestion control, such as BBR, only holds loopback back) and a send buffer
that fits the cache; between machines the system's choices stay.
";

/// The load averages, as the system writes them.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(", ")
}

/// What was measured, line by line as it comes.
struct Table {
    text: String,
    rounds: usize,
    points: usize,
    slower: Vec<String>,
}

impl Table {
    fn begin(rounds: usize) -> Result<Self, Error> {
        let mut table = Self { text: String::new(), rounds, points: 0, slower: Vec::new() };
        table.line(
            "| ranks | bytes | gloo, µs | sockets, µs | sockets / gloo | faster in | memory, µs | memory / gloo |",
        )?;
        table.line("|---|---|---|---|---|---|---|---|")?;
        Ok(table)
    }

    fn line(&mut self, line: &str) -> Result<(), Error> {
        self.text.push_str(line);
        self.text.push('\n');
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }

    fn add(&mut self, world: usize, bytes: usize, [gloo, sockets, memory]: &[Vec<f64>; 3]) -> Result<(), Error> {
        let won = sockets.iter().zip(gloo).filter(|(ours, theirs)| ours < theirs).count();
        let [gloo, sockets, memory] = [gloo, sockets, memory].map(|rounds| median(rounds.clone()));
        self.points += 1;
        if sockets > gloo {
            self.slower.push(format!("{bytes} bytes by {world} ranks"));
        }
        let (over_sockets, over_memory, rounds) = (sockets / gloo, memory / gloo, self.rounds);
        self.line(&format!(
            "| {world} | {bytes} | {gloo:.0} | {sockets:.0} | {over_sockets:.2} | {won} of {rounds} | {memory:.0} | {over_memory:.2} |"
        ))
    }

    fn verdict(&self) -> String {
        let points = self.points;
        if self.slower.is_empty() {
            return format!("Over sockets the communicator was no slower than gloo at any of the {points} points.");
        }
        format!(
            "Over sockets the communicator was slower than gloo at {} of {points} points: {}.",
            self.slower.len(),
            self.slower.join(", ")
        )
    }
}

fn python(interpreter: &Path, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script).env("GLOO_SOCKET_IFNAME", "lo").env("OMP_NUM_THREADS", "1");
    command
}

/// Microseconds for one all-reduce, of each group in each round.
fn measure(groups: &mut [Group; 3], bytes: usize, arguments: &Arguments) -> Result<[Vec<f64>; 3], Error> {
    let turn = arguments.turn_ms as f64 * 1e3;
    let mut times = [1; 3];
    for (group, times) in groups.iter_mut().zip(&mut times) {
        *times = ((turn / group.turn(bytes, 2)?.max(1.0)) as usize).clamp(1, 5000);
    }
    let mut rounds = [const { Vec::new() }; 3];
    for round in 0..arguments.rounds {
        for step in 0..groups.len() {
            let at = (round + step) % groups.len();
            rounds[at].push(groups[at].turn(bytes, times[at])?);
        }
    }
    Ok(rounds)
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
