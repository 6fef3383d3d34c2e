//! A pod's life on a node: what to start, restart and stop, and what its status is.
