//! Replays the corpus of manifests of the fuzz target on the stable compiler.

use std::path::Path;

#[path = "../../fuzz/src/manifest.rs"]
mod manifest;

#[test]
fn manifests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifest");
    let mut inputs: Vec<_> =
        folder.read_dir().expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 8, "the corpus is there");
    for input in inputs {
        // The last name that is printed is the one that fails.
        eprintln!("{}", input.display());
        manifest::run(&std::fs::read(&input).expect("an input"));
    }
}
