//! The shim alone, for tests of this crate: `trainyard-shim shim …` is what `trainyard shim …` is in the real binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    trainyard_worker::shim::main(&args)
}
