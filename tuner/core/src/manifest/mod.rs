//! Experiments of other systems, in the words of our own. Names of foreign kinds are here only.

pub mod katib;
