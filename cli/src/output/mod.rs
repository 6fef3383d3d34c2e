//! How things look on the terminal.

pub(crate) mod duration;
pub(crate) mod object;
pub(crate) mod style;
pub(crate) mod table;
