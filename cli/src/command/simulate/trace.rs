//! `trainyard simulate --trace`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use trainyard_sim::trace::{
    Filled, Host, Load, Options, Packing, Pod, Policy, Report, Trace, TraceError, fill, fleet, hosts, parse, replay,
};

use crate::error::CliError;

#[derive(Debug, clap::Args)]
#[group(id = "replay", conflicts_with_all = ["live", "worlds"])]
pub(super) struct ReplayArgs {
    /// Replay the jobs of this trace
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// GPUs of the pool that a trace in Philly's columns is replayed on; several make one replay each
    #[arg(
        long,
        value_name = "N",
        requires = "trace",
        conflicts_with = "nodes",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    gpus: Vec<u32>,
    /// The nodes that a trace in OpenB's columns is replayed on
    #[arg(long, value_name = "FILE", requires = "trace")]
    nodes: Option<PathBuf>,
    /// Who goes first: known run times are for `easy`, `sjf` and `srtf` only; several make one replay each
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "ours",
        requires = "trace",
        value_delimiter = ',',
        value_parser = policy()
    )]
    policy: Vec<Policy>,
    /// Under `easy`, the limit of a job's run time, in percent of how long it runs
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 200,
        requires = "gpus",
        value_parser = clap::value_parser!(u32).range(100..)
    )]
    limit: u32,
    /// Let pods come in random order until they ask for this much of the nodes' GPUs; none of them ends
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "nodes",
        conflicts_with_all = ["policy", "gpus"],
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    load: Option<u32>,
    /// How nodes are chosen under --load; several are compared on the same samples
    #[arg(
        long,
        value_name = "PACKING",
        default_value = "ours",
        requires = "load",
        value_delimiter = ',',
        value_parser = packing()
    )]
    packing: Vec<Packing>,
    /// From this much of the GPUs in use on, `ours` turns pods away that would leave parts of GPUs nobody can use
    #[arg(long, value_name = "PERCENT", requires = "load", value_parser = clap::value_parser!(u32).range(..=100))]
    hold_back: Option<u32>,
    /// Draw so many samples under --load
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        requires = "load",
        value_parser = clap::value_parser!(u64).range(1..=10_000)
    )]
    samples: u64,
}

fn policy() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::ALL.map(Policy::name)).map(|name| Policy::named(&name).unwrap_or_default())
}

fn packing() -> impl TypedValueParser<Value = Packing> {
    PossibleValuesParser::new(Packing::ALL.map(Packing::name)).map(|name| Packing::named(&name).unwrap_or_default())
}

/// Replays a trace.
pub(super) fn run(path: &Path, args: &ReplayArgs, json: bool) -> Result<u8, CliError> {
    let usage = |message: &str, hint: &str| {
        let (message, hint) = (format!("{}: {message}", path.display()), hint.to_owned());
        Err(CliError::Usage { message, hint })
    };
    match (read(path, parse)?, &args.nodes) {
        (Trace::Jobs(_), Some(_)) => {
            usage("these columns say nothing of nodes", "give the number of GPUs instead: `--gpus 320`")
        }
        (Trace::Jobs(_), None) if args.gpus.is_empty() => {
            usage("on how many GPUs?", "give the number of GPUs of the pool: `--gpus 320`")
        }
        (Trace::Jobs(jobs), None) => {
            let options = |gpus| move |policy| Options { limit_percent: args.limit, ..Options::new(gpus, policy) };
            let all = args.gpus.iter().flat_map(|gpus| args.policy.iter().copied().map(options(*gpus)));
            reports(all.map(|options| replay(&jobs, options)), json)
        }
        (Trace::Pods(_), None) => usage(
            "these pods ask for processors, memory and parts of GPUs: on which nodes?",
            "give a file of nodes with the columns cpu_milli, memory_mib, gpu and model: `--nodes nodes.csv`",
        ),
        (Trace::Pods(pods), Some(nodes)) => on_nodes(&pods, &read(nodes, hosts)?, args, json),
    }
}

fn on_nodes(pods: &[Pod], hosts: &[Host], args: &ReplayArgs, json: bool) -> Result<u8, CliError> {
    let Some(percent) = args.load else {
        let of = |policy: &Policy| fleet(pods, hosts, Options::new(0, *policy));
        return reports(args.policy.iter().map(of), json);
    };
    let load = Load { percent, samples: args.samples, hold_back: args.hold_back };
    let of = |packing: &Packing| fill(pods, hosts, *packing, load);
    fillings(args.packing.iter().map(of), json)
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, TraceError>) -> Result<T, CliError> {
    let read = |source| CliError::File { verb: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    parse(&text).map_err(|error| CliError::Usage { message: format!("{}:{error}", path.display()), hint: error.hint })
}

/// Prints reports, each as soon as it is there.
fn reports(reports: impl Iterator<Item = Report>, json: bool) -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    if !json {
        writeln!(
            out,
            "{:>7} {:6} {:>7} {:>7} {:>8} {:>7} {:>7} {:>6} {:>10} {:>11} {:>8} {:>5}",
            "GPUS",
            "POLICY",
            "JOBS",
            "REFUSED",
            "MEAN",
            "P50",
            "P99",
            "USED",
            "FRAGMENTED",
            "PREEMPTIONS",
            "PROMISED",
            "LATE"
        )?;
    }
    for report in reports {
        if json {
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
            continue;
        }
        writeln!(
            out,
            "{:>7} {:6} {:>7} {:>7} {:>6.2} h {:>5.2} h {:>5.1} h {:>4.1} % {:>8.1} % {:>11} {:>8} {:>5}",
            report.gpus,
            report.policy,
            report.jobs,
            report.refused,
            report.mean_hours,
            report.p50_hours,
            report.p99_hours,
            report.utilisation * 100.0,
            report.fragmentation * 100.0,
            report.preemptions,
            report.promised,
            report.late
        )?;
    }
    Ok(0)
}

fn fillings(fillings: impl Iterator<Item = Filled>, json: bool) -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    if !json {
        writeln!(
            out,
            "{:>7} {:8} {:>7} {:>9} {:>9} {:>9} {:>9}",
            "GPUS", "PACKING", "SAMPLES", "ALLOCATED", "DEVIATION", "IN PIECES", "HELD BACK"
        )?;
    }
    for filled in fillings {
        if json {
            serde_json::to_writer(&mut out, &filled).map_err(std::io::Error::from)?;
            writeln!(out)?;
            continue;
        }
        let (packing, samples) = (filled.packing.name(), filled.allocated.len());
        let parts = [filled.mean, filled.deviation, filled.in_pieces, filled.held_back];
        let [mean, deviation, pieces, held] = parts.map(|part| part * 100.0);
        let gpus = filled.gpus;
        write!(out, "{gpus:>7} {packing:8} {samples:>7} {mean:>7.2} % {deviation:>7.2} % {pieces:>7.2} %")?;
        writeln!(out, " {held:>7.2} %")?;
    }
    Ok(0)
}
