//! Compiles the gRPC contracts. Nothing has to be installed for it: the compiler is a crate.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(["proto/rendezvous.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
