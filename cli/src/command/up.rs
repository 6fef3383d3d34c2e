//! `trainyard up`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use trainyard_runtime::embedded::{Options, TlsFiles};
use trainyard_worker::agent::ContainerMode;

use crate::api::Api;
use crate::arg::{ContainerArgs, Global, LogFormat};
use crate::command::run::{others, process};
use crate::error::CliError;
use crate::exit_code;
use crate::home;
use crate::output::style;
use crate::plane::{self, Plane, Started};
use crate::session::internal;

/// Keep the embedded control plane running.
///
/// Serves the Kubernetes API on loopback, runs the job controllers, and runs pods as processes of this machine, or with podman or docker. State is kept in the state folder
/// and survives every stop, also `kill -9`. Ctrl-C or SIGTERM end it; pods that run go on under their shims, and the next `up` takes them over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard up
  trainyard up --listen 127.0.0.1:0                 take a free port
  trainyard kubeconfig --write ~/.kube/trainyard    in another terminal
  trainyard up --containers podman                  run the images of manifests
  trainyard up --listen 0.0.0.0:6390 --tls-cert cert.pem --tls-key key.pem --token-file tokens.csv")]
pub(crate) struct Args {
    /// Listen on this address; anything but loopback needs TLS and tokens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6390")]
    listen: SocketAddr,
    /// Certificate chain of the server, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the server, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Tokens with their users and roles
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve only the API, without controllers and without a node: for tests of controllers of your own
    #[arg(long)]
    api_only: bool,
    #[command(flatten)]
    containers: ContainerArgs,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    if crate::session::wants_cluster(global) {
        return Err(CliError::Usage {
            message: "`up` runs the embedded control plane; it takes no --context or --kubeconfig".to_owned(),
            hint: "leave them out (also TRAINYARD_CONTEXT)".to_owned(),
        });
    }
    let containers = if args.api_only { None } else { Some(plane::container_mode(args.containers)?) };
    let options = Options {
        token_file: args.token_file,
        tls: args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
        ..Options::new(home::folder(global.home.as_ref())?)
    };
    crate::session::serve(global, serve(options, args.listen, containers, global.log_format))
}

async fn serve(
    options: Options,
    listen: SocketAddr,
    containers: Option<ContainerMode>,
    format: LogFormat,
) -> Result<u8, CliError> {
    let home = options.home.clone();
    let ran = containers.is_some() && process::any(&home);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal("cannot listen for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(internal("cannot listen for signals"))?;
    let plane = match Plane::start_parts(options, listen, containers).await? {
        Started::Here(plane) => plane,
        Started::Elsewhere(info) => {
            say(format, &format!("a control plane runs already on {} (pid {})", info.url, info.pid))?;
            usage(format)?;
            return Ok(exit_code::SUCCESS);
        }
    };
    plane.ready().await;
    say(format, &format!("control plane ready on {}, state in {}", plane.info.url, home.display()))?;
    if ran {
        let living = others::living(&Api::new(plane.client())).await?;
        for job in living.iter().filter(|job| job.runs()) {
            say(format, &format!("took over {}, which went on without a control plane", job.title()))?;
        }
    }
    usage(format)?;
    let told = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    if let Err(failed) = until(&plane, told).await {
        plane.give_up().await;
        return Err(failed);
    }
    say(format, "stopping; pods that run go on, the next `trainyard up` takes them over")?;
    tokio::select! {
        () = plane.stop() => Ok(exit_code::SUCCESS),
        // Whoever asks twice is in a hurry. The store is safe at any moment.
        _ = interrupt.recv() => Ok(exit_code::SIGNAL_BASE + 2),
    }
}

/// Waits until we are `told` to stop; fails when there is nothing left to keep running.
async fn until(plane: &Plane, told: impl Future<Output = ()>) -> Result<(), CliError> {
    tokio::select! {
        () = told => Ok(()),
        failed = plane.failed() => Err(failed),
    }
}

/// To a person, or as one more line of the log.
fn say(format: LogFormat, text: &str) -> std::io::Result<()> {
    match format {
        LogFormat::Text => {}
        LogFormat::Json => {
            tracing::info!("{text}");
            return Ok(());
        }
    }
    let strong = style::STRONG;
    writeln!(anstream::stderr(), "{strong}trainyard:{strong:#} {text}")
}

fn usage(format: LogFormat) -> std::io::Result<()> {
    match format {
        LogFormat::Text => {}
        LogFormat::Json => return Ok(()),
    }
    let hint = style::HINT;
    let mut err = anstream::stderr().lock();
    writeln!(
        err,
        "\n{hint}hint:{hint:#} in another terminal: `trainyard run job.yaml`, `trainyard get`; or with kubectl:"
    )?;
    writeln!(err, "  trainyard kubeconfig --write ~/.kube/trainyard && export KUBECONFIG=~/.kube/trainyard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_control_plane_whose_store_has_ended_ends_with_an_error() {
        let home = tempfile::tempdir().expect("a folder");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let plane = match Plane::start_parts(Options::new(home.path()), listen, None).await {
            Ok(Started::Here(plane)) => plane,
            Ok(Started::Elsewhere(info)) => panic!("{info:?}"),
            Err(error) => panic!("{error}"),
        };
        assert!(until(&plane, std::future::ready(())).await.is_ok(), "told to stop");
        let (failed, ()) = tokio::join!(until(&plane, std::future::pending()), plane.fail());
        let failed = failed.expect_err("failed");
        assert_ne!(failed.exit_code(), exit_code::SUCCESS);
        plane.stop().await;
    }
}
