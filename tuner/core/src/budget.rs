//! How much may be tried.

/// Trials that failed from the start, none having succeeded, after which an experiment gives up by default.
pub const HOPELESS: u64 = 5;

/// How much may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// So many trials at most.
    pub trials: Option<u64>,
    /// So many at the same time.
    pub parallel: u64,
    /// After so many trials that failed the experiment has. Without it, after the first [`HOPELESS`] if none has succeeded.
    pub failures: Option<u64>,
    /// No trial is begun later than this after the first one, in seconds.
    pub seconds: Option<u64>,
    /// How the best trials are tried again in the end, beside all of the above.
    pub confirm: Option<Confirm>,
}

/// How the best trials are tried again, to tell good ones from lucky ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// So many of the best.
    pub candidates: u64,
    /// So often each.
    pub repeats: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { trials: None, parallel: 1, failures: None, seconds: None, confirm: None }
    }
}

impl Budget {
    /// Why the experiment has failed, if it has, after so many trials that failed and succeeded.
    #[must_use]
    pub fn given_up(&self, failed: u64, succeeded: u64) -> Option<String> {
        match self.failures {
            Some(most) if failed > 0 && failed >= most => {
                Some(format!("{failed} trials failed, and budget.failures is {most}"))
            }
            None if succeeded == 0 && failed >= HOPELESS => Some(format!(
                "the first {failed} trials failed and none succeeded; set budget.failures to go on nevertheless"
            )),
            Some(_) | None => None,
        }
    }
}
