//! `trainyard suspend` and `trainyard resume`.

use std::io::Write as _;
use std::time::Duration;

use super::run::{place, process};
use crate::arg::{Global, Target};
use crate::error::CliError;
use crate::follow::phase;
use crate::job;
use crate::resource::Discovery;
use crate::session::{Place, Session};
use crate::target::{self, Found};

/// How often we look whether the pods of a suspended job have ended.
const POLL: Duration = Duration::from_millis(50);

/// A job that stops or starts again.
///
/// A suspended job keeps its place, its logs and its records; its pods get SIGTERM and go. A resumed job starts new pods.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard suspend wine-ddp
  trainyard resume wine-ddp")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: Target,
}

pub(crate) fn run(global: &Global, args: Args, suspend: bool) -> Result<u8, CliError> {
    place::with_hands(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let found = target::find(session, &discovery, &args.target).await?;
        let verb = if suspend { "suspended" } else { "resumed" };
        let patch = job::suspend_patch(&found.resource, suspend).ok_or_else(|| CliError::Usage {
            message: format!("a {} cannot be {verb}", found.resource.kind),
            hint: "jobs can; scale a Deployment with `kubectl scale`".to_owned(),
        })?;
        if job::end(&found.object).is_some() {
            return Err(CliError::Usage {
                message: format!("{} has ended already ({})", found.title(), job::state(&found.object)),
                hint: format!("see it with `trainyard describe {}`, or run its manifest again", found.name()),
            });
        }
        let already = job::suspended(&found.object) == suspend;
        session.api.merge(&found.path(), &patch).await?;
        if suspend {
            ended(session, &found).await?;
        }
        let again = if already { "already " } else { "" };
        writeln!(std::io::stdout().lock(), "{} {} {again}{verb}", found.resource.qualified_singular(), found.name())?;
        if let (Place::InProcess { .. }, false) = (&session.place, suspend) {
            let hint = crate::output::style::HINT;
            writeln!(
                anstream::stderr(),
                "\n{hint}hint:{hint:#} nothing runs the job yet; start the control plane with `trainyard up`"
            )?;
        }
        Ok(0)
    })
}

/// With a control plane that goes when this command ends, waits until the job's pods have ended.
async fn ended(session: &Session, found: &Found) -> Result<(), CliError> {
    let (Place::InProcess { home }, None) = (&session.place, &session.embedded) else { return Ok(()) };
    let selector = crate::api::query(&job::pod_selector(found));
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", found.namespace());
    let mut uids = Vec::new();
    loop {
        let pods = session.api.get(&path).await?;
        let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        uids.extend(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).map(str::to_owned));
        if pods.iter().all(phase::is_over) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    process::gone(home, &uids).await;
    Ok(())
}
