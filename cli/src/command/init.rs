//! `trainyard init`: what the init container of a pod does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// The name under which the pod's containers find this program.
const NAME: &str = "trainyard";

/// Copy this program into a folder that a pod's containers share (used by init containers on a cluster).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let own = std::env::current_exe()?;
    copy(&own, &args.folder)?;
    Ok(0)
}

/// The program gets its name when it is whole: a container that starts again finds all of it.
fn copy(program: &Path, folder: &Path) -> Result<(), CliError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::File { verb: "write", path, source }
    };
    let (fresh, place) = (folder.join(".new"), folder.join(NAME));
    std::fs::copy(program, &fresh).map_err(fail(&fresh))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o555)).map_err(fail(&fresh))?;
    std::fs::rename(&fresh, &place).map_err(fail(&place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_copied_whole_and_may_be_run_by_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let shared = folder.path().join("shared");
        assert!(copy(&program, &shared).is_err(), "the folder is the pod's to make");
        std::fs::create_dir(&shared).unwrap();
        for _ in 0..2 {
            copy(&program, &shared).unwrap();
        }
        let there = shared.join(NAME);
        assert_eq!(std::fs::read(&there).unwrap(), b"#!/bin/sh\n");
        assert_eq!(std::fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 1, "nothing is left beside it");
    }
}
