//! What can go wrong in a way that we expect, with what to do about it and the exit code.

use std::path::PathBuf;

use crate::exit_code;

/// An expected failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// A part that this build does not have.
    #[error("`{what}` is not part of this build")]
    Missing { what: &'static str },
    /// A file could not be read or written.
    #[error("cannot {verb} {}", path.display())]
    File { verb: &'static str, path: PathBuf, source: std::io::Error },
    /// Writing to our own stdout failed, for instance because the reader went away.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
    /// A manifest is wrong; the diagnostics were printed already.
    #[error("{summary}")]
    Manifest { summary: String },
    /// What was asked for does not exist.
    #[error("{what} not found")]
    NotFound { what: String, hint: String },
    /// It exists already and differs, or it changed.
    #[error("{message}")]
    Conflict { message: String, hint: String },
    /// No server answers.
    #[error("{message}")]
    Unreachable { message: String, hint: String },
    /// The API server refused.
    #[error("{message}")]
    Refused { message: String, hint: Option<String>, status: u16 },
    /// An invariant did not hold in a simulated world.
    #[error("{failure}")]
    Simulation { failure: String, seed: u64 },
    /// Something in-process failed (store, control plane, runtime).
    #[error("{doing}")]
    Internal { doing: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl CliError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::Conflict { hint, .. }
            | Self::Unreachable { hint, .. } => Some(hint.clone()),
            Self::Refused { hint, .. } => hint.clone(),
            Self::File { source, path, .. } => file_hint(source, path),
            Self::Simulation { seed, .. } => Some(format!("replay it with `trainyard simulate --seed {seed}`")),
            Self::Missing { .. } | Self::Output(_) | Self::Manifest { .. } | Self::Internal { .. } => None,
        }
    }

    /// The process's exit code for it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Manifest { .. } | Self::File { .. } => exit_code::BAD_INPUT,
            Self::NotFound { .. } => exit_code::NOT_FOUND,
            Self::Conflict { .. } => exit_code::CONFLICT,
            Self::Unreachable { .. } => exit_code::UNREACHABLE,
            Self::Refused { status, .. } => match status {
                404 => exit_code::NOT_FOUND,
                409 => exit_code::CONFLICT,
                400 | 422 => exit_code::BAD_INPUT,
                _ => exit_code::FAILURE,
            },
            Self::Missing { .. } | Self::Output(_) | Self::Simulation { .. } | Self::Internal { .. } => {
                exit_code::FAILURE
            }
        }
    }

    /// Whether the reader of our output went away, which is no error worth a word.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

fn file_hint(source: &std::io::Error, path: &std::path::Path) -> Option<String> {
    (source.kind() == std::io::ErrorKind::NotFound).then(|| {
        let here = std::env::current_dir().map_or_else(|_| ".".to_owned(), |dir| dir.display().to_string());
        format!("there is no {} in {here}; check the path", path.display())
    })
}
