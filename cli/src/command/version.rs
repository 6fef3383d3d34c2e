//! `trainyard version`.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::arg::Global;
use crate::error::CliError;
use crate::home;
use crate::output::object::{self, Markup};
use crate::session::{self, Session};

/// Print the version of this binary and of the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print as JSON or YAML
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Markup>,
    /// Leave the server out
    #[arg(long)]
    client: bool,
}

/// The oldest Kubernetes that our requests are meant for: apply, strict validation and aggregated discovery are on by
/// default from here on.
const OLDEST_MINOR: u32 = 27;

/// What to say about a server that is older than that.
fn skew(server: &Value) -> Option<String> {
    // Vendors append a plus sign.
    let number = |key: &str| server[key].as_str()?.trim_end_matches('+').parse::<u32>().ok();
    let (major, minor) = (number("major")?, number("minor")?);
    (major == 1 && minor < OLDEST_MINOR)
        .then(|| format!("Kubernetes {major}.{minor} is older than 1.{OLDEST_MINOR}: some commands may be refused"))
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    let mut value = json!({"client": {"version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS, "arch": std::env::consts::ARCH}});
    let home = home::folder(global.home.as_ref())?;
    // Asking for a version must not open a store, so only a running server is asked.
    let running = session::wants_cluster(global) || trainyard_runtime::embedded::running(&home).is_some();
    if running && !args.client {
        session::with(global, async |session: &Session| {
            value["server"] = session.api.get("/version").await?;
            Ok(0)
        })?;
    }
    let mut out = std::io::stdout().lock();
    match args.output {
        Some(markup) => object::print(&mut out, &value, markup)?,
        None => {
            writeln!(out, "trainyard {}", env!("CARGO_PKG_VERSION"))?;
            if let Some(version) = value["server"]["gitVersion"].as_str() {
                writeln!(out, "server {version}")?;
                if let Some(words) = skew(&value["server"]) {
                    writeln!(anstream::stderr(), "warning: {words}")?;
                }
            }
        }
    }
    Ok(0)
}
