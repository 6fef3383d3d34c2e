//! The records database: what changes too fast, or is kept too long, for an API object.
