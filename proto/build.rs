//! Compiles the gRPC contracts, and packs the schemas. Nothing has to be installed for it: the compiler is a crate.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(["proto/rendezvous.proto", "proto/katib.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=schemas.json");
    pack(Path::new("schemas.json"), &Path::new(&env::var("OUT_DIR")?).join("schemas.deflate"))
}

/// Writes a line for each kind, with the name of its definition, and for each definition, with its JSON.
fn pack(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let mut schemas: Map<String, Value> = serde_json::from_str(&fs::read_to_string(from)?)?;
    let mut part = |name: &str| match schemas.remove(name) {
        Some(Value::Object(part)) => Ok(part),
        _ => Err(format!("{} has no object `{name}`", from.display())),
    };
    let mut lines = String::new();
    for (kind, name) in part("kinds")? {
        writeln!(lines, "{kind}\t{}", name.as_str().unwrap_or_default())?;
    }
    for (name, definition) in part("$defs")? {
        writeln!(lines, "{name}\t{definition}")?;
    }
    Ok(fs::write(to, miniz_oxide::deflate::compress_to_vec(lines.as_bytes(), 10))?)
}
