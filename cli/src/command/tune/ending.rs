//! What is told when an experiment has ended, beside its best configuration: what mattered, and where its report is.

use std::path::Path;

use trainyard_tuner::record::Record;

use super::{found, plot};
use crate::arg::Global;
use crate::error::CliError;
use crate::follow::screen::Screen;
use crate::output::style;
use crate::session::Session;

/// So many parameters are named.
const NAMED: usize = 6;
/// A model that explains less of what it has not seen does not know what matters.
const KNOWN: f64 = 0.1;

/// Tells it. A report that cannot be written is an error only if it was asked for.
pub(super) async fn tell(
    global: &Global,
    session: &Session,
    name: &str,
    report: Option<&Path>,
    screen: &Screen,
) -> Result<(), CliError> {
    // It may have been deleted meanwhile.
    let record = match found::record(session, name).await {
        Ok(record) => record,
        Err(error) if report.is_none() => return doubt(screen, &error),
        Err(error) => return Err(error),
    };
    if record.trials.is_empty() && report.is_none() {
        return Ok(());
    }
    for at in 0..record.definition.objectives.len() {
        if let Some(line) = importance(&record, at) {
            screen.say("Importance", style::STRONG, &line)?;
        }
    }
    match plot::at_end(global, &record, &session.namespace, report) {
        Ok(path) => screen.say("Report", style::STRONG, &path.display().to_string())?,
        Err(error) if report.is_none() => return doubt(screen, &error),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn doubt(screen: &Screen, error: &CliError) -> Result<(), CliError> {
    Ok(screen.say("Report", style::CARE, &format!("there is none: {error}"))?)
}

/// `lr 62 %, depth 21 %`: what part of the variance is due to each parameter, with its interplay with others.
fn importance(record: &Record, at: usize) -> Option<String> {
    let analysis = record.analysis(at).filter(|analysis| analysis.fit() >= KNOWN)?;
    let parameters = record.definition.space.parameters();
    let part = |parameter: &usize| {
        let name = &parameters[*parameter].name;
        format!("{name} {:.0} %", analysis.shares()[*parameter].total * 100.0)
    };
    let ranked = analysis.ranked();
    let mut line = ranked.iter().take(NAMED).map(part).collect::<Vec<_>>().join(", ");
    if ranked.len() > NAMED {
        line.push_str(", ...");
    }
    let objectives = &record.definition.objectives;
    Some(if objectives.len() > 1 { format!("for {}: {line}", objectives[at].name) } else { line })
}

/// Says at the start what would go wrong in the end.
pub(super) fn check(report: Option<&Path>) -> Result<(), CliError> {
    let Some(path) = report else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if path.is_dir() || !folder.is_dir() {
        let message = if path.is_dir() {
            format!("--report {}: that is a folder", path.display())
        } else {
            format!("--report {}: there is no folder {}", path.display(), folder.display())
        };
        return Err(CliError::Usage { message, hint: "name a file in a folder that is there".to_owned() });
    }
    Ok(())
}
