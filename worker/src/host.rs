//! What this machine is called.

/// This machine's name, as its kernel has it; empty where it has none that is text.
#[must_use]
pub fn name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}
