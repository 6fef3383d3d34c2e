//! What surrounds a container's process: its mounts, its names, its limits.
