//! Offline checks.
