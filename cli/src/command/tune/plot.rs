//! `trainyard tune plot`: an experiment as a page for a browser.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use trainyard_tuner::record::Record;
use trainyard_tuner::report;

use super::found;
use crate::arg::Global;
use crate::error::CliError;
use crate::exit_code;
use crate::home;
use crate::session;
use crate::view;

/// Write an experiment's report: one HTML file that needs no other file and no network.
///
/// It has the history with the best so far, the importance of each parameter, slices, contours, parallel coordinates, the Pareto front of
/// several objectives, when each trial ran, a table of the trials, and the settings. An experiment that runs is shown as it is now.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard tune plot wine                            writes wine.html
  trainyard tune plot wine -o report.html
  trainyard tune plot wine -o - > report.html")]
pub(crate) struct PlotArgs {
    /// The experiment
    #[arg(value_name = "NAME")]
    name: String,
    /// Write it to this file; `-` is stdout (default: NAME.html)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &PlotArgs) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let record = found::record(session, &args.name).await?;
        let page = report::html(&record, view::now_ms());
        let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.html", record.name)));
        if path == Path::new("-") {
            std::io::stdout().lock().write_all(page.as_bytes())?;
            return Ok(exit_code::SUCCESS);
        }
        write(&path, &page)?;
        writeln!(std::io::stdout().lock(), "{}", path.display())?;
        Ok(exit_code::SUCCESS)
    })
}

/// Writes the report of an experiment that has ended: where it is asked for, else among Trainyard's own files, where it is in nobody's
/// way. Tells where it is.
pub(super) fn at_end(
    global: &Global,
    record: &Record,
    namespace: &str,
    wanted: Option<&Path>,
) -> Result<PathBuf, CliError> {
    let path = match wanted {
        Some(path) => path.to_owned(),
        None => {
            home::folder(global.home.as_ref())?.join("reports").join(namespace).join(format!("{}.html", record.name))
        }
    };
    if let Some(folder) = path.parent().filter(|_| wanted.is_none()) {
        let file = |source| CliError::File { verb: "make", path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(file)?;
    }
    write(&path, &report::html(record, view::now_ms()))?;
    Ok(path)
}

/// Whole or not at all: what was there stays until the new one is complete.
fn write(path: &Path, page: &str) -> Result<(), CliError> {
    let failed = |source| CliError::File { verb: "write", path: path.to_owned(), source };
    // A device or a pipe is written to, not replaced.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, page).map_err(failed);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    std::fs::write(&part, page).and_then(|()| std::fs::rename(&part, path)).map_err(|source| {
        // What is left of it is of no use; that it may not go away either is told by the same cause.
        let _ = std::fs::remove_file(&part);
        failed(source)
    })
}
