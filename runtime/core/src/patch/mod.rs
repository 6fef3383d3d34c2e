//! The three patches of the Kubernetes API: JSON patch, merge patch, strategic merge patch.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// Why a patch was refused. The API answers with the code of [`PatchError::code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a failed test, a path that is not there (422).
    #[error("{0}")]
    Mismatch(String),
    /// The patch is larger than is allowed (413).
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The HTTP status that says the same.
    pub fn code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Mismatch(_) => 422,
            Self::TooLarge(_) => 413,
        }
    }
}
