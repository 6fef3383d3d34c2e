//! The exit codes of `trainyard`, as a table that `--help`, the reference page and the code share.

/// The command did what was asked; for `run` and `logs`: the job succeeded.
pub(crate) const SUCCESS: u8 = 0;
/// An error that has no code of its own, for instance an API server that answered with one.
pub(crate) const FAILURE: u8 = 1;
/// The command line or a manifest is wrong. Nothing was started.
pub(crate) const BAD_INPUT: u8 = 2;
/// The object asked for does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// No server could be reached, or the state folder is in use by a process that does not answer.
pub(crate) const UNREACHABLE: u8 = 4;
/// The object exists already, or changed meanwhile.
pub(crate) const CONFLICT: u8 = 5;
/// Added to the number of a signal: `run` stopped by Ctrl-C exits with 130.
pub(crate) const SIGNAL_BASE: u8 = 128;

/// What `--help` says about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0        success; for `run`: the job succeeded
  1        another error, for instance one that the API server answered with
  2        the command line or a manifest is wrong; nothing was started
  3        the object does not exist
  4        no server could be reached, or the state folder is in use
  5        the object exists already or changed meanwhile
  1-127    for `run`: the exit code of the first container that failed
  128+N    for `run`: that container was ended by signal N (137: killed, often for memory)
  130      stopped by Ctrl-C (143: by SIGTERM)";
