//! Data-parallel training with libtorch in Rust: tensors, autograd and the optimizer are libtorch's (through `tch`),
//! the gradients are averaged by our `Communicator`. The data are the red wines of the `wine-ddp` example.
//!
//! libtorch comes from the PyTorch wheel. Build and run it with the Python that has it first in PATH:
//!
//! ```sh
//! export LIBTORCH_USE_PYTORCH=1
//! cargo build --release -p trainyard-example-torch --features torch
//! export LD_LIBRARY_PATH=$(python -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
//! trainyard launch --nproc 4 -- target/release/trainyard-example-torch
//! ```

#[cfg(feature = "torch")]
mod train;

use std::process::ExitCode;

#[cfg(feature = "torch")]
fn main() -> ExitCode {
    use clap::Parser as _;
    match train::run(&train::Args::parse(), &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "torch"))]
fn main() -> ExitCode {
    eprintln!("error: this program was built without libtorch");
    eprintln!();
    eprintln!(
        "hint: LIBTORCH_USE_PYTORCH=1 cargo build -p trainyard-example-torch --features torch, with a Python that has \
         torch 2.13 first in PATH"
    );
    ExitCode::FAILURE
}
