//! `trainyard kubeconfig`.

use std::path::PathBuf;

use serde_json::{Value, json};
use trainyard_runtime::embedded;

use crate::arg::Global;
use crate::error::CliError;
use crate::home;
use crate::output::object::{self, Markup};

/// Print a kubeconfig for the embedded control plane.
///
/// It works with kubectl, the Kubernetes clients and the Kubeflow SDKs, for as long as the server runs on the same port.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard kubeconfig --write ~/.kube/trainyard && export KUBECONFIG=~/.kube/trainyard
  kubectl get pods")]
pub(crate) struct Args {
    /// Name the context, cluster and user this
    #[arg(long, value_name = "NAME", default_value = "trainyard")]
    name: String,
    /// Write to this file, readable by you only, instead of stdout
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let home = home::folder(global.home.as_ref())?;
    let info = embedded::running(&home).ok_or_else(|| CliError::Unreachable {
        message: format!("no control plane runs on {}", home.display()),
        hint: "start one with `trainyard up`".to_owned(),
    })?;
    let mut cluster = json!({"server": info.url});
    if let Some(ca) = &info.ca_file {
        cluster["certificate-authority"] = Value::from(ca.display().to_string());
    }
    let user = info.token.as_ref().map_or_else(|| json!({}), |token| json!({"token": token}));
    let namespace = global.namespace.as_deref().unwrap_or("default");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": args.name, "cluster": cluster}],
        "users": [{"name": args.name, "user": user}],
        "contexts": [{"name": args.name, "context": {"cluster": args.name, "user": args.name, "namespace": namespace}}],
        "current-context": args.name,
    });
    match &args.write {
        None => object::print(&mut std::io::stdout().lock(), &config, Markup::Yaml)?,
        Some(path) => {
            use std::os::unix::fs::OpenOptionsExt as _;
            let fail = |source| CliError::File { verb: "write", path: path.clone(), source };
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(fail)?;
            object::print(&mut file, &config, Markup::Yaml).map_err(fail)?;
        }
    }
    Ok(0)
}
