//! The command line as clap sees it. Help texts are written for the user, in the imperative.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::command;
use crate::exit_code;

const AFTER_HELP: &str = "\
Examples:
  trainyard run examples/wine-ddp.yaml             run a distributed job, watch it, get its exit code
  trainyard run examples/wine-ddp.yaml --procs 8   the same with 8 ranks
  trainyard validate job.yaml                      check a manifest without starting anything
  trainyard up                                     keep the control plane running for kubectl and SDKs
  trainyard get                                    list all jobs
  trainyard logs -f wine-ddp --rank 2              follow one rank of a job
  trainyard explain wine-ddp                       say why a job is where it is

Where things are:
  State lives in $TRAINYARD_HOME, else $XDG_DATA_HOME/trainyard, else ~/.local/share/trainyard.
  Give --context or --kubeconfig to work on a Kubernetes cluster instead.
";

/// Distributed training, from one file, with one command, anywhere.
#[derive(Debug, Parser)]
#[command(
    name = "trainyard",
    version,
    about = "Run distributed training jobs from a manifest: on this machine, or on Kubernetes",
    long_about = "Run distributed training jobs from a manifest: on this machine with nothing else installed, or on a \
                  Kubernetes cluster. The same manifests, commands and clients work in both places.",
    after_help = AFTER_HELP,
    after_long_help = format!("{AFTER_HELP}\n{}", exit_code::HELP),
    max_term_width = 110,
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Keep state in this folder instead of the XDG data folder
    #[arg(
        long,
        global = true,
        env = "TRAINYARD_HOME",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) home: Option<PathBuf>,
    /// Work on the cluster of this kubeconfig context
    #[arg(
        long,
        global = true,
        env = "TRAINYARD_CONTEXT",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,
    /// Work on the cluster of this kubeconfig file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Use this namespace (default: the context's, else `default`)
    #[arg(
        short,
        long,
        global = true,
        env = "TRAINYARD_NAMESPACE",
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) namespace: Option<String>,
    /// Write diagnostics about Trainyard itself as text or as JSON lines, on stderr
    #[arg(
        long,
        global = true,
        env = "TRAINYARD_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Global options"
    )]
    pub(crate) log_format: LogFormat,
    /// Say more about what Trainyard itself does (-v info, -vv debug, -vvv trace); TRAINYARD_LOG takes a filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Use colour: by default on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub(crate) color: Color,
}

/// Form of the diagnostics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How containers are run on this machine.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ContainerArgs {
    /// Run containers with an engine that honours images; `none` runs them as processes of this machine, `auto` takes what works here
    #[arg(long = "containers", env = "TRAINYARD_CONTAINERS", value_name = "ENGINE", default_value = "none")]
    pub(crate) engine: Engine,
}

/// Who runs containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// podman
    Podman,
    /// docker
    Docker,
    /// podman or docker if one works here, else processes
    Auto,
    /// Processes of this machine; images are ignored
    #[default]
    None,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job from a manifest and follow it to its end
    Run(command::run::Args),
    /// Create or change the objects of a manifest, without following them
    Apply(command::apply::Args),
    /// Check manifests without starting anything
    Validate(command::validate::Args),
    /// Keep the embedded control plane running
    Up(command::up::Args),
    /// Print, or apply, what a cluster needs to run the operator
    Install(command::install::Args),
    /// Run the job controllers on a Kubernetes cluster
    Operator(command::operator::Args),
    /// Print a kubeconfig for the embedded control plane
    Kubeconfig(command::kubeconfig::Args),
    /// List objects; without a kind: all jobs
    Get(command::get::Args),
    /// Show one object with its pods and events
    Describe(command::describe::Args),
    /// Print or follow the logs of a job, with its ranks told apart
    Logs(command::logs::Args),
    /// List what happened to a job, or in a namespace
    Events(command::events::Args),
    /// Say why a job is where it is, or document the fields of a kind
    Explain(command::explain::Args),
    /// Show what waits, in the order of its turns, and how the queues stand
    Queue(command::queue::Args),
    /// Stop a job's pods but keep the job, to be resumed later
    Suspend(command::suspend::Args),
    /// Start a suspended job again
    Resume(command::suspend::Args),
    /// Delete objects
    Delete(command::delete::Args),
    /// Show the CPU and memory that nodes and ranks use
    Top(command::top::Args),
    // Without words here, those of its arguments are shown, which tell its three uses apart.
    Simulate(command::simulate::Args),
    // As above.
    Tune(command::tune::Args),
    /// Start the ranks of one pod (runs inside pods)
    Launch(command::launch::Args),
    /// Start ranks with torchrun's options and variables
    Torchrun(command::torchrun::Args),
    /// Find the bad link or GPU before a job does
    Preflight(command::preflight::Args),
    /// Run one of the trainers that are built in
    Example(command::example::Args),
    /// Print a completion script for a shell
    Completions(command::completions::Args),
    /// Print the version of this binary and of the server
    Version(command::version::Args),
    /// Copy this program into a folder that a pod's containers share (used by init containers on a cluster)
    #[command(hide = true)]
    Init(command::init::Args),
    /// Supervise one container of a pod (used by the node agent)
    #[command(hide = true)]
    Shim(command::shim::Args),
    /// Print the reference page of the command line as Markdown
    #[command(hide = true)]
    Reference(command::reference::Args),
}

/// Names one object: `NAME`, `KIND/NAME` or `KIND NAME`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// A job's name, or KIND NAME, or KIND/NAME
    #[arg(value_name = "[KIND] NAME", required = true, num_args = 1..=2)]
    pub(crate) words: Vec<String>,
}
