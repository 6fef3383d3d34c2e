//! The signals of a program that is about to begin.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Gives every signal its default effect and blocks none, as in a new container: whoever started us may have ignored
/// some (a shell does so for a program in the background), and so did the Rust runtime for SIGPIPE.
///
/// Makes system calls only, so that it may run between fork and exec.
pub(crate) fn reset() -> io::Result<()> {
    for number in Signal::iterator().filter(|number| !matches!(number, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default effect runs no code of ours.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}
