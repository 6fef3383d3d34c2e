//! Lines of output that are for the shim alone.

/// Set for programs whose shim takes such lines.
pub(crate) const VARIABLE: &str = "TRAINYARD_ASIDE";
/// What they begin with: nothing that a program prints.
pub(crate) const MARK: &str = "\u{1}trainyard\u{1}";

/// What such a line says; `None` of any other line.
pub(crate) fn text(line: &[u8]) -> Option<&str> {
    std::str::from_utf8(line.strip_prefix(MARK.as_bytes())?).ok()
}
