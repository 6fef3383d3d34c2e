//! How fast gangs of pods come to nodes on a real API server: a loop of create and bind calls, which is the limit, our operator, and
//! the cluster's own scheduler, in turns, each on a control plane of its own with the same simulated nodes.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use trainyard_benches::Error;
use trainyard_benches::scale::Shape;
use trainyard_benches::scale::contender::{Contender, Setting, widest};
use trainyard_benches::scale::table;

#[derive(Parser)]
struct Arguments {
    /// The trainyard binary
    #[arg(long, default_value = "target/release/trainyard")]
    trainyard: PathBuf,
    /// Folder with the cluster's programs: what `tests/tools/kubernetes etcd kube-apiserver kube-scheduler` prints
    #[arg(long)]
    kubernetes: PathBuf,
    /// Folder with other schedulers: what `tests/tools/schedulers volcano kueue` prints
    #[arg(long)]
    others: Option<PathBuf>,
    /// Simulated nodes
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Gangs x pods of each
    #[arg(long, value_delimiter = ',', default_value = "500x20,1x10000")]
    shapes: Vec<Shape>,
    /// Only these; left out: all that need nothing but a Kubernetes, whichever
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Connections of the loop that creates pods; left out: the best of 8, 16, 32 and 64
    #[arg(long)]
    wide: Option<usize>,
    /// Seconds after which a measurement is over, whatever is bound by then
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// How often everything is done
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Keep the folders of all control planes, with the programs' logs, here
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let scratch = tempfile::tempdir()?;
    let folder = arguments.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    let contenders = match arguments.contenders.as_slice() {
        [] => Contender::value_variants().iter().copied().filter(|one| one.is_everywhere()).collect(),
        some => some.to_vec(),
    };
    let mut setting = Setting {
        trainyard: &arguments.trainyard,
        bin: &arguments.kubernetes,
        others: arguments.others.as_deref(),
        nodes: arguments.nodes,
        wide: arguments.wide.unwrap_or(1),
        limit: Duration::from_secs(arguments.limit),
    };
    let mut out = std::io::stdout().lock();
    if arguments.wide.is_none() {
        let pods = arguments.shapes.iter().map(|shape| shape.total()).max().unwrap_or(0) / 10;
        let (wide, rate) = widest(setting, pods.max(64), &[8, 16, 32, 64], &folder.join("widest")).await?;
        writeln!(out, "{wide} connections are best for the loop: {rate:.0} pods/s with {pods} pods\n")?;
        setting.wide = wide;
    }
    out.write_all(table::HEAD.as_bytes())?;
    let mut details = String::new();
    for round in 0..arguments.rounds {
        for shape in &arguments.shapes {
            let mut outcomes = Vec::new();
            for (turn, contender) in contenders.iter().enumerate() {
                let place = folder.join(format!("{round}-{}x{}-{turn}-{contender:?}", shape.gangs, shape.pods));
                let outcome = contender.measure(setting, *shape, &place).await?;
                details += &table::details(&outcome);
                outcomes.push(outcome);
                let last = &outcomes[outcomes.len() - 1];
                out.write_all(table::row(last, table::limit_of(&outcomes, last)).as_bytes())?;
                out.flush()?;
            }
        }
    }
    writeln!(out, "\n{details}")?;
    Ok(())
}
