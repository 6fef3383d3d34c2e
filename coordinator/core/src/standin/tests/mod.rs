//! Scenarios of the stand-ins in a small world: actions change objects, the node is played by hand. After each
//! scenario planning again must change nothing.

mod batch_job;
mod rolling;
mod world;
