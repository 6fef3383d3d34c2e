//! `trainyard simulate`: what would be on the live queue, with the jobs of a trace, or in simulated worlds.

mod live;
mod prospect;
mod seed;
mod trace;

use crate::arg::Global;
use crate::error::CliError;

/// Say what would be: on the live queue, with a cluster's trace, or in simulated worlds.
///
/// On the live queue, without --trace and --seeds: takes nodes, pods and queues from where `trainyard queue` takes them, changes what the
/// options suppose, and asks the scheduler about both. Shows for each job that waits its position and start before and after, what would
/// be preempted, and how much would be used. Writes nothing to the server. Starts are those of `trainyard queue`: they know of run times
/// only what run limits (activeDeadlineSeconds) say, and how long others have been running.
///
/// With --trace, jobs of a trace in Philly's columns (timestamp, duration, num_gpus, cluster) go through the scheduling
/// engine on a pool of GPUs. Pods of a trace in OpenB's columns (cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec,
/// creation_time, deletion_time, scheduled_time) run on the nodes of a file (cpu_milli, memory_mib, gpu, model), where
/// a GPU can be shared in parts; with --load they are drawn at random until they ask for that much, and what counts is
/// how full the nodes become.
///
/// With --seeds or --seed, the controllers run against a simulated API server, nodes, users and faults, in virtual time.
/// A failing seed is printed with its last steps and replays exactly.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "trainyard simulate [--add-nodes N] [--remove-node NODE] [--drain NODE] [--job FILE] [--quota …]
       trainyard simulate --trace FILE [--gpus N | --nodes FILE] [--policy POLICY] [--load PERCENT]
       trainyard simulate --seeds N | --seed SEED",
    after_help = "\
Examples:
  trainyard simulate --add-nodes 2        two more nodes like the one that has the most
  trainyard simulate --add-nodes 4:gpu=8,cpu=96,memory=1Ti,label=topology.kubernetes.io/zone=b --job big.yaml
                                          a job on nodes that nobody has bought yet
  trainyard simulate --drain node-7 -o json
                                          where its pods would go, and who would wait longer
  trainyard simulate --job urgent.yaml --quota team-a:nvidia.com/gpu=64
                                          where a job would stand, and whom it would delay
  trainyard simulate --trace philly.csv --gpus 320 --policy ours
                                          replay a trace; completion times, utilisation, preemptions
  trainyard simulate --trace philly.csv --gpus 448,320 --policy easy,srtf,ours
                                          compare policies, and sizes of the pool
  trainyard simulate --trace pods.csv --nodes nodes.csv --load 130 --packing best-fit,fgd,ours
                                          how full nodes become when more is asked for than there is
  trainyard simulate --seeds 10000        run seeds 0 to 9999
  trainyard simulate --seed 4711 -o json  replay one seed; on failure print the whole world"
)]
pub(crate) struct Args {
    /// Print as JSON; of a seed that fails, every object of its world
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten, next_help_heading = "What if, on the live queue")]
    live: live::LiveArgs,
    #[command(flatten, next_help_heading = "Traces")]
    trace: trace::ReplayArgs,
    #[command(flatten, next_help_heading = "Simulated worlds")]
    seed: seed::SeedArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let json = args.output == Some(Format::Json);
    if let Some(path) = &args.trace.trace {
        trace::run(path, &args.trace, json)
    } else if args.seed.is_given() {
        seed::run(&args.seed, json)
    } else {
        live::run(global, args.live, json)
    }
}
