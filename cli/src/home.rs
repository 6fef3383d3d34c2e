//! Where the state of the embedded control plane lives.

use std::path::PathBuf;

use crate::error::CliError;

/// `--home`, else `TRAINYARD_HOME` (both arrive in `explicit`), else the XDG data folder.
pub(crate) fn folder(explicit: Option<&PathBuf>) -> Result<PathBuf, CliError> {
    let folder = match explicit {
        Some(path) => path.clone(),
        None => data_folder()?.join("trainyard"),
    };
    std::path::absolute(&folder).map_err(|source| CliError::File { verb: "resolve", path: folder, source })
}

fn data_folder() -> Result<PathBuf, CliError> {
    // The XDG specification says to ignore relative paths in these variables.
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|path| path.join(".local/share"));
    xdg.or_else(home).ok_or_else(|| CliError::Usage {
        message: "cannot tell where to keep state: neither XDG_DATA_HOME nor HOME is set".to_owned(),
        hint: "set TRAINYARD_HOME to a folder".to_owned(),
    })
}
